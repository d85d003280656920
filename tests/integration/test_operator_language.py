"""docs/tutorials/add_a_language.md, carried out: its image, its entry, its program."""

import re
from pathlib import Path

import docker
import pytest

from codecell.app import open_runner
from codecell.backends.docker import building
from codecell.model import Request, Status
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
PAGE = (Path(__file__).parents[2] / "docs/tutorials/add_a_language.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    match = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def config(engine: docker.APIClient, settings: Settings, tmp_path: Path) -> Path:
    """The page's codecell.toml, with its image built."""
    ours = f"{settings.engine.image_prefix}/base"
    dockerfile = block("dockerfile").replace("codecell/base", ours)
    building.build(
        engine, [("Dockerfile", dockerfile.encode())], tag="my/tcl:latest", arguments={},
        labels={}, fresh=False, report=lambda *_, **__: None, cancelled=lambda: False,
    )  # fmt: skip
    file = tmp_path / "codecell.toml"
    file.write_text(block("toml"), encoding="utf-8")
    return file


async def test_the_tutorial(config: Path) -> None:
    async with open_runner(load(config), warm=False) as runner:
        program = 'puts "hello from tcl [lindex $argv 0]"'
        outcome = await runner.execute(Request(language="tclsh", code=program, args=("é",)))
        listed = {language.id: language for language in await runner.languages()}
    assert outcome.status is Status.SUCCESS, outcome.error_message
    assert outcome.stdout.text == "hello from tcl é\n"
    assert outcome.isolation.image == "my/tcl"
    assert outcome.plan.cell.limits.memory_bytes == 128 << 20
    assert listed["tcl"].installed
    assert listed["tcl"].notes == "Tcl 8.6 without Tk."


async def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "codecell.toml"
    file.write_text(block("toml").replace("my/tcl", "my/absent"), encoding="utf-8")
    async with open_runner(load(file), warm=False) as runner:
        outcome = await runner.execute(Request(language="tcl", code="puts 1"))
        listed = {language.id: language for language in await runner.languages()}
    assert outcome.status is Status.SETUP_ERROR
    assert outcome.error_message == "there is no image my/absent (languages.tcl.image)"
    assert not listed["tcl"].installed
