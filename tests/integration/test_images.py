"""Images made on a real engine: complete, confined, noticed when outdated, never half there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from codecell import recipes
from codecell.backends.docker.building import NOBODY
from codecell.backends.docker.images import build_images, list_images, reference
from codecell.errors import SandboxError
from codecell.languages import DEFAULT_SET, LANGUAGES
from codecell.sandbox import Image
from codecell.settings import Settings

pytestmark = pytest.mark.docker

Event = tuple[str, int, int, str]
Build = Callable[..., tuple[dict[str, Image], list[Event]]]


class Events:
    """Collects the progress of a build."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def __call__(
        self, image: str, step: int, steps: int, text: str, *, detail: bool = False
    ) -> None:
        if not detail:
            self.seen.append((image, step, steps, text))


@pytest.fixture
def build(image_settings: Settings) -> Build:
    def run(*languages: str, force: bool = False) -> tuple[dict[str, Image], list[Event]]:
        events = Events()
        return build_images(image_settings, languages, events, force=force), events.seen

    return run


@pytest.fixture
def prefix(image_settings: Settings) -> str:
    return image_settings.engine.image_prefix


@pytest.fixture
def recipe_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of images/ that the build takes for the installed one."""
    copy = shutil.copytree(recipes.folder(), tmp_path / "images")
    monkeypatch.setattr(recipes, "folder", lambda: copy)
    return copy


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def said(engine: docker.APIClient, image: str, command: list[str]) -> str:
    """Run a command in an image and return its output."""
    created = engine.create_container(image, command)["Id"]
    try:
        engine.start(created)
        engine.wait(created, timeout=60)
        text: str = engine.logs(created, stdout=True, stderr=False).decode()
    finally:
        engine.remove_container(created, force=True)
    return text


def leftovers(engine: docker.APIClient, prefix: str) -> list[str]:
    label = f"{recipes.LABEL_BUILD}={prefix}"
    containers = [c["Id"] for c in engine.containers(all=True, filters={"label": label})]
    tags = [t for i in engine.images(filters={"reference": f"{prefix}/*"}) for t in i["RepoTags"]]
    return containers + [tag for tag in tags if "building" in tag]


def test_a_built_image_is_labelled_with_what_is_really_in_it(
    build: Build, engine: docker.APIClient, prefix: str
) -> None:
    images, _ = build("python", "bash")
    assert set(images) == {"python", "bash"}
    image = images["python"]
    assert image.current
    assert image.reference == f"{prefix}/python:latest"
    assert image.version.startswith("3.13")
    assert [name.split("=")[0] for name in image.packages] == ["python3"]
    labels = engine.inspect_image(image.digest)["Config"]["Labels"]
    assert labels[recipes.LABEL_RECIPE] == recipes.read("python").digest
    assert leftovers(engine, prefix) == []


def test_a_built_image_gives_a_program_nothing_to_climb_on(
    build: Build, engine: docker.APIClient
) -> None:
    images, _ = build("bash")
    config = engine.inspect_image(images["bash"].digest)["Config"]
    assert config["User"] == f"{NOBODY}:{NOBODY}"
    assert not config.get("Volumes")
    assert not config.get("Healthcheck")
    script = (
        "find / -xdev -perm /6000; find / -xdev -type f -writable -not -path '/proc/*' "
        "-not -path '/sys/*' -not -path '/dev/*'; ls -A /var/lib/apt/lists /var/cache/apt"
        "; test -d /sandbox -a -d /tmp -a -x /usr/bin/python3 || echo incomplete"
    )
    text = said(engine, images["bash"].digest, ["/bin/bash", "-c", script])
    assert text.split() == ["/var/cache/apt:", "/var/lib/apt/lists:"]


def test_an_image_that_is_up_to_date_is_left_alone(build: Build) -> None:
    before, _ = build("bash")
    after, events = build("bash")
    assert events == []
    assert after == before


def test_a_changed_recipe_is_noticed_and_rebuilt(
    build: Build, engine: docker.APIClient, prefix: str, recipe_copy: Path
) -> None:
    before, _ = build("bash")
    append(recipe_copy / "bash/hello.sh", "# changed\n")
    assert not list_images(engine, prefix)["bash"].current
    after, events = build("bash")
    assert after["bash"].current
    assert after["bash"].digest != before["bash"].digest
    assert events[-1] == ("bash", 6, 6, f"ready: bash {after['bash'].version}")


def test_a_failing_self_test_leaves_the_image_as_it_was(
    build: Build, engine: docker.APIClient, prefix: str, recipe_copy: Path
) -> None:
    before, _ = build("bash")
    append(recipe_copy / "bash/hello.sh", "exit 3\n")
    with pytest.raises(SandboxError, match="self-test of bash failed with status 3"):
        build("bash")
    after = list_images(engine, prefix)["bash"]
    assert after.digest == before["bash"].digest
    assert not after.current
    assert leftovers(engine, prefix) == []


def test_a_failing_instruction_is_quoted_in_one_line(build: Build, recipe_copy: Path) -> None:
    append(recipe_copy / "bash/Dockerfile", "RUN echo all is lost && exit 7\n")
    with pytest.raises(SandboxError, match="'RUN echo all is lost && exit 7'") as caught:
        build("bash")
    assert "all is lost" in str(caught.value)
    assert "\n" not in str(caught.value)


_KILLED = """
import sys
from pathlib import Path
from codecell import recipes
from codecell.backends.docker.images import build_images
from codecell.settings import load
recipes.folder = lambda: Path(sys.argv[1])
def progress(image, step, steps, text, *, detail=False):
    print(text, flush=True)
