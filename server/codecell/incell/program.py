"""What a forked Python child becomes: the program, as `python3 PROGRAM ARGS` would run it."""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import sys
from importlib.machinery import SourceFileLoader

from codecell.incell.lazy import module
from codecell.incell.modules import FRESH, MODULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast as _ast
    import signal
    from collections.abc import Iterator
    from types import CodeType, ModuleType
    from typing import Any, NoReturn
else:
    import _ast
    import _signal as signal  # see child.py


ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without the module
FUTURE_FLAGS = 0x1FE0000  # those of co_flags that `from __future__` sets
# How a last line begins that has no value: most programs' do.
OTHERWISE = (
    b"print(", b"for ", b"while ", b"if ", b"else:", b"elif ", b"with ", b"def ", b"class ",
    b"try:", b"except", b"finally:", b"import ", b"from ", b"raise ", b"assert ", b"del ", b"pass",
)  # fmt: skip
UNFLUSHED = 120  # the interpreter's own status where output was lost
FAREWELL = 43  # a real-time signal that tells PID 1 to look: see run.py
_getpid, _kill = os.getpid, os.kill  # a program may put its own in their place


class Program(BaseException):
    """Carries a program up to the bottom of the child's stack, where it is run."""

    def __init__(self, argv: list[str], kernel: Kernel | None = None) -> None:
        self.argv = argv
        self.kernel = kernel


class Kernel:
    """What makes a session's interpreter of the child: kernel.py and its way to the agent."""

    def __init__(self, source: str, go: int, job: int, done: int, head: dict[str, Any]) -> None:
        self.source = source
        self.go, self.job, self.done = go, job, done
        self.head = head  # of the first step

    def load(self, agent: dict[str, ModuleType]) -> Any:
        """Make the module; like the agent's own, none stays in `sys.modules`."""
        name = "codecell.incell.kernel"
        module = type(sys)(name)
        sys.modules.update(agent)
        exec(compile(self.source, "<" + name + ">", "exec", dont_inherit=True), module.__dict__)
        for part in agent:
            del sys.modules[part]
        return module


def begin(program: Program, agent: dict[str, ModuleType]) -> NoReturn:
    """Run what a child was made for; `agent` is the modules, by name."""
    if program.kernel is not None:
        program.kernel.load(agent).serve(program.kernel)
    run_program(program.argv)


def run_program(argv: list[str]) -> NoReturn:
    """Run a program in this already initialised interpreter.

    Does not return. The interpreter is not torn down, which would touch, and so copy, every page
    that the child shares with the agent (2.7 ms of a 4.1 ms run); what a program can see of the end
    is done in the interpreter's own order: threads, atexit, flush, destructors, flush.
    """
    path, pid = argv[0], _getpid()
    scope = _enter_main(path)
    sys.argv[:] = argv
    sys.path[0] = os.path.dirname(path)
    sys.orig_argv[:] = [sys.executable, *argv]
    sys.dont_write_bytecode = True  # nobody would read it, and it would be among the run's files
    status = 0
    failure: BaseException | None = None
    try:
        for code in _parts_of(path):
            exec(code, scope)  # here: a program can count the frames below its own
    except BaseException as error:
        failure = _less_ours(error)
    _Hook.remove()
    if "matplotlib.pyplot" in sys.modules:
        module("figures").show_open()
    # From here no exception is being handled, as when the interpreter itself reports one.
    del scope
    for name in ("stderr", "stdout"):
        flushed(name)
    if failure is not None:
        status = report(failure)
        failure = None
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    whole = flush_last()
    sys.modules.pop("__main__", None)
    collect()
    own = [name for name in sys.modules if name not in FRESH and name not in MODULES.prepared]
    for name in own:
        del sys.modules[name]
    if own:
        collect()
    for name in ("stdout", "stderr"):
        whole = flushed(name) is None and whole
    _leave(status if whole or status < 0 else UNFLUSHED, pid)


