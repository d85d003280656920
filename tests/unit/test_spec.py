"""The create body of a cell, one wall per test, and the comparison with what the engine made."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecell.backends.docker import seccomp
from codecell.backends.docker.posture import defects
from codecell.backends.docker.runtimes import RUNC, read_runtimes
from codecell.backends.docker.spec import AGENT_CAPABILITIES, MASKED_PATHS, container_spec
from codecell.model import CellLimits, CellSpec, Launch

MIB = 1024 * 1024
UID = 100_123


def _cell(runtime: str | None = None, **limits: Any) -> CellSpec:
    values: dict[str, Any] = {
        "memory_bytes": 256 * MIB,
        "cpus": 0.5,
        "pids": 50,
        "sandbox_bytes": 64 * MIB,
        "tmp_bytes": 32 * MIB,
    }
    return CellSpec(
        language="python",
        image="codecell/python",
        launch=Launch.FORK,
        limits=CellLimits(**(values | limits)),
        runtime=runtime,
    )


def _body(
    runtime: str | None = None, *, uid: int = UID, apparmor: bool = False, **limits: Any
) -> dict[str, Any]:
    return container_spec(
        _cell(runtime, **limits),
        image_id="sha256:" + "a" * 64,
        uid=uid,
        labels={"codecell.instance": "one"},
        command=("/usr/bin/python3", "-I", "/opt/agent.py"),
        apparmor=apparmor,
        machine="x86_64",
        runtime=read_runtimes({"Runtimes": {runtime: {}}})[runtime] if runtime else RUNC,
        host_cpus=2,
    )


def _host(runtime: str | None = None, **limits: Any) -> dict[str, Any]:
    host: dict[str, Any] = _body(runtime, **limits)["HostConfig"]
    return host


# --- privileges ---


def test_user_is_numeric_with_its_own_group() -> None:
    assert _body()["User"] == "100123:100123"


@pytest.mark.parametrize("uid", [0, -1, 2**31])
def test_root_and_impossible_uids_are_refused(uid: int) -> None:
    with pytest.raises(ValueError, match="never root"):
        _body(uid=uid)


def test_every_capability_is_dropped_and_none_added() -> None:
    assert _host()["CapDrop"] == ["ALL"]
    assert _host()["CapAdd"] == []
    assert _host()["Privileged"] is False


def test_security_options_are_no_new_privileges_and_our_profile() -> None:
    assert _host()["SecurityOpt"] == ["no-new-privileges", f"seccomp={seccomp.profile('x86_64')}"]


@pytest.mark.requirement("priv:apparmor")
def test_apparmor_is_named_where_the_engine_has_it() -> None:
    options = _body(apparmor=True)["HostConfig"]["SecurityOpt"]
    assert options[2:] == ["apparmor=docker-default"]


def test_nothing_is_unconfined() -> None:
    assert "unconfined" not in json.dumps(_body(apparmor=True))


# --- network and namespaces ---


def test_network_is_off_twice() -> None:
    assert _host()["NetworkMode"] == "none"
    assert _body()["NetworkDisabled"] is True
    assert _host()["PortBindings"] == {}
    assert _host()["PublishAllPorts"] is False


def test_no_namespace_is_shared() -> None:
    host = _host()
    assert host["IpcMode"] == "private"
    assert host["CgroupnsMode"] == "private"
    assert (host["PidMode"], host["UTSMode"], host["UsernsMode"]) == ("", "", "")


def test_names_tell_nothing_of_the_host() -> None:
    body = _body()
    assert (body["Hostname"], body["Domainname"]) == ("cell", "")
    assert body["HostConfig"]["Dns"] == ["127.0.0.1"]
    assert body["HostConfig"]["DnsSearch"] == ["."]


def test_environment_is_made_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "leaked")
    names = {entry.partition("=")[0] for entry in _body()["Env"]}
    assert names == {"PATH", "HOME", "TMPDIR", "LANG", "USER", "HOSTNAME"}
    assert "leaked" not in json.dumps(_body())


# --- files ---


def test_root_is_read_only() -> None:
    assert _host()["ReadonlyRootfs"] is True


def test_nothing_of_the_host_is_mounted() -> None:
    host = _host()
    assert (host["Binds"], host["Mounts"], host["VolumesFrom"]) == ([], [], [])
    assert (host["Devices"], host["DeviceRequests"], host["DeviceCgroupRules"]) == ([], [], [])
    assert "docker.sock" not in json.dumps(_body())


def test_sandbox_is_a_bounded_private_tmpfs_that_executes() -> None:
    assert _host()["Tmpfs"]["/sandbox"].split(",") == [
        "rw", "exec", "nosuid", "nodev", f"size={64 * MIB}", "nr_inodes=16384",
        "mode=0700", f"uid={UID}", f"gid={UID}",
    ]  # fmt: skip


def test_tmp_is_a_bounded_tmpfs_that_does_not_execute() -> None:
    assert _host()["Tmpfs"]["/tmp"].split(",") == [
        "rw", "noexec", "nosuid", "nodev", f"size={32 * MIB}", "nr_inodes=8192", "mode=1777",
    ]  # fmt: skip


def test_only_sandbox_tmp_and_shm_can_be_written() -> None:
    assert set(_host()["Tmpfs"]) == {"/sandbox", "/tmp"}
    assert _host()["ShmSize"] == 16 * MIB


def test_kernel_paths_are_masked_and_never_an_empty_list() -> None:
    masked = _host()["MaskedPaths"]
    assert set(MASKED_PATHS) <= set(masked)
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/interrupts"} <= set(masked)
    assert "/sys/devices/system/cpu/cpu1/thermal_throttle" in masked
    assert len(masked) == len(set(masked))


def test_masks_leave_what_runtimes_read() -> None:
    needed = ("/sys/fs/cgroup", "/sys/devices/system/cpu", "/proc/self", "/proc/meminfo")
    for path in needed:
        assert path not in _host()["MaskedPaths"]


def test_kernel_settings_are_read_only() -> None:
    assert {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"} == set(
        _host()["ReadonlyPaths"]
    )


def test_working_directory_is_the_literal_root() -> None:
    assert _body()["WorkingDir"] == "/"


# --- resources ---


def test_memory_limit_includes_swap() -> None:
    host = _host(memory_bytes=123 * MIB)
    assert host["Memory"] == host["MemorySwap"] == 123 * MIB
    assert host["OomKillDisable"] is False
    assert host["OomScoreAdj"] == 500


@pytest.mark.parametrize(
    ("cpus", "quota"), [(0.5, 10_000), (1.0, 20_000), (2.5, 50_000), (0.001, 1_000)]
)
def test_cpu_is_a_quota_over_a_short_period(cpus: float, quota: int) -> None:
    host = _host(cpus=cpus)
    assert (host["CpuPeriod"], host["CpuQuota"]) == (20_000, quota)
    assert "NanoCpus" not in host


def test_process_limit_is_the_cells() -> None:
    assert _host(pids=7)["PidsLimit"] == 7


@pytest.mark.parametrize("runtime", ["runsc", "runsc-systrap"])
def test_gvisor_gets_room_for_its_own_threads(runtime: str) -> None:
    assert _host(runtime, pids=50)["PidsLimit"] == 1024
    assert _host(runtime, pids=2000)["PidsLimit"] == 2000


def test_gvisor_keeps_the_programs_process_limit_by_an_rlimit() -> None:
    limits = {item["Name"]: (item["Soft"], item["Hard"]) for item in _host("runsc")["Ulimits"]}
    assert limits["nproc"] == (50, 50)


def test_under_gvisor_the_agent_alone_is_root_of_gvisors_kernel() -> None:
    body = _body("runsc")
    assert body["User"] == "0:0"
    assert set(body["HostConfig"]["CapAdd"]) == set(AGENT_CAPABILITIES)
    assert f"uid={UID}," in body["HostConfig"]["Tmpfs"]["/sandbox"]


@pytest.mark.parametrize("runtime", ["runc", "kata-runtime", None])
def test_elsewhere_nobody_is_root(runtime: str | None) -> None:
    body = _body(runtime)
    assert body["User"] == f"{UID}:{UID}"
    assert body["HostConfig"]["CapAdd"] == []


@pytest.mark.parametrize("runtime", ["runc", "kata-runtime", None])
def test_other_runtimes_keep_the_process_limit(runtime: str | None) -> None:
    assert _host(runtime, pids=50)["PidsLimit"] == 50


def test_ulimits_are_hard_and_do_not_count_processes_per_uid() -> None:
    limits = {item["Name"]: (item["Soft"], item["Hard"]) for item in _host()["Ulimits"]}
    assert limits == {
        "core": (0, 0),
        "nofile": (1024, 1024),
        "fsize": (64 * MIB, 64 * MIB),
        "memlock": (65_536, 65_536),
    }


def test_output_never_lands_on_the_hosts_disk() -> None:
    assert _host()["LogConfig"] == {"Type": "none", "Config": {}}


# --- life ---


def test_runtime_is_named_only_when_chosen() -> None:
    assert "Runtime" not in _host()
    assert _host("runsc")["Runtime"] == "runsc"


def test_agent_is_pid_1_and_the_whole_command() -> None:
    body = _body()
    assert body["Entrypoint"] == ["/usr/bin/python3", "-I", "/opt/agent.py"]
    assert body["Cmd"] == []
    assert body["HostConfig"]["Init"] is False


def test_stream_is_attached_once_without_a_terminal() -> None:
    body = _body()
    keys = ("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce", "Tty")
    assert [body[key] for key in keys] == [True, True, True, True, True, False]


def test_ended_cell_removes_itself_and_never_restarts() -> None:
    host = _host()
    assert host["AutoRemove"] is True
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}


def test_nothing_else_is_executed_in_a_cell() -> None:
    body = _body()
    assert body["Healthcheck"] == {"Test": ["NONE"]}
    assert (body["StopSignal"], body["StopTimeout"]) == ("SIGKILL", 0)


def test_image_is_named_by_digest_and_labels_are_kept() -> None:
    body = _body()
    assert body["Image"] == "sha256:" + "a" * 64
    assert body["Labels"] == {"codecell.instance": "one"}


@given(
    memory=st.integers(min_value=6 * MIB, max_value=2**40),
    cpus=st.floats(min_value=1e-6, max_value=64, allow_nan=False),
    pids=st.integers(min_value=1, max_value=2**20),
    sandbox=st.integers(min_value=1, max_value=2**40),
    runtime=st.sampled_from([None, "runc", "runsc", "kata-runtime"]),
    uid=st.integers(min_value=1, max_value=2**31 - 1),
)
def test_no_limits_or_runtime_can_move_a_wall(
    memory: int, cpus: float, pids: int, sandbox: int, runtime: str | None, uid: int
) -> None:
    host = _body(
        runtime, uid=uid, memory_bytes=memory, cpus=cpus, pids=pids, sandbox_bytes=sandbox
    )["HostConfig"]
    movable = {
        "Memory", "MemorySwap", "CpuQuota", "PidsLimit", "Ulimits", "Tmpfs", "Runtime",
    }  # fmt: skip
    if runtime == "runsc":  # its agent is root, and the filter is the one for that
        movable |= {"CapAdd", "SecurityOpt"}
        assert "no-new-privileges" in host["SecurityOpt"]
    usual = _host()
    assert {key: value for key, value in host.items() if key not in movable} == {
        key: value for key, value in usual.items() if key not in movable
    }
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] > 0
    assert host["CpuQuota"] >= 1_000
    for options in host["Tmpfs"].values():
        assert {"nosuid", "nodev"} <= set(options.split(","))


# --- what the engine made ---


def _made(body: dict[str, Any]) -> dict[str, Any]:
    """Answer as Docker 20.10's inspect does for an honest creation."""
    body = copy.deepcopy(body)
    host = body.pop("HostConfig")
    return {
        "Id": "f" * 64,
        "AppArmorProfile": "",
        "Mounts": [],
        "Config": body
        | {"Cmd": None, "Volumes": None, "ExposedPorts": None}
        | {"Labels": {**body["Labels"], "codecell.recipe": "from the image"}},
        "HostConfig": host
        | {
            "Binds": None,
            "CapAdd": host["CapAdd"] or None,
            "Devices": [],
            "Links": None,
            "Mounts": None,
        }
        | {"Runtime": "runc", "Init": False, "GroupAdd": None, "Sysctls": None},
        "NetworkSettings": {"Networks": {}},
    }