build_images(load(flags={"engine": {"image_prefix": sys.argv[2]}}), ["bash"], progress)
"""


def test_a_killed_build_leaves_no_image_and_the_next_one_cleans_up(
    build: Build, engine: docker.APIClient, prefix: str, recipe_copy: Path
) -> None:
    build("python")
    name = reference(prefix, "bash")
    if any(name in (item["RepoTags"] or ()) for item in engine.images()):
        engine.remove_image(name, force=True)
    dockerfile = recipe_copy / "bash/Dockerfile"
    sound = dockerfile.read_text(encoding="utf-8")
    append(dockerfile, "RUN sleep 30\n")
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(recipe_copy), prefix],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        for line in process.stdout or ():
            if line.startswith("RUN sleep"):
                break
        process.kill()
    assert "bash" not in list_images(engine, prefix)
    dockerfile.write_text(sound, encoding="utf-8")
    images, _ = build("bash")
    assert images["bash"].current
    assert leftovers(engine, prefix) == []


def test_force_builds_what_is_up_to_date(build: Build, prefix: str, recipe_copy: Path) -> None:
    first, _ = build("bash")
    ground = f"{prefix}/base:latest"
    (recipe_copy / "base/debian.digest").write_text(ground, encoding="utf-8")
    forced, events = build("bash", force=True)
    assert {event[0] for event in events} == {"base", "bash"}
    assert forced["bash"].version == first["bash"].version
    assert not any("mmdebstrap" in event[3] for event in events)


def test_two_images_are_built_at_a_time_and_each_tells_how_far_it_is(
    build: Build, recipe_copy: Path
) -> None:
    build("python", "bash")
    append(recipe_copy / "python/hello.py", "# changed\n")
    append(recipe_copy / "bash/hello.sh", "# changed\n")
    _, events = build("python", "bash")
    names = [event[0] for event in events]
    assert max(names.index("python"), names.index("bash")) < min(
        index for index, event in enumerate(events) if event[3].startswith("ready: ")
    )
    for name in ("python", "bash"):
        steps = [step for image, step, _, _ in events if image == name]
        assert steps == sorted(steps)
        assert steps[-1] == 6


def codecell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codecell", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "built"),
    [
        ((), DEFAULT_SET),
        (("py", "Node"), ("python", "javascript")),
        (("--all",), tuple(LANGUAGES)),
    ],
    ids=["default", "some", "all"],
)
def test_the_command_builds_the_default_set_some_or_all(
    installed: set[str], names: tuple[str, ...], built: tuple[str, ...]
) -> None:
    if not set(built) <= installed:
        advice = "not every image is built; run `codecell images build --all`"
        if os.environ.get("CI") == "true":
            pytest.fail(advice)
        pytest.skip(advice)
    done = codecell("images", "build", *names)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(built)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("python", "--all"), "name languages or say --all, not both"),
        (("cobol",), "unknown language 'cobol'; known: python, javascript"),
    ],
)
def test_what_can_not_be_built_is_refused_in_a_sentence(names: tuple[str, ...], words: str) -> None:
    done = codecell("images", "build", *names)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CLUTTER = """
find /var/lib/apt/lists /var/cache/apt /var/log /tmp /home /sandbox -type f
find /usr/share/doc /usr/share/man /usr/share/info /usr/share/lintian /usr/share/locale \
    -type f ! -name copyright ! -name locale.alias ! -path /usr/share/info/dir
"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_image_holds_no_caches_and_no_documentation(
    engine: docker.APIClient, settings: Settings, installed: set[str], language: str
) -> None:
    """And it is as large as the README says, within a tenth."""
    if language not in installed:
        pytest.skip(f"no image for {language}")
    name = reference(settings.engine.image_prefix, language)
    text = said(engine, name, ["/bin/sh", "-c", CLUTTER])
    assert text.split() == []
    size = engine.inspect_image(name)["Size"] / 1e6
    stated = re.search(rf"^\| {language} \| ([\d.]+) ([MG])B", README, re.MULTILINE)
    if stated is None:
        stated = re.search(
            r"^\| each of the others \| at most ([\d.]+) ([MG])B", README, re.MULTILINE
        )
        assert stated is not None
        assert size < 1.1 * float(stated[1])
    else:
        mb = float(stated[1]) * (1000 if stated[2] == "G" else 1)
        assert 0.9 < size / mb < 1.1
