"""Pure decisions: request + language + settings -> plan. Nothing a request says widens a limit."""

import re
from dataclasses import replace

from codecell.ceilings import cell_limits, compile_timeout_s, run_limits
from codecell.errors import RequestError
from codecell.files import check, path_error, shown, sources
from codecell.language import Language
from codecell.model import (
    Case,
    CellSpec,
    File,
    Keep,
    Launch,
    Plan,
    Request,
    RunLimits,
    Standby,
    Step,
)
from codecell.settings import DEFAULT, LimitSettings, Policy, Settings
from codecell.words import Words

MAX_ARGS, MAX_ENV = 256, 128
MAX_ARGS_BYTES = MAX_ENV_BYTES = 64 * 1024
SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def plan(request: Request, settings: Settings) -> Plan:
    """Decide everything about a run.

    Raises:
        RequestError: in one sentence, what to send instead. Nothing has been touched then.
    """
    rules = settings.policy_of(request.caller)
    language = settings.table.find(request.language)
    if not rules.allows(language.id):
        raise RequestError(_not_allowed(language, rules, settings))
    _check_text("code", request.code, int(rules.limits.code))
    _check_text("stdin", request.stdin, int(rules.limits.stdin))
    if request.args and not language.takes_args:
        raise RequestError(f"{language.title} programs take no args: send none")
    _check_args(request.args)
    _check_env(request.env)
    if request.session_id is not None:
        check_session_id(request.session_id)
        if not rules.sessions:
            raise RequestError("sessions are not allowed for this caller: leave session_id out")
        _check_session_step(language, request)
    limits = run_limits(request.timeout_s, rules.limits, request.max_output_tokens)
    _check_tests(request, language, limits, rules.limits)
    words, program = _program(request, language, settings, rules)
    return Plan(
        language=language.id,
        caller=request.caller,
        cell=cell_spec(language, settings, rules),
        limits=limits,
        steps=_steps(language, request, rules, limits, words, program[0]),
        # What a session's interpreter is told is not a file, unless it is one of the request's.
        files=program[1:] if steps_in(language, request) and request.code.strip() else program,
        main=words.main,
        stdin=request.stdin.encode(),
        session_id=request.session_id,
        cases=request.tests,
        stop_on_failure=request.stop_on_failure,
    )


def _not_allowed(language: Language, rules: Policy, settings: Settings) -> str:
    allowed = ", ".join(name for name in settings.table if rules.allows(name)) or "none"
    return f"language {language.id!r} is not allowed for this caller; allowed: {allowed}"


def _program(
    request: Request, language: Language, settings: Settings, rules: Policy
) -> tuple[Words, tuple[File, ...]]:
    """Decide which files there are, the main one first."""
    path = request.entrypoint
    if path is not None and (wrong := path_error(path)) is not None:
        raise RequestError(f"entrypoint {shown(path)} {wrong}")
    if request.code.strip():
        words = Words.of(language, rules, request.code, path)
        main = File(path=words.file_name, content=request.code.encode())
        if not request.files:
            return words, (main,)
        others = _check_files(request, settings, rules, language, words.file_name)
    elif not request.files:
        raise RequestError("code is empty: send the source text of a complete program")
    else:
        files = _check_files(request, settings, rules, language, None)
        main = _entry(files, path, language)
        others = tuple(file for file in files if file is not main)
        words = Words.of(language, rules, _source(main, rules), main.path)
    extensions = language.sources or language.extensions
    return replace(words, others=sources(others, extensions)), (main, *others)


def _check_files(
    request: Request, settings: Settings, rules: Policy, language: Language, main: str | None
) -> tuple[File, ...]:
    room = cell_limits(language, rules.limits).sandbox_bytes
    return check(request.files, settings.files, room=room, main=main)


def _entry(files: tuple[File, ...], path: str | None, language: Language) -> File:
    """Find the program among the files."""
    for file in files:
        if file.path == (language.file_name if path is None else path):
            return file
    if path is None:
        raise RequestError(
            f"code is empty and none of the files is {language.file_name}: send the program as "
            "code, or the path of one of the files as entrypoint"
        )
    raise RequestError(
        f"entrypoint {shown(path)} is not among the files: send its path as it stands there"
    )


def _source(main: File, rules: Policy) -> str:
    try:
        text = main.content.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"entrypoint {shown(main.path)} is not UTF-8 text (byte {error.start})"
        ) from error
    _check_text(f"entrypoint {shown(main.path)}", text, int(rules.limits.code))
    return text


def check_session_id(name: str) -> None:
    """Refuse what can't be a session's name.

    Raises:
        RequestError: saying what can.
    """
    if not SESSION_ID.fullmatch(name):
        raise RequestError(
            f"session_id {name[:70]!r} is not valid: "
            'send "new", or 1 to 64 letters, digits, _ and -'
        )


def _check_session_step(language: Language, request: Request) -> None:
    """Refuse what a live interpreter can't do, rather than not do it."""
    if language.kernel is None:
        return
    for name, _ in request.env:
        if name.startswith(language.start_variables):
            raise RequestError(
                f"env[{name[:40]!r}] is only read when {language.title} starts, and a session's "
                "interpreter has started: set it in a call without session_id"
            )


