"""The real server with two clock readings per run: the last byte to the cell, the last from it.

Started instead of `python -m codecell`; CODECELL_TAP names the file that gets a line per used cell.
"""

import os
import time
from pathlib import Path

from codecell.__main__ import main
from codecell.backends.docker.cell import DockerCell

_send, _receive, _discard = DockerCell.send, DockerCell.receive, DockerCell.discard
_times: dict[str, list[float]] = {}
_file = Path(os.environ.pop("CODECELL_TAP"))


async def send(self: DockerCell, data: bytes) -> None:
    """Send and note when it was out."""
    await _send(self, data)
    _times.setdefault(self.id, [0.0, 0.0])[0] = time.perf_counter()


async def receive(self: DockerCell) -> bytes:
    """Receive and note when it was in."""
    data = await _receive(self)
    if data:
        _times.setdefault(self.id, [0.0, 0.0])[1] = time.perf_counter()
    return data


async def discard(self: DockerCell) -> None:
    """Write down the run's two times; the answer is on its way already."""
    sent, received = _times.pop(self.id, (0.0, 0.0))
    with _file.open("a") as out:  # noqa: ASYNC230  nobody waits for it
        out.write(f"{sent!r} {received!r}\n")
    await _discard(self)


if __name__ == "__main__":
    DockerCell.send, DockerCell.receive, DockerCell.discard = send, receive, discard  # type: ignore[method-assign]
    main()
