"""Cells as Docker containers: create, attach, start in one worker thread; hang up to discard.

The Docker SDK is used for control alone and never on the path of a run: a run's bytes go over the
attached socket, which the event loop reads. Discarding costs no call either: the stream is closed,
PID 1 reads the end of its stdin and exits, AutoRemove clears up; only a cell that does not go is
removed by force.
"""

import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import docker
import structlog
from anyio.lowlevel import EventLoopToken, current_token
from docker.errors import APIError, ImageNotFound, NotFound

from codecell import recipes
from codecell.backends.docker import images as docker_images
from codecell.backends.docker import reaper
from codecell.backends.docker.cell import GONE_S, DockerCell, Handover, Started
from codecell.backends.docker.connect import connect, engine_errors, locate, one_line
from codecell.backends.docker.events import Events
from codecell.backends.docker.owners import LABEL_INSTANCE, LABEL_OWNER, Owner, abandoned
from codecell.backends.docker.posture import defects
from codecell.backends.docker.runtimes import Host, read_host
from codecell.backends.docker.spec import container_spec
from codecell.backends.docker.stream import AttachedStream
from codecell.errors import EngineUnavailable, ImageMissing, SandboxError
from codecell.model import CellSpec, Launch
from codecell.parcel import boot
from codecell.sandbox import Image
from codecell.settings import Settings

# Inside the 65,536 ids that a remapped or rootless engine has; images/base names them all.
UIDS = range(20_000, 24_096)
NAME = "codecell-{uid}"
THREADS = 16

log = structlog.get_logger(__name__)


def open_docker(settings: Settings) -> "DockerBackend":
    """Make the backend; nothing is contacted before the first call."""
    return DockerBackend(settings)


