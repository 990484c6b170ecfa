"""`decide` as a table; the loop round it with real threads."""

import random
import threading
import time

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.plan.model import AllowFailure, Job, Need, Plan, Step
from loom.plan.selection import dependents
from loom.runner.scheduler import Frontier, Schedule
from loom.status import JobResult, Skip, Status

OK = JobResult(status=Status.SUCCESS)
BAD = JobResult(status=Status.FAILURE, exit_code=1)
ALLOWED = JobResult(status=Status.FAILURE, exit_code=1, allowed_failure=True)
SKIPPED = JobResult(status=Status.SKIPPED)


def job(name: str, stage: str, needs: list[str] | None = None, when: str = "on_success") -> Job:
    return Job(
        id=name,
        name=name,
        stage=stage,
        steps=(Step(phase="script", number=1, script="true"),),
        provider="host",
        needs=None if needs is None else tuple(Need(job=need) for need in needs),
        when=when,  # type: ignore[arg-type]
    )


def plan(*jobs: Job) -> Plan:
    return Plan(workflow_path="w.yml", stages=("build", "test", "deploy"), jobs=jobs)


TWO_STAGES = plan(job("a", "build"), job("b", "build"), job("t", "test"))


@pytest.mark.parametrize(
    ("the_plan", "results", "running", "start", "skipped"),
    [
        pytest.param(TWO_STAGES, {}, set(), ["a", "b"], [], id="first-stage-together"),
        pytest.param(TWO_STAGES, {"a": OK}, {"b"}, [], [], id="a-stage-gates-the-next"),
        pytest.param(TWO_STAGES, {"a": OK, "b": OK}, set(), ["t"], [], id="gate-opens"),
        pytest.param(TWO_STAGES, {"a": BAD}, {"b"}, [], ["t"], id="a-failure-settles-the-next-stage-at-once"),
        pytest.param(TWO_STAGES, {"a": ALLOWED, "b": OK}, set(), ["t"], [], id="an-allowed-failure-lets-go-on"),
        pytest.param(
            plan(job("a", "build"), job("t", "test", needs=[])),
            {},
            set(),
            ["a", "t"],
            [],
            id="empty-needs-lift-the-gate",
        ),
        pytest.param(
            plan(job("a", "build"), job("b", "build"), job("t", "test", needs=["a"])),
            {"a": OK},
            {"b"},
            ["t"],
            [],
            id="needs-wait-for-these-alone",
        ),
        pytest.param(
            plan(job("a", "build"), job("t", "test", needs=["a"]), job("d", "deploy", needs=["t"])),
            {"a": BAD},
            set(),
            [],
            ["t", "d"],
            id="a-chain-of-skips-in-one-pass",
        ),
        pytest.param(
            plan(job("a", "build"), job("f", "test", when="on_failure")),
            {"a": OK},
            set(),
            [],
            ["f"],
            id="on_failure-unused",
        ),
        pytest.param(
            plan(job("a", "build"), job("f", "test", when="on_failure")),
            {"a": BAD},
            set(),
            ["f"],
            [],
            id="on_failure-used",
        ),
        pytest.param(
            plan(job("a", "build"), job("f", "test", when="always")), {"a": BAD}, set(), ["f"], [], id="always"
        ),
        pytest.param(
            plan(job("a", "build"), job("b", "test"), job("d", "deploy")),
            {"a": OK, "b": SKIPPED},
            set(),
            ["d"],
            [],
            id="a-skipped-job-does-not-close-a-stage-gate",
        ),
    ],
)
def test_decide(
    the_plan: Plan, results: dict[str, JobResult], running: set[str], start: list[str], skipped: list[str]
) -> None:
    may_start, never = Frontier(the_plan, results).decision()
    assert ([one for one in may_start if one not in running], [skip.job_id for skip in never]) == (start, skipped)


def test_a_skip_names_what_blocked_it() -> None:
    _, never = Frontier(TWO_STAGES, {"a": BAD, "b": OK}).decision()
    assert never == [Skip(job_id="t", reason="a did not succeed", blocked_by="a")]


