"""The plan of a run: made from its workflow, or the one that an earlier run has kept.

Reading a workflow takes 0.1 s, most of it imports. A kept plan counts only if all that went into it is the same (`_Kept`, and
`Planner._given`). A plan of files from outside the checkout is not kept. Decisions on trust are no part of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import loom
from loom.commands.project import Here
from loom.errors import InfrastructureError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.record.saved_plan import check_consistent
from loom.util import atomic, typed
from loom.util.private import make_private, own_state
from loom.util.untrusted_files import open_regular
from loom.workflow.predefined import KNOWN_TO_PLANS

if TYPE_CHECKING:
    from loom.workflow.loaded import Loaded

T = TypeVar("T")
_MOST = 100
"""Kept plans of all repositories; the oldest go first."""
_MAX_BYTES = 32 << 20


class _Kept(Struct, frozen=True, kw_only=True):
    given: str
    """The inputs of the plan that are known before the workflow is read (`Planner._given`)."""
    files: Mapping[str, str]
    """The digest of each file of the workflow by its path: of where it is after all links, and of its content."""
    templates: str
    """The names in the folder of includes, if the workflow includes any, or of the workflow's files."""
    variables: Mapping[str, str | None]
    """The variables of loom's that the workflow mentions; None: not set."""
    changed: tuple[tuple[str | None, str], ...]
    """git's answers, by the commit compared with."""
    listed: str | None
    """The list of all files, if a rule asked for it."""
    plan: Plan
    notices: tuple[str, ...]


