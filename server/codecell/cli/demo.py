"""The main job, shown: a real MCP client, a real stdio server, real programs, real confinement."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import CallToolResult
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from codecell.cli.client_config import CLIENTS, command
from codecell.visible import harmless

_CALL_S = 120.0  # a first cell on a slow machine; a run's own limit is far below
_SHOWN_LINES = 4

# A route anywhere would show as an interface besides lo, a resolver as another answer than
# "try again"; neither question leaves this machine, even if a cell had a network.
_NETWORK_PROBE = """\
import socket
print("interfaces:", *(name for _, name in socket.if_nameindex()))
try:
    socket.create_connection(("127.0.0.1", 9), timeout=2)
except OSError as error:
    print("connect:", error.strerror)
try:
    socket.getaddrinfo("codecell.invalid", 80)
except OSError as error:
    print("resolve:", error.strerror)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what must come back."""

    title: str
    arguments: dict[str, Any]
    status: str
    stdout: str | None = None
    as_expected: Callable[[dict[str, Any]], bool] = field(default=lambda _: True)


PROGRAMS = {
    "python": Case(
        "primes",
        {"code": "print(sum(all(n % d for d in range(2, n)) for n in range(2, 1000)), 'primes')"},
        "success",
        "168 primes\n",
    ),
    "javascript": Case(
        "sort",
        {
            "code": "const words = 'ant bee ape bat'.split(' ').sort();\n"
            "console.log(JSON.stringify({n: words.length, first: words[0]}));"
        },
        "success",
        '{"n":4,"first":"ant"}\n',
    ),
    "bash": Case(
        "sum",
        {"code": "seq 10 | sort -rn | head -3 | awk '{ s += $1 } END { print \"sum\", s }'"},
        "success",
        "sum 27\n",
    ),
}
ENDINGS = (
    Case(
        "stdin",
        {
            "language": "python",
            "code": "import sys\nprint(sum(map(int, sys.stdin)))",
            "stdin": "20\n22\n",
        },
        "success",
        "42\n",
    ),
    Case(
        "endless",
        {
            "language": "python",
            "code": "print('before', flush=True)\nwhile True: pass",
            "timeout": 1,
        },
        "timeout",
        "before\n",
    ),
    Case(
        "network",
        {"language": "python", "code": _NETWORK_PROBE},
        "success",
        as_expected=lambda result: (
            "interfaces: lo\n" in result["stdout"]
            and "connect: Connection refused\n" in result["stdout"]
            and "resolve: Temporary failure in name resolution\n" in result["stdout"]
        ),
    ),
)


def show(server_options: list[str]) -> int:
    """Run the demonstration; return the exit status."""
    console = Console()
    failures = anyio.run(_demonstrate, console, server_options)
    _show_clients(console)
    if failures:
        console.print(f"[red]{failures} of the lines above are not as expected[/red]")
    return 1 if failures else 0


async def _demonstrate(console: Console, server_options: list[str]) -> int:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "codecell", *server_options, "serve"],
        env=dict(os.environ),
    )
    async with Client(server) as client:
        with anyio.fail_after(_CALL_S):
            listing = await client.call_tool("list_languages")
        if listing.is_error:
            console.print(f"[red]list_languages:[/red] {escape(_text(listing))}")
            return 1
        known = listing.structured_content["languages"]
        installed = [language for language in known if language["installed"]]
        console.print(_languages_table(known))
        runs, failures = _runs_table(), len(known) - len(installed)
        for case in _cases([language["id"] for language in installed]):
            failures += not await _one(client, case, runs)
        console.print(runs)
    return failures


def _cases(languages: list[str]) -> list[Case]:
    programs = [(name, PROGRAMS[name]) for name in languages if name in PROGRAMS]
    hello = [
        Case(case.title, {"language": name, **case.arguments}, case.status, case.stdout)
        for name, case in programs
    ]
    return [*hello, *ENDINGS]


async def _one(client: Client, case: Case, table: Table) -> bool:
    title = f"{case.arguments['language']}: {case.title}"
    started = anyio.current_time()
    try:
        with anyio.fail_after(_CALL_S):
            answer = await client.call_tool("execute_code", case.arguments)
    except (MCPError, TimeoutError) as error:
        table.add_row(title, "[red]no answer[/red]", escape(str(error)))
        return False
    elapsed_ms = 1000 * (anyio.current_time() - started)
    result = answer.structured_content
    if result is None:
        table.add_row(title, "[red]refused[/red]", escape(_text(answer)))
        return False
    good = (
        result["status"] == case.status
        and case.stdout in {None, result["stdout"]}
        and case.as_expected(result)
    )
    isolation = result["isolation"]
    output = result["stdout"] + result["stderr"] or result["error_message"] or ""
    table.add_row(
        title,
        f"[green]{result['status']}[/green]" if good else f"[red]{result['status']}[/red]",
        escape("\n".join(harmless(output).splitlines()[:_SHOWN_LINES])),
        f"{elapsed_ms:.0f}",
        f"{isolation['runtime']}, network {isolation['network']}",
    )
    return good


def _text(answer: CallToolResult) -> str:
    return "\n".join(harmless(block.text) for block in answer.content if block.type == "text")


def _languages_table(languages: list[dict[str, Any]]) -> Table:
    table = Table(title="list_languages", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("language", "version", "aliases", "program"):
        table.add_column(heading)
    table.add_column("limits", overflow="fold")
    for language in languages:
        limits = language["limits"]
        table.add_row(
            language["id"],
            escape(language["version"] or "") or "[red]not installed[/red]",
            ", ".join(language["aliases"]),
            f"/sandbox/{language['file_name']}",
            f"{limits['timeout_s']:g} s, {limits['memory_bytes'] >> 20} MiB",
        )
    return table


def _runs_table() -> Table:
    table = Table(title="execute_code", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("program", "status"):
        table.add_column(heading, no_wrap=True)
    table.add_column("output", overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("isolation", no_wrap=True)
    return table


def _show_clients(console: Console) -> None:
    console.print("\nTo use it from an MCP client, paste one of these:")
    for make in CLIENTS.values():
        config = make(command())
        console.print(f"\n[bold]{config.title}[/bold] ({escape(config.where)})")
        # Not through rich: it would wrap and colour what is to be pasted.
        console.file.write(config.text + "\n")
