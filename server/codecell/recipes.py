"""The image recipes: where they are, what they hold, and the digest that tells a changed one.

A recipe is a folder of images/: a Dockerfile and the files it copies, read as bytes and never
executed here. Nothing in this module knows an engine.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from codecell.errors import ConfigurationError
from codecell.languages import LANGUAGES

BASE = "base"

LABEL_LANGUAGE = "codecell.language"
LABEL_RECIPE = "codecell.recipe"
LABEL_VERSION = "codecell.version"
LABEL_PACKAGES = "codecell.packages"  # name=version, space-separated
LABEL_INSTALLS = "codecell.installs"  # what a Dockerfile says that it installed on purpose
LABEL_PRELOAD = "codecell.preload"  # modules that a waiting Python imports ahead of time
LABEL_PREFIX = "codecell.prefix"
LABEL_BUILD = "codecell.build"  # the prefix while an image is being made; empty on a finished one

_FORMAT = b"codecell recipe 1\n"  # raised when the way a recipe is built changes


@dataclass(frozen=True, slots=True)
class Recipe:
    """One folder of images/, read.

    Attributes:
        name: a language's id, or `base`.
        files: (relative path, content) in the order of their paths; the build context.
        digest: over the files and, for a language, over the base's; hexadecimal.
    """

    name: str
    files: tuple[tuple[str, bytes], ...]
    digest: str

    def content(self, path: str) -> bytes:
        """Return one file of the recipe.

        Raises:
            ConfigurationError: the recipe has no such file.
        """
        for name, data in self.files:
            if name == path:
                return data
        raise ConfigurationError(f"the recipe of {self.name} has no file {path}")

    def hello(self) -> bytes:
        """Return the self-test program, which prints `hello from LANGUAGE`."""
        for name, data in self.files:
            if name.startswith("hello."):
                return data
        raise ConfigurationError(f"the recipe of {self.name} has no self-test program hello.*")


def folder() -> Path:
    """Find images/: inside an installed wheel, beside server/ in a checkout.

    Raises:
        ConfigurationError: neither is there; the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "_images", package.parents[1] / "images"):
        if (candidate / BASE / "Dockerfile").is_file():
            return candidate
    raise ConfigurationError("the image recipes are missing; install codecell again")


def read(name: str, root: Path | None = None) -> Recipe:
    """Read the recipe of a language or of `base`.

    Args:
        name: a language's id, or `base`.
        root: another images/ folder than the installed one.

    Raises:
        ConfigurationError: there is no such recipe.
    """
    root = folder() if root is None else root
    if name != BASE and name not in LANGUAGES:
        raise ConfigurationError(f"unknown language {name!r}; known: {', '.join(LANGUAGES)}")
    if not (root / name / "Dockerfile").is_file():
        raise ConfigurationError(f"there is no recipe for {name}: {root / name} has no Dockerfile")
    files = _files(root / name)
    below = () if name == BASE else _files(root / BASE)
    return Recipe(name, files, digest(files, below))


def digest(*groups: tuple[tuple[str, bytes], ...]) -> str:
    """Hash groups of files so that neither a name nor a content can stand for another."""
    total = hashlib.sha256(_FORMAT)
    for group in groups:
        total.update(b"group %d\n" % len(group))
        for name, data in group:
            encoded = name.encode()
            total.update(b"%d %d\n" % (len(encoded), len(data)))
            total.update(encoded + data)
    return total.hexdigest()


def _files(path: Path) -> tuple[tuple[str, bytes], ...]:
    found = (
        (item.relative_to(path).as_posix(), item)
        for item in path.rglob("*")
        if item.is_file() and not _is_clutter(item.relative_to(path))
    )
    return tuple((name, item.read_bytes()) for name, item in sorted(found))


def _is_clutter(path: Path) -> bool:
    return any(
        part.startswith(".") or part.endswith("~") or part == "__pycache__" for part in path.parts
    )
