"""Inside the new process: carry out a program of operations, the last of which is execve.

The planner (planner.py) decides; this module only does. Each operation is a list whose first item names a
function in ``OPERATIONS``; the order is the planner's. Standard library only, single-threaded, run between
clone3 and execve in a process of about 6 MB. Nothing here may import or look up a codec lazily: after
pivot_root the interpreter's own files are out of reach (UTF-8 is built in, ASCII is not).

A failing operation raises SandboxError with the exit code that the engine reports (126, 127, or 125 for
everything that is not the command's own fault).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import errno
import fcntl
import marshal
import os
import resource
import stat
import struct
import termios

from sampan.kernel import mount as mnt
from sampan.kernel import process as proc
from sampan.kernel.cgroup import steps as cgroup
from sampan.kernel.paths import make_directories, make_file, open_in_root
from sampan.kernel.syscalls import check, libc
from sampan.runtime import interfaces
from sampan.runtime.accounts import resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module is 1.6 MB of heap that every fork would carry page tables for
    from collections.abc import Callable
    from typing import Any

    Operation = list[Any]
else:
    Operation = list

_ioctl = fcntl.ioctl
_NULL = os.makedev(1, 3)
_PROC_FILES = tuple(
    "/proc/" + name
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)
"""What LXCFS and its like replace to show a container its limits instead of the host."""
# ioctl_tty(2); the termios module has neither
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_CHANGED_SIGNALS = (
    _signal.SIGPIPE,
    _signal.SIGXFSZ,
    _signal.SIGCHLD,
    _signal.SIGINT,
    _signal.SIGHUP,
    _signal.SIGTERM,
)
"""What the interpreter and the spawner ignore or handle, and execve would hand on as ignored."""


class SandboxError(Exception):
    """What went wrong and the exit code that stands for it."""

    def __init__(self, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class Sandbox:
    """What the operations share while the process takes shape."""

    def __init__(self, sync: _socket.socket) -> None:
        self.sync = sync
        """To the monitor: fds and readiness out, permission to go on in."""
        self.root_fd = -1
        """The new root before pivot_root, "/" after it."""
        self.root_path = "/"
        self.user: dict[str, Any] = {}
        self.null_fd = -1
        self.empty_fd = -1
        """The first masked directory: a read-only tmpfs without anything."""
        self.proc_device = -1
        """st_dev of the container's own procfs."""
        self.slave_fd = -1

    def run(self, operations: list[Operation]) -> None:
        """Do them all. Returns only if none of them is an exec. Raises SandboxError."""
        for operation in operations:
            try:
                OPERATIONS[operation[0]](self, *operation[1:])
            except OSError as error:
                raise SandboxError(explain(operation, error)) from error


def explain(operation: Operation, error: OSError) -> str:
    """One line for a person: what was tried on what, and the kernel's reason."""
    reason = (error.strerror or str(error)).lower()
    name = operation[0]
    if name in ("mount", "bind"):
        source, target = operation[1] or operation[3], operation[2]
        return f'error mounting "{source}" to rootfs at "{target}": {reason}'
    if name == "sysctl":
        return f"open sysctl {operation[1].replace('.', '/')} file: {reason}"
    detail = " ".join(str(part) for part in operation[1:3] if not isinstance(part, (dict, list)))
    about = f" ({error.filename})" if error.filename else ""
    return f"{name} {detail}{about}: {reason}"


# --- namespaces and groups -------------------------------------------------------------------------------


def enter_namespace(path: str, kind: int) -> None:
    """Enter the namespace of a file such as /proc/<pid>/ns/net."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        proc.setns(fd, kind)
    finally:
        os.close(fd)


def join(_: Sandbox, path: str, kind: int) -> None:
    enter_namespace(path, kind)


def join_process(_: Sandbox, pid: int, kinds: list[list[Any]]) -> None:
    """Enter the namespaces of a process, those that are not ours already. All are opened first: behind the
    mount namespace there is another /proc. A pidfd would not do, since our own pid namespace is the
    process's already and counts it differently."""
    entered = []
    for name, kind in kinds:
        path = f"/proc/{pid}/ns/{name}"
        if os.readlink(path) != os.readlink(f"/proc/self/ns/{name}"):
            entered.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind))
    for fd, kind in entered:
        proc.setns(fd, kind)
        os.close(fd)


