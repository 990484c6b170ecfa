"""Run small workflows of which GitHub's documentation decides the outcome, and print a table.

    python tests/github/outcomes.py [NAME...]             on this machine
    python tests/github/outcomes.py --container [NAME...] in containers

A case is a file with two documents: what is expected (`jobs`: results by job, `?` for one that may fail; without it, success of the
job `a`; `output`: the lines of all steps of a job, or of `a`; `files` beside it; `event`; `says`: the rule), then the workflow: a whole one, the
`jobs` of a push (on ubuntu-latest, where one doesn't tell), or the `steps` of its job `a`. All cases of an event are the files of one repository and run as one run.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import indent
from types import MappingProxyType
from typing import Any

import yaml
from msgspec import Struct

sys.path.insert(0, str(Path(__file__).parents[2]))

from loom.record.event_files import read_events
from loom.record.events import OutputEvent
from loom.record.reader import Reading
from loom.record.store import Store
from tests.support.loom_process import run_loom

CASES = Path(__file__).parent / "cases"
_SAID = ("Error: ", "The template is not valid. ")
"""What loom itself prints on a step's standard error, as GitHub does."""
_JOB = re.compile(r"^(  [\w-]+:\n)((?:    .*\n|\n)+)", re.MULTILINE)
"""A job in lines of its own, or another part of a workflow that looks like one."""


class Case(Struct, frozen=True, kw_only=True):
    name: str
    says: str
    jobs: Mapping[str, str] = MappingProxyType({"a": "success"})
    output: Mapping[str, list[str]]
    workflow: str
    event: str = "push"
    files: Mapping[str, str] = {}


def cases(names: Iterable[str] = ()) -> list[Case]:
    wanted = set(names)
    found = []
    for path in sorted(CASES.glob("*.yml")):
        if not wanted or path.stem in wanted:
            expected, workflow = path.read_text().split("\n---\n", 1)
            if workflow.startswith("steps:"):
                workflow = "jobs:\n  a:\n    runs-on: ubuntu-latest\n" + indent(workflow, "    ")
            if workflow.startswith("jobs:"):
                workflow = f"on: push\n{workflow}"
            told = yaml.safe_load(expected)
            if isinstance(told["output"], list):
                told["output"] = {"a": told["output"]}
            found.append(Case(name=path.stem, workflow=_JOB.sub(_with_label, workflow), **told))
    return found


def _with_label(job: re.Match[str]) -> str:
    runs = re.search(r"^    steps:", job[2], re.MULTILINE) and not re.search(r"^    runs-on:", job[2], re.MULTILINE)
    return f"{job[1]}    runs-on: ubuntu-latest\n{job[2]}" if runs else job[0]


def run(all_cases: Iterable[Case], folder: Path, *options: str, environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Run the cases; return by name how each differs from what is expected."""
    by_event: dict[str, list[Case]] = {}
    for case in all_cases:
        by_event.setdefault(case.event, []).append(case)
    found: dict[str, list[str]] = {}
    for event, several in by_event.items():
        found |= _run(several, folder / event, "--event", event, *options, environ=environ)
    return found


def _run(several: list[Case], folder: Path, *options: str, environ: Mapping[str, str]) -> dict[str, list[str]]:
    root = folder / "project"
    for case in several:
        for name, text in {f".github/workflows/{case.name}.yml": case.workflow, **case.files}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q", "-b", "main", "."], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    own = {"HOME": str(folder), "LOOM_STATE_DIR": str(folder / "state"), "LOOM_CACHE_DIR": str(folder / "cache")}
    ran = run_loom(("run", *options), cwd=root, environ={**environ, **own}, timeout=600)
    if ran.returncode not in (0, 1, 4):
        return {
            case.name: [f"loom ended with {ran.returncode}: {(ran.stdout + ran.stderr)[-2000:]}"] for case in several
        }
    reading = Reading(Store(folder / "state").find("last", repo_root=root))
    jobs = {
        job.id: f"{'error' if job.status is None else job.status.value}{'?' if job.allowed_failure else ''}"
        for job in reading.fold.jobs.values()
    }
    names = sorted((case.name for case in several), key=len, reverse=True)
    owners = {job_id: next((name for name in names if job_id.startswith(f"{name}.")), "") for job_id in jobs}
    if len(several) == 1:
        owners = dict.fromkeys(jobs, several[0].name)
    return {case.name: _differences(case, reading, jobs, owners) for case in several}


def _differences(case: Case, reading: Reading, jobs: Mapping[str, str], owners: Mapping[str, str]) -> list[str]:
    own = {
        job_id.removeprefix(f"{case.name}."): status for job_id, status in jobs.items() if owners[job_id] == case.name
    }
    found = [] if own == case.jobs else [f"jobs: {own}, not {dict(case.jobs)}"]
    ids = {job_id.removeprefix(f"{case.name}."): job_id for job_id in jobs if owners[job_id] == case.name}
    for job, lines in case.output.items():
        said = _lines(reading, ids[job]) if job in ids else None
        if said != [str(line) for line in lines]:
            found.append(f"output of {job}: {said}, not {lines}")
    return found


def _lines(reading: Reading, job_id: str) -> list[str]:
    files = [unit.events for unit in reading.units(job_id) if unit.step and unit.events.exists()]
    events = [event for file in files for event in read_events(file) if isinstance(event, OutputEvent)]
    return [event.text for event in events if event.stream == "stdout" or event.text.startswith(_SAID)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--container", action="store_true", help="in containers, as a run does")
    parser.add_argument("--keep", type=Path, help="a new folder for the repositories and records")
    given = parser.parse_args()
    environ: dict[str, Any] = {**os.environ, "LOOM_CONTAINER": "1" if given.container else "0"}
    several = cases(given.names)
    with tempfile.TemporaryDirectory() as temporary:
        differences = run(several, given.keep or Path(temporary), environ=environ)
    width = max(len(case.name) for case in several)
    for case in several:
        print(f"{'ok' if not differences[case.name] else 'DIFFERS':8}{case.name:{width}}  {case.says}")
        for line in differences[case.name]:
            print(f"        {line}")
    bad = sum(bool(found) for found in differences.values())
    print(f"{len(several) - bad} of {len(several)} as documented")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