def test_cell_made_as_asked_has_no_defect() -> None:
    body = _body()
    assert defects(body, _made(body)) == []


def test_attachment_to_network_none_is_no_defect() -> None:
    body = _body()
    made = _made(body)
    made["NetworkSettings"]["Networks"] = {"none": {"IPAddress": ""}}
    assert defects(body, made) == []


WEAKENED: dict[str, Callable[[dict[str, Any]], object]] = {
    "HostConfig.Privileged": lambda made: made["HostConfig"].update(Privileged=True),
    "HostConfig.CapDrop": lambda made: made["HostConfig"].update(CapDrop=None),
    "HostConfig.CapAdd": lambda made: made["HostConfig"].update(CapAdd=["SYS_ADMIN"]),
    "HostConfig.SecurityOpt": lambda made: made["HostConfig"].update(
        SecurityOpt=["no-new-privileges", "seccomp=unconfined"]
    ),
    "HostConfig.NetworkMode": lambda made: made["HostConfig"].update(NetworkMode="bridge"),
    "HostConfig.IpcMode": lambda made: made["HostConfig"].update(IpcMode="host"),
    "HostConfig.PidMode": lambda made: made["HostConfig"].update(PidMode="host"),
    "HostConfig.CgroupnsMode": lambda made: made["HostConfig"].update(CgroupnsMode="host"),
    "HostConfig.ReadonlyRootfs": lambda made: made["HostConfig"].update(ReadonlyRootfs=False),
    "HostConfig.Binds": lambda made: made["HostConfig"].update(Binds=["/:/host"]),
    "HostConfig.Tmpfs": lambda made: made["HostConfig"].update(Tmpfs={"/sandbox": "rw"}),
    "HostConfig.Memory": lambda made: made["HostConfig"].update(Memory=0),
    "HostConfig.MemorySwap": lambda made: made["HostConfig"].update(MemorySwap=-1),
    "HostConfig.PidsLimit": lambda made: made["HostConfig"].update(PidsLimit=None),
    "HostConfig.CpuQuota": lambda made: made["HostConfig"].update(CpuQuota=0),
    "HostConfig.MaskedPaths": lambda made: made["HostConfig"].update(MaskedPaths=[]),
    "HostConfig.ReadonlyPaths": lambda made: made["HostConfig"].update(ReadonlyPaths=None),
    "HostConfig.Ulimits": lambda made: made["HostConfig"].update(Ulimits=[]),
    "HostConfig.LogConfig": lambda made: made["HostConfig"].update(
        LogConfig={"Type": "json-file", "Config": {}}
    ),
    "HostConfig.Devices": lambda made: made["HostConfig"].update(
        Devices=[{"PathOnHost": "/dev/kvm"}]
    ),
    "Config.User": lambda made: made["Config"].update(User=""),
    "Config.Env": lambda made: made["Config"].update(Env=[*made["Config"]["Env"], "TOKEN=x"]),
    "Config.Image": lambda made: made["Config"].update(Image="sha256:other"),
    "Config.NetworkDisabled": lambda made: made["Config"].pop("NetworkDisabled"),
    "Config.Entrypoint": lambda made: made["Config"].update(Entrypoint=["/bin/sh"]),
    "Config.Labels": lambda made: made["Config"].update(Labels={}),
    "Mounts": lambda made: made.update(Mounts=[{"Destination": "/data"}]),
    "Config.Volumes": lambda made: made["Config"].update(Volumes={"/data": {}}),
    "NetworkSettings.Networks": lambda made: made["NetworkSettings"].update(
        Networks={"bridge": {}}
    ),
}


