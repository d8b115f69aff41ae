"""seccomp: Docker's default profile, profiles in Docker's JSON, and the compiler to classic BPF."""

from __future__ import annotations


def filter_for(profile: str, *, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> bytes:
    """The filter for a container: ``struct sock_filter[]``. ``profile`` is JSON, or ""
    for Docker's default."""
    return b""
