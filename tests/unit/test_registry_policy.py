"""Quotas, immutable tags, retention, webhooks, metrics."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.registry import Actor, RegistryEvent, TagInfo
from sampan.registry import metrics
from sampan.registry.errors import QuotaExceeded, TagImmutable
from sampan.registry.patterns import Patterns
from sampan.registry.policy import webhooks
from sampan.registry.policy.envelope import MEDIA_TYPE, SIGNATURE, Source
from sampan.registry.policy.gate import Immutable, PolicyGate, Quota
from sampan.registry.policy.retention import RetentionRule, decide
from sampan.registry.policy.webhooks import Webhooks, WebhookSettings, wait_s

DAY = 24 * 3600 * 10**9
NOW = 1_700_000_000 * 10**9


def test_quotas() -> None:
    gate = PolicyGate(
        [
            Quota(repositories=Patterns(("**",)), size_bytes=1000),
            Quota(repositories=Patterns(("small/*",)), size_bytes=100),
        ],
        [],
        lambda repository: 90,
    )
    gate.check_push("small/a", 10)
    gate.check_push("large", 910)
    for repository, size in (("small/a", 11), ("large", 911)):
        with pytest.raises(QuotaExceeded, match="90 of"):
            gate.check_push(repository, size)
    full = PolicyGate([Quota(repositories=Patterns(("a",)), size_bytes=90)], [], lambda repository: 90)
    with pytest.raises(QuotaExceeded):
        full.check_push("a", 0)
    full.check_push("b", 10**12)


def test_immutable_tags() -> None:
    rule = Immutable(repositories=Patterns(("prod/**",)), tags=Patterns(("v*",)), but=Patterns(("v*-rc*",)))
    gate = PolicyGate([], [rule], lambda repository: 0)
    gate.check_tag("prod/a", "v1", None, "sha256:1")
    gate.check_tag("prod/a", "v1", "sha256:1", "sha256:1")
    gate.check_tag("prod/a", "latest", "sha256:1", "sha256:2")
    gate.check_tag("prod/a", "v1-rc1", "sha256:1", None)
    gate.check_tag("test/a", "v1", "sha256:1", None)
    with pytest.raises(TagImmutable, match="cannot be moved"):
        gate.check_tag("prod/a", "v1", "sha256:1", "sha256:2")
    with pytest.raises(TagImmutable, match="cannot be deleted"):
        gate.check_tag("prod/a", "v1", "sha256:1", None)


def tag(name: str, age_days: float, pulled_days: float | None = None) -> TagInfo:
    return TagInfo(
        name=name,
        digest=f"sha256:{name}",
        updated_ns=NOW - int(age_days * DAY),
        pulled_ns=0 if pulled_days is None else NOW - int(pulled_days * DAY),
    )


def deleted(tags: list[TagInfo], *rules: RetentionRule, **more: Any) -> list[str]:
    verdicts = decide("team/a", tags, rules, now_ns=NOW, **more)
    return [one.tag for one in verdicts if not one.keep]


TAGS = [tag("v1", 40, 2), tag("v2", 30), tag("v3", 10), tag("main", 1), tag("latest", 50), tag("pr-7", 20)]


def test_retention_by_number() -> None:
    assert deleted(TAGS, RetentionRule(keep_last=2)) == ["pr-7", "v2", "v1", "latest"]
    assert deleted(TAGS, RetentionRule(keep_last=2, tags=Patterns(("v*",)))) == ["v1"]


def test_retention_by_age_pull_and_name() -> None:
    assert deleted(TAGS, RetentionRule(keep_for_ns=15 * DAY)) == ["pr-7", "v2", "v1", "latest"]
    rule = RetentionRule(keep_for_ns=15 * DAY, keep_pulled_ns=3 * DAY, keep=Patterns(("latest",)))
    assert deleted(TAGS, rule) == ["pr-7", "v2"]


def test_the_first_rule_that_concerns_a_tag_judges_it() -> None:
    rules = (
        RetentionRule(tags=Patterns(("pr-*",)), keep_for_ns=DAY),
        RetentionRule(repositories=Patterns(("other/*",)), keep_last=1),
        RetentionRule(keep=Patterns(("**",))),
    )
    assert deleted(TAGS, *rules) == ["pr-7"]


def test_retention_deletes_nothing_immutable_and_nothing_without_a_condition() -> None:
    assert deleted(TAGS, RetentionRule()) == []
    kept = deleted(TAGS, RetentionRule(keep_last=1), protects=lambda repository, name: name.startswith("v"))
    assert kept == ["pr-7", "latest"]


tags_strategy = st.lists(
    st.builds(
        tag,
        st.from_regex(r"[a-c][0-9]{0,2}", fullmatch=True),
        st.integers(-2, 60),
        st.none() | st.integers(0, 60),
    ),
    max_size=25,
    unique_by=lambda one: one.name,
)
rule_strategy = st.builds(
    RetentionRule,
    repositories=st.sampled_from([Patterns(("**",)), Patterns(("other",))]),
    tags=st.sampled_from([Patterns(("**",)), Patterns(("a*",))]),
    keep=st.sampled_from([Patterns(()), Patterns(("b*",))]),
    keep_last=st.integers(0, 5),
    keep_for_ns=st.sampled_from([0, 7 * DAY]),
    keep_pulled_ns=st.sampled_from([0, 3 * DAY]),
)


@given(tags_strategy, st.lists(rule_strategy, max_size=3))
def test_retention_properties(tags: list[TagInfo], rules: list[RetentionRule]) -> None:
    verdicts = decide("team/a", tags, rules, now_ns=NOW)
    names = [one.tag for one in verdicts]
    assert len(set(names)) == len(names), "one verdict for each tag"
    mine = [rule for rule in rules if rule.repositories.match("team/a")]
    concerned = {one.name for one in tags if any(rule.tags.match(one.name) for rule in mine)}
    assert set(names) == concerned, "and for no other"
    gone = {one.tag for one in verdicts if not one.keep}
    left = [one for one in tags if one.name not in gone]
    again = decide("team/a", left, rules, now_ns=NOW)
    assert all(one.keep for one in again), "a second run finds nothing more"
    assert decide("team/a", tags[::-1], rules, now_ns=NOW) == verdicts, "the order of tags is no argument"
    if len(mine) == 1 and mine[0].keep_last:
        assert len(concerned - gone) >= min(mine[0].keep_last, len(concerned))
        # one more condition never deletes more
        more = [
            RetentionRule(
                tags=mine[0].tags,
                keep_last=mine[0].keep_last + 1,
                keep=mine[0].keep,
                keep_for_ns=mine[0].keep_for_ns,
                keep_pulled_ns=mine[0].keep_pulled_ns,
            )
        ]
        assert {one.tag for one in decide("team/a", tags, more, now_ns=NOW) if not one.keep} <= gone


@given(st.integers(1, 100), st.floats(0, 1e9), st.floats(0, 1))
def test_waits_are_bounded(attempt: int, asked: float, chance: float) -> None:
    wait = wait_s(attempt, asked, chance)
    assert 0.5 <= wait <= 300
    assert wait >= min(asked, 300)


def test_waits_grow() -> None:
    assert [wait_s(attempt, 0, 1) for attempt in (1, 2, 3, 20)] == [1, 2, 4, 300]


class Receiver:
    """Answers with the statuses given, then with 200, and keeps what came."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Retry-After": "7"} if status == 429 else {})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, which then take no time."""
    asked: list[float] = []

    def wait(attempt: int, asked_s: float, chance: float) -> float:
        asked.append(wait_s(attempt, asked_s, 1.0))
        return 0.0

    monkeypatch.setattr(webhooks, "wait_s", wait)
    return asked


def event(**values: Any) -> RegistryEvent:
    given: dict[str, Any] = {
        "time_ns": NOW,
        "action": "push",
        "kind": "manifest",
        "repository": "team/a",
        "digest": "sha256:1",
        "tag": "v1",
        "media_type": "application/x",
        "size_bytes": 7,
        "actor": Actor(
            name="alice",
            address="192.0.2.1",
            user_agent="docker",
            request_id="r",
            host="reg.lan",
            method="PUT",
        ),
    }
    return RegistryEvent(**(given | values))


def hooks(receiver: Receiver, **settings: Any) -> tuple[Webhooks, metrics.Counter]:
    outcomes = metrics.Counter("x", "", ("url", "outcome"))
    source = Source(addr="host:5000", instance_id="i")
    return Webhooks([WebhookSettings(url=receiver.url, **settings)], source, outcomes), outcomes


async def test_a_notification_is_signed_and_says_what_happened(receiver: Receiver) -> None:
    made, outcomes = hooks(receiver, secret=b"secret", headers={"Authorization": "Bearer t"})
    made.happened(event())
    await made.close(patience_s=60)
    [body] = receiver.bodies
    [headers] = receiver.headers
    assert headers[SIGNATURE] == "sha256=" + hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    assert headers["Content-Type"] == MEDIA_TYPE
    assert headers["Authorization"] == "Bearer t"
    [told] = json.loads(body)["events"]
    assert told["action"] == "push"
    assert told["timestamp"] == "2023-11-14T22:13:20Z"
    assert told["target"] == {
        "mediaType": "application/x",
        "digest": "sha256:1",
        "size": 7,
        "length": 7,
        "repository": "team/a",
        "url": "http://reg.lan/v2/team/a/manifests/sha256:1",
        "tag": "v1",
    }
    assert told["request"] == {
        "id": "r",
        "addr": "192.0.2.1",
        "host": "reg.lan",
        "method": "PUT",
        "useragent": "docker",
    }
    assert told["actor"] == {"name": "alice"}
    assert told["source"] == {"addr": "host:5000", "instanceID": "i"}
    assert outcomes.value(receiver.url, "delivered") == 1


async def test_a_webhook_hears_of_what_it_asked_for_alone(receiver: Receiver) -> None:
    made, _ = hooks(receiver, repositories=Patterns(("team/*",)), actions=frozenset(("delete",)))
    made.happened(event())
    made.happened(event(action="delete", repository="other/a"))
    made.happened(event(action="delete", kind="blob"))
    made.happened(event(action="delete", digest="sha256:2"))
    await made.close(patience_s=60)
    assert [json.loads(body)["events"][0]["target"]["digest"] for body in receiver.bodies] == ["sha256:2"]


async def test_failures_are_tried_again_and_refusals_are_not(receiver: Receiver, waits: list[float]) -> None:
    made, outcomes = hooks(receiver, attempts=3)
    receiver.statuses = [500, 429, 200, 400, 503, 503, 503, 302]
    for number in range(4):
        made.happened(event(digest=f"sha256:{number}"))
    await made.close(patience_s=60)
    digests = [json.loads(body)["events"][0]["target"]["digest"][-1] for body in receiver.bodies]
    assert digests == ["0", "0", "0", "1", "2", "2", "2", "3"]
    ids = [json.loads(body)["events"][0]["id"] for body in receiver.bodies]
    assert len(set(ids)) == 4, "the same notification again has the same id"
    assert waits == [1, 7, 1, 2]
    assert [outcomes.value(receiver.url, word) for word in ("delivered", "refused", "failed")] == [1, 2, 1]


async def test_a_receiver_that_is_away_costs_the_oldest_notifications(waits: list[float]) -> None:
    away = Receiver()
    away.url = "http://127.0.0.1:1/hook"
    made, outcomes = hooks(away, attempts=2, queue_length=5)
    for number in range(8):
        made.happened(event(digest=f"sha256:{number}"))
    [hook] = made.hooks
    assert hook.waiting == 5
    await made.close(patience_s=60)
    assert outcomes.value(away.url, "dropped") == 3
    assert outcomes.value(away.url, "failed") == 5


async def test_closing_waits_no_longer_than_allowed(receiver: Receiver) -> None:
    made, _ = hooks(receiver)
    reached, release = asyncio.Event(), asyncio.Event()

    async def stuck(body: bytes) -> None:
        reached.set()
        await release.wait()

    [hook] = made.hooks
    hook._post = stuck  # type: ignore[method-assign]
    made.happened(event())
    await reached.wait()
    await made.close(patience_s=0.01)
    assert receiver.bodies == []
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def test_metrics_text() -> None:
    counter = metrics.Counter("sampan_x_total", "How many.", ("path",))
    counter.add(1, 'a"b\\c\n')
    counter.add(2, 'a"b\\c\n')
    empty = metrics.Counter("sampan_y_total", "None yet.")
    gauge = metrics.Gauge("sampan_z", "Now.", lambda: [((), 2.5)])
    histogram = metrics.Histogram("sampan_s", "Took.", buckets=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3):
        histogram.observe(value)
    assert metrics.exposition([counter, empty, gauge, histogram]).decode() == (
        "# HELP sampan_x_total How many.\n# TYPE sampan_x_total counter\n"
        'sampan_x_total{path="a\\"b\\\\c\\n"} 3\n'
        "# HELP sampan_y_total None yet.\n# TYPE sampan_y_total counter\nsampan_y_total 0\n"
        "# HELP sampan_z Now.\n# TYPE sampan_z gauge\nsampan_z 2.5\n"
        "# HELP sampan_s Took.\n# TYPE sampan_s histogram\n"
        'sampan_s_bucket{le="0.1"} 2\nsampan_s_bucket{le="1"} 3\nsampan_s_bucket{le="+Inf"} 4\n'
        "sampan_s_sum 3.65\nsampan_s_count 4\n"
    )


def test_labels_from_callers_cannot_fill_the_memory() -> None:
    counter = metrics.Counter("x", "", ("a",))
    histogram = metrics.Histogram("y", "", ("a",))
    for number in range(metrics.MOST_SERIES + 10):
        counter.add(1, str(number))
        histogram.observe(1, str(number))
    assert len(list(counter.lines())) == metrics.MOST_SERIES
    assert len(list(histogram.lines())) == metrics.MOST_SERIES * (len(metrics.DURATIONS_S) + 3)
