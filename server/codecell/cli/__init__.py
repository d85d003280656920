"""The command line: a click group whose commands are imported when they are called.

Exit status: the command's own; 2 for wrong usage or configuration, 125 for another failure of ours,
130 after Ctrl-C.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from codecell import __version__
from codecell.errors import CodecellError, ConfigurationError

if TYPE_CHECKING:
    from codecell.settings import Settings

OUR_FAILURE = 125
WRONG_USAGE = 2
INTERRUPTED = 130
CLOSED_OUTPUT = 141  # as a shell reports a program that SIGPIPE ended

# name -> (module:attribute, one line for --help, so that --help imports no command)
COMMANDS = {
    "execute": ("codecell.cli.run_commands:execute", "Run a program in a cell."),
    "repl": ("codecell.cli.repl_commands:repl", "Talk with an interpreter in a cell."),
    "languages": ("codecell.cli.run_commands:languages", "List the languages as installed."),
    "serve": ("codecell.cli.serve_commands:serve", "Serve MCP on stdio, HTTP or SSE."),
    "token": (
        "codecell.cli.token_commands:token",
        "Add, list and remove the bearer tokens of callers over HTTP.",
    ),
    "demo": ("codecell.cli.serve_commands:demo", "Show it at work through a real MCP client."),
    "client-config": (
        "codecell.cli.serve_commands:client_config",
        "Print the configuration to paste into an MCP client.",
    ),
    "setup": (
        "codecell.cli.setup_commands:setup",
        "Make this machine ready: a container engine and the images.",
    ),
    "doctor": (
        "codecell.cli.setup_commands:doctor",
        "Say what is there, what is missing and what to do.",
    ),
    "images": ("codecell.cli.setup_commands:images", "Build and list the images."),
    "policy": (
        "codecell.cli.policy_commands:policy",
        "Show the policies, and what one comes to for a caller and a language.",
    ),
    "audit": (
        "codecell.cli.audit_commands:audit",
        "Check the audit log, and look things up in it.",
    ),
    "settings": ("codecell.cli.setup_commands:settings", "Show every setting and its default."),
}


class Invocation:
    """What every command may ask of this call of the program; click's `obj`."""

    def __init__(self, config: Path | None) -> None:
        self._config = config

    def settings(self, flags: Mapping[str, Any] | None = None) -> "Settings":
        """Load the settings; `flags` win over the environment and the file.

        Raises:
            ConfigurationError: naming the key that is wrong.
        """
        from codecell.settings import load

        return load(self._config, flags)


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is no such one."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codecell")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A codecell.toml; by default ./codecell.toml where there is one.",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Run untrusted code in hardened containers, for AI agents (MCP) and by hand."""
    ctx.obj = Invocation(config)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit status; the one place that shows errors."""
    try:
        result = main.main(list(arguments), prog_name="codecell", standalone_mode=False)
    except click.exceptions.Abort:
        return _fail("interrupted", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigurationError as error:
        return _fail(str(error), WRONG_USAGE)
    except CodecellError as error:
        return _fail(str(error), OUR_FAILURE)
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from flushing into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_OUTPUT
    return result if isinstance(result, int) else 0


def _fail(text: str, status: int) -> int:
    click.echo(f"codecell: {' '.join(text.split())}", err=True)
    return status
