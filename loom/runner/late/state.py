"""Keep what the steps of a job have said so far, and derive conditions, variables and values of expressions for the next.

It needs no session: `loom shell` and `loom resume` restore it from the record (`restored`).
"""

from __future__ import annotations

import platform
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loom.plan.late import WITHOUT_MATRIX, Action
from loom.plan.model import Job, Step
from loom.providers.driver import protocol
from loom.record.step_outputs import recorded, restored
from loom.runner.late.files import FILES
from loom.status import CANCELLED, FAILURE, SKIPPED, SUCCESS
from loom.util.masking import Masker
from loom.values import Immutable
from loom.workflow.github.expressions import (
    Exact,
    Function,
    Value,
    condition,
    evaluate,
    filled,
    json_value,
    text_of,
    truth,
)
from loom.workflow.parser import InvalidExpression

_ARCHITECTURES = {"x86_64": "X64", "aarch64": "ARM64", "armv7l": "ARM"}
_NO_VARIABLES = frozenset(
    [
        "token",
        "event",
        "env",
        "path",
        "output",
        "state",
        "step_summary",
        "action_status",
        "repositoryUrl",
        "repository_visibility",
        "secret_source",
    ]
)
"""Of the context `github`: what has no variable `GITHUB_*`, or one of another value."""
_LAST = Step(phase="script", number=0, script="")
"""Stands for the job itself, once all its steps have ended."""


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class JobRuntime(Immutable):
    workspace: str
    path: str
    bash: bool
    event_path: str
    files: Mapping[str, str]
    """The paths of the files that steps report in, by their variables, where they are known."""
    container: Mapping[str, str] = {}
    """What `job.container` has of it."""
    services: Mapping[str, Mapping[str, str]] = {}


def runtime(
    workspace: str,
    event_path: str,
    shell: Sequence[str],
    path: str,
    container: Mapping[str, str] = MappingProxyType({}),
    services: Mapping[str, str] = MappingProxyType({}),
) -> JobRuntime:
    """Return the workspace, the files and the program path of a job's steps, from facts of its session."""
    directory = event_path.rpartition("/")[0]
    known = {name: f"{directory}/{file}" for name, file in FILES.items()} if directory == protocol.DIRECTORY else {}
    return JobRuntime(
        workspace=workspace,
        path=path or DEFAULT_PATH,
        bash=list(shell[:1]) == ["bash"],
        event_path=event_path,
        files=known,
        container=container,
        services={name: {**container, "id": one} for name, one in services.items()},
    )


class StepResult(Immutable):
    """The results of a step; the fact `step_state` of the record."""

    outcome: str
    conclusion: str
    outputs: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    path: Sequence[str] = ()
    saved: Mapping[str, str] = {}
    summary: str = ""

    def fact(self, step: Step, name: str, attempt: int, secrets: Mapping[str, bytes], masker: Masker) -> dict[str, Any]:
        data: dict[str, Any] = {"step": step.id, "attempt": attempt, "name": name}
        data |= {"outcome": self.outcome, "conclusion": self.conclusion}
        for part in ("outputs", "env", "saved"):
            if values := getattr(self, part):
                data[part] = recorded(values, secrets, masker)
        data |= {"path": list(self.path)} if self.path else {}
        return data | ({"summary": self.summary} if self.summary else {})


def result_of(fact: Mapping[str, Any], secrets: Mapping[str, bytes]) -> tuple[StepResult, list[str]]:
    """Read a fact of `StepResult.fact`; return also the names whose values the record lacks."""
    found: dict[str, Mapping[str, str]] = {}
    lost: list[str] = []
    for part in ("outputs", "env", "saved"):
        found[part], names = restored(fact.get(part, {}), secrets)
        lost += names
    result = StepResult(
        outcome=str(fact.get("outcome", SUCCESS)),
        conclusion=str(fact.get("conclusion", SUCCESS)),
        path=tuple(fact.get("path", ())),
        outputs=found["outputs"],
        env=found["env"],
        saved=found["saved"],
    )
    return result, lost


