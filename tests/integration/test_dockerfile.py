"""The server as an image: it builds, and from within its container it makes cells beside itself."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import Mount
from docker.utils.socket import frames_iter

from codecell import __version__
from codecell.backends.docker.owners import LABEL_OWNER

ENGINE_SOCKET = "/var/run/docker.sock"
COLD = {"CODECELL_POOL__MIN": "0", "CODECELL_POOL__MAX": "0"}
ANSWER_S = 30
GONE_S = 5.0
STDOUT = 1

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@contextmanager
def container(
    engine: docker.APIClient, image: str, *command: str, user: str = "", **host: Any
) -> Iterator[str]:
    """Create a container without a network; it is removed whatever happens."""
    created = engine.create_container(
        image,
        list(command) or None,
        user=user or None,
        stdin_open=True,
        environment=COLD,
        host_config=engine.create_host_config(network_mode="none", **host),
    )["Id"]
    try:
        yield created
    finally:
        engine.remove_container(created, force=True, v=True)


def mounted(engine_socket: Path) -> dict[str, Any]:
    return {"mounts": [Mount(ENGINE_SOCKET, str(engine_socket), type="bind")]}


def finish(engine: docker.APIClient, name: str) -> tuple[int, str]:
    engine.start(name)
    status = engine.wait(name, timeout=ANSWER_S)["StatusCode"]
    return status, engine.logs(name, stdout=True, stderr=True).decode()


class Peer:
    """The stdin and stdout of a container, as `docker run -i` has them."""

    def __init__(self, engine: docker.APIClient, name: str) -> None:
        attached = engine.attach_socket(
            name, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )
        self._socket = socket.socket(fileno=os.dup(attached.fileno()))
        self._frames = frames_iter(self._socket, tty=False)
        attached._response.close()
        self._text = ""
        engine.start(name)

    def send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def answer(self, number: int) -> dict[str, Any]:
        """Return the result with this id; nothing but JSON-RPC may come on stdout."""
        while True:
            line, newline, rest = self._text.partition("\n")
            if newline:
                self._text = rest
                message = json.loads(line)
                if message.get("id") == number:
                    result: dict[str, Any] = message["result"]
                    return result
                continue
            stream, data = next(self._frames)
            assert stream == STDOUT, data
            self._text += data.decode()

    def initialize(self) -> dict[str, Any]:
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        self.send(id=1, method="initialize", params=hello)
        result = self.answer(1)
        self.send(method="notifications/initialized")
        return result

    def call(self, number: int, **arguments: Any) -> None:
        params = {"name": "execute_code", "arguments": arguments}
        self.send(id=number, method="tools/call", params=params)

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


def cells_of(engine: docker.APIClient, namespace: str) -> list[str]:
    """Name the cells whose owner lives in a pid namespace."""
    return [
        item["Names"][0]
        for item in engine.containers(filters={"label": LABEL_OWNER})
        if f"/{namespace}/" in item["Labels"][LABEL_OWNER]
    ]


def test_a_program_runs_from_within_the_servers_container(
    engine: docker.APIClient, server_image: str, engine_socket: Path
) -> None:
    mount = mounted(engine_socket)
    with container(engine, server_image, "execute", "print(6 * 7)", **mount) as name:
        assert finish(engine, name) == (0, "42\n")


def test_the_server_needs_neither_root_nor_capabilities_nor_a_writable_root(
    engine: docker.APIClient, server_image: str, engine_socket: Path
) -> None:
    narrow = {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "user": f"1000:{engine_socket.stat().st_gid}",
        **mounted(engine_socket),
    }
    with container(engine, server_image, "execute", "print(6 * 7)", **narrow) as name:
        assert finish(engine, name) == (0, "42\n")


def test_without_an_engine_it_is_a_setup_error(engine: docker.APIClient, server_image: str) -> None:
    with container(engine, server_image, "execute", "print(6 * 7)") as name:
        status, text = finish(engine, name)
    assert status == 125
    assert text.startswith("codecell: setup_error: no container engine answers")


def test_a_tools_call_over_the_containers_stdin_and_stdout(
    engine: docker.APIClient, server_image: str, engine_socket: Path
) -> None:
    with container(engine, server_image, **mounted(engine_socket)) as name:
        peer = Peer(engine, name)
        server = peer.initialize()["serverInfo"]
        assert (server["name"], server["version"]) == ("codecell", __version__)
        peer.call(2, language="python", code="print(input())", stdin="over docker run -i\n")
        result = peer.answer(2)["structuredContent"]
        assert (result["status"], result["stdout"]) == ("success", "over docker run -i\n")
        peer.hang_up()  # as a client leaves: the server ends by itself
        assert engine.wait(name, timeout=ANSWER_S)["StatusCode"] == 0
        peer.close()


def test_killing_the_servers_container_ends_its_cells(
    engine: docker.APIClient, server_image: str, engine_socket: Path
) -> None:
    with container(engine, server_image, **mounted(engine_socket)) as name:
        peer = Peer(engine, name)
        peer.initialize()
        pid = engine.inspect_container(name)["State"]["Pid"]
        namespace = Path(f"/proc/{pid}/ns/pid").readlink().name.strip("pid:[]")
        peer.call(2, language="bash", code="sleep 60")
        await_cells(engine, namespace, some=True)
        engine.kill(name, signal="SIGKILL")
        await_cells(engine, namespace, some=False)
        peer.close()


def await_cells(engine: docker.APIClient, namespace: str, *, some: bool) -> None:
    end = time.monotonic() + GONE_S
    while bool(cells_of(engine, namespace)) is not some:
        assert time.monotonic() < end, cells_of(engine, namespace)
        time.sleep(0.05)


def test_the_image_holds_the_package_and_nothing_else_of_the_context(
    engine: docker.APIClient, server_image: str
) -> None:
    look = (
        "import pathlib, codecell.recipes as recipes; print(recipes.folder().name);"
        "root = pathlib.Path('/'); print(*root.glob('src*'), *root.glob('**/secret.txt'))"
    )
    python = ["/opt/codecell/bin/python"]
    created = engine.create_container(
        server_image,
        ["-c", look],
        entrypoint=python,
        host_config=engine.create_host_config(network_mode="none"),
    )
    try:
        assert finish(engine, created["Id"]) == (0, "_images\n\n")
    finally:
        engine.remove_container(created["Id"], force=True, v=True)
