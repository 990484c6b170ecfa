"""`loom attest`: what a run here has shown, for others."""

from __future__ import annotations

from pathlib import Path

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option
from loom.cli.help import CommandsWithDefault

attest = typer.Typer(help="Sign what a run has shown of a commit, as a note of the commit.")
CLASSES = {"attest": CommandsWithDefault}


@attest.command("sign")
@done_by("gate.attest")
def attest_sign(
    what: str = argument("[RUN|COMMIT]", "The commit, or a run of its tree.", "run", default="HEAD"),
    push: bool = option("--push", "Push the notes to origin, too."),
    as_json: bool = options.AS_JSON,
) -> None:
    """Sign, as git signs, that `loom gate` finds a commit shown to pass (also `loom attest COMMIT`).

    Writes an in-toto statement in a DSSE envelope to the commit's note in refs/notes/loom. Runs nothing; refuses while a
    job is not shown.
    """


@attest.command("verify")
@done_by("gate.attest")
def attest_verify(
    commit: str = argument("COMMIT", "The commit.", default="HEAD"),
    signers: Path = option(
        "--signers FILE", "Lines as in git's allowed signers, or armored OpenPGP keys.", default=...
    ),
    jobs: list[str] = option("--job NAME", "This job has to be among those that passed.", "workflow-job", default=[]),
    allow_unlike: bool = option("--allow-unlike", "Also what counts by a `gate_accept` of the signer alone."),
    as_json: bool = options.AS_JSON,
) -> None:
    """Check the attestations of a commit. Exit code 0 if a listed person signed that its tree passed, else 1."""


@done_by("gate.signoff")
def signoff(
    what: str = argument("[RUN|COMMIT]", "The commit, or a run of its tree.", "run", default="HEAD"),
    each: bool = option("--each", "One status for each job, not one for all."),
    as_json: bool = options.AS_JSON,
) -> None:
    """Post to origin's server, as a status of the commit, that `loom gate` finds it shown to pass.

    Refuses as `loom attest` does, and for a commit that is not on the server.
    """
