"""Sampan measured beside Docker Engine and Podman: one run, one client, the same images and machine.

Standard library only, so that the measuring process is small and the same for every engine.
"""