def by_the_rules(the_plan: Plan, results: dict[str, JobResult], running: set[str]) -> tuple[list[str], set[str]]:
    """The rules of `Frontier`, one look at the whole plan for each job."""
    known, start, skipped = dict(results), [], set()
    for one in the_plan.jobs:
        if one.id in known or one.id in running:
            continue
        before = [
            other.id
            for other in the_plan.jobs
            if (
                any(need.job == other.id for need in one.needs)
                if one.needs is not None
                else the_plan.stages.index(other.stage) < the_plan.stages.index(one.stage)
            )
        ]
        over = [known[name] for name in before if name in known]
        failed = any(not result.lets_go_on and result.status is not Status.SKIPPED for result in over)
        lost = failed or (one.needs is not None and SKIPPED in over)
        all_over = len(over) == len(before)
        if (one.when == "on_success" and lost) or (one.when == "on_failure" and all_over and not failed):
            known[one.id] = SKIPPED
            skipped.add(one.id)
        elif all_over:
            start.append(one.id)
    return start, skipped


@pytest.mark.parametrize("seed", range(60))
def test_each_end_decides_what_a_look_at_the_whole_plan_decides(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"j{number:02}" for number in range(chance.randint(1, 12))]
    stages = sorted(chance.choices(("build", "test", "deploy"), k=len(names)), key=("build", "test", "deploy").index)
    jobs = [
        job(
            name,
            stages[number],
            needs=chance.sample(names[:number], min(number, chance.randint(0, 3))) if chance.random() < 0.5 else None,
            when=chance.choice(("on_success", "on_success", "on_failure", "always")),
        )
        for number, name in enumerate(names)
    ]
    the_plan = plan(*jobs)
    results: dict[str, JobResult] = {}
    running: set[str] = set()
    frontier = Frontier(the_plan, results)
    while True:
        (may_start, never), (start, skipped) = frontier.decision(), by_the_rules(the_plan, results, running)
        assert (may_start, {skip.job_id for skip in never}) == (start, skipped)
        results |= dict.fromkeys(skipped, SKIPPED)
        running |= set(start)
        if not running:
            break
        ended = chance.choice(sorted(running))
        running.discard(ended)
        results[ended] = chance.choice((OK, OK, BAD, ALLOWED))
        frontier.end(ended, results[ended])
    assert len(results) == len(names)


def test_lanes_hold_back_only_their_own_jobs() -> None:
    the_plan = plan(*[job(f"far{number}", "build") for number in range(3)], job("near", "build"))
    both = threading.Barrier(2, timeout=60)
    now: list[str] = []

    def work(the_job: Job) -> JobResult:
        now.append(the_job.id)
        assert sum(name.startswith("far") for name in now) < 2, now
        if the_job.id in ("far0", "near"):
            both.wait()  # `near` runs although its lane is behind three jobs of another one
        now.remove(the_job.id)
        return OK

    results = Schedule(
        plan=the_plan,
        run_job=work,
        on_skip=lambda *_: None,
        at_most=lambda the_job: {"far": 1} if the_job.id != "near" else {"here": 2},
        cancel=Cancel(),
    ).run()
    assert results == {"far0": OK, "far1": OK, "far2": OK, "near": OK}


def test_at_most_so_many_at_once_and_results_in_plan_order() -> None:
    the_plan = plan(*[job(f"j{number}", "build") for number in range(6)])
    lock, now, most, two = threading.Lock(), 0, 0, threading.Barrier(2)

    def work(_: Job) -> JobResult:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        two.wait(60)
        time.sleep(0.02)
        with lock:
            now -= 1
        return OK

    results = Schedule(plan=the_plan, run_job=work, on_skip=lambda *_: None, at_most=2, cancel=Cancel()).run()
    assert list(results) == [f"j{number}" for number in range(6)]
    assert most == 2


