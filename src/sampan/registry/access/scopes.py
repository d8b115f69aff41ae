"""Scopes, as tokens and those who ask for them write them: ``repository:team/app:pull,push``.

Docker's token specification ("Token Scope Documentation"). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sampan.base.errors import InvalidArgument
from sampan.model.registry import Action, Grant

from .rules import ORDINARY

CATALOG = "registry:catalog:*"
_MOST_SCOPES = 64
_LONGEST = 512
Allows = Callable[[Action, str], bool]


class InvalidScope(InvalidArgument):
    def __init__(self, scope: str) -> None:
        super().__init__(f"invalid scope {scope[:80]!r}: expected TYPE:NAME:ACTION[,ACTION...]")


def scope_of(action: Action, repository: str) -> str:
    """What a client is to ask for; "" where any token will do."""
    if not repository:
        return CATALOG if action == "pull" else ""
    if action == "push":
        return f"repository:{repository}:pull,push"
    return f"repository:{repository}:{action}"


def _actions(names: Iterable[str]) -> tuple[Action, ...]:
    wanted = set(names)
    return ORDINARY if "*" in wanted else tuple(action for action in ORDINARY if action in wanted)


def parse(scopes: Iterable[str]) -> list[Grant]:
    """What is asked for; kinds that a registry does not know are left out. Raises InvalidScope.

    One parameter may have several, with spaces between them. The catalogue is the repository "".
    """
    wanted: list[Grant] = []
    for scope in [part for text in scopes for part in text.split(" ") if part]:
        kind, colon, rest = scope.partition(":")
        name, second, actions = rest.rpartition(":")
        if not colon or not second or not name or len(scope) > _LONGEST or len(wanted) >= _MOST_SCOPES:
            raise InvalidScope(scope)
        kind = kind.partition("(")[0]  # a class, "repository(plugin)", changes nothing here
        if kind == "registry" and name == "catalog":
            wanted.append(Grant(repository="", actions=("pull",)))
        elif kind == "repository":
            wanted.append(Grant(repository=name, actions=_actions(actions.split(","))))
    return wanted


def granted(wanted: Iterable[Grant], allows: Allows) -> list[Grant]:
    """The part that rules allow; what is left of nothing is left out."""
    grants = []
    for one in wanted:
        actions = tuple(action for action in one.actions if allows(action, one.repository))
        if actions:
            grants.append(Grant(repository=one.repository, actions=actions))
    return grants


def claims_of(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """The claim ``access``."""
    return [
        {"type": "repository", "name": one.repository, "actions": list(one.actions)}
        if one.repository
        else {"type": "registry", "name": "catalog", "actions": ["*"]}
        for one in grants
    ]


def grants_of(claim: Any) -> tuple[Grant, ...]:
    """From the claim ``access`` of a token that was verified; what is malformed grants nothing."""
    grants = []
    for one in claim if isinstance(claim, list) else ():
        if not isinstance(one, Mapping):
            continue
        name, actions = one.get("name"), one.get("actions")
        if not isinstance(name, str) or not isinstance(actions, list):
            continue
        names = [action for action in actions if isinstance(action, str)]
        if one.get("type") == "repository" and name:
            grants.append(Grant(repository=name, actions=_actions(names)))
        elif one.get("type") == "registry" and name == "catalog" and "*" in names:
            grants.append(Grant(repository="", actions=("pull",)))
    return tuple(grants)


def covers(grants: Iterable[Grant], action: Action, repository: str) -> bool:
    return any(one.repository == repository and action in one.actions for one in grants)
