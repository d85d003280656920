"""Compile and run hello in every language, through MCP, beside the same toolchain without us.

    python -m benchmarks.languages [--rounds N] [LANGUAGE]...

codecell is the real server on stdio, called by the MCP SDK's own client, with one cell ready. Its
peer is `docker exec` of the same commands in a container of the same image, with a cell's limits,
that runs already: the toolchains are in the images, so only there can they be had without us.
`bare` is the same on this machine where it happens to have the very commands. Rounds are shuffled,
the first is not counted, the median is shown in milliseconds; a ratio below 1 means that codecell
is faster. Without a LANGUAGE all are measured, and languages.md is written.
"""

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

from benchmarks import latency, machine
from benchmarks.server import serve
from codecell import policy, recipes
from codecell.language import SANDBOX, Language
from codecell.settings import DEFAULT, Settings, load

MUST = 1.1
HEAD = "| language | codecell | docker exec | ratio | bare |\n|---|---|---|---|---|"
Medians = dict[str, float]


@contextmanager
def container(settings: Settings, language: Language) -> Iterator[str]:
    """Start a container with a cell's limits and walls that matter to speed."""
    spec = policy.cell_spec(language, settings)
    limits = spec.limits
    tmpfs = f"rw,exec,size={limits.sandbox_bytes},mode=0700,uid=65534,gid=65534"
    started = subprocess.run(
        [
            "docker", "run", "--detach", "--rm", "--network=none", "--read-only", "--cap-drop=ALL",
            f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}",
            f"--cpus={limits.cpus}", f"--pids-limit={limits.pids}",
            f"--tmpfs={SANDBOX}:{tmpfs}", f"--tmpfs=/tmp:{tmpfs}",
            f"--env=HOME={SANDBOX}", "--env=LANG=C.UTF-8", spec.image, "sleep", "7200",
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    name = started.stdout.strip()
    try:
        yield name
    finally:
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)


def script(language: Language, settings: Settings, code: str, folder: str = SANDBOX) -> str:
    """Write codecell's own steps as one line for a shell, which reads the program from stdin."""
    words = policy.Words.of(language, settings.rules[DEFAULT], code)
    commands = [words.fill(command) for command in (language.compile, language.run) if command]
    steps = [shlex.join(command).replace(SANDBOX, folder) for command in commands]
    pairs = words.fill_values((*language.compile_env, *language.env))
    names = " ".join(f"{name}={shlex.quote(value)}" for name, value in pairs)
    export = [f"export {names}"] if names else []
    return " && ".join([f"cat >{shlex.quote(words.file_name)}", *export, *steps])


def timed(command: list[str], code: str, folder: str | None = None) -> float:
    """Return the seconds that a program takes as its caller sees it."""
    began = time.perf_counter()
    done = subprocess.run(
        command, input=code, capture_output=True, text=True, check=False, cwd=folder
    )
    took = time.perf_counter() - began
    if "hello from" not in done.stdout:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return took


def in_docker_exec(
    stack: ExitStack, language: Language, settings: Settings, code: str
) -> Callable[[], float]:
    """Return the peer, in a container that lives as long as the stack."""
    name = stack.enter_context(container(settings, language))
    line = script(language, settings, code)

    def run() -> float:
        wipe = [
            "docker",
            "exec",
            name,
            "sh",
            "-c",
            f"rm -rf {SANDBOX}/*",
        ]  # no round helps the next
        subprocess.run(wipe, check=True, capture_output=True)
        return timed(["docker", "exec", "-i", "-w", SANDBOX, name, "sh", "-c", line], code)

    return run


def bare(language: Language, settings: Settings, code: str) -> Callable[[], float] | None:
    """Return the same on this machine, or nothing where it lacks one of the commands."""
    commands = [command for command in (language.compile, language.run) if command]
    named = [word for command in commands for word in command[:1] if not word.startswith(SANDBOX)]
    if language.id == "python-science" or not all(map(shutil.which, named)):
        return None

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            line = script(language, settings, code, folder)
            return timed(["sh", "-c", line], code, folder)

    try:
        run()
    except RuntimeError:  # it has the shell, but not what the shell calls
        return None
    return run


async def measure(name: str, count: int) -> Medians:
    """Measure one language; everybody's medians in milliseconds."""
    settings = load()
    language = settings.table[name]
    code = recipes.read(name).hello().decode()
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        async with serve(pool__languages=f'["{name}"]', pool__min="1", pool__max="1") as served:
            await served.settle(name, 1)
            entries = {
                "codecell": latency.codecell(served, name, code, spares=1, calm_s=0.3),
                "docker exec": latency.blocking(in_docker_exec(stack, language, settings, code)),
            }
            on_this_machine = bare(language, settings, code)
            if on_this_machine is not None:
                entries["bare"] = latency.blocking(on_this_machine)
            samples = await latency.rounds(entries, count, lost=failed)
    if failed:
        raise RuntimeError(f"{name}: {failed}")
    return {who: statistics.median(values) * 1000 for who, values in samples.items()}


def row(name: str, found: Medians) -> str:
    """Return one line of the table."""
    ours, theirs = found["codecell"], found["docker exec"]
    own = f"{found['bare']:.0f}" if "bare" in found else ""
    return f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {own} |"


def page(rows: list[str], rounds: int, facts: dict[str, object], slow: list[str]) -> str:
    """Return languages.md."""
    where = f"{facts['cpu']}, {facts['cores']} cores, Docker {facts['docker']}"
    text = (__doc__ or "").partition("\n\n    ")[2].partition("\n\n")[2].strip()
    verdict = f"above {MUST}: {', '.join(slow)}" if slow else f"no ratio is above {MUST}"
    return (
        "# Compile and run hello, warm\n\n"
        "Made by `python -m benchmarks.languages`; do not edit.\n\n"
        f"{text}\n\n"
        f"Measured {facts['date']} at {facts['commit']} on {where}; {rounds} rounds; load average "
        f"before it {facts['load_average_before']}; {verdict}.\n\n"
        + "\n".join([HEAD, *rows]) + "\n"
    )  # fmt: skip


def main() -> int:
    """Measure; the status is 1 where a ratio is above the bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", default=[])
    given = parser.parse_args()
    facts = machine.facts()
    rows: list[str] = []
    slow: list[str] = []
    print(HEAD, flush=True)
    for name in given.languages or load().table:
        found = anyio.run(measure, name, given.rounds)
        rows.append(row(name, found))
        print(rows[-1], flush=True)
        if found["codecell"] > MUST * found["docker exec"]:
            slow.append(name)
    if not given.languages:
        path = Path(__file__).with_suffix(".md")
        path.write_text(page(rows, given.rounds, facts, slow), encoding="utf-8")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
