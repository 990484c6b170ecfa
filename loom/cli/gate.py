"""`loom gate`."""

from __future__ import annotations

from typing import Literal

from loom.cli import options
from loom.cli.command import argument, done_by, option


@done_by("gate.gate")
def gate(
    words: list[str] | None = argument("[REF]", "A branch or a tag (default: the branch that is checked out)."),
    for_: Literal["push", "merge-request"] = option(
        "--for EVENT", "push, or merge-request: the jobs of a request to merge the branch.", default="push"
    ),
    target: str | None = option("--target BRANCH", "With --for merge-request: the branch to merge into."),
    dry_run: bool = option("--dry-run -n", "Say what is shown and what would run, and run nothing."),
    trust: bool = options.TRUST,
    as_json: bool = options.AS_JSON,
) -> None:
    """Tell whether CI would pass if this commit were pushed. Runs what no earlier run has shown.

    Only the commit counts, not what is changed in the checkout. It never runs a job that deploys.

    Exit code: 0 when all that decides has passed, else that of the run, or 1.
    """
