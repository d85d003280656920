"""Compile and run hello: codecell, warm, against the same image and commands in `docker exec`.

    python benchmarks/languages.py [LANGUAGE]...

Both sides have the same CPU, memory and process limits; the other side is a container that runs
already and has its image's toolchain as it is. Rounds alternate, so that a busy machine hurts both;
the median is shown, in milliseconds. A ratio below 1 means that codecell is faster.
"""

import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from codecell import policy, recipes
from codecell.app import open_runner
from codecell.model import Request, Status
from codecell.pool import Pool
from codecell.runner import Runner
from codecell.settings import Settings, load

ROUNDS = 7


@contextmanager
def container(settings: Settings, language: str) -> Iterator[str]:
    """Start a container with a cell's limits and walls that matter to speed."""
    spec = policy.cell_spec(settings.table[language], settings)
    limits = spec.limits
    tmpfs = f"rw,exec,size={limits.sandbox_bytes},mode=0700,uid=65534,gid=65534"
    started = subprocess.run(
        [
            "docker", "run", "--detach", "--rm", "--network=none", "--read-only", "--cap-drop=ALL",
            f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}",
            f"--cpus={limits.cpus}", f"--pids-limit={limits.pids}",
            f"--tmpfs=/sandbox:{tmpfs}", f"--tmpfs=/tmp:{tmpfs}",
            "--env=HOME=/sandbox", "--env=LANG=C.UTF-8", spec.image, "sleep", "3600",
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    name = started.stdout.strip()
    try:
        yield name
    finally:
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)


def in_docker_exec(name: str, settings: Settings, language: str, code: str) -> float:
    """Do what codecell's steps do, through one shell in the container."""
    entry = settings.table[language]
    words = policy.Words.of(entry, settings, code)
    steps = [shlex.join(words.fill(command)) for command in (entry.compile, entry.run) if command]
    environment = " ".join(f"{k}={shlex.quote(v)}" for k, v in (*entry.compile_env, *entry.env))
    lines = [f"cat >{shlex.quote(words.main)}", f"export {environment}" if environment else ":"]
    script = " && ".join([*lines, *steps])
    wipe = ["docker", "exec", name, "sh", "-c", "rm -rf /sandbox/*"]  # no earlier round's objects
    subprocess.run(wipe, check=True, capture_output=True)
    began = time.perf_counter()
    done = subprocess.run(
        ["docker", "exec", "-i", "-w", "/sandbox", name, "sh", "-c", script],
        input=code, capture_output=True, text=True, check=False,
    )  # fmt: skip
    took = time.perf_counter() - began
    if f"hello from {language}" not in done.stdout:
        raise SystemExit(f"{language} in docker exec: {done.stdout}{done.stderr}")
    return took


async def in_codecell(runner: Runner, pool: Pool, settings: Settings, request: Request) -> float:
    """Run it once a cell stands ready."""
    spec = policy.cell_spec(settings.table[request.language], settings)
    while not pool.ready(spec):  # noqa: ASYNC110  the pool tells nobody
        await anyio.sleep(0.05)
    await anyio.sleep(0.5)
    began = time.perf_counter()
    outcome = await runner.execute(request)
    took = time.perf_counter() - began
    if outcome.status is not Status.SUCCESS:
        raise SystemExit(f"{request.language} in codecell: {outcome}")
    return took


async def compare(language: str) -> None:
    flags = {"pool": {"languages": [language], "min": 1, "max": 1}}
    settings = load(flags=flags)
    code = recipes.read(language).hello().decode()
    ours, theirs = [], []
    async with open_runner(settings) as runner:
        with container(settings, language) as name:
            for _ in range(ROUNDS):
                request = Request(language=language, code=code)
                ours.append(await in_codecell(runner, runner._pool, settings, request))
                theirs.append(in_docker_exec(name, settings, language, code))
    mine, other = statistics.median(ours) * 1000, statistics.median(theirs) * 1000
    print(f"{language:12} {mine:9.0f} {other:12.0f} {mine / other:6.2f}", flush=True)


def main() -> None:
    print(f"{'language':12} {'codecell':>9} {'docker exec':>12} {'ratio':>6}")
    for language in sys.argv[1:] or load().table:
        anyio.run(compare, language)


if __name__ == "__main__":
    main()
