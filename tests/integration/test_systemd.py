"""deploy/codecell.service: systemd judges it, and the server runs under its restrictions.

Debian's systemd is in an image of the server, where the unit's paths exist; it does not run there.
The commands of docs/deploying.md install the unit, and its ExecStart is started by hand with what
the unit takes away: every capability, the writable files, and the system calls that it filters.
"""

import io
import json
import re
import shlex
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = (ROOT / "deploy/codecell.service").read_text(encoding="utf-8")
DOCUMENT = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
SOCKET = "/var/run/docker.sock"
EXPOSURE = 1.6  # as `systemd-analyze security` counts, from 0 to 10
START_S = 30
DOCKERFILE = """
ARG BASE
FROM ${BASE}
ENV PATH=/opt/codecell/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update && apt-get install -y --no-install-recommends \
    openssl passwd systemd util-linux
RUN groupadd --system --gid GROUP docker
"""
# sh has to start what is tested; runc puts the filter in force before it does its last work.
WRITE_AND_EXECUTE = [
    ("mmap", 2, 0x6),
    ("mprotect", 2, 0x4),
    ("pkey_mprotect", 2, 0x4),
]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def call(engine: docker.APIClient, name: str, command: str) -> str:
    """Run a shell's line in a container that runs."""
    made = engine.exec_create(name, ["bash", "-euc", command])["Id"]
    said = str(engine.exec_start(made).decode())
    assert engine.exec_inspect(made)["ExitCode"] == 0, said
    return said


@contextmanager
def container(
    engine: docker.APIClient, image: str, command: list[str], **host: Any
) -> Iterator[str]:
    user = host.pop("user", "root")
    made = engine.create_container(
        image,
        command,
        entrypoint=[],
        user=user,
        working_dir="/var/lib/codecell" if user == "codecell" else "/",
        environment={"CODECELL_POOL__LANGUAGES": '["python"]'},
        host_config=engine.create_host_config(network_mode="none", **host),
    )["Id"]
    try:
        engine.start(made)
        yield made
    finally:
        engine.remove_container(made, force=True, v=True)


@pytest.fixture(scope="module")
def installed(
    engine: docker.APIClient,
    engine_socket: Path,
    server_image: str,
    build_image: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """An image in which the document's commands have been run."""
    folder = tmp_path_factory.mktemp("systemd")
    group = str(engine_socket.stat().st_gid or 990)
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("GROUP", group), encoding="utf-8")
    image = build_image("systemd", folder, base=server_image)
    (script,) = re.findall(r"<!-- deploy systemd -->\n```sh\n(.*?)^```$", DOCUMENT, re.M | re.S)
    given = re.sub(r"^(python3 -m venv|/opt/codecell/bin/pip) .*\n", "", script, flags=re.MULTILINE)
    assert len(script.splitlines()) - len(given.splitlines()) == 3  # the image has it installed
    given = given.replace("systemctl enable --now", "systemctl enable")  # systemd does not run
    sockets = {"binds": [f"{engine_socket}:{SOCKET}"]}
    with container(engine, image, ["sleep", "600"], **sockets) as name:
        put(engine, name, ROOT / "deploy/codecell.service", "/checkout/deploy/codecell.service")
        call(engine, name, f"cd /checkout; NAME=localhost\n{given}")
        tag = image.replace("systemd", "installed")
        engine.commit(name, *tag.split(":"))
    yield tag
    engine.remove_image(tag, force=True)


