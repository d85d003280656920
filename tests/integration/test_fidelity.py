"""A program can't tell a cell that was made ahead of time from an interpreter started for it alone.

Each program runs twice: as a run of its language, and in a really fresh interpreter that another
run starts in the same kind of cell. Both must print, report and end alike.
"""

import base64
import json
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from codecell.app import open_runner
from codecell.languages import LANGUAGES
from codecell.model import Case, Input, Launch, Outcome, Request, Status
from codecell.runner import Runner
from codecell.settings import Settings, load
from codecell.verdict import signal_name

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Execute = Callable[..., Awaitable[Outcome]]
STDIN = "first\nsecond line\n"
KEPT = 400_000

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
SHELL = (
    "/usr/bin/python3 -c \"import base64; exec(base64.b64decode('"
    f"{base64.b64encode(DRIVER.encode()).decode()}'))\""
)
START = {
    "python": f"import subprocess\nsubprocess.run(['/usr/bin/python3', '-c', {DRIVER!r}], check=True)",
    "javascript": "const r = require('child_process').spawnSync('/usr/bin/python3', ['-c', "
    f"{json.dumps(DRIVER)}], {{ stdio: 'inherit' }}); process.exitCode = r.status;",
    "bash": f"python3 -c \"$(cat <<'DRIVER'\n{DRIVER}\nDRIVER\n)\"",
    "r": f"quit(status = system({json.dumps(SHELL)}))",
    "octave": f"exit(system({json.dumps(SHELL)}))",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Octave adds to its own


def programs(language: str, **more: str) -> dict[str, str]:
    """Read programs/LANGUAGE.txt: after each line `=== NAME` a program."""
    path = Path(__file__).with_name("programs") / f"{language}.txt"
    parts = re.split(r"(?m)^=== (.*)\n", path.read_text(encoding="utf-8"))
    found = {name: code.removesuffix("\n") for name, code in batched(parts[1:])}
    return {**found, **more}


def batched(parts: list[str]) -> Iterator[tuple[str, str]]:
    return zip(parts[::2], parts[1::2], strict=True)


PROGRAMS = {
    "python": programs("python"),
    "javascript": programs("javascript", BOM="\ufeffconsole.log('ran')"),
    "bash": programs(
        "bash",
        **{
            "carriage returns": "echo a\r\necho b\r\n",
            "nul": "echo a\0b",
            "long program": "\n".join(f"a{n}={n}" for n in range(3000)) + "\necho $a2999",
        },
    ),
    "r": programs(
        "r",
        **{
            "BOM": "\ufeffcat('ran')",
            "carriage returns": "x <- 1\r\nx\r\n",
            "long line": f"x <- '{'a' * 10_000}'; nchar(x)",
            "long program": "\n".join(f"a{n} <- {n}" for n in range(3000)) + "\na2999",
        },
    ),
    "octave": programs(
        "octave",
        **{
            "carriage returns": "x = 1\r\nx\r\n",
            "long program": "\n".join(f"a{n} = {n};" for n in range(3000)) + "\na2999",
        },
    ),
}
PYTHON_FACTS = PROGRAMS["python"].pop("FACTS")


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
                    {"PATH": PATH, **dict(entry.env), **dict(p.get("env", ()))},
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


ARGS: dict[str, tuple[str, ...]] = {
    "python": (), "javascript": (), "bash": ("one", "two 2", ""), "r": (), "octave": (),
}  # fmt: skip


# Where a node that stood by shows itself: below the program, in the innermost ten lines of a stack.
STOOD_BY = re.compile(r"(    at Object\.<anonymous> \(/tmp/\.standby\.js:.*\n)(    at .*\n)*")
ENTERED = re.compile(r"    at node:internal/main/run_main_module:.*\n")


def shown(text: str) -> str:
    """Return a text less what differs between any two runs: addresses, process ids, file times."""
    text = re.sub(r"0x[0-9a-f]{6,}|\(node:[0-9]+\)|(?m:^#[0-9]+)", "...", text)
    text = re.sub(r"\b[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}\b", "...", text)  # as `ls` has it
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
    "r": {
        "environment of the kernel": "the kernel shows what it was started with: R_TESTS",
    },
    "octave": {
        "command line": "the kernel shows how it was started: with --no-init-file, not --norc",
        "environment of the kernel": "it shows what it was started with: OCTAVE_SITE_INITFILE",
    },
}


def names(language: str) -> list[str]:
    return sorted(PROGRAMS[language].keys() - KNOWN[language].keys())


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
            "limits": {
                "cpus": 2,
                "memory": "512 MiB",
                "output_chars": KEPT,
                "output_tokens": KEPT,
            },
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


# --- What a program does and how it ends


@pytest.mark.parametrize(
    ("language", "name"), [(language, name) for language in PROGRAMS for name in names(language)]
)
async def test_a_program_does_what_it_always_does(
    run: Execute, fresh: Fresh, language: str, name: str
) -> None:
    outcome = await run(PROGRAMS[language][name], language, args=ARGS[language])
    alike(outcome, await fresh.of(language, PROGRAMS[language], name))


# --- Python: what a program sees of its interpreter


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


MODULES = [
    "argparse",
    "asyncio",
    "collections",
    "concurrent.futures",
    "ctypes",
    "datetime",
    "decimal",
    "email.message",
    "http.client",
    "importlib.metadata",
    "json",
    "logging.config",
    "mmap",
    "multiprocessing.pool",
    "os",
    "pathlib",
    "pickle",
    "random",
    "re",
    "resource",
    "select",
    "signal",
    "sqlite3",
    "ssl",
    "struct",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "typing",
    "unittest",
    "urllib.request",
    "xml.dom.minidom",
    "zipfile",
]
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


# --- Python: how it ends