def create_cgroup(_: Sandbox, steps: list[list[str]]) -> None:
    cgroup.create(steps)


def enter_cgroup(_: Sandbox, files: list[str], missing_ok: bool = False) -> None:
    cgroup.enter(files, missing_ok=missing_ok)


def unshare(_: Sandbox, flags: int) -> None:
    proc.unshare(flags)


def await_monitor(sandbox: Sandbox, what: str) -> None:
    """Wait until the monitor has done its half (id maps written, links made)."""
    if sandbox.sync.recv(16) != what.encode():
        os._exit(1)  # the monitor is gone; nobody is left to tell


def become_root(_: Sandbox) -> None:
    """Root of the new user namespace, whose maps are in force now."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def session(_: Sandbox) -> None:
    os.setsid()


def keyring(_: Sandbox, name: str) -> None:
    proc.join_new_session_keyring(name)


# --- the root and its mounts ------------------------------------------------------------------------------


def propagation(_: Sandbox, flags: int) -> None:
    mnt.mount("", "/", "", flags)


def overlay(sandbox: Sandbox, lower: list[str], upper: str, work: str, options: str, target: str) -> None:
    """The container's root, mounted over ``target`` in this mount namespace only."""
    data = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work}{options}"
    descriptors = []
    if len(data) >= 4000 or any(c in path for path in lower for c in ":,\\"):
        # mount(2) takes one page of options: name the directories by descriptor
        descriptors = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lower]
        names = ":".join(f"/proc/self/fd/{fd}" for fd in descriptors)
        data = f"lowerdir={names},upperdir={upper},workdir={work}{options}"
    mnt.mount("overlay", target, "overlay", 0, data)
    for fd in descriptors:
        os.close(fd)
    sandbox.root_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sandbox.root_path = target


def bind_root(sandbox: Sandbox, path: str, flags: int) -> None:
    """A plain directory as the root: bound to itself, since pivot_root wants a mount point."""
    mnt.mount(path, path, "", mnt.MS_BIND | mnt.MS_REC)
    if flags:
        mnt.mount("", path, "", flags)
    sandbox.root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sandbox.root_path = path


def mount(
    sandbox: Sandbox, source: str, target: str, fstype: str, flags: int, data: str = "", spread: int = 0
) -> None:
    """A new file system at ``target`` inside the root; ``spread`` is a propagation flag to set after."""
    fd = make_directories(sandbox.root_fd, target)
    try:
        _keep_out_of_proc(sandbox, fd, target)
        mnt.mount_at(source, fd, fstype, flags, data)
    finally:
        os.close(fd)
    if spread or fstype == "proc":
        fd = open_in_root(sandbox.root_fd, target)
        if fstype == "proc":
            sandbox.proc_device = os.fstat(fd).st_dev
        if spread:
            mnt.mount_at("", fd, "", spread)
        os.close(fd)


def _keep_out_of_proc(sandbox: Sandbox, target_fd: int, target: str) -> None:
    """Nothing may be mounted over parts of the container's /proc, whatever links lead there: what is written
    to /proc/self would not reach the kernel, and masks would hide the wrong files (CVE-2019-16884)."""
    if os.fstat(target_fd).st_dev == sandbox.proc_device and target not in _PROC_FILES:
        raise SandboxError(f'"{target}" cannot be mounted because it is inside /proc')


def bind(
    sandbox: Sandbox,
    source: str,
    target: str,
    recursive: bool = True,
    add: int = 0,
    clear: int = 0,
    spread: int = 0,
    deep: bool = False,
    namespace: str = "",
    source_fd: int = -1,
) -> None:
    """``source`` of the host at ``target`` inside the root. ``deep``: attributes on submounts as well.

    ``namespace`` is a mount namespace file: the source is looked up there, as for another container's
    /dev/shm, which exists nowhere else.
    """
    tree = _clone_from(namespace, source, recursive) if namespace else mnt.clone_tree(source, recursive)
    try:
        if stat.S_ISDIR(os.stat(tree).st_mode):
            fd = make_directories(sandbox.root_fd, target)
        else:
            fd = make_file(sandbox.root_fd, target)
        try:
            _keep_out_of_proc(sandbox, fd, target)
            mnt.attach(tree, fd)
        finally:
            os.close(fd)
        if add or clear or spread:
            # after attaching: a detached tree may be changed too, but its propagation would be reset
            mnt.set_attributes(tree, add=add, clear=clear, propagation=0, recursive=deep)
            if spread:
                mnt.set_attributes(
                    tree, propagation=spread & ~mnt.MS_REC, recursive=bool(spread & mnt.MS_REC)
                )
    finally:
        os.close(tree)


