"""deploy/compose.yaml as docs/deploying.md starts it: the server behind a proxy that ends TLS.

The document's own commands are run. `docker compose` is Debian's, in a container of ours: the
machine's own `docker` need not have it.
"""

import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import docker
import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from codecell.backends.docker.owners import LABEL_OWNER

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
SOCKET = "/var/run/docker.sock"
NAME = "localhost"
USER = os.getuid() or 1000
READY_S = 90
TOOL = """
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends docker-compose
"""
# What stands for the images: the server's is built already, the proxy's gets a name of ours.
OVERRIDE = """
services:
  server: {{image: "{server}", build: !reset null}}
  proxy: {{image: "{proxy}", build: {{network: host}}}}
"""

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600), pytest.mark.anyio]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is running.

    Attributes:
        url: of the proxy.
        token: of the caller `ann`.
        trust: the certificate that the proxy shows.
        server: the server's container.
        proxy: the proxy's.
        compose: runs another `docker compose` command on it.
    """

    url: str
    token: str
    trust: Path
    server: str
    proxy: str
    compose: Callable[..., str]

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.trust))

    @asynccontextmanager
    async def client(self, path: str = "/mcp", token: str | None = None) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {token or self.token}"}

        def make(**kwargs: Any) -> httpx2.AsyncClient:
            kwargs["headers"] = {**(kwargs.get("headers") or {}), **headers}
            return httpx2.AsyncClient(verify=self.context(), **kwargs)

        if path == "/sse":
            async with Client(sse_client(self.url + path, httpx_client_factory=make)) as client:
                yield client
        else:
            async with (
                make(timeout=60) as http,
                Client(streamable_http_client(self.url + path, http_client=http)) as client,
            ):
                yield client


def script_of_the_document() -> str:
    (script,) = re.findall(r"<!-- deploy compose -->\n```sh\n(.*?)^```$", DOCUMENT, re.M | re.S)
    return script


@pytest.fixture(scope="module")
def deployment(
    engine: docker.APIClient,
    engine_socket: Path,
    build_image: Callable[..., str],
    server_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    checkout = tmp_path_factory.mktemp("checkout")
    checkout.chmod(0o755)
    folder = checkout / "deploy"
    shutil.copytree(ROOT / "deploy", folder)
    project = f"codecell-test-{os.getpid()}-{secrets.token_hex(3)}"
    override = OVERRIDE.format(server=server_image, proxy=project)
    (folder / "override.yaml").write_text(override, encoding="utf-8")
    tool = checkout / "tool"
    tool.mkdir()
    (tool / "Dockerfile").write_text(TOOL, encoding="utf-8")
    environment = {
        "COMPOSE_PROJECT_NAME": project,
        "COMPOSE_FILE": "compose.yaml:override.yaml",
        "CODECELL_PORT": "127.0.0.1:0",
        "BASE": "codecell/base:latest",
        "DOCKER_BUILDKIT": "0",
        "ENGINE_SOCKET": str(engine_socket),
    }
    shim = write_shim(checkout / "bin", build_image("compose", tool), engine_socket, environment)
    bins = f"{checkout / 'bin'}{os.pathsep}{Path(sys.executable).parent}"

    def compose(*arguments: str) -> str:
        return run([str(shim), "compose", *arguments], cwd=folder)

    try:
        run(
            ["bash", "-euc", as_an_ordinary_user(script_of_the_document())],
            cwd=checkout,
            env={**os.environ, "NAME": NAME, "PATH": f"{bins}{os.pathsep}{os.environ['PATH']}"},
        )
        server, proxy = (compose("ps", "-q", name).strip() for name in ("server", "proxy"))
        (published,) = engine.port(proxy, 8443)
        ready = Deployment(
            url=f"https://{NAME}:{published['HostPort']}",
            token=(folder / "ann.token").read_text(encoding="utf-8").strip(),
            trust=folder / "cert.pem",
            server=server,
            proxy=proxy,
            compose=compose,
        )
        await_ready(ready)
        yield ready
    finally:
        compose("down", "--volumes", "--timeout", "5")
        engine.remove_image(project, force=True)


def run(command: list[str], **keywords: Any) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        **keywords,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write_shim(folder: Path, image: str, engine_socket: Path, environment: dict[str, str]) -> Path:
    """Write a `docker` that knows `compose` alone, and runs Debian's in a container."""
    folder.mkdir()
    shim = folder / "docker"
    shim.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, docker\n"
        "engine = docker.from_env(version='auto')\n"
        "assert sys.argv[1] == 'compose'\n"
        "here = os.getcwd()\n"
        "made = engine.containers.create(\n"
        f"    {image!r}, ['docker-compose', *sys.argv[2:]], working_dir=here,\n"
        f"    environment={environment!r}, network_mode='none',\n"
        f"    volumes=[f'{{here}}:{{here}}:ro', '{engine_socket}:{SOCKET}'])\n"
        "try:\n"
        "    made.start()\n"
        "    status = made.wait()['StatusCode']\n"
        "    sys.stdout.write(made.logs(stdout=True, stderr=False).decode())\n"
        "    sys.stderr.write(made.logs(stdout=False, stderr=True).decode())\n"
        "finally:\n"
        "    made.remove(force=True)\n"
        "sys.exit(status)\n",
        encoding="utf-8",
    )
    shim.chmod(0o755)
    return shim


def as_an_ordinary_user(script: str) -> str:
    """Where the tests are root, let the secrets be somebody else's, as they are to be."""
    if os.getuid() != 0:
        return script
    owned = f"chown -R {USER} secrets && sed -i 's/^CODECELL_UID=0$/CODECELL_UID={USER}/' .env\n"
    assert script.count("docker compose build\n") == 1
    return script.replace("docker compose build\n", owned + "docker compose build\n")


