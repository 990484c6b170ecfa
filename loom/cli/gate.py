"""`loom gate`."""

from __future__ import annotations

from typing import Literal

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option
from loom.cli.help import CommandsWithDefault

gate = typer.Typer(help="Tell whether CI would pass if this commit were pushed, and ask that before each push.")
CLASSES = {"gate": CommandsWithDefault}


@gate.command("commit")
@done_by("gate.gate")
def gate_commit(
    ref: str = argument("[REF]", "A branch or a tag (default: the branch that is checked out).", default="HEAD"),
    for_: Literal["push", "merge-request"] = option(
        "--for EVENT", "push, or merge-request: the jobs of a request to merge the branch.", default="push"
    ),
    target: str | None = option("--target BRANCH", "With --for merge-request: the branch to merge into."),
    dry_run: bool = option("--dry-run -n", "Say what is shown and what would run, and run nothing."),
    trust: bool = options.TRUST,
    as_json: bool = options.AS_JSON,
) -> None:
    """Tell whether CI would pass if this commit were pushed (also `loom gate REF`). Runs what no earlier run has shown.

    Only the commit counts, not what is changed in the checkout. It never runs a job that deploys.

    Exit code: 0 when all that decides has passed, else that of the run, or 1.
    """


@gate.command("install")
@done_by("gate.hook")
def gate_install() -> None:
    """Let git ask before each push: in its pre-push hook, or in that of pre-commit or husky."""


@gate.command("uninstall")
@done_by("gate.hook")
def gate_uninstall() -> None:
    """Take that out of the hook again."""


@gate.command("pre-push")
@done_by("gate.hook")
def gate_pre_push(trust: bool = options.TRUST) -> None:
    """Judge what git is about to push, by its lines on standard input. What the hook runs.

    LOOM_GATE=off, and `git push --no-verify`, push without it.
    """


@gate.command("ci")
@done_by("gate.ci")
def gate_ci(
    server: Literal["github", "gitlab"] = argument("github|gitlab", "The server.", default=...),
) -> None:
    """Print a first job for a server's file: it verifies attestations, so that the jobs that are shown need not run.

    It needs git, jq and ssh-keygen, not loom. Every doubt means that a job runs.
    """
