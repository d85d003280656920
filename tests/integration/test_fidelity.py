"""A program can't tell a cell that was made ahead of time from an interpreter started for it alone.

Each program runs twice: as a run of its language, and in a really fresh interpreter that another
run starts in the same kind of cell. Both must print, report and end alike.
"""

import base64
import json
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import docker
import pytest

from codecell.app import open_runner
from codecell.languages import LANGUAGES
from codecell.model import Launch, Outcome, Request, Status
from codecell.runner import Runner, signal_name
from codecell.settings import Settings, load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
STDIN = "first\nsecond line\n"
KEPT = 100_000

# Runs in a cell and starts each program as a person would: a fresh process with clean streams.
DRIVER = r"""
import base64, json, os, shutil, signal, subprocess, sys, threading, zlib

def empty(folder):
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)

def run(argv, main, code, stdin, env):
    for folder in ("/sandbox", "/tmp", "/dev/shm"):
        empty(folder)
    with open(main, "wb") as file:
        file.write(code.encode())
    given = os.memfd_create("stdin")
    os.write(given, stdin.encode())
    os.lseek(given, 0, 0)
    process = subprocess.Popen(
        argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**CLEAN, **env}, cwd="/sandbox", start_new_session=True,
    )
    os.close(given)
    kept = {}
    def read(name, stream):
        kept[name] = stream.read()
    readers = [threading.Thread(target=read, args=(n, getattr(process, n))) for n in ("stdout", "stderr")]
    for reader in readers:
        reader.start()
    try:
        status = process.wait(20)
    except subprocess.TimeoutExpired:
        status = None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for reader in readers:
        reader.join()
    text = [kept[n].decode("utf-8", "replace")[:KEPT] for n in ("stdout", "stderr")]
    return [*text, status]

os.chdir("/")
job = json.load(sys.stdin)
KEPT = job["kept"]
known = ("PATH", "HOME", "TMPDIR", "LANG", "USER", "HOSTNAME", *job["env"])
CLEAN = {name: value for name, value in os.environ.items() if name in known}
found = [run(*program) for program in job["programs"]]
print(base64.b64encode(zlib.compress(json.dumps(found).encode())).decode())
"""
START = {
    "python": f"import subprocess\nsubprocess.run(['/usr/bin/python3', '-c', {DRIVER!r}], check=True)",
    "javascript": "const r = require('child_process').spawnSync('/usr/bin/python3', ['-c', "
    f"{json.dumps(DRIVER)}], {{ stdio: 'inherit' }}); process.exitCode = r.status;",
    "bash": f"python3 -c \"$(cat <<'DRIVER'\n{DRIVER}\nDRIVER\n)\"",
}


@dataclass(frozen=True)
class Ended:
    """How a program ended that was started in a fresh interpreter."""

    stdout: str
    stderr: str
    exit_code: int | None
    signal: str | None


class Fresh:
    """Programs in really fresh interpreters, many of them in one cell."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.known: dict[tuple[str, int], dict[str, Ended]] = {}

    async def of(self, language: str, programs: dict[str, str], name: str) -> Ended:
        """Run a table of programs, once, and return how one of them ended."""
        key = (language, id(programs))
        if key not in self.known:
            ended = await self.run(
                language, *({"code": code, "args": ARGS[language]} for code in programs.values())
            )
            self.known[key] = dict(zip(programs, ended, strict=True))
        return self.known[key][name]

    async def run(self, language: str, *programs: dict[str, Any]) -> list[Ended]:
        entry = LANGUAGES[language]
        main = f"/sandbox/{entry.file_name}"
        argv = [part.replace("{main}", main) for part in entry.run]
        job = {
            "kept": KEPT,
            "env": [],
            "programs": [
                [
                    [*argv, *p.get("args", ())],
                    main,
                    p["code"],
                    p.get("stdin", STDIN),
                    dict(p.get("env", ())),
                ]
                for p in programs
            ],
        }
        outcome = await self.runner.execute(
            Request(language=language, code=START[language], stdin=json.dumps(job), timeout_s=250)
        )
        assert outcome.status is Status.SUCCESS, (outcome.error_message, outcome.stderr.text)
        found = json.loads(zlib.decompress(base64.b64decode(outcome.stdout.text)))
        return [
            Ended(
                out,
                err,
                None if code is None or code < 0 else code,
                signal_name(-code) if code is not None and code < 0 else None,
            )
            for out, err, code in found
        ]


ARGS: dict[str, tuple[str, ...]] = {"python": (), "javascript": (), "bash": ("one", "two 2", "")}


# Where a node that stood by shows itself: below the program, in the innermost ten lines of a stack.
STOOD_BY = re.compile(r"(    at Object\.<anonymous> \(/tmp/\.standby\.js:.*\n)(    at .*\n)*")
ENTERED = re.compile(r"    at node:internal/main/run_main_module:.*\n")


def shown(text: str) -> str:
    """Return a text less what differs between any two runs: addresses and process ids."""
    text = re.sub(r"0x[0-9a-f]{6,}|\(node:[0-9]+\)|(?m:^#[0-9]+)", "...", text)
    return ENTERED.sub("", STOOD_BY.sub("", text))


# Programs that can tell, and by what. Known, and no more than this; one that is cured goes.
KNOWN = {
    "python": {
        "deep recursion": "two frames of ours are below the program's",
        "stack": "the same two, to who asks for the whole stack",
        "frames": "the same two",
        "inspect stack": "the same two",
        "unknown encoding": "compile() words it in another way than the start of a file does",
        "destructor held by a module": "modules of ours that were imported early are not torn down",
        "failing destructor": "its source line is still shown, as the interpreter is whole",
    },
    "javascript": {
        "throw with a cause": "stacks go on below the program, into the script that stood by",
        "abort": "the same, in a native stack",
    },
    "bash": {
        "variables": "PIPESTATUS is set",
        "special": "the same",
        "set": "the same, and BASH_ARGC is that of a start without arguments",
        "BASH": "BASH_ARGC and BASH_ARGV are those of a start without arguments",
        "command line": "the kernel shows how it was started: without arguments",
        "environment of the kernel": "the kernel shows what it was started with: BASH_ENV",
    },
}


def alike(outcome: Outcome, fresh: Ended) -> None:
    assert shown(outcome.stdout.text) == shown(fresh.stdout)
    assert shown(outcome.stderr.text) == shown(fresh.stderr)
    assert (outcome.exit_code, outcome.signal) == (fresh.exit_code, fresh.signal)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(
        flags={
            # One caller's runs share cells, so that some hundred of them take a minute.
            "pool": {"min": 2, "max": 4, "starting": 2, "reuse": "caller"},
            "limits": {"cpus": 2, "output_chars": KEPT, "memory": "512 MiB"},
            "runs": {"concurrent": 16},
        }
    )


@pytest.fixture(scope="module")
async def shared(engine: docker.APIClient, settings: Settings) -> AsyncIterator[Runner]:
    async with open_runner(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
async def fresh(shared: Runner) -> Fresh:
    return Fresh(shared)


@pytest.fixture
def run(shared: Runner) -> Execute:
    """Run a program as a caller would."""

    async def execute(code: str, language: str = "python", **fields: Any) -> Outcome:
        return await shared.execute(
            Request(language=language, code=code, **{"stdin": STDIN, "timeout_s": 20, **fields})
        )

    return execute


@pytest.fixture
def same(run: Execute, fresh: Fresh) -> Execute:
    """Run a program in both ways, compare, and return the run's outcome."""

    async def execute(code: str, language: str = "python", **fields: Any) -> Outcome:
        outcome = await run(code, language, **fields)
        alike(outcome, (await fresh.run(language, {"code": code, **fields}))[0])
        return outcome

    return execute


