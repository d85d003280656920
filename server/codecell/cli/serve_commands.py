"""`codecell serve`, `demo` and `client-config`: the MCP server, at work, in a client."""

import click

from codecell.cli import Invocation
from codecell.cli.client_config import CLIENTS, command


@click.command()
@click.option(
    "--transport",
    type=click.Choice(["stdio"]),
    default="stdio",
    show_default=True,
    help="How the client talks to the server.",
)
@click.pass_obj
def serve(invocation: Invocation, transport: str) -> int:
    """Serve MCP to the client that started this process."""
    del transport  # there is one
    from codecell import stdio

    wire = stdio.claim()  # first: from here on nothing but MCP can reach stdout
    from codecell import log

    settings = invocation.settings()
    log.configure(settings.log.level)
    return stdio.serve(settings, wire)


@click.command()
@click.pass_context
def demo(context: click.Context) -> int:
    """Start the server as an MCP client does, run programs through it, show what comes back."""
    from codecell.cli.demo import show

    config = context.find_root().params.get("config")
    return show(["--config", str(config)] if config is not None else [])


@click.command("client-config")
@click.argument("client", type=click.Choice(list(CLIENTS)))
def client_config(client: str) -> None:
    """Print the configuration to paste into an MCP client."""
    config = CLIENTS[client](command())
    click.echo(f"{config.title}: {config.where}", err=True)
    click.echo(config.text)
