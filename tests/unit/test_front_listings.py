"""Whole answers to lists: how long they hold."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.test_front_views import make_view

from sampan.engine.container.views import ContainerView
from sampan.front.docker.container_views import render_status
from sampan.front.docker.listings import Answer, Answers, holds_until_ns

NOW_NS = 1_700_000_000_000_000_000
QUESTION = (True, 0, True)


def aged(seconds: float, *, running: bool) -> ContainerView:
    view = make_view(1)
    since = NOW_NS - int(seconds * 1e9)
    finished = 0 if running else since
    state = msgspec.structs.replace(
        view.state,
        status="running" if running else "exited",
        running=running,
        started_ns=since if running else since - 5,
        finished_ns=finished,
    )
    return msgspec.structs.replace(view, state=state)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    "seconds", [0, 0.4, 1, 1.7, 59.9, 60, 119.99, 3599, 3600, 5399.5, 5400, 172_799, 90 * 86400, 800 * 86400]
)
def test_the_text_stays_until_then_and_the_answer_no_longer(seconds: float, running: bool) -> None:
    view = aged(seconds, running=running)
    until_ns = holds_until_ns([view], NOW_NS)
    assert NOW_NS < until_ns <= NOW_NS + 60_000_000_000
    assert render_status(view.state, until_ns - 1) == render_status(view.state, NOW_NS)


def test_the_youngest_decides() -> None:
    views = [aged(3600, running=True), aged(2.25, running=True), aged(90, running=False)]
    assert holds_until_ns(views, NOW_NS) == NOW_NS + 750_000_000
    assert holds_until_ns([], NOW_NS) > NOW_NS


def test_an_answer_is_for_its_question_its_generation_and_its_time() -> None:
    answers = Answers()
    answer = Answer(b"[]", {}, NOW_NS + 10)
    answers.keep(QUESTION, 5, answer)
    assert answers.find(QUESTION, 5, NOW_NS) is answer
    assert answers.find(QUESTION, 5, NOW_NS + 10) is None
    assert answers.find(QUESTION, 6, NOW_NS) is None
    assert answers.find((False, 0, True), 5, NOW_NS) is None
    assert answers.find(QUESTION, 0, NOW_NS) is None
    answers.keep((False, 0, True), 6, answer)
    assert answers.find(QUESTION, 6, NOW_NS) is None
    assert answers.find((False, 0, True), 6, NOW_NS) is answer
