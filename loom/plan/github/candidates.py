"""The possible jobs of workflows: combinations of matrices, jobs of called workflows, what the event decides, what they need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from loom.errors import Problem, RequestError, reason_of
from loom.plan import model as p
from loom.plan.candidates import DEPLOYS, Candidate, Withheld
from loom.plan.github import matrix
from loom.plan.github.events import event_of
from loom.plan.github.labels import refused
from loom.plan.github.texts import LATE, Texts, as_written, literal, node_of
from loom.plan.github.unknown import unknown_in
from loom.plan.late import WITHOUT_MATRIX
from loom.util.budget import spend
from loom.util.toposort import CycleError, order
from loom.util.units import meant
from loom.util.yaml_file import Node, fields_of, items_of, node_at, one_or_more, read_bytes, text_of
from loom.workflow.changes import event_changes
from loom.workflow.github import events, expressions, yaml
from loom.workflow.github.expressions import truth
from loom.workflow.github.loader import REMOTE_CALL, WorkflowReader
from loom.workflow.github.workflows import CALL, Entry, WorkflowFile, Workflows, local_path
from loom.workflow.job_ids import id_part, unique_id
from loom.workflow.messages import Problems
from loom.workflow.messages import refused as refused_for
from loom.workflow.needs import WantedNeed
from loom.workflow.parser import InvalidExpression
from loom.workflow.rules import RuleDecision, decision
from loom.workflow.sources import NotFetched, Unreachable

MOST_LEVELS = 10
"""Workflows that call each other, as on GitHub."""
IF_FALSE = "its `if` is false"
_LONGEST = 60
_READ = re.compile(r"\b((?:github|inputs|matrix)\.(?!token\b)[\w.-]+)(?![\w.(])")
TOKEN = "GITHUB_TOKEN"
"""The secret that GitHub gives each job; here, the user gives it."""


class WorkflowScope(Struct, kw_only=True):
    """One workflow in the run: a file that the event triggers, or a call of one."""

    file: WorkflowFile
    texts: Texts
    """With the contexts that all its jobs share."""
    prefix: str = ""
    """The prefix of its jobs' ids."""
    names: tuple[str, ...] = ()
    caller: GitHubCandidate | None = None
    """The job with `uses`, which is no job of the plan."""
    repository: tuple[str, str] | None = None
    """The repository of the file and its ref, if it is not this project."""
    inputs: Mapping[str, Any] = {}
    """The inputs that the caller gives; texts may have expressions of its scope."""
    above: tuple[GitHubCandidate, ...] = ()
    secrets: Mapping[str, str] | None = None
    """Names in `secrets` with those of the user's; None: all."""
    literals: Mapping[str, str] = {}
    """The inputs that the caller writes without expressions."""
    jobs: dict[str, list[GitHubCandidate]] = {}
    """By the key in the file, all jobs that it stands for."""
    calls: dict[str, WorkflowScope] = {}
    """The last call of each job with `uses`."""