def _clone_from(namespace: str, source: str, recursive: bool) -> int:
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        proc.setns(other, proc.CLONE_NEWNS)
        tree = mnt.clone_tree(source, recursive)
        proc.setns(own, proc.CLONE_NEWNS)
        os.fchdir(here)
        return tree
    finally:
        for fd in (own, other, here):
            os.close(fd)


def directory(sandbox: Sandbox, path: str, mode: int) -> None:
    os.close(make_directories(sandbox.root_fd, path, mode))


def devices(sandbox: Sandbox, nodes: list[list[Any]]) -> None:
    """mknod for each (path, mode, major, minor, uid, gid); where the kernel refuses it (user namespaces)
    the host's node is bound instead."""
    with _Parents(sandbox) as parents:
        for path, mode, major, minor, uid, gid in nodes:
            parent, name = parents.of(path)
            try:
                os.mknod(name, mode, os.makedev(major, minor), dir_fd=parent)
                if uid or gid:
                    os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                continue
            except PermissionError:
                bind(sandbox, path, path)


def symlinks(sandbox: Sandbox, links: list[list[str]]) -> None:
    """(target, path) each; what the image has in its place stays."""
    with _Parents(sandbox) as parents:
        for target, path in links:
            parent, name = parents.of(path)
            try:
                os.symlink(target, name, dir_fd=parent)
            except FileExistsError:
                continue


class _Parents:
    """Open directories of paths in the root, made when missing; neighbours share one look-up."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._root_fd = sandbox.root_fd
        self._open: dict[str, int] = {}

    def of(self, path: str) -> tuple[int, str]:
        head, _, name = path.rpartition("/")
        if head not in self._open:
            self._open[head] = make_directories(self._root_fd, head or "/")
        return self._open[head], name

    def __enter__(self) -> _Parents:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)


def cgroup_views(
    sandbox: Sandbox, target: str, binds: list[list[str]], links: list[list[str]], add: int
) -> None:
    """cgroup v1: the container's group of each hierarchy below the fresh tmpfs at ``target``, where no
    link can mislead; then the tmpfs itself gets the attributes (read-only, as a rule)."""
    directory = open_in_root(sandbox.root_fd, target, os.O_PATH | os.O_DIRECTORY)
    try:
        for source, name in binds:
            os.mkdir(name, 0o755, dir_fd=directory)
            tree = mnt.clone_tree(source, False)
            mnt.set_attributes(tree, add=add)
            mnt.attach(tree, directory, name)
            os.close(tree)
        for link, name in links:
            os.symlink(link, name, dir_fd=directory)
        mnt.set_attributes(directory, add=add & mnt.MOUNT_ATTR_RDONLY)
    finally:
        os.close(directory)


def mask(sandbox: Sandbox, path: str) -> None:
    """Hide a file behind /dev/null and a directory behind an empty read-only tmpfs; a path that is not
    there needs no hiding."""
    try:
        fd = open_in_root(sandbox.root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if stat.S_ISDIR(os.stat(fd).st_mode):
            _hide_directory(sandbox, fd, path)
            return
        if sandbox.null_fd < 0:
            # the host's: what an image or a volume has at /dev/null may be anything (CVE-2025-31133)
            sandbox.null_fd = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            if os.fstat(sandbox.null_fd).st_rdev != _NULL:
                raise SandboxError("/dev/null of the host is not the null device")
        tree = mnt.clone_tree("", False, sandbox.null_fd)
        mnt.attach(tree, fd)
        os.close(tree)
    finally:
        os.close(fd)


def _hide_directory(sandbox: Sandbox, fd: int, path: str) -> None:
    """One empty file system serves all: making and ending one takes longer than cloning its mount."""
    if sandbox.empty_fd < 0:
        mnt.mount_at("tmpfs", fd, "tmpfs", mnt.MS_RDONLY, "size=0k,nr_inodes=2")
        sandbox.empty_fd = open_in_root(sandbox.root_fd, path)
        return
    tree = mnt.clone_tree("", False, sandbox.empty_fd)
    mnt.attach(tree, fd)
    os.close(tree)


def read_only(sandbox: Sandbox, path: str) -> None:
    """A path bound to itself, read-only; other attributes of its mount are kept."""
    try:
        fd = open_in_root(sandbox.root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        tree = mnt.clone_tree("", True, fd)
        mnt.set_attributes(tree, add=mnt.MOUNT_ATTR_RDONLY)
        mnt.attach(tree, fd)
        os.close(tree)
    finally:
        os.close(fd)


def console(sandbox: Sandbox, height: int, width: int) -> None:
    """A terminal of the container's own devpts: the master goes to the monitor, the slave becomes
    /dev/console (console_setup in the OCI runtime specification's linux part)."""
    master = open_in_root(sandbox.root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    number = _unlock(master)
    if height and width:
        _ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    slave_path = f"/dev/pts/{number}"
    slave = open_in_root(sandbox.root_fd, slave_path, os.O_RDWR | os.O_NOCTTY)
    target = make_file(sandbox.root_fd, "/dev/console")
    path_fd = open_in_root(sandbox.root_fd, slave_path)
    tree = mnt.clone_tree("", False, path_fd)
    mnt.attach(tree, target)
    for fd in (tree, path_fd, target):
        os.close(fd)
    sandbox.slave_fd = slave
    _send_terminal(sandbox, master)
    os.close(master)


def terminal(sandbox: Sandbox, height: int, width: int) -> None:
    """A terminal for one more process, from inside the container's mount namespace."""
    try:
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    number = _unlock(master)
    if height and width:
        _ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    sandbox.slave_fd = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    _send_terminal(sandbox, master)
    os.close(master)


def _send_terminal(sandbox: Sandbox, master: int) -> None:
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))
    sandbox.sync.sendmsg([b"tty"], [rights])


