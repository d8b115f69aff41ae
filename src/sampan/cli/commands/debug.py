"""sampan debug explain."""

from __future__ import annotations

import json

from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session


def explain(session: Session, values: Values, words: list[str]) -> int:
    plan = session.client.call("GET", f"/sampan/debug/explain/{words[0]}")
    if values.flag("json"):
        print(json.dumps(plan, ensure_ascii=False, separators=(",", ":")))
        return 0
    for step in plan["Plan"]:
        print(step)
    return 0


EXPLAIN = Command(
    "debug explain",
    "[OPTIONS] CONTAINER",
    "Show step by step how a container is started",
    explain,
    (Option("json", "", BOOL, "One JSON object"),),
    minimum=1,
    maximum=1,
    complete="container",
)