def _leave(status: int, pid: int) -> NoReturn:
    """End this process, by a signal where the status is below 0; `pid` is the program's own."""
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    if _getpid() == pid:  # and not a fork of the program's, which ends here too
        try:
            _kill(1, FAREWELL)
        except OSError:
            pass  # PID 1 has another uid (gVisor): it learns of the end by reaping
    os._exit(status & 0xFF)


def _parts_of(path: str) -> Iterator[CodeType]:
    """Yield a program's code, then its last statement, whose value is shown."""
    source = content_of(path)
    MODULES.after["matplotlib"] = choose_backend
    if b"display(" in source:
        builtins.__dict__["display"] = display  # as in a notebook
    code, last = parts(source, path)
    del source
    yield code
    if last is not None:
        _Hook.install(last)
        yield last


def content_of(path: str) -> bytes:
    """Return a file's bytes, without what the interpreter makes for an open file."""
    fd, content = os.open(path, os.O_RDONLY | os.O_CLOEXEC), b""
    try:
        size = os.fstat(fd).st_size or 4096  # the kernel's own files tell none
        while more := os.read(fd, size + 1):
            content += more
    finally:
        os.close(fd)
    return content


def _less_ours(error: BaseException) -> BaseException:
    """Return an error as the program's own frames have it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    error.__traceback__ = trace
    return error


def parts(source: bytes, path: str) -> tuple[CodeType, CodeType | None]:
    """Compile a program, and apart from it its last statement where that is an expression.

    Raises:
        SyntaxError: and whatever else the interpreter raises for such a source.
    """
    if _ends_otherwise(source):
        return compile(source, path, "exec", dont_inherit=True), None
    try:
        tree: Any = compile(source, path, "exec", ONLY_AST, dont_inherit=True)
    except (MemoryError, RecursionError):  # nested deeper than a tree may be, not than code may be
        return compile(source, path, "exec", dont_inherit=True), None
    if not tree.body or type(tree.body[-1]).__name__ != "Expr":
        return compile(tree, path, "exec", dont_inherit=True), None
    final = tree.body.pop()
    # A string alone is the docstring too.
    docstring = not tree.body and isinstance(getattr(final.value, "value", None), str)
    head = type(tree)([final], []) if docstring else tree
    try:
        code = compile(head, path, "exec", dont_inherit=True)
        flags = code.co_flags & FUTURE_FLAGS
        last = compile(_ast.Interactive([final]), path, "single", flags, dont_inherit=True)
    except SyntaxError:
        tree.body.append(final)
        return compile(tree, path, "exec", dont_inherit=True), None  # whose error is the right one
    return code, last


class _Hook:
    """Takes the value of a last statement, by the interpreter's display hook.

    So it is handed over in the statement's own frame, and what its end brings about (a coroutine's
    warning, a destructor) happens where it would.
    """

    _kept: tuple[Any, Any] | None = None
    _hook: Any = None

    @classmethod
    def install(cls, code: CodeType) -> None:
        """Have what this code's statement is worth shown."""

        def hook(value: object) -> None:
            if sys._getframe(1).f_code is not code:
                usual(value)
            elif value is not None:
                module("values").VALUES.result(value)

        usual = sys.displayhook
        cls._kept, cls._hook = (sys.displayhook, sys.__displayhook__), hook
        sys.displayhook = sys.__displayhook__ = hook

    @classmethod
    def remove(cls) -> None:
        """Put back what was there, unless the program has put its own there."""
        if cls._kept is None:
            return
        if sys.displayhook is cls._hook:
            sys.displayhook = cls._kept[0]
        sys.__displayhook__ = cls._kept[1]
        cls._kept = None


def _ends_otherwise(source: bytes) -> bool:
    """Tell at a glance that a program does not end in a value, as most don't; false if in doubt."""
    at = len(source)
    while at > 0:
        at = source.rfind(b"\n", 0, at)
        line = source[at + 1 : at + 8]
        if line[:1] not in b" \t\r\n\f#":
            break
    end = source[at + 1 :]
    return end.startswith(OTHERWISE) and not any(sign in end for sign in (b";", b"'''", b'"""'))


