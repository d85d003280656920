"""setup, doctor, images, settings: making a machine ready and saying how ready it is."""

import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codecell.cli import Invocation
from codecell.cli.tables import plain, show
from codecell.errors import ConfigurationError, EngineUnavailable
from codecell.languages import DEFAULT_SET

if TYPE_CHECKING:
    from codecell.doctor import Check
    from codecell.sandbox import Image
    from codecell.settings import Settings


@click.command()
@click.option("--yes", is_flag=True, help="Install an engine without asking when none answers.")
@click.option(
    "--runtime",
    type=click.Choice(["runsc"]),
    help="Also fetch this OCI runtime (runsc is gVisor) and register it with the engine.",
)
@click.pass_obj
def setup(invocation: Invocation, yes: bool, runtime: str | None) -> None:
    """Make this machine ready: a container engine and the default images.

    Where an engine answers and the images are up to date, this does nothing and takes a moment.
    """
    from codecell.audit.witness import administration
    from codecell.backends.docker.gvisor import ensure_gvisor
    from codecell.backends.docker.images import build_images
    from codecell.cli.progress import Display

    settings = invocation.settings()
    _ensure_engine(settings, yes=yes)
    act = administration(settings, "images.build", languages=list(DEFAULT_SET), force=False)
    with act, Display() as display:
        built = build_images(settings, DEFAULT_SET, display)
    added = False
    if runtime:
        with administration(settings, "runtime.register", runtime=runtime), Display() as display:
            added = ensure_gvisor(settings, display.engine)
    ready = ", ".join(f"{name} {built[name].version}" for name in DEFAULT_SET)
    click.echo(f"ready: {ready}", err=True)
    if runtime:
        click.echo(
            f"runtime: {runtime} {'registered' if added else 'was there'}; "
            f'cells use it with `[engine] runtime = "{runtime}"`',
            err=True,
        )


def _ensure_engine(settings: "Settings", *, yes: bool) -> None:
    """Let an engine answer, with the operator's consent.

    Raises:
        ConfigurationError: consent is missing, or this machine lacks what it takes.
        EngineUnavailable: the engine is elsewhere and does not answer, or does not start.
    """
    from codecell import host
    from codecell.backends.docker.connect import DEFAULT_ADDRESS, answers, connect, locate, refuses
    from codecell.cli.progress import Display

    engine = settings.engine
    if answers(engine):
        return
    if not locate(engine).is_default:
        connect(engine).close()  # raises, saying where it should be
    if not refuses(engine):
        _consent("No container engine answers. Install and start the distribution's one?", yes=yes)
        with Display() as display:
            host.ensure_engine(lambda: answers(engine) or refuses(engine), display.engine)
    if refuses(engine):
        prefix = host.root_prefix()
        if prefix is None:
            connect(engine).close()  # raises, saying which group to join
            return
        user = getpass.getuser()
        _consent(f"The engine does not let {user} in. Add {user} to the group docker?", yes=yes)
        with Display() as display:
            socket = Path(DEFAULT_ADDRESS.removeprefix("unix://"))
            host.grant_access(socket, user, display.engine, prefix=prefix)
    connect(engine).close()


def _consent(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} To agree, run `codecell setup --yes`")
    if not click.confirm(question, err=True):
        raise ConfigurationError("nothing was changed; run `codecell setup --yes` to agree")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.option("--attack", is_flag=True, help="Try every wall from inside real cells instead.")
@click.option(
    "--language", "-l", metavar="NAME", help="Whose cells --attack tries; by default Python's."
)
@click.option("--caller", metavar="NAME", help="Under whose policy; by default nobody's own.")
@click.pass_obj
def doctor(
    invocation: Invocation, as_json: bool, attack: bool, language: str | None, caller: str | None
) -> int:
    """Say what is there, what is missing and what to do; status 1 when it cannot work so.

    With --attack, harmless probes try the walls in real cells; status 1 when one is missing.
    """
    from codecell.doctor import State, healthy

    if attack:
        from codecell.cli.attack_command import attack as attack_

        settings = invocation.settings()
        return attack_(settings, language or "python", caller or "local", as_json=as_json)
    for name, given in (("--language", language), ("--caller", caller)):
        if given is not None:
            raise click.UsageError(f"{name} goes with --attack")

    checks = _examine(invocation.settings())
    if as_json:
        rows = [
            {"name": c.name, "state": c.state, "found": c.found, "advice": c.advice} for c in checks
        ]
        click.echo(json.dumps({"ok": healthy(checks), "checks": rows}, indent=2))
    else:
        colours = {State.OK: "green", State.WARNING: "yellow", State.PROBLEM: "red"}
        show(
            ("", "check", "found", "what to do"),
            [
                (f"[{colours[c.state]}]{c.state}[/]", c.name, plain(c.found), plain(c.advice))
                for c in checks
            ],
        )
    return 0 if healthy(checks) else 1


