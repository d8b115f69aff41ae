"""Container names: what is allowed, and the ones we make up."""

from __future__ import annotations

import random
import re

from sampan.base.errors import Conflict, InvalidArgument

ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_PATTERN = re.compile(f"{ALLOWED}+")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ADJECTIVES = _words(
    "able agile amber ample azure balanced bold brave breezy bright brisk calm candid careful cheerful"
    " clear clever coastal cordial crisp curious daring deft distant dreamy eager early earnest easy elastic"
    " fair faithful fearless festive fluent fond frank fresh friendly gentle gifted glad golden graceful"
    " grand hardy hearty helpful honest hopeful humble jolly keen kind lively loyal lucid lucky mellow merry"
    " mighty modest neat nimble noble patient placid playful plucky polite proud quick quiet ready sailing"
    " serene sharp silent silver smooth snug solid spry steady stout sunny swift tidal tidy trusty upbeat"
    " valiant vivid warm wise witty zesty"
)
_SURNAMES = _words(
    "abel amundsen anning babbage barents barton bell bering bessel bohr boole borg brahe braille cabot"
    " cartier cerf chappe chen church columbus cook cousteau curie darwin davis deming dias dijkstra drake"
    " earhart eratosthenes euler faraday fermat fermi fibonacci fleming fourier franklin galileo gama gauss"
    " germain godel goodall hamming hanno harrison herschel hevelius hopper hudson humboldt huygens hypatia"
    " ibnbattuta joliot kepler kovalevskaya laplace leibniz liskov lovelace magellan mendel mercator"
    " nansen napier newton noether pasteur polo ptolemy pytheas ramanujan ride ritchie ross shackleton"
    " shannon shen somerville tabei tasman tesla thompson turing verne vespucci volta wright xu zheng zuse"
)


class InvalidName(InvalidArgument):
    def __init__(self, name: str) -> None:
        super().__init__(f"Invalid container name ({name}), only {ALLOWED} are allowed")


class NameTaken(Conflict):
    """Docker's text: clients match on it."""

    def __init__(self, name: str, owner_id: str) -> None:
        super().__init__(
            f'Conflict. The container name "/{name}" is already in use by container "{owner_id}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )


def require_valid_name(name: str) -> str:
    """The name without its leading slash. Raises InvalidName."""
    bare = name.removeprefix("/")
    if not _PATTERN.fullmatch(bare):
        raise InvalidName(name)
    return bare


def random_name(source: random.Random, attempt: int = 0) -> str:
    """``steady_lovelace``; from the second attempt on with a digit behind it."""
    name = f"{source.choice(_ADJECTIVES)}_{source.choice(_SURNAMES)}"
    return f"{name}{source.randrange(10)}" if attempt else name