def await_ready(deployment: Deployment) -> None:
    end = time.monotonic() + READY_S
    while True:
        try:
            answer = httpx2.get(f"{deployment.url}/ready", verify=deployment.context())
            if answer.status_code == 200:
                return
            said = answer.text
        except httpx2.HTTPError as error:
            said = repr(error)
        assert time.monotonic() < end, said + deployment.compose("logs")
        time.sleep(0.2)


async def call(client: Client, code: str, language: str = "python", **keywords: Any) -> Any:
    arguments = {"language": language, "code": code}
    return await client.call_tool("execute_code", arguments, **keywords)


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_program_runs_through_the_proxy(deployment: Deployment, path: str) -> None:
    async with deployment.client(path) as client:
        result = (await call(client, "print(6 * 7)")).structured_content
    assert (result["status"], result["stdout"]) == ("success", "42\n")


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_progress_arrives_while_the_program_runs(deployment: Deployment, path: str) -> None:
    told: list[tuple[float, str]] = []

    async def progress(_: float, __: float | None, message: str | None) -> None:
        told.append((time.monotonic(), message or ""))

    code = "import time\nfor n in range(5): print('line', n, flush=True); time.sleep(1)"
    async with deployment.client(path) as client:
        result = await call(client, code, progress_callback=progress)
    ended = time.monotonic()
    assert result.structured_content["status"] == "success"
    lines = [(at, text) for at, text in told if "line" in text]
    assert len(lines) >= 3
    assert ended - lines[0][0] > 2  # a proxy that kept the answer back gives all at once


async def test_a_client_that_leaves_takes_its_run_along(
    deployment: Deployment, engine: docker.APIClient
) -> None:
    mark = f"60.{secrets.randbelow(10**9):09}"
    code = f"echo begun; sleep {mark}"
    seen = anyio.Event()

    async def progress(_: float, __: float | None, message: str | None) -> None:
        if "begun" in (message or ""):
            seen.set()

    async with deployment.client() as client, anyio.create_task_group() as tasks:

        async def begin() -> None:
            await call(client, code, language="bash", progress_callback=progress)

        tasks.start_soon(begin)
        with anyio.fail_after(20):
            await seen.wait()
        assert running(engine, mark)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(5):
        while running(engine, mark):
            await anyio.sleep(0.05)


def running(engine: docker.APIClient, mark: str) -> bool:
    """Tell whether any cell still has that process."""
    for cell in engine.containers(filters={"label": LABEL_OWNER}):
        try:
            processes = engine.top(cell["Id"], ps_args="-eo pid,args")["Processes"] or []
        except docker.errors.APIError:
            continue
        if any(mark in " ".join(process) for process in processes):
            return True
    return False


def test_the_handshake_is_tls_of_today_for_the_name_that_clients_use(
    deployment: Deployment,
) -> None:
    port = int(deployment.url.rpartition(":")[2])
    with (
        socket.create_connection((NAME, port), timeout=5) as plain,
        deployment.context().wrap_socket(plain, server_hostname=NAME) as secured,
    ):
        assert secured.version() == "TLSv1.3"
    old = deployment.context()
    with warnings.catch_warnings(action="ignore"):  # they are deprecated: that is the point
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection((NAME, port), timeout=5) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname=NAME)
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(f"http://{NAME}:{port}/health")


def test_who_shows_no_token_or_another_is_refused(deployment: Deployment) -> None:
    verify = deployment.context()
    for headers in ({}, {"Authorization": "Bearer codecell_" + "x" * 43}):
        answer = httpx2.post(f"{deployment.url}/mcp", headers=headers, json={}, verify=verify)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    owner = {"Authorization": f"Bearer {deployment.token}", "Host": "elsewhere.example.org"}
    answer = httpx2.post(f"{deployment.url}/mcp", headers=owner, json={}, verify=verify)
    assert answer.status_code == 421


def test_the_proxy_has_no_engine_and_the_server_no_way_out(
    deployment: Deployment, engine: docker.APIClient
) -> None:
    server, proxy = (
        engine.inspect_container(name) for name in (deployment.server, deployment.proxy)
    )
    mounted = {mount["Destination"] for mount in proxy["Mounts"]}
    assert mounted == {"/run/secrets/tls.pem"}
    assert not any("docker" in value.lower() for value in proxy["Config"]["Env"])
    assert {mount["Destination"] for mount in server["Mounts"]} == {SOCKET, "/run/secrets/tokens"}
    assert not any((server["NetworkSettings"]["Ports"] or {}).values())
    (network,) = server["NetworkSettings"]["Networks"]
    assert engine.inspect_network(network)["Internal"]
    assert execute(engine, deployment.proxy, "sh", "-c", f"ls {SOCKET} || true").count("\n") == 1


def test_both_are_narrow(deployment: Deployment, engine: docker.APIClient) -> None:
    for name in (deployment.server, deployment.proxy):
        host = engine.inspect_container(name)["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert not host["Privileged"]
        status = execute(engine, name, "cat", "/proc/1/status")
        assert re.search(rf"^Uid:\t{USER}\t{USER}\t{USER}", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0{16}$", status, re.MULTILINE)


def execute(engine: docker.APIClient, name: str, *command: str) -> str:
    made = engine.exec_create(name, list(command))["Id"]
    return str(engine.exec_start(made).decode())


async def test_the_secrets_are_in_no_environment_and_no_log(
    deployment: Deployment, engine: docker.APIClient
) -> None:
    logs = deployment.compose("logs")
    assert "/mcp" in logs  # the proxy's lines
    for name in (deployment.server, deployment.proxy):
        inspected = json.dumps(engine.inspect_container(name))
        assert deployment.token not in inspected
    assert deployment.token not in logs
    assert "PRIVATE KEY" not in logs
