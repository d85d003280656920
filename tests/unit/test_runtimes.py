"""What an engine's runtimes are, from how they were registered."""

import json
from typing import Any

import pytest

from codecell.backends.docker import seccomp
from codecell.backends.docker.runtimes import Kernel, Runtime, read_host, read_runtimes
from codecell.errors import SandboxError


def _read(name: str, **details: object) -> Runtime:
    return read_runtimes({"Runtimes": {name: details}})[name]


@pytest.mark.parametrize(
    ("name", "details"),
    [
        ("runsc", {"path": "/usr/local/bin/runsc"}),
        ("strong", {"path": "/opt/gvisor/runsc"}),
        ("gvisor", {}),
        ("strong", {"runtimeType": "io.containerd.runsc.v1"}),
    ],
)
def test_gvisor_is_known_by_its_program_whatever_it_is_called(
    name: str, details: dict[str, object]
) -> None:
    runtime = _read(name, **details)
    assert runtime.kernel is Kernel.GVISOR
    assert runtime.agent_apart


@pytest.mark.parametrize(
    ("flags", "holds"),
    [
        ([], False),
        (["--network=none"], False),
        (["--network=none", "--oci-seccomp"], True),
        (["-oci-seccomp=true"], True),
        (["--oci-seccomp=false"], False),
    ],
)
def test_under_gvisor_our_filter_holds_only_where_it_is_loaded(
    flags: list[str], holds: bool
) -> None:
    assert _read("runsc", path="/usr/bin/runsc", runtimeArgs=flags).filters is holds


@pytest.mark.parametrize(
    ("name", "details", "kernel"),
    [
        ("runc", {"path": "runc"}, Kernel.SHARED),
        ("crun", {"path": "/usr/bin/crun"}, Kernel.SHARED),
        ("io.containerd.runc.v2", {"path": "runc"}, Kernel.SHARED),
        ("kata-runtime", {"path": "/usr/bin/kata-runtime"}, Kernel.GUEST),
        ("vm", {"runtimeType": "io.containerd.kata.v2"}, Kernel.GUEST),
    ],
)
def test_other_runtimes_protect_the_agent_themselves(
    name: str, details: dict[str, object], kernel: Kernel
) -> None:
    runtime = _read(name, **details)
    assert (runtime.kernel, runtime.filters, runtime.agent_apart) == (kernel, True, False)


def test_an_engine_that_tells_nothing_has_none() -> None:
    assert read_runtimes({}) == {}
    assert read_runtimes({"Runtimes": None}) == {}
    assert set(read_runtimes({"Runtimes": {"runc": None}})) == {"runc"}


def _names(profile: dict[str, Any], action: str) -> set[str]:
    return {
        name
        for entry in profile["syscalls"]
        if entry["action"] == action and not entry.get("args")
        for name in entry["names"]
    }


def test_the_filter_for_an_agent_apart_is_short_and_answers_the_same() -> None:
    usual = json.loads(seccomp.profile("x86_64"))
    short = json.loads(seccomp.profile("x86_64", agent_apart=True))
    spared = {name for rule in seccomp.SPARE_THE_AGENT for name in rule.calls.split()}
    allowed = _names(usual, "SCMP_ACT_ALLOW") | spared
    assert _names(short, "SCMP_ACT_ALLOW") == allowed - set(seccomp.QUEUES.names)
    # runsc answers ENOSYS only for a tracer that is not there.
    assert _names(short, "SCMP_ACT_TRACE") == _names(usual, "SCMP_ACT_ERRNO")
    rules = sum(len(entry["names"]) for entry in short["syscalls"])
    assert rules < sum(len(entry["names"]) for entry in usual["syscalls"]) - 100


def test_an_engine_that_keeps_no_limits_runs_nothing() -> None:
    # As a rootless one answers under cgroup v1: it makes the container all the same.
    rootless = {"MemoryLimit": False, "PidsLimit": False, "CpuCfsQuota": False}
    with pytest.raises(
        SandboxError, match="can't limit memory, processes, cpus, so nothing is run"
    ):
        read_host(rootless).check_limits()
    read_host({"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True}).check_limits()
    read_host({}).check_limits()  # one that does not tell is judged by what it makes