class StepView(Immutable):
    """A step, and what its texts see. Its methods raise InvalidExpression."""

    step: Step
    contexts: Mapping[str, Value] = {}
    functions: Mapping[str, Function] = {}

    @property
    def env(self) -> Mapping[str, str]:
        """The context `env`."""
        env: Mapping[str, str] = self.contexts["env"]
        return env

    def value(self, text: str) -> Value:
        return filled(text, self.contexts, self.functions)

    def text(self, text: str) -> str:
        return text_of(self.value(text))

    def texts(self, texts: Mapping[str, str]) -> dict[str, str]:
        return {name: self.text(text) for name, text in texts.items()}

    def of_action(self) -> StepView:
        """Return what the texts of an action's own file see: `inputs` has those of the step too."""
        inputs = {**(self.contexts["inputs"] or {}), **self.texts(self.step.inputs)}
        return replace(self, contexts={**self.contexts, "inputs": inputs})

    def begun(self) -> StepView:
        """Return what the texts see when the step begins: also its own variables, for an action in an image those of its file."""
        seen = self.of_action() if self.step.kind == "docker" else self
        env = Exact({**self.env, **seen.texts(self.step.env)})
        return replace(self, contexts={**self.contexts, "env": env})


class _Scope(Struct, kw_only=True):
    """The job, or a composite action in it."""

    status: str = SUCCESS
    inputs: Mapping[str, str] = {}
    """Texts alone, as on GitHub: `false` is not false."""
    env: Mapping[str, str] = {}
    action: Action | None = None
    name: str = ""
    steps: dict[str, Value] = {}
    skipped: bool = False


