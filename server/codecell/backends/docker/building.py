"""The stages an image passes through on the engine: root file system, build, self-test, label.

A stage either finishes or raises; which stages run, and in what order, is decided in `images`.
Everything here blocks.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from codecell import bootstrap, policy, recipes
from codecell.backends.docker.connect import engine_errors, one_line
from codecell.errors import SandboxError
from codecell.host import Report
from codecell.language import SANDBOX, Language
from codecell.recipes import Recipe
from codecell.settings import DEFAULT, Settings
from codecell.words import Words

SUITE = "trixie"
NOBODY = 65534
MIB = 1024 * 1024
SELF_TEST_TIMEOUT_S = 60
_PROGRESS_LINE = re.compile(r"(Get:\d+|Unpacking|Setting up|Processing triggers|I: )")

# Runs in the new image: the version, the packages and the self-test, in one container. Arguments:
# one JSON object {file, code, version, steps, packages}; answer: one JSON object on stdout.
_PROBE = """
import json, os, subprocess, sys
def run(argv, env={}):
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=50, env={**os.environ, **env}
    )
    return [done.returncode, *(out.decode(errors="replace") for out in (done.stdout, done.stderr))]
job = json.loads(sys.argv[1])
with open(job["file"], "w", encoding="utf-8") as program:
    program.write(job["code"])
answer = {"version": run(job["version"]), "steps": [run(*step) for step in job["steps"]]}
query = ["dpkg-query", "-W", "-f", "${Package}=${Version}\\n", *job["packages"]]
answer["packages"] = run(query) if job["packages"] else [0, "", ""]
print(json.dumps(answer))
"""


class Progress(Protocol):
    """Told what is being done to which image; called from several threads."""

    def __call__(
        self, image: str, step: int, steps: int, text: str, *, detail: bool = False
    ) -> None:
        """Show that `image` is at `step` of `steps`, which `text` describes.

        A detail is some tool's own output, for displays with room for it.
        """


class StepReport(Protocol):
    """Told which instruction of a build is running."""

    def __call__(self, number: int, text: str, *, detail: bool = False) -> None:
        """Show instruction `number` and what it does, or as a detail what it says."""


class Canceller(Protocol):
    """Asked between two lines of an engine's output whether to go on."""

    def __call__(self) -> bool:
        """Tell whether the whole build has been given up."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What the self-test needs to know of a language, or of the base."""

    name: str
    file_name: str
    steps: tuple[tuple[tuple[str, ...], dict[str, str]], ...]
    version: tuple[str, ...]
    memory_bytes: int
    pids: int


def subject_of(language: Language, settings: Settings, code: str) -> Subject:
    """Derive the self-test of a language from the table; pure."""
    words = Words.of(language, settings.rules[DEFAULT], code)
    limits = policy.cell_spec(language, settings).limits
    steps = tuple(
        (words.fill(command), dict(words.fill_values(env)))
        for command, env in (
            (language.compile, language.compile_env),
            (language.run, language.env),
        )
        if command
    )
    return Subject(
        name=language.id,
        file_name=words.file_name,
        steps=steps,
        version=language.version,
        memory_bytes=limits.memory_bytes,
        pids=limits.pids,
    )


def base_subject(*, memory_bytes: int, pids: int) -> Subject:
    """Return the self-test of the base: the agent's own interpreter."""
    main = f"{SANDBOX}/hello.py"
    return Subject(
        recipes.BASE,
        "hello.py",
        ((("/usr/bin/python3", main), {}),),
        ("/bin/cat", "/etc/debian_version"),
        memory_bytes,
        pids,
    )


@dataclass(frozen=True, slots=True)
class Proven:
    """What the self-test found in an image."""

    version: str
    packages: tuple[str, ...]


