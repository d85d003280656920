"""Probes that end their run or need two: what is sent, and what must come of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from codecell.model import CellLimits, Outcome, Status

Judge = Callable[[Outcome, CellLimits], str | None]  # None: the wall held


@dataclass(frozen=True, slots=True)
class Bomb:
    """One program and what proves that its wall held."""

    code: str
    judge: Judge
    timeout_s: float = 20.0


def _ends_as(*statuses: Status) -> Judge:
    def judge(outcome: Outcome, _: CellLimits) -> str | None:
        if outcome.status in statuses:
            return None
        return f"it ended as {outcome.status.value}: {outcome.stdout.text[:200]}"

    return judge


def _forks(outcome: Outcome, limits: CellLimits) -> str | None:
    count = _number(outcome)
    if count is not None and count <= limits.pids:
        return None
    return f"{count} processes where {limits.pids} are allowed"


def _bytes(outcome: Outcome, limits: CellLimits) -> str | None:
    written = json.loads(outcome.stdout.text) if outcome.status is Status.SUCCESS else None
    if written is None:
        return f"it ended as {outcome.status.value}"
    most = {"/sandbox": limits.sandbox_bytes, "/tmp": limits.tmp_bytes}  # noqa: S108  the cell's
    over = [f"{got:,} bytes in {place}" for place, got in written.items()
            if got > most.get(place, 64 << 20)]  # fmt: skip
    return ", ".join(over) or None


def _inodes(outcome: Outcome, limits: CellLimits) -> str | None:
    count = _number(outcome)
    most = max(1024, limits.sandbox_bytes // 4096)
    return None if count is not None and count <= most else f"{count} files"


def _number(outcome: Outcome) -> int | None:
    text = outcome.stdout.text.strip()
    return int(text) if outcome.status is Status.SUCCESS and text.isdigit() else None


# argv[1] is half as much again as the cell has: what is harmless where the wall is missing.
MEMORY = """
import sys
held = []
while len(held) << 23 < int(sys.argv[1]):
    held.append(bytearray(8 << 20))
    held[-1][::4096] = b"x" * len(held[-1][::4096])
print("took", sys.argv[1], "bytes")
"""

FORK = """
import os, signal
children = []
try:
    for _ in range(700):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except OSError:
    pass
print(len(children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""

TMPFS = """
import json, os
written = {}
for place in ("/sandbox", "/tmp", "/dev/shm"):
    written[place] = 0
    try:
        for number in range(64):
            with open(place + "/fill%d" % number, "wb", buffering=0) as file:
                for _ in range(16):
                    written[place] += file.write(b"x" * (1 << 20))
    except OSError:
        pass
    for name in os.listdir(place):
        if name.startswith("fill"):
            os.unlink(place + "/" + name)
print(json.dumps(written))
"""

INODES = """
import os
count = 0
try:
    for count in range(70000):
        os.close(os.open("/sandbox/i%d" % count, os.O_CREAT | os.O_WRONLY))
except OSError:
    pass
print(count)
"""

OUTPUT = """
import os
block = b"x" * (1 << 16)
for _ in range(1 << 20):
    os.write(1, block)
"""

TIME = """
import os, signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
"""

BOMBS = {
    "bomb.memory": Bomb(MEMORY, _ends_as(Status.OUT_OF_MEMORY)),
    "bomb.fork": Bomb(FORK, _forks),
    "bomb.tmpfs": Bomb(TMPFS, _bytes),
    "bomb.inodes": Bomb(INODES, _inodes),
    "bomb.output": Bomb(OUTPUT, _ends_as(Status.OUTPUT_LIMIT)),
    "bomb.time": Bomb(TIME, _ends_as(Status.TIMEOUT), timeout_s=0.5),
}

# Two runs: the first leaves or holds what the second looks for. argv[1] is a word nobody else has.
LEAVES = """
import os, sys
word = sys.argv[1]
for place in ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue", "/var/tmp"):
    try:
        with open(place + "/" + word, "w") as file:
            file.write(word)
    except OSError:
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(30)", word])
    os._exit(0)
os.wait()
"""

HOLDS = """
import os, socket, sys, time
word = sys.argv[1]
sock = socket.socket(socket.AF_UNIX)
sock.bind("\\0" + word)
sock.listen()
port = socket.socket()
port.bind(("127.0.0.1", 40417))
port.listen()
for place in ("/sandbox", "/tmp", "/dev/shm"):
    open(place + "/" + word, "w").write(word)
print("ready", flush=True)
time.sleep(60)
"""

LOOKS = """
import os, socket, sys
word = sys.argv[1]
found = []
for top in ("/sandbox", "/tmp", "/dev/shm", "/dev/mqueue", "/var/tmp"):
    for folder, folders, names in os.walk(top):
        found += [folder + "/" + name for name in names if word in name]
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        try:
            if word in open("/proc/%s/cmdline" % name).read():
                found.append("process " + name)
        except OSError:
            pass
for what, family, address in (("abstract socket", socket.AF_UNIX, "\\0" + word),
                              ("loopback port", socket.AF_INET, ("127.0.0.1", 40417))):
    sock = socket.socket(family)
    sock.settimeout(1)
    try:
        sock.connect(address)
        found.append(what)
    except OSError:
        pass
    sock.close()
print(", ".join(found))
"""
