"""`loom import`: another system's workflow in loom's own language."""

from __future__ import annotations

import sys
from pathlib import Path

from loom.commands import project
from loom.commands.run import checkout, planning
from loom.errors import RequestError
from loom.status import ExitCode
from loom.util.paths import name_from
from loom.workflow import Workflow
from loom.workflow.gitlab.translation import translated


def import_(workflow: Path | None, inputs: list[str] | None) -> int:
    """`loom import`."""
    here = project.here()
    path = project.workflow_path(here.root, workflow, here.start, among=reversed(project.WORKFLOWS))
    context = checkout.resolve_context(here, path, inputs=inputs or ())
    loaded = planning.load(here, path, lambda: context)
    if isinstance(loaded, Workflow):
        raise RequestError(
            f"{name_from(here.root, path)} is in loom's own language already",
            hint="name a .gitlab-ci.yml with --workflow",
        )
    sys.stdout.write(translated(loaded))
    return ExitCode.OK