class LateState:
    """`needs`: the context. `hash_files`: of patterns, in the job's files."""

    def __init__(
        self,
        job: Job,
        runtime: JobRuntime,
        *,
        needs: Mapping[str, Any],
        secrets: Mapping[str, bytes],
        run_id: str,
        hash_files: Callable[[Sequence[str]], str] = lambda _: "",
    ) -> None:
        assert job.late is not None
        self._job, self._late, self.runtime = job, job.late, runtime
        self._secrets = {
            name: secrets[own].decode("utf-8", "surrogateescape")
            for name, own in job.late.secrets.items()
            if own in secrets
        }
        self._run_id = run_id
        self._hash_files = hash_files
        self.cancelled = False
        self.env: dict[str, str] = {}
        self.path: list[str] = []
        """The directories that steps have added to `PATH`, the first one first."""
        self.checkouts: list[str] = []
        """The paths of those that steps have made; `.` is the whole workspace."""
        self._saved: dict[str, dict[str, str]] = {}
        self._ran: set[str] = set()
        self._scopes: dict[tuple[str, ...], _Scope] = {(): _Scope()}
        self._inner = _inner_scopes(job.steps)
        self._names = _names(job.steps)
        self._base = self._contexts(needs)
        self._job_env: dict[str, str] = {}
        self._container_env: dict[str, str] = {}

    def _contexts(self, needs: Mapping[str, Any]) -> dict[str, Value]:
        given = dict(json_value(self._late.contexts))
        token = self._secrets.get("GITHUB_TOKEN", "")
        github = {"run_id": self._run_id, "run_number": "1", "run_attempt": "1", "retention_days": "90"}
        github |= {key: value for key, value in (given.get("github") or {}).items() if value or key not in github}
        around = {"workspace": self.runtime.workspace, "event_path": self.runtime.event_path, "token": token}
        runner = {
            "os": "Linux",
            "arch": _ARCHITECTURES.get(platform.machine(), "X64"),
            "name": "loom",
            "environment": "github-hosted",
            "temp": "/tmp",
            "tool_cache": "/opt/hostedtoolcache",
            "debug": "1" if self._job.debug else "",
        }
        return {
            "vars": {},
            "inputs": {},
            "matrix": None,
            "strategy": WITHOUT_MATRIX,
            **given,
            "github": {**github, **around},
            "needs": json_value(needs),
            "job": {
                **({"container": dict(self.runtime.container)} if "job" in given else {}),
                "services": {
                    # Each port is the same at the service and where the job finds it.
                    service.name: {
                        **self.runtime.services.get(service.name, {}),
                        "ports": {str(port): str(port) for port in service.ports},
                    }
                    for service in self._job.services
                },
            },
            "secrets": {"GITHUB_TOKEN": token, **given.get("secrets", {}), **self._secrets},
            "runner": {**runner, **(given.get("runner") or {})},
        }

    def begin(self) -> None:
        """Evaluate the variables of the job and its container. InvalidExpression."""
        contexts = {**self._base, "env": self._job_env}
        view = StepView(step=_LAST, contexts=contexts, functions=self._functions(_LAST))
        for texts, values in ((self._late.env, self._job_env), (self._late.container_env, self._container_env)):
            for name, text in texts.items():
                values[name] = view.text(text)

    # -- what counts for a step -----------------------------------------------------------------------------------

    def _entered(self, path: tuple[str, ...]) -> _Scope:
        """Return the innermost scope that was entered: pre steps run before theirs."""
        while path not in self._scopes:
            path = path[:-1]
        return self._scopes[path]

    def _scope(self, path: tuple[str, ...]) -> _Scope:
        """Return a scope; for a pre step, as it would be entered now. InvalidExpression."""
        found = self._scopes.get(path)
        enter = (
            next((step for step in self._job.steps if self._inner.get(step.id) == path), None) if not found else None
        )
        if enter is None:
            return self._entered(path)
        outer = self._scope(enter.scope)
        inputs = self.at(enter).texts(enter.inputs)
        return _Scope(status=outer.status, inputs=inputs, env=outer.env, action=enter.action)

    def at(self, step: Step) -> StepView:
        """Return what the texts of a step see, without its own variables. InvalidExpression."""
        scope = self._scope(step.scope)
        action = step.action or scope.action
        github = {
            **self._base["github"],
            "action": step.key or self._names.get(step.id, f"__{step.kind}"),
            "action_path": "",
        }
        if action is not None:
            github |= {"action_repository": action.repository, "action_ref": action.ref}
            github["action_path"] = self.directory_of(action)
        if step.scope:
            github["action_status"] = scope.status
        contexts = {
            **self._base,
            "github": github,
            "job": {**self._base["job"], "status": CANCELLED if self.cancelled else self.status},
            "steps": scope.steps,
            "env": Exact({**self._job_env, **self.env, **scope.env}),
            **({"inputs": scope.inputs} if step.scope else {}),
        }
        return StepView(step=step, contexts=contexts, functions=self._functions(step))

    def _functions(self, step: Step) -> dict[str, Function]:
        """Return the functions for a step: the main steps of an action look at the action alone, all others at the job."""
        status = self._scope(step.scope).status
        if not step.scope or step.stage != "main":
            status = CANCELLED if self.cancelled else self.status
        return {
            "success": lambda *_: status == SUCCESS,
            "failure": lambda *_: status == FAILURE,
            "cancelled": lambda: self.cancelled,
            "always": lambda: True,
            "hashfiles": lambda *patterns: self._hash_files([text_of(one) for one in patterns]),
        }

    @property
    def status(self) -> str:
        return self._scopes[()].status

    def name(self, view: StepView) -> str:
        """Return a step's name for people, else its `uses`, preceded by those of the enclosing actions; empty without one."""
        step = view.step
        own = step.script if step.kind != "run" else ""
        try:
            own = view.text(step.name) or own
        except InvalidExpression:
            own = step.name
        outer = self._entered(step.scope).name
        return f"{outer}: {own}" if outer and own else own or outer

    def skips(self, step: Step) -> str:
        """Return why a step does not run; empty if it does. InvalidExpression."""
        if any(
            self._scopes[step.scope[:n]].skipped
            for n in range(1, len(step.scope) + 1)
            if step.scope[:n] in self._scopes
        ):
            return "its action was skipped"
        if step.kind == "leave":
            return "its action was skipped" if self._scopes[self._inner[step.id]].skipped else ""
        if step.stage == "post" and step.main not in self._ran:
            return "its action did not run"
        written = step.condition or ("always()" if step.stage != "main" else "")
        view = self.at(step).begun()
        view = view if step.stage == "main" else view.of_action()
        if truth(evaluate(condition(written), view.contexts, view.functions)):
            return ""
        return (
            f"if: {written}" if written else ("the job was canceled" if self.cancelled else "a step before it failed")
        )

    def environment(self, view: StepView) -> dict[str, str]:
        """Return the variables of a step: those of GitHub, and the inputs and state of its action."""
        step, contexts = view.step, view.contexts
        github = {
            f"GITHUB_{name.upper()}": text_of(value)
            for name, value in contexts["github"].items()
            if name not in _NO_VARIABLES and not isinstance(value, dict | list)
        }
        runner = {f"RUNNER_{name.upper()}": text_of(value) for name, value in contexts["runner"].items() if value != ""}
        inputs: dict[str, str] = {}
        if step.is_program:
            inputs = {f"INPUT_{name.upper().replace(' ', '_')}": text for name, text in view.texts(step.inputs).items()}
        saved = {f"STATE_{name}": value for name, value in self._saved.get(step.main or step.id, {}).items()}
        env = {**self._container_env, **view.env}
        path = {"PATH": ":".join([*reversed(self.path), env.get("PATH") or self.runtime.path])} if self.path else {}
        own = {"GITHUB_ACTIONS": "true", **github, **runner, **self.runtime.files}
        return {"CI": "true", **env, **inputs, **saved, **own, **path}

    def directory_of(self, action: Action) -> str:
        parts = [action.directory or self.runtime.workspace, action.path]
        return "/".join(part.strip("/") if number else part for number, part in enumerate(parts) if part)

    # -- what a step changes --------------------------------------------------------------------------------------

    def enter(self, step: Step) -> None:
        """Begin a composite action: evaluate its inputs and variables. InvalidExpression."""
        view = self.at(step).begun()
        own = {name: view.env[name] for name in step.env}
        outer = self._scope(step.scope)
        self._scopes[self._inner[step.id]] = _Scope(
            inputs=view.texts(step.inputs), env={**outer.env, **own}, action=step.action, name=self.name(view)
        )

    def leave(self, step: Step) -> StepResult:
        """Return the result of a composite action. InvalidExpression."""
        inner = self._inner[step.id]
        scope = self._scopes[inner]
        within = replace(_LAST, scope=inner, action=step.action)
        outputs = self.at(within).texts(step.outputs)
        return StepResult(outcome=scope.status, conclusion=scope.status, outputs=outputs)

    @property
    def scope_names(self) -> set[str]:
        return {name.lower() for scope in (*self._scopes, *self._inner.values()) for name in scope}

    def has_run(self, step_id: str) -> bool:
        return step_id in self._ran

    def insert(self, steps: Sequence[Step]) -> None:
        """Let steps take part that the plan did not have."""
        self._names |= _names(steps)
        self._inner |= _inner_scopes(steps)

    def inner(self, step: Step) -> tuple[str, ...]:
        """Return the scope of the composite action that an "enter" or "leave" belongs to."""
        return self._inner[step.id]

    def judged(self, step: Step) -> tuple[str, ...]:
        """Return the scope that fails with a step: the steps before and after the main ones are the job's."""
        return step.scope if step.stage == "main" and step.scope in self._scopes else ()

    def apply(self, step: Step, result: StepResult) -> None:
        scope = self._entered(step.scope)
        self.env |= result.env
        self.path += result.path
        if result.saved:
            self._saved.setdefault(step.main or step.id, {}).update(result.saved)
        if result.outcome != SKIPPED:
            self._ran.add(step.id)
        elif step.kind == "enter":
            self._scopes[self._inner[step.id]] = _Scope(skipped=True)
        if step.kind == "enter" and result.outcome == FAILURE:
            self._scopes[self._inner[step.id]] = _Scope(skipped=True)
        if step.kind == "checkout" and result.outcome == SUCCESS:
            path = next((text for name, text in step.inputs.items() if name.lower() == "path"), "")
            root = self.runtime.workspace
            whole = posixpath.join(root, self.at(step).text(path).strip())
            self.checkouts.append(posixpath.relpath(whole, root))
        if step.stage == "main" and step.key and step.kind != "enter":
            scope.steps[step.key] = {
                "outputs": dict(result.outputs),
                "outcome": result.outcome,
                "conclusion": result.conclusion,
            }
        judged = self._scopes[self.judged(step)]
        if result.conclusion in (FAILURE, CANCELLED) and judged.status != FAILURE:
            judged.status = result.conclusion

    def restore(
        self, facts: Iterable[Mapping[str, Any]], secrets: Mapping[str, bytes], before: str | None
    ) -> list[str]:
        """Restore what the facts of the steps before `before` (None: of all) made; return names whose values are lost."""
        by_step = {str(fact.get("step")): fact for fact in facts}
        lost: list[str] = []
        for step in self._job.steps:
            if step.id == before:
                break
            if (fact := by_step.get(step.id)) is None:
                continue
            result, names = result_of(fact, secrets)
            lost += names
            if result.conclusion in (FAILURE, CANCELLED):  # a person goes on after it
                result = replace(result, conclusion=SUCCESS)
            try:
                if step.kind == "enter" and result.outcome == SUCCESS:
                    self.enter(step)
            except InvalidExpression:
                self._scopes[self._inner[step.id]] = _Scope()
            self.apply(step, result)
        return lost

    def outputs(self, is_secret: Callable[[str], bool]) -> tuple[dict[str, str], list[str]]:
        """Return the outputs of the job, and the names of those that are not set because of a secret. InvalidExpression."""
        found = self.at(_LAST).texts(self._late.outputs)
        hidden = [name for name, value in found.items() if is_secret(value)]
        return {name: value for name, value in found.items() if name not in hidden}, hidden


