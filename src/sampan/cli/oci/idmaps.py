"""Binds with mapped owners (mount_setattr(2), MOUNT_ATTR_IDMAP).

Made before the clone, since only the owner of the file system's user namespace may map a mount.
"""

from __future__ import annotations

import os

from sampan.kernel import mount as mnt
from sampan.kernel import process as proc
from sampan.model.oci import IDMapping, OCIMount, RuntimeSpec
from sampan.runtime import mountoptions
from sampan.runtime.sandbox import Operation

from .errors import InvalidBundle


def prepare(spec: RuntimeSpec) -> dict[str, Operation]:
    """By destination, in place of the planner's bind. Raises InvalidBundle, OSError."""
    operations: dict[str, Operation] = {}
    for mount in spec.mounts:
        options = mountoptions.decode(mount.options)
        kind = options.idmap or ("idmap" if mount.uid_mappings or mount.gid_mappings else "")
        if kind and options.bind:
            operations[mount.destination] = _mapped(mount, options, spec, deep=kind == "ridmap")
    return operations


def _mapped(
    mount: OCIMount, options: mountoptions.MountOptions, spec: RuntimeSpec, *, deep: bool
) -> Operation:
    uids = mount.uid_mappings or spec.linux.uid_mappings
    gids = mount.gid_mappings or spec.linux.gid_mappings
    if not uids or not gids:
        raise InvalidBundle(f"the id-mapped mount {mount.destination} has no mappings")
    namespace = _user_namespace(uids, gids)
    tree = mnt.clone_tree(mount.source, bool(options.flags & mnt.MS_REC))
    try:
        mnt.set_attributes(tree, add=mnt.MOUNT_ATTR_IDMAP, recursive=deep, userns_fd=namespace)
    except BaseException:
        os.close(tree)
        raise
    finally:
        os.close(namespace)
    add, clear = options.add | options.deep_add, options.clear | options.deep_clear
    attributes_deep = bool(options.deep_add or options.deep_clear)
    return ["idmapped-bind", tree, mount.destination, add, clear, options.spread, attributes_deep]


def _user_namespace(uids: list[IDMapping], gids: list[IDMapping]) -> int:
    """A descriptor of a new user namespace with these maps; its process ends at once."""
    ready, release = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = proc.clone3(proc.CLONE_NEWUSER)
    if pid == 0:
        os.close(release)
        os.read(ready, 1)
        os._exit(0)
    try:
        for file, mappings in (("uid_map", uids), ("gid_map", gids)):
            text = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
            with open(f"/proc/{pid}/{file}", "w") as target:
                target.write(text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(release)
        os.close(ready)
        os.waitpid(pid, 0)
        os.close(pidfd)
