"""The manifest of guarantees, the tests and SECURITY.md say the same."""

import importlib.util
import re
from pathlib import Path
from typing import Any


def _manifest() -> Any:
    spec = importlib.util.spec_from_file_location(
        "security_requirements", Path(__file__).with_name("requirements.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MANIFEST = _manifest()


def test_every_requirement_has_a_test() -> None:
    assert set(MANIFEST.REQUIREMENTS) - {identifier for identifier, _ in MANIFEST.marks()} == set()


def test_every_marked_requirement_exists() -> None:
    assert {identifier for identifier, _ in MANIFEST.marks()} - set(MANIFEST.REQUIREMENTS) == set()


def test_every_test_in_this_folder_proves_a_requirement() -> None:
    marked = {test for _, test in MANIFEST.marks()}
    folder = Path(__file__).parent
    for path in sorted(folder.glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        for name in re.findall(
            r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.M
        ):
            assert f"security/{path.name}::{name}" in marked


def test_requirement_ids_are_area_and_name() -> None:
    for identifier in MANIFEST.REQUIREMENTS:
        assert re.fullmatch(r"[a-z]+:[a-z0-9-]+", identifier)


def test_guarantees_are_sentences() -> None:
    for requirement in MANIFEST.REQUIREMENTS.values():
        assert requirement.guarantee.endswith(".")
        assert requirement.mechanism
        assert "|" not in requirement.guarantee + requirement.mechanism


def test_what_is_otherwise_under_gvisor_names_real_tests() -> None:
    known = {test for _, test in MANIFEST.marks()} | set(MANIFEST.cases())
    assert set(MANIFEST.OTHERWISE) - known == set()


def test_security_md_has_exactly_these_tables() -> None:
    text = MANIFEST.SECURITY.read_text(encoding="utf-8")
    for mark in (MANIFEST.OPEN, MANIFEST.CLOSE, MANIFEST.OPEN_GVISOR, MANIFEST.CLOSE_GVISOR):
        assert text.count(mark) == 1
    assert text == MANIFEST.told(text), "run `python tests/security/requirements.py`"
