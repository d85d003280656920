"""`codecell execute` and `codecell languages`: one run or one look, without a server.

Exit status of `execute`: the program's own (128 + number for a signal), 124 for a timeout, 137 out
of memory, 153 for too much output, 125 when the fault is ours or the request's; 2 for wrong usage.
"""

import json
import logging
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio
import click
import structlog

from codecell import log, policy
from codecell.cli import Invocation
from codecell.errors import BusyError, RequestError, SandboxError
from codecell.language import Languages
from codecell.languages import LANGUAGES
from codecell.model import Input, LanguageInfo, Outcome, Request, Status
from codecell.settings import Settings

if TYPE_CHECKING:
    from codecell.store import Store
    from codecell.wire import ExecuteCodeOutput

OURS = 125
NO_SERVER = (
    "sessions live in a running server: start one with `codecell serve --transport http` and name "
    "it with --url, or use `codecell repl`"
)
_FIXED_STATUS = {
    Status.SUCCESS: 0,
    Status.TIMEOUT: 124,
    Status.OUT_OF_MEMORY: 137,
    Status.OUTPUT_LIMIT: 128 + signal.SIGXFSZ,
    Status.CANCELLED: 128 + signal.SIGINT,
    Status.SETUP_ERROR: OURS,
}


class Refused(click.ClickException):
    """One sentence on stderr and exit status 125."""

    exit_code = OURS

    def show(self, file: IO[str] | None = None) -> None:
        del file
        _say(self.format_message())


@click.command()
@click.argument("words", nargs=-1, metavar="[CODE | -] [-- ARGS]...")
@click.option("--language", "-l", help="Language id or alias; guessed from FILE by default.")
@click.option("--file", "-f", "file", metavar="FILE", help="Run this file; - reads our stdin.")
@click.option(
    "--input", "-i", "input_", metavar="TEXT|@FILE", default="",
    help="The program's standard input; @FILE reads a file, @- our stdin, @@ stands for @.",
)  # fmt: skip
@click.option("--timeout", "-t", type=float, metavar="SECONDS", help="Time limit of the run.")
@click.option(
    "--max-output-tokens", type=int, metavar="N",
    help="Show so much of the output, at four characters a token: its beginning and its end.",
)  # fmt: skip
@click.option(
    "--env", "-e", "env", multiple=True, metavar="NAME=VALUE", help="Add a variable; repeatable."
)
@click.option(
    "--file-in",
    "file_in",
    multiple=True,
    metavar="PATH[=NAME]",
    help="Put a file, or all of a directory, into /sandbox; repeatable.",
)
@click.option("--entrypoint", metavar="NAME", help="Which of these files is the program.")
@click.option(
    "--save-files",
    metavar="DIR",
    help="Write the files and pictures that the program leaves below DIR.",
)
@click.option("--files", "list_files", is_flag=True, help="List what the program did to files.")
@click.option("--url", help="Run on a server, such as http://127.0.0.1:8000.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False),
    help="File with the token for that server; by default CODECELL_TOKEN.",
)  # fmt: skip
@click.option("--session-id", help="Run in a session of that server; `new` opens one.")
@click.option(
    "--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--verbose", "-v", is_flag=True, help="Tell status, usage, limits and isolation.")
@click.pass_obj
def execute(
    invocation: Invocation,
    words: tuple[str, ...],
    language: str | None,
    file: str | None,
    input_: str,
    timeout: float | None,
    max_output_tokens: int | None,
    env: tuple[str, ...],
    file_in: tuple[str, ...],
    entrypoint: str | None,
    save_files: str | None,
    list_files: bool,
    url: str | None,
    token_file: Path | None,
    session_id: str | None,
    output_format: str,
    verbose: bool,
) -> int:
    """Run a program in a sandbox.

    CODE is the program's text (Python unless --language says otherwise); - reads it from stdin.
    """
    if session_id is not None and url is None:
        raise Refused(NO_SERVER)
    if save_files is not None and url is not None:
        raise Refused("--save-files saves from a run on this machine, not from a server (--url)")
    settings = invocation.settings()
    brought = _files(file_in, settings)
    if brought and entrypoint is not None and file is None:
        code, guess, args = "", language_of_name(entrypoint, settings.table), words
    else:
        code, guess, args = _program(words, file, settings.table)
    _configure_log(settings, verbose=verbose)
    request = Request(
        language=language or guess or _unknown_language(file, settings.table),
        code=code,
        stdin=_input(input_),
        args=args,
        env=tuple(_variable(item) for item in env),
        files=brought,
        entrypoint=entrypoint,
        timeout_s=timeout,
        session_id=session_id,
        max_output_tokens=max_output_tokens,
    )
    unsaved: list[str] = []
    if url is not None:
        result = _run_there(url, token_file, request)
    else:
        from codecell.translation import from_outcome

        outcome, unsaved = _run(settings, request, save_files)
        result = from_outcome(outcome)
    if output_format == "json":
        _show_json(result)
    else:
        from codecell.cli.shown import show

        show(result, verbose=verbose, list_files=list_files)
    for problem in unsaved:
        _say(problem)
    return exit_status(result) or (OURS if unsaved else 0)


def _run_there(url: str, token_file: Path | None, request: Request) -> "ExecuteCodeOutput":
    """Run one request on a server."""
    from codecell.cli import remote

    try:
        return anyio.run(remote.run, url, remote.token_of(token_file), request)
    except remote.ServerRefused as error:
        raise Refused(str(error)) from error


def _configure_log(settings: Settings, *, verbose: bool) -> None:
    """Log when asked to: what a person must know of a single run is told in a sentence."""
    log.configure(settings.log.level)
    if not verbose:
        critical = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=critical)


