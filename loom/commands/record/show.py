"""`loom show` and `diff`: a run as it was on the screen; two compared."""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from loom.analysis.diff import diff_of
from loom.analysis.evidence import recorded_diagnosis
from loom.analysis.printed import document_of
from loom.commands.project import is_bundle, open_project
from loom.commands.screen import screen_parts
from loom.record.reader import replay
from loom.record.store import UNFINISHED
from loom.render.output import print_json, print_kind
from loom.render.records import diff_lines, unfinished_lines
from loom.render.screen import Screen, closing_lines, diagnosis_lines


def show(run: str, *, stream: bool, quiet: bool, verbose: bool, as_json: bool, color: str | None) -> None:
    project = open_project({"color": color})
    reading = project.find(run)
    if as_json:
        print_kind("show", document_of(reading))
        return
    look, write = screen_parts(project.config.color, quiet=quiet, verbose=verbose, stream=stream)
    replay(reading, Screen(look, write), every_line=stream)
    if reading.state in UNFINISHED:
        command = reading.receipt().command
        write(*unfinished_lines(reading.state, command, reading.last_sign(), reading.running_units(), look))
    elif is_bundle(run):  # its files are there for this command alone
        found = recorded_diagnosis(reading)
        write(*diagnosis_lines(found and replace(found, reproduce=f"loom replay {shlex.quote(run)}"), look))
    else:
        fold = reading.fold
        write(*closing_lines(reading.state, reading.paths.receipt, recorded_diagnosis(reading), fold.kept, look))


def diff(run_a: str, run_b: str, *, as_json: bool, color: str | None) -> None:
    project = open_project({"color": color})
    found = diff_of(project.find(run_a), project.find(run_b))
    if as_json:
        print_json(found)
        return
    look, write = screen_parts(project.config.color)
    write(*diff_lines(found, look))
