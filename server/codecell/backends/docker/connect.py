"""Find the engine as the Docker CLI finds it, and turn the SDK's errors into ours.

Everything here blocks; callers on an event loop use a worker thread.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from codecell.backends.docker.runtimes import Host, read_host
from codecell.errors import EngineUnavailable, SandboxError
from codecell.settings import EngineSettings

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the engine is expected.

    Attributes:
        address: what the SDK connects to.
        source: who said so, in words that fit a sentence.
        tls: the SDK's TLS configuration, or False.
    """

    address: str
    source: str
    tls: Any = False

    @property
    def is_default(self) -> bool:
        """Tell whether this is the distribution's own engine, which `codecell setup` may start."""
        return self.address.removeprefix("http+") == DEFAULT_ADDRESS

    @property
    def is_local(self) -> bool:
        """Tell whether the engine shares this machine's file system."""
        return self.address.removeprefix("http+").startswith("unix://")


def locate(engine: EngineSettings, environment: Mapping[str, str] | None = None) -> Endpoint:
    """Decide where the engine is: our setting, DOCKER_HOST, the CLI's context, the default socket.

    Raises:
        EngineUnavailable: the named context does not exist or is malformed.
    """
    environment = os.environ if environment is None else environment
    try:
        from_env = kwargs_from_env(dict(environment) or {"PATH": ""})
        if engine.host:
            return Endpoint(engine.host, "engine.host", from_env.get("tls", False))
        if from_env.get("base_url"):
            return Endpoint(from_env["base_url"], "DOCKER_HOST", from_env.get("tls", False))
        name = environment.get("DOCKER_CONTEXT") or None
        context = ContextAPI.get_context(name)
    except Exception as error:  # the SDK raises bare ones here
        raise EngineUnavailable(
            f"the Docker CLI's configuration is unusable: {one_line(error)}"
        ) from error
    if context is None:
        chosen = name or "the current one"
        raise EngineUnavailable(f"Docker context {chosen} does not exist; see `docker context ls`")
    host = context.Host or DEFAULT_ADDRESS
    if context.name == "default":
        return Endpoint(DEFAULT_ADDRESS, "the default socket", from_env.get("tls", False))
    return Endpoint(host, f"Docker context {context.name}", context.TLSConfig or False)


def connect(engine: EngineSettings, *, timeout_s: float | None = None) -> "docker.APIClient":
    """Open a client to the engine and agree on the API version; blocking.

    Args:
        engine: the engine's settings.
        timeout_s: another deadline of each call (and each read of a stream) than the settings'.

    Raises:
        EngineUnavailable: nothing answers, in one line that says what to do.
    """
    where = locate(engine)
    deadline = engine.timeout_s if timeout_s is None else timeout_s
    try:
        _knock(where)
        client = docker.APIClient(
            base_url=where.address, tls=where.tls, version="auto", timeout=deadline
        )
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineUnavailable(explain(where, error)) from error
    # No proxy leads to a local socket, and looking for one at each call is a third of its cost.
    client.trust_env = not where.is_local
    return client


def _knock(where: Endpoint) -> None:
    """Connect to a local socket and hang up: the SDK leaks its socket where that fails."""
    if where.is_local:
        path = where.address.removeprefix("http+").removeprefix("unix://")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path if path.startswith("/") else f"/{path}")


def explain(where: Endpoint, error: BaseException) -> str:
    """Say in one line why no engine answers and what to do about it."""
    text = one_line(error)
    if is_permission(error):
        return (
            f"the container engine at {where.address} refuses this user; "
            "join the group docker and log in again (`codecell setup` does it with sudo)"
        )
    if not where.is_default:
        return (
            f"no container engine answers at {where.address} ({where.source}): {text}; "
            "start it or correct the address, then run `codecell doctor`"
        )
    return (
        f"no container engine answers at {where.address}; "
        "run `codecell setup` to install and start one"
    )


def is_permission(error: BaseException) -> bool:
    """Tell whether the engine's socket exists but does not let this user in."""
    return any(
        isinstance(item, PermissionError) or "Permission denied" in str(item)
        for item in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def one_line(error: object) -> str:
    """Return an error's text on one line, the engine's own words where it sent any."""
    text = getattr(error, "explanation", None) or str(error)
    return " ".join(str(text).split())


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Translate what the SDK raises while `doing` something ("removing image x").

    Raises:
        EngineUnavailable: the engine went away.
        SandboxError: the engine refused, in its own words.
    """
    try:
        yield
    except APIError as error:
        raise SandboxError(f"{doing}: {one_line(error)}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineUnavailable(
            f"{doing}: the container engine does not answer ({one_line(error)}); "
            "run `codecell doctor`"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What the engine says about itself, as far as it matters to us."""

    version: str
    api_version: str
    runc_version: str
    containerd_version: str
    host: Host
    kernel: str
    system: str
    cgroup_version: str
    storage_driver: str
    root_folder: str
    runtimes: tuple[str, ...]
    default_runtime: str
    security_options: tuple[str, ...]


def engine_facts(engine: EngineSettings) -> EngineFacts:
    """Ask the engine about itself; two calls.

    Raises:
        EngineUnavailable: no engine answers.
    """
    with closing(connect(engine)) as client, engine_errors("asking the engine about itself"):
        return read_facts(client.version(), client.info())


def read_facts(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineFacts:
    """Read /version and /info, both of which differ between engines; pure."""
    components = {item.get("Name", ""): item for item in version.get("Components") or ()}
    return EngineFacts(
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        runc_version=str(components.get("runc", {}).get("Version", "")),
        containerd_version=str(components.get("containerd", {}).get("Version", "")),
        host=read_host(info),
        kernel=str(info.get("KernelVersion", "")),
        system=str(info.get("OperatingSystem", "")),
        cgroup_version=str(info.get("CgroupVersion", "1")),
        storage_driver=str(info.get("Driver", "")),
        root_folder=str(info.get("DockerRootDir", "")),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        default_runtime=str(info.get("DefaultRuntime", "")),
        security_options=tuple(info.get("SecurityOptions") or ()),
    )


def answers(engine: EngineSettings) -> bool:
    """Tell whether an engine answers this user."""
    try:
        connect(engine).close()
    except EngineUnavailable:
        return False
    return True


def refuses(engine: EngineSettings) -> bool:
    """Tell whether there is an engine's socket that does not let this user in."""
    try:
        connect(engine).close()
    except EngineUnavailable as error:
        return is_permission(error)
    return False