# --- Python: what a program sees of its interpreter

PYTHON_FACTS = """
import sys
mods = sorted(sys.modules)
main = sorted(sys.modules["__main__"].__dict__)
import json
after_json = sorted(sys.modules)
import builtins, codecs, errno, gc, io, locale, os, signal, stat, time, warnings
module = sys.modules["__main__"]
def stream(name):
    s = getattr(sys, name)
    return [s.encoding, s.errors, s.line_buffering, s.write_through, s.newlines, s.name, s.mode,
            s.buffer.name, s.isatty(), s.fileno(), type(s.buffer).__name__, type(s.buffer.raw).__name__,
            s.buffer.raw.name, s.buffer.raw.mode, s.buffer.raw.closefd, s is getattr(sys, f"__{name}__")]
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
def kind(fd):
    return stat.S_IFMT(os.fstat(fd).st_mode)
umask = os.umask(0)
os.umask(umask)
print(json.dumps({
    "modules at start": mods, "main": main, "modules after json": after_json,
    "file": __file__, "name": __name__, "doc": __doc__, "spec": repr(__spec__), "package": repr(__package__),
    "cached": repr(globals().get("__cached__", "none")), "loader": type(__loader__).__name__,
    "builtins is module": __builtins__ is builtins, "dir builtins": sorted(dir(builtins)),
    "annotations": repr(globals().get("__annotations__", "none")),
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags),
    "executable": sys.executable, "prefix": [sys.prefix, sys.base_prefix, sys.exec_prefix],
    "warnoptions": sys.warnoptions, "xoptions": sys._xoptions, "filters": [str(f) for f in warnings.filters],
    "byteorder": sys.byteorder, "implementation": sys.implementation.name, "version": sys.version,
    "excepthook": sys.excepthook is sys.__excepthook__, "displayhook": sys.displayhook is sys.__displayhook__,
    "unraisablehook": sys.unraisablehook is sys.__unraisablehook__,
    "breakpointhook": sys.breakpointhook is sys.__breakpointhook__,
    "ps1": hasattr(sys, "ps1"), "last": hasattr(sys, "last_exc"),
    "streams": {name: stream(name) for name in ("stdin", "stdout", "stderr")},
    "fs encoding": [sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), locale.getencoding()],
    "locale": locale.setlocale(locale.LC_ALL),
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
    "kinds of 1 and 2": [kind(1), kind(2)],
    "blocking": [os.get_blocking(fd) for fd in (0, 1, 2)],
    "inheritable": [os.get_inheritable(fd) for fd in (0, 1, 2)],
    "signals": {str(s): str(signal.getsignal(s)) for s in sorted(signal.valid_signals())},
    "kernel's signals": [int(status[key], 16) & ~(3 << 31)  # the C library's own two
        for key in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")],
    "wakeup": signal.set_wakeup_fd(-1),
    "umask": umask, "nice": os.nice(0), "cwd": os.getcwd(),
    "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks)],
    "recursion": sys.getrecursionlimit(), "switch": sys.getswitchinterval(),
    "trace": [str(sys.gettrace()), str(sys.getprofile())],
    "meta_path": [getattr(f, "__name__", str(f)) for f in sys.meta_path],
    "path_hooks": [getattr(f, "__name__", str(f)) for f in sys.path_hooks],
    "import": [__import__ is builtins.__import__, type(__import__).__name__],
    "environment": dict(os.environ), "environment of the kernel": dict(
        e.split("=", 1) for e in open("/proc/self/environ").read().split("\\0") if e),
    "threads": int(status["Threads"]), "tracer": status["TracerPid"].strip(),
    "dumpable": os.access("/proc/self/mem", os.R_OK),
    "comm": open("/proc/self/comm").read(), "exe": os.readlink("/proc/self/exe"),
    "session": [os.getsid(0) == os.getpgid(0)],
    "oom": open("/proc/self/oom_score_adj").read(),
    "capabilities": [status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs")],
    "locals": [repr(time.tzname), time.timezone],
    "int limit": sys.get_int_max_str_digits(), "hash": str(sys.hash_info.algorithm),
    "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
    "sandbox": sorted(os.listdir("/sandbox")), "tmp": sorted(os.listdir("/tmp")),
    "shm": sorted(os.listdir("/dev/shm")), "mode": oct(os.stat(__file__).st_mode),
}, sort_keys=True))
"""


@pytest.mark.parametrize("reuse", ["never", "caller"])
async def test_python_looks_freshly_started(
    engine: docker.APIClient, fresh: Fresh, reuse: str
) -> None:
    args, stdin = ("a", "b c"), "text"
    request = Request(language="python", code=PYTHON_FACTS, args=args, stdin=stdin)
    async with open_runner(load(flags={"pool": {"reuse": reuse}})) as runner:
        outcomes = [await runner.execute(request) for _ in range(2)]
    (cold,) = await fresh.run("python", {"code": PYTHON_FACTS, "args": args, "stdin": stdin})
    wanted = json.loads(cold.stdout)
    for outcome in outcomes:
        assert outcome.status is Status.SUCCESS, outcome.stderr.text
        found = json.loads(outcome.stdout.text)
        differing = {
            key: (found.get(key), wanted.get(key))
            for key in wanted.keys() | found.keys()
            if found.get(key) != wanted.get(key)
        }
        assert differing == {}
        assert found["orig_argv"] == ["/usr/bin/python3", "/sandbox/main.py", "a", "b c"]
        assert found["descriptors"] == [0, 1, 2]


MODULES = """
argparse asyncio collections concurrent.futures ctypes datetime decimal email.message http.client
importlib.metadata json logging.config mmap multiprocessing.pool os pathlib pickle random re resource
select signal sqlite3 ssl struct subprocess tempfile threading time typing unittest urllib.request
xml.dom.minidom zipfile
""".split()
IMPORTS = {
    name: f"import {name}, sys\nprint(*sorted(sys.modules), sep='\\n')\n" for name in MODULES
}


