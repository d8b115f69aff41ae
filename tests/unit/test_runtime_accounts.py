"""Names of users and groups resolve as Docker resolves them."""

from pathlib import Path

import pytest

from sampan.runtime.accounts import resolve_user

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:App:/home/app:/bin/sh
1005:x:77:78::/seven:/bin/sh
broken line
"""
GROUP = """root:x:0:
app:x:1001:
wheel:x:10:root,app
audio:x:29:app
"""


@pytest.fixture
def etc(tmp_path: Path) -> str:
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    return str(tmp_path)


def test_no_name_is_root_with_roots_groups(etc: str) -> None:
    assert resolve_user("", [], etc=etc) == {"uid": 0, "gid": 0, "groups": [0, 10], "home": "/root"}


def test_a_name_brings_its_group_memberships_and_home(etc: str) -> None:
    who = resolve_user("app", [], etc=etc)
    assert who == {"uid": 1000, "gid": 1001, "groups": [1001, 10, 29], "home": "/home/app"}


def test_a_named_group_replaces_memberships(etc: str) -> None:
    assert resolve_user("app:audio", [], etc=etc)["groups"] == [29]


def test_a_number_without_entry_has_group_zero_and_no_home(etc: str) -> None:
    assert resolve_user("4242", [], etc=etc) == {"uid": 4242, "gid": 0, "groups": [0], "home": "/"}


def test_a_name_of_digits_wins_over_the_number(etc: str) -> None:
    assert resolve_user("1005", [], etc=etc)["uid"] == 77


def test_extra_groups_are_added_once(etc: str) -> None:
    assert resolve_user("app", ["audio", "5"], etc=etc)["groups"] == [1001, 10, 29, 5]


def test_numbers_are_taken_as_they_are_when_no_name_is_asked_for(etc: str) -> None:
    who = resolve_user(None, [], 1000, 5, [6], etc=etc)
    assert (who["uid"], who["gid"], who["groups"]) == (1000, 5, [5, 6])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody-here", "unable to find user nobody-here: no matching entries in passwd file"),
        ("app:nogroup", "unable to find group nogroup: no matching entries in group file"),
        (str(2**31), f"unable to find user {2**31}: no matching entries in passwd file"),
    ],
)
def test_unknown_names_are_refused_in_dockers_words(etc: str, name: str, message: str) -> None:
    with pytest.raises(LookupError, match=message):
        resolve_user(name, [], etc=etc)


def test_an_image_without_accounts_still_has_root(tmp_path: Path) -> None:
    assert resolve_user("", [], etc=str(tmp_path))["uid"] == 0
