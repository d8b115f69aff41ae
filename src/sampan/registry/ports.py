"""What the registry asks of others: who may do what, which rules hold, who wants to know, who else has it.

Each has a permissive default, so that a registry can be put together with what a test or a user needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from sampan.model.registry import Action, Caller, Identity, RegistryEvent, StoredManifest


class Gate(Protocol):
    """Asked before something changes. Called between two steps of the event loop: must not block."""

    def check_push(self, repository: str, size_bytes: int) -> None:
        """Before ``size_bytes`` more are stored in a repository (0: not known yet). Raises QuotaExceeded."""

    def check_tag(self, repository: str, tag: str, old_digest: str | None, new_digest: str | None) -> None:
        """Before a tag is made (old None), moved or removed (new None). Raises TagImmutable."""


class Observer(Protocol):
    """Told after something has happened. Must not block and must not raise."""

    def happened(self, event: RegistryEvent) -> None: ...


class Notices(Protocol):
    """What people who use a repository should read: its answers carry them as Warning headers."""

    def warnings(self, repository: str) -> Sequence[str]:
        """Plain sentences, such as that the repository is deprecated or its quota nearly used up."""


class Upstreams(Protocol):
    """Other registries whose content is fetched when it is asked for and is not here."""

    def serves(self, repository: str) -> bool:
        """Whether the repository is one of an upstream's: it cannot be pushed to then."""

    def local_name(self, repository: str, namespace: str = "") -> str:
        """Our name of what is asked for. ``namespace`` is what containerd puts into ``?ns=`` when it takes
        us for a mirror: ``library/busybox`` of ``docker.io``."""

    async def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        """Fetched and stored, or revalidated; None: neither there nor here.

        ``reference`` is a tag or a digest. Raises Unavailable when the upstream fails and nothing is here.
        """

    async def blob(self, repository: str, digest: str) -> bool:
        """Makes a blob available in the repository; False: the upstream does not have it."""

    async def stream(
        self, repository: str, digest: str
    ) -> tuple[int, Callable[[], AsyncIterator[bytes]]] | None:
        """Size of a blob and what gives its content, while it is fetched and stored; None: it is to be
        waited for in :meth:`blob`."""


class Authenticator(Protocol):
    """The front asks it once per request."""

    async def identify(self, caller: Caller) -> Identity:
        """Who asks; the anonymous identity when nothing was presented.

        Raises Unauthenticated when what was presented is wrong, TooManyRequests when that was so too often.
        """

    def allows(self, identity: Identity, action: Action, repository: str) -> bool:
        """``repository`` is empty for what concerns none (``GET /v2/``, the registry's own verbs).

        When it answers no, nobody in particular gets a 401 with the challenge, anybody else a 403. Raises
        Unauthenticated when the token at hand does not say so, but another one could.
        """

    def sees(self, identity: Identity, repository: str) -> bool:
        """Whether the repository shows in lists: who may pull it, whatever the scope of the token at hand."""

    def challenge(self, caller: Caller, action: Action, repository: str) -> str:
        """The value of WWW-Authenticate that goes with a 401."""


class OpenGate:
    """Refuses nothing."""

    def check_push(self, repository: str, size_bytes: int) -> None:
        pass

    def check_tag(self, repository: str, tag: str, old_digest: str | None, new_digest: str | None) -> None:
        pass


class NoObserver:
    """Nobody wants to know."""

    def happened(self, event: RegistryEvent) -> None:
        pass


class NoNotices:
    """Nothing to say."""

    def warnings(self, repository: str) -> Sequence[str]:
        return ()


class NoUpstreams:
    """What is not here is nowhere."""

    def serves(self, repository: str) -> bool:
        return False

    def local_name(self, repository: str, namespace: str = "") -> str:
        return repository

    async def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        return None

    async def blob(self, repository: str, digest: str) -> bool:
        return False

    async def stream(
        self, repository: str, digest: str
    ) -> tuple[int, Callable[[], AsyncIterator[bytes]]] | None:
        return None


class OpenAuthenticator:
    """Everybody may do everything."""

    async def identify(self, caller: Caller) -> Identity:
        return Identity()

    def allows(self, identity: Identity, action: Action, repository: str) -> bool:
        return True

    def sees(self, identity: Identity, repository: str) -> bool:
        return True

    def challenge(self, caller: Caller, action: Action, repository: str) -> str:
        return 'Basic realm="registry"'
