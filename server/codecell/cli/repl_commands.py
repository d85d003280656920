"""`codecell repl`: a session by hand, in a server or in this process."""

import codeop
import re
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from anyio.from_thread import BlockingPortal, start_blocking_portal

from codecell import log
from codecell.cli import Invocation
from codecell.cli.run_commands import Refused
from codecell.cli.shown import say, show
from codecell.errors import BusyError, CodecellError, RequestError
from codecell.language import Languages
from codecell.model import Request
from codecell.settings import Settings
from codecell.wire import ExecuteCodeOutput

if TYPE_CHECKING:
    from concurrent.futures import Future

HELP = """%language NAME  go on in another language, over the same session
%quit           leave (or Ctrl-D); Ctrl-C stops what is running
Python and Bash go on while a statement is open, JavaScript while a bracket is;
a program in a language without an interpreter of its own ends at an empty line."""
AWAIT = 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
OPENING, CLOSING = "([{", ")]}"
# Of Bash: the words that begin and end what goes over lines, and those that a command follows.
BEGINS = frozenset({"if", "case", "for", "while", "until", "select"})
ENDS = frozenset({"fi", "esac", "done"})
LEADS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "{", "!", "time"})
TOKENS = re.compile(r"[;&|()\n]|[^\s;&|()]+")
HERE = re.compile(r"(?<!<)<<-?[ \t]*['\"\\]?([A-Za-z_]\w*)")


class Refusal(Exception):
    """A call that nothing came of, in one sentence."""


Step = Callable[[Request], Any]


@click.command()
@click.argument("language", default="python")
@click.option("--url", help="A running server, such as http://127.0.0.1:8000.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False),
    help="File with the token for that server; by default CODECELL_TOKEN.",
)  # fmt: skip
@click.option("--session-id", default="new", help="Session to go on with; by default a new one.")
@click.pass_obj
def repl(
    invocation: Invocation, language: str, url: str | None, token_file: Path | None, session_id: str
) -> int:
    """Talk with an interpreter in a sandbox, step by step."""
    from codecell.cli import remote

    settings = invocation.settings()
    log.configure("critical" if settings.log.level == "warning" else settings.log.level)
    if settings.table.named(language) is None:
        raise click.UsageError(f"{language!r} is not one of {', '.join(settings.table)}")
    if url is None and session_id != "new":
        raise Refused("without --url the session is this command's own: leave --session-id out")
    opened = _own(settings) if url is None else _servers(url, remote.token_of(token_file))
    with start_blocking_portal() as portal:
        try:
            with portal.wrap_async_context_manager(opened) as step:
                Talk(portal, step, settings.table, language, session_id).go_on()
        except CodecellError as error:
            raise Refused(str(error)) from error
        except BaseExceptionGroup as group:
            if url is None:
                raise
            raise Refused(str(remote.unreachable(url, group))) from group
    return 0


@asynccontextmanager
async def _own(settings: Settings) -> AsyncIterator[Step]:
    """Give a runner of our own, for our life."""
    from codecell.app import open_runner
    from codecell.translation import from_outcome

    async with open_runner(settings, warm=False) as runner:

        async def step(request: Request) -> ExecuteCodeOutput:
            try:
                return from_outcome(await runner.execute(request))
            except (RequestError, BusyError) as error:
                raise Refusal(str(error)) from error

        yield step


@asynccontextmanager
async def _servers(url: str, token: str | None) -> AsyncIterator[Step]:
    """Give a connection to a server."""
    from codecell.cli import remote

    async with remote.connected(url, token) as client:

        async def step(request: Request) -> ExecuteCodeOutput:
            try:
                return await remote.call(client, request)
            except remote.ServerRefused as error:
                raise Refusal(str(error)) from error

        yield step


