"""Run the steps of a job whose language decides about each when it starts (GitHub's)."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from loom.analysis.formats import Reader
from loom.analysis.patterns import failures
from loom.cancel import Cancel
from loom.errors import ImageError, InfrastructureError, ProviderError, RequestError
from loom.plan.github.actions import BadAction
from loom.plan.late import Action, limit_of
from loom.plan.model import MountMode, Step
from loom.providers.command import Command
from loom.providers.driver.steps import is_variable
from loom.providers.files import members_of, moved_below, unpack
from loom.record.documents import plain
from loom.record.events import PhaseCode, Where
from loom.record.run import Resumed
from loom.record.workflow_commands import WorkflowCommand
from loom.runner.actions import NO_NODE, container_of, node_script
from loom.runner.late.checkout import Checkout, checkout_of
from loom.runner.late.commands import CommandFilter
from loom.runner.late.files import FILES, InvalidFile, paths_of, summary_of, values_of
from loom.runner.late.problem_matchers import formats, limited
from loom.runner.late.state import LateState, StepResult, StepView, runtime
from loom.runner.late.written import steps_of
from loom.runner.steps import CODE, Clock, JobSteps, Steps
from loom.status import CANCELLED, FAILURE, SKIPPED, SUCCESS, Ended, Exit, OnOutput, Status, Stream
from loom.storage.selection import PathSelection, UnsafePath
from loom.storage.workspace import view_of
from loom.util.digests import digest_of
from loom.util.paths import RUNTIME
from loom.util.units import line_number
from loom.util.yaml_file import MAX_BYTES
from loom.workflow.github.expressions import flag_of, number_of
from loom.workflow.parser import InvalidExpression

AFTER_CANCEL_S = 300.0
"""The time for steps that run although the job is canceled, as on GitHub."""
MOST_ANNOTATIONS = 10
"""The limit for each level and step, as on GitHub."""
MOST_CHARACTERS = 4000
"""The limit for an annotation's text."""
MOST_LOOKED_AT = 2000
_UNSECURE = "ACTIONS_ALLOW_UNSECURE_COMMANDS"
"""The variable that allows the commands that files have replaced."""
_PARTS = {"set-output": "outputs", "save-state": "saved", "set-env": "env"}
"""The part of `StepResult` that a command sets."""
_NO_ACTION = (
    "Can't find 'action.yml', 'action.yaml' or 'Dockerfile' under '{0}'."
    " Did you forget to run actions/checkout before running your local action?"
)
_WHY = "loom: the image has no PowerShell, which shell: pwsh needs; mcr.microsoft.com/powershell has it"
_NO_PWSH = f'{{ echo "{_WHY}" >&2; exit 127; }}'
SHELLS: Mapping[str, tuple[str, ...]] = {
    "bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail", "{0}"),
    "sh": ("sh", "-e", "{0}"),
    "python": ("python", "{0}"),
    "pwsh": (
        "sh",
        "-c",
        f'command -v pwsh >/dev/null || {_NO_PWSH}; mv "$1" "$1.ps1" && exec pwsh -command ". \'$1.ps1\'"',
        "pwsh",
        "{0}",
    ),
}
"""GitHub's command for each shell's name; the script's file replaces `{0}`."""
_ENTER = """\
top=$(pwd -P)
mkdir -p ./{0}
cd ./{0}
case $(pwd -P)/ in
  "$top"/*) ;;
  *) echo "loom: checkout: $PWD is not in the workspace: a link leads to $(pwd -P)" >&2; exit 1 ;;
esac
"""
"""Begins a program in the directory of a checkout. What it removes there must not be what a step's link leads to."""
_POWERSHELL = (
    "$ErrorActionPreference = 'stop'",
    "if ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }",
)
"""The lines before and after a script of PowerShell, as on GitHub."""


