"""Decide about a job when it starts, from the results of those before it: `if`, the image, `needs`, a matrix."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.images.reference import replacement
from loom.plan.github.growth import grown
from loom.plan.github.labels import refused
from loom.plan.github.matrix import combinations, texts
from loom.plan.late import LateCaller, LateJob, LateNeed, limit_of
from loom.plan.model import AllowFailure, Image, Job, Plan
from loom.status import CANCELLED, FAILURE, SKIPPED, SUCCESS, JobResult, Status
from loom.util.toposort import closure
from loom.values import Immutable
from loom.workflow.github.expressions import (
    Function,
    Value,
    condition,
    evaluate,
    filled,
    flag_of,
    json_value,
    text_of,
    truth,
)
from loom.workflow.job_ids import id_part, unique_id
from loom.workflow.parser import InvalidExpression

_INSERT = re.compile(r"\$\{\{\s*insert\s*\}\}")
_WORST_FIRST = (FAILURE, CANCELLED, SKIPPED, SUCCESS)


class Start(Immutable):
    job: Job
    needs: Mapping[str, Any]
    status: Status = Status.SUCCESS
    """Another one: it does not run, for this `reason`."""
    reason: str = ""
    held: str = ""
    """Of a job that can't run here, though CI runs it: what such jobs are."""