class Talk:
    """Reads steps and shows what came of them."""

    def __init__(
        self, portal: BlockingPortal, step: Step, table: Languages, language: str, session_id: str
    ) -> None:
        self._portal = portal
        self._step = step
        self._table = table
        self._language = table.find(language)
        self._session_id = session_id
        self._asks = sys.stdin.isatty()
        if self._asks:
            import readline  # line editing for `input`, where the platform has it

            readline.parse_and_bind("tab: self-insert")
            say(f"{self._language.title} in a sandbox; %help says what else there is")

    def go_on(self) -> None:
        """Take steps until there are no more."""
        while True:
            try:
                text = self._read()
            except EOFError:
                if self._asks:
                    click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                continue
            if text.startswith("%"):
                if text.split()[0] in ("%quit", "%exit"):
                    return
                self._obey(text)
            elif text.strip():
                self._run(text)

    def _read(self) -> str:
        lines = [self._line(f"{self._language.id}> ")]
        while not lines[0].startswith("%") and not complete(
            self._language.id, "\n".join(lines), interpreter=self._language.kernel is not None
        ):
            try:
                lines.append(self._line("." * len(self._language.id) + ". "))
            except EOFError:
                break  # what is there is all there is
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        if self._asks:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def _obey(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if command != "%language":
            say(HELP)
            return
        try:
            self._language = self._table.find(rest.strip())
        except RequestError as error:
            say(str(error))

    def _run(self, code: str) -> None:
        request = Request(language=self._language.id, code=code, session_id=self._session_id)
        future: Future[ExecuteCodeOutput] = self._portal.start_task_soon(self._step, request)
        try:
            result = future.result()
        except KeyboardInterrupt:
            future.cancel()
            say("stopped")
            return
        except Refusal as error:
            say(str(error))
            return
        if result.session is not None:
            self._session_id = result.session.id
        show(result)


def complete(language: str, text: str, *, interpreter: bool) -> bool:
    """Tell whether a step can be sent, or a line more is wanted; pure."""
    if not interpreter:
        return text.endswith("\n") or not text.strip()
    if language in ("python", "python-science"):
        return _python_complete(text)
    if language == "bash":
        return _bash_complete(text)
    return _closed(text)[0]


def _closed(text: str, *, bash: bool = False) -> tuple[bool, str]:
    """Tell whether no bracket, quote or line is open; return the text without quotes and comments.

    A shell's comment begins with a word; within its single quotes a backslash is none.
    """
    depth, quote, escaped, comment = 0, "", False, False
    plain = []
    for at, char in enumerate(text):
        if comment:
            comment = char != "\n"
        elif escaped:
            escaped = False
        elif char == "\\" and not (bash and quote == "'"):
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"`":
            quote = char
            plain.append("_")
        elif text.startswith("#" if bash else "//", at) and (
            not bash or text[at - 1 : at] in ("", " ", "\t", "\n", ";")
        ):
            comment = True
        else:
            depth += (char in OPENING) - (char in CLOSING)
            plain.append(char)
    return depth <= 0 and not quote and not escaped, "".join(plain)


def _bash_complete(text: str) -> bool:
    if begun := HERE.search(text):
        body = text[begun.end() :].partition("\n")[2].split("\n")
        if begun[1] not in (line.strip("\t") for line in body):
            return False
        text = text[: begun.start()]  # what is quoted so is not looked into
    whole, plain = _closed(text, bash=True)
    if not whole:
        return False
    depth, first = 0, True
    for word in TOKENS.findall(plain):
        if word in ";&|()\n":
            first = True
            continue
        if first:
            depth += (word in BEGINS) - (word in ENDS)
        first = first and word in LEADS
    return depth <= 0 and not plain.rstrip(" \t").endswith(("|", "&&", "()"))


def _python_complete(text: str) -> bool:
    lines = text.split("\n")
    if len(lines) > 1 and lines[-1][:1] in (" ", "\t"):
        return False  # a block ends at an empty line
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= AWAIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compiler(text, "<step>", "exec") is not None
    except (SyntaxError, OverflowError, ValueError):
        return True  # the interpreter says it better
