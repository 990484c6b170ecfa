"""Commands whose help texts have groups and fit any width of the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from textwrap import TextWrapper
from typing import Any

from typer.core import TyperCommand, TyperGroup

WIDEST = 100
COMMANDS = {
    "Run": "init run gate watch resume rerun attach reproduce replay bisect",
    "Look": "jobs check compile runs show logs diagnose diff report artifacts",
    "Stand inside a job": "shell exec pull workspace snapshot verify",
    "Set up and keep": "doctor setup trust config images cache clean bundle attest signoff",
    "More": "",
}
"""The groups of commands; the last one has those that no other names."""
OPTIONS = {
    "Most used": "--dry-run --workflow --stage --from --var --image --secret-file --stop-at --jobs --stream --help",
    "Which jobs, as for which event": "--deploy --needs --matrix --input --event --event-file --changes-base",
    "Which files": "--staged --allow-unmerged",
    "Where, and in which containers": "--on --container --mount-mode --pull --frozen --strict --trust --no-cache --keep --detach",
    "What is printed": "--verbose --quiet --color --format --json",
    "More": "",
}
"""The groups of the options of a command that has many; the last one has those that no other names."""
_MANY = 16
WORD = "loom.word"
"""The key of the word in the place of a command, in the context of a group."""

Rows = Iterable[tuple[str, tuple[str, str]]]


def width() -> int:
    """Return the columns of a help text."""
    return max(min(shutil.get_terminal_size().columns, WIDEST), 20)


class _WholeWords:
    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help with `.gitlab-ci.yml` on one line: lines end at spaces alone."""
        TextWrapper.wordsep_re = TextWrapper.wordsep_simple_re
        super().format_help(ctx, formatter)  # type: ignore[misc]


class GroupedCommand(_WholeWords, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if type(error).__name__ == "BadOptionUsage":
                vars(error).update(ctx=ctx)  # the parser leaves it out
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown = [
            (param, record) for param in self.get_params(ctx) if (record := param.get_help_record(ctx)) is not None
        ]
        arguments = [(record[0], record) for param, record in shown if param.param_type_name == "argument"]
        options = [(max(param.opts, key=len), record) for param, record in shown if param.param_type_name == "option"]
        _write(formatter, {"Arguments": ""}, arguments)
        _write(formatter, OPTIONS if len(options) > _MANY else {"Options": ""}, options)


class GroupedCommands(_WholeWords, TyperGroup):
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx) if not self.commands[name].hidden]
        rows = [(name, (name, command.get_short_help_str(limit=1000))) for name, command in commands]
        _write(formatter, COMMANDS if ctx.parent is None else {"Commands": ""}, rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.suggest_commands = False  # by letters alone: see `familiar`
        ctx.meta[WORD] = args[0] if args else ""
        return super().resolve_command(ctx, args)


class CommandsWithDefault(GroupedCommands):
    """A group whose first command needs no name."""

    @property
    def default(self) -> str:
        return next(iter(self.commands))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if args and args[0] in own else [self.default, *args])


def _write(formatter: Any, groups: Mapping[str, str], rows: Rows) -> None:
    """Write named rows in groups, each in the order of its names."""
    left = dict(rows)
    for title, names in groups.items():
        some = [left.pop(name) for name in names.split() if name in left] if names else [*left.values()]
        if some:
            with formatter.section(title):
                formatter.write_dl(some, col_max=min(30, formatter.width // 3))
