"""The command tree. Imports the module of the given command only, or all of them for help."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from loom import __version__
from loom.cli import options
from loom.cli.help import GroupedCommand, GroupedCommands, width
from loom.status import ExitCode
from loom.util.commits import commit_of

MODULES = {
    "run": ("run",),
    "again": ("watch", "mcp", "resume", "attach", "rerun", "bisect", "reproduce", "bundle", "replay"),
    "record": ("runs", "show", "logs", "diagnose", "diff", "report", "artifacts"),
    "gate": ("gate",),
    "check": ("init", "jobs", "check", "compile", "schema", "trust"),
    "keep": ("config", "images", "cache", "clean", "doctor"),
    "inside": ("snapshot", "verify", "workspace", "pull", "shell", "exec"),
    "attest": ("attest", "signoff"),
    "app": ("version",),
}
"""Modules of this package with their commands: each a function or group of that name.

Names that collide with Python's or the module's get a trailing underscore, as in `exec_`.
"""

HELP = "Run your CI workflow on your own machine: same input, same container, and a short way to the failure."


def version(as_json: bool = options.AS_JSON) -> None:
    """Print loom's version, and the commit of the checkout or of the package."""
    commit = commit_of(Path(__file__).parents[1])
    if not as_json:
        print(f"loom {__version__}" + (f" ({commit[:12]})" if commit else ""))
        return
    from loom.render.output import print_kind  # late: the text alone needs nothing

    print_kind("version", {"loom": __version__, "commit": commit, "python": sys.version.split()[0]})


def _print_version(wanted: bool) -> None:
    if wanted:
        version(as_json=False)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print loom's version and commit.", callback=_print_version, is_eager=True)
]


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """Build the command tree, limited to what `arguments` need: see `util.startup`."""
    known = {command: module for module, commands in MODULES.items() for command in commands}
    wanted = [command for command in known if arguments and arguments[0] == command]
    if len(arguments) > 1 and arguments[0] in ("--install-completion", "--show-completion"):
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = (
            "1"  # typer's way to take the shell's name from here
        )
    app = typer.Typer(
        name="loom",
        cls=GroupedCommands,
        help=HELP,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "terminal_width": width()},
    )

    @app.callback(help=HELP)
    def root(show_version: Version = False) -> None:
        # A callback makes `loom COMMAND` a command group for any number of commands.
        pass

    for command in wanted or known:
        module = import_module(f"loom.cli.{known[command]}")
        classes = getattr(module, "CLASSES", {})
        found = getattr(module, command, None) or getattr(module, f"{command}_")
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=command, cls=classes.get(command, GroupedCommands))
        else:
            app.command(command, cls=classes.get(command, GroupedCommand))(found)
    return app


def _options_by_command() -> dict[str, list[str]]:
    commands = typer.main.get_group(app_for([])).commands
    return {
        name: [word for param in command.params for word in param.opts if word[0] == "-"]
        for name, command in commands.items()
    }


def exit_code_of_usage_error(error: Exception) -> int | None:
    """Print the parser's message for a usage error; return its exit code, or None for another error."""
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "exit_code"):
        from loom.cli.familiar import hint  # for mistakes alone

        advice = hint(error, _options_by_command())
        vars(error).update(possibilities=())  # those are alike by letters alone
        show()
        if advice is not None:
            typer.echo(f"  {advice}", err=True)
        return ExitCode.REQUEST
    if type(error).__name__ == "Abort":
        typer.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    return None
