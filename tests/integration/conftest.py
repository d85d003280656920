"""Images, engines and disks of the tests' own, removed with all of it; runs in every language."""

import gc
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from docker.errors import APIError

from codecell import recipes
from codecell.app import open_runner
from codecell.backends.docker.building import remove_leftovers
from codecell.backends.docker.connect import locate
from codecell.backends.docker.images import list_images, lock_path
from codecell.backends.docker.owners import LABEL_OWNER, Owner
from codecell.model import Outcome, Request
from codecell.runner import Runner
from codecell.settings import Settings, load

Flat = Callable[..., AbstractAsyncContextManager[None]]
ROOT = Path(__file__).resolve().parents[2]
CONTEXT = (
    "Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "requirements.lock",
    "images", "server",
)  # fmt: skip


def remove_prefix(client: docker.APIClient, prefix: str) -> None:
    for item in client.images(filters={"label": f"{recipes.LABEL_PREFIX}={prefix}"}):
        for tag in item.get("RepoTags") or ():
            with suppress(APIError):
                client.remove_image(tag, force=True)
    remove_leftovers(client, prefix)


@pytest.fixture(scope="session")
def image_settings(engine: docker.APIClient) -> Iterator[Settings]:
    """Settings whose images nobody else uses."""
    prefix = f"codecell-test-{os.getpid()}-{secrets.token_hex(3)}"
    yield load(flags={"engine": {"image_prefix": prefix}})
    remove_prefix(engine, prefix)
    lock_path(prefix).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def installed(engine: docker.APIClient, settings: Settings) -> set[str]:
    return set(list_images(engine, settings.engine.image_prefix))


@pytest.fixture(scope="session")
async def cold_runner(engine: docker.APIClient) -> AsyncIterator[Runner]:
    """One runner for the whole matrix, which makes a cell when one is wanted."""
    async with open_runner(load(), warm=False) as opened:
        yield opened


class Run:
    """Runs programs of a language, or does without where its image is missing."""

    def __init__(self, runner: Runner, installed: set[str]) -> None:
        self._runner = runner
        self._installed = installed

    async def __call__(self, language: str, code: str, **fields: object) -> Outcome:
        if language not in self._installed:
            advice = f"no image for {language}; run `codecell images build --all`"
            if os.environ.get("CI") == "true":
                pytest.fail(advice)
            pytest.skip(advice)
        request = Request(language=language, code=code, **fields)  # type: ignore[arg-type]
        return await self._runner.execute(request)


@pytest.fixture
def run(cold_runner: Runner, installed: set[str]) -> Run:
    return Run(cold_runner, installed)


# --- an engine and disks of the test's own


def as_root(doing: str) -> None:
    """Do without, on a desk, what takes root."""
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", f"{doing} takes root, and CI must be"
        pytest.skip(f"{doing} takes root")


def mount_small(folder: Path, size: int) -> None:
    """Put a file system of so many bytes there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "codecell-test", str(folder)]
    subprocess.run(command, check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    as_root("mounting a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount_small(folder, 1 << 20)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Engine:
    """A Docker engine of the test's own, beside the machine's."""

    def __init__(
        self,
        folder: Path,
        disk: int | None = None,
        # In a network namespace of its own: `--bridge=none` would remove the machine's docker0.
        under: Sequence[str] = ("unshare", "--net"),
        arguments: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.under, self.arguments = under, arguments
        if disk is not None:
            mount_small(folder, disk)
        self.socket = folder / "d.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        command = [
            *self.under,
            "dockerd",
            f"--host={self.address}",
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/d.pid",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            *self.arguments,
        ]
        (self.folder / "d.pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b"200 OK" in probe.recv(4096):
                    return
            time.sleep(0.1)
        tail = (self.folder / "log").read_text(errors="replace")[-2000:]
        raise AssertionError(f"the second engine did not start: {tail}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """End it as its service manager would, with its containers, and start it anew."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)
        self.start()

    def close(self) -> None:
        """End it and whatever it started, and unmount what it mounted."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            self.process.kill()
            self.process.wait()
        end = time.monotonic() + 10
        while (ours := self._processes()) and time.monotonic() < end:
            for pid in ours:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        points = [line.split()[1] for line in mounts]
        points = [point for point in points if f"{point}/".startswith(f"{self.folder}/")]
        for point in sorted(points, key=len, reverse=True):
            subprocess.run(["umount", "-l", point], check=True)
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)

    def _processes(self) -> list[int]:
        """Return its containerd and shims: they have the folder on their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                command = path.read_bytes()
                if b"containerd" in command and f"{self.folder}/".encode() in command:
                    found.append(int(path.parent.name))
        return found


