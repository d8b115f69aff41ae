"""sampan images, history, tag, rmi, commit and pull."""

from __future__ import annotations

import sys
import time

from sampan.cli import table
from sampan.cli.containerview import local_time
from sampan.cli.failure import Failure, Refused
from sampan.cli.filters import encoded, filter_option
from sampan.cli.imagename import canonical, familiar, platform_json, split_tag, with_tag
from sampan.cli.options import BOOL, PLATFORM, STRING, Command, Option, Values
from sampan.cli.session import Session, wanted_platform
from sampan.cli.table import Column, View
from sampan.cli.units import ellipsis, human_size, short_id
from sampan.formats.durations import human_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]

_NONE = "<none>"


def _since(item: Item, _: bool = True) -> str:
    created = item["Created"]
    return f"{human_duration(time.time() - created)} ago" if created > 0 else "N/A"


def _optional_size(size: int) -> str:
    return "N/A" if size < 0 else human_size(size)


def _unique(item: Item, _: bool) -> str:
    shared = item.get("SharedSize", -1)
    return "N/A" if shared < 0 or item["Size"] < 0 else human_size(item["Size"] - shared)


def _containers(item: Item, _: bool) -> str:
    count = item.get("Containers", -1)
    return "N/A" if count < 0 else str(count)


def _id(item: Item, short: bool) -> str:
    return short_id(item["Id"]) if short else item["Id"]


IMAGES = View(
    {
        "ID": Column("IMAGE ID", _id),
        "Repository": Column("REPOSITORY", lambda item, _: item["repository"]),
        "Tag": Column("TAG", lambda item, _: item["tag"]),
        "Digest": Column("DIGEST", lambda item, _: item["digest"]),
        "CreatedSince": Column("CREATED", _since),
        "CreatedAt": Column("CREATED AT", lambda item, _: local_time(item["Created"])),
        "Size": Column("SIZE", lambda item, _: human_size(item["Size"], 3)),
        "VirtualSize": Column("SIZE", lambda item, _: human_size(item["Size"])),
        "Containers": Column("CONTAINERS", _containers),
        "SharedSize": Column("SHARED SIZE", lambda item, _: _optional_size(item.get("SharedSize", -1))),
        "UniqueSize": Column("UNIQUE SIZE", _unique),
    },
    ("Repository", "Tag", "ID", "CreatedSince", "Size"),
)


def image_rows(images: list[Item], *, digests: bool) -> list[Item]:
    """One row per name of an image; an image without any has one row of <none>."""
    rows = []
    for image in images:
        by_repository: dict[str, list[str]] = {}
        for name in image.get("RepoDigests") or ():
            repository, _, digest = name.partition("@")
            by_repository.setdefault(familiar(repository), []).append(digest)
        names = []
        for name in image.get("RepoTags") or ():
            if name == "<none>:<none>":
                continue
            repository, tag = split_tag(name)
            known = by_repository.get(familiar(repository), []) if digests else []
            names += [(familiar(repository), tag, digest) for digest in known or [_NONE]]
        tagged = {repository for repository, _, _ in names}
        for repository, found in by_repository.items():
            if repository not in tagged and repository != _NONE:
                names += [(repository, _NONE, digest) for digest in (found if digests else [""])]
        for repository, tag, digest in names or [(_NONE, _NONE, _NONE)]:
            rows.append({**image, "repository": repository, "tag": tag, "digest": digest})
    return rows