@pytest.mark.parametrize("module", IMPORTS)
async def test_importing_a_module_brings_what_it_always_brings(
    run: Execute, fresh: Fresh, module: str
) -> None:
    outcome = await run(IMPORTS[module])
    assert outcome.status is Status.SUCCESS, outcome.stderr.text
    alike(outcome, await fresh.of("python", IMPORTS, module))


async def test_a_module_that_was_never_imported_is_not_there(same: Execute) -> None:
    outcome = await same(
        """
import sys
for name in ("json", "ctypes", "struct", "mmap", "select", "signal", "time", "gc"):
    print(name, name in sys.modules)
try:
    json
except NameError as error:
    print(error)
import collections
print("abc" in vars(collections), "collections.abc" in sys.modules)
sys.modules["json"] = "mine"
import json
print(json)
"""
    )
    assert "json mine" not in outcome.stdout.text


async def test_reloading_and_removing_modules_works_as_ever(same: Execute) -> None:
    await same(
        """
import importlib, sys
import json
first = json
importlib.reload(json)
print(json is first)
del sys.modules["json"]
import json
print(json is first, json.loads("[1]"))
print(importlib.util.find_spec("struct") is not None)
import types
print(importlib.import_module("signal").SIGTERM, isinstance(sys, types.ModuleType))
"""
    )


async def test_a_programs_own_modules_come_first(same: Execute) -> None:
    """A file beside the program wins over a module that the agent itself has used."""
    await same(
        """
import pathlib, subprocess, sys
for name in ("json", "struct", "mine", "ctypes"):
    pathlib.Path(f"/sandbox/{name}.py").write_text("value = 'my own'\\n")
import mine
print(mine.value, sys.path[0])
"""
    )
    outcome = await same(
        "open('/sandbox/json.py', 'w').write(\"value = 'my own'\")\nimport json\nprint(json.value)"
    )
    assert outcome.stdout.text == "my own\n"


# --- Python: what it does and how it ends