class LateJobs:
    """The results of a run's jobs, for the jobs after them. Thread-safe."""

    def __init__(
        self,
        plan: Plan,
        done: Mapping[str, JobResult],
        cancel: Cancel,
        images: Mapping[str, str] = MappingProxyType({}),
        on_growth: Callable[[], None] = lambda: None,
    ) -> None:
        """`images`: see `Config.images`. `on_growth` is called when `plan` has changed."""
        self._plan = plan
        self.plan = plan
        """With the jobs that others have become (`several`)."""
        self._on_growth = on_growth
        self._replacements = images
        self._images = {label.lower(): image for label, image in images.items()}
        self._results = dict(done)
        self._cancel = cancel
        self._running: dict[str, dict[str, Cancel]] = {}
        """The running jobs with their cancel flags, by matrix group."""
        self._failed: dict[str, str] = {}
        """The job that ends the others, by matrix group."""
        self._lock = threading.Lock()

    def begin(self, job: Job) -> Start:
        late = job.late
        assert late is not None
        try:
            inputs = self._inputs(late.caller)
            if isinstance(inputs, str):
                return Start(job=job, needs={}, status=Status.SKIPPED, reason=inputs)
            needs = self._needs(late.needs)
            contexts = self._contexts(late.contexts, needs, inputs)
            if late.caller is not None:
                job = replace(job, late=replace(late, contexts={**late.contexts, "inputs": inputs}))
            reason = self._skips(late.condition, contexts, late.needs)
            if reason:
                return Start(job=job, needs=needs, status=Status.SKIPPED, reason=reason)
            if late.group in self._failed:
                text = f"{self._failed[late.group]} failed, which ends the matrix (fail-fast)"
                return Start(job=job, needs=needs, status=Status.CANCELED, reason=text)
            if late.strategy:
                return Start(job=job, needs=needs)
            return self._started(job, late, contexts, needs)
        except InvalidExpression as error:
            return Start(
                job=job, needs={}, status=Status.FAILURE, reason=f"an expression of the job is invalid: {error}"
            )

    def _started(self, job: Job, late: LateJob, contexts: Mapping[str, Value], needs: Mapping[str, Any]) -> Start:
        if late.continue_on_error:
            try:
                allowed = flag_of(filled(late.continue_on_error, contexts))
            except InvalidExpression as error:
                raise InvalidExpression(f"continue-on-error: {error}") from error
            job = replace(job, allow_failure=AllowFailure(always=allowed))
        if late.timeout_minutes:
            minutes = filled(late.timeout_minutes, contexts)
            if (limit_s := limit_of(minutes)) is None:
                raise InvalidExpression(f"timeout-minutes is no number of minutes: {text_of(minutes)}")
            job = replace(job, timeout_s=limit_s)
        if late.runs_on and job.image is not None:
            value = filled(late.runs_on, contexts)
            labels = [text_of(one).lower() for one in (value if isinstance(value, list) else [value])]
            if (found := refused(labels, self._images)) is not None:
                return Start(job=job, needs=needs, status=Status.SKIPPED, reason=found[0], held=found[1])
            image = next((self._images[label] for label in labels if label in self._images), job.image.name)
            job = replace(job, image=replace(job.image, name=image))
        if late.image:
            name = text_of(filled(late.image, contexts)).removeprefix("docker://")
            if (other := replacement(name, self._replacements)) is not None:
                with self._lock:
                    self.plan = replace(self.plan, replaced={**self.plan.replaced, name: other})
                self._on_growth()
                name = other
            job = replace(job, image=replace(job.image or Image(), name=name))
        return Start(job=job, needs=needs)

    def several(self, job: Job) -> tuple[Start, tuple[Job, ...]]:
        """Return the instances of a job whose matrix is computed from other jobs' results; none if it does not start."""
        start = self.begin(job)
        late = start.job.late
        assert late is not None
        if start.status is not Status.SUCCESS:
            return start, ()
        try:
            contexts = self._contexts(late.contexts, start.needs, {})
            strategy = _deep(late.strategy, contexts)
            rows = combinations(strategy.get("matrix"))
        except InvalidExpression as error:
            return replace(start, status=Status.FAILURE, reason=f"strategy: {error}"), ()
        most = strategy.get("max-parallel") or 0.0
        settings = {"fail-fast": truth(strategy.get("fail-fast", True)), "job-total": float(len(rows))}
        taken = {each.id.lower() for each in self.plan.jobs}
        jobs = []
        for number, row in enumerate(rows):
            own = {**settings, "job-index": float(number), "max-parallel": most or float(len(rows))}
            part = "-".join(id_part(value, 32) for value in texts(row)) or str(number + 1)
            shown = _shown(late, {**contexts, "matrix": row, "strategy": own})
            jobs.append(
                replace(
                    start.job,
                    id=unique_id(f"{job.id}.{part}"[:128], taken),
                    matrix={name: text_of(value) for name, value in row.items()},
                    late=replace(
                        late,
                        strategy={},
                        of=job.id,
                        shown=shown if "matrix." in late.name else f"{shown} ({', '.join(texts(row))})",
                        contexts={**late.contexts, "matrix": row, "strategy": own},
                        fail_fast=bool(settings["fail-fast"]),
                        max_parallel=int(most),
                    ),
                )
            )
        with self._lock:
            self.plan = grown(self.plan, job.id, tuple(jobs))
        self._on_growth()
        return start, tuple(jobs)

    def running(self, job: Job, cancel: Cancel) -> None:
        """Register a running job; `cancel` ends it."""
        if job.late is not None and job.late.group:
            with self._lock:
                self._running.setdefault(job.late.group, {})[job.id] = cancel
                ends = job.late.group in self._failed
            if ends:
                cancel.request(None)

    def ended(self, job: Job, result: JobResult) -> None:
        others: Iterable[Cancel] = ()
        with self._lock:
            self._results[job.id] = result
            late = job.late
            if late is not None and late.group:
                running = self._running.get(late.group, {})
                running.pop(job.id, None)
                if late.fail_fast and not result.lets_go_on and result.status not in (Status.SKIPPED, Status.CANCELED):
                    self._failed.setdefault(late.group, job.id)
                    others = list(running.values())
        for cancel in others:
            cancel.request(None)

    # -- contexts -------------------------------------------------------------------------------------------------

    def _inputs(self, caller: LateCaller | None) -> dict[str, Value] | str:
        """Return the inputs that the callers of a job's workflow give; a text: why one of them does not run."""
        if caller is None:
            return {}
        outer = self._inputs(caller.caller)
        if isinstance(outer, str):
            return outer
        contexts = self._contexts(caller.contexts, self._needs(caller.needs), outer)
        if reason := self._skips(caller.condition, contexts, caller.needs):
            return reason
        values = {
            name: filled(value, contexts) if isinstance(value, str) else json_value(value)
            for name, value in caller.inputs.items()
        }
        return {name: _typed(name, value, caller.types.get(name, "")) for name, value in values.items()}

    def _contexts(
        self, given: Mapping[str, Any], needs: Mapping[str, Any], inputs: Mapping[str, Value]
    ) -> dict[str, Value]:
        default: dict[str, Value] = {"vars": {}, "inputs": {}, "matrix": None, "strategy": {}}
        contexts = {**default, **json_value(given), "needs": json_value(needs)}
        return contexts | ({"inputs": dict(inputs)} if inputs else {})

    def _skips(self, written: str, contexts: Mapping[str, Value], needs: Sequence[LateNeed]) -> str:
        """Return why an `if` does not hold; empty if it does."""
        holds = evaluate(condition(written), contexts, self._functions(needs))
        if truth(holds):
            return ""
        if written:
            return f"if: {written}"
        bad = next((need.name for need in needs if self._need_result(need) != SUCCESS), "")
        return f"{bad} did not succeed" if bad else "a job before it did not succeed"

    def _functions(self, needs: Sequence[LateNeed]) -> dict[str, Function]:
        def results(names: tuple[Value, ...]) -> list[str]:
            if names:
                return [self._need_result(need) for need in needs if need.name in map(text_of, names)]
            before = self._ancestors(job_id for need in needs for job_id in need.jobs)
            late = [self._plan.job(job_id).late for job_id in before if self._plan.has(job_id)]
            left_out = [
                need.result for each in (needs, *(one.needs for one in late if one)) for need in each if not need.jobs
            ]
            return [*left_out, *(self._result([job_id]) for job_id in before)]

        return {
            "success": lambda *names: (
                all(result == SUCCESS for result in results(names)) and not self._cancel.requested
            ),
            "failure": lambda *names: FAILURE in results(names),
            "cancelled": lambda: self._cancel.requested or CANCELLED in results(()),
            "always": lambda: True,
        }

    def _ancestors(self, ids: Iterable[str]) -> set[str]:
        def before(job_id: str) -> list[str]:
            return [need.job for need in self._plan.job(job_id).needs or ()] if self._plan.has(job_id) else []

        return closure(ids, before)

    def _result(self, ids: Iterable[str]) -> str:
        """Return the result of the jobs together; of none, which this run leaves out, success."""
        found = {_result_of(self._results[job_id]) for job_id in ids if job_id in self._results}
        if SKIPPED in found and SUCCESS in found:
            found.discard(SKIPPED)
        return next((one for one in _WORST_FIRST if one in found), SUCCESS)

    def _needs(self, needs: Sequence[LateNeed]) -> dict[str, Any]:
        return {need.name: {"result": self._need_result(need), "outputs": self._outputs(need)} for need in needs}

    def _need_result(self, need: LateNeed) -> str:
        return self._result(need.jobs) if need.jobs else need.result

    def _outputs(self, need: LateNeed) -> dict[str, str]:
        if need.outputs or need.inside:
            contexts = {**self._contexts(need.contexts, {}, {}), "jobs": json_value(self._needs(need.inside))}
            return {name: text_of(filled(text, contexts)) for name, text in need.outputs.items()}
        found: dict[str, str] = {}
        for job_id in need.jobs:
            given = self._results[job_id].outputs if job_id in self._results else {}
            found |= {name: value for name, value in given.items() if value or name not in found}
        return found