def list_images(session: Session, values: Values, words: list[str]) -> int:
    source = table.wanted_format(values.text("format"), values.flag("json"))
    filters = values.many("filter")
    if words:
        filters.append(("reference", words[0]))
    query = [("all", "1")] if values.flag("all") else []
    if encoded(filters):
        query.append(("filters", encoded(filters)))
    if ".SharedSize" in source or ".UniqueSize" in source:
        query.append(("shared-size", "1"))
    if values.flag("tree"):
        return _tree(session, values, source, query)
    images = session.client.call("GET", "/images/json", query)
    digests = values.flag("digests") or ".Digest" in source
    quiet = values.flag("quiet")
    rows = image_rows(images, digests=digests)
    view = IMAGES
    if values.flag("digests"):
        view = View(IMAGES.columns, ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"))
    table.write(view, rows, source, truncate=not values.flag("no-trunc"), quiet=quiet)
    return 0


def _tree(session: Session, values: Values, source: str, query: list[tuple[str, str]]) -> int:
    for option in ("quiet", "no-trunc", "digests"):
        if values.flag(option):
            raise Failure(f"--{option} is not supported with --tree")
    if source:
        raise Failure("--format is not supported with --tree")
    images = session.client.call("GET", "/images/json", [*query, ("manifests", "1")])
    lines = [("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE")]
    for image in sorted(images, key=lambda one: (not one.get("RepoTags"), one.get("RepoTags"), one["Id"])):
        manifests = [one for one in image.get("Manifests") or () if one["Kind"] == "image"]
        content = sum(one["Size"]["Content"] for one in image.get("Manifests") or ())
        used = any(one["ImageData"]["Containers"] for one in manifests)
        names = image.get("RepoTags") or ["<untagged>"]
        lines += [(name, "", "", "", "") for name in names[:-1]]
        lines.append((names[-1], *_branch(image["Id"], image["Size"], content, used)))
        for place, one in enumerate(manifests):
            mark = "└─ " if place == len(manifests) - 1 else "├─ "
            lines.append((mark + _platform(one), *_leaf(one)))
    sys.stdout.write(table.align(lines))
    return 0


def _branch(identity: str, size: int, content: int, used: bool) -> tuple[str, str, str, str]:
    return short_id(identity), human_size(size, 3), human_size(content, 3), "yes" if used else ""


def _leaf(manifest: Item) -> tuple[str, str, str, str]:
    if not manifest["Available"]:
        return short_id(manifest["ID"]), "not here", "", ""
    size = manifest["Size"]
    return _branch(manifest["ID"], size["Total"], size["Content"], bool(manifest["ImageData"]["Containers"]))


def _platform(manifest: Item) -> str:
    platform = manifest["ImageData"]["Platform"]
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))


def _history_view(human: bool) -> View:
    def moment(item: Item, _: bool) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(item["Created"]))
        return stamp[:-5] + ("Z" if stamp.endswith("+0000") else f"{stamp[-5:-2]}:{stamp[-2:]}")

    def created_by(item: Item, short: bool) -> str:
        text = item["CreatedBy"].replace("\t", " ")
        return ellipsis(text, 45) if short else text

    columns = {
        "ID": Column("IMAGE", _id),
        "CreatedSince": Column("CREATED", _since if human else moment),
        "CreatedAt": Column("CREATED AT", moment),
        "CreatedBy": Column("CREATED BY", created_by),
        "Size": Column("SIZE", lambda item, _: human_size(item["Size"], 3) if human else str(item["Size"])),
        "Comment": Column("COMMENT", lambda item, _: item.get("Comment") or ""),
    }
    created = "CreatedSince" if human else "CreatedAt"
    return View(columns, ("ID", created, "CreatedBy", "Size", "Comment"))


def history(session: Session, values: Values, words: list[str]) -> int:
    source = table.wanted_format(values.text("format"), values.flag("json"))
    query = [("platform", platform_json(values.text("platform")))] if values.text("platform") else []
    layers = session.client.call("GET", f"/images/{words[0]}/history", query)
    view = _history_view(values.flag("human"))
    table.write(view, layers, source, truncate=not values.flag("no-trunc"), quiet=values.flag("quiet"))
    return 0


def tag(session: Session, values: Values, words: list[str]) -> int:
    if "@" in words[1]:
        raise Failure("refusing to create a tag with a digest reference")
    repository, tag_name = split_tag(words[1])
    session.client.call(
        "POST", f"/images/{words[0]}/tag", [("repo", canonical(repository)), ("tag", tag_name or "latest")]
    )
    return 0


def remove(session: Session, values: Values, words: list[str]) -> int:
    query = [("force", "1")] if values.flag("force") else []
    if values.flag("no-prune"):
        query.append(("noprune", "1"))
    query += [("platforms", platform_json(text)) for text in values.many("platform")]
    status = 0
    for name in words:
        try:
            answer = session.client.call("DELETE", f"/images/{name}", query)
        except Refused as refused:
            session.warn(refused.message)
            status = 0 if values.flag("force") and refused.code == 404 else 1
            continue
        for change in answer or ():
            for key in ("Untagged", "Deleted"):
                if change.get(key):
                    print(f"{key}: {change[key]}", flush=True)
    return status


def commit(session: Session, values: Values, words: list[str]) -> int:
    repository, tag_name = split_tag(words[1]) if len(words) > 1 else ("", "")
    query = [("container", words[0]), ("comment", values.text("message")), ("author", values.text("author"))]
    if repository:
        query += [("repo", canonical(repository)), ("tag", tag_name or "latest")]
    query += [("changes", change) for change in values.many("change")]
    if not values.flag("pause") or values.flag("no-pause"):
        query.append(("pause", "0"))
    print(session.client.call("POST", "/commit", query, {})["Id"])
    return 0