def _unlock(master: int) -> int:
    _ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    number: int = struct.unpack("I", _ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
    return number


def pivot(sandbox: Sandbox, read_only_root: bool = False, spread: int = 0) -> None:
    """Make the new root "/" and let go of the old one (pivot_root(2), the "." "." way)."""
    os.fchdir(sandbox.root_fd)
    mnt.pivot_root(".", ".")
    # nothing in the old tree is shared (the planner sees to that), so this never reaches the host
    mnt.unmount(".", mnt.MNT_DETACH)
    os.chdir("/")
    # nothing of theirs for a working directory such as /proc/self/fd/5
    for fd in (sandbox.root_fd, sandbox.empty_fd, sandbox.null_fd):
        if fd >= 0:
            os.close(fd)
    sandbox.empty_fd = sandbox.null_fd = -1
    sandbox.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sandbox.root_path = "/"
    if spread:
        mnt.mount("", "/", "", spread)
    if read_only_root:
        mnt.set_attributes(sandbox.root_fd, add=mnt.MOUNT_ATTR_RDONLY)


# --- what the process sees of itself ----------------------------------------------------------------------


def hostname(_: Sandbox, name: str) -> None:
    check(libc.sethostname(name.encode(), len(name.encode())), "sethostname")


def domainname(_: Sandbox, name: str) -> None:
    check(libc.setdomainname(name.encode(), len(name.encode())), "setdomainname")


def sysctl(_: Sandbox, key: str, value: str) -> None:
    """Written through /proc/sys, whose own dots (net.ipv4.conf.eth0/1) are slashes in the key."""
    path = key.replace(".", "/") if "/" not in key else key.translate(str.maketrans("./", "/."))
    cgroup.write(f"/proc/sys/{path}", value)


def rlimit(_: Sandbox, kind: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(kind, (soft, hard))
    except ValueError as error:  # what Python makes of EPERM and EINVAL
        raise SandboxError(f"error setting rlimit type {kind}: operation not permitted") from error


def oom_score(_: Sandbox, value: int) -> None:
    # utf-8 is built in; any other codec would be imported, from a root that is no longer the host's
    cgroup.write("/proc/self/oom_score_adj", str(value))


def apparmor(_: Sandbox, profile: str) -> None:
    """The profile that execve switches to (aa_change_onexec)."""
    fd = os.open("/proc/self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC)
    try:
        if mnt.file_system_type(fd) != mnt.PROC_SUPER_MAGIC:
            raise SandboxError("the container's /proc is not of type proc: its profile cannot be set")
        os.write(fd, f"exec {profile}".encode())
    finally:
        os.close(fd)


# --- the process itself -----------------------------------------------------------------------------------


def user(
    sandbox: Sandbox, name: str | None, extra_groups: list[str], uid: int, gid: int, groups: list[int]
) -> None:
    """Who the process will be: a name of the container's own accounts, or numbers as given."""
    try:
        sandbox.user = resolve_user(name, extra_groups, uid, gid, groups)
    except LookupError as error:
        raise SandboxError(str(error), 126) from error
    give_streams(sandbox)


def give_streams(sandbox: Sandbox, gid: int = -1) -> None:
    """Let the user open its own /dev/stdout again; /dev/null stays root's."""
    uid = sandbox.user["uid"]
    for fd in (0, 1, 2) if sandbox.slave_fd < 0 else (sandbox.slave_fd,):
        try:
            status = os.fstat(fd)
            if status.st_uid != uid and status.st_rdev != _NULL:
                os.fchown(fd, uid, gid)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF):
                raise


def credentials(sandbox: Sandbox, caps: dict[str, int], last_cap: int, secure: bool, bpf: bytes) -> None:
    """Become that user with exactly these capabilities and the seccomp filter.

    ``secure``: no_new_privs is set, so the filter may be loaded last, when nothing more needs a call that
    it forbids; without it loading needs CAP_SYS_ADMIN, so it comes before the capabilities go.
    """
    if bpf and not secure:
        proc.load_seccomp(bpf)
    who = sandbox.user
    if caps:
        proc.drop_bounding(caps["bounding"], last_cap)
        proc.set_keep_capabilities(True)
    os.setgroups(who["groups"])
    os.setresgid(who["gid"], who["gid"], who["gid"])
    os.setresuid(who["uid"], who["uid"], who["uid"])
    if caps:
        proc.set_keep_capabilities(False)
        proc.set_capabilities(caps["effective"], caps["permitted"], caps["inheritable"])
        if caps["ambient"]:
            proc.set_ambient(caps["ambient"])
    if secure:
        proc.set_no_new_privileges()
        if bpf:
            proc.load_seccomp(bpf)


def working_directory(sandbox: Sandbox, path: str) -> None:
    """chdir, made when missing, as Docker makes an image's WORKDIR."""
    try:
        os.chdir(path)
    except FileNotFoundError:
        if sandbox.root_fd < 0:
            return  # one more process of a container: execute says that the directory is not there
        os.close(make_directories(sandbox.root_fd, path))
        os.chdir(path)
    except PermissionError:
        # the directory may be open to the user only; tried again when we are that user
        return


def execute(
    sandbox: Sandbox,
    arguments: list[str],
    environment: list[str],
    cwd: str,
    umask: int,
    guarded: bool = True,
    first_closed: int = 3,
) -> None:
    """Replace this process. Raises SandboxError 127 when the command is not there, 126 when it cannot run.

    ``guarded``: it dies with its parent, the monitor.
    """
    if sandbox.slave_fd >= 0:
        for number in (0, 1, 2):
            os.dup2(sandbox.slave_fd, number)
        _ioctl(0, termios.TIOCSCTTY, 0)
    for number in _CHANGED_SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    os.umask(umask)
    try:
        if os.getcwd() != cwd:
            os.chdir(cwd)
            os.getcwd()  # fails when a magic link led out of the root (CVE-2024-21626)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise SandboxError(f'chdir to cwd ("{cwd}") set in config.json failed: {reason}', 126) from error
    if not any(entry.startswith("HOME=") for entry in environment):
        environment = [*environment, f"HOME={sandbox.user['home']}"]
    if guarded:
        proc.set_parent_death_signal(_signal.SIGKILL)
    proc.close_on_exec_from(first_closed)
    pairs = dict(entry.partition("=")[::2] for entry in environment if "=" in entry)
    _exec_first(arguments, pairs, [entry for entry in environment if "=" in entry])


def _exec_first(arguments: list[str], pairs: dict[str, str], environment: list[str]) -> None:
    command = arguments[0]
    environ = {os.fsencode(k): os.fsencode(v) for k, v in pairs.items()}
    argv = [os.fsencode(argument) for argument in arguments]
    denied = False
    for candidate in candidates(command, pairs.get("PATH", "")):
        try:
            os.execve(os.fsencode(candidate), argv, environ)  # noqa: S606 - it is what we are for
        except OSError as error:
            if "/" in command:
                raise _not_run(command, error) from error
            if error.errno == errno.EACCES:
                denied = denied or os.path.exists(candidate)
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise _not_run(candidate, error) from error
    if denied:
        raise SandboxError(f'exec: "{command}": permission denied', 126)
    raise SandboxError(f'exec: "{command}": executable file not found in $PATH', 127)


def candidates(command: str, path: str) -> list[str]:
    if "/" in command:
        return [command]
    return [f"{entry or '.'}/{command}" for entry in path.split(":")]


def _not_run(command: str, error: OSError) -> SandboxError:
    reason = (error.strerror or "").lower()
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(command):
        return SandboxError(f'exec: "{command}": stat {command}: {reason}', 127)
    if error.errno == errno.ENOENT:
        # the file is there: its interpreter is not
        return SandboxError(f"exec {command}: {reason}", 127)
    if error.errno in (errno.EACCES, errno.EISDIR):
        text = "is a directory" if os.path.isdir(command) else reason
        return SandboxError(f'exec: "{command}": {text}', 126)
    return SandboxError(f"exec {command}: {reason}", 126)


OPERATIONS: dict[str, Callable[..., None]] = {
    "join": join,
    "join-process": join_process,
    "create-cgroup": create_cgroup,
    "enter-cgroup": enter_cgroup,
    "unshare": unshare,
    "await": await_monitor,
    "become-root": become_root,
    "session": session,
    "keyring": keyring,
    "propagation": propagation,
    "overlay": overlay,
    "bind-root": bind_root,
    "mount": mount,
    "bind": bind,
    "directory": directory,
    "devices": devices,
    "symlinks": symlinks,
    "cgroup-views": cgroup_views,
    "mask": mask,
    "read-only": read_only,
    "console": console,
    "terminal": terminal,
    "pivot": pivot,
    "hostname": hostname,
    "domainname": domainname,
    "sysctl": sysctl,
    "loopback": interfaces.loopback,
    "links": interfaces.links,
    "rename": interfaces.rename,
    "resolver": interfaces.resolver,
    "network": interfaces.network,
    "rlimit": rlimit,
    "oom-score": oom_score,
    "apparmor": apparmor,
    "user": user,
    "credentials": credentials,
    "working-directory": working_directory,
    "execute": execute,
}


def become(sync_fd: int, stdio: tuple[int, ...], operations: memoryview, *, keep_fds: bool = False) -> None:
    """The life of the cloned process: standard streams, the program, execve. Never returns.

    ``operations`` is the marshalled list: decoded here, it takes no memory of the monitor.
    ``keep_fds``: some of the caller's other descriptors are for the process, or for its operations.
    What goes wrong is sent to the monitor as ``marshal((message, exit_code))`` after the byte ``E``.
    """
    sync = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, sync_fd)
    try:
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        if not keep_fds:
            # the monitor's sockets and its cgroup directory are not for /proc/self/fd paths of an image
            proc.close_from(3, sync_fd - 1)
            proc.close_from(sync_fd + 1)
        os.umask(0)  # nodes and directories get exactly their modes
        sandbox = Sandbox(sync)
        sandbox.run(marshal.loads(operations))  # noqa: S302 - from our own daemon
        failure = ("the program has no exec", 125)
    except SandboxError as error:
        failure = (error.message, error.exit_code)
    except BaseException as error:  # noqa: BLE001 - the last chance to say anything from this process
        failure = (f"{type(error).__name__}: {error}", 125)
    try:
        sync.send(b"E" + marshal.dumps(failure))
    except OSError:
        # created earlier, started now: nobody waits for the message but who reads standard error
        os.write(2, f"{failure[0]}\n".encode())
    finally:
        os._exit(failure[1])
