"""The option parser: Docker's client syntax, from tables."""

from __future__ import annotations

import pytest

from sampan.cli.failure import UsageFailure
from sampan.cli.main import ALIASES, GROUPS, SUMMARIES, TOP, load
from sampan.cli.options import BOOL, INT, Command, HelpWanted, Option, Values, parse
from sampan.cli.spelling import distance, nearest

OPTIONS = (
    Option("all", "a", BOOL, "everything"),
    Option("count", "n", INT, "how many", default=-1),
    Option("env", "e", "list", "variables"),
    Option("name", "", "string", "a name"),
    Option("proxy", "", BOOL, "on unless switched off", default=True),
    Option("net", "", "list", "older spelling", hidden=True, stores="env"),
)


def given(*arguments: str, interspersed: bool = True, **limits: int) -> tuple[Values, list[str]]:
    command = Command("try", "", "", lambda *_: 0, OPTIONS, interspersed=interspersed, **limits)
    return parse(command, list(arguments))


def test_nothing_given_means_the_defaults() -> None:
    values, words = given()
    assert (values.flag("all"), values.number("count"), values.many("env")) == (False, -1, [])
    assert (values.text("name"), values.flag("proxy"), words) == ("", True, [])
    assert not values.given("proxy")


@pytest.mark.parametrize(
    "arguments",
    [["-an5"], ["-a", "-n", "5"], ["-a=true", "-n=5"], ["--all", "--count", "5"], ["--count=5", "--all=1"]],
)
def test_spellings_of_the_same(arguments: list[str]) -> None:
    values, _ = given(*arguments)
    assert values.flag("all") is True
    assert values.number("count") == 5


def test_repeated_options_keep_their_order_and_an_alias_joins_them() -> None:
    values, _ = given("-e", "A=1", "--env=B", "--net", "C", "-eD=x=y")
    assert values.many("env") == ["A=1", "B", "C", "D=x=y"]


def test_of_a_single_option_the_last_one_counts() -> None:
    values, _ = given("--name", "one", "--name=two", "--proxy=false")
    assert values.text("name") == "two"
    assert values.flag("proxy") is False


def test_words_and_options_mix_until_the_double_dash() -> None:
    values, words = given("one", "-a", "two", "--", "-n", "5")
    assert values.flag("all")
    assert words == ["one", "two", "-n", "5"]


def test_without_mixing_everything_after_the_first_word_is_the_commands() -> None:
    values, words = given("-a", "image", "-n", "5", "--", "x", interspersed=False)
    assert words == ["image", "-n", "5", "--", "x"]
    assert not values.given("count")


def test_a_single_dash_is_a_word() -> None:
    assert given("-")[1] == ["-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nmae", "x"], "unknown flag: --nmae\n\nDid you mean --name?"),
        (["-z"], "unknown shorthand flag: 'z' in -z"),
        (["-az"], "unknown shorthand flag: 'z' in -az"),
        (["--name"], "flag needs an argument: --name"),
        (["-an"], "flag needs an argument: 'n' in -an"),
        (
            ["-n", "x"],
            'invalid argument "x" for "-n, --count" flag: strconv.ParseInt: parsing "x": invalid syntax',
        ),
        (
            ["--all=x"],
            'invalid argument "x" for "-a, --all" flag: strconv.ParseBool: parsing "x": invalid syntax',
        ),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageFailure) as caught:
        given(*arguments)
    assert caught.value.message == message
    assert caught.value.status == 125


@pytest.mark.parametrize(
    ("limits", "words", "message"),
    [
        ({"minimum": 1}, [], "'sampan try' requires at least 1 argument"),
        ({"minimum": 2, "maximum": 2}, ["x"], "'sampan try' requires 2 arguments"),
        ({"maximum": 0}, ["x"], "'sampan try' accepts no arguments"),
        ({"minimum": 1, "maximum": 2}, ["x", "y", "z"], "'sampan try' requires at most 2 arguments"),
    ],
)
def test_wrong_number_of_words(limits: dict[str, int], words: list[str], message: str) -> None:
    with pytest.raises(UsageFailure) as caught:
        given(*words, **limits)
    assert (caught.value.message, caught.value.status) == (message, 1)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["x", "--help"]])
def test_help(arguments: list[str]) -> None:
    with pytest.raises(HelpWanted):
        given(*arguments)


def test_distance_counts_a_swap_as_one() -> None:
    assert distance("imaegs", "images") == 1
    assert distance("", "abc") == 3


def test_nearest_prefers_the_closest_and_offers_nothing_far() -> None:
    assert nearest("stpo", ["stop", "start", "stats"]) == ["stop"]
    assert nearest("xyzzy", ["stop", "start"]) == []
    assert nearest("--memor", ["--memory", "--memory-swap"]) == ["--memory", "--memory-swap"]


ENTRIES = sorted({*TOP.values(), *(entry for group in GROUPS.values() for entry in group.values())})


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_command_table_is_sound(entry: str) -> None:
    command = load(entry)
    names = [option.name for option in command.options]
    shorts = [option.short for option in command.options if option.short]
    assert len(set(names)) == len(names)
    assert len(set(shorts)) == len(shorts)
    assert command.summary
    assert command.summary[0].isupper()
    assert all(option.help for option in command.options)
    for option in command.options:
        assert option.stores in names


def test_groups_and_aliases_name_what_exists() -> None:
    assert set(GROUPS) == set(SUMMARIES)
    for (group, alias), real in ALIASES.items():
        assert real in GROUPS[group]
        assert alias not in GROUPS[group]