def steps_in(language: Language, request: Request) -> bool:
    """Tell whether a request is a step for an interpreter that lives."""
    return request.session_id is not None and language.kernel is not None


def _steps(
    language: Language,
    request: Request,
    rules: Policy,
    limits: RunLimits,
    words: Words,
    program: File,
) -> tuple[Step, ...]:
    run = _run(language, request, limits, words)
    if request.session_id is None:
        return (*_compile(language, rules, words), run)
    if language.kernel is None:
        steps = (*_compile(language, rules, words), run)
        return tuple(replace(step, keep=Keep.FILES) for step in steps)
    if language.kernel.job == "shell" and b"\0" in program.content:
        raise RequestError("code contains a NUL character, which no shell can hold")
    kept = replace(run, keep=Keep.INTERPRETER, launch=language.launch, code=program.content)
    return (kept,)


def _compile(language: Language, rules: Policy, words: Words) -> tuple[Step, ...]:
    if not language.compile:
        return ()
    project = language.compile_project if words.others else ()
    command = words.fill(project or language.compile)
    if language.compile_launch is not Launch.EXEC:
        command = (command[0], words.main)
    return (
        Step(
            kind="compile",
            launch=language.compile_launch,
            argv=command,
            timeout_s=compile_timeout_s(language, rules.limits),
            env=words.fill_values(language.compile_env),
        ),
    )


def _run(language: Language, request: Request, limits: RunLimits, words: Words) -> Step:
    launch = _launch(language, request, words)
    command = words.fill(language.run)
    if launch is not Launch.EXEC:  # what waits was started with its options already
        command = (command[0], words.main)
    return Step(
        kind="run",
        launch=launch,
        argv=(*command, *request.args),
        timeout_s=limits.timeout_s,
        env=(*words.fill_values(language.env), *request.env),
        oom_mark=language.oom_mark,
    )


def cell_spec(language: Language, settings: Settings, rules: Policy | None = None) -> CellSpec:
    """Return the kind of cell that serves a language under a policy; None is the default one."""
    rules = rules or settings.rules[DEFAULT]
    return CellSpec(
        language=language.id,
        image=image_of(language, settings),
        launch=language.compile_launch if language.compile else language.launch,
        standby=_standby(language, rules),
        kernel=language.kernel,
        python=language.python,
        runtime=rules.runtime,
        reuse=rules.reuse,
        seccomp=rules.seccomp,
        limits=cell_limits(language, rules.limits),
    )


def image_of(language: Language, settings: Settings) -> str:
    """Return the name of the image that a language runs in."""
    return language.image or f"{settings.engine.image_prefix}/{language.id}:latest"


def _standby(language: Language, rules: Policy) -> Standby | None:
    if language.standby is None:
        return None
    standby, words = language.standby, Words.of(language, rules)
    env = words.fill_values(language.env) if standby.job == "none" else ()  # never told later
    return replace(standby, command=words.fill(standby.command), env=(*env, *standby.env))


def _launch(language: Language, request: Request, words: Words) -> Launch:
    """Decide whether the interpreter that is ready can serve, or a fresh start is needed."""
    if any(name.startswith(language.start_variables) for name, _ in request.env):
        return Launch.EXEC
    job = language.standby.job if language.standby else ""
    if job in {"shell", "none"} and words.file_name != language.file_name:
        return Launch.EXEC  # it was started with the usual name
    if job == "none" and (
        request.args
        or request.env
        or request.session_id is not None
        or any(case.args for case in request.tests)
    ):
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


def _check_case(
    name: str,
    case: Case,
    request: Request,
    language: Language,
    run: RunLimits,
    limits: LimitSettings,
) -> None:
    if case.args and not language.takes_args:
        raise RequestError(f"{language.title} programs take no args: send none in {name}")
    try:
        _check_args((*request.args, *case.args))
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from error
    _check_text(f"{name}.stdin", case.stdin.decode("utf-8", "surrogatepass"), int(limits.stdin))
    if case.expected is not None:
        _check_text(f"{name}.expected_stdout", case.expected, int(limits.stdin))
    if case.timeout_s is not None and not 0 < case.timeout_s <= run.timeout_s:
        raise RequestError(
            f"{name}.timeout must be a number of seconds above 0 and at most "
            f"{run.timeout_s:g}, the time of all tests together"
        )


def _check_tests(
    request: Request, language: Language, run: RunLimits, limits: LimitSettings
) -> None:
    if not request.tests:
        return
    if len(request.tests) > limits.tests:
        raise RequestError(
            f"tests has {len(request.tests)} entries; at most {limits.tests} are accepted"
        )
    if request.session_id is not None:
        raise RequestError("tests run in clean cells: leave session_id out")
    if request.stdin:
        raise RequestError("stdin is each test's own here: leave stdin out")
    for index, case in enumerate(request.tests):
        _check_case(f"tests[{index}]", case, request, language, run, limits)
    size = sum(len(case.stdin) + len((case.expected or "").encode()) for case in request.tests)
    if size > 2 * limits.stdin:
        raise RequestError(
            f"tests hold {size:,} bytes of stdin and expected_stdout; at most "
            f"{2 * int(limits.stdin):,} are accepted"
        )


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
