"""tool_schemas/ is what the server publishes: generated, and compared here."""

from pathlib import Path

import pytest

from codecell import schemas

FOLDER = Path(__file__).parents[2] / "tool_schemas"


def test_the_folder_holds_exactly_the_published_tools() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(schemas.documents())


@pytest.mark.parametrize("name", schemas.documents())
def test_a_document_is_up_to_date(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == schemas.documents()[name], "run: python -m codecell.schemas tool_schemas"


def test_writing_makes_the_same_files(tmp_path: Path) -> None:
    schemas.write(tmp_path / "made")
    for name, content in schemas.documents().items():
        assert (tmp_path / "made" / name).read_text(encoding="utf-8") == content
