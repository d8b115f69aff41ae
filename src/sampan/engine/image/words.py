"""A registry's answers in the words of ``docker pull``, which clients match on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sampan.base.errors import NotFound, SampanError
from sampan.formats.reference import ImageName
from sampan.transfer.errors import (
    DENIED,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    NoMatchingPlatform,
    RegistryRefused,
)


class PullRefused(NotFound):
    """What was asked for is not there, or not for everybody. Docker's texts, which clients match on."""


@contextlib.contextmanager
def explained(name: ImageName) -> Iterator[None]:
    try:
        yield
    except RegistryRefused as error:
        raise explain_refusal(error, name) from error
    except NoMatchingPlatform as error:
        raise PullRefused(error.message) from error


def explain_refusal(error: RegistryRefused, name: ImageName) -> SampanError:
    """A registry's answer in the words of ``docker pull``."""
    if error.code == DENIED:
        return PullRefused(
            f"pull access denied for {name.familiar_repository}, repository does not exist or may require "
            f"'docker login': {error.message}"
        )
    if error.code == MANIFEST_UNKNOWN:
        return PullRefused(f"manifest for {name.familiar} not found: {error.message}")
    if error.code == NAME_UNKNOWN:
        return PullRefused(f"repository {name.familiar_repository} not found: {error.message}")
    return error
