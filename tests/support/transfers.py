"""Downloads as tests want them."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.transfer.downloads import Downloads, Listener, Source


async def fetch(
    downloads: Downloads, digest: str, size_bytes: int, sources: Sequence[Source], listener: Listener
) -> str:
    """The path of the verified blob."""
    async with downloads.joined(digest, size_bytes, sources, listener) as download:
        return await download.finished()
