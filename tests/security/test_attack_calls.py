"""Every door that a program can knock at by itself, one case each: all but a few in one cell.

A cell is asked many questions in one run, each in a process of its own; each answer is a case. The
calls are tried with arguments that would do no harm if they got through: what tells a refusal by
the filter from any other is its error.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from codecell.app import open_runner
from codecell.model import Request, Status
from codecell.runner import Runner
from codecell.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Ask = Callable[[str, dict[str, str]], Awaitable[dict[str, str]]]

HARNESS = """
import ctypes, errno, json, os, signal, socket, stat, struct, fcntl, resource, mmap
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else "done"

def tried(action, *arguments, **named):
    try:
        action(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except ValueError:
        return "EINVAL"
    return "done"

def writes(path, data=b"1"):
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return errno.errorcode[error.errno]
    return tried(os.write, fd, data)

def reads(path):
    try:
        if os.path.isdir(path):
            return "".join(os.listdir(path)) and "something"
        with open(path, "rb", 0) as file:
            return file.read(64) and "something"
    except OSError as error:
        return errno.errorcode[error.errno]

def makes(family, kind, protocol=0):
    return tried(lambda: socket.socket(family, kind, protocol).close())

def apart(question):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        os.close(ours)
        answer = str(eval(question, globals()) or "nothing")
        os.write(theirs, answer.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return answer

answers = {}
for name, question in json.load(open(0)).items():
    answers[name] = apart(question)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
async def cell(engine: object, settings: Settings) -> AsyncIterator[Runner]:
    del engine
    async with open_runner(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def ask(cell: Runner) -> Ask:
    """Ask a whole group once, however many cases look at its answers."""
    known: dict[str, dict[str, str]] = {}

    async def asked(group: str, questions: dict[str, str]) -> dict[str, str]:
        if group not in known:
            outcome = await cell.execute(
                Request(language="python", code=HARNESS, stdin=json.dumps(questions), timeout_s=120)
            )
            assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
            known[group] = json.loads(outcome.stdout.text)
        return known[group]

    return asked


def host_facts() -> dict[str, str | None]:
    """What an escape would have changed on the host."""
    names = [
        *(f"sys/kernel/{name}" for name in ("hostname", "core_pattern", "panic", "sysrq")),
        *("sys/kernel/modprobe", "swaps", "sys/kernel/randomize_va_space", "sys/vm/panic_on_oom"),
    ]
    paths = {name: Path("/proc") / name for name in names}
    return {n: path.read_text("ascii") if path.exists() else None for n, path in paths.items()}


@pytest.fixture(scope="module", autouse=True)
async def host_is_as_before(cell: Runner) -> AsyncIterator[None]:
    before = host_facts()
    yield
    assert host_facts() == before
    outcome = await cell.execute(Request(language="python", code="print('still here')"))
    assert outcome.stdout.text == "still here\n"


# --- system calls, by their x86-64 numbers

# By number; the last line of them is obsolete and named by nobody: an allow-list's default.
REFUSED = {
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
    "open_tree": 428, "move_mount": 429, "mount_setattr": 442, "fsopen": 430, "fsconfig": 431,
    "fsmount": 432, "fspick": 433, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "pidfd_getfd": 438, "bpf": 321, "perf_event_open": 298, "lookup_dcookie": 212,
    "keyctl": 250, "add_key": 248, "request_key": 249, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "fanotify_init": 300, "fanotify_mark": 301, "userfaultfd": 323,
    "memfd_secret": 447, "vmsplice": 278, "modify_ldt": 154, "sync": 162, "syncfs": 306,
    "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313,
    "delete_module": 176, "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305,
    "adjtimex": 159, "sethostname": 170, "setdomainname": 171, "syslog": 103, "swapon": 167,
    "swapoff": 168, "quotactl": 179, "quotactl_fd": 443, "acct": 163, "iopl": 172, "ioperm": 173,
    "vhangup": 153, "reboot": 169, "nfsservctl": 180, "create_module": 174, "get_kernel_syms": 177,
    "query_module": 178, "getpmsg": 181, "putpmsg": 182, "afs_syscall": 183, "tuxcall": 184,
    "security": 185, "vserver": 236, "epoll_ctl_old": 214, "epoll_wait_old": 215,
}  # fmt: skip
ABSENT = {
    "clone3": 435, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "io_setup": 206, "io_destroy": 207, "io_submit": 209, "io_cancel": 210, "io_getevents": 208,
    "io_pgetevents": 333, "get_mempolicy": 239, "set_mempolicy": 238,
    "set_mempolicy_home_node": 450, "mbind": 237, "migrate_pages": 256, "move_pages": 279,
    "cachestat": 451, "process_madvise": 440, "process_mrelease": 448, "statmount": 457,
    "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461,
    "uretprobe": 335, "remap_file_pages": 216, "uselib": 134, "ustat": 136, "sysfs": 139,
    "_sysctl": 156,
}  # fmt: skip
CALLS = {name: f"call({number}, 0, 0, 0, 0, 0, 0)" for name, number in (REFUSED | ABSENT).items()}
FLAGS = {
    "NEWTIME": 0x80, "NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000,
    "NEWIPC": 0x8000000, "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000,
}  # fmt: skip
# NEWTIME has no bit of its own in clone's flags, where it is part of the exit signal.
CALLS |= {f"clone {n}": f"call(56, {bits | 17}, 0)" for n, bits in FLAGS.items() if n != "NEWTIME"}
CALLS |= {f"unshare {name}": f"call(272, {bits})" for name, bits in FLAGS.items()}
CALLS |= {f"x32 {name}": f"call({0x40000000 + REFUSED[name]}, 0)" for name in ("mount", "bpf")}
CALLS |= {f"number {number}": f"call({number}, 0)" for number in (463, 470, 500, 547, 1000, 4096)}
CALLS |= {
    "limits of PID 1": "call(302, 1, 7, 0, 0)",
    "limits of PID 1, in 64 bits": f"call(302, {2**32 + 1}, 7, 0, 0)",
    "priority of PID 1": "call(141, 0, 1, 19)",
    "priority of the user": "call(141, 2, 0, 19)",
    "io priority of PID 1": "call(251, 1, 1, 0)",
    "affinity of PID 1": "call(203, 1, 8, 0)",
    "scheduler of PID 1": "call(144, 1, 0, 0)",
    "persona without address randomisation": "call(135, 0x40000)",
    "persona that maps page zero": "call(135, 0x100000)",
    "writable hostname by personality": "call(135, 0x0020008 | 0x0400000)",
}


def expected(name: str) -> set[str]:
    if name == "uretprobe":
        return {"ENOSYS", "SIGILL"}  # newer kernels answer themselves, before any filter
    if name in ABSENT:
        return {"ENOSYS"}
    if name.startswith("x32"):
        return {"SIGSYS"}
    if name.startswith("number"):  # newer than the profile: runc says that there is no such call
        return {"ENOSYS", "EPERM"}
    return {"EPERM"}


@pytest.mark.requirement("seccomp:every-door")
@pytest.mark.parametrize("name", CALLS)
async def test_calling_a_forbidden_system_call_is_refused_by_the_filter(
    ask: Ask, name: str
) -> None:
    assert (await ask("calls", CALLS))[name] in expected(name)


# --- sockets

FAMILIES = {
    f"{family}": f"[makes({family}, kind) for kind in (1, 2, 3, 4, 5, 10)]"
    for family in range(47)
    if family not in {1, 2, 10, 16}
}
PROTOCOLS = {
    f"{family} {kind} {protocol}": f"makes({family}, {kind}, {protocol})"
    for family in (2, 10)
    for kind, protocol in (
        (1, 132), (1, 33), (1, 262), (1, 256), (2, 33), (2, 136), (3, 0), (3, 1), (3, 6), (3, 255),
        (5, 132), (5, 0), (6, 33), (2, 115), (10, 3),
    )
} | {f"netlink {protocol}": f"makes(16, 3, {protocol})" for protocol in range(1, 24)}  # fmt: skip
SOCKETS = {f"family {name}": question for name, question in FAMILIES.items()} | PROTOCOLS


@pytest.mark.requirement("seccomp:every-door")
@pytest.mark.parametrize("name", SOCKETS)
async def test_making_a_socket_of_another_kind_is_refused_by_the_filter(
    ask: Ask, name: str
) -> None:
    answer = (await ask("sockets", SOCKETS))[name]
    assert set(answer.strip("[]").replace("'", "").split(", ")) == {"EPERM"}


# --- files of the kernel's and the host's

WRITES = (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe", "/proc/sys/kernel/panic", "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max",
    "/proc/sys/vm/drop_caches", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom",
    "/proc/sys/vm/mmap_min_addr", "/proc/sys/fs/file-max", "/proc/sys/fs/protected_symlinks",
    "/proc/sys/fs/suid_dumpable", "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ping_group_range",
    "/proc/sys/user/max_user_namespaces", "/proc/irq/default_smp_affinity", "/proc/mtrr",
    "/proc/1/oom_score_adj", "/proc/1/oom_adj", "/proc/1/comm", "/proc/1/mem", "/proc/1/clear_refs",
    "/proc/1/coredump_filter", "/proc/1/autogroup", "/proc/1/uid_map", "/proc/1/gid_map",
    "/proc/1/setgroups", "/proc/1/timerslack_ns", "/proc/1/attr/current", "/proc/1/attr/exec",
    "/proc/1/loginuid", "/proc/1/projid_map", "/proc/self/uid_map", "/proc/self/gid_map",
    "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling", "/sys/power/state",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/memory/notify_on_release", "/sys/fs/cgroup/devices/devices.allow",
    "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs",
    "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cgroup.subtree_control",
    "/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
    "/etc/ld.so.preload", "/usr/bin/python3", "/lib/x86_64-linux-gnu/libc.so.6", "/dev/mem",
    "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm",
    "/dev/net/tun", "/dev/loop0", "/dev/loop-control", "/dev/mapper/control", "/dev/vsock",
    "/dev/vhost-net", "/dev/userfaultfd", "/dev/snapshot",
)  # fmt: skip
READS = (
    "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats",
    "/proc/acpi", "/proc/scsi", "/proc/asound", "/proc/interrupts", "/proc/softirqs",
    "/proc/cmdline", "/proc/config.gz", "/proc/diskstats", "/proc/kallsyms", "/proc/modules",
    "/proc/partitions", "/proc/swaps", "/proc/kmsg", "/proc/vmallocinfo", "/proc/slabinfo",
    "/proc/pagetypeinfo", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup",
    "/proc/1/mem", "/proc/1/maps", "/proc/1/environ", "/proc/1/fd", "/proc/1/root", "/proc/1/cwd",
    "/proc/1/exe", "/proc/1/map_files", "/proc/1/auxv", "/proc/1/stack", "/proc/1/syscall",
    "/proc/1/pagemap", "/proc/1/io", "/proc/1/fdinfo", "/proc/1/ns/mnt", "/proc/1/task/1/mem",
    "/proc/1/task/1/environ", "/sys/firmware", "/sys/firmware/dmi", "/sys/firmware/efi",
    "/sys/devices/virtual", "/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/kernel/btf",
    "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/slab", "/sys/kernel/tracing",
    "/sys/kernel/notes", "/sys/hypervisor", "/sys/module", "/sys/power", "/sys/devices/pci0000:00",
    "/sys/devices/platform", "/proc/sys/kernel/random/boot_id", "/var/run/docker.sock",
    "/run/docker.sock", "/run/containerd/containerd.sock", "/host", "/root", "/var/lib/docker",
    "/etc/shadow", "/etc/resolv.conf", "/run/secrets",
)  # fmt: skip
PATHS = {f"write {path}": f"writes({path!r})" for path in WRITES}
PATHS |= {f"read {path}": f"reads({path!r})" for path in READS}
HIDDEN = {"nothing", "EACCES", "EPERM", "ENOENT", "EIO", "EINVAL", "ENXIO", "ENOTDIR", "ESRCH"}


@pytest.mark.requirement("fs:every-path")
@pytest.mark.parametrize("path", WRITES)
async def test_writing_what_is_the_kernels_or_the_hosts_fails(ask: Ask, path: str) -> None:
    answer = (await ask("paths", PATHS))[f"write {path}"]
    assert answer in {"EACCES", "EPERM", "ENOENT", "EROFS", "ENXIO", "EBUSY", "ENOTDIR", "EISDIR"}


@pytest.mark.requirement("fs:every-path")
@pytest.mark.parametrize("path", READS)
async def test_reading_what_is_the_kernels_or_the_hosts_shows_nothing(ask: Ask, path: str) -> None:
    assert (await ask("paths", PATHS))[f"read {path}"] in HIDDEN


# --- special files, links and descriptors

FILES = {
    "block device": "tried(os.mknod, '/tmp/b', stat.S_IFBLK | 0o666, os.makedev(254, 0))",
    "memory device": "tried(os.mknod, '/tmp/m', stat.S_IFCHR | 0o666, os.makedev(1, 1))",
    "whiteout": "tried(os.mknod, '/sandbox/w', stat.S_IFCHR, os.makedev(0, 0))",
    "block device by mknodat": "call(259, -100, id(b'/tmp/x') + 32, 0o60666, 0xfe00)",
    "setuid kept by chown": "tried(os.chown, '/tmp', 0, 0)",
    "hard link to a system file": "tried(os.link, '/etc/passwd', '/tmp/passwd')",
    "hard link to a program": "tried(os.link, '/usr/bin/python3', '/sandbox/python3')",
    "rename over the root": "tried(os.rename, '/sandbox', '/other')",
    "remount by bind": "call(165, id(b'/proc') + 32, id(b'/tmp') + 32, 0, 4096, 0)",
    "chroot": "tried(os.chroot, '/sandbox')",
    "chroot and back": "tried(os.chroot, '/')",
    "terminal: push a character": "tried(fcntl.ioctl, 1, 0x5412, b'x')",
    "terminal: become the console": "tried(fcntl.ioctl, 1, 0x541D)",
    "terminal: take one": "tried(fcntl.ioctl, 1, 0x540E, 1)",
    "namespaces of PID 1": "tried(os.open, '/proc/1/ns/pid', os.O_RDONLY)",
    "stream of the agent": "tried(os.open, '/proc/1/fd/60', os.O_RDWR)",
    "output of the agent": "tried(os.open, '/proc/1/fd/61', os.O_WRONLY)",
    "more open files": "tried(resource.setrlimit, resource.RLIMIT_NOFILE, (4096, 4096))",
    "larger files": "tried(resource.setrlimit, resource.RLIMIT_FSIZE, (-1, -1))",
    "core dumps": "tried(resource.setrlimit, resource.RLIMIT_CORE, (-1, -1))",
    "locked memory": "tried(resource.setrlimit, resource.RLIMIT_MEMLOCK, (-1, -1))",
    "real-time priority": "tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(9))",
    "higher priority": "tried(os.setpriority, os.PRIO_PROCESS, 0, -20)",
    "idle I/O class of real time": "call(251, 1, 0, (1 << 13))",
    "less likely to be killed": "writes('/proc/self/oom_score_adj', b'-1000')",
    "root": "tried(os.setuid, 0)",
    "root's group": "tried(os.setgid, 0)",
    "the group docker": "tried(os.setgroups, [0, 999])",
    "a neighbour's uid": "tried(os.setresuid, 20000, 20000, 20000) "
    "if os.getuid() != 20000 else 'EPERM'",
    "undo no-new-privileges": "call(157, 38, 0, 0, 0, 0)",
    "load a filter that weakens": "call(317, 1, 0xFFFF, 0)",
    "securebits": "call(157, 28, 0x2F, 0, 0, 0)",
}
REFUSALS = {
    "EPERM", "EACCES", "EINVAL", "ENOTTY", "EROFS", "EXDEV", "ENOENT", "EBUSY", "ELOOP", "EFAULT"
}  # fmt: skip


@pytest.mark.requirement("priv:nothing-more")
@pytest.mark.parametrize("name", FILES)
async def test_taking_more_than_a_cell_gives_is_refused(ask: Ask, name: str) -> None:
    assert (await ask("files", FILES))[name] in REFUSALS
