"""Sampan: a container platform. The layers and their rules are in docs/ARCHITECTURE.md."""

__version__ = "0.1.0"
