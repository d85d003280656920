"""The recipes: one per language, and a digest that nothing can change unseen."""

import shutil
from pathlib import Path

import pytest

from codecell import recipes
from codecell.errors import ConfigurationError
from codecell.languages import LANGUAGES


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(recipes.folder(), tmp_path / "images")


def test_every_language_has_a_recipe_and_every_recipe_a_language() -> None:
    folders = {path.name for path in recipes.folder().iterdir() if path.is_dir()}
    assert folders == {*LANGUAGES, recipes.BASE}


@pytest.mark.parametrize("name", [*LANGUAGES, recipes.BASE])
def test_every_recipe_has_a_self_test_that_says_its_name(name: str) -> None:
    assert f"hello from {name}".encode() in recipes.read(name).hello()


@pytest.mark.parametrize("name", [*LANGUAGES, recipes.BASE])
def test_no_recipe_declares_a_volume_or_a_health_check(name: str) -> None:
    dockerfile = recipes.read(name).content("Dockerfile").decode()
    words = {line.split()[0] for line in dockerfile.splitlines() if line.strip()}
    assert not words & {"VOLUME", "HEALTHCHECK", "ADD"}


def test_the_debian_image_is_pinned_by_digest() -> None:
    pinned = recipes.read(recipes.BASE).content("debian.digest").decode().strip()
    name, _, digest = pinned.partition("@sha256:")
    assert name == "debian:trixie-slim"
    assert len(bytes.fromhex(digest)) == 32


def test_the_same_files_give_the_same_digest(copy: Path) -> None:
    assert recipes.read("bash", copy) == recipes.read("bash")


def test_a_changed_file_changes_the_digest_of_its_own_language_only(copy: Path) -> None:
    before = {name: recipes.read(name, copy).digest for name in LANGUAGES}
    with (copy / "bash/Dockerfile").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    changed = {name for name in LANGUAGES if recipes.read(name, copy).digest != before[name]}
    assert changed == {"bash"}


def test_a_changed_base_changes_the_digest_of_every_language(copy: Path) -> None:
    before = {name: recipes.read(name, copy).digest for name in LANGUAGES}
    (copy / "base/extra").write_text("new", encoding="utf-8")
    assert all(recipes.read(name, copy).digest != before[name] for name in LANGUAGES)


def test_neither_a_name_nor_a_content_can_stand_for_the_other() -> None:
    assert recipes.digest((("a", b"bc"),)) != recipes.digest((("ab", b"c"),))
    assert recipes.digest((("a", b""),), ()) != recipes.digest((), (("a", b""),))


def test_an_editors_leftovers_do_not_count(copy: Path) -> None:
    before = recipes.read("bash", copy).digest
    for name in ("hello.sh~", ".hello.sh.swp"):
        (copy / "bash" / name).write_text("x", encoding="utf-8")
    assert recipes.read("bash", copy).digest == before


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="unknown language 'cobol'; known: python"):
        recipes.read("cobol")


def test_a_recipe_without_dockerfile_is_said_to_be_missing(copy: Path) -> None:
    (copy / "bash/Dockerfile").unlink()
    with pytest.raises(ConfigurationError, match="no recipe for bash"):
        recipes.read("bash", copy)
