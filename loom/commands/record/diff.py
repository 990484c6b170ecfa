"""`loom diff`: two runs, compared."""

from __future__ import annotations

from loom.analysis.diff import diff_of
from loom.commands.project import here
from loom.commands.screen import screen_parts
from loom.render.diff import diff_lines
from loom.render.output import print_json


def diff(run_a: str, run_b: str, *, as_json: bool, color: str | None) -> None:
    """`loom diff`."""
    project = here({"color": color})
    found = diff_of(project.find(run_a), project.find(run_b))
    if as_json:
        print_json(found)
        return
    look, write = screen_parts(project.config.color)
    for line in diff_lines(found, look):
        write(line)
