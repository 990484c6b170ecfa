"""`loom check`: errors, warnings and notices about the workflow and the configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec.structs import replace

from loom.commands.plan.contexts import resolve_context
from loom.commands.project import CheckoutRoot, Project, checkout, find_root, open_project, trusting, workflow_path
from loom.config import AUTO_SHELL, CODE
from loom.errors import Problem, WorkflowError
from loom.plan.model import Job, ResolveContext, Secret
from loom.plan.resolve import rehearse
from loom.plan.tracing import Trace, traces
from loom.render.output import print_json
from loom.render.problems import check_document, github_lines, problem_lines
from loom.status import ExitCode
from loom.util import typed
from loom.util.budget import LOOKING_S, limited
from loom.util.paths import name_from
from loom.util.units import counted
from loom.util.yaml_file import Node, YamlFile, items_of, problem_in_text
from loom.workflow.dialects import examine, refuse_inputs
from loom.workflow.languages import GITHUB
from loom.workflow.loaded import Entry, Loaded
from loom.workflow.native import lint
from loom.workflow.native.lint import warnings
from loom.workflow.native.loader import Workflow
from loom.workflow.predefined import KNOWN_TO_PLANS

if TYPE_CHECKING:
    from loom.workflow.github.workflows import Workflows

MAX_SHOWN = 200
_AT_ONCE = 100
_READ_ALL = """
for file in "$1"/*[0-9]; do
  "$2" ${3:+-O "$3"} -n "$file" 2>"$file.err"
done
"""
_EXPRESSION = re.compile(r"\$\{\{(?:'[^']*'|[^'])*?\}\}")


@limited(LOOKING_S)
def check(workflow: Path | None, form: str, *, inputs: list[str] | None, strict: bool) -> int:
    root = find_root(Path.cwd())
    path = workflow_path(root, workflow, Path.cwd())
    project: Project | None = None
    problems: list[Problem] = []
    try:
        project = open_project()
    except WorkflowError as error:  # a run would refuse it too
        problems += error.problems
    facts = partial(resolve_context, project, path, inputs=inputs or ()) if project is not None else ResolveContext
    refuse_inputs(inputs or (), path, root)
    examined = examine(path, root, facts)
    loaded = examined.workflow
    jobs: Sequence[tuple[Entry, Job]] = ()
    problems += examined.problems
    if loaded is not None:
        repositories = cache(lambda: facts().repositories())
        planned, jobs = rehearse(loaded, project.config if project is not None else None, repositories)
        problems += planned
        problems += _secrets(loaded, jobs)
        problems += _syntax(jobs, "error" if isinstance(loaded, Workflow) else "warning")
    if loaded is not None and not examined.problems:  # nothing is known about parts related to an invalid one
        problems += warnings(loaded, predefined=KNOWN_TO_PLANS)
        if loaded.language == GITHUB.name:
            problems += _actionlint(loaded.files, root)
            if inputs:
                from loom.plan.github.resolve import problems_of_inputs  # of one language

                problems += problems_of_inputs(cast("Workflows", loaded), facts().inputs)
    problems += _unmerged(root)
    if project is not None:
        problems += _notices(loaded, [job for _, job in jobs], project)
    problems = examined.sort(problems)
    sound = loaded if not examined.problems else None
    _show(form, loaded.path if loaded is not None else name_from(root, path), problems, sound, [job for _, job in jobs])
    if any(problem.severity == "error" for problem in problems):
        return ExitCode.REQUEST
    doubts = any(problem.severity == "warning" for problem in problems)
    return ExitCode.JOB_FAILED if strict and doubts else ExitCode.OK


def _unmerged(root: Path) -> Iterator[Problem]:
    """List the files in conflict, with which a run is refused."""
    from loom.snapshot import readable  # late, for the start of loom
    from loom.snapshot.git import unmerged
    from loom.snapshot.source import UNMERGED

    for path in unmerged(checkout.git(CheckoutRoot(root=root, environ=os.environ), *UNMERGED) or b"")[:MAX_SHOWN]:
        why = "in conflict, which git would not commit: `loom run` refuses it without --allow-unmerged"
        yield Problem(
            file=readable(path), line=1, column=1, pointer="/", message=why, code="UNMERGED", severity="warning"
        )


def _notices(loaded: Loaded | None, jobs: Sequence[Job], project: Project) -> Iterator[Problem]:
    """List what a run asks the user to allow, and the settings of the project that do not count."""
    requests = trusting.requests_of(jobs, project, None if loaded is None else lambda: loaded)
    if requests:
        trust = trusting.decisions_of(project)
        for request in requests:
            state = "you have allowed it" if trust.allows(request) else "a run asks you first; so does `loom trust`"
            yield _notice(request.position, f"{request} ({state})", trusting.CODE)
    for overruled in project.config.overruled:
        yield _notice(overruled.position, str(overruled).partition(": ")[2], "CONFIG_OVERRULED")


def _notice(position: str, message: str, code: str) -> Problem:
    file, line, column = position.rsplit(":", 2)
    return Problem(
        file=file, line=int(line), column=int(column), pointer="/", message=message, code=code, severity="notice"
    )


def _syntax(jobs: Iterable[tuple[Entry, Job]], severity: str) -> Iterator[Problem]:
    """Check steps' syntax with this machine's shells; report inherited steps once.

    A file of another CI system may have jobs for other shells, such as PowerShell: there, it is no error.
    """
    steps = {
        (id(node), *shell): (node, shell)
        for entry, job in jobs
        if not job.refused
        for node, shell in _scripts(entry, job)
    }
    written = list(steps.values())

    def as_word(expression: re.Match[str]) -> str:  # with the same number of lines; a run inserts the value
        return "x" + "\n" * expression[0].count("\n")

    texts = [(shell, _EXPRESSION.sub(as_word, node.text)) for node, shell in written]
    for position, line, message in _syntax_errors(texts):
        node, _ = written[position]
        yield problem_in_text(node, message, number=line, found="", code="WF_SHELL_SYNTAX", severity=severity)


def _syntax_errors(scripts: Iterable[tuple[Sequence[str], str]]) -> Iterator[tuple[int, int, str]]:
    """Check each `(shell, script)` with the shell itself; yield positions, lines and errors. Skip shells that are not here."""
    by_shell: dict[str, dict[int, str]] = {}
    for position, (shell, script) in enumerate(scripts):
        name = "bash" if tuple(shell) == AUTO_SHELL else shell[0].rpartition("/")[2]
        if name in ("bash", "sh", "dash", "ash") and shutil.which(name):
            by_shell.setdefault(name, {})[position] = script
    for name, texts in by_shell.items():
        yield from _read_by(name, texts)


def _read_by(name: str, texts: dict[int, str]) -> Iterator[tuple[int, int, str]]:
    """Yield the errors in `texts`. Check many with one process, and each by itself only if one is invalid: processes are slow."""
    positions = list(texts)
    groups = [positions[start : start + _AT_ONCE] for start in range(0, len(positions), _AT_ONCE)]
    joined = ["".join(f"{{ :\n{texts[position]}\n}}\n" for position in group) for group in groups]
    suspects = [
        position for group, output in zip(groups, _errors_by(name, joined), strict=True) if output for position in group
    ]
    for position, output in zip(suspects, _errors_by(name, [texts[position] for position in suspects]), strict=True):
        if match := re.match(r"\S*/\d+: (?:line )?(\d+): (.*)", output):
            yield position, int(match[1]), f"{name} can't read it: {match[2]}"