def _program(
    words: tuple[str, ...], file: str | None, table: Languages
) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the program's text, the language it looks like, and its arguments."""
    if file is not None and file != "-":
        path = Path(file)
        try:
            code = path.read_bytes()
        except OSError as error:
            raise Refused(f"cannot read {file}: {error.strerror}") from error
        text = _decoded(code, file)
        return text, language_of_name(path.name, table) or language_of_shebang(text, table), words
    if file == "-":
        words = ("-", *words)
    if not words:
        raise click.UsageError("nothing to run: give CODE, --file FILE, or - for standard input")
    text = _decoded(sys.stdin.buffer.read(), "standard input") if words[0] == "-" else words[0]
    return text, language_of_shebang(text, table) or "python", words[1:]


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"{name} is not UTF-8 text (byte {error.start})") from error


def language_of_name(name: str, table: Languages = LANGUAGES) -> str | None:
    """Guess a language from a file's extension."""
    language = table.of_extension(Path(name).suffix)
    return language.id if language else None


def language_of_shebang(code: str, table: Languages = LANGUAGES) -> str | None:
    """Guess a language from a program's first line."""
    line = code.partition("\n")[0]
    words = line.removeprefix("#!").split() if line.startswith("#!") else []
    if words and words[0].endswith("/env"):
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    if not words:
        return None
    name = words[0].rpartition("/")[2]
    language = table.named(name) or table.named(name.rstrip("0123456789.-"))
    return language.id if language else None


def _unknown_language(file: str | None, table: Languages) -> str:
    raise click.UsageError(
        f"cannot tell the language of {file}: say --language, one of {', '.join(table)}"
    )


def _input(given: str) -> str:
    if given.startswith("@@") or not given.startswith("@"):
        return given.removeprefix("@") if given.startswith("@") else given
    name = given[1:]
    if name == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    try:
        return _decoded(Path(name).read_bytes(), name)
    except OSError as error:
        raise Refused(f"cannot read {name}: {error.strerror}") from error


def _variable(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise click.UsageError(f"--env takes NAME=VALUE, not {item[:40]!r}")
    return name, value


def _files(words: tuple[str, ...], settings: Settings) -> tuple[Input, ...]:
    if not words:
        return ()
    from codecell.cli import files

    try:
        return files.read(words, int(settings.files.in_size))
    except OSError as error:
        raise Refused(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(str(error)) from error


def _run(settings: Settings, request: Request, save: str | None) -> tuple[Outcome, list[str]]:
    """Run one request; a refusal becomes the sentence that the user sees."""
    result = anyio.run(_execute, settings, request, save)
    if isinstance(result, str):
        raise Refused(result)
    return result


async def _execute(
    settings: Settings, request: Request, save: str | None
) -> tuple[Outcome, list[str]] | str:
    try:
        policy.plan(request, settings)  # what can be refused is refused before an engine is opened
    except RequestError as error:
        return str(error)
    from codecell.app import open_runner

    async with open_runner(settings, warm=False) as runner:
        # Caught here: past the block's task group an exception would arrive in a group of one.
        try:
            outcome = await runner.execute(request)
            return outcome, _save(outcome, runner.store, save) if save is not None else []
        except (RequestError, BusyError) as error:
            return str(error)


def _save(outcome: Outcome, store: "Store", directory: str) -> list[str]:
    from codecell.cli import files

    try:
        return files.save(outcome, store, directory)
    except OSError as error:
        return [f"cannot write into {directory}: {error.strerror}"]


def exit_status(outcome: "Outcome | ExecuteCodeOutput") -> int:
    """Return the exit status that tells a run's outcome, as `timeout` and `docker run` do."""
    fixed = _FIXED_STATUS.get(outcome.status)
    if fixed is not None:
        return fixed
    if outcome.signal is not None:
        return 128 + _signal_number(outcome.signal)
    return outcome.exit_code if outcome.exit_code else 1


def _signal_number(name: str) -> int:
    try:
        return signal.Signals[name].value
    except KeyError:
        digits = name.removeprefix("SIG")  # real-time signals go by number
        return int(digits) if digits.isdigit() else 0


def _show_json(result: "ExecuteCodeOutput") -> None:
    # Escaped on a terminal, where a program's control and bidi characters could do harm.
    values = result.model_dump(mode="json")
    _write(sys.stdout, json.dumps(values, indent=2, ensure_ascii=sys.stdout.isatty()) + "\n")


def _write(stream: IO[str], text: str) -> None:
    """Write text as it is: UTF-8 whatever the locale, and no newline changed."""
    stream.flush()
    stream.buffer.write(text.encode())  # type: ignore[attr-defined]  # IO[str] hides the buffer
    stream.flush()


def _say(text: str) -> None:
    click.echo("\n".join(f"codecell: {line}" for line in text.splitlines()), err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what the list_languages tool returns.")
@click.pass_obj
def languages(invocation: Invocation, as_json: bool) -> None:
    """List the languages, as really installed."""
    from codecell.render import languages_text
    from codecell.translation import from_languages

    settings = invocation.settings()
    _configure_log(settings, verbose=False)
    found = anyio.run(_languages, settings)
    if isinstance(found, str):
        raise Refused(found)
    result = from_languages(found)
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        click.echo(languages_text(result))


async def _languages(settings: Settings) -> tuple[LanguageInfo, ...] | str:
    from codecell.app import open_runner

    async with open_runner(settings, warm=False) as runner:
        try:
            return await runner.languages()
        except SandboxError as error:
            return str(error)
