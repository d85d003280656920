"""What keeps one caller's session from another's, and a session from outliving its owner."""

import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from codecell.backends.docker.owners import LABEL_OWNER
from codecell.model import Outcome, Request, Status
from codecell.runner import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


async def step(runner: Runner, code: str, caller: str = "alice", **fields: Any) -> Outcome:
    fields = {"language": "python", "session_id": "same", **fields}
    return await runner.execute(Request(code=code, caller=caller, **fields))


@pytest.mark.requirement("session:caller")
async def test_the_same_id_of_another_caller_is_another_cell(runner: Runner) -> None:
    where = "import os\nprint(os.getuid())"
    hers = await step(runner, "secret = 1\nopen('/tmp/secret', 'w').write('s')\n" + where)
    his = await step(
        runner, where + "\nprint('secret' in globals(), os.listdir('/tmp'))", caller="bob"
    )
    assert his.stdout.text.splitlines()[1] == "False []"
    assert his.stdout.text.splitlines()[0] != hers.stdout.text.strip()  # a uid of its own
    assert [info.runs for info in runner.list_sessions("alice")] == [1]
    await runner.close_session("bob", "same")
    assert (await step(runner, "print(secret)")).stdout.text == "1\n"


@pytest.mark.requirement("session:never-recycled")
async def test_a_closed_sessions_cell_serves_nobody_again(
    engine: docker.APIClient, runner: Runner
) -> None:
    await step(runner, "x = 1")
    (session,) = runner.sessions._open.values()
    (cell,) = session.cells.values()
    await runner.close_session("alice", "same")
    with anyio.fail_after(10):
        while engine.containers(all=True, filters={"id": cell.link.cell.id}):
            await anyio.sleep(0.05)
    fresh = await step(runner, "print('x' in globals())")
    assert fresh.stdout.text == "False\n"


FORGE = """
import os
for fd in range(3, 100):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        continue
    if target.startswith("pipe:"):
        try:
            os.write(fd, PAYLOAD)
        except OSError:
            pass
ENDING
"""


@pytest.mark.requirement("session:no-forgery")
@pytest.mark.parametrize(
    ("payload", "ending", "status"),
    [
        (b"the program could not be started\n", "os._exit(127)", Status.EXECUTION_ERROR),
        (b"1 0\n" * 5000, "pass", Status.SUCCESS),  # no more than its own exit code
        (b"99 0\n2 0\n\xff\xfe\n" + b"x" * 9000, "while True: pass", Status.TIMEOUT),
    ],
)
async def test_a_step_can_write_its_own_exit_code_and_nothing_else(
    runner: Runner, payload: bytes, ending: str, status: Status
) -> None:
    code = FORGE.replace("PAYLOAD", repr(payload)).replace("ENDING", ending)
    outcome = await step(runner, code, timeout_s=1)
    assert outcome.status is status
    after = await step(runner, "print('alive')")
    assert (after.status, after.stdout.text) == (Status.SUCCESS, "alive\n")


SERVER = """
import anyio
from codecell.app import open_runner
from codecell.model import Request
from codecell.settings import load

async def main():
    async with open_runner(load(), warm=False) as runner:
        await runner.execute(Request(
            language="bash", code="sh -c 'sleep 300; : TOKEN' & :", session_id="kept"
        ))
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.requirement("session:server-killed")
async def test_kill_9_of_the_server_ends_its_sessions(
    engine: docker.APIClient, host: Any, tmp_path: Path
) -> None:
    token = secrets.token_hex(8)
    script = tmp_path / "server.py"
    script.write_text(SERVER.replace("TOKEN", token), encoding="utf-8")
    server = subprocess.Popen([sys.executable, str(script)])  # noqa: ASYNC220  returns at once

    def containers() -> list[Any]:
        found = engine.containers(all=True, filters={"label": LABEL_OWNER})
        return [one for one in found if f"/{server.pid}/" in one["Labels"][LABEL_OWNER]]

    try:
        await host.appears(token)
        assert containers()
        server.send_signal(signal.SIGKILL)
        with anyio.fail_after(5):
            while containers() or host.pids(token):
                await anyio.sleep(0.05)
    finally:
        server.kill()
        server.wait()
