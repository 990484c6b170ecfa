"""Runs of real repositories in this process, on the host or on a provider of the tests: what the record says of them."""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import pytest
from msgspec.structs import replace

from loom import providers
from loom.cancel import Cancel
from loom.commands.plan.plan_run import plan_run
from loom.commands.plan.wiring import run_tools
from loom.providers.host import HostProvider
from loom.record.event_files import read_events, read_phases
from loom.record.events import OutputEvent, PhaseEvent
from loom.record.fold import JobState
from loom.record.reader import Reading
from loom.record.request import Request
from loom.record.run import Run
from loom.record.store import Store
from loom.runner import api
from loom.runner.prewarmed import NextRun
from loom.runner.tools import RunResult
from loom.status import Status
from loom.util import controls, masking
from tests.support.repository import commit_all

Make = Callable[..., "Project"]


@dataclass(frozen=True)
class Ran:
    """A finished run, by its record."""

    code: int
    reading: Reading
    events: Sequence[PhaseEvent]
    result: RunResult

    @property
    def workspace(self) -> Path:
        return Path(str(self.reading.fold.started["workspace"]))

    @property
    def statuses(self) -> dict[str, str]:
        """By job; what failed and may fail has a `?`."""
        jobs = self.reading.fold.jobs.values()
        return {job.id: f"{(job.status or Status.ERROR).value}{'?' if job.allowed_failure else ''}" for job in jobs}

    def job(self, job_id: str) -> JobState:
        return self.reading.fold.jobs[job_id]

    def error(self, job_id: str) -> str:
        result = self.job(job_id).end
        assert result is not None
        return result.error or ""

    def facts(self, name: str, job_id: str | None = None) -> list[Mapping[str, Any]]:
        return [event.data for event in self.events if event.message == name and event.job_id == job_id]

    def warnings(self, job_id: str | None = None) -> list[str]:
        return [str(fact["text"]) for fact in self.facts("warning", job_id)]

    def notices(self) -> list[str]:
        return [str(fact["text"]) for fact in self.facts("notice")]

    def lines(self, job_id: str, name: str = "script/01", *, attempt: int | None = None) -> list[str]:
        """What a step printed, or a section (its name)."""
        units = [unit for unit in self.reading.units(job_id) if name in (unit.step, unit.section)]
        files = [unit.events for unit in units if attempt in (None, unit.attempt) and unit.events.exists()]
        found = [event for file in files for event in read_events(file)]
        return [event.text for event in found if isinstance(event, OutputEvent)]


@dataclass(frozen=True)
class Project:
    root: Path
    home: Path

    @property
    def store(self) -> Store:
        return Store(self.home / "state")

    def planned(
        self,
        *names: str,
        tools: Callable[[Any], Any] = lambda tools: tools,
        cancel: Cancel | None = None,
        sinks: Sequence[Any] = (),
        **options: Any,
    ) -> tuple[Run, Any]:
        request = Request.of({"names": names, "trust": True, "container": "on" in options, **options})
        here, run = plan_run(request, ask=False)
        return run, tools(run_tools(here, run, cancel or Cancel(), sinks))

    def run(self, *names: str, code: int | None = 0, **options: Any) -> Ran:
        """Run jobs, as `loom run` with these options; the exit code must be `code` (None: whatever)."""
        return self.execute(*self.planned(*names, **options), code=code)

    def last(self) -> Ran:
        """Return the last run that another command made."""
        reading = Reading(self.store.find("last", repo_root=self.root))
        return Ran(
            code=reading.receipt().exit_code,
            reading=reading,
            events=list(read_phases(reading.paths)),
            result=cast("RunResult", None),
        )

    def execute(self, run: Run, tools: Any, prepared: NextRun | None = None, *, code: int | None = 0) -> Ran:
        result = api.execute(run, tools, prepared)
        reading = Reading(self.store.entry(run.run_id))
        events = list(read_phases(reading.entry.paths))
        assert code is None or result.receipt.exit_code == code, (result.receipt, [e for e in events if e.error])
        return Ran(code=result.receipt.exit_code, reading=reading, events=events, result=result)


def on(provider: Any, name: str = "host") -> Callable[[Any], Any]:
    """Return a change of a run's tools: `provider` is the one that has this name."""
    return lambda tools: replace(tools, providers={**tools.providers, name: provider})


class Session:
    """A session of which some methods are replaced."""

    def __init__(self, session: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, _session=session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Replaced(HostProvider):
    """The provider of this machine, with other methods in its sessions."""

    def __init__(self, **replaced: Any) -> None:
        super().__init__(os.environ)
        self.replaced = replaced

    def open(self, *arguments: Any, **named: Any) -> Any:
        return _Opening(super().open(*arguments, **named), self.replaced)


class _Opening:
    def __init__(self, opening: Any, replaced: dict[str, Any]) -> None:
        self.opening, self.replaced = opening, replaced

    def __enter__(self) -> Session:
        return Session(self.opening.__enter__(), **self.replaced)

    def __exit__(self, *error: Any) -> Any:
        return self.opening.__exit__(*error)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(workflow, **files)`: a repository with loom's own directories beside it, in which this process then is."""
    root, home = tmp_path.resolve() / "project", tmp_path.resolve() / "home"
    for name in [name for name in os.environ if name.startswith(("LOOM_", "GIT_", "CI"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": home,
        "FAR": home / "far",
        "LOOM_STATE_DIR": home / "state",
        "LOOM_TMP_DIR": home / "workspaces",
        "LOOM_CACHE_DIR": home / "cache",
        "LOOM_CONTAINER": "0",
        "LOOM_AUTO_CLEAN": "no",
        "LOOM_REPORTED": "VERSION,OTHER,VALUE,A,B,V,REPORTED,CI_JOB_ID",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(controls, "hide", controls.hide)
    monkeypatch.setattr(masking, "_known", WeakSet())  # a test's secrets are not those of the next
    monkeypatch.setattr(masking, "_latest", deque())
    monkeypatch.setitem(providers.MODULES, "far", "tests.unit.providers.far_provider")

    def made(workflow: str, **files: str) -> Project:
        (home / "far").mkdir(parents=True)
        named = {".loom/workflow.yml": f"version: v1\n{workflow}" if workflow.lstrip().startswith("stages") else ""}
        for name, text in {**named, **files}.items():
            if text:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        commit_all(root)
        monkeypatch.chdir(root)
        return Project(root=root, home=home)

    return made