class LateSteps(Steps):
    """Evaluates the expressions of GitHub's steps, and carries out what these say; `outputs` are then the job's."""

    def __init__(self, of: JobSteps) -> None:
        super().__init__(of)
        attempt, open_job = of.attempt, of.open_job
        self._shares = of.shares_files
        self._provider = of.provider
        self._results = of.results
        self._cache_dir = of.cache_dir
        self._snapshot = of.snapshot
        self._began = False
        """Whether the present step's `if` and `env` are valid."""
        self._view: StepView
        """What the texts of the present step see."""
        self._result = StepResult(outcome=SUCCESS, conclusion=SUCCESS)
        """The current step's results so far."""
        self._failed_by: str | None = None
        """Why a step fails that ended well."""
        self._number = len(self._job.steps)
        """The highest number of a step."""
        self._before: dict[str, tuple[Mapping[str, str], int]] = {}
        """The variables, and the number of directories in the path, before the actions that the job has written."""
        self._deadlines: dict[tuple[str, ...], int] = {}
        """The deadlines of composite actions, by their scopes."""
        self._told: dict[str, int] = {}
        self._matchers: dict[str, Reader] = {}
        self._filter: CommandFilter | None = None
        self._heard: deque[str] = deque(maxlen=MOST_LOOKED_AT)
        self._failing: dict[tuple[str, ...], tuple[Step, Exit, str]] = {}
        """The step that failed each scope."""
        facts, event_path = open_job.session.facts, open_job.environment.get("GITHUB_EVENT_PATH", "")
        self.state = LateState(
            attempt.job,
            runtime(
                open_job.request.project_dir,
                event_path,
                facts.auto_shell,
                facts.path,
                {"id": facts.container_id, "network": open_job.request.network_id or attempt.job.network.mode or ""},
                open_job.services.container_ids if open_job.services is not None else {},
            ),
            needs=of.needs,
            secrets=open_job.secrets,
            run_id=open_job.request.run_id,
            hash_files=self._hash_files,
        )

    # -- the job --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.state.begin()
        except InvalidExpression as error:
            self._attempt.status, self._attempt.error = Status.FAILURE, f"the job's `env`: {error}"
            return
        super().run()
        if not self._attempt.paused:
            self._set_outputs()

    def _restore(self, resumed: Resumed) -> None:
        attempt = self._attempt
        if lost := self.state.restore(resumed.step_states, self._open_job.secrets, resumed.step):
            attempt.warn(f"not set, since the record has them without their secret: {', '.join(lost)}", CODE)
        for fact in resumed.step_states:
            attempt.fact("step_state", {**fact, "attempt": attempt.number}, PhaseCode.PIPELINE_EXECUTE)

    def _set_outputs(self) -> None:
        attempt, masker = self._attempt, self._attempt.journal.masker
        try:
            attempt.outputs, hidden = self.state.outputs(lambda value: masker.active and masker.mask(value) != value)
        except InvalidExpression as error:
            attempt.status, attempt.error = Status.FAILURE, f"the job's `outputs`: {error}"
            return
        for name in hidden:
            attempt.warn(f"Skip output '{name}' since it may contain secret.", CODE)

    # -- a step ---------------------------------------------------------------------------------------------------

    def _process(self, step: Step) -> None:
        self._view = StepView(step=step)
        try:
            super()._process(step)
        except InvalidExpression as error:
            self._fail_invalid(step, str(error))

    def _begins(self, step: Step) -> bool:
        """Leave a composite action, or return whether a step's `if` holds. InvalidExpression."""
        self._result, self._failed_by, self._began = StepResult(outcome=SUCCESS, conclusion=SUCCESS), None, False
        self.state.cancelled = self._canceled
        self._view = self.state.at(step)
        if self.state.skips(step):
            self._end(step, SKIPPED)
            return False
        if step.kind == "leave":
            self._leave(step)
            return False
        self._view, self._began = self._view.begun(), True
        if step.unexpected:
            self._attempt.warn(f"{step.id}: {step.unexpected}", CODE)
        return True

    def _do(self, step: Step) -> None:
        """Run a step, enter a composite action, or read one that the job has written. InvalidExpression."""
        if step.action is not None and self._lacks(step.action, step):
            self._fail_invalid(step, _NO_ACTION.format(self.state.directory_of(step.action)), "Error")
        elif step.kind == "written":
            self._insert(step)
        elif step.kind == "enter":
            if (limit_s := self._limit_s(step)) is not None:
                self._deadlines[self.state.inner(step)] = self._attempt.journal.now_ns() + int(limit_s * 1e9)
            self.state.enter(step)
            self._end(step)
        else:
            super()._do(step)

    def _insert(self, step: Step) -> None:
        """Put the steps of an action that the job has written where it is used."""
        try:
            steps = steps_of(step, self._content, self._number + 1, self.state.scope_names)
        except BadAction as error:
            self._fail_invalid(step, str(error), "Error")
            return
        self.state.insert(steps)
        self._number += len(steps)
        self._before[step.id] = {**self.state.env}, len(self.state.path)
        main = [one for one in steps if one.stage == "main"]
        ran = (number for number, one in enumerate(self._left) if self.state.has_run(one.main))
        at = next(ran, len(self._left))  # post steps run in the reverse order of their main steps
        self._left = [*main, *self._left[:at], *steps[len(main) :], *self._left[at:]]

    def _content(self, path: str) -> bytes | None:
        """Return a file of the job, up to a byte more than a workflow may have; None if it can't be read."""
        return self._answer(("head", "-c", str(MAX_BYTES + 1), f"{self.state.runtime.workspace}/{path}"))

    def _answer(self, words: Sequence[str]) -> bytes | None:
        """Return what a command prints in the job's container; None if it fails."""
        heard: list[bytes] = []
        inside = self._open_job.session.inside({})
        exit_ = inside.exec(words, lambda _, data: heard.append(data), self._cancel, timeout_s=10, stdin=False)
        return b"".join(heard) if exit_.code == 0 else None

    def _evaluated(self, step: Step) -> Step:
        script = self._view.text(step.script) if step.kind == "run" else step.script
        same_lines = script.count("\n") == step.script.count("\n")
        running = replace(step, script=script, literal=step.literal and same_lines)
        self._command(running, None)  # an invalid text ends the step before it begins
        return running

    def _step(self, step: Step, timeout_s: float | None, cancel: Cancel) -> Exit:
        if step.kind == "checkout" and not self._job.no_checkout and not self._checkout(step).script:
            return Exit(code=0)
        return super()._step(step, timeout_s, cancel)

    def _judge(self, step: Step, exit_: Exit, text: str) -> None:
        if exit_.ended is Ended.CANCELED or (exit_.ended is Ended.TIMED_OUT and self._is_canceled()):
            self._canceled = True
            if exit_.ended is Ended.TIMED_OUT:
                self._blame(step, exit_, text)
            self._end(step, CANCELLED)
        elif not exit_.ended_session and self._continues(step):
            self._end(step, FAILURE, SUCCESS)
        else:
            super()._judge(step, exit_, text)

    def _reason(self, step: Step, exit_: Exit, limit_s: float | None) -> str:
        return self._failed_by or super()._reason(step, exit_, limit_s)

    def _fail(self, step: Step, exit_: Exit, text: str) -> None:
        self._blame_in(self.state.judged(step), step, exit_, text)
        self._end(step, FAILURE)

    def _blame_in(self, scope: tuple[str, ...], step: Step, exit_: Exit, text: str) -> None:
        """Make a step the reason for the failure of a composite action, or of the job, unless an earlier one is."""
        if scope:
            self._failing.setdefault(scope, (step, exit_, text))
        else:
            self._blame(step, exit_, text)

    def _leave(self, step: Step) -> None:
        inner = self.state.inner(step)
        self._result = result = self.state.leave(step)
        if step.id in self._before:  # the record has it for all steps of the action, which no plan has
            env, length = self._before[step.id]
            env = {name: value for name, value in self.state.env.items() if env.get(name) != value}
            self._result = replace(result, env=env, path=self.state.path[length:])
            del self.state.path[length:]
        conclusion = result.conclusion
        if result.outcome == FAILURE:
            if self._continues(step):
                conclusion = SUCCESS
            elif inner in self._failing:
                self._blame_in(self.state.judged(step), *self._failing[inner])
        self._end(step, result.outcome, conclusion)

    def _continues(self, step: Step) -> bool:
        if "${{" not in step.continue_on_error:
            return step.continue_on_error == "true"
        try:
            return flag_of(self._view.value(step.continue_on_error))
        except InvalidExpression as error:
            self._attempt.warn(f"continue-on-error: {error}", CODE)
            return False

    def _end(self, step: Step, outcome: str = SUCCESS, conclusion: str = "") -> None:
        result = replace(self._result, outcome=outcome, conclusion=conclusion or outcome)
        if step.kind == "checkout" and outcome == SUCCESS:
            result = replace(result, outputs=self._checkout(step).outputs)
        self.state.apply(step, result)
        fact = result.fact(
            step,
            self.state.name(self._view),
            self._attempt.number,
            self._open_job.secrets,
            self._attempt.journal.masker,
        )
        self._attempt.fact("step_state", fact, CODE)

    def _lacks(self, action: Action, step: Step) -> bool:
        """Return whether no step before has made the files of an action of the project, as on GitHub."""
        if not action.uses.startswith("./") or step.stage != "main":
            return False
        path = f"{action.path}/"
        if any(at == "." or path.startswith(f"{at}/") for at in self.state.checkouts):
            return False
        return (
            self._answer(("test", "-d", self.state.directory_of(action))) is None
        )  # by a `git clone` of the job's own

    def _fail_invalid(self, step: Step, error: str, kind: str = "") -> None:
        """Fail a step; if it has not begun, for its `if` or `env` is invalid, `continue-on-error` does not count."""
        exit_ = self._invalid(step, error, kind or f"The template is not valid. {step.position}")
        if self._began and self._continues(step):
            self._end(step, FAILURE, SUCCESS)
        else:
            self._fail(step, exit_, error)

    def _invalid(self, step: Step, text: str, kind: str = "Error") -> Exit:
        where = Where(scope="step", job_id=self._job.id, step=step.id)
        writer = self._attempt.journal.writer(where)
        with self._attempt.journal.span(where, PhaseCode.STEP_EXECUTE, self._started(step)) as outcome:
            writer.line(f"{kind}: {text}", "stderr")
            writer.close()
            outcome.status, outcome.exit_code, outcome.error = Status.FAILURE, 1, text
            outcome.data = {"output": writer.counts}
        return Exit(code=1)

    # -- time -----------------------------------------------------------------------------------------------------

    def _is_canceled(self) -> bool:
        if not self._canceled and (self._cancel.requested or self._clock.over):
            self._clock = Clock(AFTER_CANCEL_S, self._attempt.journal.now_ns)
            return True
        return self._canceled

    def _limit_s(self, step: Step) -> float | None:
        own = None
        if step.timeout_minutes:
            own = limit_of(number_of(self._view.value(step.timeout_minutes)))
        now_ns = self._attempt.journal.now_ns()
        around = (self._deadlines.get(step.scope[:n]) for n in range(1, len(step.scope) + 1))
        limits = [max(0.001, (deadline - now_ns) / 1e9) for deadline in around if deadline and not self._canceled]
        return min((limit for limit in (own, super()._limit_s(step), *limits) if limit is not None), default=None)

    # -- its command ----------------------------------------------------------------------------------------------

    def _started(self, step: Step) -> dict[str, Any]:
        return super()._started(step) | ({"name": name} if (name := self.state.name(self._view)) else {})

    def _environment(self, step: Step) -> dict[str, str]:
        return {
            **self._open_job.environment,
            **(self._services() if step.is_program else {}),
            **self.state.environment(self._view),
            "LOOM_STEP": step.id,
            "LOOM_ATTEMPT": str(self._attempt.number),
        }

    def _services(self) -> Mapping[str, str]:
        """Return the variables by which actions find the services of the run."""
        if self._results is None:
            return {}
        open_job = self._open_job
        address = partial(self._provider.host_address, open_job.request, open_job.session)
        return self._results.environment(self._attempt, address, open_job.secrets)

    def _command(self, step: Step, timeout_s: float | None, after: Mapping[str, str] = MappingProxyType({})) -> Command:
        environment, script = self._environment(step), step.script
        others = {name: value for name, value in environment.items() if not is_variable(name)}
        shell: tuple[str, ...] = ()
        start_in = ""
        if step.kind == "run":
            shell = shell_of(self._view.text(step.shell), bash=self.state.runtime.bash)
            start_in = self._view.text(step.working_directory)
            if "pwsh" in shell:
                script = "\n".join((_POWERSHELL[0], script, _POWERSHELL[1]))
        elif step.kind == "node" and step.action is not None:
            shell = SHELLS["sh"]
            directory = self.state.directory_of(step.action)
            script = node_script(step.action, directory, others, self._cache_dir)
        elif step.kind == "checkout":
            shell = SHELLS["sh"]
            script = self._checkout(step).script
        if others and step.kind != "node":
            shell = ("env", *(f"{name}={value}" for name, value in others.items()), *shell)
        return Command(
            script=script,
            shell=shell,
            environment={name: value for name, value in environment.items() if name not in others},
            timeout_s=timeout_s,
            name=step.id,
            observed=self._observed,
            files=FILES,
            start_in=start_in,
        )

    def _checkout(self, step: Step) -> Checkout:
        submodules = os.path.lexists(self._snapshot / ".gitmodules") and self._job.has_git
        history = (
            (self._snapshot / ".git").is_dir() and self._job.has_git and not self._shares
        )  # whose history stays whole
        github = self._view.contexts["github"]
        return checkout_of(step, self._view.text, github, submodules=submodules, history=history)

    def _bring(self, made: Checkout, on_output: OnOutput, cancel: Cancel) -> Exit:
        """Put a checkout's files into a directory of the workspace; what was there goes first, as on GitHub."""
        session, at = self._open_job.session, "" if made.target == "." else shlex.quote(made.target)
        removed = "rm -rf ./* ./.[!.]* ./..?*" if made.clean or made.target not in self.state.checkouts else ""
        words = ("sh", "-ec", f"{_ENTER.format(at)}{removed}")
        exit_ = session.inside({}).exec(words, on_output, cancel, timeout_s=None, stdin=False)
        if exit_.status is not Status.SUCCESS:
            return exit_
        session.settle()
        files, source = session.files(), Path(made.other) if made.other else self._snapshot
        found = (item for item in members_of(source, ["."]) if item[0].path not in (".", RUNTIME))
        items = ((moved_below(made.target, entry), content) for entry, content in found) if at else found
        try:
            unpack(items, files) if isinstance(files, Path) else files.put(items)
        except OSError as error:
            raise ProviderError(f"the files of the checkout: {error}") from error
        return exit_

    # -- what it says ---------------------------------------------------------------------------------------------

    def _run(self, step: Step, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        self._told = {}
        self._heard.clear()
        self._filter = commands = CommandFilter(on_output, lambda found: self._do_command(step, found))
        if self._matchers:
            commands.look = self._heard.append
        try:
            exit_, reported = self._run_program(step, command, commands, cancel)
        finally:
            commands.end()
            self._filter = None
        self._read_files(step, reported)
        if exit_.status is not Status.SUCCESS:
            self._match()
        elif self._failed_by is not None:
            on_output("stderr", f"Error: {self._failed_by}\n".encode())
            return Exit(code=1)
        return exit_

    def _match(self) -> None:
        """Record the findings of problem matchers in the output of a failed step."""
        try:
            found = failures([*self._heard], [*self._matchers.values()])
        except RequestError as error:
            self._matchers.clear()
            self._attempt.warn(f"the problem matchers are not used any more: {error.message}", CODE)
            return
        for failure in found[:MOST_ANNOTATIONS]:
            self._attempt.fact("finding", plain(failure), CODE)

    def _run_program(
        self, step: Step, command: Command, on_output: OnOutput, cancel: Cancel
    ) -> tuple[Exit, Mapping[str, Sequence[bytes]]]:
        session, request = self._open_job.session, self._open_job.request
        if step.kind == "checkout" and self._job.no_checkout and (made := self._checkout(step)).target:
            exit_ = self._bring(made, on_output, cancel)
            if exit_.status is not Status.SUCCESS:
                return exit_, {}
        if step.kind == "node":
            return self._run_node(command, on_output, cancel), session.reported()
        if step.kind != "docker":
            return session.run(command, on_output, cancel), session.reported()
        asked = container_of(
            step,
            environment=self._environment(step),
            own=self._view.of_action().text,
            given=self._view.text,
            reports=FILES,
            workspace=request.workspace if request.mount_mode is MountMode.BIND else self._snapshot,
            event=(self._job.github or {}).get("event") or {},
            timeout_s=command.timeout_s,
        )
        return self._provider.run_beside(request, session, asked, on_output, cancel)

    def _run_node(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        """Run an action's program. ImageError where there is no Node for it, which is no failure of the job."""
        last = b""

        def listen(stream: Stream, data: bytes) -> None:
            nonlocal last
            last = data
            on_output(stream, data)

        exit_ = self._open_job.session.run(command, listen, cancel)
        if exit_.code == 127 and last.startswith(NO_NODE):
            raise ImageError(last.decode().strip().removeprefix("loom: "), code="NODE_MISSING")
        return exit_

    def _read_files(self, step: Step, reported: Mapping[str, Sequence[bytes]]) -> None:
        result = self._result
        env, saved, outputs = dict(result.env), dict(result.saved), dict(result.outputs)
        for name, values in (("env", env), ("saved", saved), ("output", outputs)):
            try:
                for key, value in values_of(reported.get(name, ())):
                    if name == "output" and not key:  # as on GitHub, where a variable or state may have no name
                        raise InvalidFile(f"Invalid format '={value}'")
                    values[key] = value
            except InvalidFile as error:  # what stands above, and in the other files, counts
                self._failed_by = str(error)
        for key in [key for key in env if key.upper() == "NODE_OPTIONS"]:  # as on GitHub, the step continues
            self._attempt.warn(f"{step.id}: Can't store {key} output parameter using '$GITHUB_ENV' command.", CODE)
            del env[key]
        env.pop("", None)
        path = (*result.path, *paths_of(reported.get("path", ())))
        try:
            summary = summary_of(reported.get("summary", ()))
        except InvalidFile as error:  # as on GitHub, the step succeeds
            self._attempt.warn(f"{step.id}: {error}", CODE)
            summary = ""
        self._result = replace(result, outputs=outputs, env=env, saved=saved, path=path, summary=summary)

    def _do_command(self, step: Step, found: WorkflowCommand) -> None:
        match found.name:
            case "error" | "warning" | "notice":
                self._annotate(step, found)
            case "add-mask":
                for part in {found.value, *found.value.splitlines()} - {""}:
                    self._mask(step, "MASK", part, "a value of add-mask")
            case "set-env" | "add-path" if self._view.env.get(_UNSECURE, "").lower() != "true":
                self._failed_by = f"The `{found.name}` command is disabled. Please upgrade to using Environment Files."
            case "add-path":
                self._result = replace(self._result, path=(*self._result.path, found.value))
            case "set-output" | "save-state" | "set-env":
                part = _PARTS[found.name]
                values = {**getattr(self._result, part), found.properties.get("name", ""): found.value}
                self._result = replace(self._result, **{part: values})
                if found.name not in self._told:
                    self._told[found.name] = 1
                    text = f"{step.id}: the `{found.name}` command is deprecated: write to a file instead"
                    self._attempt.warn(text, CODE)
            case "add-matcher":
                self._add_matchers(step, found.value.strip())
            case "remove-matcher":
                self._matchers.pop(found.properties.get("owner", ""), None)
                if self._filter is not None and not self._matchers:
                    self._filter.look = None
            case _:
                pass  # `group`, `debug` and `echo` change only how the output is shown

    def _annotate(self, step: Step, found: WorkflowCommand) -> None:
        self._told[found.name] = self._told.get(found.name, 0) + 1
        if self._told[found.name] > MOST_ANNOTATIONS:
            return
        given = found.properties
        line, column = line_number(given.get("line")), line_number(given.get("col"))
        data = {
            "step": step.id,
            "level": found.name,
            "message": found.value[:MOST_CHARACTERS],
            "title": given.get("title"),
        }
        self._attempt.fact("annotation", {**data, "file": given.get("file"), "line": line, "column": column}, CODE)

    def _add_matchers(self, step: Step, path: str) -> None:
        heard: dict[str, bytes] = {"stdout": b"", "stderr": b""}

        def keep(stream: str, data: bytes) -> None:
            heard[stream] += data

        try:
            inside = self._open_job.session.inside(self._environment(step))
            if inside.exec(["cat", path], keep, self._cancel, timeout_s=10, stdin=False).code != 0:
                raise ValueError(heard["stderr"].decode("utf-8", "replace").strip() or "the file can't be read")
            added = {each.format.name: each for each in limited(formats(heard["stdout"]), path)}
        except (InfrastructureError, ValueError) as error:
            self._attempt.warn(f"{step.id}: the problem matchers of {path} are not used: {error}", CODE)
            return
        self._matchers |= added
        if self._filter is not None:
            self._filter.look = self._heard.append

    def _hash_files(self, patterns: Sequence[str]) -> str:
        """Return the hash of the files that match, as GitHub's `hashFiles` makes it; empty if none does."""
        root = f"{self._open_job.request.project_dir}/"
        lines = [line.strip() for pattern in patterns for line in pattern.splitlines() if line.strip()]
        wanted = [line.removeprefix(root).removeprefix("./") for line in lines if not line.startswith("!")]
        without = [line[1:].removeprefix(root).removeprefix("./") for line in lines if line.startswith("!")]
        try:
            selection = PathSelection(wanted, without)
        except UnsafePath as error:
            raise InvalidExpression(f"hashFiles: {error}") from error
        found: dict[str, bytes] = {}
        for entry, content in view_of(self._open_job.session.files()).read(selection, lambda _: None):
            if content is not None:
                found[entry.path] = digest_of(content).digest()
        whole = hashlib.sha256(b"".join(found[path] for path in sorted(found)))
        return whole.hexdigest() if found else ""


def shell_of(text: str, *, bash: bool) -> tuple[str, ...]:
    """Return the command for a step's `shell`. InvalidExpression for one that can't be here."""
    if not text:
        return ("bash", "-e", "{0}") if bash else SHELLS["sh"]
    if text in SHELLS:
        return SHELLS[text]
    if text in ("cmd", "powershell"):
        raise InvalidExpression(f"shell: {text} is only on Windows")
    if "{0}" not in text:
        raise InvalidExpression(
            f"shell: {text}: Invalid shell option. Shell must be a valid built-in (bash, sh, cmd, powershell, pwsh) or a"
            " format string containing '{0}'"
        )
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidExpression(f"shell: {text}: {error}") from error