class Planner:
    """Makes the plan of the workflow at `path`, by the project's configuration, a selection and facts about the checkout.

    `keeping`: use plans that earlier runs have kept, and keep this one.
    """

    def __init__(
        self, path: Path, here: Here, selection: JobSelection, context: ResolveContext, *, keeping: bool
    ) -> None:
        self._path = path
        self._here = here
        self.selection = selection
        self.context = context
        self._keeping = keeping
        self._changed: dict[str | None, str] = {}
        self._listed: str | None = None
        self._elsewhere = False
        """Whether the plan has files from outside the checkout."""
        self.asks_for_changes = True
        """Whether a rule may look at `changes`; known when the plan is made."""

    @cached_property
    def workflow(self) -> Loaded:
        """The workflow, read when it is first needed. Raises the errors of `load`."""
        return self._fresh.load(self._here, self._path, self._asked)  # type: ignore[no-any-return]

    @property
    def _fresh(self) -> ModuleType:
        """The module that makes plans, which is imported only where it is needed."""
        from loom.commands.plan import planning

        return planning

    def made(self) -> tuple[Plan, tuple[str, ...]]:
        """Return the plan, and the warnings about its jobs. RequestError and WorkflowError as in `load` and `resolve`."""
        if not self._keeping:
            return self._resolved(self.context)
        kept = self._found()
        if kept is not None:
            self.asks_for_changes = bool(kept.changed)
            return kept.plan, kept.notices
        plan, notices = self._resolved(self._asked())
        self.asks_for_changes = bool(self._changed)
        self._keep(plan, notices)
        return plan, notices

    def _resolved(self, context: ResolveContext) -> tuple[Plan, tuple[str, ...]]:
        loaded = self.workflow
        plan = self._fresh.resolve(loaded, self.selection, context)
        return plan, self._fresh.notices_of(loaded, plan, self.selection)

    def with_changed(self, changed: Callable[[str | None], Iterable[str] | None]) -> Plan:
        """Return the plan as it would be with other answers to `changes`. WorkflowError as in `resolve`."""
        plan: Plan = self._fresh.resolve(self.workflow, self.selection, replace(self.context, changed=changed))
        return plan

    def _asked(self) -> ResolveContext:
        """Return the context; what the plan asks it for is noted."""
        context = self.context

        def changed(base: str | None) -> Iterable[str] | None:
            found = context.changed(base)
            answer = None if found is None else list(found)
            self._changed[base] = _digest_of(answer)
            return answer

        def files() -> Iterable[str]:
            answer = list(context.files())
            self._listed = _digest_of(answer)
            return answer

        def elsewhere(get: Callable[[], T]) -> T:
            self._elsewhere = True
            return get()

        others = {
            "sources": partial(elsewhere, context.sources),
            "repositories": partial(elsewhere, context.repositories),
        }
        return replace(context, changed=changed, files=files, **others)

    # -- kept plans -----------------------------------------------------------------------------------------------

    @cached_property
    def _given(self) -> str:
        return _digest_of(
            [
                loom.__version__,
                _code(),
                str(self._here.root),
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
    def _folder(self) -> Path:
        return self._here.config.state_dir / "plans"

    def _mentioned(self, names: Iterable[str]) -> dict[str, str | None] | None:
        """Return the values of these variables; None if there are variables that no workflow was searched for."""
        predefined = self.context.predefined
        return {name: predefined.get(name) for name in names} if predefined.keys() <= {*KNOWN_TO_PLANS} else None

    def _found(self) -> _Kept | None:
        """Return the kept plan if everything that went into it is the same; whatever is wrong with it, None."""
        try:
            own_state(self._folder.parent)
            with open_regular(self._folder / f"{self._given[:40]}.json") as file:
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077 or status.st_size > _MAX_BYTES:
                    return None
                kept = typed.decode(file.read(), _Kept)
            check_consistent(kept.plan)
            return kept if self._still_holds(kept) else None
        except (OSError, ValueError, RecursionError, InfrastructureError):
            return None

    def _still_holds(self, kept: _Kept) -> bool:
        return (
            kept.given == self._given
            and all(_file(Path(path), Path(path).read_bytes()) == digest for path, digest in kept.files.items())
            and kept.templates == self._names(len(kept.files))
            and self._mentioned(kept.variables) == kept.variables
            and all(_digest_of(self.context.changed(base)) == answer for base, answer in kept.changed)
            and (kept.listed is None or kept.listed == _digest_of(self.context.files()))
        )

    def _names(self, files: int) -> str:
        if self._path.is_dir():
            return _names_below(self._path)
        return _names_below(self._here.root / ".loom/templates") if files > 1 else ""

    def _keep(self, plan: Plan, notices: tuple[str, ...]) -> None:
        """Keep the plan for later runs; nothing happens where that is impossible."""
        try:
            kept = self._kept(plan, notices)
            encoded = msgspec.json.encode(kept)
            if kept is None or typed.decode(encoded, _Kept) != kept:
                return
            make_private(self._folder.parent)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            atomic.write(self._folder / f"{self._given[:40]}.json", encoded, mode=0o600)
            for _, path in sorted((entry.stat().st_mtime, entry.path) for entry in os.scandir(self._folder))[:-_MOST]:
                Path(path).unlink(missing_ok=True)
        except (OSError, ValueError, RecursionError):
            return

    def _kept(self, plan: Plan, notices: tuple[str, ...]) -> _Kept | None:
        """Return the form in which a plan is kept; None if other runs can't use it, or if its files have changed meanwhile."""
        loaded, root, config = self.workflow, self._here.root, self._here.config
        if self._elsewhere:
            return None
        read = [(self._path if file.name == loaded.path else root / file.name, file.text) for file in loaded.files]
        if config.gitlab.variables is not None:
            read.append((config.gitlab.variables, config.gitlab.variables.read_text()))
        others = [*(text for _, text in read), *self.context.inputs.values()]
        asked = self._fresh.mentioned(loaded, KNOWN_TO_PLANS, others)
        variables = self._mentioned(asked)
        if variables is None or any(path.read_bytes() != text.encode() for path, text in read):
            return None
        files = {str(path): _file(path, text.encode()) for path, text in read}
        return _Kept(
            given=self._given,
            files=files,
            templates=self._names(len(files)),
            variables=variables,
            changed=tuple(self._changed.items()),
            listed=self._listed,
            plan=plan,
            notices=notices,
        )


def _file(path: Path, content: bytes) -> str:
    return _digest_of([os.path.realpath(path), hashlib.sha256(content).hexdigest()])


def _names_below(folder: Path) -> str:
    """Return the digest of all names below, with what each is after its links."""

    def names() -> Iterator[tuple[str, str, bool]]:
        for directory, folders, files in os.walk(folder):
            for name in (*folders, *files):
                path = os.path.join(directory, name)  # noqa: PTH118  of thousands
                yield path, os.path.realpath(path), os.path.isfile(path)  # noqa: PTH113

    return _digest_of(sorted(names()))


def _code() -> str:
    """Return the digest of the modules that plans are made by, by size and time: an installed loom changes in development."""
    here = Path(loom.__file__).parent
    below = (Path(path) for name in ("plan", "workflow") for path, _, _ in os.walk(here / name))
    folders = (here, here / "util", *below)
    entries = (entry for folder in folders for entry in os.scandir(folder) if entry.name.endswith(".py"))
    return _digest_of(sorted((entry.path, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries))


def _digest_of(value: Any) -> str:
    """Return the digest of this value. ValueError for text that is not UTF-8."""
    return hashlib.sha256(msgspec.json.encode(value, enc_hook=str, order="deterministic")).hexdigest()
