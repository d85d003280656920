"""A result on a terminal: output as the program wrote it, then what the server has to say."""

import sys
from collections.abc import Iterator
from typing import IO

import click

from codecell.listing import file_facts
from codecell.model import Status
from codecell.render import facts
from codecell.visible import harmless
from codecell.wire import ExecuteCodeOutput


def show(result: ExecuteCodeOutput, *, verbose: bool = False, list_files: bool = False) -> None:
    """Write a result's streams to ours, and a sentence where there is something to say."""
    if result.compile is not None:
        write(sys.stderr, result.compile.output)
    write(sys.stdout, result.stdout)
    write(sys.stderr, result.stderr)
    for line in values(result):
        if result.session is not None:  # as a prompt does; a program's own stdout stays its own
            write(sys.stdout, f"{line}\n")
        else:
            say(harmless(line))
    if verbose:
        say("\n".join(facts(result)))
        return
    if result.status is not Status.SUCCESS:
        say(f"{result.status.value}: {harmless(result.error_message or 'no more is known')}")
    if result.session is not None and result.session.reason is not None:
        say(f"session {result.session.id}: {harmless(result.session.reason)}")
    if list_files and (lines := list(file_facts(result.files))):
        say("\n".join(lines))
    for name in ("stdout", "stderr"):
        if getattr(result, f"{name}_truncated"):
            elided, total = (
                getattr(result, f"{name}_elided_bytes"),
                getattr(result, f"{name}_bytes"),
            )
            say(f"{name} is cut: {elided} of its {total} bytes are left out")


def values(result: ExecuteCodeOutput) -> Iterator[str]:
    """Tell what a program showed beside its output: displays in their order, then its value."""
    shown = [(f"display-{n}", value) for n, value in enumerate(result.displays, 1)]
    if result.result is not None:
        shown.append(("result", result.result))
    for name, value in shown:
        forms = [f"{form.mime_type} {form.width} x {form.height}" for form in value.files]
        picture = ", ".join(forms)
        if result.session is not None:
            words = [value.text, f"[{name}: {picture}]" if forms else ""]
        else:
            text = f"\n{value.text}" if "\n" in value.text else value.text  # its columns stay
            words = [f"{name}:", text, f"[{picture}]" if forms else ""]
        yield " ".join(filter(None, (*words, *value.notes)))


def write(stream: IO[str], text: str) -> None:
    """Write text as it is, UTF-8 whatever the locale; harmless to a terminal."""
    stream.flush()
    shown = harmless(text) if stream.isatty() else text
    stream.buffer.write(shown.encode())  # type: ignore[attr-defined]  # IO[str] hides the buffer
    stream.flush()


def say(text: str) -> None:
    """Say something of ours on stderr."""
    click.echo("\n".join(f"codecell: {line}" for line in text.splitlines()), err=True)