PROGRAMS = {
    "arithmetic": "print(6 * 7)",
    "empty but for a comment": "# nothing",
    "no newline at the end": "import sys; sys.stdout.write('x')",
    "traceback": "def f():\n    1 / 0\n\nf()",
    "chained traceback": "try:\n    1 / 0\nexcept Exception as error:\n    raise ValueError('x') from error",
    "context": "try:\n    {}['a']\nexcept KeyError:\n    undefined",
    "group": "raise ExceptionGroup('g', [ValueError(1), TypeError('two')])",
    "notes": "e = ValueError('x')\ne.add_note('a note')\nraise e",
    "deep recursion": "def f(n): return f(n + 1)\nf(0)",
    "syntax error": "x = = 2",
    "syntax error in line 3": "a = 1\nb = 2\nif a\n    pass",
    "indentation error": "if 1:\npass",
    "tab error": "if 1:\n    a = 1\n\tb = 2",
    "null byte": "x = 1\nopen('/sandbox/n.py','wb').write(b'a\\0b')\nimport n",
    "encoding declaration": "# -*- coding: latin-1 -*-\nprint(len('é'))",
    "unknown encoding": "# -*- coding: nonsense -*-\nprint(1)",
    "future import": "from __future__ import annotations\ndef f(x: undefined): pass\nprint(f.__annotations__)",
    "own excepthook": "import sys\nsys.excepthook = lambda t, v, tb: print('hook', t.__name__, v, tb.tb_frame.f_code.co_filename)\n1/0",
    "failing excepthook": "import sys\ndef hook(*a): raise KeyError('in hook')\nsys.excepthook = hook\n1/0",
    "exit none": "import sys; sys.exit()",
    "exit 3": "import sys; sys.exit(3)",
    "exit -1": "import sys; sys.exit(-1)",
    "exit 256": "import sys; sys.exit(256)",
    "exit huge": "import sys; sys.exit(2**70)",
    "exit negative huge": "import sys; sys.exit(-2**70)",
    "exit true": "import sys; sys.exit(True)",
    "exit text": "import sys; sys.exit('bye')",
    "exit float": "import sys; sys.exit(1.5)",
    "exit tuple": "import sys; sys.exit((1, 2))",
    "exit object": "import sys\nclass A:\n    def __str__(self): raise ValueError('no')\nsys.exit(A())",
    "exit without stderr": "import sys; sys.stderr = None; sys.exit('bye')",
    "raise SystemExit": "raise SystemExit",
    "raise SystemExit from an error": "try:\n    1/0\nexcept ZeroDivisionError:\n    raise SystemExit(4)",
    "subclass of SystemExit": "class Mine(SystemExit): pass\nraise Mine(9)",
    "site's exit": "exit(5)",
    "site's quit": "quit()",
    "os._exit": "import os\nprint('lost?')\nos._exit(6)",
    "abort": "import os, sys; print('x', flush=True); os.abort()",
    "segfault": "import ctypes; print('x', flush=True); ctypes.string_at(1)",
    "own signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "own kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "KeyboardInterrupt": "print('x')\nraise KeyboardInterrupt",
    "real interrupt": "import os, signal\nprint('x')\nos.kill(os.getpid(), signal.SIGINT)\nprint('not here')",
    "caught interrupt": "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    while True: pass\nexcept KeyboardInterrupt:\n    print('caught')",
    "broken pipe": "import os, sys\nr, w = os.pipe()\nos.close(r)\ntry:\n    os.write(w, b'x')\nexcept BrokenPipeError as e:\n    print(e)",
    "atexit": "import atexit\natexit.register(print, 'first')\natexit.register(print, 'second')\nprint('end')",
    "failing atexit": "import atexit\ndef fail(): 1/0\natexit.register(fail)\natexit.register(print, 'still')\n",
    "exit in atexit": "import atexit, sys\natexit.register(lambda: sys.exit(3))\nprint('end')",
    "atexit after an error": "import atexit\natexit.register(print, 'bye')\n1/0",
    "atexit in atexit": "import atexit\natexit.register(lambda: atexit.register(print, 'inner'))",
    "destructors": "class A:\n    def __init__(self, n): self.n = n\n    def __del__(self): print('del', self.n)\na = A('a')\nb = A('b')\nl = [A('in list')]\nprint('end')",
    "destructor order with atexit": "import atexit\nclass A:\n    def __del__(self): print('del')\na = A()\natexit.register(print, 'atexit')\nprint('end')",
    "destructor in a cycle": "class A:\n    def __del__(self): print('del')\na = A()\na.me = a\nprint('end')",
    "destructor sees globals": "import os\nx = 5\nclass A:\n    def __del__(self): print('del', os is not None, x)\na = A()",
    "destructor held by a module": "import json\nclass A:\n    def __del__(self): print('del')\njson.held = A()\nprint('end')",
    "destructor held by sys": "import sys\nclass A:\n    def __del__(self): print('del')\nsys.held = A()\nprint('end')",
    "failing destructor": "class A:\n    def __del__(self): 1/0\na = A()\nprint('end')",
    "weakref finalize": "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'finalized')\nprint('end')",
    "generator at the end": "def g():\n    try:\n        yield 1\n    finally:\n        print('closed')\nx = g()\nnext(x)\nprint('end')",
    "unflushed file": "f = open('/sandbox/f', 'w')\nf.write('data')\nimport atexit, os\natexit.register(lambda: print(os.path.getsize('/sandbox/f')))",
    "unflushed wrapper": "import io, sys\nout = io.TextIOWrapper(open(1, 'wb', closefd=False))\nout.write('wrapped')",
    "replaced stdout": "import io, sys\nsys.stdout = io.StringIO()\nprint('lost')",
    "closed stdout": "import sys\nprint('x')\nsys.stdout.close()",
    "closed descriptor 1": "import os\nprint('x')\nos.close(1)",
    "closed stdin": "import sys\nsys.stdin.close()\nprint('x')",
    "stdout is None": "import sys\nsys.stdout = None\nprint('x')",
    "flush fails at exit": "import sys\nsys.stdout.write('x')\nimport os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    "thread is joined": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nprint('main')",
    "daemon thread is not": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(5), print('thread')), daemon=True).start()\nprint('main')",
    "failing thread": "import threading\nt = threading.Thread(target=lambda: 1/0, name='T')\nt.start()\nt.join()\nprint('main')",
    "thread and atexit": "import atexit, threading, time\natexit.register(print, 'atexit')\nthreading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "thread names": "import threading\nprint(threading.current_thread().name, threading.main_thread() is threading.current_thread(), threading.active_count(), threading.get_native_id() == __import__('os').getpid())",
    "executor": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as p: print(list(p.map(abs, [-1, -2])))",
    "executor left open": "from concurrent.futures import ThreadPoolExecutor\nimport time\nThreadPoolExecutor().submit(lambda: (time.sleep(.1), print('done')))",
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(3)))\n    print('done')\nasyncio.run(main())",
    "asyncio subprocess": "import asyncio\nasync def main():\n    p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=asyncio.subprocess.PIPE)\n    print(await p.communicate(), p.returncode)\nasyncio.run(main())",
    "coroutine never awaited": "async def f(): pass\nf()\nprint('end')",
    "multiprocessing fork": "import multiprocessing as m\ndef f(x): return x * 2\nif __name__ == '__main__':\n    m.set_start_method('fork')\n    with m.Pool(2) as p: print(p.map(f, [1, 2]))",
    "multiprocessing spawn": "import multiprocessing as m\ndef f(x): return x * 2\nif __name__ == '__main__':\n    m.set_start_method('spawn')\n    with m.Pool(2) as p: print(p.map(f, [1, 2]))",
    "multiprocessing forkserver": "import multiprocessing as m\ndef f(x): return x * 2\nif __name__ == '__main__':\n    m.set_start_method('forkserver')\n    with m.Pool(1) as p: print(p.map(f, [1, 2]))",
    "process left to be joined": "import multiprocessing as m, time\ndef f(): time.sleep(.2); print('child')\nif __name__ == '__main__':\n    m.get_context('fork').Process(target=f).start()\n    print('main')",
    "shared memory": "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True, size=10)\ns.buf[0] = 7\nprint(s.buf[0])\ns.close()\ns.unlink()",
    "own fork": "import os, sys\nprint('before')\nif os.fork() == 0:\n    print('child')\n    sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))",
    "subprocess": "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys; print(sys.stdin.read())'], input='x', capture_output=True, text=True))",
    "subprocess shares stdout": "import subprocess\nprint('a', flush=True)\nsubprocess.run(['echo', 'b'])\nprint('c')",
    "exec": "import os\nprint('a', flush=True)\nos.execvp('echo', ['echo', 'b'])",
    "pickle of main's class": "import pickle\nclass A:\n    def __eq__(self, o): return True\nprint(pickle.loads(pickle.dumps(A())) == A(), A.__module__, A)",
    "inspect": "import inspect\ndef f(): pass\nprint(inspect.getsource(f), inspect.getfile(f), inspect.getmodule(f))",
    "dataclass and typing": "import dataclasses, typing\n@dataclasses.dataclass\nclass A:\n    x: 'int' = 1\nprint(A(), typing.get_type_hints(A))",
    "linecache": "import linecache\nprint(repr(linecache.getline(__file__, 1)))",
    "runpy": "import runpy\nopen('/sandbox/o.py','w').write('print(__name__, __file__)')\nrunpy.run_path('/sandbox/o.py', run_name='__main__')",
    "import main": "import __main__\nprint(__main__.__file__, __main__.__dict__ is globals())",
    "import oneself": "if __name__ == '__main__':\n    import main\n    print(main.__name__, main.__file__)\nelse:\n    print('imported')",
    "names": "print(__name__, __file__, dir())",
    "globals and locals": "x = 1\nprint(globals() is locals(), 'x' in vars())",
    "warning": "import warnings\nwarnings.warn('careful')\nwarnings.warn('careful', DeprecationWarning)",
    "invalid escape": "print('\\d')",
    "deprecated in a module": "open('/sandbox/m.py','w').write('import warnings\\nwarnings.warn(\"old\", DeprecationWarning)')\nimport m",
    "resource warning": "open('/etc/passwd')\nprint('x')",
    "logging": "import logging\nlogging.warning('w')\nlogging.info('i')\nlogging.basicConfig()\nlogging.error('e')\ntry:\n    1/0\nexcept ZeroDivisionError: logging.exception('x')",
    "input": "print(input('? ') + '|' + input())",
    "input at the end": "print(input())\nprint(input())\nprint(input())",
    "reading lines": "import sys\nfor line in sys.stdin: print(repr(line))",
    "reading bytes": "import sys\nprint(sys.stdin.buffer.read())",
    "reading descriptor 0": "import os\nprint(os.read(0, 5), os.lseek(0, 0, os.SEEK_CUR) if 0 else '')",
    "reading by fileinput": "import fileinput\nfor line in fileinput.input(): print(fileinput.filename(), line, end='')",
    "reading by open(0)": "print(open(0).read())",
    "reading by a child": "import subprocess\nsubprocess.run(['cat'])",
    "stdin of a second reader": "import sys\nprint(sys.stdin.readline(), sys.stdin.read(2), sys.stdin.buffer.read())",
    "surrogates out": "print('\\ud800')",
    "surrogates to stderr": "import sys\nprint('\\ud800', file=sys.stderr)",
    "bytes out": "import sys\nsys.stdout.buffer.write(b'\\xff\\x00\\n')",
    "order of streams": "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')",
    "large output": "print('x' * 300000)",
    "faulthandler": "import faulthandler, sys\nprint(faulthandler.is_enabled())",
    "tracemalloc": "import tracemalloc\nprint(tracemalloc.is_tracing())",
    "gc objects": "import gc\nprint(len(gc.garbage), gc.isenabled(), gc.get_stats()[2]['uncollectable'])",
    "gc collects": "import gc, weakref\nclass A: pass\na = A(); a.a = a\nr = weakref.ref(a)\ndel a\ngc.collect()\nprint(r())",
    "gc collects by itself": "import weakref\nclass A: pass\na = A(); a.a = a\nr = weakref.ref(a)\ndel a\nhoard = [[] for _ in range(200000)]\nprint(r() is None)",
    "recursion limit": "import sys\nsys.setrecursionlimit(5000)\ndef f(n): return n if n == 4000 else f(n + 1)\nprint(f(0))",
    "alarm": "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: print('alarm'))\nsignal.alarm(1)\ntime.sleep(1.2)",
    "alarm kills": "import signal, time\nsignal.alarm(1)\ntime.sleep(3)",
    "child signal": "import os, signal, time\nsignal.signal(signal.SIGCHLD, lambda *a: print('child'))\npid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)",
    "limits": "import resource\nprint([resource.getrlimit(getattr(resource, n)) for n in sorted(dir(resource)) if n.startswith('RLIMIT')])",
    "large file": "import os\ntry:\n    f = open('/sandbox/big', 'wb'); f.truncate(1 << 40)\nexcept OSError as e:\n    print(e)",
    "time zone": "import time\nprint(time.strftime('%Z', time.localtime(0)), time.tzname)",
    "user": "import getpass, os\nprint(getpass.getuser(), os.path.expanduser('~'), os.environ['HOME'])",
    "temporary files": "import tempfile\nprint(tempfile.gettempdir())\nwith tempfile.NamedTemporaryFile() as f: print(f.name[:5])",
    "readline": "import readline\nprint('ok')",
    "sqlite": "import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 1+1').fetchall())",
    "help": "help(len)",
    "stack": "import traceback\ndef f(): traceback.print_stack()\nf()",
    "frames": "import sys\nprint(sys._getframe().f_back)",
    "inspect stack": "import inspect\nprint([f.filename for f in inspect.stack()])",
    "stack of a warning": "import warnings\nwarnings.warn('w', stacklevel=5)",
}