def test_a_manual_job_that_is_not_started_holds_up_later_stages_unless_it_may_fail() -> None:
    manual, optional = job("manual", "test", when="manual"), job("optional", "build", when="manual")
    optional = replace(optional, allow_failure=AllowFailure(always=True))
    jobs = plan(
        job("a", "build"),
        optional,
        manual,
        job("beside", "test"),
        job("after", "deploy"),
        job("always", "deploy", when="always"),
        job("needy", "deploy", needs=["optional"]),
        job("free", "deploy", needs=["a"]),
    )
    skipped: dict[str, Skip] = {}
    results = Schedule(
        plan=jobs,
        run_job=lambda job: OK,
        on_skip=lambda job, skip: skipped.__setitem__(job.id, skip),
        waits=lambda job: job.when == "manual",
        wait_until_free=lambda job: Skip(job_id=job.id, reason="nobody"),
        at_most=1,
        cancel=Cancel(),
    ).run()
    assert [name for name, result in results.items() if result.status is Status.SUCCESS] == ["a", "beside", "free"]
    assert {name: skip.reason for name, skip in skipped.items()} == {
        "optional": "nobody",
        "manual": "nobody",
        "after": "it waits for the manual job manual",
        "always": "it waits for the manual job manual",
        "needy": "optional was skipped",
    }


def test_a_job_that_waits_takes_no_slot() -> None:
    order: list[str] = []
    go = threading.Event()

    def run(job: Job) -> JobResult:
        order.append(job.id)
        if job.id == "b":
            go.set()
        return OK

    def wait_until_free(job: Job) -> None:
        assert go.wait(60)

    Schedule(
        plan=plan(job("late", "build"), job("a", "build"), job("b", "build")),
        run_job=run,
        on_skip=lambda job, skip: None,
        waits=lambda job: job.id == "late",
        wait_until_free=wait_until_free,
        at_most=1,
        cancel=Cancel(),
    ).run()
    assert order == ["a", "b", "late"]


def test_a_wait_that_ends_after_a_cancel_skips_its_job_no_second_time() -> None:
    cancel, skipped_once = Cancel(), threading.Event()
    skipped: list[str] = []

    def on_skip(job: Job, skip: Skip) -> None:
        skipped.append(skip.reason)
        skipped_once.set()

    def wait_until_free(job: Job) -> Skip:
        cancel.request(None)
        assert skipped_once.wait(60)
        return Skip(job_id=job.id, reason="nobody started it")

    def run(job: Job) -> JobResult:
        assert skipped_once.wait(60)
        for thread in threading.enumerate():
            if thread.name.endswith("wait late"):
                thread.join(60)
        return OK

    results = Schedule(
        plan=plan(job("late", "build"), job("a", "build")),
        run_job=run,
        on_skip=on_skip,
        waits=lambda job: job.id == "late",
        wait_until_free=wait_until_free,
        at_most=1,
        cancel=cancel,
    ).run()
    assert (results["late"], skipped) == (SKIPPED, ["the run was interrupted"])


def test_a_cancel_ends_a_wait_and_a_bug_in_one_comes_out() -> None:
    cancel = Cancel()
    skipped: list[str] = []

    def wait_until_free(job: Job) -> None:
        cancel.request(None)
        assert cancel.wait(60)

    results = Schedule(
        plan=plan(job("late", "build")),
        run_job=lambda job: OK,
        on_skip=lambda job, skip: skipped.append(skip.reason),
        waits=lambda job: True,
        wait_until_free=wait_until_free,
        at_most=1,
        cancel=cancel,
    ).run()
    assert (results["late"].status, skipped) == (Status.SKIPPED, ["the run was interrupted"])

    def broken(job: Job) -> None:
        raise ZeroDivisionError

    stopped: list[str] = []
    with pytest.raises(ZeroDivisionError):
        Schedule(
            plan=plan(job("late", "build")),
            run_job=lambda job: OK,
            on_skip=lambda job, skip: None,
            waits=lambda job: True,
            wait_until_free=broken,
            at_most=1,
            cancel=Cancel(),
            stop=lambda: stopped.append("all"),
        ).run()
    assert stopped == ["all"]


def test_a_bug_in_one_job_comes_out_after_the_others_ended() -> None:
    ended = []

    def work(the_job: Job) -> JobResult:
        if the_job.id == "a":
            raise ZeroDivisionError
        time.sleep(0.05)
        ended.append(the_job.id)
        return OK

    with pytest.raises(ZeroDivisionError):
        Schedule(plan=TWO_STAGES, run_job=work, on_skip=lambda *_: None, at_most=2, cancel=Cancel()).run()
    assert ended == ["b"]


