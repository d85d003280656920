"""The wheel alone, in a fresh environment, finds its recipes and builds an image from them."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import docker
import pytest

from codecell import recipes
from codecell.backends.docker.images import build_images, reference
from codecell.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.docker


def call(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel; its dependencies come from ours."""
    folder = tmp_path_factory.mktemp("fresh")
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A plain line adds the folder without running our own .pth files: the checkout stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin/python"


def test_the_installed_package_and_its_recipes_are_the_wheels(python: Path) -> None:
    script = "import codecell, codecell.recipes as r; print(codecell.__file__, r.folder())"
    package, recipe_folder = call(python, "-I", "-c", script).split()
    assert Path(package).is_relative_to(python.parents[1])
    assert Path(recipe_folder).is_relative_to(python.parents[1])


def test_an_image_is_built_from_the_wheels_recipes(
    python: Path, engine: docker.APIClient, image_settings: Settings
) -> None:
    prefix = image_settings.engine.image_prefix
    build_images(image_settings, ["bash"], lambda *_args, **_kwargs: None)  # the base is there now
    engine.remove_image(reference(prefix, "bash"), force=True)
    env = {"CODECELL_ENGINE__IMAGE_PREFIX": prefix}
    built = call(python, "-I", "-m", "codecell", "images", "build", "bash", **env)
    assert built.startswith(f"{prefix}/bash:latest  bash 5")
    listed = json.loads(call(python, "-I", "-m", "codecell", "images", "list", "--json", **env))
    (bash,) = [item for item in listed["images"] if item["language"] == "bash"]
    assert bash["current"]
    labels = engine.inspect_image(bash["digest"])["Config"]["Labels"]
    assert labels[recipes.LABEL_RECIPE] == recipes.read("bash").digest
