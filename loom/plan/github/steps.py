"""The steps of a job in one flat list: actions with their stages, composite actions with their steps between two of their own."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import Problem
from loom.plan import model as p
from loom.plan.github.actions import ActionFile, BadAction, NoServer, NotInProject
from loom.plan.late import Action
from loom.util.budget import spend
from loom.util.yaml_file import Node, fields_of, line_in_file, text_of
from loom.workflow.github import expressions, yaml
from loom.workflow.github.expressions import json_value
from loom.workflow.job_ids import unique_id

MOST_LEVELS = 9
"""Composite actions inside of each other, as on GitHub."""
_RETIRED = re.compile(
    r"actions/((up|down)load-artifact(/merge)?@v[1-3]|cache(/(save|restore))?@v[12])(\.|$)", re.IGNORECASE
)
"""Actions that talk to services which are no more."""
_CHECKOUT = re.compile(r"actions/checkout@\S+", re.IGNORECASE)


_OF_CHECKOUT = (
    "repository", "ref", "token", "ssh-key", "ssh-known-hosts", "ssh-strict", "ssh-user", "persist-credentials", "path",
    "clean", "filter", "sparse-checkout", "sparse-checkout-cone-mode", "fetch-depth", "fetch-tags", "show-progress", "lfs",
    "submodules", "set-safe-directory", "github-server-url",
)  # fmt: skip
"""The inputs of actions/checkout, which is not fetched."""


class _Draft(Struct, kw_only=True):
    step: p.Step
    """Without its number."""
    main: _Draft | None = None


class StepList(Struct):
    """Collects the steps of one job. `refused`: a step that can't run here, with the reason; `skips`: whether one never runs."""

    read: Callable[[str, str], ActionFile]
    fetch: Callable[[Mapping[str, str]], Action | None]
    """Return the other repository that the inputs of a checkout name."""
    defaults: Mapping[str, str]
    refused: Callable[[Node, str], None]
    skips: Callable[[Node], bool]
    taken: set[str] = set()
    """The names that scopes have, in lower case."""
    unexpected: dict[Problem, None] = {}
    unreachable: list[str] = []
    _pre: list[_Draft] = []
    _main: list[_Draft] = []
    _post: list[_Draft] = []
    _checkouts: dict[str, Action | None] = {}
    """The paths of checkouts, with the other repository that each is of."""

    def steps(self, first: int = 1) -> tuple[p.Step, ...]:
        """Return them in the order in which they run: post steps in the reverse one. `first`: their first number."""
        drafts = [*self._pre, *self._main, *reversed(self._post)]
        numbers = {id(draft): number for number, draft in enumerate(drafts, start=first)}
        found = []
        for draft in drafts:
            step = replace(draft.step, number=numbers[id(draft)])
            if draft.main is not None:
                step = replace(step, main=replace(step, number=numbers[id(draft.main)]).id)
            found.append(step)
        return tuple(found)

    def add(self, step: Node, scope: tuple[str, ...] = ()) -> None:
        spend("steps", step)
        common: dict[str, Any] = {
            "key": text_of(step, "id"),
            "name": text_of(step, "name"),
            "scope": scope,
            "condition": text_of(step, "if"),
            "env": texts_of(step, "env"),
            "continue_on_error": text_of(step, "continue-on-error"),
            "timeout_minutes": text_of(step, "timeout-minutes"),
        }
        if (run := step.get("run")) is not None:
            defaults = {} if scope else self.defaults
            shell, directory = (text_of(step, key) or defaults.get(key, "") for key in ("shell", "working-directory"))
            made = _step(run, text_of(run), shell=shell, working_directory=directory, **common)
            self._main.append(_Draft(step=made))
        elif (uses := step.get("uses")) is not None:
            self.use(text_of(uses), uses, texts_of(step, "with"), common, never=not scope and self.skips(step))

    def use(
        self, written: str, node: Node, given: Mapping[str, str], common: Mapping[str, Any], *, never: bool = False
    ) -> None:
        """Add what an action becomes; `common`: the fields that all its steps have; `never`: they do not run."""
        if _CHECKOUT.fullmatch(written):
            if re.search(r"@v1\b", written):
                given = {"fetch-depth": "0", **given}  # its default
            common = {**common, "unexpected": self._unexpected(written, node, given, _OF_CHECKOUT, common["scope"])}
            try:
                made = _step(node, written, kind="checkout", inputs=given, action=self.fetch(given), **common)
            except BadAction as error:
                self._refuse_action(node, f"{written}: repository: ", error)
                return
            self._main.append(_Draft(step=made))
            if (path := made.checkout_path) == "." and given.get("clean") != "false":
                self._checkouts.clear()  # as it removes what they have made
            if path != "." or made.action is not None:
                self._checkouts[path] = made.action
            return
        if _RETIRED.match(written):
            self.refused(node, f"uses: {written}: GitHub fails each job that uses it, as retired; take v4 or newer")
            return
        try:
            found = self._found(written)
        except BadAction as error:
            if not never and isinstance(error, NotInProject) and self._main:
                self._written(written, node, given, common, error)
                return
            if not never:
                self._refuse_action(node, "", error)
                return
            found = ActionFile(action=Action(uses=written, using="composite"))
        inputs = _inputs(found, given)
        valid = (*found.inputs, "entryPoint", "args") if found.action.using == "docker" else tuple(found.inputs)
        if found.is_described:
            common = {**common, "unexpected": self._unexpected(written, node, given, valid, common["scope"])}
        if found.action.using == "composite":
            if len(common["scope"]) >= MOST_LEVELS:
                self.refused(node, f"uses: {written}: more than {MOST_LEVELS} composite actions use each other")
                return
            self._compose(found, written, node, inputs, common)
            return
        kind: Any = "docker" if found.action.using == "docker" else "node"
        values = {**common, "inputs": inputs, "kind": kind}
        main = _Draft(step=_step(node, written, action=_stage_action(found, found.main, inputs), **values))
        self._main.append(main)
        values |= {"key": "", "continue_on_error": "", "unexpected": ""}
        for stage, entry, condition, drafts in (
            ("pre", found.pre, found.pre_if, self._pre),
            ("post", found.post, found.post_if, self._post),
        ):
            if stage == "pre" and written.startswith("./"):  # GitHub has no file of the project before the job's steps
                continue
            if entry:
                values |= {"stage": stage, "condition": condition}
                own = _step(node, written, action=_stage_action(found, entry, {}), **values)
                drafts.append(_Draft(step=own, main=main))

    def _written(
        self, written: str, node: Node, given: Mapping[str, str], common: Mapping[str, Any], error: BadAction
    ) -> None:
        """Add a step with an action that a step before has to write."""
        action = Action(uses=written, path=posixpath.normpath(written))
        made = _step(node, written, kind="written", inputs=given, action=action, **common)
        self._main.append(_Draft(step=made))
        text = f"uses: {error}: a step before has to write it"
        self.unexpected[node.file.problem(node, text, code=yaml.CODE, severity="warning")] = None

    def _refuse_action(self, node: Node, what: str, error: BadAction) -> None:
        """Refuse a step; note where the server does not answer, which ends the run before its first job."""
        if isinstance(error, NoServer):
            self.unreachable.append(f"{node.position}: uses: {what}{error}")
        self.refused(node, f"uses: {what}{error}")

    def _unexpected(
        self, written: str, node: Node, given: Iterable[str], valid: Sequence[str], scope: Sequence[str]
    ) -> str:
        """Return GitHub's warning of inputs that an action does not have; keep it for the check of the job's own steps."""
        known = {name.lower() for name in valid}
        if not (unknown := [name for name in given if name.lower() not in known]):
            return ""
        found = f"Unexpected input(s) {_quoted(unknown)}, valid inputs are [{_quoted(valid)}]"
        if not scope:
            problem = node.file.problem(node, f"uses: {written}: {found}", code=yaml.CODE, severity="warning")
            self.unexpected[problem] = None
        return found

    def _found(self, written: str) -> ActionFile:
        """Read an action, also one below the path of a checkout, whose files are the project's or another repository's."""
        path = written.removeprefix("./")
        for checkout, other in reversed(self._checkouts.items()):
            if path != written and (checkout == "." or f"{path}/".startswith(f"{checkout}/")):
                if other is not None and not other.directory:  # nothing is fetched to check a file
                    return ActionFile(action=Action(uses=written, using="composite"))
                directory = other.directory if other is not None else ""
                below = path if checkout == "." else path.removeprefix(checkout).strip("/")
                found = self.read(f"./{below}", directory)
                return replace(found, action=replace(found.action, uses=written, path=path))
        return self.read(written, "")

    def _compose(
        self, found: ActionFile, written: str, node: Node, inputs: Mapping[str, str], common: Mapping[str, Any]
    ) -> None:
        name = common["key"] or re.sub(r"[^A-Za-z0-9_-]+", "-", written).strip("-")
        own = unique_id(name, self.taken)
        enter = _step(node, written, kind="enter", inputs=inputs, action=found.action, **common)
        self._main.append(_Draft(step=enter))
        for step in found.steps:
            self.add(step, (*common["scope"], own))
        leave = replace(enter, kind="leave", outputs=found.outputs, unexpected="")
        self._main.append(_Draft(step=leave))