def _examine(settings: "Settings") -> "list[Check]":
    """Gather the facts and judge them."""
    from contextlib import closing

    from codecell import doctor as judge
    from codecell.backends.docker.connect import connect, engine_facts, locate
    from codecell.backends.docker.images import list_images, own_images
    from codecell.host import free_bytes

    checks = [judge.check_python(sys.version_info[:3])]
    there: dict[str, Image] = {}
    try:
        where = locate(settings.engine)
        facts = engine_facts(settings.engine)
        with closing(connect(settings.engine)) as client:
            there = list_images(client, settings.engine.image_prefix, own_images(settings))
    except EngineUnavailable as error:
        text, _, advice = str(error).rpartition("; ")
        checks.append(judge.Check("engine", judge.State.PROBLEM, text, advice))
    else:
        checks += judge.check_engine(
            version=facts.version,
            api_version=facts.api_version,
            system=facts.system,
            kernel=facts.kernel,
            address=where.address,
        )
        checks += judge.check_confinement(
            runc_version=facts.runc_version,
            cgroup_version=facts.cgroup_version,
            runtimes=facts.runtimes,
            default_runtime=facts.default_runtime,
            wanted_runtime=settings.engine.runtime,
            security_options=facts.security_options,
            missing_limits=facts.host.lacks,
        )
        checks += judge.check_containerd(facts.containerd_version)
        runtime = settings.engine.runtime or facts.host.default
        if runtime in facts.host.runtimes:
            given = facts.host.runtimes[runtime]
            checks.append(
                judge.check_walls(
                    kernel=given.kernel.value,
                    seccomp=given.filters,
                    apparmor=facts.host.apparmor and given.kernel.value == "shared",
                    user_namespace=facts.host.user_namespace,
                )
            )
        root = Path(facts.root_folder)
        if facts.root_folder and where.is_local and root.is_absolute():
            checks.append(judge.check_disk(free_bytes(root), facts.root_folder))
        checks += judge.check_images(settings.table, there, essential=DEFAULT_SET)
    return checks


@click.group()
def images() -> None:
    """Build and list the images that cells are made of."""


@images.command("build")
@click.argument("languages", nargs=-1, metavar="[LANGUAGE]...")
@click.option("--all", "every", is_flag=True, help="Build the image of every language.")
@click.option("--force", is_flag=True, help="Build even what is up to date, with today's packages.")
@click.pass_obj
def build(invocation: Invocation, languages: Sequence[str], every: bool, force: bool) -> None:
    """Build the images of the named languages, or python, javascript and bash.

    What is up to date is left alone.
    """
    from codecell.audit.witness import administration
    from codecell.backends.docker.images import build_images, ours
    from codecell.cli.progress import Display

    if every and languages:
        raise click.UsageError("name languages or say --all, not both")
    settings = invocation.settings()
    chosen = ours(settings) if every else _ids(settings, languages) or DEFAULT_SET
    act = administration(settings, "images.build", languages=list(chosen), force=force)
    with act, Display() as display:
        built = build_images(settings, chosen, display, force=force)
    for name in dict.fromkeys(chosen):
        click.echo(f"{built[name].reference}  {name} {built[name].version}  {built[name].digest}")


def _ids(settings: "Settings", names: Sequence[str]) -> tuple[str, ...]:
    """Resolve aliases; what is unknown is left for the recipes to refuse."""
    found = ((settings.table.named(name), name) for name in names)
    return tuple(language.id if language else name for language, name in found)


@images.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the images as JSON.")
@click.pass_obj
def list_(invocation: Invocation, as_json: bool) -> None:
    """List every language's image: present, outdated or missing."""
    from contextlib import closing
    from dataclasses import asdict

    from codecell.backends.docker.connect import connect
    from codecell.backends.docker.images import list_images, own_images
    from codecell.policy import image_of

    settings = invocation.settings()
    engine, table = settings.engine, settings.table
    with closing(connect(engine)) as client:
        there = list_images(client, engine.image_prefix, own_images(settings))
    if as_json:
        rows = [asdict(image) for image in there.values()]
        click.echo(json.dumps({"images": rows, "missing": [n for n in table if n not in there]}))
        return
    show(
        ("image", "state", "version", "size", "installed on purpose"),
        [_image_row(image_of(table[name], settings), there.get(name)) for name in table],
    )


def _image_row(name: str, image: "Image | None") -> tuple[str, ...]:
    if image is None:
        return (name, "missing", "", "", "")
    state = "current" if image.current else "outdated"
    size = f"{image.size_bytes / 1e6:.0f} MB"
    return (name, state, image.version, size, plain(" ".join(image.packages)))


@click.command()
@click.option("--markdown", is_flag=True, help="Print the table as Markdown, for the README.")
def settings(markdown: bool) -> None:
    """Show every setting, its default and its meaning."""
    from codecell.settings import rows

    if not markdown:
        show(("setting", "default", "meaning"), [tuple(map(plain, row)) for row in rows()])
        return
    click.echo("| setting | default | meaning |\n|---|---|---|")
    for key, default, meaning in rows():
        click.echo(f"| `{key}` | {default} | {meaning} |")
