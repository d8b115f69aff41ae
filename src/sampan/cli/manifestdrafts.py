"""Manifest lists that are being put together: files below the configuration folder, as Docker's client has
them, so that either client goes on with what the other began."""

from __future__ import annotations

import os

from sampan.cli import jsontext
from sampan.cli.failure import Failure
from sampan.cli.imagename import canonical, split_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Manifest = dict[str, Any]

_FIELDS = {"application/vnd.docker.distribution.manifest.v2+json": "SchemaV2Manifest"}


def full_name(name: str) -> str:
    """With registry, name space and tag or digest: ``docker.io/library/busybox:latest``."""
    head, mark, digest = name.partition("@")
    repository, tag = split_tag(head)
    if mark:
        return f"{canonical(repository)}{f':{tag}' if tag else ''}@{digest}"
    return f"{canonical(repository)}:{tag or 'latest'}"


def _file_name(name: str) -> str:
    return full_name(name).replace(":", "-").replace("/", "_")


class Drafts:
    def __init__(self, folder: str) -> None:
        """``folder`` is the client's configuration folder."""
        self._root = f"{folder}/manifests"

    def _folder(self, name: str) -> str:
        # a name of slashes and dots alone becomes one file name that cannot lead anywhere
        return f"{self._root}/{_file_name(name)}"

    def find(self, name: str) -> list[Manifest] | None:
        """The manifests of a list, in the order of their names; None when there is no such list."""
        try:
            files = sorted(os.listdir(self._folder(name)))
        except FileNotFoundError:
            return None
        return [self._read(f"{self._folder(name)}/{file}") for file in files]

    def require(self, name: str) -> list[Manifest]:
        found = self.find(name)
        if found is None:
            raise Failure(f"No such manifest: {full_name(name)}")
        return found

    def find_one(self, name: str, manifest: str) -> Manifest | None:
        try:
            return self._read(f"{self._folder(name)}/{_file_name(manifest)}")
        except FileNotFoundError:
            return None

    @staticmethod
    def _read(path: str) -> Manifest:
        with open(path, "rb") as file:
            try:
                found: Manifest = jsontext.loads(file.read())
            except jsontext.InvalidJson as error:
                raise Failure(f"{path}: {error}") from None
        return found

    def save(self, name: str, manifest: str, value: Manifest) -> None:
        """``value`` has Ref, Descriptor and Raw (base64)."""
        from base64 import b64decode

        field = _FIELDS.get(value["Descriptor"].get("mediaType", ""), "OCIManifest")
        # what Docker's client reads its kind from
        value = {**value, field: jsontext.loads(b64decode(value["Raw"]))}
        os.makedirs(self._folder(name), 0o755, exist_ok=True)
        path = f"{self._folder(name)}/{_file_name(manifest)}"
        # beside the lists: whatever is in one of their folders counts as a manifest
        unfinished = f"{self._root}/.{os.getpid()}"
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(jsontext.dumps(value))
        os.replace(unfinished, path)

    def remove(self, name: str) -> None:
        self.require(name)
        from shutil import rmtree

        rmtree(self._folder(name))