def extract_version(text: str) -> str:
    """Find the version number in what a program prints about itself.

    Raises:
        ValueError: there is no number in it.
    """
    match = re.search(r"\d+(?:\.\d+)+", text) or re.search(r"\d+", text)
    if match is None:
        raise ValueError(f"no version number in {text.strip()!r}")
    return match.group()


def count_instructions(dockerfile: str) -> int:
    """Count a Dockerfile's instructions, as the engine's `Step i/n` does."""
    count, continued = 0, False
    for line in dockerfile.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        count += not continued
        continued = text.endswith("\\")
    return count


def context(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Pack a build context; the same files give the same bytes, so the engine's cache holds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def pull(client: docker.APIClient, reference: str, report: Report) -> bool:
    """Fetch a pinned image; False where no registry answers, for the caller to do without.

    The client's own timeout bounds each silent moment.
    """
    try:
        client.inspect_image(reference)
    except NotFound:
        pass
    else:
        return True
    try:
        for line in client.pull(reference, stream=True, decode=True):
            if "error" in line:
                report(f"the registry does not help: {one_line(line['error'])}")
                return False
            report(f"{line.get('status', '')} {line.get('progress', '')}".strip(), detail=True)
        client.inspect_image(reference)
    except (DockerException, requests.RequestException, OSError) as error:
        report(f"the registry does not help: {one_line(error)}")
        return False
    return True


def import_debian(client: docker.APIClient, tag: str, report: Report) -> None:
    """Make the root file system with mmdebstrap and import it under a tag.

    Raises:
        SandboxError: it could not be made.
    """
    repository, _, name = tag.rpartition(":")
    settings = recipes.folder() / recipes.BASE / "dpkg.cfg"
    with (
        bootstrap.debian_tarball(SUITE, settings, report) as stream,
        engine_errors(f"importing {tag}"),
    ):
        client.import_image(
            stream, repository, name, changes=['CMD ["/bin/bash"]'], stream_src=True
        )


def build(
    client: docker.APIClient,
    files: Iterable[tuple[str, bytes]],
    *,
    tag: str,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    fresh: bool,
    report: StepReport,
    cancelled: Canceller,
) -> None:
    """Build a context into a tag; the tag appears only when every instruction succeeded.

    Args:
        fresh: do without the engine's cache.
        report: told the number of the instruction and what it does.

    Raises:
        SandboxError: an instruction failed; with its last line.
        EngineUnavailable: the engine went away.
    """
    with engine_errors(f"building {tag}"):
        stream = client.build(
            fileobj=io.BytesIO(context(files)),
            custom_context=True,
            tag=tag,
            buildargs=dict(arguments),
            labels=dict(labels),
            nocache=fresh,
            rm=True,
            forcerm=True,
            decode=True,
        )
        with closing(stream):
            _follow_build(stream, tag, report, cancelled)


def _follow_build(
    stream: Iterator[dict[str, Any]], tag: str, report: StepReport, cancelled: Canceller
) -> None:
    number, doing, last = 0, "", ""
    for line in stream:
        if cancelled():
            raise SandboxError(f"building {tag} was given up")
        if "error" in line:
            why = f"{one_line(line['error'])}; {last}" if last else one_line(line["error"])
            raise SandboxError(f"building {tag} failed at {doing!r}: {why}")
        for text in str(line.get("stream", "")).splitlines():
            text = text.strip()
            step = re.match(r"Step (\d+)/\d+ : (.*)", text)
            if step:
                number, doing = int(step[1]), step[2]
                report(number, doing)
            elif text and not text.startswith(("--->", "Removing", "Successfully")):
                last = text
                if _PROGRESS_LINE.match(text):
                    report(number, text, detail=True)


def prove(
    client: docker.APIClient, image: str, subject: Subject, recipe: Recipe, build_label: str
) -> Proven:
    """Run an image's self-test, confined as a cell is, and read what it has installed.

    Raises:
        SandboxError: the program did not print `hello from NAME`, or a named package is missing.
    """
    with engine_errors(f"testing {image}"):
        labels = client.inspect_image(image)["Config"].get("Labels") or {}
        packages = labels.get(recipes.LABEL_INSTALLS, "").split()
        job = {
            "file": f"{SANDBOX}/{subject.file_name}",
            "code": recipe.hello().decode(),
            "version": subject.version,
            "steps": subject.steps,
            "packages": packages,
        }
        command = ["/usr/bin/python3", "-I", "-c", _PROBE, json.dumps(job)]
        text = _run_confined(client, image, command, subject, build_label)
    return read_proof(subject.name, text)


def read_proof(name: str, text: str) -> Proven:
    """Judge what the self-test printed; pure.

    Raises:
        SandboxError: it is not what a working image prints.
    """
    try:
        answer = json.loads(text)
        outcomes = [*answer["steps"], answer["version"], answer["packages"]]
    except (ValueError, KeyError, TypeError) as error:
        words = " ".join(text.split())[-300:] or "it printed nothing"
        raise SandboxError(f"the self-test of {name} did not run: {words}") from error
    for code, out, err in outcomes:
        if code != 0:
            words = " ".join((err or out).split())[-300:] or "it printed nothing"
            raise SandboxError(f"the self-test of {name} failed with status {code}: {words}")
    printed = answer["steps"][-1][1].strip()
    if printed != f"hello from {name}":
        raise SandboxError(
            f"the self-test of {name} printed {printed[:200]!r}, not 'hello from {name}'"
        )
    try:
        version = extract_version(answer["version"][1] or answer["version"][2])
    except ValueError as error:
        raise SandboxError(f"the self-test of {name} found {error}") from error
    return Proven(version, tuple(sorted(answer["packages"][1].split())))


def _run_confined(
    client: docker.APIClient, image: str, command: list[str], subject: Subject, build_label: str
) -> str:
    tmpfs = f"rw,exec,nosuid,nodev,size={64 * MIB},mode=0700,uid={NOBODY},gid={NOBODY}"
    created = client.create_container(
        image,
        command,
        entrypoint=[],
        user=f"{NOBODY}:{NOBODY}",
        working_dir=SANDBOX,
        environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": SANDBOX, "LANG": "C.UTF-8"},
        labels={recipes.LABEL_BUILD: build_label},
        network_disabled=True,
        host_config=client.create_host_config(
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            mem_limit=subject.memory_bytes,
            memswap_limit=subject.memory_bytes,
            pids_limit=subject.pids,
            tmpfs={SANDBOX: tmpfs, "/tmp": tmpfs},  # noqa: S108  a mount point in the container
            log_config={"Type": "json-file", "Config": {"max-size": "1m"}},
        ),
    )["Id"]
    try:
        client.start(created)
        client.wait(created, timeout=SELF_TEST_TIMEOUT_S)
        output: bytes = client.logs(created, stdout=True, stderr=True)
        return output.decode(errors="replace")
    finally:
        client.remove_container(created, force=True, v=True)


def remove_leftovers(client: docker.APIClient, prefix: str) -> None:
    """Remove the containers, temporary names and nameless images that builds left.

    Cells are never touched: their images carry an empty build label.
    """
    with engine_errors("cleaning up after builds"):
        for container in client.containers(
            all=True, filters={"label": f"{recipes.LABEL_BUILD}={prefix}"}
        ):
            _gone(partial(client.remove_container, container["Id"], force=True, v=True))
        for image in client.images(filters={"reference": f"{prefix}/*"}):
            for tag in image.get("RepoTags") or ():
                if tag.rpartition(":")[2].startswith("building"):
                    _gone(partial(client.remove_image, tag))
        client.prune_images(filters={"dangling": True, "label": f"{recipes.LABEL_PREFIX}={prefix}"})


def _gone(remove: Callable[[], object]) -> None:
    try:
        remove()
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # in use, or being removed already
            raise
