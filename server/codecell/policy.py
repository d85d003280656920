"""Pure decisions: request + language + settings -> plan. Nothing a request says widens a limit."""

import difflib
import math
import shlex

from codecell.errors import RequestError
from codecell.languages import LANGUAGES, SANDBOX, Language
from codecell.model import CellLimits, CellSpec, File, Launch, Plan, Request, RunLimits, Step
from codecell.settings import LimitSettings, Settings

MAX_ARGS, MAX_ENV = 256, 128
MAX_ARGS_BYTES = MAX_ENV_BYTES = 64 * 1024
SHELL_JOB_BYTES = 64 * 1024  # a longer program is read faster from a file than from shell words


def plan(request: Request, settings: Settings) -> Plan:
    """Decide everything about a run.

    Raises:
        RequestError: in one sentence, what to send instead. Nothing has been touched then.
    """
    language = find_language(request.language)
    _check_text("code", request.code, int(settings.limits.code))
    if not request.code.strip():
        raise RequestError("code is empty: send the source text of a complete program")
    _check_text("stdin", request.stdin, int(settings.limits.stdin))
    _check_args(request.args)
    _check_env(request.env)
    limits = run_limits(request.timeout_s, settings.limits)
    main = f"{SANDBOX}/{language.file_name}"
    return Plan(
        language=language.id,
        caller=request.caller,
        cell=cell_spec(language, settings),
        limits=limits,
        steps=(
            Step(
                kind="run",
                launch=_launch(language, request),
                argv=(*(part.replace("{main}", main) for part in language.run), *request.args),
                timeout_s=limits.timeout_s,
            ),
        ),
        files=(File(path=language.file_name, content=request.code.encode()),),
        main=main,
        stdin=request.stdin.encode(),
        env=request.env,
    )


def find_language(name: str) -> Language:
    """Return the language called `name` or one of its aliases.

    Raises:
        RequestError: listing the languages there are and suggesting the nearest.
    """
    wanted = name.strip().lower()
    for language in LANGUAGES.values():
        if wanted == language.id or wanted in language.aliases:
            return language
    names = [n for language in LANGUAGES.values() for n in (language.id, *language.aliases)]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f" Did you mean {find_language(near[0]).id!r}?" if near else ""
    known = ", ".join(LANGUAGES)
    raise RequestError(
        f"language {name[:40]!r} is not supported. Supported languages: {known}.{hint}"
    )


def cell_spec(language: Language, settings: Settings) -> CellSpec:
    """Return the kind of cell that serves a language."""
    limits = settings.limits
    runtime = settings.engine.runtime
    return CellSpec(
        language=language.id,
        image=f"{settings.engine.image_prefix}/{language.id}:latest",
        launch=language.launch,
        standby=language.standby,
        runtime=runtime,
        reuse=settings.pool.reuse,
        limits=CellLimits(
            memory_bytes=min(language.memory_bytes or int(limits.memory), int(limits.max_memory)),
            cpus=limits.cpus,
            pids=min(language.pids or limits.processes, limits.max_processes),
            sandbox_bytes=int(limits.sandbox),
            tmp_bytes=int(limits.tmp),
        ),
    )


def run_limits(timeout_s: float | None, limits: LimitSettings) -> RunLimits:
    """Return a run's limits; a timeout past its ceiling is refused, never silently lowered."""
    wanted = limits.timeout_s if timeout_s is None else timeout_s
    if not math.isfinite(wanted) or not 0 < wanted <= limits.max_timeout_s:
        raise RequestError(
            f"timeout must be a number of seconds above 0 and at most {limits.max_timeout_s:g}"
            f" (the configured ceiling); leave it out for {limits.timeout_s:g}"
        )
    return RunLimits(
        timeout_s=wanted,
        output_chars=limits.output_chars,
        output_kill_bytes=int(limits.output_kill),
    )


def _launch(language: Language, request: Request) -> Launch:
    """Decide whether the interpreter that is ready can serve, or a fresh start is needed."""
    if any(name.startswith(language.start_variables) for name, _ in request.env):
        return Launch.EXEC
    if language.standby is not None and language.standby.job == "shell":
        words = (request.code, *request.args)
        if "\0" in request.code or sum(map(len, words)) > SHELL_JOB_BYTES:
            return Launch.EXEC
    return language.launch


def _check_text(field: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{field} has a lone surrogate at character {error.start}: send valid Unicode text"
        ) from error
    if size > most:
        raise RequestError(f"{field} is {size:,} bytes; at most {most:,} are accepted")


def _check_args(args: tuple[str, ...]) -> None:
    if len(args) > MAX_ARGS:
        raise RequestError(f"args has {len(args)} entries; at most {MAX_ARGS} are accepted")
    for index, arg in enumerate(args):
        _check_text(f"args[{index}]", arg, MAX_ARGS_BYTES)
        if "\0" in arg:
            raise RequestError(
                f"args[{index}] contains a NUL character, which no argument can hold"
            )
    if sum(len(arg.encode()) for arg in args) > MAX_ARGS_BYTES:
        raise RequestError(f"args is larger than {MAX_ARGS_BYTES:,} bytes in all")


def _check_env(env: tuple[tuple[str, str], ...]) -> None:
    if len(env) > MAX_ENV:
        raise RequestError(f"env has {len(env)} entries; at most {MAX_ENV} are accepted")
    for name, value in env:
        shown = repr(name[:40])
        if not name.isascii() or not name.isidentifier():
            raise RequestError(
                f"env name {shown} is not valid: use letters, digits and _, no digit first"
            )
        _check_text(f"env[{shown}]", value, MAX_ENV_BYTES)
        if "\0" in value:
            raise RequestError(f"env[{shown}] contains a NUL character")
    if sum(len(name) + len(value.encode()) for name, value in env) > MAX_ENV_BYTES:
        raise RequestError(f"env is larger than {MAX_ENV_BYTES:,} bytes in all")


def shown_command(language: Language) -> str:
    """Return how a language is run, as a person would type it."""
    return shlex.join(part.replace("{main}", language.file_name) for part in language.run)