@contextmanager
def started(made: Engine, engine: docker.APIClient) -> Iterator[Engine]:
    """Start an engine and give it Python's image; nothing is left of it afterwards."""
    try:
        made.start()
        client = docker.APIClient(base_url=made.address, version="auto", timeout=60)
        try:
            client.load_image(b"".join(engine.get_image("codecell/python:latest")))
        finally:
            client.close()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def begin_engine(engine: docker.APIClient) -> Callable[..., AbstractContextManager[Engine]]:
    """Begin an engine that is set up as `prepare` says, which is given its folder."""
    as_root("starting a second engine")

    @contextmanager
    def begin(prepare: Callable[[Path], dict[str, Any]]) -> Iterator[Engine]:
        folder = Path(tempfile.mkdtemp(prefix="codecell-engine-"))  # whose parents anyone may pass
        folder.chmod(0o711)
        with started(Engine(folder, **prepare(folder)), engine) as made:
            yield made

    return begin


@pytest.fixture
def second_engine(
    engine: docker.APIClient,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Engine]:
    """An engine with Python's image; the parameter is the size of a disk of its own."""
    as_root("starting a second engine")
    made = Engine(tmp_path_factory.mktemp("engine"), getattr(request, "param", None))
    with started(made, engine):
        yield made


# --- what a process holds


@dataclass(frozen=True)
class Resources:
    """What this process holds, and its containers."""

    descriptors: int
    threads: int
    memory_mib: float
    containers: int

    @classmethod
    def now(cls, engine: docker.APIClient) -> "Resources":
        gc.collect()  # docker-py leaves sockets to it
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        label = f"{LABEL_OWNER}={Owner.current().label()}"
        found = engine.containers(all=True, filters={"label": label})
        return cls(
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threads=threading.active_count(),
            memory_mib=pages * 4096 / (1 << 20),
            # Docker 20.10 lists some for ever that are long gone.
            containers=sum(item.get("State") != "removing" for item in found),
        )


@pytest.fixture
def resources() -> type[Resources]:
    """Count what this process holds: `resources.now(engine)`."""
    return Resources


@pytest.fixture
def flat(engine: docker.APIClient) -> Flat:
    """Prove that a fault leaves nothing: `async with flat(): ...`, after a round outside of it."""

    @asynccontextmanager
    async def unchanged(
        client: docker.APIClient | None = None,
        *,
        descriptors: int = 4,
        threads: int = 2,
        memory_mib: float = 16,
    ) -> AsyncIterator[None]:
        asked = client or engine
        before = await anyio.to_thread.run_sync(Resources.now, asked)
        yield
        end = time.monotonic() + 20
        while True:
            now = await anyio.to_thread.run_sync(Resources.now, asked)
            if (
                now.descriptors <= before.descriptors + descriptors
                and now.threads <= before.threads + threads
                and now.memory_mib <= before.memory_mib + memory_mib
                and now.containers <= before.containers
            ):
                return
            assert time.monotonic() < end, f"before {before}, now {now}"
            await anyio.sleep(0.2)

    return unchanged


# --- the server as an image


def certificates() -> Path | None:
    """Find what pip trusts here beyond its own list: a proxy may sign the package index anew."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.cert"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    name = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or done.stdout.strip()
    return Path(name) if name else None


@pytest.fixture(scope="session")
def engine_socket(settings: Settings) -> Path:
    address = locate(settings.engine).address.removeprefix("http+")
    if not address.startswith("unix://"):
        pytest.skip("this engine has no socket that could be mounted")
    return Path(address.removeprefix("unix://"))


@pytest.fixture(scope="session")
def build_image(engine: docker.APIClient, settings: Settings) -> Iterator[Callable[..., str]]:
    """Build a folder's Dockerfile on our own base, under a name that nobody else uses."""
    tags = []
    own = f"{settings.engine.image_prefix}/base:latest"

    def build(name: str, folder: Path, base: str = own) -> str:
        tag = f"codecell-test-{name}:{os.getpid()}-{secrets.token_hex(3)}"
        said = list(
            engine.build(
                path=str(folder),
                tag=tag,
                buildargs={"BASE": base},
                network_mode="host",  # an engine may have no bridge
                rm=True,
                forcerm=True,
                decode=True,
            )
        )
        assert not any("error" in line for line in said), said[-3:]
        tags.append(tag)
        return tag

    yield build
    for tag in reversed(tags):
        engine.remove_image(tag, force=True)


@pytest.fixture(scope="session")
def server_image(build_image: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The server's image, with its whole context and a file beside it that is not for the image."""
    folder = tmp_path_factory.mktemp("context")
    for name in CONTEXT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    folder.joinpath("secret.txt").write_text("not for the image", encoding="utf-8")
    trusted = certificates()
    if trusted is not None and trusted.is_file():
        shutil.copy(trusted, folder / "here.crt")
    return build_image("server", folder)
