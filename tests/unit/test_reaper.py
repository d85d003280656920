"""The process that clears up behind a killed server, and an engine that is played to it."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from codecell.backends.docker import reaper

LISTED = {"gone": "removing", "stuck": "removing", "alive": "running", "new": "created"}
DEAD = {"stuck": True, "alive": False, "new": False}  # by inspection; what is gone is not found


class Engine(socketserver.ThreadingUnixStreamServer):
    """Lists containers, tells of one, removes one."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.path = str(path)
        self.left = dict(DEAD)
        self.removed: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.split("/")[2]
        if name.startswith("json"):
            self._answer([{"Id": key, "State": state} for key, state in LISTED.items()])
        elif name in self.server.left:
            self._answer({"State": {"Dead": self.server.left[name]}})
        else:
            self._answer({"message": "no such container"}, 404)

    def do_DELETE(self) -> None:
        name = self.path.split("/")[2].partition("?")[0]
        self.server.removed.append(name)
        self.server.left.pop(name, None)
        self._answer({}, 200)

    def _answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "socket") as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def test_a_removal_that_failed_is_done_again_and_what_is_gone_is_left(engine: Engine) -> None:
    assert reaper._remove_all(engine.path, "label") == 3
    assert engine.removed == ["stuck", "alive", "new"]
    engine.removed.clear()
    reaper._remove_all(engine.path, "label")
    assert "stuck" not in engine.removed
