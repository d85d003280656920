"""The system calls a cell may make: an allow-list written from scratch, tighter than Docker's.

Four kinds of calls, each group with its reason:

    ALLOWED      what ordinary programs, compilers and language runtimes need
    CONDITIONAL  allowed with some arguments only
    ABSENT       answered ENOSYS, as by a kernel without them: callers fall back by themselves
    REFUSED      answered EPERM, on purpose; a list for the reader and the tests, because EPERM is
                 also the profile's default: what nobody thought of is refused too

A call that is newer than this page gets ENOSYS from runc, which answers so for every number above
the highest that a profile names, so that a newer C library falls back instead of failing. Between
that and the default lies ABSENT: whatever is known, refused, and has a fallback is named there.

Only the native architecture is listed, without sub-architectures: the 32-bit door (`int 0x80`) and
x32 would otherwise reach calls past the argument checks below. libseccomp kills who tries them.

Under gVisor its own kernel is the wall, and this profile a second one inside it, if runsc was
registered with `--oci-seccomp` (as `codecell setup --runtime runsc` does); else it is ignored.

One page, however long: who audits a filter must see all of it, and most of it is the table.
"""

import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from codecell.errors import ConfigurationError
from codecell.model import OUR_SECCOMP, Seccomp

ARCHITECTURES: Mapping[str, str] = {
    "x86_64": "SCMP_ARCH_X86_64",
    "amd64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "arm64": "SCMP_ARCH_AARCH64",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that share one reason."""

    why: str
    calls: str  # separated by spaces

    @property
    def names(self) -> tuple[str, ...]:
        """Return the calls one by one."""
        return tuple(self.calls.split())


@dataclass(frozen=True, slots=True)
class Check:
    """A condition on one argument: equal to `value`, or `argument & mask == value`.

    The kernel reads most of these arguments as 32 bits, the filter sees 64. Equality is therefore
    safe only because everything here *allows*: dirty upper bits fail to match and are refused.
    """

    argument: int
    value: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls allowed when every check holds; several rules for one call are alternatives."""

    why: str
    calls: str
    checks: tuple[Check, ...]


ALLOWED = (
    Group(
        "read, write and seek in files and pipes",
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek "
        "sendfile copy_file_range splice tee readahead fadvise64 ftruncate truncate fallocate "
        "fsync fdatasync sync_file_range",
    ),
    Group(
        "open, close and duplicate file descriptors",
        "open openat openat2 creat close close_range dup dup2 dup3 fcntl flock ioctl pipe pipe2",
    ),
    Group(
        "look at files and directories",
        "stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat "
        "getdents getdents64 getcwd chdir fchdir statfs fstatfs umask",
    ),
    Group(
        "change files and directories; the mounts and the uid decide which",
        "mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink symlinkat unlink "
        "unlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes "
        "futimesat utimensat",
    ),
    Group(
        "extended attributes (tar, cp -a and libraries ask for them)",
        "getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat "
        "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr "
        "removexattrat",
    ),
    Group(
        "watch files; the quotas are per uid, and every cell has its own",
        "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch",
    ),
    Group(
        "wait for descriptors",
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait "
        "epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime "
        "timerfd_gettime",
    ),
    Group(
        "map and manage one's own memory; protection keys are V8's, shadow stacks glibc's",
        "brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock "
        "munlockall pkey_alloc pkey_free pkey_mprotect mseal map_shadow_stack",
    ),
    Group(
        "anonymous files: charged to the cell's memory as /sandbox is, where files may be "
        "executed anyway",
        "memfd_create",
    ),
    Group(
        "start, replace, await and end processes and threads (clone: see CONDITIONAL)",
        "fork vfork execve execveat exit exit_group wait4 waitid set_tid_address gettid getpid "
        "getppid getpgid getpgrp setpgid getsid setsid arch_prctl prctl "
        "set_robust_list get_robust_list rseq membarrier restart_syscall",
    ),
    Group(
        "signals, also by pidfd (asyncio's child watcher); the pid namespace is the border",
        "kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo "
        "rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack pause "
        "pidfd_open pidfd_send_signal",
    ),
    Group("locks", "futex futex_waitv futex_wake futex_wait futex_requeue"),
    Group(
        "read clocks and sleep",
        "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer "
        "setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete times",
    ),
    Group(
        "ask for scheduling (changing it: see CONDITIONAL)",
        "sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_getattr "
        "sched_get_priority_min sched_get_priority_max sched_rr_get_interval getpriority "
        "ioprio_get getcpu",
    ),
    Group(
        "one's own limits, usage and facts about the machine",
        "getrlimit setrlimit getrusage sysinfo uname getrandom",
    ),
    Group(
        "ask for and set identities; without capabilities only to what one already is",
        "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid "
        "setregid setresuid setresgid setfsuid setfsgid setgroups capget capset",
    ),
    Group(
        "sockets once made (which may be made: see CONDITIONAL)",
        "bind listen accept accept4 connect shutdown getsockname getpeername getsockopt "
        "setsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg",
    ),
    Group(
        "System V IPC; the cell's IPC namespace is its own",
        "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl",
    ),
    Group(
        "sandbox oneself further: both can only take rights away (xz, man and file do)",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
)

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_FILE_TYPE = 0o170000
_SOCKET_TYPE = 0xF  # the rest of the argument is SOCK_CLOEXEC and SOCK_NONBLOCK
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM = 1, 2


def _internet_sockets() -> Iterator[Rule]:
    """Yield a rule for each kind of internet socket.

    Type and protocol count, not the family alone: SCTP, DCCP, MPTCP, SMC and L2TP hide behind
    AF_INET, and asking for one makes the *host's* kernel load its module.
    """
    kinds = (
        ("TCP", _STREAM, (0, 6)),
        ("UDP", _DATAGRAM, (0, 17)),
        ("ping without privileges", _DATAGRAM, (1, 58)),
    )
    for family in (_INET, _INET6):
        for name, kind, protocols in kinds:
            for protocol in protocols:
                yield Rule(
                    f"{name} on the cell's own loopback",
                    "socket",
                    (Check(0, family), Check(1, kind, _SOCKET_TYPE), Check(2, protocol)),
                )


_AGENT = 1  # its pid, in the only pid namespace that a cell's programs can be in
_PID_BITS = 22  # the kernel's largest PID_MAX_LIMIT


def _not_the_agent(calls: str, argument: int, *more: Check) -> Iterator[Rule]:
    """Yield rules that allow `calls` on every process but PID 1.

    For these calls the kernel asks for the same uid and nothing else, and the agent has the
    program's. `!= 1` would look at 64 bits where the kernel takes 32, so it is said in bits: a
    number is not 1 when its lowest bit is clear or another one is set.
    """
    why = "limits and scheduling of oneself and one's own, never of the agent"
    yield Rule(why, calls, (*more, Check(argument, 0, _AGENT)))
    for bit in range(1, _PID_BITS):
        yield Rule(why, calls, (*more, Check(argument, 1 << bit, 1 << bit)))


# Steering a process, by the argument that names it; the kernel asks for the same uid, nothing more.
_STEERING = "prlimit64 sched_setaffinity sched_setparam sched_setscheduler sched_setattr"
_PRIORITY = {"setpriority": 0, "ioprio_set": 1}  # PRIO_PROCESS, IOPRIO_WHO_PROCESS

SPARE_THE_AGENT = (
    *_not_the_agent(_STEERING, 0),
    # By user or group would reach the agent too.
    *(
        rule
        for call, process in _PRIORITY.items()
        for rule in _not_the_agent(call, 1, Check(0, process))
    ),
)
# Not under gVisor, which shows nobody what queues there are, so that none could be wiped.
QUEUES = Group(
    "POSIX message queues; they are files of the cell's own in /dev/mqueue",
    "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
)
# Where the agent has a uid of its own, the uid is the border and a short filter is worth more:
# gVisor refuses one of more than 4,096 instructions, and interprets it for every call.
AGENT_APART = (
    Group("steer processes of one's own uid, which is not the agent's", _STEERING),
    Group("the same by priority", " ".join(_PRIORITY)),
)

CONDITIONAL = (
    Rule(
        "processes and threads, but no new namespace: a user namespace hands out capabilities and "
        "with them most of the kernel's attack surface",
        "clone",
        (Check(0, 0, _NEW_NAMESPACES),),
    ),
    Rule("local sockets", "socket socketpair", (Check(0, _UNIX),)),
    *_internet_sockets(),
    Rule(
        "ask for one's own interfaces and routes (NETLINK_ROUTE): getifaddrs, so node's "
        "os.networkInterfaces(); netfilter, audit and the other protocols stay shut",
        "socket",
        (Check(0, _NETLINK), Check(2, 0)),
    ),
    *(
        Rule(
            f"make a {name}; no devices, and no whiteouts, which need no capability",
            call,
            (Check(argument, value, _FILE_TYPE),),
        )
        for call, argument in (("mknod", 1), ("mknodat", 2))
        for name, value in (
            ("fifo", 0o010000),
            ("socket", 0o140000),
            ("regular file", 0o100000),
            ("regular file (type 0)", 0),
        )
    ),
    *(
        Rule(
            "ask for the execution domain, or set a harmless one", "personality", (Check(0, value),)
        )
        for value in (
            0x0,  # PER_LINUX
            0x8,  # PER_LINUX32, as `setarch` sets it
            0x20000,  # UNAME26
            0x20008,
            0xFFFFFFFF,  # only ask
        )
    ),
)

ABSENT = (
    Group(
        "its flags lie behind a pointer, where no filter can see them; glibc falls back to clone",
        "clone3",
    ),
    Group(
        "an endless source of kernel holes, and its work is done outside every filter; libuv and "
        "others fall back to threads",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    Group(
        "old kernel AIO: its quota (fs.aio-max-nr) is one for the whole host, so a cell could "
        "starve others; only databases use it",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    Group(
        "NUMA policy: costs more in kernel holes than a cell of this size could gain; libnuma "
        "and OpenBLAS take ENOSYS as `no NUMA`",
        "get_mempolicy set_mempolicy set_mempolicy_home_node mbind migrate_pages move_pages",
    ),
    Group(
        "tells which pages of files are in the page cache, which cells of one image share",
        "cachestat",
    ),
    Group(
        "newer calls without users among ordinary programs",
        "process_madvise process_mrelease statmount listmount lsm_get_self_attr lsm_set_self_attr "
        "lsm_list_modules uretprobe open_tree_attr file_getattr file_setattr",
    ),
    Group(
        "obsolete; emulated by the kernel or gone", "remap_file_pages uselib ustat sysfs _sysctl"
    ),
)

REFUSED = (
    Group("namespaces are the walls themselves", "unshare setns"),
    Group(
        "mounts, old interface and new",
        "mount umount2 pivot_root chroot open_tree move_mount mount_setattr fsopen fsconfig "
        "fsmount fspick",
    ),
    Group(
        "reading, stopping or steering other processes: the agent shares the program's uid",
        "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd",
    ),
    Group(
        "programs inside the kernel, and counters that are side channels",
        "bpf perf_event_open lookup_dcookie",
    ),
    Group(
        "keyrings are not namespaced: their names and quotas are the host's",
        "keyctl add_key request_key",
    ),
    Group(
        "opening files by handle walks out of a mount; one half makes the handles",
        "name_to_handle_at open_by_handle_at",
    ),
    Group("watching whole filesystems", "fanotify_init fanotify_mark"),
    Group(
        "building blocks of kernel exploits with no ordinary user: faults held open, memory hidden "
        "from the kernel, user pages in pipes, hand-made segments",
        "userfaultfd memfd_secret vmsplice modify_ldt",
    ),
    Group(
        "flush every filesystem of the host: one cell could stall all others' disks; sync() "
        "cannot report failure, so nothing notices",
        "sync syncfs",
    ),
    Group("the kernel itself", "kexec_load kexec_file_load init_module finit_module delete_module"),
    Group(
        "the host: its clock, name, log, swap, quotas, accounting, ports, power",
        "settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname syslog "
        "swapon swapoff quotactl quotactl_fd acct iopl ioperm vhangup reboot nfsservctl",
    ),
    Group("one call for many behind a pointer; only 32-bit programs have it", "socketcall"),
)

Action = Literal["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"]


def _entry(names: tuple[str, ...], action: Action, **more: object) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def _absent(group: Group, *, agent_apart: bool) -> dict[str, Any]:
    """Answer ENOSYS; runsc knows no number but EPERM, so there by asking a tracer that is not."""
    if agent_apart:
        return _entry(group.names, "SCMP_ACT_TRACE", comment=group.why)
    return _entry(group.names, "SCMP_ACT_ERRNO", errnoRet=errno.ENOSYS, comment=group.why)


def _argument(check: Check) -> dict[str, Any]:
    if check.mask is None:
        return {"index": check.argument, "value": check.value, "op": "SCMP_CMP_EQ"}
    return {
        "index": check.argument,
        "value": check.mask,
        "valueTwo": check.value,
        "op": "SCMP_CMP_MASKED_EQ",
    }


def profile(machine: str, chosen: Seccomp = OUR_SECCOMP, *, agent_apart: bool = False) -> str:
    """Return a profile as JSON, the value of Docker's `seccomp=` security option.

    Args:
        machine: the engine's architecture as its `/info` names it.
        chosen: one of ours by name, or an operator's own text.
        agent_apart: the agent has a uid that the program has not, as under gVisor.

    Raises:
        ConfigurationError: an architecture that ours was not written for.
    """
    return chosen.profile or _ours(
        machine, sockets=chosen.name != "no-sockets", agent_apart=agent_apart
    )


@cache
def _ours(machine: str, *, sockets: bool, agent_apart: bool) -> str:
    """Return the profile as JSON, the value of Docker's `seccomp=` security option.

    Args:
        machine: the engine's architecture as its `/info` names it; where the checks above would
            look at the wrong argument or leave a sub-architecture open, there is no profile.
        agent_apart: the agent has a uid that the program has not, as under gVisor.

    Raises:
        ConfigurationError: an architecture that this profile was not written for.
    """
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise ConfigurationError(
            f"no seccomp profile for a {machine!r} engine; there is one for {known}"
        )
    allowed = (*ALLOWED, *AGENT_APART) if agent_apart else (*ALLOWED, QUEUES)
    conditional = CONDITIONAL if agent_apart else (*SPARE_THE_AGENT, *CONDITIONAL)
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.EPERM,
            "architectures": [architecture],
            "syscalls": [
                *(_entry(group.names, "SCMP_ACT_ALLOW", comment=group.why) for group in allowed),
                *(
                    _entry(
                        tuple(rule.calls.split()),
                        "SCMP_ACT_ALLOW",
                        args=[_argument(check) for check in rule.checks],
                        comment=rule.why,
                    )
                    for rule in conditional
                    if sockets or rule.calls != "socket"
                ),
                *(_absent(group, agent_apart=agent_apart) for group in ABSENT),
            ],
        }
    )
