"""What a forked Python child becomes: the program, as `python3 PROGRAM ARGS` would run it."""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import sys
from importlib.machinery import SourceFileLoader

from codecell.incell.modules import FRESH, MODULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal  # see child.py


class Program(BaseException):
    """Carries a program up to the bottom of the child's stack, where it is run."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv


def run_program(argv: list[str]) -> NoReturn:
    """Run a program in this already initialised interpreter.

    Does not return. The interpreter is not torn down, which would touch, and so copy, every page
    that the child shares with the agent (2.7 ms of a 4.1 ms run); what a program can see of the end
    is done in the interpreter's own order: threads, atexit, flush, destructors, flush.
    """
    path = argv[0]
    scope = _enter_main(path)
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]
    _renew_stdin()
    status = 0
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, scope)
    except SystemExit as error:
        status = exit_status(error.code)
    except BaseException as error:
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # less this frame
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    del scope
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    status = _flush(status)
    sys.modules.pop("__main__", None)
    gc.collect()  # young objects only: what was there before the fork is frozen
    own = [name for name in sys.modules if name not in FRESH and name not in MODULES.prepared]
    for name in own:
        del sys.modules[name]
    if own:
        gc.collect()
    status = _flush(status)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


def exit_status(code: object) -> int:
    """Say what `sys.exit(code)` means, as the interpreter has it."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _enter_main(path: str) -> dict[str, Any]:
    """Make the program's own `__main__` and return its namespace."""
    module = type(sys)("__main__")
    module.__dict__.update(
        __file__=path,
        __cached__=None,
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", path),
        __annotations__={},
    )
    sys.modules["__main__"] = module
    return module.__dict__


def _renew_stdin() -> None:
    """Open stdin anew: the agent's has never seen what descriptor 0 is now."""
    old: Any = sys.stdin
    buffer: Any = open(0, "rb", closefd=False)  # noqa: SIM115  it stays open
    buffer.raw.name = "<stdin>"
    new = type(old)(buffer, old.encoding, old.errors, "\n")
    new.mode = "r"
    sys.stdin = new
    sys.__stdin__ = new  # type: ignore[misc]  # final, but for the interpreter itself


def _flush(status: int) -> int:
    """Flush stdout and stderr; a status of success does not outlast a failure to."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:
            pass  # closed by the program
        except BaseException:
            status = status or 120
    return status