def pull_image(
    session: Session, image: str, platform: str, *, quiet: bool, to_stderr: bool, everything: bool = False
) -> None:
    """Fetch an image from its registry. Raises Failure, with what to do when no registry can be reached."""
    from sampan.cli.commands.registry import auth_headers
    from sampan.cli.progress import follow

    repository, tag_name = split_tag(image)
    tag_name = image.partition("@")[2] or tag_name
    query = [("fromImage", canonical(repository))]
    if not everything:
        query.append(("tag", tag_name or "latest"))
    if platform:
        query.append(("platform", platform))
    headers = auth_headers(session, repository)
    try:
        response = session.client.request("POST", "/images/create", query, None, headers)
        follow(response, quiet=quiet, to_stderr=to_stderr)
    except Refused as refused:
        if "https://registry-1.docker.io/" not in refused.reason:
            raise
        raise Failure(f"{refused.message}\n\n{_without_registry(image)}", 125) from None


def _without_registry(image: str) -> str:
    name = split_tag(familiar(image))[0]
    recipe = name if name in ("busybox", "debian", "python", "nginx") else "busybox"
    return (
        f"Without a registry, make a base image with 'sampan image bootstrap {recipe}', "
        "or load one from a file with 'sampan load -i FILE'."
    )


def pull(session: Session, values: Values, words: list[str]) -> int:
    quiet, everything = values.flag("quiet"), values.flag("all-tags")
    repository, tag_name = split_tag(words[0])
    if everything and (tag_name or "@" in words[0]):
        raise Failure("tag can't be used with --all-tags/-a")
    name = with_tag(words[0])
    if name != words[0] and not everything and not quiet:
        print("Using default tag: latest", flush=True)
    platform = wanted_platform(values.text("platform"))
    pull_image(session, words[0], platform, quiet=quiet, to_stderr=False, everything=everything)
    print(canonical(repository) if everything else canonical(name))
    return 0


LIST_OPTIONS = (
    Option("all", "a", BOOL, "Show the intermediate images too"),
    Option("digests", "", BOOL, "Show digests"),
    filter_option(),
    *table.FORMAT_OPTIONS,
    table.NO_TRUNC,
    Option("quiet", "q", BOOL, "Only display image IDs"),
    Option("tree", "", BOOL, "Show the platforms of each image below it"),
)

LIST = Command(
    "images",
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    list_images,
    LIST_OPTIONS,
    maximum=1,
    complete="image",
)
HISTORY = Command(
    "history",
    "[OPTIONS] IMAGE",
    "Show how an image was made",
    history,
    (
        *table.FORMAT_OPTIONS,
        Option("human", "H", BOOL, "Print sizes and dates for people", default=True),
        table.NO_TRUNC,
        PLATFORM,
        Option("quiet", "q", BOOL, "Only display image IDs"),
    ),
    minimum=1,
    maximum=1,
    complete="image",
)
TAG = Command(
    "tag",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Give an image another name",
    tag,
    minimum=2,
    maximum=2,
    complete="image",
)
REMOVE = Command(
    "rmi",
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove one or more images",
    remove,
    (
        Option("force", "f", BOOL, "Remove it even if it has several names or stopped containers"),
        Option("no-prune", "", BOOL, "Keep untagged parents"),
        Option("platform", "", "list", "Remove only the image of this platform, OS/ARCH[/VARIANT]"),
    ),
    minimum=1,
    complete="image",
)
COMMIT = Command(
    "commit",
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Make an image from a container's changes",
    commit,
    (
        Option("author", "a", STRING, "Author, such as 'Ada <ada@example.org>'"),
        Option("change", "c", "list", "Dockerfile instruction to apply"),
        Option("message", "m", STRING, "Message of the commit"),
        Option("pause", "p", BOOL, "Pause the container meanwhile", default=True),
        Option("no-pause", "", BOOL, "Do not pause the container meanwhile"),
    ),
    minimum=1,
    maximum=2,
    complete="container",
)
PULL = Command(
    "pull",
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Fetch an image from a registry",
    pull,
    (
        Option("all-tags", "a", BOOL, "Fetch all tags of the repository"),
        PLATFORM,
        Option("quiet", "q", BOOL, "No progress"),
    ),
    minimum=1,
    maximum=1,
)
