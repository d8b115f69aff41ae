"""Volumes and mounts, and the files of containers: cp, diff, export."""
