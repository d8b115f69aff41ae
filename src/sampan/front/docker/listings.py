"""Whole answers to ``GET /containers/json``, which monitoring asks for again and again."""

from __future__ import annotations

import msgspec

from sampan.engine.container.views import ContainerView, StateView

StandingImages = dict[tuple[str, str], bool]
"""By the name that was asked for and the image's id: whether the one still stands for the other."""

Question = tuple[bool, int, bool]
"""All or only running ones, how many, and the shape that the API's version has."""

_MOST_KEPT = 8
_SECOND_NS = 1_000_000_000
_FOREVER_NS = 1 << 62


class Answer(msgspec.Struct, frozen=True):
    body: bytes
    images: StandingImages
    """What it took for granted of the images."""
    until_ns: int
    """When the first of its status texts ("Up 5 seconds") is another."""


class Answers:
    """Those of one generation of the containers (engine.container.containers)."""

    def __init__(self) -> None:
        self._generation = 0
        self._kept: dict[Question, Answer] = {}

    def find(self, question: Question, generation: int, now_ns: int) -> Answer | None:
        """``generation`` 0 stands for a question that is never kept."""
        if not generation or generation != self._generation:
            return None
        answer = self._kept.get(question)
        return answer if answer is not None and now_ns < answer.until_ns else None

    def keep(self, question: Question, generation: int, answer: Answer) -> None:
        if generation != self._generation or len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
            self._generation = generation
        self._kept[question] = answer


def holds_until_ns(views: list[ContainerView], now_ns: int) -> int:
    """Until when the status texts of all of them stay as they are at ``now_ns``."""
    return min((_holds_until_ns(view.state, now_ns) for view in views), default=_FOREVER_NS)


def _holds_until_ns(state: StateView, now_ns: int) -> int:
    """Texts change with a whole second in the first minute, later with a whole minute at most."""
    times = (state.started_ns, state.finished_ns) if state.restarting else (_since_ns(state),)
    return min(_next_step_ns(since, now_ns) for since in times)


def _since_ns(state: StateView) -> int:
    return state.started_ns if state.running else state.finished_ns


def _next_step_ns(since_ns: int, now_ns: int) -> int:
    if not since_ns:
        return _FOREVER_NS
    age_ns = now_ns - since_ns
    step_ns = _SECOND_NS if age_ns < 60 * _SECOND_NS else 60 * _SECOND_NS
    return since_ns + (age_ns // step_ns + 1) * step_ns
