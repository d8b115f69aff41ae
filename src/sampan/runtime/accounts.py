"""Names of users and groups as the container's own /etc/passwd and /etc/group have them.

Read inside the container, after pivot_root, so that no link in the image leads outside.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module is 1.6 MB of heap that every fork would carry page tables for
    from typing import Any

_LARGEST = 2**31 - 1
_LARGEST_FILE = 1 << 18


def resolve_user(
    name: str | None,
    extra_groups: list[str],
    uid: int = 0,
    gid: int = 0,
    groups: list[int] | None = None,
    etc: str = "/etc",
) -> dict[str, Any]:
    """``name[:group]``, each a name or a number, as ``{"uid", "gid", "groups", "home"}``.

    None means the numbers given, an empty name root. Groups the user is listed in are added unless a
    group was named.
    The primary group is always among the supplementary ones (CVE-2022-36109). Raises LookupError.
    """
    user_name, _, group_name = (name or "").partition(":")
    passwd = _table(f"{etc}/passwd", 7, [user_name or str(uid)])
    if user_name:
        entry = _find(passwd, user_name)
        if entry is not None:
            uid, gid = int(entry[2]), int(entry[3])
        elif user_name.isdigit() and int(user_name) <= _LARGEST:
            uid, gid = int(user_name), 0
        else:
            raise LookupError(f"unable to find user {user_name}: no matching entries in passwd file")
    else:
        entry = next((row for row in passwd if row[2] == str(uid)), None)
        if name is not None and entry is not None:
            gid = int(entry[3])
    member_of = list(groups or [])
    is_member = name is not None and entry is not None and not group_name
    wanted = [
        *extra_groups,
        *([group_name] if group_name else []),
        *([entry[0]] if is_member and entry else []),
    ]
    table = _table(f"{etc}/group", 4, wanted) if wanted else []
    if group_name:
        gid = _group(table, group_name)
    elif is_member and entry is not None:
        member_of += [int(row[2]) for row in table if entry[0] in row[3].split(",")]
    member_of += [_group(table, extra) for extra in extra_groups]
    unique = list(dict.fromkeys([gid, *member_of]))
    home = entry[5] if entry is not None and entry[5] else "/"
    return {"uid": uid, "gid": gid, "groups": unique, "home": home}


def _find(rows: list[list[str]], name: str) -> list[str] | None:
    """By name first, then by number: a name of digits wins over a number, as in Docker."""
    by_name = next((row for row in rows if row[0] == name), None)
    return by_name or next((row for row in rows if row[2] == name), None)


def _group(table: list[list[str]], name: str) -> int:
    entry = _find(table, name)
    if entry is not None:
        return int(entry[2])
    if name.isdigit() and int(name) <= _LARGEST:
        return int(name)
    raise LookupError(f"unable to find group {name}: no matching entries in group file")


def _table(path: str, columns: int, wanted: list[str]) -> list[list[str]]:
    """Rows of colon-separated fields, short ones filled up, that have one of the ``wanted`` texts anywhere;
    a file that is not there has none."""
    try:
        # an image's passwd may be a FIFO that nobody writes to
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        data = os.read(fd, 8192)
        if len(data) == 8192:
            data += os.read(fd, _LARGEST_FILE)
        text = data.decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    rows = []
    for line in text.splitlines():
        if not any(one in line for one in wanted):
            continue
        fields = line.strip().split(":")
        fields += [""] * (columns - len(fields))
        if fields[0] and not fields[0].startswith("#") and fields[2].isdigit():
            rows.append(fields)
    return rows