@pytest.mark.parametrize("wall", sorted(WEAKENED))
def test_missing_wall_is_a_defect_that_names_it(wall: str) -> None:
    body = _body()
    made = _made(body)
    WEAKENED[wall](made)
    found = defects(body, made)
    assert len(found) == 1
    assert found[0].startswith(wall)
    assert len(found[0]) < 250


@pytest.mark.requirement("priv:apparmor")
def test_missing_apparmor_is_a_defect_where_it_was_asked_for() -> None:
    body = _body(apparmor=True)
    assert defects(body, _made(body)) == ["AppArmorProfile is ''"]


def test_other_runtime_than_the_chosen_one_is_a_defect() -> None:
    body = _body("runsc")
    assert defects(body, _made(body)) == ["HostConfig.Runtime is 'runc', not 'runsc'"]


@pytest.mark.parametrize("answer", [{}, {"Config": None, "HostConfig": []}, {"Config": "x"}])
def test_answer_without_facts_fails_closed(answer: dict[str, Any]) -> None:
    found = defects(_body(), answer)
    assert any(line.startswith("Config.User") for line in found)
    assert any(line.startswith("HostConfig.ReadonlyRootfs") for line in found)


def test_order_of_what_the_engine_answers_does_not_matter() -> None:
    body = _body()
    made = _made(body)
    made["HostConfig"]["Ulimits"].reverse()
    made["Config"]["Env"].reverse()
    made["HostConfig"]["MaskedPaths"].sort()
    assert defects(body, made) == []
