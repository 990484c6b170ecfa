"""Turn `.github/workflows/*.yml` into checked `Workflows`: parse, shapes, jobs, steps, needs, expressions.

All errors are reported at once, each at its position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec.structs import replace

from loom.errors import Problem, RequestError, reason_of
from loom.util import yaml_file
from loom.util.paths import name_from
from loom.util.yaml_file import Kind, Node, YamlFile, fields_of, items_of, one_or_more, text_of
from loom.workflow import needs
from loom.workflow.facts import Facts
from loom.workflow.github import events, yaml
from loom.workflow.github.shapes import JOB_TABLE, ROOT_TABLE, GitHubShapes, check_expressions
from loom.workflow.github.workflows import CALL, Entry, FaultyFile, WorkflowFile, Workflows, calls_of, local_path
from loom.workflow.loaded import LoadOutcome, content_of
from loom.workflow.messages import sort_problems
from loom.workflow.needs import Needing, WantedNeed

SUFFIXES = (".yml", ".yaml")
_ID = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_-]{0,99}")
_NOT_FIRST = "no digit, - or __ first"
_REMOTE = re.compile(r"[\w.-]+/[\w.-]+(/[^@\s]+)?@\S+")
REMOTE_CALL = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w.-]+)/(?P<path>[^@]+\.ya?ml)@(?P<ref>\S+)")


def examine(path: Path, root: Path, facts: Callable[[], Facts]) -> LoadOutcome:
    """Implement `dialects.Loader`; of a directory, all files in it."""
    reading = WorkflowReader()
    paths = _files(path, root)
    for one in paths:
        reading.read(name_from(root, one), content_of(one, root))
    own = [reading.found[name] for name in (name_from(root, one) for one in paths) if name in reading.found]
    waiting = list(own)
    while waiting:
        for written, node in calls_of(waiting.pop()):
            if (called := reading.called(written, node, root)) is not None:
                waiting.append(called)
    shown = [one for one in own if not one.only_called] or own
    entries = {}
    for file in shown:
        for job, node in file.jobs.items():
            name = f"{file.label} / {job}" if len(shown) > 1 else job
            entries[name] = Entry(name=name, key=file.key_of(job), node=node, merged=node, file=file, job=job)
    ranks = {file.name: number for number, file in enumerate(reading.files)}
    workflows = None
    if reading.found:
        workflows = Workflows(
            path=name_from(root, path),
            files=tuple(reading.files),
            stages=tuple(dict.fromkeys(file.label for file in shown)),
            entries=entries,
            variable_nodes={},
            notices=tuple(reading.problems.notices.values()),
            directory=root,
            workflows=tuple(shown),
            called=reading.found,
        )
    of_files = (problem for file in reading.files for problem in file.problems)
    found = tuple(sort_problems([*of_files, *reading.problems.found], ranks))
    rest = None
    if found and workflows is not None and path.is_dir():
        rest = _drop_faulty(workflows, [name_from(root, one) for one in paths], found)
    return LoadOutcome(workflow=workflows, problems=found, ranks=ranks, rest=rest)


def _drop_faulty(all_files: Workflows, names: Iterable[str], problems: Iterable[Problem]) -> Workflows | None:
    """Return the workflows without the files that have problems themselves or call one that has; None if none is left."""
    faulty: list[FaultyFile] = []
    for name in names:
        file = all_files.called.get(name)
        reached, waiting = {name}, [file] if file is not None else []
        while waiting:
            new = {path for written, _ in calls_of(waiting.pop()) if (path := local_path(written))} - reached
            reached |= new
            waiting += [all_files.called[path] for path in new if path in all_files.called]
        own = tuple(problem for problem in problems if problem.file in reached)
        is_shown = file is None or file in all_files.workflows
        if own and is_shown:
            known = None if any(one.file == name and one.pointer.startswith("/on") for one in own) else file
            label = name.rpartition("/")[2].rpartition(".")[0] if file is None else file.label
            faulty.append(FaultyFile(label=label, problems=own, file=known))
    wrong = {one.label for one in faulty}
    sound = tuple(file for file in all_files.workflows if file.label not in wrong)
    entries = {name: entry for name, entry in all_files.entries.items() if entry.file in sound}
    rest = replace(all_files, workflows=sound, entries=entries, faulty=tuple(faulty))
    return rest if sound else None


def _files(path: Path, root: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
    if not found:
        raise RequestError(
            f"{name_from(root, path)} has no workflow file: none that ends in .yml or .yaml", code="WF_NOT_FOUND"
        )
    return found


class WorkflowReader:
    def __init__(self) -> None:
        self.files: list[YamlFile] = []
        self.found: dict[str, WorkflowFile] = {}
        """The readable ones by their names."""
        self.problems = GitHubShapes()

    def read(self, name: str, data: bytes) -> None:
        file = yaml.parse(data, name)
        self.files.append(file)
        if file.root is None:
            if not file.problems:
                file.problems.append(file.problem(None, "the file is empty", code=yaml.CODE))
        elif not file.root.is_mapping:
            self.problems.say(file.root, "expected a mapping with `on` and `jobs`")
        elif not file.problems:
            whole = name.partition("@")[0].rpartition("/")[2]
            label = whole.rpartition(".")[0]
            if any(one.label == label for one in self.found.values()):
                label = whole
            self.found[name] = self._checked(name, label, file.root)

    def sound(self, name: str) -> WorkflowFile | str:
        """Return a file that was read, or the first of its problems."""
        problems = [*(one for file in self.files for one in file.problems), *self.problems.found]
        return str(problems[0]) if problems else self.found[name]

    def called(self, written: str, node: Node, root: Path) -> WorkflowFile | None:
        """Read a workflow that a job calls, if it is a file of this project that is not read yet."""
        name = local_path(written)
        if not name or any(file.name == name for file in self.files):
            return None
        try:
            self.read(name, yaml_file.read_bytes(root / name, within=root))
        except OSError as error:
            self.problems.say(node, f"uses: {name} can't be read: {reason_of(error)}")
        return self.found.get(name)

    def _checked(self, name: str, label: str, whole: Node) -> WorkflowFile:
        root, jobs, written = self.problems.fields(whole, "", ROOT_TABLE), {}, whole.get("jobs")
        for job, node in fields_of(written).items():
            key = written.keys.get(job, node) if written is not None else node
            if not _ID.fullmatch(job):
                why = f"{job}: a job's id has letters, digits, - and _; {_NOT_FIRST}"
                self.problems.say(key, why)
            elif node.is_mapping:
                jobs[job] = self._job(job, node, key)
            elif node.kind is not Kind.REFUSED:
                why = f"{job}: expected a job, a mapping with `runs-on` and `steps`"
                self.problems.say(key, why)
        # Events without filters are empty, which shapes leave out.
        on = whole.get("on")
        if on is not None and on.is_mapping and (checked := root.get("on")) is not None:
            checked.value = {key: checked.value.get(key, node) for key, node in on.value.items()}
        file = WorkflowFile(path=name, root=root, jobs=jobs, label=label)
        events.check(file, self.problems)
        self._check_needs(jobs, written)
        check_expressions(root, self.problems, of_job=False)
        return file

    def _job(self, name: str, node: Node, key: Node) -> Node:
        if (steps := node.get("steps")) is not None and steps.is_list:
            node = node.having({**node.value, "steps": steps.having([*_flat_steps(steps)])})
        job: Node = self.problems.fields(node, "", JOB_TABLE)
        check_expressions(job, self.problems, of_job=True)
        if (uses := node.get("uses")) is not None:
            self._check_call(job, node, uses)
        else:
            for wanted in ("runs-on", "steps"):
                if (found := node.get(wanted)) is None:
                    self.problems.say(key, f"{name}: `{wanted}` is missing")
                elif not found.value and job.get(wanted) is not None:  # else its form is refused
                    self.problems.say(key, f"{name}: `{wanted}` is empty")
            for extra in ("with", "secrets"):
                if extra in node.value:
                    self.problems.say(node.keys[extra], f"`{extra}` is for a job with `uses`; this one has steps")
        self._check_steps(job)
        self._check_matrix(node.find("strategy", "matrix"))
        return job

    def _check_call(self, job: Node, node: Node, uses: Node) -> None:
        written = text_of(uses)
        if not local_path(written) and not REMOTE_CALL.fullmatch(written):
            why = "expected ./.github/workflows/FILE.yml or owner/repository/.github/workflows/FILE.yml@ref"
            self.problems.say(uses, f"uses: {why}, found {written}")
        for extra in sorted(node.value.keys() - _OF_CALL):
            if job.get(extra) is not None:
                self.problems.say(node.keys[extra], f"`{extra}` can't stand in a job with `uses`")

    def _check_steps(self, job: Node) -> None:
        seen: dict[str, int] = {}
        for number, step in enumerate(items_of(job, "steps")):
            kinds = [key for key in ("run", "uses") if step.get(key) is not None]
            if not kinds and any(key in step.keys for key in _CONTROLS):
                continue
            if len(kinds) != 1:
                why = "has both `run` and `uses`; make two steps" if kinds else "has neither `run` nor `uses`"
                self.problems.say(step, f"the step {why}")
            elif kinds == ["uses"]:
                self._check_uses(step.value["uses"])
            for extra, kind in (("shell", "run"), ("working-directory", "run"), ("with", "uses")):
                if kinds and kind not in kinds and (node := step.get(extra)) is not None:
                    self.problems.say(node, f"`{extra}` is for a step with `{kind}`")
            if (node := step.get("id")) is not None:
                step_id = text_of(node)
                if not _ID.fullmatch(step_id):
                    self.problems.say(node, f"id: {step_id}: letters, digits, - and _; {_NOT_FIRST}")
                elif (first := seen.setdefault(step_id.lower(), number)) != number:
                    self.problems.say(node, f"id: {step_id} is a duplicate (of step {first + 1})")

    def _check_uses(self, node: Node) -> None:
        written = text_of(node)
        if not (written.startswith(("./", "$/", "docker://")) or _REMOTE.fullmatch(written)):
            why = "expected owner/repository@ref, ./DIRECTORY or docker://IMAGE"
            self.problems.say(node, f"uses: {why}, found {written}")

    def _check_matrix(self, matrix: Node | None) -> None:
        if matrix is not None and matrix.is_mapping and not matrix.value:
            self.problems.say(matrix, "matrix: it is empty, which GitHub refuses; give it a name with a list of values")
        for name, node in fields_of(matrix).items():
            if name not in ("include", "exclude") and not node.is_list and "${{" not in text_of(node):
                self.problems.say(node, f"matrix: {name}: expected a list of values")
            elif node.is_list and not node.value and name not in ("include", "exclude"):
                self.problems.say(node, f"matrix: {name}: the list is empty; give it a value")

    def _check_needs(self, jobs: Mapping[str, Node], written: Node | None) -> None:
        keys = written.keys if written is not None else {}
        needing = {
            name: Needing(stage="", key=keys.get(name, node), node=node, needs=list(self._needs_of(node)))
            for name, node in jobs.items()
        }
        needs.check(needing, [""], self.problems)

    def _needs_of(self, node: Node) -> Iterator[WantedNeed]:
        for need in one_or_more(node, "needs"):
            yield WantedNeed(job=text_of(need), node=need)


def _flat_steps(steps: Node) -> Iterator[Node]:
    """Yield steps, and those of `parallel` one after the other."""
    for step in steps.value:
        several = step.get("parallel")
        if several is not None and several.is_list and len(step.value) == 1:
            yield from _flat_steps(several)
        else:
            yield step


_CONTROLS = ("wait", "wait-all", "cancel")
_OF_CALL = frozenset({"name", "uses", "with", "secrets", "needs", "if", "permissions", "strategy", "concurrency"})
__all__ = ["CALL", "WorkflowReader", "examine"]
