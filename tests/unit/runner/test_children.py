"""Jobs that start child pipelines: what the child is given, what its end is to the job, and one that goes on after it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import RequestError, WorkflowError
from loom.runner.hooks import Child, ChildEnded
from loom.status import OnOutput, Status

from .conftest import Make, Ran

GITLAB = """
build: {{stage: build, script: [echo x >x], artifacts: {{paths: [x]}}}}
child: {{stage: test, trigger: {{include: child.yml{more}}}}}
after: {{stage: deploy, script: [echo after]}}
"""


def run(make: Make, child: Callable[..., ChildEnded] | None, more: str = "", **options: Any) -> Ran:
    project = make("", **{".gitlab-ci.yml": GITLAB.format(more=more), "child.yml": "one: {script: ['true']}\n"})
    return project.run(tools=lambda tools: replace(tools, run_child=child), **options)


DEPENDS = ", strategy: depend"


def test_a_job_that_depends_on_its_child_has_the_childs_result_and_shows_its_run(make: Make) -> None:
    seen: list[Child] = []
    succeeded: list[bool] = []

    def child(child: Child, on_output: OnOutput, cancel: Cancel, started: Callable[[str], None]) -> ChildEnded:
        seen.append(child)
        succeeded.extend(map(child.succeeded, ("build", "after", "none")))
        started("4711")
        on_output("stdout", b"from the child\n")
        return ChildEnded(run_id="4711", status=Status.SUCCESS)

    ran = run(make, child, DEPENDS)
    assert ran.statuses == {"build": "success", "child": "success", "after": "success"}
    assert ran.lines("child", "child") == ["child pipeline: run 4711", "from the child"]
    assert ran.facts("child_started", "child") == [{"run_id": "4711"}]
    (given,) = seen
    assert succeeded == [True, False, False]
    assert (given.job.id, given.run_id, given.workspace) == ("child", ran.reading.run_id, ran.workspace)
    assert given.snapshot["tree_sha"] == ran.reading.fold.facts["snapshot_taken"]["tree_sha"]
    assert given.archive_of("build").is_file()


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [(Status.FAILURE, "boom", ": boom"), (Status.FAILURE, None, ""), (Status.TIMED_OUT, None, "")],
)
def test_a_child_that_fails_fails_the_job(make: Make, status: Status, error: str | None, why: str) -> None:
    def child(*_: Any) -> ChildEnded:
        return ChildEnded(run_id="4711", status=status, error=error)

    ran = run(make, child, DEPENDS, code=None)
    assert ran.code != 0
    assert ran.error("child") == f"child pipeline: run 4711 ended with {status}{why}"
    assert ran.job("child").outcome["failing_section"] == "child"
    assert [phase.status for phase in ran.job("child").phases] == [status]
    assert ran.statuses["after"] == "skipped"


@pytest.mark.parametrize("more", ["", DEPENDS])
@pytest.mark.parametrize("error", [RequestError("no such file", code="NO_FILE"), WorkflowError("wrong")])
def test_a_child_without_a_plan_fails_the_job(make: Make, more: str, error: Exception) -> None:
    def child(*_: Any) -> ChildEnded:
        raise error

    ran = run(make, child, more, code=1)
    assert ran.statuses["child"] == "failure"
    assert ran.error("child") == str(error)
    assert ran.job("child").outcome.get("error_code") == getattr(error, "code", None)


def test_where_no_child_can_be_run_the_job_says_so(make: Make) -> None:
    ran = run(make, None, code=1)
    assert ran.error("child") == "child starts a child pipeline, which can't be run here"


def test_a_bug_in_a_child_is_one_of_the_run(make: Make) -> None:
    def child(*_: Any) -> ChildEnded:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(make, child, DEPENDS)


def test_a_child_that_nobody_depends_on_goes_on_after_its_job_and_the_run_waits_for_it(make: Make) -> None:
    after = threading.Event()
    ended: list[str] = []

    class Seeing:
        def phase(self, event: Any) -> None:
            if event.message == "job_finished" and event.job_id == "after":
                after.set()

        def output(self, batch: Any) -> None:
            """It does not matter."""

        def close(self) -> None:
            """Nothing is open."""

    def child(_: Child, on_output: OnOutput, cancel: Cancel, started: Callable[[str], None]) -> ChildEnded:
        started("4711")
        assert after.wait(60)
        on_output("stdout", b"too late\n")
        ended.append("ended")
        return ChildEnded(run_id="4711", status=Status.FAILURE)

    ran = run(make, child, sinks=[Seeing()])
    assert ran.statuses == {"build": "success", "child": "success", "after": "success"}
    assert ran.lines("child", "child") == ["child pipeline: run 4711"]
    assert ended == ["ended"]


def test_an_interrupt_reaches_the_child(make: Make) -> None:
    cancel = Cancel()

    def child(_: Child, on_output: OnOutput, cancel_: Cancel, started: Callable[[str], None]) -> ChildEnded:
        cancel.request()
        assert cancel_.wait(60)
        return ChildEnded(run_id="4711", status=Status.CANCELED)

    ran = run(make, child, DEPENDS, code=130, cancel=cancel)
    assert ran.statuses["child"] == "canceled"


def test_a_child_that_does_not_end_is_left_after_two_interrupts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 0.0)
    cancel, over = Cancel(), threading.Event()

    def child(*_: Any) -> ChildEnded:
        cancel.request()
        cancel.request()
        over.wait(60)
        return ChildEnded(run_id="4711", status=Status.SUCCESS)

    ran = run(make, child, DEPENDS, code=130, cancel=cancel)
    over.set()
    assert ran.statuses["child"] == "canceled"