@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - KNOWN["python"].keys()))
async def test_a_python_program_does_what_it_always_does(
    run: Execute, fresh: Fresh, name: str
) -> None:
    alike(await run(PROGRAMS[name]), await fresh.of("python", PROGRAMS, name))


@pytest.mark.parametrize(
    "code", [PROGRAMS["traceback"], PROGRAMS["syntax error"], PROGRAMS["chained traceback"]]
)
async def test_a_traceback_shows_the_program_alone(run: Execute, code: str) -> None:
    outcome = await run(code)
    assert 'File "/sandbox/main.py", line ' in outcome.stderr.text
    for word in ("agent", "run_program", "<string>", "codecell"):
        assert word not in outcome.stderr.text


async def test_no_two_runs_draw_the_same_numbers(run: Execute) -> None:
    """Also those that one after the other share a cell."""
    code = """
import os, random, secrets, tempfile, uuid
print(random.random(), random.SystemRandom().random(), secrets.token_hex(), uuid.uuid4())
print(os.urandom(4), next(tempfile._get_candidate_names()))
"""
    lines = [(await run(code)).stdout.text.split() for _ in range(4)]
    for values in zip(*lines, strict=True):
        assert len(set(values)) == 4, values


async def test_no_two_cells_hash_alike(engine: docker.APIClient) -> None:
    hashes = set()
    async with open_runner(load(flags={"pool": {"languages": ["python"]}})) as runner:
        for _ in range(4):
            outcome = await runner.execute(Request(language="python", code="print(hash('x'))"))
            hashes.add(outcome.stdout.text)
    assert len(hashes) == 4


@pytest.mark.parametrize(
    "env",
    [
        (("PYTHONHASHSEED", "1"),),
        (("PYTHONWARNINGS", "error"),),
        (("PYTHONUNBUFFERED", "1"),),
        (("PYTHONPATH", "/tmp"),),
        (("PYTHONIOENCODING", "latin-1"),),
        (("PYTHONUTF8", "0"), ("LC_ALL", "POSIX")),
        (("LANG", "C"),),
        (("TZ", "JST-9"),),
        (("HOME", "/tmp"), ("PATH", "/bin"), ("MINE", "é ' \n")),
    ],
    ids=lambda env: env[0][0],
)
async def test_python_obeys_the_environment_it_is_given(
    same: Execute, env: tuple[tuple[str, str], ...]
) -> None:
    await same(
        "import os, sys, time, locale, warnings\n"
        "print(sys.flags, sys.path, sys.stdout.encoding, sys.warnoptions, locale.getencoding())\n"
        "print(hash('x') if os.environ.get('PYTHONHASHSEED') else '', time.strftime('%Z', time.localtime(0)))\n"
        "print(sorted(os.environ.items()), os.path.expanduser('~'))\n"
        "print(len(sys.stdin.read()))",
        env=env,
        stdin="é",
    )


# --- JavaScript