class DockerBackend:
    """Makes cells on one engine."""

    kind = "docker"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = anyio.CapacityLimiter(THREADS)
        self._instance = secrets.token_hex(8)
        self._labels = {LABEL_INSTANCE: self._instance, LABEL_OWNER: Owner.current().label()}
        self._label = f"{LABEL_INSTANCE}={self._instance}"
        self._events = Events(self._unbounded_client, self._label)
        self._client: docker.APIClient | None = None
        self._host: Host | None = None
        self._making = 0
        self._idle = threading.Condition()  # notified when a thread is done making a cell
        self._first = threading.Lock()  # several cells are begun at once; one of them asks
        self._verified: set[tuple[CellSpec, str]] = set()
        self._reaper: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        """Run something that blocks without blocking the event loop.

        Whoever waits may give up: an engine that hangs must not hold up the server's end.
        """
        return await anyio.to_thread.run_sync(
            partial(function, *args), abandon_on_cancel=True, limiter=self._threads
        )

    async def create(self, spec: CellSpec) -> DockerCell:
        """Create, attach and start a container."""
        handover = Handover(self._undo)
        try:
            started = await anyio.to_thread.run_sync(
                handover.run,
                partial(self._start, spec, current_token()),
                abandon_on_cancel=True,
                limiter=self._threads,
            )
            with anyio.CancelScope(shield=True):
                stream = await AttachedStream.over(started.socket)
            return DockerCell(started, stream, self._bury)
        except anyio.get_cancelled_exc_class():
            handover.give_up()
            raise

    async def _bury(self, started: Started) -> None:
        """See to it that a container whose stream is closed goes; never raises."""
        if self._closed:
            return  # `aclose` has removed it, or tries to
        with anyio.move_on_after(GONE_S):
            await started.fate.destroyed.wait()
        if not started.fate.destroyed.is_set() and self._client is not None:
            await self._in_thread(self._remove, self._client, started.name)
            with anyio.move_on_after(GONE_S):  # whoever asks for its death hears of it
                await started.fate.destroyed.wait()
        self._events.forget(started.name)

    async def describe(self, spec: CellSpec) -> dict[str, Any]:
        """Return the create body of a cell; its uid is one of many, as each cell has its own."""
        result: dict[str, Any] = await self._in_thread(self._describe, spec)
        return result

    async def surroundings(self) -> dict[str, str]:
        """Name engine, kernel, runtime and what the engine says of its security."""
        result: dict[str, str] = await self._in_thread(self._surroundings)
        return result

    async def images(self) -> dict[str, Image]:
        """List our images."""
        prefix = self._settings.engine.image_prefix
        own = docker_images.own_images(self._settings)
        result: dict[str, Image] = await self._in_thread(
            lambda: docker_images.list_images(self._api(), prefix, own)
        )
        return result

    async def sweep(self) -> int:
        """Remove what dead instances left."""
        result: int = await self._in_thread(self._sweep)
        return result

    async def aclose(self) -> None:
        """Remove whatever this instance still has."""
        if self._closed:
            return
        self._closed = True
        with anyio.move_on_after(GONE_S):
            await anyio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    # Everything below blocks and runs in worker threads.

    def _api(self) -> docker.APIClient:
        with self._first:
            if self._client is None:
                self._client = connect(self._settings.engine)
            return self._client

    def _unbounded_client(self) -> docker.APIClient:
        return connect(self._settings.engine)

    def _facts(self) -> Host:
        api = self._api()
        with self._first:
            if self._host is None:
                self._host = self._ask(api)
                self._watch_over()
            return self._host

    def _ask(self, api: docker.APIClient) -> Host:
        with engine_errors("asking the engine about itself"):
            info = api.info()
        return read_host(info)

    def _watch_over(self) -> None:
        """Start the process that clears up should this one be killed."""
        address = locate(self._settings.engine).address
        path = address.removeprefix("http+").removeprefix("unix://")
        if self._reaper is not None or not path.startswith("/") or self._closed:
            return  # over TCP the sweep at the next start has to do
        self._reaper = subprocess.Popen(  # noqa: S603  our own interpreter and script
            [
                sys.executable, "-I", "-S", str(Path(reaper.__file__)),
                path, self._label,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )  # fmt: skip

    def _start(self, spec: CellSpec, loop: EventLoopToken) -> Started:
        with self._idle:
            self._making += 1
        try:
            return self._start_on(self._api(), self._facts(), spec, loop)
        except EngineUnavailable:
            self._client = self._host = None  # ask anew when it is back
            raise
        finally:
            with self._idle:
                self._making -= 1
                self._idle.notify_all()

    def _start_on(
        self, api: docker.APIClient, host: Host, spec: CellSpec, loop: EventLoopToken
    ) -> Started:
        host.check_limits()
        image_id, preload = self._image(api, spec)
        name, body = self._create(api, host, spec, image_id)
        fate = self._events.watch(name, loop)
        sock = None
        try:
            with engine_errors("starting a cell"):
                sock = self._attach(api, name)
                api.start(name)
            self._verify(api, spec, image_id, name, body)
        except BaseException:
            if sock is not None:
                sock.close()
            self._remove(api, name)
            self._events.forget(name)
            raise
        isolation = host.isolation(spec, image_id)
        return Started(name, isolation, preload, sock, fate)

    def _undo(self, started: Started) -> None:
        started.socket.close()  # and the cell goes by itself
        self._events.forget(started.name)

    def _image(self, api: docker.APIClient, spec: CellSpec) -> tuple[str, tuple[str, ...]]:
        """Return the image's digest and what it wants imported ahead of time."""
        with engine_errors("looking for an image"):
            try:
                found = api.inspect_image(spec.image)
                labels = (found.get("Config") or {}).get("Labels") or {}
                return str(found["Id"]), tuple(labels.get(recipes.LABEL_PRELOAD, "").split())
            except (ImageNotFound, NotFound) as error:
                if self._settings.table[spec.language].image:
                    advice = f"there is no image {spec.image} (languages.{spec.language}.image)"
                else:
                    advice = (
                        f"the image for {spec.language} is not built; "
                        f"run `codecell images build {spec.language}`"
                    )
                raise ImageMissing(advice) from error

    def _surroundings(self) -> dict[str, str]:
        with engine_errors("asking the engine about itself"):
            info = self._api().info()
        keys = ("ID", "ServerVersion", "KernelVersion", "DefaultRuntime", "Runtimes",
                "SecurityOptions", "RuncCommit", "CgroupVersion")  # fmt: skip
        return {key: str(info.get(key)) for key in keys}

    def _describe(self, spec: CellSpec) -> dict[str, Any]:
        api = self._api()
        image_id, _ = self._image(api, spec)
        return self._body(self._ask(api), spec, image_id, UIDS[0])

    def _body(self, host: Host, spec: CellSpec, image_id: str, uid: int) -> dict[str, Any]:
        flags = [] if spec.launch is Launch.FORK else ["-I", "-S"]
        return container_spec(
            spec,
            image_id=image_id,
            uid=uid,
            labels=self._labels,
            command=[spec.python, *flags, "-c", boot()],
            apparmor=host.apparmor,
            machine=host.machine,
            runtime=host.runtime(spec.runtime),
            host_cpus=host.cpus,
        )

    def _create(
        self, api: docker.APIClient, host: Host, spec: CellSpec, image_id: str
    ) -> tuple[str, dict[str, Any]]:
        """Create the container under the name of a free uid: no two live cells share one."""
        for uid in random.sample(UIDS, 20):
            name = NAME.format(uid=uid)
            body = self._body(host, spec, image_id, uid)
            try:
                with engine_errors("creating a cell"):
                    try:
                        api.create_container_from_config(body, name)
                    except APIError as error:
                        if error.status_code != 409:
                            raise
                        continue
            except SandboxError:
                self._remove(api, name) if self._is_ours(api, name) else None
                raise
            return name, body
        raise SandboxError("creating a cell: no free user id; are there thousands of cells?")

    def _is_ours(self, api: docker.APIClient, name: str) -> bool:
        try:
            labels = api.inspect_container(name)["Config"]["Labels"]
        except Exception:  # noqa: BLE001  the engine is in trouble already; the sweep comes later
            return False
        return bool(labels.get(LABEL_INSTANCE) == self._instance)

    @staticmethod
    def _attach(api: docker.APIClient, name: str) -> socket.socket:
        """Take the attach connection from the SDK, before the start: no byte is lost."""
        attached = api.attach_socket(
            name, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )
        try:
            return socket.socket(fileno=os.dup(attached.fileno()))
        finally:
            response = getattr(attached, "_response", None)
            (response or attached).close()

    def _verify(
        self, api: docker.APIClient, spec: CellSpec, image_id: str, name: str, body: dict[str, Any]
    ) -> None:
        """Compare what the engine made with what was asked, once a kind of cell: fail closed."""
        if (spec, image_id) in self._verified:
            return
        with engine_errors("inspecting a cell"):
            missing = defects(body, api.inspect_container(name))
        if missing:
            raise SandboxError(f"the engine did not build every wall: {'; '.join(missing)}")
        self._verified.add((spec, image_id))

    @staticmethod
    def _remove(api: docker.APIClient, name: str) -> None:
        try:
            api.remove_container(name, force=True, v=True)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # its removal is under way already
                log.warning("container not removed", container=name, error=one_line(error))
        except Exception as error:  # noqa: BLE001  a broken engine must not break the clean-up of others
            log.warning("container not removed", container=name, error=one_line(error))

    def _sweep(self) -> int:
        api = self._api()
        with engine_errors("listing containers"):
            found = api.containers(all=True, filters={"label": LABEL_OWNER})
        dead = [item for item in found if abandoned(item.get("Labels") or {}, self._instance)]
        for item in dead:
            self._remove(api, item["Id"])
        # Docker 20.10 lists some as being removed for ever: most are gone, of some a part is left.
        return sum(item.get("State") != "removing" for item in dead)

    def _close(self) -> None:
        patience = time.monotonic() + GONE_S / 2
        self._events.close()
        with self._idle:  # removing a container that is being started leaves a ghost of it
            self._idle.wait_for(lambda: self._making == 0, patience - time.monotonic())
        if self._client is not None:
            cleared = self._remove_own(self._client, patience)
            self._client.close()
            if self._reaper is not None:
                self._dismiss(self._reaper, cleared=cleared)

    @staticmethod
    def _dismiss(reaper: subprocess.Popen[bytes], *, cleared: bool) -> None:
        """Let the reaper go; where the engine was away it stays and tries for a while."""
        if reaper.stdin is None:
            return
        with suppress(BrokenPipeError), reaper.stdin as goodbye:
            goodbye.write(b"." if cleared else b"")
        if cleared:
            reaper.wait(1.0)

    def _remove_own(self, api: docker.APIClient, patience: float) -> bool:
        """Remove what is left, giving cells whose stream was just closed time to go by themselves.

        A forced removal that meets an automatic one leaves a ghost in Docker 20.10's list.
        """
        while True:
            try:
                left = api.containers(all=True, filters={"label": self._label})
            except Exception:  # noqa: BLE001  the engine is away: so are its containers' streams
                return False
            left = [item for item in left if item.get("State") != "removing"]
            if not left:
                return True
            if time.monotonic() > patience or all(item.get("State") == "created" for item in left):
                break
            time.sleep(0.05)
        for item in left:
            self._remove(api, item["Id"])
        return True