def _errors_by(name: str, scripts: Sequence[str]) -> list[str]:
    if not scripts:
        return []
    with tempfile.TemporaryDirectory(prefix="loom-check-") as folder:
        for number, text in enumerate(scripts):
            (Path(folder) / str(number)).write_bytes(text.encode("utf-8", "surrogateescape") + b"\n")
        # A script enables extended globs before it uses them, which -n does not see.
        option = "extglob" if name == "bash" else ""
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        command = ("sh", "-c", _READ_ALL, "sh", folder, name, option)
        subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=False, timeout=60)
        return [(Path(folder) / f"{number}.err").read_text("utf-8", "replace") for number in range(len(scripts))]


def _scripts(entry: Entry, job: Job) -> Iterator[tuple[Node, Sequence[str]]]:
    """Yield the scripts of a job's own file that are a step, each with its shell."""
    whole = {step.script for step in job.steps}
    for _, node in lint.scripts_of([entry]):
        if node.text in whole:
            yield node, job.shell
    runs = (step for step in job.steps if step.kind == "run" and not step.scope)
    written = items_of(entry.merged, "steps")
    scripts = [script for step in written if (script := step.get("run")) is not None]
    for step, script in zip(runs, scripts, strict=False):
        yield script, (step.shell or "bash",)