NODE_PROGRAMS = {
    "facts": """
const path = require('path');
console.log(JSON.stringify({
  argv: process.argv, execArgv: process.execArgv, execPath: process.execPath, argv0: process.argv0,
  main: require.main === module, filename: __filename, dirname: __dirname, id: module.id,
  paths: module.paths, parent: module.parent, children: module.children.length, loaded: module.loaded,
  mainPath: process.mainModule && process.mainModule.filename, cache: Object.keys(require.cache),
  cwd: process.cwd(), title: process.title, umask: process.umask(), exitCode: process.exitCode,
  env: process.env, version: process.version, uptime: process.uptime() < 100, 
  global: Object.getOwnPropertyNames(globalThis).sort(), exports: module.exports, thisIs: this === module.exports,
  events: process.eventNames(), warnings: process.listenerCount('warning'),
  stdin: [process.stdin.isTTY, process.stdin.fd], stdout: [process.stdout.isTTY, process.stdout.fd, process.stdout.constructor.name],
  stderr: [process.stderr.isTTY, process.stderr.fd], columns: process.stdout.columns,
  resources: process.getActiveResourcesInfo(), ext: Object.keys(require.extensions),
  stackTraceLimit: Error.stackTraceLimit, memory: typeof process.memoryUsage().rss,
  tmp: require('fs').readdirSync('/tmp'), sandbox: require('fs').readdirSync('/sandbox'),
  config: typeof process.config, features: process.features, tz: Intl.DateTimeFormat().resolvedOptions(),
}, null, 1));
""",
    "signals": """
const status = require('fs').readFileSync('/proc/self/status', 'utf8').split('\\n');
console.log(status.filter(l => /^Sig(Blk|Ign)/.test(l)).join(' '));
""",
    "descriptors": "const fs = require('fs'); console.log([0, 1, 2].map(fd => "
    "[fs.fstatSync(fd).isFIFO(), fs.fstatSync(fd).isFile()]), process.stdin.fd);",
    "print": "console.log('out'); console.error('err');",
    "no newline": "process.stdout.write('x')",
    "strict": "'use strict'; try { undefinedVariable = 1 } catch (e) { console.log(e.message) }",
    "sloppy": "undeclared = 1; console.log(undeclared, this === module.exports)",
    "throw": "function f() { throw new TypeError('bad'); }\nf();",
    "throw a string": "throw 'text'",
    "throw null": "throw null",
    "throw with a cause": "throw new Error('a', { cause: new Error('b') })",
    "syntax error": "let x = = 2;",
    "syntax error in line 3": "let a = 1;\nlet b = 2;\nif (a {\n}",
    "stack": "console.log(new Error('x').stack.split('\\n').slice(0, 2).join('\\n'))",
    "whole stack": "console.log(new Error('x').stack)",
    "stack in a function": "function f() { console.trace('here') }\nf()",
    "exit 3": "process.exit(3)",
    "exit code": "process.exitCode = 4; console.log('x')",
    "exit event": "process.on('exit', c => console.log('exit', c)); process.on('beforeExit', () => console.log('before'));",
    "exit in a timer": "setTimeout(() => process.exit(5), 20)",
    "abort": "process.abort()",
    "own signal": "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 2000)",
    "handled signal": "process.on('SIGTERM', () => { console.log('caught'); process.exit(0) }); process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 2000)",
    "interrupt": "process.kill(process.pid, 'SIGINT'); setTimeout(() => {}, 2000)",
    "unhandled rejection": "Promise.reject(new Error('nobody'))",
    "unhandled rejection of a value": "Promise.reject(7)",
    "handled later": "process.on('unhandledRejection', e => console.log('got', e)); Promise.reject(7)",
    "uncaught handler": "process.on('uncaughtException', e => console.log('got', e.message)); throw new Error('x')",
    "throw in a timer": "setTimeout(() => { throw new Error('late') }, 5)",
    "throw in a promise": "(async () => { await 1; throw new RangeError('late') })()",
    "order": "setTimeout(() => console.log('timeout'), 0); setImmediate(() => console.log('immediate'));"
    "process.nextTick(() => console.log('tick')); Promise.resolve().then(() => console.log('micro')); queueMicrotask(() => console.log('micro 2')); console.log('sync')",
    "timers": "const t = setInterval(() => { console.log('tick'); clearInterval(t) }, 10)",
    "readFileSync 0": "console.log(require('fs').readFileSync(0, 'utf8'))",
    "readFileSync /dev/stdin": "console.log(require('fs').readFileSync('/dev/stdin', 'utf8'))",
    "stdin events": "let s = ''; process.stdin.setEncoding('utf8'); process.stdin.on('data', d => s += d); process.stdin.on('end', () => console.log(s))",
    "stdin readable": "process.stdin.on('readable', () => { let c; while ((c = process.stdin.read()) !== null) console.log(c.toString()) })",
    "stdin for await": "(async () => { for await (const c of process.stdin) console.log(String(c)) })()",
    "stdin is not read": "console.log(1)",
    "readline": "const rl = require('readline').createInterface({ input: process.stdin }); rl.on('line', l => console.log('line', l)); rl.on('close', () => console.log('closed'))",
    "readline for await": "(async () => { const rl = require('readline').createInterface({ input: process.stdin }); for await (const l of rl) console.log(l) })()",
    "readline question": "const rl = require('readline').createInterface({ input: process.stdin, output: process.stdout }); rl.question('? ', a => { console.log('answer', a); rl.close() })",
    "stdin piped": "process.stdin.pipe(process.stdout)",
    "child reads stdin": "require('child_process').spawnSync('cat', { stdio: 'inherit' })",
    "child": "console.log(require('child_process').execFileSync('echo', ['hi']).toString())",
    "child async": "require('child_process').exec('echo hi; exit 3', (e, o) => console.log(e.code, o))",
    "child node": "console.log(require('child_process').execFileSync(process.execPath, ['-p', 'process.argv.length']).toString())",
    "fork": "const { fork } = require('child_process'); if (process.argv[2] === 'child') process.send('hi'); else fork(__filename, ['child']).on('message', m => console.log(m))",
    "worker": "const { Worker, isMainThread, parentPort } = require('worker_threads'); if (isMainThread) new Worker(__filename).on('message', m => console.log(m)); else parentPort.postMessage('from worker')",
    "require a file": "require('fs').writeFileSync('/sandbox/m.js', 'module.exports = __filename + (require.main === module) + module.parent.filename'); console.log(require('./m'), require('/sandbox/m.js'))",
    "require json": "require('fs').writeFileSync('/sandbox/m.json', '{\"a\":1}'); console.log(require('./m.json'))",
    "require missing": "try { require('./nothing') } catch (e) { console.log(e.code, e.message) }",
    "require missing uncaught": "require('nothing-there')",
    "require oneself": "if (require.main === module) console.log(require('./main') === module.exports)",
    "require resolve": "console.log(require.resolve('fs'), require.resolve('./main'), require.resolve.paths('x'))",
    "dynamic import": "import('fs').then(m => console.log(typeof m.readFileSync, typeof m.default))",
    "dynamic import of a file": "require('fs').writeFileSync('/sandbox/m.mjs', 'export const a = import.meta.url'); import('./m.mjs').then(m => console.log(m.a))",
    "import statement": "import fs from 'fs';\nconsole.log(typeof fs.readFileSync)",
    "export statement": "export const a = 1;\nconsole.log(a)",
    "import meta": "console.log(import.meta.url)",
    "top-level await": "console.log(await Promise.resolve(1))",
    "createRequire": "const { createRequire } = require('module'); console.log(createRequire(__filename)('./main.js') === module.exports)",
    "module statics": "const M = require('module'); console.log(M._pathCache && Object.keys(M._pathCache).length < 5, M.globalPaths, M.builtinModules.length, Object.keys(M).sort().join())",
    "hashbang": "#!/usr/bin/env node\nconsole.log('ran')",
    "BOM": "\ufeffconsole.log('ran')",
    "globals": "console.log(typeof require, typeof module, typeof exports, typeof __filename, typeof fetch, typeof structuredClone, typeof globalThis.require)",
    "arguments": "console.log(arguments.length, arguments[1] === require)",
    "return": "console.log(1); return; console.log(2)",
    "warning": "process.emitWarning('careful'); new Buffer(1)",
    "buffers": "console.log(Buffer.from('é').toString('hex'), Buffer.poolSize, Buffer.from('a').byteOffset)",
    "random": "console.log(Math.random() !== Math.random(), require('crypto').randomUUID().length)",
    "performance": "console.log(performance.now() < 60000, typeof performance.timeOrigin)",
    "large output": "process.stdout.write('x'.repeat(300000))",
    "large output and exit": "process.stdout.write('x'.repeat(30000)); process.exit(0)",
    "large output and throw": "process.stdout.write('x'.repeat(30000)); throw new Error('after')",
    "invalid bytes": "process.stdout.write(Buffer.from([0xff, 0, 10]))",
    "memory info": "console.log(typeof require('v8').getHeapStatistics().heap_size_limit)",
    "async hooks": "const { AsyncLocalStorage } = require('async_hooks'); const s = new AsyncLocalStorage(); s.run(5, () => setTimeout(() => console.log(s.getStore()), 1)); console.log(require('async_hooks').executionAsyncId())",
    "fs promises": "require('fs').promises.readFile('/sandbox/main.js', 'utf8').then(t => console.log(t.length))",
    "mode of the program": "console.log((require('fs').statSync(__filename).mode & 0o7777).toString(8))",
    "diagnostics": "console.log(process.report ? 'report' : '', process.allowedNodeEnvironmentFlags.size > 10)",
    "REPL inspect": "console.log({ a: [1, { b: new Map([[1, 2]]) }] }, [undefined, null], Symbol('x'))",
}


