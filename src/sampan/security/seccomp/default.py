"""Docker's default profile as data of our own: what it allows to whom, grouped by subject.

Everything not named here answers EPERM, or ENOSYS when it is newer than the newest call named.
Behaviour equals github.com/moby/profiles/seccomp v0.1 and later; kernel versions are those of seccomp(2)
callers in containers, not of this host.
"""

from __future__ import annotations

from sampan.model.oci import SyscallArg

from .profile import Condition, ConditionalRule, Profile, SubArchitectures

ALLOW = "SCMP_ACT_ALLOW"
ERRNO = "SCMP_ACT_ERRNO"
EPERM, ENOSYS = 1, 38

FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd
getdents getdents64 ioctl lchown lchown32 link linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat
name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
read readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64 splice stat
stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask
unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev listmount statmount cachestat
"""
ATTRIBUTES = """
fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
"""
WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64
pselect6 pselect6_time64 select signalfd signalfd4
"""
MEMORY = """
brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
remap_file_pages
"""
PROCESSES = """
execve execveat exit exit_group fork vfork kill tkill tgkill pidfd_open pidfd_send_signal wait4 waitid waitpid
pause prctl getpgid getpgrp getpid getppid getsid gettid setpgid setsid set_tid_address get_thread_area
set_thread_area get_robust_list set_robust_list rseq restart_syscall getcpu getpriority setpriority getrlimit
ugetrlimit setrlimit prlimit64 getrusage times ioprio_get ioprio_set sched_getaffinity sched_getattr
sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
riscv_hwprobe uretprobe
"""
IDENTITY = """
capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid
setuid32
"""
SIGNALS = """
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn
"""
TIME = """
adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
BETWEEN_PROCESSES = """
futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""
SYSTEM = """
getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp sysinfo uname
"""

TRACING = "process_vm_readv process_vm_writev ptrace"
"""Without a capability only from kernel 4.8 on, where ptrace no longer leads around the filter."""

BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": (
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr"
        " lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open"
        " quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"
    ),
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

BY_ARCHITECTURE = {
    ("ppc64le",): "sync_file_range2 swapcontext",
    ("arm", "arm64"): ("arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    ("amd64", "x32"): "arch_prctl",
    ("amd64", "x32", "x86"): "modify_ldt",
    ("s390", "s390x"): "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ("riscv64",): "riscv_flush_icache",
}

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26, both, and "tell me the current one" of personality(2)."""

SOCKET_FAMILIES = ((0, 32), (32, 4), (36, 2), (39, 1), (41, 1), (42, 2), (44, 4))
"""Blocks (first, how many) of the families up to AF_MAX without AF_ALG (38, the kernel's crypto interface)
and AF_VSOCK (40, the host behind a virtual machine).

Each becomes a mask over all 64 bits of the argument. The plain comparisons of Docker's profile ("greater than
40") let 2^32 + 38 pass, which socket(2), whose argument is an int, then takes for 38.
"""

NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: not without CAP_SYS_ADMIN."""

_MASKED_EQ = "SCMP_CMP_MASKED_EQ"
_S390 = ["s390", "s390x"]


def default_profile() -> Profile:
    """The profile before it is resolved for a machine, a kernel and a set of capabilities."""
    subjects = (
        FILES,
        ATTRIBUTES,
        WAITING,
        MEMORY,
        PROCESSES,
        IDENTITY,
        SIGNALS,
        TIME,
        SOCKETS,
        BETWEEN_PROCESSES,
        SYSTEM,
    )
    rules = [_allow(" ".join(subjects)), _allow(TRACING, includes=Condition(min_kernel="4.8"))]
    rules += [
        _allow("socket", SyscallArg(index=0, value=_block_mask(size), value_two=first, op=_MASKED_EQ))
        for first, size in SOCKET_FAMILIES
    ]
    rules += [
        _allow("personality", SyscallArg(index=0, value=value, op="SCMP_CMP_EQ")) for value in PERSONALITIES
    ]
    rules += [
        _allow(names, includes=Condition(arches=list(arches))) for arches, names in BY_ARCHITECTURE.items()
    ]
    rules += [
        _allow(names, includes=Condition(caps=[capability])) for capability, names in BY_CAPABILITY.items()
    ]
    unprivileged = Condition(caps=["CAP_SYS_ADMIN"])
    rules += [
        _allow("clone", _no_namespaces(0), excludes=Condition(caps=["CAP_SYS_ADMIN"], arches=_S390)),
        # s390's clone(2) has its arguments the other way round
        _allow("clone", _no_namespaces(1), includes=Condition(arches=_S390), excludes=unprivileged),
        # its flags are behind a pointer; libraries fall back to clone when it does not exist
        ConditionalRule(names=["clone3"], action=ERRNO, errno_ret=ENOSYS, excludes=unprivileged),
    ]
    return Profile(
        default_action=ERRNO,
        default_errno_ret=EPERM,
        arch_map=[
            SubArchitectures(
                architecture="SCMP_ARCH_X86_64", sub_architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"]
            ),
            SubArchitectures(architecture="SCMP_ARCH_AARCH64", sub_architectures=["SCMP_ARCH_ARM"]),
        ],
        syscalls=rules,
    )


def _allow(
    names: str,
    *args: SyscallArg,
    includes: Condition | None = None,
    excludes: Condition | None = None,
) -> ConditionalRule:
    return ConditionalRule(
        names=names.split(), action=ALLOW, args=list(args), includes=includes, excludes=excludes
    )


def _no_namespaces(index: int) -> SyscallArg:
    return SyscallArg(index=index, value=NAMESPACE_FLAGS, value_two=0, op=_MASKED_EQ)


def _block_mask(size: int) -> int:
    return (1 << 64) - size
