"""Which tags stay and which go. Pure; carried out by :mod:`sampan.registry.policy.retaining`.

A rule concerns the tags that match it, in the repositories that match it. A tag stays when *one* of the
rule's conditions speaks for it: it is among the last N, young enough, pulled lately enough, or named in
``keep``. In a repository that several rules concern, each tag is judged by the first one that concerns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from sampan.model.registry import TagInfo

from ..patterns import EVERYTHING, Patterns


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """At least one condition is set: a rule without any would delete everything it concerns."""

    repositories: Patterns = EVERYTHING
    tags: Patterns = EVERYTHING
    keep: Patterns = Patterns(())
    keep_last: int = 0
    """By the time a tag was last moved, newest first."""
    keep_for_ns: int = 0
    """Since a tag was last moved; 0: age speaks for none."""
    keep_pulled_ns: int = 0
    """Since it was last pulled; 0: pulls speak for none."""

    @property
    def is_limited(self) -> bool:
        return bool(self.keep or self.keep_last or self.keep_for_ns or self.keep_pulled_ns)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a tag, and why."""

    repository: str
    tag: str
    digest: str
    keep: bool
    reason: str


Protects = Callable[[str, str], bool]
"""Repository, tag: whether it may not be deleted whatever the rules say."""


def decide(
    repository: str,
    tags: Iterable[TagInfo],
    rules: Sequence[RetentionRule],
    *,
    now_ns: int,
    protects: Protects = lambda repository, tag: False,
) -> list[Verdict]:
    """A verdict for each tag that a rule concerns, newest first."""
    concerned: dict[int, list[TagInfo]] = {}
    mine = [(number, rule) for number, rule in enumerate(rules) if rule.repositories.match(repository)]
    for tag in tags:
        for number, rule in mine:
            if rule.tags.match(tag.name):
                concerned.setdefault(number, []).append(tag)
                break
    verdicts = []
    for number, found in sorted(concerned.items()):
        # a name decides between tags of the same moment: else two runs could differ
        found.sort(key=lambda tag: (-tag.updated_ns, tag.name))
        for place, tag in enumerate(found):
            why = "immutable" if protects(repository, tag.name) else _stays(rules[number], tag, place, now_ns)
            verdicts.append(
                Verdict(
                    repository=repository,
                    tag=tag.name,
                    digest=tag.digest,
                    keep=bool(why),
                    reason=why or "no condition keeps it",
                )
            )
    return verdicts


def _stays(rule: RetentionRule, tag: TagInfo, place: int, now_ns: int) -> str:
    """Why a tag stays; "" when nothing speaks for it. ``place`` counts the newer ones."""
    if not rule.is_limited:
        return "the rule has no condition"
    if rule.keep.match(tag.name):
        return "named in keep"
    if place < rule.keep_last:
        return f"among the last {rule.keep_last}"
    if rule.keep_for_ns and now_ns - tag.updated_ns < rule.keep_for_ns:
        return "young"
    if rule.keep_pulled_ns and tag.pulled_ns and now_ns - tag.pulled_ns < rule.keep_pulled_ns:
        return "pulled lately"
    return ""
