"""seccomp: Docker's default profile, profiles in Docker's JSON, and the compiler to classic BPF."""

from __future__ import annotations

from functools import lru_cache

from .compiler import compile_filter
from .default import default_profile
from .profile import Target, parse, resolve


@lru_cache(maxsize=64)
def filter_for(profile: str, *, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> bytes:
    """The filter for a container: ``struct sock_filter[]``, b"" for a profile that says nothing.

    ``profile`` is JSON, or "" for Docker's default. Kept by its arguments: a start on the hot path finds the
    bytes ready. Raises InvalidProfile, UnsupportedFilter.
    """
    source = parse(profile) if profile else default_profile()
    seccomp = resolve(source, Target(machine=machine, kernel=kernel, capabilities=capabilities))
    return compile_filter(seccomp, machine) if seccomp else b""
