"""sampan manifest: look at manifests in registries, and make lists of them."""

from __future__ import annotations

import json
from base64 import b64decode

from sampan.cli import jsontext
from sampan.cli.commands.registry import auth_headers
from sampan.cli.failure import Failure
from sampan.cli.imagename import split_tag
from sampan.cli.manifestdrafts import Drafts, full_name
from sampan.cli.options import BOOL, LIST, STRING, Command, Option, Values
from sampan.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Manifest = dict[str, Any]

_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _drafts(session: Session) -> Drafts:
    return Drafts(session.config_folder)


def _fetch(session: Session, name: str, *, each: bool = False) -> Manifest:
    headers = auth_headers(session, split_tag(name)[0])
    query = [("name", full_name(name)), *([("each", "1")] if each else [])]
    found: Manifest = session.client.request("GET", "/sampan/manifests", query, None, headers).json()
    return found


def _print(value: object) -> None:
    print(json.dumps(value, indent=4, ensure_ascii=False))


def _index(manifests: list[Manifest]) -> Manifest:
    """The list as it would be pushed."""
    entries = [one["Descriptor"] for one in manifests]
    docker = all(entry.get("mediaType") == _DOCKER_MANIFEST for entry in entries)
    return {
        "schemaVersion": 2,
        "mediaType": _DOCKER_INDEX if docker else _OCI_INDEX,
        "manifests": entries,
    }


def inspect(session: Session, values: Values, words: list[str]) -> int:
    verbose = values.flag("verbose")
    if len(words) > 1:
        found = _drafts(session).find_one(words[0], words[1])
        if found is None:
            raise Failure(f"No such manifest: {full_name(words[1])}")
        _print(found if verbose else jsontext.loads(b64decode(found["Raw"])))
        return 0
    draft = _drafts(session).find(words[0])
    if draft is not None:
        _print(draft if verbose else _index(draft))
        return 0
    view = _fetch(session, words[0], each=verbose)
    if not verbose:
        # in the order of the document, with whatever its author put in
        _print(jsontext.loads(b64decode(view["Raw"])))
        return 0
    listed = view.pop("Manifests", None)
    for one in [view] if listed is None else listed:
        one["Manifest"] = jsontext.loads(b64decode(one["Raw"]))
    _print(view if listed is None else listed)
    return 0


def create(session: Session, values: Values, words: list[str]) -> int:
    drafts, name = _drafts(session), words[0]
    if drafts.find(name) is not None and not values.flag("amend"):
        raise Failure("refusing to amend an existing manifest list with no --amend flag")
    fetched = []
    for manifest in words[1:]:
        if drafts.find_one(name, manifest) is not None:
            continue
        view = _fetch(session, manifest)
        if "manifests" in jsontext.loads(b64decode(view["Raw"])):
            raise Failure(f"{manifest} is a manifest list itself: name the manifests in it by digest")
        fetched.append((manifest, view))
    # nothing is written before all are there
    for manifest, view in fetched:
        drafts.save(name, manifest, {**view, "Ref": full_name(manifest)})
    print(f"Created manifest list {full_name(name)}")
    return 0


def annotate(session: Session, values: Values, words: list[str]) -> int:
    drafts = _drafts(session)
    found = drafts.find_one(words[0], words[1])
    if found is None:
        raise Failure(f"manifest for image {words[1]} does not exist in {words[0]}")
    platform = dict(found["Descriptor"].get("platform") or {})
    options = (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version"))
    for option, key in options:
        if values.text(option):
            platform[key] = values.text(option)
    features = [name for text in values.many("os-features") for name in text.split(",") if name]
    if features:
        known = platform.get("os.features") or []
        platform["os.features"] = [*known, *(one for one in features if one not in known)]
    if not platform.get("os") or not platform.get("architecture"):
        raise Failure(f"manifest {words[1]} names no platform: give both --os and --arch")
    found["Descriptor"]["platform"] = platform
    drafts.save(words[0], words[1], found)
    return 0


def push(session: Session, values: Values, words: list[str]) -> int:
    from sampan.cli.progress import follow

    drafts, name = _drafts(session), words[0]
    manifests = drafts.require(name)
    if not manifests:
        raise Failure(f"{full_name(name)} not found")
    listed = [{"Ref": one["Ref"], "Descriptor": one["Descriptor"]} for one in manifests]
    headers = (*auth_headers(session, split_tag(name)[0]), ("Content-Type", "application/json"))
    body = jsontext.dumps({"Manifests": listed}).encode()
    query = (("name", full_name(name)),)
    results = follow(session.client.request("POST", "/sampan/manifests/push", query, body, headers))
    for result in results:
        print(result["Digest"], flush=True)
    if values.flag("purge"):
        drafts.remove(name)
    return 0


def remove(session: Session, values: Values, words: list[str]) -> int:
    problems = []
    for name in words:
        try:
            _drafts(session).remove(name)
        except Failure as failure:
            problems.append(failure.message)
    if problems:
        raise Failure("\n".join(problems))
    return 0


_INSECURE = Option(
    "insecure", "", BOOL, "Accepted for Docker's sake: the daemon's settings decide", hidden=True
)

INSPECT = Command(
    "manifest inspect",
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Show a manifest or an index of a registry, or a list that is being made",
    inspect,
    (_INSECURE, Option("verbose", "v", BOOL, "With digest, size and platform; of an index each manifest")),
    minimum=1,
    maximum=2,
)
CREATE = Command(
    "manifest create",
    "[OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Begin a list of manifests that are in a registry",
    create,
    (Option("amend", "a", BOOL, "Add to a list that was begun before"), _INSECURE),
    minimum=2,
    examples=("sampan manifest create registry.lan/app:1 registry.lan/app:1-amd64 registry.lan/app:1-arm64",),
)
ANNOTATE = Command(
    "manifest annotate",
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    "Say which platform a manifest of a list is for",
    annotate,
    (
        Option("arch", "", STRING, "Architecture"),
        Option("os", "", STRING, "Operating system"),
        Option("os-features", "", LIST, "Features of the operating system, with commas between them"),
        Option("os-version", "", STRING, "Version of the operating system"),
        Option("variant", "", STRING, "Variant of the architecture"),
    ),
    minimum=2,
    maximum=2,
)
PUSH = Command(
    "manifest push",
    "[OPTIONS] MANIFEST_LIST",
    "Send a list to its registry",
    push,
    (_INSECURE, Option("purge", "p", BOOL, "Forget the list here afterwards")),
    minimum=1,
    maximum=1,
)
REMOVE = Command(
    "manifest rm", "MANIFEST_LIST [MANIFEST_LIST...]", "Forget lists that were begun", remove, minimum=1
)
