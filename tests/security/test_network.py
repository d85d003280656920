"""Attacks on the network wall. They aim at listeners of their own on this host, at nothing else."""

import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from codecell.model import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
Facts = Callable[..., Awaitable[Any]]


@pytest.mark.requirement("net:no-interface")
async def test_listing_interfaces_finds_loopback_alone(facts: Facts) -> None:
    found = await facts("""
import json, os, socket
print(json.dumps({
    "interfaces": [name for _, name in socket.if_nameindex()],
    "routes": open("/proc/net/route").read().splitlines()[1:],
    "routes6": sorted({line.split()[-1] for line in open("/proc/net/ipv6_route")}),
    "servers": [l for l in (open("/etc/resolv.conf") if os.path.exists("/etc/resolv.conf") else ())
                if l.startswith("nameserver") and "127.0.0.1" not in l],
}))
""")
    assert set(found.pop("routes6")) <= {"lo"}  # gVisor lists none
    assert found == {"interfaces": ["lo"], "routes": [], "servers": []}


@pytest.mark.requirement("net:loopback-host-unreachable")
async def test_connecting_to_a_listener_on_the_hosts_loopback_is_refused(facts: Facts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        found = await facts(
            """
import errno, json, socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=3)
    print(json.dumps("connected"))
except OSError as error:
    print(json.dumps(errno.errorcode.get(error.errno)))
""",
            args=(str(listener.getsockname()[1]),),
        )
        assert found == "ECONNREFUSED"
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.requirement("net:loopback-host-unreachable")
async def test_datagram_to_the_hosts_loopback_never_arrives(facts: Facts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0)
        sent = await facts(
            """
import json, socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(json.dumps(out.sendto(b"x", ("127.0.0.1", int(sys.argv[1])))))
""",
            args=(str(receiver.getsockname()[1]),),
        )
        assert sent == 1
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


@pytest.mark.requirement("net:abstract-sockets")
async def test_connecting_to_the_hosts_abstract_socket_is_refused(facts: Facts) -> None:
    name = "codecell-test-abstract"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        listener.settimeout(0)
        found = await facts(
            """
import errno, json, socket, sys
try:
    socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1])
    print(json.dumps("connected"))
except OSError as error:
    print(json.dumps(errno.errorcode.get(error.errno)))
""",
            args=(name,),
        )
        assert found == "ECONNREFUSED"
        with pytest.raises(BlockingIOError):
            listener.accept()


LISTEN = """
import json, select, socket, time
tcp = socket.create_server(("127.0.0.1", 45678))
local = socket.socket(socket.AF_UNIX)
local.bind("\\0codecell-between-cells")
local.listen()
begin = time.monotonic()
came = select.select([tcp, local], [], [], 4)[0]
print(json.dumps({"came": len(came), "begin": begin, "end": time.monotonic()}))
"""
KNOCK = """
import json, socket, time
begin, reached = time.monotonic(), 0
while time.monotonic() < begin + 3:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 45678)),
                            (socket.AF_UNIX, "\\0codecell-between-cells")):
        with socket.socket(family) as attempt:
            reached += attempt.connect_ex(address) == 0
    time.sleep(0.02)
print(json.dumps({"reached": reached, "begin": begin, "end": time.monotonic()}))
"""


@pytest.mark.requirement("net:cells-apart")
async def test_knocking_at_another_cells_listeners_reaches_nothing(execute: Execute) -> None:
    outcomes: dict[str, Outcome] = {}

    async def run(name: str, code: str) -> None:
        outcomes[name] = await execute(code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "listener", LISTEN)
        tasks.start_soon(run, "knocker", KNOCK)
    listener, knocker = (json.loads(outcomes[n].stdout.text) for n in ("listener", "knocker"))
    assert max(listener["begin"], knocker["begin"]) < min(listener["end"], knocker["end"])
    assert (listener["came"], knocker["reached"]) == (0, 0)