def display(*objects: object) -> None:
    """Show objects, in order, beside what is printed."""
    module("values").VALUES.display(*objects)


def choose_backend(matplotlib: ModuleType) -> None:
    module("figures").choose(matplotlib, os.environ.get("MPLBACKEND"))


def prepare() -> None:
    """Do before the fork what every program would do again."""
    compile("", "", "exec", ONLY_AST)  # makes the types of the tree
    # What is opened here reads the child's stdin, being a file in memory too. For this moment only:
    # what the agent holds open a program under gVisor can write to, and a later one read.
    null, nothing = os.dup(0), os.memfd_create("stdin")
    os.dup2(nothing, 0)
    renew_stdin()
    os.dup2(null, 0)
    os.close(null)
    os.close(nothing)


def collect() -> None:
    """Collect what a program leaves; what was there before the fork is frozen.

    Unless it made so much that some has grown old, the young is all: a full collection also clears
    what the interpreter keeps for its next objects, and touches (so copies) 40 pages on the way.
    """
    young = sys.version_info < (3, 14) and _older() == _OLDER  # 3.14 collects piece by piece
    gc.collect(1 if young else 2)


def _older() -> int:
    """Count the collections that made objects old."""
    return sum(generation["collections"] for generation in gc.get_stats()[1:])


_OLDER = _older()  # the agent, which comes of this, makes none


def report(error: BaseException) -> int:
    """Do what the interpreter does with an exception that nobody caught; return the status."""
    if isinstance(error, SystemExit):
        return exit_status(error.code)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as stop:
        return exit_status(stop.code)
    except BaseException as second:
        if second.__traceback__ is not None:
            second.__traceback__ = second.__traceback__.tb_next
        _write_stderr("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__)
        _write_stderr("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
    return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def exit_status(code: object) -> int:
    """Say what `sys.exit(code)` means, as the interpreter has it."""
    if code is None:
        return 0
    if isinstance(code, int):
        return (code if -(2**63) <= code < 2**63 else -1) & 0xFF
    try:
        _write_stderr(str(code))
    except BaseException:
        pass  # the interpreter says nothing either
    _write_stderr("\n")
    return 1


def _write_stderr(text: str) -> None:
    """Write to the program's stderr, or to descriptor 2 where there is none."""
    try:
        sys.stderr.write(text)
    except BaseException:
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _enter_main(path: str) -> dict[str, Any]:
    """Make the program's own `__main__` and return its namespace.

    Not before the fork: what is frozen is never collected, with all that is in cycles with it.
    """
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


def renew_stdin() -> None:
    """Open stdin anew: the interpreter's own has never seen what descriptor 0 is now.

    What there is to read may come later, even in another file of the same kind.
    """
    old: Any = sys.stdin
    buffer: Any = open(0, "rb", closefd=False)  # noqa: SIM115  it stays open
    buffer.raw.name = "<stdin>"
    new = type(old)(buffer, old.encoding, old.errors, "\n")
    new.mode = "r"
    sys.stdin = new
    sys.__stdin__ = new  # type: ignore[misc]  # final, but for the interpreter itself


def flush_last() -> bool:
    """Flush stdout and stderr, and say when stdout could not be."""
    error = flushed("stdout")
    if error is not None:
        _write_stderr("Exception ignored on flushing sys.stdout:\n")
        _write_stderr(f"{type(error).__name__}: {error}\n")
    return (flushed("stderr") is None) and error is None


def flushed(name: str) -> BaseException | None:
    """Flush one of the interpreter's streams unless it is closed; return what went wrong."""
    try:
        stream = getattr(sys, name, None)
        if stream is not None and not stream.closed:
            stream.flush()
    except BaseException as error:
        return error
    return None
