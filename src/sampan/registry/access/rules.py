"""Who may do what with which repository. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sampan.model.registry import Action, Identity

from ..patterns import Patterns

ACTIONS: tuple[Action, ...] = ("pull", "push", "delete", "admin")
ORDINARY: tuple[Action, ...] = ("pull", "push", "delete")
"""What the owner of a repository does; ``admin`` is about the registry itself."""
EVERYBODY = "*"
"""As a user's name in a rule: whoever has logged in."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Gives the named users and groups the actions on the repositories that match. Rules only ever add."""

    repositories: Patterns
    actions: frozenset[Action]
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def concerns(self, name: str, groups: Sequence[str]) -> bool:
        return name in self.users or EVERYBODY in self.users or not self.groups.isdisjoint(groups)


class Rules:
    """All rules, and what nobody in particular may pull."""

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        anonymous: Patterns = Patterns(()),  # noqa: B008 - immutable
        groups: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """``groups``: members by group. Without any rule whoever has logged in may pull, push and delete."""
        self._rules = tuple(rules) or (DEFAULT,)
        self._anonymous = anonymous
        self._members = dict(groups or {})

    @property
    def has_anonymous(self) -> bool:
        """Whether there is anything to pull without logging in."""
        return bool(self._anonymous)

    def groups_of(self, identity: Identity) -> tuple[str, ...]:
        """Those a certificate or token names, and those of the settings."""
        own = (group for group, members in self._members.items() if identity.name in members)
        return (*identity.groups, *own)

    def allow(self, identity: Identity, action: Action, repository: str) -> bool:
        """``repository`` "" concerns the registry itself: its administration, or whether it answers."""
        if identity.is_anonymous:
            return bool(repository) and action == "pull" and self._anonymous.match(repository)
        groups = self.groups_of(identity)
        if not repository:
            return action != "admin" or self._administers(identity.name, groups)
        if action == "pull" and self._anonymous.match(repository):
            return True
        return any(
            action in rule.actions
            and rule.concerns(identity.name, groups)
            and rule.repositories.match(repository)
            for rule in self._rules
        )

    def _administers(self, name: str, groups: Sequence[str]) -> bool:
        """Administration is of the whole registry: a rule for some repositories does not give it."""
        return any(
            "admin" in rule.actions and rule.concerns(name, groups) and "**" in rule.repositories.texts
            for rule in self._rules
        )


DEFAULT = Rule(repositories=Patterns(("**",)), actions=frozenset(ORDINARY), users=frozenset((EVERYBODY,)))