def put(engine: docker.APIClient, name: str, file: Path, to: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(file, arcname=to.lstrip("/"))
    engine.put_archive(name, "/", packed.getvalue())


@pytest.fixture(scope="module")
def machine(engine: docker.APIClient, installed: str) -> Iterator[str]:
    with container(engine, installed, ["sleep", "600"]) as name:
        yield name


def test_systemd_finds_no_fault_in_the_unit(engine: docker.APIClient, machine: str) -> None:
    assert call(engine, machine, "systemd-analyze verify codecell.service 2>&1") == ""
    enabled = call(engine, machine, "ls /etc/systemd/system/multi-user.target.wants")
    assert "codecell.service" in enabled


def test_systemd_counts_little_exposure(engine: docker.APIClient, machine: str) -> None:
    threshold = f"--threshold={int(EXPOSURE * 10)}"
    said = call(
        engine,
        machine,
        f"systemd-analyze security --offline=true --no-pager {threshold} codecell.service",
    )
    (level,) = re.findall(r"Overall exposure level for codecell.service: ([\d.]+)", said)
    assert float(level) <= EXPOSURE


def test_the_server_runs_under_the_units_restrictions(
    engine: docker.APIClient, machine: str, installed: str, engine_socket: Path
) -> None:
    (start,) = values("ExecStart")
    allowed = system_calls(engine, machine)
    assert {"openat", "sendmsg", "clone"} <= allowed
    assert not {"mount", "ptrace", "bpf", "setpriority", "chroot"} & allowed
    narrow = {
        "user": "codecell",
        "binds": [f"{engine_socket}:{SOCKET}"],
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "group_add": [str(engine_socket.stat().st_gid)],
        "security_opt": ["no-new-privileges", f"seccomp={json.dumps(profile(allowed))}"],
    }
    look = (
        "SSL_CERT_FILE=/etc/codecell/cert.pem codecell execute --url https://localhost:8000 "
        "--token-file /checkout/ann.token 'print(6 * 7)'"
    )
    with container(engine, installed, shlex.split(start), **narrow) as name:
        end = time.monotonic() + START_S
        while "serving MCP on https://" not in (said := engine.logs(name).decode()):
            assert time.monotonic() < end, said
            assert engine.inspect_container(name)["State"]["Running"], said
            time.sleep(0.1)
        assert call(engine, name, look) == "42\n"
        process = call(engine, name, "cat /proc/1/status")
        assert re.search(r"^Seccomp:\t2$", process, re.MULTILINE)
        assert not re.search(r"^Uid:\t0", process, re.MULTILINE)
        engine.kill(name, signal="SIGTERM")
        status = engine.wait(name, timeout=int(values("TimeoutStopSec")[0]))["StatusCode"]
        assert [str(status)] == values("SuccessExitStatus")


def system_calls(engine: docker.APIClient, machine: str) -> set[str]:
    """Return what the unit's filters leave, in the words of the systemd that would set them."""
    groups: dict[str, list[str]] = {}
    for line in call(engine, machine, "systemd-analyze syscall-filter 2>/dev/null").splitlines():
        word = line.strip()
        if line.startswith("@"):
            groups[word] = []
        elif groups and word and not word.startswith("#"):
            groups[list(groups)[-1]].append(word)

    def members(group: str) -> set[str]:
        found = set()
        for word in groups[group]:
            found |= members(word) if word.startswith("@") else {word}
        return found

    allowed, denied = values("SystemCallFilter")
    left = members(allowed)
    for group in denied.removeprefix("~").split():
        left -= members(group)
    return left


def profile(allowed: set[str]) -> dict[str, Any]:
    """Write the unit's filter as Docker takes it; MemoryDenyWriteExecute is a part of it."""
    assert values("MemoryDenyWriteExecute") == ["yes"]
    rules: list[dict[str, Any]] = []
    for name, argument, mask in WRITE_AND_EXECUTE:
        # Allowed as long as not every bit of the mask is set.
        for bit in (1 << n for n in range(8) if mask >> n & 1):
            condition = {"index": argument, "value": bit, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
            rules.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]})
    plain = sorted(allowed - {name for name, _, _ in WRITE_AND_EXECUTE})
    rules.append({"names": plain, "action": "SCMP_ACT_ALLOW"})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }


def test_the_document_says_what_each_line_is_for() -> None:
    table = DOCUMENT.partition("<!-- unit -->")[2].partition("<!-- /unit -->")[0]
    explained = re.findall(r"`([A-Za-z]+=[^`]*)`", table)
    service = UNIT.partition("[Service]\n")[2].partition("[Install]")[0]
    lines = [line for line in service.splitlines() if line and not line.startswith("ExecStart=")]
    assert sorted(explained) == sorted(lines)


def test_the_settings_are_of_the_files_that_the_document_makes() -> None:
    (start,) = values("ExecStart")
    config = shlex.split(start)[2]
    assert f"cat > {config} <<END" in DOCUMENT
    assert str(Path(config).parent) == "/etc/codecell"
