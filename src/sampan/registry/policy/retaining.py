"""Carries retention out: looks at every repository that a rule concerns, a few tags at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import msgspec

from sampan.base.errors import Conflict, SampanError
from sampan.model.registry import Actor, TagInfo

from ..service import Registry
from .gate import PolicyGate
from .retention import RetentionRule, Verdict, decide

log = logging.getLogger(__name__)
ACTOR = Actor(name="retention")
"""In events about what was deleted."""
_BATCH = 500


class RetentionReport(msgspec.Struct, kw_only=True):
    """What a run has found and done."""

    started_ns: int = 0
    finished_ns: int = 0
    """0: it goes on, or it failed."""
    error: str = ""
    dry_run: bool = False
    repositories: int = 0
    tags: int = 0
    """That a rule concerned."""
    deleted: list[Verdict] = []
    """What went; in a dry run what would go."""
    failures: int = 0
    """Tags that should have gone and could not."""


class RetentionRunning(Conflict):
    def __init__(self) -> None:
        super().__init__("retention is running: try again when it has finished")


class Retention:
    """``run(dry_run=True)`` tells what ``run()`` would do."""

    def __init__(self, registry: Registry, rules: Sequence[RetentionRule], gate: PolicyGate) -> None:
        self._registry = registry
        self._rules = tuple(rules)
        self._gate = gate
        self._busy = False
        self.last = RetentionReport()
        """The present run, or the one before; dry runs are not remembered."""

    def reload(self, rules: Sequence[RetentionRule]) -> None:
        """From the next repository on."""
        self._rules = tuple(rules)

    @property
    def is_running(self) -> bool:
        return self._busy

    @property
    def has_rules(self) -> bool:
        return bool(self._rules)

    async def run(self, *, dry_run: bool = False, repository: str = "") -> RetentionReport:
        """All repositories, or one. Raises RetentionRunning."""
        if self._busy:
            raise RetentionRunning
        self._busy = True
        context = self._registry.context
        report = RetentionReport(started_ns=context.now_ns(), dry_run=dry_run)
        if not dry_run:
            self.last = report
        try:
            if repository:
                await self._one(repository, report)
            else:
                async for name in self._repositories():
                    await self._one(name, report)
            report.finished_ns = context.now_ns()
        except BaseException as error:
            report.error = error.message if isinstance(error, SampanError) else repr(error)
            raise
        finally:
            self._busy = False
        if not dry_run:
            log.info("retention: %d of %d tags deleted", len(report.deleted), report.tags)
        return report

    async def _repositories(self) -> AsyncIterator[str]:
        after = ""
        while batch := self._registry.index.repositories.names(after, _BATCH):
            after = batch[-1]
            for name in batch:
                if any(rule.repositories.match(name) for rule in self._rules):
                    yield name
            await asyncio.sleep(0)

    async def _one(self, repository: str, report: RetentionReport) -> None:
        tags: list[TagInfo] = []
        while True:
            batch = self._registry.index.tags.ages(repository, tags[-1].name if tags else "", _BATCH)
            tags += batch
            if len(batch) < _BATCH:
                break
            await asyncio.sleep(0)
        verdicts = decide(
            repository,
            tags,
            self._rules,
            now_ns=self._registry.context.now_ns(),
            protects=self._gate.is_immutable,
        )
        report.repositories += 1
        report.tags += len(verdicts)
        for verdict in verdicts:
            if not verdict.keep and (report.dry_run or self._delete(verdict, report)):
                report.deleted.append(verdict)
            if not report.dry_run:
                await asyncio.sleep(0)

    def _delete(self, verdict: Verdict, report: RetentionReport) -> bool:
        """Not if it was moved since it was looked at: then it is young."""
        index = self._registry.index
        number = index.repositories.find(verdict.repository)
        if number is None or index.tags.find(number, verdict.tag) != verdict.digest:
            return False
        try:
            self._registry.tags.delete(verdict.repository, verdict.tag, ACTOR)
        except SampanError as error:
            log.warning("retention: %s:%s stays: %s", verdict.repository, verdict.tag, error.message)
            report.failures += 1
            return False
        return True
