"""The seccomp profile: what it must name, what it must not, and its shape on the wire."""

import errno
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codecell.backends.docker import seccomp
from codecell.errors import ConfigurationError

ALLOWED = {name for group in seccomp.ALLOWED for name in group.names}
CONDITIONAL = {
    name for rule in (*seccomp.SPARE_THE_AGENT, *seccomp.CONDITIONAL) for name in rule.calls.split()
}
ABSENT = {name for group in seccomp.ABSENT for name in group.names}
REFUSED = {name for group in seccomp.REFUSED for name in group.names}

NEW_NAMESPACE_FLAGS = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}


def _parsed(machine: str = "x86_64") -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(seccomp.profile(machine))
    return parsed


def _matches(argument: dict[str, Any], value: int) -> bool:
    if argument["op"] == "SCMP_CMP_EQ":
        return bool(value == argument["value"])
    assert argument["op"] == "SCMP_CMP_MASKED_EQ"
    return bool(value & argument["value"] == argument["valueTwo"])


def _answer(call: str, *arguments: int) -> str:
    """Say what the profile answers, as libseccomp reads it."""
    for entry in _parsed()["syscalls"]:
        if call in entry["names"] and all(
            _matches(check, arguments[check["index"]]) for check in entry.get("args", [])
        ):
            if entry["action"] == "SCMP_ACT_ALLOW":
                return "allowed"
            return errno.errorcode[entry["errnoRet"]]
    return errno.errorcode[_parsed()["defaultErrnoRet"]]


def test_every_call_is_named_in_exactly_one_kind() -> None:
    kinds = (ALLOWED, CONDITIONAL, ABSENT, REFUSED)
    for index, kind in enumerate(kinds):
        for other in kinds[index + 1 :]:
            assert not kind & other


def test_no_call_is_named_twice_within_a_kind() -> None:
    for groups in (seccomp.ALLOWED, seccomp.ABSENT, seccomp.REFUSED):
        names = [name for group in groups for name in group.names]
        assert len(names) == len(set(names))


def test_every_group_and_rule_has_a_reason() -> None:
    for group in (*seccomp.ALLOWED, *seccomp.ABSENT, *seccomp.REFUSED):
        assert len(group.why) > 4, group
    for rule in seccomp.CONDITIONAL:
        assert len(rule.why) > 4, rule


def test_the_default_is_refusal_with_eperm() -> None:
    assert _parsed()["defaultAction"] == "SCMP_ACT_ERRNO"
    assert _answer("a_call_nobody_thought_of") == "EPERM"


def test_only_allow_and_errno_are_used() -> None:
    assert {entry["action"] for entry in _parsed()["syscalls"]} == {
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
    }


@pytest.mark.parametrize("machine", ["x86_64", "amd64", "aarch64", "arm64"])
def test_one_architecture_and_no_sub_architecture(machine: str) -> None:
    parsed = _parsed(machine)
    expected = "SCMP_ARCH_X86_64" if machine in {"x86_64", "amd64"} else "SCMP_ARCH_AARCH64"
    assert parsed["architectures"] == [expected]
    assert "archMap" not in parsed
    assert not {"SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"} & set(parsed["architectures"])


@pytest.mark.parametrize("machine", ["s390x", "riscv64", "i686", ""])
def test_there_is_no_profile_for_other_architectures(machine: str) -> None:
    with pytest.raises(ConfigurationError, match="no seccomp profile"):
        seccomp.profile(machine)


@pytest.mark.parametrize("call", sorted(REFUSED))
def test_refused_call_is_answered_eperm(call: str) -> None:
    assert _answer(call, 0, 0, 0, 0, 0, 0) == "EPERM"


@pytest.mark.parametrize("call", sorted(ABSENT))
def test_absent_call_is_answered_enosys(call: str) -> None:
    assert _answer(call, 0, 0, 0, 0, 0, 0) == "ENOSYS"


@pytest.mark.parametrize(
    "call",
    [
        "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "unshare",
        "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen",
        "mount_setattr", "bpf", "perf_event_open", "userfaultfd", "memfd_secret", "vmsplice",
        "modify_ldt", "keyctl", "add_key", "request_key", "name_to_handle_at", "open_by_handle_at",
        "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load", "kexec_file_load",
        "init_module", "finit_module", "delete_module", "settimeofday", "clock_settime",
        "socketcall", "quotactl", "swapon", "reboot", "syslog", "acct", "clone3", "iopl", "ioperm",
        "sethostname", "sync", "fanotify_init",
    ],
)  # fmt: skip
def test_dangerous_call_is_never_allowed(call: str) -> None:
    assert call not in ALLOWED | CONDITIONAL


@pytest.mark.parametrize(
    "call",
    [
        "read", "write", "openat", "openat2", "mmap", "brk", "execve", "exit_group", "rseq",
        "statx", "faccessat2", "close_range", "pidfd_open", "pidfd_send_signal", "epoll_pwait2",
        "futex", "futex_waitv", "memfd_create", "getrandom", "membarrier", "copy_file_range",
        "arch_prctl", "set_robust_list", "set_tid_address", "sched_getaffinity", "prlimit64",
        "timerfd_create", "signalfd4", "eventfd2", "inotify_init1", "shmget", "mq_open", "wait4",
        "fchmodat2", "pkey_alloc", "sigaltstack", "kill", "prctl", "getdents64", "newfstatat",
    ],
)  # fmt: skip
def test_call_that_runtimes_need_is_allowed(call: str) -> None:
    assert _answer(call, 0, 0, 0, 0, 0, 0) == "allowed"


