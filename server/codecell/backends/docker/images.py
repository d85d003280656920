"""Our images on the engine: which there are, and making the ones that are missing or outdated.

    base:      root file system (registry, else mmdebstrap) -> build -> self-test -> label and tag
    language:                                     FROM base -> build -> self-test -> label and tag

Until the last stage an image has a temporary name only, so an interrupted build never looks like a
finished one. Everything here blocks.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import docker
from docker.errors import ImageNotFound

from codecell import recipes
from codecell.backends.docker import building
from codecell.backends.docker.building import Progress, StepReport, Subject
from codecell.backends.docker.connect import connect, engine_errors, locate
from codecell.errors import ConfigurationError, SandboxError
from codecell.host import GIB, disk_full, free_bytes
from codecell.languages import LANGUAGES
from codecell.recipes import BASE, Recipe
from codecell.sandbox import Image
from codecell.settings import Settings

AT_A_TIME = 2
REGISTRY_TIMEOUT_S = 20.0
BUILD_TIMEOUT_S = 900.0  # the longest silence of one build, not its length
NEEDED_BYTES = GIB

# The last layer: who runs what where is decided per cell; these are only the safe defaults.
_FINAL = """FROM {image}
USER {user}:{user}
WORKDIR /sandbox
ENTRYPOINT []
CMD []
"""


def reference(prefix: str, language: str) -> str:
    """Return the name under which a finished image is found."""
    return f"{prefix}/{language}:latest"


def list_images(
    client: docker.APIClient, prefix: str, own: Mapping[str, str] | None = None
) -> dict[str, Image]:
    """Return the finished images by language, in the order of the table; one engine call.

    Args:
        client: the engine.
        prefix: whose images of ours.
        own: language to image, of those that the operator brought; one call more for each.

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    with engine_errors("listing images"):
        found = client.images(filters={"label": f"{recipes.LABEL_PREFIX}={prefix}"})
    tagged = {tag: item for item in found for tag in item.get("RepoTags") or ()}
    images = {}
    for language in LANGUAGES:
        item = tagged.get(reference(prefix, language))
        if item is None or (item.get("Labels") or {}).get(recipes.LABEL_LANGUAGE) != language:
            continue
        labels = item["Labels"]
        images[language] = Image(
            language=language,
            reference=reference(prefix, language),
            digest=item["Id"],
            version=labels.get(recipes.LABEL_VERSION, ""),
            packages=tuple(labels.get(recipes.LABEL_PACKAGES, "").split()),
            size_bytes=int(item.get("Size", 0)),
            current=labels.get(recipes.LABEL_RECIPE) == recipes.read(language).digest,
        )
    for language, name in (own or {}).items():
        image = _own_image(client, language, name)
        if image is None:
            images.pop(language, None)
        else:
            images[language] = image
    return images


def _own_image(client: docker.APIClient, language: str, name: str) -> Image | None:
    """Look an operator's image up; what it holds is for the operator to know."""
    with engine_errors("looking for an image"):
        try:
            item = client.inspect_image(name)
        except ImageNotFound:
            return None
    return Image(
        language=language,
        reference=name,
        digest=item["Id"],
        version=((item.get("Config") or {}).get("Labels") or {}).get(recipes.LABEL_VERSION, ""),
        packages=(),
        size_bytes=int(item.get("Size", 0)),
        current=True,
    )


def own_images(settings: Settings) -> dict[str, str]:
    """Name the operator's own images, by language."""
    return {name: language.image for name, language in settings.table.items() if language.image}


def ours(settings: Settings) -> tuple[str, ...]:
    """Name the languages whose images are built here."""
    return tuple(name for name, language in settings.table.items() if not language.image)


def build_images(
    settings: Settings,
    languages: Sequence[str],
    progress: Progress,
    *,
    force: bool = False,
) -> dict[str, Image]:
    """Bring the images of some languages up to date; quick when they already are.

    Args:
        settings: the engine, the image prefix and the limits of the self-test.
        languages: ids of the table; each is built at most once.
        progress: told what is going on, from several threads.
        force: build even what is up to date, with today's packages.

    Returns:
        All images of ours there are afterwards.

    Raises:
        ConfigurationError: a language without a recipe.
        EngineUnavailable: no engine answers.
        SandboxError: a build or a self-test failed, or the disk is too full; one line.
    """
    for name in languages:
        if name in settings.table and settings.table[name].image:
            raise ConfigurationError(f"languages.{name} has an image of its own: nothing to build")
    wanted = [recipes.read(name) for name in dict.fromkeys(languages)]
    prefix = settings.engine.image_prefix
    with closing(connect(settings.engine)) as client:
        if not force and not _outdated(client, prefix, wanted):
            return list_images(client, prefix)
        with _only_builder(prefix, lambda: progress(BASE, 0, 1, "waiting for another build")):
            todo = wanted if force else _outdated(client, prefix, wanted)
            if todo:
                _check_space(client, settings)
                _build_all(client, settings, todo, progress, force=force)
            return list_images(client, prefix)


def _outdated(client: docker.APIClient, prefix: str, wanted: Sequence[Recipe]) -> list[Recipe]:
    there = list_images(client, prefix)
    return [item for item in wanted if item.name not in there or not there[item.name].current]


def _build_all(
    client: docker.APIClient,
    settings: Settings,
    todo: Sequence[Recipe],
    progress: Progress,
    *,
    force: bool,
) -> None:
    prefix = settings.engine.image_prefix
    stop = Event()
    building.remove_leftovers(client, prefix)
    try:
        base = recipes.read(BASE)
        if force or not _is_current(client, prefix, base):
            with closing(connect(settings.engine, timeout_s=BUILD_TIMEOUT_S)) as worker:
                _Build(worker, settings, base, progress, stop, force=force).run()

        def one(recipe: Recipe) -> None:
            with closing(connect(settings.engine, timeout_s=BUILD_TIMEOUT_S)) as worker:
                _Build(worker, settings, recipe, progress, stop, force=force).run()

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            jobs = [pool.submit(one, recipe) for recipe in todo]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        building.remove_leftovers(client, prefix)


