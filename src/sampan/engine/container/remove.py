"""``rm`` and ``prune``."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence

from sampan.base.clock import now_ns
from sampan.base.crashpoints import crash_point
from sampan.base.errors import Conflict, SampanError, SystemFailure
from sampan.engine.collaborators import MountResolver
from sampan.engine.files.sizes import tree_size_bytes
from sampan.engine.files.trees import remove_tree
from sampan.engine.filters import Filters, prune_labels_match, prune_until_ns
from sampan.engine.locks import KeyedLocks
from sampan.engine.streams.attachments import Attachments

from .ledger import Ledger
from .lifecycle import ALIVE, Remove, RemoveFailed
from .registry import Entry
from .stop import Stopper
from .views import PruneResult

log = logging.getLogger(__name__)

PRUNE_FILTERS = ("label", "label!", "until")


class Remover:
    """Removes containers and everything that was made for them."""

    def __init__(
        self,
        ledger: Ledger,
        stopper: Stopper,
        mounts: MountResolver,
        attachments: Attachments,
        locks: KeyedLocks,
    ) -> None:
        self._ledger = ledger
        self._stopper = stopper
        self._mounts = mounts
        self._attachments = attachments
        self._locks = locks
        self._pruning = False

    async def remove(self, entry: Entry, *, force: bool, volumes: bool) -> None:
        """Raises Conflict when it runs (unless forced) or is being removed already, SystemFailure when
        its files cannot be removed: then it stays, as dead."""
        while not await self._try_remove(entry, force=force, volumes=volumes):
            await self._stopper.kill_and_wait(entry)

    async def _try_remove(self, entry: Entry, *, force: bool, volumes: bool) -> bool:
        """False: it runs, and has to be killed first. It may have been started while we waited for the
        lock."""
        async with self._locks.hold("container", entry.id):
            if self._ledger.registry.find_id(entry.id) is not entry:
                return True  # --rm was faster
            if force and entry.life.phase in ALIVE:
                return False
            self._ledger.apply(entry, Remove())
            try:
                await self._remove_files(entry)
                crash_point("container.remove.files")
                self._attachments.abandon(entry.id)
                self._ledger.delete(entry)
            except OSError as error:
                message = f"unable to remove filesystem: {error}"
                self._failed(entry, message)
                raise SystemFailure(message) from error
            except SampanError as error:
                self._failed(entry, error.message)
                raise
            crash_point("container.remove.row")
            await self._mounts.release(entry.id, entry.record.mounts, anonymous=volumes)
            return True

    def _failed(self, entry: Entry, message: str) -> None:
        """It stays, as dead, and can be removed again."""
        self._ledger.apply(entry, RemoveFailed(message=message))
        self._ledger.notify_removed(entry, message)

    async def auto_remove(self, entry: Entry) -> None:
        """``--rm``: with its anonymous volumes."""
        await self.remove(entry, force=True, volumes=True)

    async def _remove_files(self, entry: Entry) -> None:
        """Rename first: a container whose directory is gone is one whose removal has begun, whatever
        happens to the daemon now."""
        path = self._ledger.layout.container(entry.id)
        doomed = doomed_path(path)
        if os.path.lexists(path):
            os.rename(path, doomed)
        crash_point("container.remove.renamed")
        await remove_tree(doomed)

    async def prune(self, values: Mapping[str, Sequence[str]]) -> PruneResult:
        """Remove what does not run and matches. Raises Conflict while another prune runs."""
        filters = Filters(values)
        filters.require_known(PRUNE_FILTERS)
        until_ns = prune_until_ns(filters, now_ns())
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            result = await self._prune(filters, until_ns)
        finally:
            self._pruning = False
        self._ledger.events.publish("container", "prune", "", {"reclaimed": str(result.space_reclaimed)})
        return result

    async def _prune(self, filters: Filters, until_ns: int) -> PruneResult:
        deleted: list[str] = []
        reclaimed = 0
        for entry in self._ledger.registry:
            if entry.life.phase not in ("created", "exited", "dead"):
                continue
            if until_ns and entry.record.created_ns > until_ns:
                continue
            if not prune_labels_match(filters, entry.record.config.labels):
                continue
            size_bytes = await asyncio.to_thread(tree_size_bytes, self._ledger.layout.upper(entry.id))
            try:
                await self.remove(entry, force=False, volumes=False)
            except SampanError as error:
                log.warning("prune: container %s stays: %s", entry.id, error.message)
                continue
            deleted.append(entry.id)
            reclaimed += size_bytes
        return PruneResult(deleted=deleted, space_reclaimed=reclaimed)


def doomed_path(container_dir: str) -> str:
    """Where a container's directory waits for its end: beside it, under a name no container has."""
    parent, name = os.path.split(container_dir)
    return os.path.join(parent, f"{name}.removing")
