"""Removes an instance's containers when its server dies without a goodbye; run as a script.

A cell ends with its server's stream, but a server killed between `create` and `start` leaves a
container that never ran. This process (standard library only, started in its own session) waits for
the end of its stdin. A server that has cleared up says so with one byte first; without it the
server was killed, and this process asks the engine itself.
Arguments: path of the engine's socket, label of the instance.
"""

import http.client
import json
import socket
import sys
import time
import urllib.parse

PATIENCE_S = 10.0
PAUSE_S = 0.3


class _Engine(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(5)
        self.sock.connect(self._path)


def _call(path: str, method: str, url: str) -> bytes:
    engine = _Engine(path)
    try:
        engine.request(method, url)
        return engine.getresponse().read()
    finally:
        engine.close()


def _remove_all(path: str, label: str) -> int:
    """Remove what is there; what the engine is already removing is left to it, unless it failed."""
    filters = urllib.parse.quote(json.dumps({"label": [label]}))
    found = json.loads(_call(path, "GET", f"/containers/json?all=1&filters={filters}"))
    here = [
        item for item in found if item.get("State") != "removing" or _dead(path, str(item["Id"]))
    ]
    for item in here:
        _call(path, "DELETE", f"/containers/{item['Id']}?force=1&v=1")
    return len(here)


def _dead(path: str, container: str) -> bool:
    """Tell whether a removal failed half-way: that of a container that was just being started may.

    Docker 20.10 lists such a one as being removed for ever, and one that is gone as well. A second
    removal while one is really under way is refused.
    """
    state = json.loads(_call(path, "GET", f"/containers/{container}/json")).get("State", {})
    return bool(state.get("Dead"))


def main() -> None:
    """Wait for the server's end, then remove until nothing comes up any more."""
    path, label = sys.argv[1:]
    if sys.stdin.buffer.read(1):
        return
    time.sleep(PAUSE_S)  # cells go by themselves now; a forced removal would only get in the way
    end = time.monotonic() + PATIENCE_S
    quiet = 0
    while quiet < 4 and time.monotonic() < end:
        try:
            quiet = 0 if _remove_all(path, label) else quiet + 1
        except (OSError, ValueError, http.client.HTTPException):
            quiet = 0
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
