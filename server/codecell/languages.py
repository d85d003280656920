"""The language table: one frozen value per language, one image folder beside each.

A test holds this table and `images/` equal: a new language is one entry here (or in one of the two
further parts), one folder there.
"""

from codecell.compiled import COMPILED
from codecell.interpreted import INTERPRETED
from codecell.language import SANDBOX, TMP, Language, Languages
from codecell.model import Kernel, Launch, Standby

__all__ = ["DEFAULT_SET", "LANGUAGES", "SANDBOX", "TMP", "Language", "Languages"]

DEFAULT_SET = ("python", "javascript", "bash")

# What the shell of a session (standby.sh) is told on its descriptor 0: to take from its job what
# comes before the step, then the step, which sees nothing of these descriptors; then to report.
BASH_STEP = (
    "IFS= builtin read -r -d '' -u 4 REPLY || builtin :; builtin eval \"$REPLY\" 2>&7\n"
    "IFS= builtin read -r -d '' -u 4 REPLY || builtin :; "
    'builtin eval "$REPLY" <&6 2>&7 4<&- 5>&- 6<&- 7>&-\n'
    "builtin printf '{n} %s\\n' \"$?\" >&5\n"
)

_WARM = (
    Language(
        id="python",
        title="Python",
        aliases=("py", "python3", "py3"),
        extensions=(".py",),
        file_name="main.py",
        launch=Launch.FORK,
        kernel=Kernel(source="kernel.py"),
        start_variables=("PYTHON", "LANG", "LC_", "LD_", "TZ"),
        run=("/usr/bin/python3", "{main}"),
        version=("/usr/bin/python3", "--version"),
        preinstalled=("standard library",),
    ),
    Language(
        id="javascript",
        title="JavaScript",
        aliases=("js", "node", "nodejs", "node.js", "mjs", "cjs"),
        extensions=(".js", ".mjs", ".cjs"),
        file_name="main.js",
        launch=Launch.STANDBY,
        run=("/usr/bin/node", "{main}"),
        standby=Standby(
            # One thread for V8's background work: half a processor has no use for four.
            command=("/usr/bin/node", "--v8-pool-size=1", f"{TMP}/.standby.js"),
            source="standby.js",
            values="values.js",
            file=f"{TMP}/.standby.js",
        ),
        kernel=Kernel(source="kernel.js"),
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
        kernel=Kernel(step=BASH_STEP, job="shell"),
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
    Language(
        id="python-science",
        title="Python with the scientific stack",
        aliases=("science", "datascience"),
        file_name="main.py",
        launch=Launch.FORK,
        kernel=Kernel(source="kernel.py"),
        start_variables=("PYTHON", "LANG", "LC_", "LD_", "TZ"),
        run=("/usr/bin/python3", "{main}"),
        version=("/usr/bin/python3", "--version"),
        memory_bytes=512 * 1024 * 1024,
        cpus=1.0,
        notes="numpy, pandas and matplotlib are loaded ahead of time. Figures come back as images.",
    ),
)

LANGUAGES = Languages((*_WARM, *COMPILED, *INTERPRETED))
