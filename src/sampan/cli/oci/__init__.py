"""``sampan-oci``: the OCI runtime on the command line, with the options of runc and crun.

It has no daemon: the state of containers is below ``--root``, liveness comes from the kernel.
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
