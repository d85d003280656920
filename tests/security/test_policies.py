"""Two callers under two policies, on real cells: each has its own walls; no cell passes over."""

import json

import anyio
import docker
import pytest

from codecell.app import open_runner
from codecell.errors import RequestError
from codecell.model import Outcome, Request, Status
from codecell.settings import load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

WHAT_HOLDS = """
import json, os, socket
def can(*kind):
    try:
        socket.socket(*kind).close()
        return True
    except OSError:
        return False
print(json.dumps({
    "inet": can(socket.AF_INET, socket.SOCK_STREAM),
    "unix": can(socket.AF_UNIX, socket.SOCK_STREAM),
    "mib": os.statvfs("/sandbox").f_blocks * os.statvfs("/sandbox").f_frsize // 2**20,
    "uid": os.getuid(),
}))
"""


@pytest.mark.requirement("policy:apart")
@pytest.mark.requirement("policy:nothing-widens")
async def test_each_caller_has_the_walls_of_its_own_policy(engine: docker.APIClient) -> None:
    settings = load(
        flags={
            "pool": {"languages": ["python"], "min": 1, "reuse": "caller"},
            "policies": {
                "guest": {
                    "languages": ["python"],
                    "seccomp": "no-sockets",
                    "limits": {"sandbox": "8 MiB", "timeout_s": 5, "max_timeout_s": 5},
                }
            },
            "callers": {"bob": {"policy": "guest"}},
        }
    )
    uids: dict[str, set[int]] = {"bob": set(), "ann": set()}
    async with open_runner(settings) as runner:

        async def run(caller: str, **more: object) -> Outcome:
            request = Request(language="python", code=WHAT_HOLDS, caller=caller, **more)  # type: ignore[arg-type]
            return await runner.execute(request)

        with anyio.fail_after(60):
            for caller in ("ann", "bob", "ann", "bob"):
                outcome = await run(caller)
                assert outcome.status is Status.SUCCESS, outcome.stderr.text
                found = json.loads(outcome.stdout.text)
                uids[caller].add(found["uid"])
                assert found["unix"]
                assert (found["inet"], found["mib"]) == (
                    (False, 8) if caller == "bob" else (True, 64)
                )
            with pytest.raises(RequestError, match="at most 5"):
                await run("bob", timeout_s=6)
            with pytest.raises(RequestError, match="'bash' is not allowed for this caller"):
                await runner.execute(Request(language="bash", code="id", caller="bob"))
            assert {info.id for info in await runner.languages("bob")} == {"python"}
    assert not uids["bob"] & uids["ann"]