@pytest.mark.parametrize("broken", ["decided", "rest", "waited", "stuck"])
def test_an_error_beside_the_jobs_stops_them_and_comes_out_when_they_ended(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a full disk, while the record of a skipped job is written."""
    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 0.1)
    stopped, released, ended, calls = threading.Event(), threading.Event(), list[str](), list[str]()
    cancel = Cancel()

    def work(the_job: Job) -> JobResult:
        if the_job.id == "bad":
            return BAD
        if broken == "rest":
            cancel.request()
        if broken == "stuck":
            cancel.request()
            cancel.request()
            released.wait(60)
        assert stopped.wait(60)
        ended.append(the_job.id)
        return OK

    def fails(*_: object) -> JobResult:
        calls.append("")
        raise OSError(28, "No space left on device")

    the_plan = plan(
        *(job(name, "build") for name in ("long", "bad", "late")), *(job(f"t{number}", "test") for number in range(3))
    )
    with pytest.raises(OSError, match="No space left"):
        Schedule(
            plan=the_plan,
            run_job=work,
            on_skip=(lambda *_: None) if broken == "stuck" else fails,
            waits=lambda the_job: the_job.id == "late" and broken == "waited",
            wait_until_free=lambda the_job: Skip(job_id=the_job.id, reason="nobody"),
            on_stuck=fails,
            at_most=1 if broken == "rest" else 2,
            cancel=cancel,
            stop=stopped.set,
        ).run()
    released.set()
    assert len(calls) == 1
    assert stopped.is_set()
    if broken != "stuck":
        assert ended[:1] == ["long"]


def test_fail_fast_stops_what_waits() -> None:
    skipped: list[tuple[str, str]] = []
    stopped = []
    the_plan = plan(job("a", "build"), job("b", "build"), job("c", "build"))
    Schedule(
        plan=the_plan,
        run_job=lambda _: BAD,
        on_skip=lambda the_job, skip: skipped.append((the_job.id, skip.reason)),
        at_most=1,
        cancel=Cancel(),
        fail_fast=True,
        stop=lambda: stopped.append(True),
    ).run()
    assert [name for name, _ in skipped] == ["b", "c"]
    assert "a did not succeed" in skipped[0][1]
    assert stopped


def test_nothing_starts_after_a_cancel() -> None:
    cancel = Cancel()
    skipped: list[str] = []

    def work(_: Job) -> JobResult:
        cancel.request()
        return JobResult(status=Status.CANCELED)

    Schedule(
        plan=TWO_STAGES, run_job=work, on_skip=lambda the_job, _: skipped.append(the_job.id), at_most=1, cancel=cancel
    ).run()
    assert skipped == ["b", "t"]


def test_a_job_that_does_not_end_is_left_behind_after_the_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 0.1)
    cancel, going_on, left = Cancel(), threading.Event(), []

    def work(the_job: Job) -> JobResult:
        if the_job.id == "a":
            cancel.request()
            cancel.request()
            going_on.wait(60)
        return OK

    def on_stuck(the_job: Job) -> JobResult:
        left.append(the_job.id)
        return BAD

    try:
        results = Schedule(
            plan=TWO_STAGES, run_job=work, on_skip=lambda *_: None, on_stuck=on_stuck, at_most=2, cancel=cancel
        ).run()
    finally:
        going_on.set()
    assert left == ["a"]
    assert results["a"] is BAD
    assert results["t"] == SKIPPED


def test_what_waits_is_skipped_at_the_moment_of_the_request() -> None:
    cancel, skipped = Cancel(), threading.Event()

    def work(the_job: Job) -> JobResult:
        cancel.request()
        assert skipped.wait(60), "only told when the running job had ended"
        return OK

    Schedule(plan=TWO_STAGES, run_job=work, on_skip=lambda *_: skipped.set(), at_most=1, cancel=cancel).run()


@pytest.mark.parametrize(
    ("again", "found"),
    [
        (set(), ""),
        ({"a"}, "a d n t"),
        ({"t"}, "d n t"),
        ({"u"}, "d u"),
        ({"d"}, "d"),
        ({"n"}, "d n"),
    ],
)
def test_jobs_after_others_wait_for_their_needs_or_for_earlier_stages(again: set[str], found: str) -> None:
    jobs = [job("a", "build"), job("t", "test"), job("u", "test", needs=[]), job("n", "test", needs=["t"])]
    assert " ".join(sorted(dependents(plan(*jobs, job("d", "deploy")), again))) == found
