"""What a job waits for before it starts: a person, a time, and jobs of its group."""

import threading
from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.util import locks

from .conftest import Make

MANUAL = {".gitlab-ci.yml": "hand: {stage: build, script: ['true'], when: manual}\nafter: {script: ['true']}\n"}


def test_a_manual_job_is_skipped(make: Make) -> None:
    assert make("", **MANUAL).run(code=None).error("hand") == "manual: name it to run it"


DELAYED = "one: {script: ['true'], when: delayed, start_in: 5 minutes}\n"


def test_a_delayed_job_waits_and_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Cancel, "wait", lambda self, seconds: waited.append(seconds) or self.requested)
    ran = make("", **{".gitlab-ci.yml": DELAYED}).run()
    assert 300 in waited
    assert "one starts in 5m; at once with --no-delay" in ran.notices()


def test_no_delay_on_request(make: Make) -> None:
    ran = make("", **{".gitlab-ci.yml": DELAYED}).run(no_delay=True)
    assert not any("starts in" in text for text in ran.notices())


GROUP = "stages: [a]\none: {stage: a, resource_group: production, script: ['true']}\n"


class Told:
    def __init__(self, then: Any) -> None:
        self.then = then
        self.texts: list[str] = []

    def phase(self, event: Any) -> None:
        if event.message == "notice" and "waits" in event.data["text"]:
            self.texts.append(event.data["text"])
            self.then()

    def output(self, batch: Any) -> None:
        """It does not matter."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_job_waits_for_its_group_says_so_once_and_holds_it_until_its_end(make: Make) -> None:
    project = make(GROUP)
    run, tools = project.planned()
    file = project.store.lock_of_group(str(project.root), "production")
    over = threading.Event()
    held_at_end: list[str] = []

    def other() -> None:
        with locks.held(file, "x", "another loom", alone=True):
            begun.set()
            over.wait(60)

    class AtEnd(Told):
        def phase(self, event: Any) -> None:
            super().phase(event)
            if event.message == "job_finished":
                held_at_end.append(locks.holders(file))

    begun = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(60)
    told = AtEnd(over.set)
    ran = project.execute(replace(run, command=("loom", "run one")), replace(tools, sinks=[told]))
    thread.join()
    assert ran.statuses == {"one": "success"}
    (text,) = told.texts
    assert text.startswith("one waits: resource group production is in use by `another loom`")
    assert held_at_end[0].startswith("`loom 'run one'`")
    assert locks.holders(file) == ""


def test_an_interrupt_ends_the_wait_for_a_group(make: Make) -> None:
    project = make(GROUP)
    cancel = Cancel()
    file = project.store.lock_of_group(str(project.root), "production")
    with locks.held(file, "x", "another loom", alone=True):
        ran = project.run(code=130, cancel=cancel, sinks=[Told(cancel.request)])
    assert ran.statuses == {"one": "skipped"}
