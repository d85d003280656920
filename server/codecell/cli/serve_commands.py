"""`codecell serve`, `demo` and `client-config`: the MCP server, at work, in a client."""

from pathlib import Path
from typing import NoReturn

import click

from codecell.cli import Invocation, client_files
from codecell.cli.client_config import CLIENTS, command


@click.command()
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http", "sse"]),
    default="stdio",
    show_default=True,
    help="How clients talk to the server; http serves /mcp, and /sse unless http.sse is false.",
)
@click.option("--host", help="Address to listen on, for http and sse [default: 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [default: 8000].")
@click.pass_obj
def serve(invocation: Invocation, transport: str, host: str | None, port: int | None) -> None:
    """Serve MCP to the client that started this process, or over HTTP."""
    if transport == "stdio":
        if host is not None or port is not None:
            raise click.UsageError("--host and --port go with --transport http or sse")
        _serve_stdio(invocation)
    from codecell import leaving, log
    from codecell.http.serve import serve as serve_http

    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    settings = invocation.settings({"http": given} if given else None)
    log.configure(settings.log.level)
    status = serve_http(
        settings, transport, lambda url: click.echo(f"codecell: serving MCP on {url}", err=True)
    )
    leaving.now(status)


def _serve_stdio(invocation: Invocation) -> NoReturn:
    from codecell import stdio

    wire = stdio.claim()  # first: from here on nothing but MCP can reach stdout
    from codecell import leaving, log

    settings = invocation.settings()
    log.configure(settings.log.level)
    leaving.now(stdio.serve(settings, wire))


@click.command()
@click.pass_context
def demo(context: click.Context) -> int:
    """Start the server as an MCP client does, run programs through it, show what comes back."""
    from codecell.cli.demo import show

    config = context.find_root().params.get("config")
    return show(["--config", str(config)] if config is not None else [])


@click.command("client-config")
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option(
    "--write",
    "to_file",
    is_flag=True,
    help="Write it into the client's own file; what is there stays, and a copy is kept.",
)
def client_config(client: str, *, to_file: bool) -> None:
    """Print the configuration to paste into an MCP client, or write it there."""
    config = CLIENTS[client](command())
    if not to_file:
        click.echo(f"{config.title}: {config.where}", err=True)
        click.echo(config.text)
        return
    path = client_files.locate(client, Path.home(), Path.cwd())
    backup = client_files.write(path, config.key, config.server)
    kept = f"; what was there is kept as {backup.name}" if backup is not None else ""
    click.echo(f"{config.title}: written to {path}{kept}", err=True)