@pytest.mark.parametrize("name", sorted(NODE_PROGRAMS.keys() - KNOWN["javascript"].keys()))
async def test_a_javascript_program_does_what_it_always_does(
    run: Execute, fresh: Fresh, name: str
) -> None:
    alike(
        await run(NODE_PROGRAMS[name], "javascript"),
        await fresh.of("javascript", NODE_PROGRAMS, name),
    )


async def test_javascript_gets_its_arguments(same: Execute) -> None:
    outcome = await same(
        "console.log(JSON.stringify(process.argv))", "javascript", args=("a", "", "b c", "--x")
    )
    assert json.loads(outcome.stdout.text) == [
        "/usr/bin/node",
        "/sandbox/main.js",
        "a",
        "",
        "b c",
        "--x",
    ]


async def test_an_uncaught_exception_shows_the_program(run: Execute) -> None:
    outcome = await run("function f() {\n  throw new Error('bad');\n}\nf();", "javascript")
    assert outcome.status is Status.EXECUTION_ERROR
    assert outcome.exit_code == 1
    assert outcome.stderr.text.startswith("/sandbox/main.js:2\n  throw new Error('bad');\n  ^\n")
    assert "at f (/sandbox/main.js:2:9)" in outcome.stderr.text


@pytest.mark.parametrize(
    "env",
    [
        (("NODE_OPTIONS", "--no-warnings"),),
        (("NODE_PATH", "/tmp"),),
        (("TZ", "Asia/Tokyo"),),
        (("TZ", "JST-9"),),
        (("LANG", "de_DE.UTF-8"),),
        (("FORCE_COLOR", "1"),),
        (("NO_COLOR", "1"), ("MINE", "é ' \n")),
    ],
    ids=lambda env: env[0][0] + env[0][1],
)
async def test_javascript_obeys_the_environment_it_is_given(
    same: Execute, env: tuple[tuple[str, str], ...]
) -> None:
    await same(
        "console.log(JSON.stringify(process.env, Object.keys(process.env).sort()));"
        "console.log(new Date(0).toString(), (1234.5).toLocaleString(), require('module').globalPaths, process.stdout.hasColors);"
        "console.log({ a: 1 }); process.emitWarning('w')",
        "javascript",
        env=env,
    )


# --- Bash

