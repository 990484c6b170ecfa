"""The plan of a run: made from its workflow, or the one that an earlier run has kept.

Reading a workflow takes 0.06 s, most of it imports: a tenth of a run of one job. A kept plan counts only if all that went into it
is the same (`_Kept.answers`, and `Planner._given`). A plan of files from outside the checkout is not kept. Decisions on trust are
no part of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import cache, cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

import loom
from loom.commands.project import Project
from loom.errors import InfrastructureError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.record.run import check_consistent
from loom.util import atomic, typed
from loom.util.digests import value_digest
from loom.util.private import check_private, make_private
from loom.util.untrusted_files import read_regular
from loom.values import Immutable
from loom.workflow.predefined import KNOWN_TO_PLANS

if TYPE_CHECKING:
    from loom.workflow.loaded import Loaded

T = TypeVar("T")
_MOST = 100
"""Kept plans of all repositories; the oldest go first."""
_MAX_BYTES = 32 << 20


class _Kept(Immutable):
    answers: tuple[tuple[str, str | None, str], ...]
    """The question's kind and subject, and the digest of its answer, for each question of the plan (`Planner._answer`)."""
    plan: Plan
    notices: tuple[str, ...]


class Planner:
    """Makes the plan of the workflow at `path`, by the project's configuration, a selection and facts about the checkout.

    `keeping`: use plans that earlier runs have kept, and keep this one; not with variables that no workflow is searched for.
    """

    def __init__(
        self, path: Path, project: Project, selection: JobSelection, context: ResolveContext, *, keeping: bool
    ) -> None:
        self._path = path
        self._project = project
        self.selection = selection
        self.context = context
        self._keeping = keeping and context.predefined.keys() <= {*KNOWN_TO_PLANS}
        self._answers: dict[tuple[str, str | None], str] = {}
        self._elsewhere = False
        """Whether the plan has files from outside the checkout."""
        self.asks_for_changes = True
        """Whether a rule may look at `changes`; known when the plan is made."""

    @cached_property
    def workflow(self) -> Loaded:
        """The workflow, read when it is first needed. Raises the errors of `load`."""
        return self._fresh.load(self._project, self._path, self._asked)  # type: ignore[no-any-return]

    @property
    def _fresh(self) -> ModuleType:
        """The module that makes plans, which is imported only where it is needed."""
        from loom.commands.plan import planning

        return planning

    def made(self) -> tuple[Plan, tuple[str, ...]]:
        """Return the plan, and the warnings about its jobs. RequestError and WorkflowError as in `load` and `resolve`."""
        if not self._keeping:
            return self._resolved(self.context)
        if (kept := self._found()) is not None:
            self.asks_for_changes = any(kind == "changed" for kind, *_ in kept.answers)
            return kept.plan, kept.notices
        plan, notices = self._resolved(self._asked())
        self.asks_for_changes = any(kind == "changed" for kind, _ in self._answers)
        if not self._elsewhere:
            self._keep(plan, notices)
        return plan, notices

    def without_repositories(self) -> tuple[Plan, tuple[str, ...]]:
        """Return the same as `made` without what comes from other repositories: actions, and the jobs of called workflows."""
        return self._resolved(replace(self.context, repositories=lambda: None))

    def without_includes(self) -> Plan:
        """Return all sound jobs, whatever their rules, without what is included from elsewhere. WorkflowError as in `load`."""
        plan: Plan = self._fresh.without_includes(self._project, self._path, self.context)
        return plan

    def _resolved(self, context: ResolveContext) -> tuple[Plan, tuple[str, ...]]:
        loaded = self.workflow
        plan = self._fresh.resolve(loaded, self.selection, context)
        is_default = self._path == self._project.workflow(None)
        return plan, self._fresh.notices_of(loaded, plan, self.selection, is_default=is_default)

    def with_changed(self, changed: Callable[[str | None], Iterable[str] | None]) -> Plan:
        """Return the plan as it would be with other answers to `changes`. WorkflowError as in `resolve`."""
        plan: Plan = self._fresh.resolve(self.workflow, self.selection, replace(self.context, changed=changed))
        return plan

    def _asked(self) -> ResolveContext:
        """Return the context; what the plan asks it for is noted."""

        def elsewhere(get: Callable[[], T]) -> T:
            self._elsewhere = True
            return get()

        return replace(
            self.context,
            changed=partial(self._noted, "changed"),
            files=partial(self._noted, "files"),
            sources=partial(elsewhere, self.context.sources),
            repositories=partial(elsewhere, self.context.repositories),
        )

    # -- kept plans -----------------------------------------------------------------------------------------------

    def _noted(self, kind: str, subject: str | None = None) -> Any:
        answer = self._answer(kind, subject)
        self._answers[kind, subject] = value_digest(answer)
        return answer

    def _answer(self, kind: str, subject: str | None) -> Any:
        """Return the answer, as it is now, to a question that a plan may depend on."""
        match kind:
            case "file":
                return _file(str(subject), Path(str(subject)).read_bytes())
            case "names":
                return _names_below(str(subject))
            case "variable":
                return self.context.predefined.get(str(subject))
            case "files":
                return list(self.context.files())
            case _:
                found = self.context.changed(subject)
                return None if found is None else list(found)

    @cached_property
    def _given(self) -> str:
        """The digest of the inputs of the plan that are known before the workflow is read."""
        return value_digest(
            [
                loom.__version__,
                _code(),
                str(self._project.root),
                str(self._path),
                self.selection,
                self.context.config,
                self.context.host_project_dir,
                self.context.inputs,
                self.context.event_payload,
                self.context.changes_base,
            ]
        )

    @property
    def _file(self) -> Path:
        return self._project.config.state_dir / "plans" / f"{self._given[:40]}.json"

    def _found(self) -> _Kept | None:
        """Return the kept plan if everything that went into it is the same; whatever is wrong with it, None."""
        try:
            check_private(self._file.parent)
            kept = typed.decode(read_regular(self._file, at_most=_MAX_BYTES), _Kept)
            check_consistent(kept.plan)
            same = all(value_digest(self._answer(kind, subject)) == answer for kind, subject, answer in kept.answers)
            return kept if same else None
        except (OSError, ValueError, RecursionError, InfrastructureError):
            return None

    def _keep(self, plan: Plan, notices: tuple[str, ...]) -> None:
        """Keep the plan for later runs; nothing happens where that is impossible."""
        try:
            asked, self._answers = self._answers, {}
            self._note_workflow()
            answers = ((*question, answer) for question, answer in {**self._answers, **asked}.items())
            kept = _Kept(answers=tuple(answers), plan=plan, notices=notices)
            encoded = msgspec.json.encode(kept)
            # JSON has no infinite number. (Without the types, for which msgspec takes milliseconds.)
            if msgspec.json.decode(encoded) != msgspec.msgpack.decode(msgspec.msgpack.encode(kept)):
                return
            make_private(self._file.parent)
            atomic.write_among(self._file, encoded, most=_MOST)
        except (OSError, ValueError, OverflowError, RecursionError):
            return

    def _note_workflow(self) -> None:
        """Note the files that were read, with what was read in them, and loom's variables that they mention."""
        loaded, root, config = self.workflow, self._project.root, self._project.config
        read = [(self._path if file.name == loaded.path else root / file.name, file.text) for file in loaded.files]
        if config.gitlab.variables is not None:
            read.append((config.gitlab.variables, config.gitlab.variables.read_text()))
        for path, text in read:
            self._answers["file", str(path)] = value_digest(_file(str(path), text.encode()))
        if self._path.is_dir() or len(read) > 1:
            self._noted("names", str(self._path if self._path.is_dir() else root / ".loom/templates"))
        others = [*(text for _, text in read), *self.context.inputs.values()]
        for name in self._fresh.mentioned(loaded, KNOWN_TO_PLANS, others):
            self._noted("variable", name)


def _file(path: str, content: bytes) -> tuple[str, str]:
    """Return where a file is after all links, and the digest of its content."""
    return os.path.realpath(path), hashlib.sha256(content).hexdigest()


def _names_below(folder: str) -> list[tuple[str, str, bool]]:
    """Return all paths below, with what each is after its links."""
    paths = (
        os.path.join(directory, name)  # noqa: PTH118  of thousands
        for directory, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )
    return sorted((path, os.path.realpath(path), os.path.isfile(path)) for path in paths)  # noqa: PTH113


@cache
def _code() -> str:
    """Return the digest of the modules that plans are made by, by size and time: an installed loom changes in development."""
    here = Path(loom.__file__).parent
    below = (Path(path) for name in ("plan", "workflow") for path, _, _ in os.walk(here / name))
    folders = (here, here / "util", *below)
    entries = (entry for folder in folders for entry in os.scandir(folder) if entry.name.endswith(".py"))
    return value_digest(sorted((entry.path, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries))