def _secrets(loaded: Loaded, jobs: Iterable[tuple[Entry, Job]]) -> list[Problem]:
    """Find references and traces that a job with secrets refuses at its start."""
    found: dict[Problem, None] = {}
    for entry, job in jobs:
        if not job.all_secrets:
            continue

        from loom.secrets.lookup import check_reference  # 20 ms, for jobs with secrets alone

        own: list[tuple[tuple[str | int, ...], Secret]] = [(("secrets", one.name), one) for one in job.secrets]
        services = enumerate(job.services)
        own += [(("services", at, "secrets", one.name), one) for at, service in services for one in service.secrets]
        for path, secret in own:
            wrong = check_reference(secret.ref)
            if wrong is not None:
                node = entry.merged.find(*path) or entry.key
                problem = node.file.problem(node.get("ref") or node, wrong, code="SECRETS_REF_INVALID")
                found[replace(problem, source_line=None)] = None  # the text may be the secret itself
        for trace in traces(job):
            found[_traced(loaded, entry, job, trace)] = None
    return list(found)


def _traced(loaded: Loaded, entry: Entry, job: Job, trace: Trace) -> Problem:
    """Point at the exact line, if the value's lines correspond to the file's."""
    names = ", ".join(sorted(secret.name for secret in job.secrets))
    message = f"{trace.line!r} prints every command, and {entry.name} has secrets ({names}), parts of which could show"
    message += "; take it out, or move what needs the secrets to a job without it"
    node: Node | None = entry.merged
    for part in trace.key:
        if node is not None and not node.is_scalar:  # `script` may be one text
            node = node.get(part)
    if node is None and trace.key[0] == "variables":
        node = loaded.variable_nodes.get(str(trace.key[1]))
    return problem_in_text(
        node or entry.key,
        message,
        number=trace.number,
        found=trace.line,
        code="SECRETS_UNSAFE_DEBUG_TRACE",
        severity="error",
    )


def _show(form: str, name: str, problems: Sequence[Problem], loaded: Loaded | None, jobs: Sequence[Job]) -> None:
    """`loaded`: the workflow, if it is valid."""
    used = {job.stage for job in jobs}
    stages = [stage for stage in loaded.stages if stage in used] if loaded is not None else []
    files = [file.name for file in loaded.files] if loaded is not None else []
    number = len(loaded.jobs) if loaded is not None else 0
    if form == "json":
        facts = {"files": files, "jobs": number, "stages": stages}
        print_json(check_document(name, problems, facts=facts))
    elif form == "github":
        for line in github_lines(problems):
            print(line)
    else:
        for line in problem_lines(problems[:MAX_SHOWN]):
            print(line)
        if len(problems) > MAX_SHOWN:
            print(f"... and {len(problems) - MAX_SHOWN} more; --format json has all of them")
        size = f"{counted(number, 'job')} in {counted(len(stages), 'stage')}" if loaded is not None else ""
        print("\n".join(_verdicts(name, problems, size)))


def _verdicts(name: str, problems: Sequence[Problem], size: str) -> Iterator[str]:
    """Summarise problems: one line for the workflow and its includes, and one per invalid configuration file."""
    number = Counter(problem.severity for problem in problems if problem.code != CODE)
    ok = [f"ok, {size}"] if size and not number["error"] else []
    found = [counted(number[severity], severity) for severity in ("error", "warning", "notice") if number[severity]]
    yield f"{name}: {', '.join((*ok, *found))}"
    for file, errors in Counter(problem.file for problem in problems if problem.code == CODE).items():
        yield f"{file}: {counted(errors, 'error')}"


class _Said(msgspec.Struct):
    message: str
    filepath: str
    line: int
    column: int
    kind: str


def _actionlint(files: Iterable[YamlFile], root: Path) -> Iterator[Problem]:
    """Yield actionlint's problems, if it is installed; loom's own checks don't repeat its advice."""
    program = shutil.which("actionlint", path=os.environ.get("PATH", os.defpath))
    known = {file.name: file for file in files if file.name.startswith(".github/")}
    if program is None or not known:
        return
    try:
        command = [program, "-no-color", "-format", "{{json .}}", *known]
        ran = subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60.0
        )
        found = typed.decode(ran.stdout or b"[]", list[_Said])
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError):
        return
    for said in found:
        if (file := known.get(said.filepath)) is not None:
            yield Problem(
                file=file.name,
                line=said.line,
                column=said.column,
                pointer="/",
                message=f"{said.message} [{said.kind}]",
                code="GH_ACTIONLINT",
                severity="warning",
                source_line=file.line(said.line),
                length=1,
            )