def _step(node: Node, script: str, **own: Any) -> p.Step:
    """Return the step that a node of the workflow writes, still without its number."""
    line, literal = line_in_file(node, 1), node.style == "|"
    return p.Step(phase="script", number=0, script=script, file=node.file.name, line=line, literal=literal, **own)


def _stage_action(found: ActionFile, entry: str, inputs: Mapping[str, str]) -> Action:
    """Return the action of one stage; `inputs` may have another entrypoint and other arguments for a container."""
    if found.action.using != "docker":
        return replace(found.action, entry=entry)
    args = (inputs["args"],) if "args" in inputs else found.args
    return replace(found.action, entrypoint=inputs.get("entrypoint") or entry, args=args)


def _inputs(found: ActionFile, given: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs of a step, completed by defaults; their names count without regard to case."""
    declared = {name.lower(): name for name in found.inputs}
    named = {declared.get(name.lower(), name): text for name, text in given.items()}
    return {**{name: text for name, text in found.inputs.items() if text is not None}, **named}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def texts_of(node: Node | None, *path: str) -> dict[str, str]:
    """Return a mapping of texts with their expressions; numbers are those of the language: 1 for 1.0."""
    return {name: expressions.text_of(json_value(one.value)) for name, one in fields_of(node, *path).items()}