@pytest.mark.parametrize("flag", sorted(NEW_NAMESPACE_FLAGS))
def test_clone_into_a_new_namespace_is_refused(flag: str) -> None:
    assert _answer("clone", NEW_NAMESPACE_FLAGS[flag] | 17) == "EPERM"


def test_clone_as_fork_and_as_pthread_create_is_allowed() -> None:
    assert _answer("clone", 17) == "allowed"
    assert _answer("clone", 0x3D0F00) == "allowed"


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_no_flags_at_all_reach_a_new_namespace(flags: int) -> None:
    wants_namespace = any(flags & flag for flag in NEW_NAMESPACE_FLAGS.values())
    assert (_answer("clone", flags) == "allowed") is not wants_namespace


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (1, 1, 0), (1, 2, 0), (1, 5, 0),
        (2, 1, 0), (2, 1, 6), (2, 2, 0), (2, 2, 17), (2, 2, 1),
        (10, 1, 0), (10, 2, 17), (10, 2, 58),
        (2, 1 | 0o2000000 | 0o4000, 6),
        (16, 3, 0), (16, 3 | 0o2000000, 0),
    ],
)  # fmt: skip
def test_ordinary_socket_is_allowed(family: int, kind: int, protocol: int) -> None:
    assert _answer("socket", family, kind, protocol) == "allowed"


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (40, 1, 0),  # AF_VSOCK reaches the hypervisor
        (38, 5, 0),  # AF_ALG
        (17, 3, 0),  # AF_PACKET
        (16, 3, 12),  # NETLINK_NETFILTER
        (16, 3, 9),  # NETLINK_AUDIT
        (2, 1, 132),  # SCTP by its number
        (2, 5, 0),  # SCTP by its type
        (2, 6, 0),  # DCCP by its type
        (2, 1, 262),  # MPTCP
        (2, 1, 256),  # SMC
        (2, 3, 1),  # raw
        (2 | 1 << 32, 1, 0),  # upper bits that the kernel would cut off
        (40 | 1 << 32, 1, 0),
        (16, 3, 1 << 32),
    ],
)
def test_other_socket_is_refused(family: int, kind: int, protocol: int) -> None:
    assert _answer("socket", family, kind, protocol) == "EPERM"


@given(
    st.integers(min_value=0, max_value=2**64 - 1),
    st.integers(min_value=0, max_value=2**64 - 1),
    st.integers(min_value=0, max_value=2**64 - 1),
)
def test_no_family_beyond_the_four_is_ever_allowed(family: int, kind: int, protocol: int) -> None:
    if _answer("socket", family, kind, protocol) == "allowed":
        assert family in {1, 2, 10, 16}


def test_socketpair_is_local_only() -> None:
    assert _answer("socketpair", 1, 1, 0) == "allowed"
    assert _answer("socketpair", 40, 1, 0) == "EPERM"
    assert _answer("socketpair", 2, 1, 0) == "EPERM"


@pytest.mark.parametrize(("call", "index"), [("mknod", 1), ("mknodat", 2)])
def test_mknod_makes_fifos_but_no_devices_and_no_whiteouts(call: str, index: int) -> None:
    def answer(mode: int) -> str:
        return _answer(call, *(mode if position == index else 0 for position in range(4)))

    assert answer(0o010600) == "allowed"
    assert answer(0o020600) == "EPERM"
    assert answer(0o060600) == "EPERM"


def test_personality_cannot_switch_off_address_randomisation() -> None:
    assert _answer("personality", 0xFFFFFFFF) == "allowed"
    assert _answer("personality", 0x0040000) == "EPERM"
    assert _answer("personality", 0x0400000) == "EPERM"


BY_PID = ["prlimit64", "sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr"]
BY_KIND = {"setpriority": 0, "ioprio_set": 1}


@given(st.integers(min_value=0, max_value=2**64 - 1))
@example(1)
@example(1 | 1 << 32)
@example(0)
@example(2**22 - 1)
def test_no_pid_that_the_kernel_reads_as_the_agents_is_allowed(pid: int) -> None:
    agent = pid & 0xFFFFFFFF == 1
    for call in BY_PID:
        assert not (agent and _answer(call, pid) == "allowed")
    for call, process in BY_KIND.items():
        assert not (agent and _answer(call, process, pid) == "allowed")


@given(st.integers(min_value=0, max_value=2**22 - 1).filter(lambda pid: pid != 1))
def test_every_other_pid_is_allowed(pid: int) -> None:
    for call in BY_PID:
        assert _answer(call, pid) == "allowed"
    for call, process in BY_KIND.items():
        assert _answer(call, process, pid) == "allowed"


@pytest.mark.parametrize(("call", "kinds"), [("setpriority", (1, 2)), ("ioprio_set", (2, 3))])
def test_priorities_of_a_whole_group_or_user_are_refused(call: str, kinds: tuple[int, ...]) -> None:
    for kind in kinds:
        assert _answer(call, kind, 0) == "EPERM"
