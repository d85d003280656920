"""The Python API over the real engine, with and without an event loop."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

import codecell
from codecell.errors import RequestError
from codecell.languages import LANGUAGES
from codecell.model import Status
from codecell.settings import PoolSettings, Settings

pytestmark = pytest.mark.docker
COLD = Settings(pool=PoolSettings(min=0, max=0))


@pytest.fixture(autouse=True)
def _engine(engine: docker.APIClient) -> None:
    """Fail or skip where no engine answers."""


@pytest.mark.anyio
async def test_a_program_and_its_outcome() -> None:
    async with codecell.open_sandbox(COLD) as sandbox:
        outcome = await sandbox.execute(
            "bash",
            'read -r l; echo "$A $1 $l"; exit 3',
            stdin="in\n",
            args=["arg"],
            env={"A": "env"},
        )
        with pytest.raises(RequestError, match="Did you mean 'python'"):
            await sandbox.execute("pyhton", "print(1)")
        assert [info.id for info in await sandbox.languages()] == list(LANGUAGES)
    assert (outcome.status, outcome.exit_code) == (Status.EXECUTION_ERROR, 3)
    assert outcome.stdout.text == "env arg in\n"


@pytest.mark.anyio
async def test_an_exception_in_the_block_arrives_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with codecell.open_sandbox(COLD):
            raise KeyError("mine")


def test_without_an_event_loop_and_from_threads() -> None:
    with codecell.open_sandbox_blocking(COLD) as sandbox, ThreadPoolExecutor(2) as threads:
        outcomes = list(
            threads.map(lambda n: sandbox.execute("python", f"print({n})", timeout_s=10), range(2))
        )
        assert sandbox.languages()[0].installed
    assert [outcome.stdout.text for outcome in outcomes] == ["0\n", "1\n"]


def test_a_program_that_configured_no_logging_hears_nothing() -> None:
    code = "import codecell\nwith codecell.open_sandbox_blocking() as s: s.execute('bash', 'ls')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")
