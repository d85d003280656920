"""The probes that run in a cell: each tries a wall, and returns None where it held.

The server sends this file as a program (see codecell.attack). Probes are harmless: they look, open
without writing, or ask the kernel for what it must refuse; nothing leaves the machine. Each runs in
a process of its own. What it returns instead of None is what got through.

One file, however many probes: a cell gets it as the one program that it runs, without this package.
"""

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import stat
import sys
import time

PROBE_S = 4
DENIED = (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
PROBES = {}  # type: ignore[var-annotated]
X86 = platform.machine() == "x86_64"
AGENT = "/proc/1"


class NotApplicable(Exception):
    """A probe that says nothing here; its text says why."""


def probe(function):
    PROBES[function.__name__.replace("__", ".").replace("_", "-")] = function
    return function


def main(names, facts):
    answers = {name: isolated(PROBES[name], facts) for name in names}
    print(json.dumps(answers))


def isolated(function, facts):
    """Run a probe in a child; return [verdict, detail]."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(PROBE_S)
        os.write(writer, json.dumps(verdict(function, facts)).encode()[:60000])
        os._exit(0)
    os.close(writer)
    data = b"".join(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    if data:
        return json.loads(data)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGSYS, signal.SIGALRM):
        return ["held", "ended by " + signal.Signals(number).name]
    return ["broken", "the probe died: status %d" % status]


def verdict(function, facts):
    try:
        got = function(facts)
    except NotApplicable as error:
        return ["not applicable", str(error)]
    except OSError as error:
        return ["held", errno.errorcode.get(error.errno, str(error))]
    except BaseException as error:
        return ["broken", "the probe failed: %r" % error]
    return ["held", ""] if got is None else ["broken", str(got)[:500]]


def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 16).decode("utf-8", "replace")


def status_line(key):
    for line in read("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return line.partition(":")[2].strip()
    raise NotApplicable("the kernel does not tell " + key)


LIBC = ctypes.CDLL(None, use_errno=True)


def allowed(calls):
    """Make raw system calls; name those that the kernel did not refuse outright.

    An error about an argument means that the call was let through to the kernel's own code.
    """
    through = []
    for name, numbers, *args in calls:
        number = numbers[0 if X86 else 1]
        if number is None:
            continue
        ctypes.set_errno(0)
        result = LIBC.syscall(*[ctypes.c_long(value) for value in (number, *args)])
        code = ctypes.get_errno()
        if result != -1 or code not in DENIED:
            text = "allowed" if result != -1 else errno.errorcode.get(code, str(code))
            through.append("%s (%s)" % (name, text))
    return ", ".join(through) or None


# network


@probe
def net__interfaces(facts):
    names = [line.partition(":")[0].strip() for line in read("/proc/net/dev").splitlines()[2:]]
    return None if set(names) <= {"lo"} else names


@probe
def net__routes(facts):
    # Connecting a datagram socket looks a route up and sends nothing.
    found = []
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((address, 9))
            found.append(address)
        except OSError:
            pass
    return found or None


@probe
def net__metadata(facts):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("169.254.169.254", 80))
    return "there is a route to 169.254.169.254"


@probe
def net__listener(facts):
    reached = []
    for host, port in facts["listeners"]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(1)
            if sock.connect_ex((host, port)) == 0:
                reached.append("%s:%d" % (host, port))
    return reached or None


@probe
def net__abstract(facts):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect("\0" + facts["abstract"])
    return "the host's abstract socket answers"


@probe
def net__dns(facts):
    lines = read("/etc/resolv.conf").splitlines() if os.path.exists("/etc/resolv.conf") else []
    servers = [line.split()[1] for line in lines if line.startswith("nameserver")]
    return None if set(servers) <= {"127.0.0.1", "::1"} else servers


def sockets(*kinds):
    made = []
    for name, kind in kinds:
        try:
            socket.socket(*kind).close()
            made.append(name)
        except OSError:
            pass
    return made or None


@probe
def socket__raw(facts):
    return sockets(("raw", (2, 3, 1)), ("packet", (17, 3, 0)), ("packet cooked", (17, 2, 0)))


@probe
def socket__vsock(facts):
    return sockets(("vsock", (40, 1, 0)))


@probe
def socket__kernel_crypto(facts):
    return sockets(("alg", (38, 5, 0)))


@probe
def socket__rare(facts):
    return sockets(
        ("sctp", (2, 1, 132)), ("dccp", (2, 6, 33)), ("netfilter", (16, 3, 12)),
        ("audit", (16, 3, 9)), ("xdp", (44, 3, 0)), ("tipc", (30, 1, 0)), ("bluetooth", (31, 3, 1)),
    )  # fmt: skip


# privileges


@probe
def priv__root(facts):
    if 0 in os.getresuid() + os.getresgid():
        return "runs as root"
    for change in (os.setuid, os.setgid):
        try:
            change(0)
            return "became root"
        except OSError:
            pass
    return None


@probe
def priv__capabilities(facts):
    lines = [line.split() for line in read("/proc/self/status").splitlines()]
    sets = {line[0]: line[1] for line in lines if line and line[0].startswith("Cap")}
    if not sets:
        raise NotApplicable("the kernel does not tell")
    return {key: value for key, value in sets.items() if int(value, 16)} or None


@probe
def priv__no_new_privileges(facts):
    value = LIBC.prctl(39, 0, 0, 0, 0)
    return None if value == 1 else "no_new_privs is %d" % value


@probe
def priv__setuid_files(facts):
    found = []
    for folder in (*os.environ.get("PATH", "").split(":"), "/usr/lib", "/usr/libexec"):
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and mode & 0o6000:
                found.append(entry.path)
    return found or None


@probe
def seccomp__active(facts):
    value = status_line("Seccomp")
    return None if value == "2" else "Seccomp is " + value


# files


@probe
def fs__read_only_root(facts):
    written = []
    for folder in ("/", "/etc", "/usr/bin", "/usr/lib", "/var/tmp", "/opt", "/home", "/root"):
        try:
            fd = os.open(folder + "/codecell-probe", os.O_CREAT | os.O_WRONLY)
        except OSError:
            continue
        os.close(fd)
        os.unlink(folder + "/codecell-probe")
        written.append(folder)
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        written.append("/ is mounted for writing")
    return written or None


def openable(paths, mode):
    opened = []
    for path in paths:
        try:
            os.close(os.open(path, mode))
            opened.append(path)
        except OSError:
            pass
    return opened or None


@probe
def fs__kernel_settings(facts):
    paths = [
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
        "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/hostname", "/proc/1/oom_score_adj",
        "/sys/kernel/uevent_helper", "/sys/kernel/profiling", "/proc/irq/default_smp_affinity",
    ]  # fmt: skip
    limits = ("release_agent", "cgroup.procs", "memory.max", "memory.limit_in_bytes", "pids.max")
    for folder, _, names in os.walk("/sys/fs/cgroup"):
        paths += [os.path.join(folder, name) for name in names if name in limits]
        if len(paths) > 200:
            break
    return openable(paths, os.O_WRONLY)


@probe
def fs__masked(facts):
    told = []
    for path in (
        "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kallsyms",
        "/proc/cmdline", "/proc/modules", "/proc/interrupts", "/proc/diskstats", "/proc/partitions",
        "/proc/sys/kernel/random/boot_id", "/sys/kernel/notes",
    ):  # fmt: skip
        try:
            if read(path).strip():
                told.append(path)
        except OSError:
            pass
    for path in (
        "/sys/firmware",
        "/sys/module",
        "/sys/class",
        "/sys/devices/virtual",
        "/proc/scsi",
    ):
        try:
            if os.listdir(path):
                told.append(path)
        except OSError:
            pass
    return told or None


@probe
def fs__host_mounts(facts):
    kinds = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs")
    found = []
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        where = before.split()[4]
        if after.split()[0] not in kinds and where not in ("/", "/etc/hostname"):
            found.append(where)
    return found or None


@probe
def fs__mount_options(facts):
    wrong = []
    for path, wanted in (("/sandbox", os.ST_NOSUID | os.ST_NODEV),
                         ("/tmp", os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)):  # fmt: skip
        if os.statvfs(path).f_flag & wanted != wanted:
            wrong.append(path)
    return wrong or None


@probe
def fs__engine_socket(facts):
    paths = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
             "/run/podman/podman.sock", "/docker.sock")  # fmt: skip
    return [path for path in paths if os.path.lexists(path)] or None


@probe
def fs__devices(facts):
    usual = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
             "stderr", "stdin", "stdout", "tty", "urandom", "zero"}  # fmt: skip
    more = sorted(set(os.listdir("/dev")) - usual)
    for name, kind, number in (("mem", stat.S_IFCHR, (1, 1)), ("disk", stat.S_IFBLK, (8, 0))):
        path = "/sandbox/" + name
        try:
            os.mknod(path, kind | 0o600, os.makedev(*number))
            os.unlink(path)
            more.append("mknod " + name)
        except OSError:
            pass
    return more or None


@probe
def fs__server_files(facts):
    return openable(facts["files"], os.O_RDONLY)


# system calls


@probe
def call__namespaces(facts):
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    calls = [("unshare %#x" % flag, (272, 97), flag) for flag in flags]
    calls += [("setns", (308, 268), 0, 0), ("clone3", (435, 435), 0, 0)]
    return allowed(calls)


@probe
def call__tracing(facts):
    return allowed([
        ("ptrace attach", (101, 117), 16, 1, 0, 0),
        ("process_vm_readv", (310, 270), 1, 0, 0, 0, 0, 0),
        ("process_vm_writev", (311, 271), 1, 0, 0, 0, 0, 0), ("kcmp", (312, 272), 1, 1, 0, 0, 0),
        ("pidfd_getfd", (438, 438), 0, 0, 0), ("ptrace traceme", (101, 117), 0, 0, 0, 0),
    ])  # fmt: skip


@probe
def call__keyrings(facts):
    return allowed([
        ("keyctl", (250, 219), 0, -3, 0), ("add_key", (248, 217), 0, 0, 0, 0, 0),
        ("request_key", (249, 218), 0, 0, 0, 0),
    ])  # fmt: skip


@probe
def call__io_uring(facts):
    return allowed([("io_uring_setup", (425, 425), 8, 0), ("io_uring_enter", (426, 426), -1, 0)])


@probe
def call__kernel_programs(facts):
    return allowed([
        ("bpf", (321, 280), 0, 0, 0), ("perf_event_open", (298, 241), 0, 0, -1, -1, 0),
        ("userfaultfd", (323, 282), 0),
    ])  # fmt: skip


@probe
def call__mounts(facts):
    return allowed([
        ("mount", (165, 40), 0, 0, 0, 0, 0), ("umount2", (166, 39), 0, 0),
        ("pivot_root", (155, 41), 0, 0), ("open_tree", (428, 428), -100, 0, 0),
        ("fsopen", (430, 430), 0, 0), ("name_to_handle_at", (303, 264), -100, 0, 0, 0, 0),
        ("open_by_handle_at", (304, 265), -100, 0, 0),
    ])  # fmt: skip


@probe
def call__host_control(facts):
    return allowed([
        ("init_module", (175, 105), 0, 0, 0), ("finit_module", (313, 273), -1, 0, 0),
        ("kexec_load", (246, 104), 0, 0, 0, 0xFF00),  # invalid flags: nothing could come of it
        ("kexec_file_load", (320, 294), -1, -1, 0, 0, 0xFF00),
        ("settimeofday", (164, 170), 0, 0), ("clock_settime", (227, 112), 0, 0),
        ("reboot", (169, 142), 0, 0, 0, 0), ("sethostname", (170, 161), 0, -1),
        ("swapon", (167, 224), 0, 0), ("syslog", (103, 116), 3, 0, 0),
    ])  # fmt: skip


@probe
def call__foreign_doors(facts):
    if not X86:
        raise NotApplicable("only x86-64 has these doors")
    import mmap

    through = []
    for name, code in (("int80", "b814000000cd80c3"), ("x32", "b8270000400f05c3")):
        pid = os.fork()
        if pid == 0:
            page = mmap.mmap(-1, 4096, prot=7)
            page.write(bytes.fromhex(code))
            call = ctypes.CFUNCTYPE(ctypes.c_long)(
                ctypes.addressof(ctypes.c_char.from_buffer(page))
            )
            os._exit(1 if call() > 0 else 0)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
            through.append(name)
    return through or None


# the server, the agent, the host


@probe
def agent__memory(facts):
    # By mode alone PID 1's files would be ours to open: it has our uid. 60 and 61 are its stream.
    return openable(["%s/%s" % (AGENT, name) for name in ("mem", "fd/60", "fd/61")], os.O_RDONLY)


@probe
def agent__layout(facts):
    return openable([AGENT + "/environ", AGENT + "/maps"], os.O_RDONLY)


@probe
def agent__unkillable(facts):
    number = int(AGENT.rpartition("/")[2])
    os.kill(number, signal.SIGSTOP)
    os.kill(number, signal.SIGTERM)
    time.sleep(0.1)  # for it to take them
    state = read(AGENT + "/stat").rpartition(")")[2].split()[0]
    return "the agent is stopped or dead" if state in "TtZX" else None


@probe
def proc__foreign(facts):
    foreign = []
    for name in os.listdir("/proc"):
        try:
            # The agent may be another's: PID 1 of the cell, as every other process shows.
            if name.isdigit() and name != "1" and os.stat("/proc/" + name).st_uid != os.getuid():
                foreign.append(int(name))
        except OSError:
            pass
    if os.getpid() > 1 << 16:
        foreign.append("own pid %d" % os.getpid())
    return foreign[:20] or None


@probe
def server__environment(facts):
    texts = [json.dumps(dict(os.environ))]
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                texts.append(read("/proc/%s/environ" % name))
            except OSError:
                pass
    return "the server's environment is told" if facts["secret"] in "\n".join(texts) else None


@probe
def host__name(facts):
    names = {socket.gethostname(), os.uname().nodename}
    if os.path.exists("/etc/hostname"):
        names.add(read("/etc/hostname").strip())
    told = names & {facts["hostname"], facts["hostname"].partition(".")[0]}
    return sorted(told) or None


@probe
def host__container_id(facts):
    lines = read("/proc/self/cgroup").split() if os.path.exists("/proc/self/cgroup") else []
    words = [line for line in lines if any(len(part) >= 64 for part in line.split("/"))]
    return words[:3] or None


@probe
def res__core_dumps(facts):
    import resource

    limit = resource.getrlimit(resource.RLIMIT_CORE)
    return None if limit == (0, 0) else "RLIMIT_CORE is %s" % (limit,)


@probe
def res__open_files(facts):
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if 0 < hard <= 65536 else "RLIMIT_NOFILE is %d" % hard


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