class GitHubCandidate(Candidate, kw_only=True):
    entry: Entry
    key: str
    node: Node
    scope: WorkflowScope
    texts: Texts
    """With its matrix."""
    labels: tuple[str, ...] | None = None
    """None: known when it starts."""
    strategy: Mapping[str, Any] = {}
    refusal: str = ""
    """Why the workflow that it calls can't be called here."""
    unreachable: bool = False
    """Whether that is because the server does not answer."""
    unknown: list[Node] = []
    group: str = ""
    shown: tuple[str, ...] = ()
    """More names that people may use for it; the first is that of GitHub's pages."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.id, self.name, *self.shown)))


class GitHubCandidates:
    """Everything that can be decided before jobs are chosen. `problems` are those of values."""

    def __init__(self, workflows: Workflows, context: p.ResolveContext, *, everything: bool = False) -> None:
        self.workflows = workflows
        self.context = context
        self.problems = Problems(code=yaml.CODE)
        self.of_values = Problems(code=yaml.CODE)
        """The problems of values, which another event may not have."""
        self.event = event_of(context)
        config = context.config
        self.known_labels = frozenset(label.lower() for label in (*config.images, *config.pools))
        """The labels of the user's configuration, in lower case."""
        self.everything = everything
        """Whether all files count as triggered, since no event is known."""
        self._taken: set[str] = set()
        self._fetched: dict[str, WorkflowFile | Exception] = {}
        """Workflows of other repositories, or why one can't be had."""
        self._missing: list[str] = []
        """The required inputs of the present file that nobody gives."""
        self._several = len(workflows.workflows) + len(workflows.faulty) > 1

    def all(self) -> list[GitHubCandidate]:
        """Return all jobs in plan order: by file, then after their needs, then in file order."""
        found: list[GitHubCandidate] = []
        for file in self.workflows.workflows:
            reason = "" if self.everything else self._skip_reason(file)
            known = len(self.of_values.found)
            scope = self._scope(file)
            if self._missing and not reason and not self.everything:
                reason = f"its input {self._missing[0]} is required: --input {self._missing[0]}=VALUE"
            for candidate in self._jobs(
                scope, {one.job: one for one in self.workflows.entries.values() if one.file is file}
            ):
                if reason:
                    candidate.decision = decision("never", reason=reason)
                found.append(candidate)
            if reason:  # which are no problems of this event
                del self.of_values.found[known:]
        return found

    def refuse_faulty(self, selection: p.JobSelection) -> dict[str, str]:
        """Refuse the mistakes of files that the run asks for (WorkflowError); return the others, with the reasons."""
        names = [*selection.jobs, *selection.stages, selection.from_job or ""]
        passed: dict[str, str] = {}
        wrong: list[Problem] = []
        for one in self.workflows.faulty:
            if not selection.everything and not one.is_asked_for(names):
                continue
            reason = self._skip_reason(one.file) if one.file is not None and selection.everything else ""
            if reason:
                passed[one.label] = f"{reason}; loom check tells its mistakes"
            else:
                wrong += one.problems
        if wrong:
            sound = self.workflows.workflows[0].path
            raise refused_for(
                list(dict.fromkeys(wrong)), f"a file without a mistake runs alone: loom run --workflow {sound}"
            )
        return passed

    def _skip_reason(self, file: WorkflowFile) -> str:
        if file.only_called:
            return ""
        happened = self.event.happened
        asks = events.asks_for_paths(file, happened.name)
        return events.skip_reason(file, happened, event_changes(self.context) if asks else None)

    def _scope(self, file: WorkflowFile) -> WorkflowScope:
        github = {
            **self.event.github,
            "workflow": file.name,
            "workflow_ref": f"{self.event.github['repository']}/{file.path}@{self.event.github['ref']}",
            "workflow_sha": self.event.github["sha"],
        }
        contexts: dict[str, Any] = {"github": github, "vars": {**self.context.config.github.vars, **self.context.given}}
        inputs = contexts["inputs"] = self._inputs(file, contexts)
        name, event = self.event.happened.name, self.event.github["event"]
        if name == events.DISPATCH:
            github["event"] = {**event, "inputs": {one: expressions.text_of(value) for one, value in inputs.items()}}
        elif name == "schedule" and "schedule" not in event:
            crons = [text_of(one, "cron") for one in items_of(file.events.get(name))]
            github["event"] = {**event, "schedule": crons[0] if crons else ""}
        return WorkflowScope(
            file=file,
            texts=Texts(contexts, self.of_values),
            prefix=f"{id_part(file.label)}." if self._several else "",
            names=(file.label,) if self._several else (),
        )

    def _inputs(self, file: WorkflowFile, contexts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `inputs` of a file that is not called: those of `workflow_dispatch`."""
        self._missing = []
        if self.event.happened.name != events.DISPATCH and not file.only_called:
            return {}
        found: dict[str, Any] = {}
        of_event = self.event.github["event"].get("inputs")
        given = {**(of_event if isinstance(of_event, Mapping) else {}), **self.context.inputs}
        for name, node in file.inputs(CALL if file.only_called else events.DISPATCH).items():
            default = node.get("default")
            value = Texts(contexts, self.of_values).value(default)
            text = str(given[name]) if name in given else expressions.text_of(value)
            if name not in given and default is None:
                if text_of(node, "required") == "true":
                    self._missing.append(name)
                found[name] = {"boolean": False, "number": 0.0}.get(text_of(node, "type"), "")
                continue
            try:
                found[name] = events.value_of(name, node, text)
            except ValueError as error:
                problems = self.problems if name in self.context.inputs else self.of_values
                problems.say(node, f"--input {error}")
        return found

    def check_inputs(self, file: WorkflowFile) -> None:
        """Report wrong and missing inputs among those that the user gives to a file."""
        self._scope(file)
        for name in self._missing:
            node = file.inputs(CALL if file.only_called else events.DISPATCH)[name]
            self.problems.say(node, f"{name} is required: --input {name}=VALUE")

    # -- the jobs of one workflow -------------------------------------------------------------------------------------

    def _jobs(self, scope: WorkflowScope, entries: Mapping[str, Entry], depth: int = 1) -> Iterator[GitHubCandidate]:
        """Yield the jobs of a workflow; `entries` are those of the file that leads to it, by its keys, or one for all."""
        needs = {key: [text_of(need) for need in one_or_more(node, "needs")] for key, node in scope.file.jobs.items()}
        try:
            keys = order(scope.file.jobs, needs)
        except CycleError:  # which the check of the file reports
            return
        for key in keys:
            node = scope.file.jobs[key]
            entry = entries.get(key) or entries.get("") or next(iter(entries.values()))
            above = [*scope.above, *(one for name in needs[key] for one in scope.jobs.get(name, ()))]
            scope.jobs[key] = []
            for instance in self._instances(scope, key, node, entry):
                instance.wanted = tuple(self._wanted(node, above))
                called = None if node.get("uses") is None else self._call(scope, instance, tuple(above), depth)
                if called is None:
                    scope.jobs[key].append(instance)
                    yield instance
                    continue
                for inner in self._jobs(called, {"": entry}, depth + 1):
                    if not instance.decision.runs:
                        inner.decision = instance.decision
                        inner.unknown_values = instance.unknown_values
                    scope.jobs[key].append(inner)
                    yield inner

    def _wanted(self, node: Node, above: Sequence[GitHubCandidate]) -> Iterator[WantedNeed]:
        """Return the needs that count: a need may be missing if its `if` is false, or other jobs of its matrix run here."""
        here = {one.name for one in above if one.held is None and one.decision.runs}
        here &= {one.name for one in above if one.held is not None or not one.decision.runs}
        for one in {one.name: one for one in above}.values():
            optional = one.decision.reason.startswith(IF_FALSE) or one.name in here
            yield WantedNeed(job=one.name, node=node.get("needs") or node, optional=optional)

    def _instances(self, scope: WorkflowScope, key: str, node: Node, entry: Entry) -> Iterator[GitHubCandidate]:
        """Yield a job: of one with a matrix each combination, of one whose matrix comes late the job once."""
        names = (*scope.names, key)
        group = f"{scope.prefix}{key}"
        texts = scope.texts.having(github={**scope.texts.contexts["github"], "job": key})
        strategy = node.get("strategy")
        whole = texts.value(strategy) if strategy is not None and strategy.is_scalar else None
        if strategy is not None and isinstance(whole, Mapping):
            strategy = node_of(whole, strategy)
        found = self._combinations(strategy, texts, self._decided(node, texts).runs)
        late = found is LATE
        several = found is not LATE and found is not None
        rows: Sequence[Any] = found if several else [None]
        fixed = {} if late or strategy is None else self._strategy(strategy, texts)
        for number, row in enumerate(rows):
            spend("jobs", node)
            own = texts
            part = group
            if row is not None:
                values = list(matrix.texts(row))
                part = f"{group}.{'-'.join(id_part(value, 32) for value in values) or number + 1}"[:128]
                settings = {**fixed, "job-index": float(number), "job-total": float(len(rows))}
                settings["max-parallel"] = settings["max-parallel"] or float(len(rows))
                own = texts.having(matrix=row, strategy=settings)
            elif not late:
                own = texts.having(matrix=None, strategy=WITHOUT_MATRIX)
            shown = self._shown(node, own, key, row)
            full = shown if scope.caller is None else f"{scope.caller.shown[0]} / {shown}"
            unknown = [strategy] if strategy is not None and strategy.is_scalar else []
            mine = own.written_out(node, unknown)
            yield GitHubCandidate(
                id=unique_id(part, self._taken) if node.get("uses") is None else part,
                name=" / ".join(names),
                shown=(full, shown, key, *((scope.prefix[:-1], scope.caller.key) if scope.caller is not None else ())),
                stage=entry.file.label,
                matrix={name: expressions.text_of(value) for name, value in (row or {}).items()},
                decision=self._decided(node, own),
                wanted=(),
                base_when=None,
                held=self._held(node, own),
                entry=entry,
                key=key,
                node=mine,
                unknown=unknown,
                unknown_values=self._unknown(node, own),
                scope=scope,
                texts=own,
                labels=self._labels(node, own),
                strategy=as_written(strategy) if late and strategy is not None else {},
                group=group if several or late else "",
                becomes_several=late,
            )

    def _combinations(self, strategy: Node | None, texts: Texts, runs: bool) -> Any:
        """Return the combinations, None without a matrix, LATE where results of other jobs decide.

        A job whose `if` is false counts as one job where its matrix is invalid.
        """
        node = node_at(strategy, "matrix")
        if node is None:
            return None
        value = texts.deep(node)
        if value is LATE:
            return LATE
        try:
            found = matrix.combinations(value)
        except InvalidExpression as error:
            if runs:
                self.of_values.say(node, str(error))
            return None
        return found

    def _strategy(self, strategy: Node, texts: Texts) -> dict[str, Any]:
        fail_fast, most = (texts.value(strategy.get(key)) for key in ("fail-fast", "max-parallel"))
        for key, value, kind in (("fail-fast", fail_fast, bool), ("max-parallel", most, float)):
            node = strategy.get(key)
            if node is not None and value is not LATE and not isinstance(value, kind) and not self.everything:
                why = f"{key}: unexpected value '{expressions.text_of(value)}'; fromJSON makes a value of a text"
                self.of_values.say(node, why)
        return {
            "fail-fast": True if fail_fast in (None, LATE) else truth(fail_fast),
            "max-parallel": most if isinstance(most, float) else 0.0,
        }

    def _shown(self, node: Node, texts: Texts, key: str, row: Mapping[str, Any] | None) -> str:
        written = text_of(node, "name")
        name = texts.text(node.get("name"))
        shown = written if name is LATE else str(name) or key
        if row and "matrix." not in written:
            shown += f" ({', '.join(matrix.texts(row))})"
        return shown

    def _decided(self, node: Node, texts: Texts) -> RuleDecision:
        """Decide an `if` that asks for nothing but the event."""
        if self.everything or texts.condition(node.get("if")) is not False:
            return decision("on_success")
        return decision("never", reason=f"{IF_FALSE}{_values_read(text_of(node, 'if'), texts.contexts)}")

    def _unknown(self, node: Node, texts: Texts) -> tuple[str, ...]:
        return () if self._decided(node, texts).runs else unknown_in(text_of(node, "if"), texts.contexts)

    def _labels(self, node: Node, texts: Texts) -> tuple[str, ...] | None:
        runs_on = node.get("runs-on")
        if node_at(runs_on, "group") is not None and node_at(runs_on, "labels") is None:
            return ("ubuntu-latest",)
        value = texts.deep(node_at(runs_on, "labels") or runs_on)
        if value is LATE:
            return None
        return tuple(expressions.text_of(one).lower() for one in (value if isinstance(value, list) else [value]) if one)

    def _held(self, node: Node, texts: Texts) -> Withheld | None:
        config = self.context.config
        found = refused(self._labels(node, texts) or (), self.known_labels)
        if found is not None:
            return Withheld(*found)
        return DEPLOYS if self.deploys(node, texts) and not config.deploy else None

    def deploys(self, node: Node, texts: Texts) -> bool:
        """Return whether a job is of an environment, also of one that only a later value names."""
        environment = node.get("environment")
        name = node_at(environment, "name") or environment
        return name is not None and (text_of(name) if self.everything else texts.text(name)) != ""

    # -- calls --------------------------------------------------------------------------------------------------------

    def _call(
        self, scope: WorkflowScope, job: GitHubCandidate, above: tuple[GitHubCandidate, ...], depth: int
    ) -> WorkflowScope | None:
        """Return the scope of a called workflow; None where the file is not there, which is reported."""
        uses = job.node.value["uses"]
        written = text_of(uses)
        if job.strategy:
            job.refusal = "uses: a matrix that needs results of other jobs can't call a workflow here"
            return None
        path, repository = local_path(written), scope.repository
        if (found := REMOTE_CALL.fullmatch(written)) is not None:
            path, repository = found["path"], (found["repository"], found["ref"])
        file = self.workflows.called.get(path) if repository is None else self._remote(job, path, *repository)
        if file is None:  # which the reader reports
            return None
        if depth >= MOST_LEVELS:
            self.problems.say(uses, f"uses: more than {MOST_LEVELS} workflows call each other")
            return None
        if CALL not in file.events:
            why = f"{file.path} is not made to be called: it has no `on: workflow_call`"
            self.problems.say(uses, f"uses: {why}")
            return None
        inputs = self._inputs_of_call(file, job)
        contexts = {name: scope.texts.contexts[name] for name in ("github", "vars")}
        if not any(isinstance(value, str) and "${{" in value for value in inputs.values()):
            contexts["inputs"] = inputs
        secrets, literals = self._secrets_of_call(file, job, scope)
        called = WorkflowScope(
            file=file,
            texts=Texts(contexts, self.of_values),
            prefix=f"{job.id}.",
            names=(*scope.names, f"{job.key} ({', '.join(job.matrix.values())})" if job.matrix else job.key),
            caller=job,
            repository=repository,
            inputs=inputs,
            above=above,
            secrets=secrets,
            literals=literals,
        )
        if job.refusal:
            return None
        scope.calls[job.key] = called
        return called

    def _remote(self, job: GitHubCandidate, path: str, repository: str, ref: str) -> WorkflowFile | None:
        """Return a workflow of another repository; the job is refused where it can't be had."""
        repositories = self.context.repositories()
        if repositories is None:  # nothing is fetched to check a file
            return None
        name = f"{repository}/{path}@{ref}"
        if name not in self._fetched:
            try:
                directory = repositories.at(repository, ref).directory
                reader = WorkflowReader()
                reader.read(name, read_bytes(directory / path, within=directory))
                sound = reader.sound(name)
                self._fetched[name] = NotFetched(sound) if isinstance(sound, str) else sound
            except (NotFetched, RequestError) as error:
                self._fetched[name] = error
            except OSError as error:
                why = f"{repository} has no {path} at {ref}: {reason_of(error)}"
                self._fetched[name] = NotFetched(why)
        found = self._fetched[name]
        if isinstance(found, Exception):
            job.refusal, job.unreachable = f"uses: {found}", isinstance(found, Unreachable)
            return None
        return found

    def _inputs_of_call(self, file: WorkflowFile, job: GitHubCandidate) -> dict[str, Any]:
        declared = file.inputs(CALL)
        named = {name.lower(): name for name in declared}
        given = {named.get(name.lower(), name): node for name, node in fields_of(job.node, "with").items()}
        for name in given.keys() - declared.keys():
            known = ", ".join(declared) or "none"
            self.problems.say(given[name], f"with: {file.path} has no input {name}; its inputs: {known}")
        found: dict[str, Any] = {}
        for name, node in declared.items():
            kind = text_of(node, "type")
            if name in given:
                value = job.texts.value(given[name])
                found[name] = (
                    text_of(given[name]) if value is LATE else literal(self._typed(given[name], name, value, kind))
                )
                continue
            if text_of(node, "required") == "true":  # also one with a default, as on GitHub
                self.problems.say(job.node.value["uses"], f"uses: {file.path} requires the input {name}")
            if (default := node.get("default")) is not None:
                value = job.texts.value(default)
                found[name] = text_of(default) if value is LATE else literal(value)
            else:
                found[name] = {"boolean": False, "number": 0.0}.get(kind, "")
        return found

    def _typed(self, node: Node, name: str, value: Any, kind: str) -> Any:
        fits = {"boolean": bool, "number": float}.get(kind)
        if fits is None:
            return expressions.text_of(value)
        if not isinstance(value, fits) and not (self.everything and "${{" in text_of(node)):
            self.problems.say(node, f"with: {name} is a {kind}, not {expressions.text_of(value)!r}")
        return value

    def _secrets_of_call(
        self, file: WorkflowFile, job: GitHubCandidate, scope: WorkflowScope
    ) -> tuple[Mapping[str, str] | None, Mapping[str, str]]:
        """Return the secrets and the literals of the called workflow, as its scope has them."""
        node = job.node.get("secrets")
        if node is not None and text_of(node) == "inherit":
            return scope.secrets, scope.literals
        on = file.events[CALL]
        declared = {name.upper(): one for name, one in fields_of(on, "secrets").items()}
        passed = {name.upper(): one for name, one in fields_of(node).items()}
        for name, one in passed.items():
            if name not in declared:
                self.problems.say(one, f"secrets: {file.path} has no secret {name}{meant(name, declared)}")
        for name, one in declared.items():
            if text_of(one, "required") == "true" and name not in passed:
                self.problems.say(job.node.value["uses"], f"uses: {file.path} requires the secret {name}")
        found, literals = {TOKEN: TOKEN}, dict[str, str]()
        there = scope.secrets
        if there is None:
            there = {name: name for name in (TOKEN, *self.context.config.github.secrets)}
        marks = {name: f"\0{name}" for name in there}
        for name, given in fields_of(node).items():
            known = {**scope.literals, **marks}
            value = known.get(secret_in(text_of(given)) or "") or job.texts.having(secrets=known).text(given)
            if value is not LATE and value[1:] in there and value.startswith("\0"):
                found[name] = there[value[1:]]
            elif value is LATE or "\0" in value:
                job.refusal = (
                    f"secrets: {name}: {text_of(given).strip()} is not known before the run, and no secret alone"
                )
            elif value:  # else nobody has given it
                literals[name] = value
        return found, literals


def _values_read(condition: str, contexts: Mapping[str, Any]) -> str:
    """Return the values of the event, the inputs and the matrix that a condition reads, in parentheses."""
    told = []
    for path in dict.fromkeys(_READ.findall(condition)):
        value: Any = contexts
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping | list):
            told.append(
                f"{path} is {expressions.text_of(value)[:_LONGEST]!r}" if value is not None else f"{path} is not set"
            )
    return f" ({', '.join(told)})" if told else ""


def secret_in(text: str) -> str | None:
    try:
        parts = expressions.parts_of(text.strip())
    except InvalidExpression:
        return None
    if len(parts) != 1 or isinstance(parts[0], str):
        return None
    if expressions.property_in(parts[0].node, "github") == "token":
        return TOKEN
    return expressions.property_in(parts[0].node, "secrets")
