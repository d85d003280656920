"""The language table: one frozen value per language, one image folder beside each.

A test holds this table and `images/` equal: a new language is one entry here, one folder there.
"""

from dataclasses import dataclass, field

from codecell.model import Launch, Standby

SANDBOX = "/sandbox"
TMP = "/tmp"  # noqa: S108  the cell's own tmpfs, not this machine's
DEFAULT_SET = ("python", "javascript", "bash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How one language is run.

    Attributes:
        id: the name in requests and of the folder in images/.
        file_name: what the program is called in /sandbox.
        run: the command, {main} and {args} substituted by position: {main} is the program's path.
        standby: for `Launch.STANDBY`, what is started ahead of time and waits.
        start_variables: prefixes of environment variables that only a fresh start obeys; a run that
            sets one gets its own process.
        compile: the command of a compile step, or empty.
        version: the command that prints the installed version, run once when the image is built.
        preinstalled: what a program can import beyond the standard library.
        memory_bytes, pids: own limits where the toolchain needs them.
    """

    id: str
    title: str
    aliases: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    file_name: str
    launch: Launch
    run: tuple[str, ...]
    standby: Standby | None = None
    start_variables: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()
    version: tuple[str, ...]
    preinstalled: tuple[str, ...] = ()
    memory_bytes: int | None = None
    pids: int | None = None
    notes: str = field(default="")


_ALL = (
    Language(
        id="python",
        title="Python",
        aliases=("py", "python3"),
        extensions=(".py",),
        file_name="main.py",
        launch=Launch.FORK,
        start_variables=("PYTHON", "LANG", "LC_", "LD_", "TZ"),
        run=("/usr/bin/python3", "{main}"),
        version=("/usr/bin/python3", "--version"),
        preinstalled=("standard library",),
    ),
    Language(
        id="javascript",
        title="JavaScript",
        aliases=("js", "node", "nodejs"),
        extensions=(".js", ".mjs", ".cjs"),
        file_name="main.js",
        launch=Launch.STANDBY,
        run=("/usr/bin/node", "{main}"),
        standby=Standby(
            # One thread for V8's background work: half a processor has no use for four.
            command=("/usr/bin/node", "--v8-pool-size=1", f"{TMP}/.standby.js"),
            source="standby.js",
            file=f"{TMP}/.standby.js",
        ),
        start_variables=("NODE_", "LANG", "LC_", "LD_", "OPENSSL_", "SSL_"),
        version=("/usr/bin/node", "--version"),
        preinstalled=("Node.js built-in modules",),
    ),
    Language(
        id="bash",
        title="Bash",
        aliases=("sh", "shell"),
        extensions=(".sh", ".bash"),
        file_name="main.sh",
        launch=Launch.STANDBY,
        run=("/bin/bash", "{main}"),
        standby=Standby(
            command=("/bin/bash", "/sandbox/main.sh"),
            source="standby.sh",
            file=f"{TMP}/.standby.sh",
            env=(("BASH_ENV", f"{TMP}/.standby.sh"),),
            job="shell",
        ),
        # Bash sets these itself, or reads them before its first command.
        start_variables=(
            "BASH",
            "DIRSTACK",
            "ENV",
            "EPOCH",
            "EUID",
            "FUNCNAME",
            "GROUPS",
            "HIST",
            "IFS",
            "LANG",
            "LC_",
            "LD_",
            "LINENO",
            "OPT",
            "POSIX",
            "PPID",
            "PS4",
            "RANDOM",
            "REPLY",
            "SECONDS",
            "SHELLOPTS",
            "SHLVL",
            "SRANDOM",
            "UID",
            "_",
        ),
        version=("/bin/bash", "--version"),
        preinstalled=("coreutils", "grep", "sed", "awk", "findutils"),
    ),
)

LANGUAGES: dict[str, Language] = {language.id: language for language in _ALL}
