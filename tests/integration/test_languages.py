"""Every language of the table does what a caller may expect of it, in real cells.

The matrix is made from the table and tests/languages/<id>/: a new language is tested by being
added. Where its image is not built the tests fail in CI and are skipped on a desk.
"""

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from codecell import recipes
from codecell.app import open_runner
from codecell.backends.docker.images import list_images
from codecell.languages import LANGUAGES
from codecell.model import Outcome, Request, Status
from codecell.runner import Runner
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
PROGRAMS = Path(__file__).parents[1] / "languages"
COMPILED = [name for name, language in LANGUAGES.items() if language.compile]
WITH_ARGS = [name for name, language in LANGUAGES.items() if language.takes_args]
KERNEL_JUDGES = [name for name in LANGUAGES if any((PROGRAMS / name).glob("memory.*"))]
LINE = "zażółć 漢字 👩‍👩‍👧"  # noqa: RUF001  what else


def program(language: str, name: str) -> str:
    (path,) = (PROGRAMS / language).glob(f"{name}.*")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(engine: docker.APIClient, settings: Settings) -> set[str]:
    return set(list_images(engine, settings.engine.image_prefix))


@pytest.fixture(scope="module")
async def cold_runner(engine: docker.APIClient) -> AsyncIterator[Runner]:
    """One runner for the whole matrix, which makes a cell when one is wanted."""
    async with open_runner(load(), warm=False) as opened:
        yield opened


class Run:
    """Runs programs of a language, or does without where its image is missing."""

    def __init__(self, runner: Runner, installed: set[str]) -> None:
        self._runner = runner
        self._installed = installed

    async def __call__(self, language: str, code: str, **fields: object) -> Outcome:
        if language not in self._installed:
            advice = f"no image for {language}; run `codecell images build --all`"
            if os.environ.get("CI") == "true":
                pytest.fail(advice)
            pytest.skip(advice)
        request = Request(language=language, code=code, **fields)  # type: ignore[arg-type]
        return await self._runner.execute(request)


@pytest.fixture
def run(cold_runner: Runner, installed: set[str]) -> Run:
    return Run(cold_runner, installed)


def said(outcome: Outcome) -> str:
    """Everything there is to know when a test fails."""
    compiler = outcome.compile.output.text if outcome.compile else ""
    return f"{outcome.error_message}\n{compiler}\n{outcome.stdout.text}\n{outcome.stderr.text}"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_hello(run: Run, language: str) -> None:
    outcome = await run(language, recipes.read(language).hello().decode())
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert outcome.stdout.text.strip() == f"hello from {language}"
    assert outcome.stderr.text == ""
    assert (outcome.compile is not None) == bool(LANGUAGES[language].compile)
    assert outcome.compile is None or outcome.compile.output.text == ""


@pytest.mark.parametrize("language", LANGUAGES)
async def test_stdin_and_unicode(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "echo"), stdin=f"{LINE}\n")
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert outcome.stdout.text == f"« {LINE} »\n"


@pytest.mark.parametrize("language", WITH_ARGS)
async def test_args(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "args"), args=("a b", "--version", "ü", "x"))
    assert outcome.status is Status.SUCCESS, said(outcome)
    assert outcome.stdout.text.split("\n")[:-1] == ["a b", "--version", "ü", "x"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_exit_code(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "exit"))
    assert (outcome.status, outcome.exit_code) == (Status.EXECUTION_ERROR, 3), said(outcome)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_runtime_error(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "error"))
    assert outcome.status is Status.EXECUTION_ERROR, said(outcome)
    assert outcome.stderr.text or outcome.signal, said(outcome)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_timeout(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "loop"), timeout_s=1)
    assert outcome.status is Status.TIMEOUT, said(outcome)
    assert outcome.error_message == "Execution timed out after 1 seconds."
    assert 0.9 < outcome.usage.wall_s < 3


@pytest.mark.parametrize("language", COMPILED)
async def test_compile_error(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "broken"))
    assert outcome.status is Status.COMPILE_ERROR, said(outcome)
    assert outcome.compile is not None
    where = re.escape(outcome.plan.main) + r'(:|\(|", line )\d+'
    assert re.search(where, outcome.compile.output.text), said(outcome)
    assert (outcome.stdout.text, outcome.stderr.text, outcome.exit_code) == ("", "", None)


@pytest.mark.parametrize("language", KERNEL_JUDGES)
async def test_out_of_memory(run: Run, language: str) -> None:
    outcome = await run(language, program(language, "memory"), timeout_s=60)
    assert outcome.status is Status.OUT_OF_MEMORY, said(outcome)