BASH_PROGRAMS = {
    "zero and arguments": 'echo "$0" "$#" "$@"; printf "<%s>" "$@"; shift; echo "$1"',
    "names": 'echo "$BASH_SOURCE" "${BASH_SOURCE[@]}" "${FUNCNAME[@]}" "$LINENO" "${BASH_LINENO[@]}"',
    "variables": "compgen -v | sort",
    "functions": "declare -F; alias; compgen -A function",
    "environment": "env | sort",
    "options": 'echo "$-" "$SHELLOPTS" "$BASHOPTS"; set -o; shopt',
    "exported": "export -p; readonly -p | grep -v -e UID= -e PPID=",
    "set": "set | grep -v -e ^BASHPID -e ^PPID -e ^RANDOM -e ^SRANDOM -e ^EPOCH -e ^SECONDS -e ^_= -e ^BASH_ARGV -e ^UID -e ^EUID -e ^GROUPS",
    "special": 'echo "$?" "${PIPESTATUS[@]}" "[$!]" "$SHLVL" "$BASH_SUBSHELL" "${DIRSTACK[@]}" "[$IFS]" "$OPTIND" "$PS4" "$BASH_COMMAND" "$SECONDS"',
    "where": 'pwd; echo "$PWD" "${OLDPWD-unset}" "$HOME"; ls -la /sandbox | awk "{print \\$1, \\$NF}"; ls -A /tmp',
    "umask and limits": "umask; ulimit -a",
    "traps": "trap; trap 'echo bye' EXIT; echo end",
    "trap on error": "trap 'echo failed at $LINENO' ERR; false; echo end",
    "trap a signal": "trap 'echo term' TERM; kill -TERM $$; echo end",
    "debug trap": "trap 'echo \"debug $BASH_COMMAND\"' DEBUG; echo a; echo b",
    "exit 3": "exit 3",
    "exit 300": "exit 300",
    "last status": "false",
    "status of a pipe": "set -o pipefail; false | true",
    "errexit": "set -e; false; echo not here",
    "nounset": "set -u; echo $nothing; echo not here",
    "xtrace": "set -x; a=1; echo $a",
    "verbose": "set -v; echo a",
    "syntax error": "echo a\nif then\nfi",
    "syntax error at the end": "echo a\nif true; then",
    "unclosed quote": "echo a\necho 'b",
    "command not found": "nothing-of-this-name",
    "not executable": "touch x; ./x",
    "error message": "cd /nowhere; echo $?",
    "arithmetic error": "echo $((1/0)); echo after",
    "own signal": "kill -TERM $$; echo not here",
    "own kill": "kill -KILL $$",
    "segfault": "kill -SEGV $$",
    "reading": 'read -r a; read -r b; echo "$a|$b"; read -r c || echo end',
    "cat": "cat",
    "reading all": 'x=$(cat); echo "${#x}"; wc -l <<<"$x"',
    "mapfile": 'mapfile -t lines; echo "${#lines[@]}" "${lines[1]}"',
    "stdin to a child": "head -n 1; cat",
    "while read": 'while read -r line; do echo "[$line]"; done',
    "select": "select x in a b; do echo $x; break; done",
    "here document": "cat <<X\na $((1+1))\nX",
    "functions work": "f() { local a=$1; echo $a ${FUNCNAME[0]} $LINENO; return 4; }; f x; echo $?",
    "caller": "f() { caller; caller 0; }; f",
    "subshell": "(echo $BASH_SUBSHELL; exit 3); echo $?",
    "background": "sleep 0.1 & wait; echo $?; jobs",
    "coprocess": "coproc cat; echo hi >&${COPROC[1]}; read -r x <&${COPROC[0]}; echo $x",
    "process substitution": "diff <(echo a) <(echo a) && echo same",
    "job control off": "set -m; echo $-",
    "descriptors": "for fd in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && echo open $fd; done",
    "signals": "grep -E 'SigIgn' /proc/$$/status; sed -n 's/^Sig/child Sig/p' /proc/self/status",
    "command line": "tr '\\0' ' ' </proc/$$/cmdline; cat /proc/$$/comm",
    "environment of the kernel": "tr '\\0' '\\n' </proc/$$/environ | sort",
    "history": "history; echo ${HISTSIZE-unset}; echo 'a!b'",
    "aliases": "alias x=echo; x hi; shopt -s expand_aliases; alias y=echo\ny hi",
    "source": "echo 'echo $0 ${BASH_SOURCE[0]} $1' >s; . ./s arg; source /sandbox/s",
    "oneself": 'head -n 1 "$0"; cat "$0" | wc -l',
    "changing oneself": "echo 'echo added' >>\"$0\"; echo first",
    "exec": "exec echo replaced; echo not here",
    "exec redirect": "exec 3>x; echo hi >&3; exec 3>&-; cat x; exec >y; echo hidden",
    "eval": "eval 'echo a; exit 7'",
    "return outside": "return 3; echo after $?",
    "arrays": 'declare -A m=([a]=1); a=(1 "2 3"); echo ${m[a]} ${#a[@]} "${a[1]}"',
    "globs": "touch a1 a2; echo a*; echo b*; shopt -s nullglob; echo b*",
    "getopts": "set -- -a -b x y; while getopts ab: o; do echo $o $OPTARG; done; echo $OPTIND",
    "printf": "printf '%q %s\\n' \"a b\" é; printf '%(%Y)T\\n' 0",
    "random differs": "[ $RANDOM != $RANDOM ] && echo ok; RANDOM=1; echo $RANDOM $RANDOM",
    "seconds": "echo $SECONDS; SECONDS=5; echo $SECONDS",
    "time": "TIMEFORMAT=%%; time true",
    "variables unset": 'echo "${BASH_ENV-unset}" "${REPLY-unset}" "${ENV-unset}" "${COPROC-unset}" "${_-unset}"',
    "BASH": 'echo "$BASH" "${BASH_ARGV0-}" "${BASH_ARGC[@]-}" "${BASH_ARGV[@]-}" "$BASH_EXECUTION_STRING"',
    "process": "echo $(( $$ == BASHPID )) ; [ $PPID -gt 0 ] && echo ok",
    "carriage returns": "echo a\r\necho b\r\n",
    "no newline at the end": "printf x",
    "unicode": "x=héé; echo ${#x} ${x^^}",
    "locale": "echo $LANG $LC_ALL; locale 2>/dev/null | head -3",
    "comment only": "# nothing",
    "hashbang": "#!/bin/bash -e\nfalse\necho here",
    "long program": "\n".join(f"a{n}={n}" for n in range(3000)) + "\necho $a2999",
    "nul": "echo a\0b",
}


@pytest.mark.parametrize("name", sorted(BASH_PROGRAMS.keys() - KNOWN["bash"].keys()))
async def test_a_bash_program_does_what_it_always_does(
    run: Execute, fresh: Fresh, name: str
) -> None:
    outcome = await run(BASH_PROGRAMS[name], "bash", args=ARGS["bash"])
    alike(outcome, await fresh.of("bash", BASH_PROGRAMS, name))


@pytest.mark.parametrize(
    "env",
    [
        (("BASH_ENV", "$(echo obeyed >&2)"),),
        (("IFS", ":"),),
        (("SHLVL", "7"),),
        (("SECONDS", "100"),),
        (("PS4", "> "),),
        (("OPTIND", "3"),),
        (("LC_ALL", "C"),),
        (("TZ", "JST-9"), ("MINE", "é ' \n"), ("HOME", "/tmp"), ("PATH", "/usr/bin:/bin")),
        (("RANDOM", "5"), ("TMOUT", "1"), ("POSIXLY_CORRECT", "1"), ("GLOBIGNORE", "a*")),
        (("PROMPT_COMMAND", "x"), ("CDPATH", "/"), ("MAIL", "x"), ("EXECIGNORE", "x")),
        (("BASHOPTS", "nullglob"), ("SHELLOPTS", "xtrace")),
        (
            ("a", "b"),
            ("BASH_FUNC_f", "x"),
            ("REPLY", "mine"),
            ("_", "x"),
            ("OLDPWD", "/tmp"),
            ("PWD", "/x"),
        ),
    ],
    ids=lambda env: env[0][0],
)
async def test_bash_obeys_the_environment_it_is_given(
    same: Execute, env: tuple[tuple[str, str], ...]
) -> None:
    code = (
        'touch a1; echo a*; set -- "a:b"; for x in $1; do echo "[$x]"; done; env | sort; echo "$-"\n'
        'echo "$PWD ${OLDPWD-} ${REPLY-} $SHLVL"; date -d @0 +%Z; x=é; echo ${#x}; shopt nullglob; set -x; :'
    )
    await same(code, "bash", env=env)


TABLES = {"python": PROGRAMS, "javascript": NODE_PROGRAMS, "bash": BASH_PROGRAMS}


@pytest.mark.parametrize(
    ("language", "name"), [(language, name) for language, names in KNOWN.items() for name in names]
)
async def test_a_known_difference_is_still_one(
    run: Execute, fresh: Fresh, language: str, name: str
) -> None:
    """So that the table above tells the truth; and all that differs is what is printed."""
    outcome = await run(TABLES[language][name], language, args=ARGS[language])
    known = await fresh.of(language, TABLES[language], name)
    told = (outcome.stdout.text, outcome.stderr.text)
    assert [shown(text) for text in told] != [shown(known.stdout), shown(known.stderr)]
    assert (outcome.exit_code, outcome.signal) == (known.exit_code, known.signal)


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_that_are_prepared_are_compared_here(language: str) -> None:
    if LANGUAGES[language].launch is not Launch.EXEC:
        assert language in {"python", "javascript", "bash"}
