"""Give this machine's engine gVisor: fetch Debian's runsc, register it, let the engine reload.

The program comes from the same Debian as the images, fetched and checked by apt inside a throw-away
image on the base: the host's own package sources are not touched, and it need not be a Debian. The
engine learns of it by a reload (SIGHUP), which leaves running containers alone. Everything blocks.
"""

import io
import json
import secrets
import tarfile
import tempfile
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError

from codecell import host
from codecell.backends.docker import building
from codecell.backends.docker.connect import connect, engine_errors, locate
from codecell.backends.docker.runtimes import FILTERS, Kernel, read_runtimes
from codecell.errors import ConfigurationError, EngineUnavailable
from codecell.recipes import BASE
from codecell.settings import Settings

NAME = "runsc"
PROGRAM = Path("/usr/local/bin/runsc")
DAEMON = Path("/etc/docker/daemon.json")
RELOAD_S = 20.0
# No network of its own to give away (a cell has none), and our seccomp profile inside as well.
FLAGS = ("--network=none", f"--{FILTERS}")
_RECIPE = """FROM {base}
RUN apt-get update && cd /tmp && apt-get download runsc && dpkg -x runsc_*.deb /out
"""


def ensure_gvisor(settings: Settings, report: host.Report) -> bool:
    """Register gVisor with this machine's engine, unless it has it already.

    Returns:
        True when something was changed.

    Raises:
        ConfigurationError: the engine is not this machine's own, there is no root, or runsc is
            registered already but not as cells need it.
        EngineUnavailable: a step failed, or the engine did not take it.
        SandboxError: runsc could not be fetched.
    """
    with closing(connect(settings.engine)) as client:
        if _has(client):
            return False
        if not locate(settings.engine).is_default:
            raise ConfigurationError(
                f"the engine is not this machine's own: register {NAME} there, with "
                f"runtimeArgs {json.dumps(FLAGS)}, in its daemon.json"
            )
        prefix = host.root_prefix()
        if prefix is None:
            raise ConfigurationError(
                "registering a runtime with the engine takes root or `sudo -n`"
            )
        text = with_gvisor(_read(prefix))
        report("fetching runsc (gVisor) from Debian")
        _install(_fetch(client, settings, report), PROGRAM, "0755", prefix)
        report(f"registering it in {DAEMON}")
        host.as_root(["mkdir", "-p", str(DAEMON.parent)], prefix=prefix)
        _install(text.encode(), DAEMON, "0644", prefix)
        _reload(prefix)
        end = time.monotonic() + RELOAD_S
        while not _has(client):
            if time.monotonic() > end:
                raise EngineUnavailable(
                    f"the engine did not take {NAME} from {DAEMON}; see its log"
                )
            time.sleep(0.2)
    return True


def with_gvisor(text: str) -> str:
    """Return a daemon.json with gVisor in it; what is there stays; pure.

    Raises:
        ConfigurationError: it is not JSON, or another runsc is in it.
    """
    try:
        config: Any = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigurationError(f"{DAEMON} is not JSON ({error}); correct it first") from error
    runtimes = config.get("runtimes", {}) if isinstance(config, dict) else None
    if not isinstance(runtimes, dict):
        raise ConfigurationError(f"{DAEMON} is not an object of settings; correct it first")
    if NAME in runtimes:
        raise ConfigurationError(
            f"{DAEMON} has a runtime {NAME} already; give it runtimeArgs {json.dumps(FLAGS)} "
            "and reload the engine"
        )
    ours = {NAME: {"path": str(PROGRAM), "runtimeArgs": list(FLAGS)}}
    return json.dumps({**config, "runtimes": {**runtimes, **ours}}, indent=2) + "\n"


def _has(client: docker.APIClient) -> bool:
    with engine_errors("asking the engine about itself"):
        info = client.info()
    found = read_runtimes(info).get(NAME)
    return found is not None and found.kernel is Kernel.GVISOR and found.filters


def _read(prefix: tuple[str, ...]) -> str:
    return host.as_root(["cat", str(DAEMON)], prefix=prefix) if DAEMON.exists() else ""


def _fetch(client: docker.APIClient, settings: Settings, report: host.Report) -> bytes:
    prefix = settings.engine.image_prefix
    tag = f"{prefix}/{NAME}:building-{secrets.token_hex(4)}"
    building.build(
        client,
        [("Dockerfile", _RECIPE.format(base=f"{prefix}/{BASE}:latest").encode())],
        tag=tag,
        arguments={},
        labels={},
        fresh=True,
        report=lambda number, text, *, detail=False: report(text, detail=True),
        cancelled=lambda: False,
    )
    try:
        with engine_errors("copying runsc out of an image"):
            created = client.create_container(tag, ["true"], network_disabled=True)["Id"]
            try:
                chunks, _ = client.get_archive(created, "/out/usr/bin/runsc")
                packed = b"".join(chunks)
            finally:
                client.remove_container(created, force=True)
    finally:
        with suppress(APIError):
            client.remove_image(tag, force=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        (member,) = tar.getmembers()
        file = tar.extractfile(member)
        return file.read() if file else b""


def _install(content: bytes, target: Path, mode: str, prefix: tuple[str, ...]) -> None:
    """Put a file in its place in one step: half a program or configuration must not be seen."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        fresh = f"{target}.codecell"
        run = partial(host.as_root, prefix=prefix)
        run(["install", "-m", mode, file.name, fresh])
        run(["mv", "-f", fresh, str(target)])


def _reload(prefix: tuple[str, ...]) -> None:
    if Path("/run/systemd/system").is_dir():
        host.as_root(["systemctl", "reload", "docker"], prefix=prefix)
        return
    (path, _), *_ = host.EnginePaths().pid_files()
    pid = host.as_root(["cat", str(path)], prefix=prefix).strip()
    if host.process_name(int(pid)) != "dockerd":
        raise EngineUnavailable(f"{path} names no engine; reload it by hand")
    host.as_root(["kill", "-HUP", pid], prefix=prefix)