@pytest.mark.parametrize("name", ["traceback", "syntax error", "chained traceback"])
async def test_a_traceback_shows_the_program_alone(run: Execute, name: str) -> None:
    outcome = await run(PROGRAMS["python"][name])
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
        (("BASHOPTS", "nullglob"), ("SHELLOPTS", "noglob")),
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
        'touch a1; echo a*; set -- "a:b"; for x in $1; do echo "[$x]"; done; env > e; sort e; echo "$-"\n'
        'echo "$PWD ${OLDPWD-} ${REPLY-} $SHLVL"; date -d @0 +%Z; x=é; echo ${#x}; shopt nullglob; set -x; :'
    )
    await same(code, "bash", env=env)


# --- R and Octave


SHOW = {
    "r": "commandArgs(); Sys.getenv('MINE'); Sys.getenv('R_TESTS'); Sys.time() > 0\n"
    "format(as.POSIXct(0), '%Z'); list.files('/sandbox'); list.files('/tmp', '^[^R]', all.files = TRUE)",
    "octave": "argv()\ngetenv('MINE')\nstrftime('%Z', localtime(0))\nls('/sandbox')\nls('-A', '/tmp')",
}


@pytest.mark.parametrize("language", SHOW)
@pytest.mark.parametrize(
    "fields",
    [
        {"args": ("a", "b c")},
        {"env": (("MINE", "é ' \n"), ("TZ", "JST-9"))},
        {"args": ("a",), "env": (("MINE", "x"),)},
    ],
    ids=lambda fields: " and ".join(fields),
)
async def test_what_can_only_be_told_at_the_start_is_told(
    same: Execute, language: str, fields: dict[str, Any]
) -> None:
    outcome = await same(SHOW[language], language, **fields)
    assert outcome.status is Status.SUCCESS, outcome.stderr.text


@pytest.mark.parametrize(
    ("language", "code"),
    [("r", "cat(runif(1), rnorm(1), sample(1e9, 1), basename(tempfile()))"),
     ("octave", "printf('%.9f ', rand(), randn(), randi(1e9), rande())")],
)  # fmt: skip
async def test_no_two_programs_draw_the_same_numbers(
    run: Execute, language: str, code: str
) -> None:
    lines = [(await run(code, language)).stdout.text.split() for _ in range(3)]
    for values in zip(*lines, strict=True):
        assert len(set(values)) == 3, values


@pytest.mark.parametrize(
    ("language", "code", "other"),
    [("r", "source('more.R')\nf()", ("more.R", "f <- function() cat('more')\n")),
     ("octave", "more_of_it()", ("more_of_it.m", "function more_of_it()\n  printf('more')\nend\n"))],
)  # fmt: skip
async def test_files_that_come_with_a_program_are_seen(
    run: Execute, language: str, code: str, other: tuple[str, str]
) -> None:
    file = Input(path=other[0], content=other[1].encode())
    outcome = await run(code, language, files=(file,))
    assert (outcome.stdout.text, outcome.stderr.text) == ("more", "")


@pytest.mark.parametrize("language", SHOW)
async def test_a_program_of_another_name_leaves_no_empty_one(run: Execute, language: str) -> None:
    name = f"other{LANGUAGES[language].extensions[-1]}"
    show = {"r": "cat(list.files('/sandbox'))", "octave": "printf('%s', ls('/sandbox'))"}[language]
    main = Input(path=name, content=show.encode())
    outcome = await run("", language, files=(main,), entrypoint=name)
    assert outcome.stdout.text.split() == [name]
    assert outcome.files.changed == ()


ECHO = {
    "r": "cat(readLines(file('stdin')), commandArgs(TRUE), list.files('/sandbox'))\n"
    "cat(length(list.files('/tmp')), file = 'left.txt')",
    "octave": "printf('%s ', fgetl(stdin), argv(){:}, glob('*'){:}); fclose(fopen('left.txt', 'w'));",
}


@pytest.mark.parametrize("language", ECHO)
async def test_each_case_and_each_step_of_a_session_is_told_its_own(
    run: Execute, language: str
) -> None:
    main = LANGUAGES[language].file_name
    code = ECHO[language]
    for args in ((), ("x",)):
        cases = (Case(stdin=b"1\n"), Case(stdin=b"2\n", args=args), Case(stdin=b"3\n"))
        outcome = await run(code, language, stdin="", tests=cases)
        texts = [case.stdout.text.split() for case in outcome.tests]
        assert texts == [["1", main], ["2", *args, main], ["3", main]]
    session = f"of-{language}"
    texts = [
        (await run(code, language, stdin="s\n", session_id=session, args=args)).stdout.text.split()
        for args in ((), ("x",), ())
    ]
    assert texts == [["s", main], ["s", "x", "left.txt", main], ["s", "left.txt", main]]


@pytest.mark.parametrize(
    ("language", "name"), [(language, name) for language, names in KNOWN.items() for name in names]
)
async def test_a_known_difference_is_still_one(
    run: Execute, fresh: Fresh, language: str, name: str
) -> None:
    """So that the table above tells the truth; and all that differs is what is printed."""
    outcome = await run(PROGRAMS[language][name], language, args=ARGS[language])
    known = await fresh.of(language, PROGRAMS[language], name)
    told = (outcome.stdout.text, outcome.stderr.text)
    assert [shown(text) for text in told] != [shown(known.stdout), shown(known.stderr)]
    assert (outcome.exit_code, outcome.signal) == (known.exit_code, known.signal)


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_that_are_prepared_are_compared_here(language: str) -> None:
    if LANGUAGES[language].launch is not Launch.EXEC:
        # python-science is python with packages: the same interpreter and the same launch.
        assert language in {*PROGRAMS, "python-science"}
