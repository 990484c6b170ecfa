"""A run that was prepared before anybody asked for it: what waits, who takes it over, what is removed otherwise."""

from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import EngineUnavailable
from loom.providers.host import HostSession
from loom.runner.prewarmed import NextRun

from .conftest import Make, Project, on
from .test_session import ONE, SERVED, Engine, Serving


def prepared(project: Project, engine: Engine) -> tuple[NextRun, Any]:
    run, tools = project.planned(container=True, tools=on(engine, "docker"))
    ahead = NextRun(run, replace(tools, cancel=Cancel()))
    ahead.prepare()
    return ahead, (run, tools)


def project(make: Make) -> Project:
    return make(ONE, file="old\n")


def test_the_next_run_takes_the_workspace_and_the_session_with_the_files_of_now(make: Make) -> None:
    made, engine = project(make), Engine()
    ahead, request = prepared(made, engine)
    assert ahead.workspace.is_dir()
    assert list(ahead.sessions) == ["one"]
    assert ahead.ready()
    (made.root / "file").write_text("new\n")
    fresh, tools = made.planned(container=True, tools=on(engine, "docker"))
    ran = made.execute(replace(fresh, run_id=request[0].run_id), tools, prepared=ahead)
    assert ran.lines("one") == ["new"]
    assert ran.workspace == ahead.workspace
    assert ahead.sessions == {}
    assert engine.closed == ["one"] * len(engine.opened)
    assert made.store.workspaces.confirms(ran.workspace)
    assert ahead.drop() == []
    assert ran.workspace.is_dir(), "it belongs to the run"


def test_a_run_that_asks_for_the_same_session_opens_no_other(make: Make) -> None:
    made, engine = project(make), Engine()
    ahead, request = prepared(made, engine)
    ran = made.execute(*request, prepared=ahead)
    assert (len(engine.opened), engine.closed) == (1, ["one"])
    assert ran.lines("one", "provider") == ["opened"]


def test_a_session_that_answers_no_more_is_closed_and_another_opened(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, engine = project(make), Engine()
    monkeypatch.setattr(HostSession, "answers", lambda _: False)
    ahead, request = prepared(made, engine)
    made.execute(*request, prepared=ahead)
    assert (len(engine.opened), engine.closed) == (2, ["one"] * 2)


def test_a_session_is_closed_where_the_job_has_none_of_that_kind(make: Make) -> None:
    made, engine = project(make), Engine()
    ahead, request = prepared(made, engine)
    (made.root / ".loom/workflow.yml").write_text(f"version: v1\n{SERVED}")
    fresh, tools = made.planned(container=True, tools=on(Serving(), "docker"))
    made.execute(replace(fresh, run_id=request[0].run_id), tools, prepared=ahead)
    assert engine.closed == ["one"]


def test_what_no_run_takes_over_is_removed(make: Make) -> None:
    made, engine = project(make), Engine()
    ahead, _ = prepared(made, engine)
    assert ahead.drop() == []
    assert not ahead.workspace.exists()
    assert made.store.workspaces.of(ahead.workspace) is None
    assert engine.closed == ["one"]
    ahead.workspace.mkdir()
    assert ahead.drop() == []
    assert ahead.workspace.is_dir(), "somebody made it afterwards"


def test_what_was_not_prepared_is_not_removed(make: Make) -> None:
    ahead = NextRun(*project(make).planned(container=True, tools=on(Engine(), "docker")))
    ahead.workspace.mkdir(parents=True)
    assert ahead.drop() == []
    assert ahead.workspace.is_dir(), "it belongs to somebody else"


def test_it_is_not_for_a_run_that_begins_after_another(make: Make) -> None:
    made, engine = project(make), Engine()
    ahead, _ = prepared(made, engine)
    made.run(container=True, tools=on(Engine(), "docker"))
    assert not ahead.ready()
    ahead.drop()


def test_it_is_not_ready_before_the_snapshot(make: Make) -> None:
    class Silent(Engine):
        def check(self) -> None:
            raise EngineUnavailable("no engine answers")

    made = project(make)
    ahead = NextRun(*made.planned(container=True, tools=on(Silent(), "docker")))
    with pytest.raises(EngineUnavailable):
        ahead.prepare()
    assert not ahead.ready()
    assert ahead.drop() == []
    assert not ahead.workspace.exists()


def test_a_workspace_that_is_not_registered_gets_one_when_a_run_takes_it(make: Make) -> None:
    made, engine = project(make), Engine()
    ahead, _ = prepared(made, engine)
    made.store.workspaces.forget(ahead.workspace)
    ahead.taken_over()
    entry = made.store.workspaces.of(ahead.workspace)
    assert entry is not None
    assert (entry.run_id, entry.repo_root) == (ahead.run_id, str(made.root))
    ahead.drop()