def _shown(late: LateJob, contexts: Mapping[str, Value]) -> str:
    try:
        return text_of(filled(late.shown, contexts))
    except InvalidExpression:
        return late.shown


def _typed(name: str, value: Value, kind: str) -> Value:
    """Return the value of an input of this type. InvalidExpression for one that does not fit: a text is no boolean."""
    if kind not in ("boolean", "number"):
        return text_of(value) if kind == "string" else value
    if not isinstance(value, bool if kind == "boolean" else float):
        raise InvalidExpression(f"the input {name} is a {kind}, not '{text_of(value)}'; fromJSON makes one of a text")
    return value


def _result_of(result: JobResult) -> str:
    """Return the value of `needs.*.result` for a job that has ended."""
    if result.lets_go_on:
        return SUCCESS
    return {Status.SKIPPED: SKIPPED, Status.CANCELED: CANCELLED}.get(result.status, FAILURE)


def _deep(value: Any, contexts: Mapping[str, Value]) -> Any:
    """Evaluate every text of a value as JSON has it: a list for an element stands for its elements, `insert` for a mapping's."""
    if isinstance(value, str):
        return filled(value, contexts)
    if isinstance(value, Mapping):
        found: dict[str, Value] = {}
        for key, one in value.items():
            inside = _deep(one, contexts)
            if _INSERT.fullmatch(key) and isinstance(inside, Mapping):
                found |= inside
            else:
                found[text_of(filled(key, contexts))] = inside
        return found
    if not isinstance(value, list | tuple):
        return json_value(value)
    items: list[Value] = []
    for one in value:
        inside = _deep(one, contexts)
        items += inside if isinstance(one, str) and isinstance(inside, list) else [inside]
    return items