def _names(steps: Sequence[Step]) -> dict[str, str]:
    """Return `github.action` of the steps without an id, by `Step.id`."""
    found: dict[str, str] = {}
    uses: Counter[tuple[tuple[str, ...], str]] = Counter()
    for step in steps:
        if not step.key and step.stage == "main" and step.kind != "leave":
            written = "run" if step.kind == "run" else step.script.partition("@")[0].removeprefix("docker://")
            name = "self" if written.startswith("./") else re.sub(r"[^A-Za-z0-9_-]", "_", written)
            name = name or step.kind
            uses[step.scope, name] += 1
            number = uses[step.scope, name]
            found[step.id] = f"__{name}_{number}" if number > 1 else f"__{name}"
    return found


def _inner_scopes(steps: Sequence[Step]) -> dict[str, tuple[str, ...]]:
    """Return the scope that each "enter" and "leave" stands at the border of, by the step's id."""
    found: dict[str, tuple[str, ...]] = {}
    opened: list[tuple[str, ...]] = []
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.kind == "enter":
            inside = after.scope if after is not None else ()
            own = inside[: len(step.scope) + 1] if len(inside) > len(step.scope) else (*step.scope, step.id)
            found[step.id] = own
            opened.append(own)
        elif step.kind == "leave" and opened:
            found[step.id] = opened.pop()
    return found
