"""`codecell audit`: check the chains of the audit log, and look things up in them."""

import heapq
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codecell.cli import Invocation
from codecell.errors import ConfigurationError

if TYPE_CHECKING:
    from codecell.audit.chain import Finding

LOOK_EVERY_S = 0.3


@click.group()
def audit() -> None:
    """Check the audit log, and look things up in it."""


def _folder(invocation: Invocation, given: Path | None) -> Path:
    folder = given or invocation.settings().audit.folder
    if folder is None:
        raise ConfigurationError("there is no audit log: set audit.folder, or give --folder")
    if not folder.is_dir():
        raise ConfigurationError(f"audit.folder {folder} is no folder")
    return folder


def _expected(text: str | None) -> tuple[str, tuple[int, str]] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(audit\.\d+):(\d+):([0-9a-f]{64})", text)
    if match is None:
        raise click.UsageError("--expect takes CHAIN:SEQ:HASH as an earlier verify printed it")
    return match[1], (int(match[2]), match[3])


folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Look here instead of in audit.folder.",
)


@audit.command()
@folder_option
@click.option("--expect", metavar="CHAIN:SEQ:HASH", help="A line noted down elsewhere earlier.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def verify(invocation: Invocation, folder: Path | None, expect: str | None, as_json: bool) -> int:
    """Check every chain; exit status 1 when a line was changed, removed, moved or cut off."""
    from codecell.audit import book, chain

    where = _folder(invocation, folder)
    expected = _expected(expect)
    names = book.chains(where)
    if expected is not None and expected[0] not in names:
        names.append(expected[0])  # its absence is a problem
    found: dict[str, Finding] = {}
    for name in names:
        head = book.head_of(where, name)  # before the lines: a server may be writing
        noted = expected[1] if expected is not None and expected[0] == name else None
        found[name] = chain.verify(book.lines(where, name), head, noted)
    if as_json:
        click.echo(json.dumps({name: _values(one) for name, one in found.items()}, indent=2))
    else:
        for name, one in found.items():
            _tell(name, one)
        if not found:
            click.echo(f"no audit log in {where}")
    return 1 if any(one.problems for one in found.values()) else 0


def _values(found: "Finding") -> dict[str, Any]:
    return {
        "ok": not found.problems,
        "lines": found.lines,
        "seq": found.last.seq if found.last else 0,
        "hash": found.last.hash if found.last else None,
        "problems": found.problems,
        "notes": found.notes,
    }


def _tell(name: str, found: "Finding") -> None:
    state = "BROKEN" if found.problems else "whole"
    end = f", ends {name}:{found.last.seq}:{found.last.hash}" if found.last else ""
    click.echo(f"{name}: {state}, {found.lines} lines{end}")
    for problem in found.problems:
        click.echo(f"  problem: {problem}")
    for note in found.notes:
        click.echo(f"  note: {note}")


@audit.command()
@folder_option
@click.option("-n", "count", type=click.IntRange(0), default=20, help="How many lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.pass_obj
def tail(invocation: Invocation, folder: Path | None, count: int, follow: bool) -> None:
    """Print the newest lines of all chains, as they are, in the order of their times."""
    where = _folder(invocation, folder)
    seen: dict[str, int] = {}
    newest: list[tuple[str, str, int, str]] = []
    for item in _after(where, seen):
        heapq.heappush(newest, item)
        if len(newest) > count:
            heapq.heappop(newest)
    for *_, line in sorted(newest):
        click.echo(line)
    while follow:
        time.sleep(LOOK_EVERY_S)
        for *_, line in sorted(_after(where, seen)):
            click.echo(line)


def _after(where: Path, seen: dict[str, int]) -> Iterator[tuple[str, str, int, str]]:
    """Yield (time, chain, seq, line) of every line past those seen, and take note of them."""
    from codecell.audit import book

    for name in book.chains(where):
        for _, line in book.lines(where, name):
            record = _record(line)
            seq = record.get("seq")
            if isinstance(seq, int) and seq > seen.get(name, 0):
                seen[name] = seq
                yield str(record.get("time")), name, seq, line.decode("ascii", "backslashreplace")


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


@audit.command()
@folder_option
@click.argument("run_id")
@click.pass_obj
def show(invocation: Invocation, folder: Path | None, run_id: str) -> int:
    """Print everything about one run; exit status 1 when nothing is known of it."""
    where = _folder(invocation, folder)
    found = [json.loads(line) for *_, line in sorted(_after(where, {})) if _record_of(line, run_id)]
    for record in found:
        click.echo(json.dumps(record, indent=2))
    if not found:
        click.echo(f"codecell: nothing about {run_id!r} in {where}", err=True)
    return 0 if found else 1


def _record_of(line: str, run_id: str) -> bool:
    return run_id in line and _record(line.encode()).get("run_id") == run_id
