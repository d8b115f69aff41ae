"""Which upstream a repository is of: by the longest prefix of its name, or by what a mirror's client says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sampan.base.errors import NotFound

from .settings import UpstreamSettings
from .source import Source


class Sources:
    """All upstreams of a registry."""

    def __init__(self, upstreams: Sequence[UpstreamSettings], clock: Callable[[], float]) -> None:
        # the longest prefix first; "" takes what is left
        ordered = sorted(upstreams, key=lambda one: -len(one.prefix))
        self._sources = [Source(one, clock) for one in ordered]

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources)

    def find(self, repository: str) -> tuple[Source, str] | None:
        """The upstream and the repository's name there."""
        for source in self._sources:
            path = source.settings.path_of(repository)
            if path is not None:
                return source, path
        return None

    def require(self, repository: str) -> tuple[Source, str]:
        """Raises NotFound."""
        found = self.find(repository)
        if found is None:
            raise NotFound(f"{repository} is of no upstream")
        return found

    def local_name(self, repository: str, namespace: str) -> str:
        """Our name of what a client asks for: as a mirror (``?ns=docker.io``), or with a prefix. Unknown
        namespaces change nothing."""
        if namespace:
            for source in self._sources:
                if source.settings.answers_to == namespace:
                    return source.settings.repository_of(repository)
        found = self.find(repository)
        if found is None:
            return repository
        source, path = found
        return source.settings.repository_of(path)

    async def close(self) -> None:
        for source in self._sources:
            await source.close()