def _is_current(client: docker.APIClient, prefix: str, recipe: Recipe) -> bool:
    with engine_errors("looking for the base image"):
        found = client.images(
            name=reference(prefix, recipe.name),
            filters={"label": f"{recipes.LABEL_RECIPE}={recipe.digest}"},
        )
    return bool(found)


def _silent(number: int, text: str, *, detail: bool = False) -> None:
    """Report nothing: the stages that take no time."""


class _Build:
    """One image on its way through the stages."""

    def __init__(
        self,
        client: docker.APIClient,
        settings: Settings,
        recipe: Recipe,
        progress: Progress,
        stop: Event,
        *,
        force: bool,
    ) -> None:
        self._client = client
        self._settings = settings
        self._recipe = recipe
        self._progress = progress
        self._stop = stop
        self._force = force
        self._prefix = settings.engine.image_prefix
        self._temporary = f"{self._prefix}/{recipe.name}:building"
        self._first = 1 if recipe.name == BASE else 0
        written = building.count_instructions(recipe.content("Dockerfile").decode())
        self._steps = self._first + written + 2

    def run(self) -> None:
        """Take the image through every stage."""
        ground = self._root() if self._recipe.name == BASE else reference(self._prefix, BASE)
        self._make(
            self._recipe.files,
            tag=self._temporary,
            arguments={"BASE": ground},
            labels={},
            report=self._instruction,
        )
        self._say(self._steps - 1, "self-test")
        proven = building.prove(
            self._client, self._temporary, self._subject(), self._recipe, self._prefix
        )
        final = _FINAL.format(image=self._temporary, user=building.NOBODY)
        labels = {
            recipes.LABEL_PREFIX: self._prefix,
            recipes.LABEL_BUILD: "",
            recipes.LABEL_LANGUAGE: self._recipe.name,
            recipes.LABEL_RECIPE: self._recipe.digest,
            recipes.LABEL_VERSION: proven.version,
            recipes.LABEL_PACKAGES: " ".join(proven.packages),
        }
        if self._recipe.name == BASE:  # languages are built on it, as root, and inherit the label
            final = f"FROM {self._temporary}\n"
            labels[recipes.LABEL_BUILD] = self._prefix
        self._make(
            (("Dockerfile", final.encode()),),
            tag=reference(self._prefix, self._recipe.name),
            arguments={},
            labels=labels,
            report=_silent,
        )
        self._say(self._steps, f"ready: {self._recipe.name} {proven.version}")

    def _say(self, step: int, text: str, *, detail: bool = False) -> None:
        self._progress(self._recipe.name, step, self._steps, text, detail=detail)

    def _instruction(self, number: int, text: str, *, detail: bool = False) -> None:
        self._say(self._first + number, text, detail=detail)

    def _rooting(self, text: str, *, detail: bool = False) -> None:
        self._say(1, text, detail=detail)

    def _root(self) -> str:
        """Return the name of a Debian root file system that carries our build label."""
        tag = f"{self._temporary}-root"
        pinned = self._recipe.content("debian.digest").decode().strip()
        self._say(1, f"looking for {pinned.partition('@')[0]}")
        with closing(connect(self._settings.engine, timeout_s=REGISTRY_TIMEOUT_S)) as client:
            found = building.pull(client, pinned, self._rooting)
        if not found:
            pinned = f"{self._temporary}-debian"
            self._say(1, "no registry answers: making Debian with mmdebstrap")
            building.import_debian(self._client, pinned, self._rooting)
        labels = {recipes.LABEL_PREFIX: self._prefix, recipes.LABEL_BUILD: self._prefix}
        self._make(
            (("Dockerfile", f"FROM {pinned}\n".encode()),),
            tag=tag,
            arguments={},
            labels=labels,
            report=_silent,
        )
        return tag

    def _make(
        self,
        files: tuple[tuple[str, bytes], ...],
        *,
        tag: str,
        arguments: dict[str, str],
        labels: dict[str, str],
        report: StepReport,
    ) -> None:
        building.build(
            self._client,
            files,
            tag=tag,
            arguments=arguments,
            labels=labels,
            fresh=self._force,
            report=report,
            cancelled=self._stop.is_set,
        )

    def _subject(self) -> Subject:
        limits = self._settings.limits
        if self._recipe.name == BASE:
            return building.base_subject(memory_bytes=limits.memory, pids=limits.processes)
        language = self._settings.table[self._recipe.name]
        return building.subject_of(language, self._settings, self._recipe.hello().decode())


def _check_space(client: docker.APIClient, settings: Settings) -> None:
    """Refuse early where the engine is on this machine and its disk is nearly full.

    Raises:
        SandboxError: too little space for an image.
    """
    if not locate(settings.engine).is_local:
        return
    with engine_errors("asking where the engine keeps its images"):
        root = Path(client.info().get("DockerRootDir", ""))
    if root.is_dir() and (free := free_bytes(root)) < NEEDED_BYTES:
        raise SandboxError(disk_full("the images", free, NEEDED_BYTES, str(root)))


def lock_path(prefix: str) -> Path:
    """Return the lock file of a prefix; it stays, for removing it would race with a waiter."""
    name = hashlib.sha256(prefix.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"codecell-build-{os.getuid()}-{name}.lock"


@contextmanager
def _only_builder(prefix: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the right to build under a prefix; the kernel takes it from the dead."""
    handle = os.open(
        lock_path(prefix), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
