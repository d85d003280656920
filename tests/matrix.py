"""The programs of the matrix: tests/languages/<id>/ has one of each kind."""

from pathlib import Path

PROGRAMS = Path(__file__).parent / "languages"


def program(language: str, name: str) -> str:
    """Return one program's text."""
    (path,) = (PROGRAMS / language).glob(f"{name}.*")
    return path.read_text(encoding="utf-8")
