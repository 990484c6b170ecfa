"""`loom reproduce`."""

from __future__ import annotations

from typing import Annotated

from loom.cli import options
from loom.cli.command import argument, done_by, option


@done_by("run.reproduce")
def reproduce(
    url: Annotated[
        str | None, argument("URL", "The address of a job, pipeline or run on GitLab or GitHub.", show_default=False)
    ] = None,
    last: Annotated[
        bool, option("--last", "The first failed job of this branch's newest red pipeline at origin.")
    ] = False,
    with_cache: Annotated[bool, option("--with-cache", "Restore caches (default: they are left cold).")] = False,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    keep: options.Keep = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Run a red job of a CI server here, and say whether it fails in the same way.

    On the same commit, event, variables, image and artifacts, in a checkout of loom's own. Exit code: that of the run.
    """
