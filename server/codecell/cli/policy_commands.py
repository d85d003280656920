"""`codecell policy`: what is allowed to whom, down to the body that the engine is sent."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import click

from codecell.cli import Invocation
from codecell.cli.tables import plain, show
from codecell.errors import ConfigurationError, RequestError, SandboxError

if TYPE_CHECKING:
    from codecell.settings import Policy, Settings


@click.group()
def policy() -> None:
    """Show the policies, and what one comes to."""


@policy.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the policies as JSON.")
@click.pass_obj
def list_(invocation: Invocation, as_json: bool) -> None:
    """List the policies and the callers under each."""
    from codecell.explanation import assigned

    settings = invocation.settings()
    callers = assigned(settings)
    if as_json:
        found = [_summary(rules, callers[name]) for name, rules in settings.rules.items()]
        click.echo(json.dumps({"policies": found}, indent=2))
        return
    show(
        ("policy", "callers", "languages", "runtime", "seccomp", "reuse", "changes"),
        [_row(rules, callers[name]) for name, rules in settings.rules.items()],
    )


def _summary(rules: "Policy", callers: list[str]) -> dict[str, Any]:
    return {
        "name": rules.name,
        "callers": callers,
        "languages": None if rules.languages is None else sorted(rules.languages),
        "runtime": rules.runtime,
        "seccomp": rules.seccomp.name,
        "reuse": rules.reuse,
        "sessions": rules.sessions,
        "network": "none",
        "mounts": "none",
        "limits": rules.limits.model_dump(),
        "changes": sorted(rules.changed),
    }


def _row(rules: "Policy", callers: list[str]) -> tuple[str, ...]:
    languages = "all" if rules.languages is None else ", ".join(sorted(rules.languages)) or "none"
    cells = (
        rules.name, ", ".join(callers), languages, rules.runtime or "the engine's",
        rules.seccomp.name, rules.reuse, ", ".join(sorted(rules.changed)),
    )  # fmt: skip
    return tuple(map(plain, cells))


@policy.command()
@click.option("--caller", default="local", show_default=True, help="Whose policy.")
@click.option("--language", "-l", default="python", show_default=True, help="Of which programs.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it exactly, as JSON.")
@click.pass_obj
def explain(invocation: Invocation, caller: str, language: str, as_json: bool) -> None:
    """Print what holds for a caller's programs, where each value comes from, and the container.

    The container is the exact body of the engine's create call; nothing is created. Where no
    engine answers, stderr says so and the values are printed alone.
    """
    from codecell.explanation import explain as explained

    settings = invocation.settings()
    try:
        chosen = settings.table.find(language)
    except RequestError as error:
        raise ConfigurationError(str(error)) from error
    values = list(explained(caller, chosen, settings))
    body = _body(settings, caller, chosen.id)
    if as_json:
        rows = [{"key": v.key, "value": v.value, "origin": v.origin} for v in values]
        click.echo(json.dumps({"values": rows, "container": body}, indent=2))
        return
    show(
        ("key", "value", "origin"),
        [(v.key, plain(_shown(v.value)), plain(v.origin)) for v in values],
    )
    if body is not None:
        click.echo(json.dumps(_short(body), indent=2))


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _body(settings: "Settings", caller: str, language: str) -> dict[str, Any] | None:
    """Return the create body, or say on stderr why there is none."""
    import anyio

    from codecell.backends import open_backend
    from codecell.policy import cell_spec

    spec = cell_spec(settings.table[language], settings, settings.policy_of(caller))
    backend = open_backend(settings)

    async def describe() -> dict[str, Any]:
        try:
            return await backend.describe(spec)
        finally:
            await backend.aclose()

    try:
        return anyio.run(describe)
    except SandboxError as error:
        click.echo(f"codecell: no container: {error}", err=True)
        return None


def _short(body: dict[str, Any]) -> dict[str, Any]:
    """Put a digest in the place of the two long texts; --json has them whole."""
    options = [
        f"seccomp={_digest(text)}" if text.startswith("seccomp=") else text
        for text in body["HostConfig"]["SecurityOpt"]
    ]
    *command, agent = body["Entrypoint"]
    return {
        **body,
        "Entrypoint": [*command, _digest(agent)],
        "HostConfig": {**body["HostConfig"], "SecurityOpt": options},
    }


def _digest(text: str) -> str:
    return f"({len(text):,} characters, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
