"""`codecell token`: the bearer tokens that callers over HTTP show."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from codecell.callers import AGENT_SCOPES, MEANING, Scope
from codecell.cli import Invocation
from codecell.errors import ConfigurationError

if TYPE_CHECKING:
    from codecell.http.tokens import TokenFile

FILE = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of tokens [default: the setting http.tokens].",
)


@click.group()
def token() -> None:
    """Add, list and remove the bearer tokens of callers.

    The file holds hashes alone; the server named by http.tokens takes changes up at once.
    """


@token.command()
@click.argument("name")
@click.option(
    "--scopes",
    default=",".join(sorted(AGENT_SCOPES)),
    show_default=True,
    help=f"What the caller may do, by commas: {', '.join(Scope)}.",
)
@FILE
@click.pass_obj
def add(invocation: Invocation, name: str, scopes: str, file: Path | None) -> None:
    """Make a token for the caller NAME and print it, once."""
    given = [word.strip() for word in scopes.split(",") if word.strip()]
    for word in given:
        if word not in MEANING:
            raise click.UsageError(f"unknown scope {word!r}; known: {', '.join(Scope)}")
    from codecell.audit.witness import administration

    tokens = _tokens(invocation, file)
    with administration(invocation.settings(), "token.add", name=name, scopes=sorted(given)):
        secret = tokens.add(name, map(Scope, given))
    click.echo(f"codecell: the token of {name}; it is not kept and can't be shown again", err=True)
    click.echo(secret)


@token.command("list")
@FILE
@click.pass_obj
def list_(invocation: Invocation, file: Path | None) -> None:
    """List callers, scopes and when each token was made."""
    for entry in _tokens(invocation, file).tokens():
        scopes = ",".join(sorted(entry.scopes)) or "-"
        click.echo(f"{entry.name:<24} {scopes:<32} {entry.created}")


@token.command()
@click.argument("name")
@FILE
@click.pass_obj
def remove(invocation: Invocation, name: str, file: Path | None) -> None:
    """Forget the token of the caller NAME: it is refused from now on."""
    from codecell.audit.witness import administration

    tokens = _tokens(invocation, file)
    with administration(invocation.settings(), "token.remove", name=name):
        tokens.remove(name)


def _tokens(invocation: Invocation, file: Path | None) -> "TokenFile":
    from codecell.http.tokens import TokenFile

    path = file if file is not None else invocation.settings().http.tokens
    if path is None:
        raise ConfigurationError(
            "http.tokens is not set: name the file there (in codecell.toml, or as "
            "CODECELL_HTTP__TOKENS) or with --file"
        )
    return TokenFile(path)
