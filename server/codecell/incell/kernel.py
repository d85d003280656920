"""What a Python is in a session: runs one step after the other in one `__main__`.

Compiled in the child that becomes the interpreter, not in the agent: a cell that serves no session
holds no more of it than its text.
"""

from __future__ import annotations

import builtins
import os
import sys
from _ast import Expr, Expression, Module

from codecell.incell.child import take
from codecell.incell.lazy import LOADED, module
from codecell.incell.modules import MODULES
from codecell.incell.program import (
    UNFLUSHED,
    choose_backend,
    display,
    exit_status,
    flush_last,
    flushed,
    renew_stdin,
    report,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, NoReturn

    from codecell.incell.program import Kernel

ONLY_AST, TOP_LEVEL_AWAIT = 0x400, 0x2000  # ast.PyCF_ONLY_AST, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
FUTURES = 0x1FE0000  # the CO_FUTURE_ flags: `from __future__` holds for the steps that follow
COROUTINE = 0x80  # inspect.CO_COROUTINE
INTERRUPTED = 130


def serve(kernel: Kernel) -> NoReturn:
    """Run the steps that the agent sends, until it is gone."""
    for fd in (kernel.go, kernel.job, kernel.done):
        os.set_inheritable(fd, False)  # noqa: FBT003  it has no keyword
    os.write(kernel.done, b"+\n")
    steps = Steps()
    head: dict[str, Any] | None = kernel.head
    waiting = b""
    said = b""  # what the agent has not been told yet
    while True:
        try:
            if said:
                os.write(kernel.done, said)
                said = b""
                head = None
            while not waiting.strip():
                more = os.read(kernel.go, 64)
                if not more:
                    os._exit(0)
                waiting += more
            number, waiting = int(waiting), b""
            said = b"%d %d\n" % (number, steps.run(number, head or take(kernel.job)))
        except KeyboardInterrupt:  # that came too late for the step it was meant for
            continue
        except OSError:  # the program closed what is ours
            os.write(2, b"The descriptors by which this session is told its steps were closed.\n")
            os._exit(1)


class Steps:
    """The namespace that the steps share, and the loop that their coroutines run in."""

    def __init__(self) -> None:
        main = type(sys)("__main__")
        main.__dict__.update(__builtins__=__builtins__, __annotations__={})
        sys.modules["__main__"] = main
        sys.dont_write_bytecode = True  # as in a run: it would be among the step's files
        MODULES.after["matplotlib"] = choose_backend
        self.scope = main.__dict__
        self.flags = TOP_LEVEL_AWAIT
        self.pid = os.getpid()
        self.loop: Any = None

    def run(self, number: int, head: dict[str, Any]) -> int:
        """Run one step; return its exit code."""
        os.environ.update(head["env"])
        sys.argv[:] = sys.orig_argv[:] = ["", *head["argv"][1:]]
        renew_stdin()
        if "codecell.incell.values" in LOADED:
            module("values").VALUES.__init__()  # this step has shown nothing yet
        status = 0
        failure: BaseException | None = None
        try:
            self._execute(head["code"], f"<step {number}>")
        except BaseException as error:
            failure = error
        if "matplotlib.pyplot" in sys.modules:
            module("figures").end_step()
        if failure is not None:
            status = self._report(failure)
        del failure
        whole = flush_last()
        if os.getpid() != self.pid:  # a fork that came to the end of its program
            os._exit(status & 0xFF if whole else UNFLUSHED)
        return INTERRUPTED if status < 0 else status if whole or status else UNFLUSHED

    def _execute(self, source: bytes, name: str) -> None:
        text = source.decode()
        _remember(name, text)
        tree: Any = compile(text, name, "exec", self.flags | ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        codes = self._compiled(tree, last, name)
        if b"display(" in source:
            builtins.__dict__["display"] = display  # as in a notebook
        value = None
        if any(code.co_flags & COROUTINE for code in codes):
            value = self._wait_for(codes)
        else:
            for code in codes:
                value = eval(code, self.scope)
        if value is not None:
            builtins.__dict__["_"] = value
            module("values").VALUES.result(value)

    def _compiled(self, tree: Module, last: Any, name: str) -> list[CodeType]:
        """Return the statements, then the expression that they end in: its value is the step's."""
        parts: Any = [(tree, "exec")] if tree.body or not last else []
        if last:
            parts.append((Expression(last.value), "eval"))
        made = [compile(part, name, mode, self.flags, dont_inherit=True) for part, mode in parts]
        for code in made:
            self.flags |= code.co_flags & FUTURES
        return made

    async def _all(self, codes: list[CodeType]) -> Any:
        """Run a step that awaits somewhere; all of it finds the loop running."""
        value = None
        for code in codes:
            value = eval(code, self.scope)
            if code.co_flags & COROUTINE:
                value = await value
        return value

    def _wait_for(self, codes: list[CodeType]) -> Any:
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(self._all(codes))
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # interrupted: what awaits is told before anything else runs
                task.cancel()
                try:
                    self.loop.run_until_complete(task)
                except BaseException:
                    pass
            raise

    @staticmethod
    def _report(error: BaseException) -> int:
        """Show what the step raised, from its own first line on."""
        trace = error.__traceback__
        while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("<step "):
            trace = trace.tb_next
        error.__traceback__ = trace
        for name in ("stderr", "stdout"):
            flushed(name)
        if sys.version_info < (3, 13) and sys.excepthook is sys.__excepthook__:
            return _report_by_module(error)  # the built-in one knows only lines that are in files
        return report(error)


def _report_by_module(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return exit_status(error.code)
    import traceback

    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    traceback.print_exception(error)
    return -1 if isinstance(error, KeyboardInterrupt) else 1


def _remember(name: str, text: str) -> None:
    """Let tracebacks and `inspect` find the lines of a step."""
    import linecache

    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
