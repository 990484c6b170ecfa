"""The steps of an attempt: their time, what they hand on and mask, what a person decides about them, `after_script`."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.providers.command import Command
from loom.runner import steps as steps_module
from loom.runner.hooks import AtStep, Verdict
from loom.status import Ended, Exit
from loom.workflow import patterns as searches

from .conftest import Make, Replaced, on


def workflow(*script: str, more: str = "") -> str:
    lines = "".join(f"    - |\n      {line}\n" for line in script)
    return f"stages: [a]\none:\n  stage: a\n  script:\n{lines}{more}"


# -- results ----------------------------------------------------------------------------------------------------------


def test_the_first_step_that_fails_ends_the_job(make: Make) -> None:
    ran = make(workflow("echo a", "exit 7", "echo never")).run(code=1)
    assert ran.error("one") == "script/02 failed with exit code 7"
    assert (ran.job("one").exit_code, ran.job("one").outcome["failing_step"]) == (7, "script/02")
    assert [unit.step for unit in ran.reading.units("one") if unit.step] == ["script/01", "script/02"]
    assert [(one.status, one.exit_code) for one in ran.job("one").phases] == [
        *(("success", None), ("failure", 7), ("success", None))
    ]
    (_, failing) = ran.job("one").failing_step or ("", None)
    assert failing is not None
    assert (failing.error, failing.exit_code) == ("script/02 failed with exit code 7", 7)


@pytest.mark.parametrize(
    ("allow", "code", "allowed"), [("true", 7, True), ("{exit_codes: [7]}", 7, True), ("{exit_codes: [7]}", 8, False)]
)
def test_a_failure_that_is_allowed(make: Make, allow: str, code: int, allowed: bool) -> None:
    ran = make(workflow(f"exit {code}", more=f"  allow_failure: {allow}\n")).run(code=0 if allowed else 1)
    assert ran.statuses == {"one": "failure?" if allowed else "failure"}


@pytest.mark.parametrize(("allow", "code"), [("true", 0), ("{exit_codes: [7]}", 4)])
def test_a_job_that_may_fail_may_run_out_of_time(make: Make, allow: str, code: int) -> None:
    out_of_time = Replaced(run=lambda *_: Exit(code=137, ended=Ended.TIMED_OUT))
    ran = make(workflow("x", more=f"  allow_failure: {allow}\n")).run(code=code, tools=on(out_of_time))
    assert ran.statuses == {"one": "timed_out" if code else "timed_out?"}


def test_a_step_says_where_it_stands_and_which_attempt_it_is(make: Make) -> None:
    ran = make(workflow('echo "$LOOM_STEP $LOOM_ATTEMPT"', 'echo "$LOOM_STEP"')).run()
    assert (ran.lines("one"), ran.lines("one", "script/02")) == (["script/01 1"], ["script/02"])
    (started, _) = ran.job("one").steps.values()
    assert started.data["command"].startswith("echo")
    assert (started.data["file"], started.data["line"], started.data["number"]) == (".loom/workflow.yml", 7, 1)
    assert started.data["output"] == {"stdout_lines": 1, "stdout_bytes": 12, "stderr_lines": 0, "stderr_bytes": 0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  timeout: 300ms\n", "the job may take 300ms (`timeout`, .loom/workflow.yml:8"),
        ("  step_timeout: 300ms\n", "a step may take 300ms (`step_timeout`, .loom/workflow.yml:8"),
        ("  step_timeout: 300ms\n  timeout: 1h\n", "a step may take 300ms (`step_timeout`"),
        ("  step_timeout: 1h\n  timeout: 300ms\n", "the job may take 300ms (`timeout`"),
    ],
)
def test_a_step_that_runs_out_of_time_says_whose_limit_it_was_and_what_ran(make: Make, more: str, said: str) -> None:
    out_of_time = Exit(code=137, ended=Ended.TIMED_OUT, still_ran=("sleep 61",))
    ran = make(workflow("sleep 61", more=more)).run(code=4, tools=on(Replaced(run=lambda *_: out_of_time)))
    assert ran.statuses == {"one": "timed_out"}
    assert ran.error("one").startswith(f"script/01 ran out of time: {said}")
    assert ran.error("one").endswith("; still running: sleep 61")


class Timed:
    """Runs commands of which each takes a moment and ends as it is told; keeps the limits that they had."""

    def __init__(self, *exits: Exit) -> None:
        self.exits = iter(exits)
        self.limits: list[float] = []

    def __call__(self, command: Command, *_: Any) -> Exit:
        self.limits.append(command.timeout_s or 0)
        time.sleep(0.02)
        return next(self.exits)


def test_the_time_of_a_job_is_that_of_its_steps_together(make: Make) -> None:
    timed = Timed(Exit(code=0), Exit(code=0), Exit(code=137, ended=Ended.TIMED_OUT))
    make(workflow("one", "two", "three", more="  timeout: 1000s\n")).run(code=4, tools=on(Replaced(run=timed)))
    first, second, third = timed.limits
    assert 900 < third <= second - 0.02 <= first - 0.04 < 1000


def test_a_job_that_used_up_its_time_ends_at_once(make: Make) -> None:
    timed = Timed(Exit(code=0), Exit(code=137, ended=Ended.TIMED_OUT))
    make(workflow("one", "two", more="  timeout: 10ms\n")).run(code=4, tools=on(Replaced(run=timed)))
    assert timed.limits[1] == 0.001


def test_the_time_in_which_a_person_decides_is_not_the_jobs(make: Make) -> None:
    passed_ns = 0

    class Slow(NoGate):
        def before(self, at: AtStep, cancel: Cancel) -> None:
            nonlocal passed_ns
            passed_ns += int(100e9)

        def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict:
            self.before(at, cancel)
            return Verdict.NEXT

    timed = Timed(Exit(code=1), Exit(code=0), Exit(code=0), Exit(code=0))
    more = f"  timeout: 90s\n{AFTER}    - one\n    - two\n"
    project = make(workflow("one", "two", more=more))
    run, tools = project.planned(tools=lambda tools: gated(Slow())(on(Replaced(run=timed))(tools)))
    project.execute(run, replace(tools, clock_ns=lambda: time.time_ns() + passed_ns), code=1)
    first, second, third, fourth = timed.limits
    assert 80 < second < first < 90
    assert 280 < fourth <= third < 300.1


EXITS = [
    (Exit(code=137, ended=Ended.OOM_KILLED), "was killed: the job's container ran out of memory (exit code 137)", []),
    (
        Exit(code=1, refused_forks=1),
        "failed with exit code 1: the job's container had as many processes as `pids` allows, and 1 further one could not be started",
        [],
    ),
    (
        Exit(code=1, oom_kills=1),
        "failed with exit code 1",
        ["a process was killed because the job's container ran out of memory; the step's end does not show it"],
    ),
    (
        Exit(code=0, oom_kills=3),
        None,
        ["3 processes were killed because the job's container ran out of memory; the step passed all the same"],
    ),
    (
        Exit(code=0, refused_forks=2),
        None,
        [
            (
                "the job's container had as many processes as `pids` allows, and 2 further ones could not be started;"
                " the step passed all the same"
            )
        ],
    ),
    (
        Exit(code=137, ended=Ended.TIMED_OUT, refused_forks=2, still_ran=("x" * 121, "short")),
        f"ran out of time: the job may take 1h (`job_timeout`, built-in); still running: {'x' * 119}…, short",
        [
            (
                "the job's container had as many processes as `pids` allows, and 2 further ones could not be started;"
                " the step's end does not show it"
            )
        ],
    ),
    (Exit(code=130, ended=Ended.CANCELED), "was interrupted", []),
]


@pytest.mark.parametrize(("exit_", "error", "warnings"), EXITS)
def test_the_end_of_a_step_and_what_it_does_not_show(
    make: Make, exit_: Exit, error: str | None, warnings: list[str]
) -> None:
    ran = make(workflow("true")).run(tools=on(Replaced(run=lambda *_: exit_)), code=None)
    assert ran.error("one") == ("" if error is None else f"script/01 {error}")
    assert ran.warnings("one") == [f"script/01: {text}" for text in warnings]


# -- what steps hand on -----------------------------------------------------------------------------------------------


def test_variables_reach_later_steps_and_the_record(make: Make) -> None:
    ran = make(workflow('echo A=1 >>"$LOOM_ENV"', "echo a$A", 'echo A=2 >>"$LOOM_ENV"', "echo a$A")).run()
    assert (ran.lines("one", "script/02"), ran.lines("one", "script/04")) == (["a1"], ["a2"])
    facts = ran.facts("handed_on", "one")
    assert [(fact["step"], fact["attempt"]) for fact in facts] == [("script/01", 1), ("script/03", 1)]
    assert facts[1]["variables"] == {"A": "2"}


def test_what_a_step_masks_is_hidden_from_then_on(make: Make) -> None:
    ran = make(workflow('echo a-long-value >>"$LOOM_MASK"', "echo a-long-value", 'echo x >>"$LOOM_MASK"')).run()
    assert ran.lines("one", "script/02") == ["[REDACTED:SECRET_LOOM_MASK]"]
    (warning,) = ran.warnings("one")
    assert warning.startswith("script/03: a line of $LOOM_MASK is not masked: ")


# -- after_script -----------------------------------------------------------------------------------------------------

AFTER = "  after_script:\n"


@pytest.mark.parametrize(("script", "status", "code"), [("true", "success", 0), ("exit 3", "failed", 1)])
def test_after_script_runs_after_each_result_and_does_not_change_it(
    make: Make, script: str, status: str, code: int
) -> None:
    after = f"{AFTER}    - echo $CI_JOB_STATUS\n    - exit 9\n    - echo last\n"
    ran = make(workflow(script, more=after)).run(code=code)
    assert (ran.lines("one", "after_script/01"), ran.lines("one", "after_script/03")) == ([status], ["last"])
    assert ran.warnings("one") == [
        "after_script/02 failed with exit code 9; `after_script` does not change the job's result"
    ]
    assert ran.job("one").outcome.get("failing_step") == (None if code == 0 else "script/01")
    assert len(ran.facts("after_script_ran", "one")) == code


def test_after_script_has_a_time_of_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "AFTER_SCRIPT_TIMEOUT_S", 0.3)
    ran = make(workflow("true", more=f"{AFTER}    - sleep 60\n    - echo never\n")).run()
    limit = "all of it may take 300ms where no `step_timeout` says otherwise"
    assert ran.warnings("one") == [
        f"after_script/01 ran out of time and was ended; {limit}",
        f"after_script/02 was not run: those before it had used up the time; {limit}",
    ]
    assert ran.lines("one", "after_script/02") == []


def test_the_limit_of_a_step_counts_for_each_step_of_after_script(make: Make) -> None:
    after = f"{AFTER}    - sleep 60\n    - echo second\n"
    timed = Timed(Exit(code=0), Exit(code=137, ended=Ended.TIMED_OUT), Exit(code=0))
    ran = make(workflow("true", more=f"{after}  step_timeout: 300ms\n")).run(tools=on(Replaced(run=timed)))
    limit = "each of its steps may take 300ms (`step_timeout`)"
    assert ran.warnings("one") == [f"after_script/01 ran out of time and was ended; {limit}"]
    assert timed.limits == [0.3, 0.3, 0.3]


def test_after_script_ends_with_the_session(make: Make) -> None:
    exits = iter([Exit(code=0), Exit(code=137, ended_session=True)])
    ran = make(workflow("true", more=f"{AFTER}    - one\n    - two\n")).run(
        tools=on(Replaced(run=lambda *_: next(exits)))
    )
    assert ran.warnings("one") == [
        (
            "after_script/01 failed with exit code 137, and what comes after it was not run: it has ended the container;"
            " `after_script` does not change the job's result"
        )
    ]


def test_after_script_runs_after_an_interrupt_but_not_after_two(make: Make) -> None:
    project = make(workflow("true", more=f"{AFTER}    - echo after\n"))
    for times, lines in ((1, ["after"]), (2, [])):
        cancel = Cancel()

        class Gate(NoGate):
            def before(self, at: AtStep, cancel_: Cancel, times: int = times, cancel: Cancel = cancel) -> None:
                for _ in range(times):
                    cancel.request()

        ran = project.run(code=130, cancel=cancel, tools=gated(Gate()))
        assert ran.error("one") == "interrupted"
        assert ran.lines("one") == []
        assert ran.lines("one", "after_script/01") == lines


# -- the gate ---------------------------------------------------------------------------------------------------------


class NoGate:
    def before(self, at: AtStep, cancel: Cancel) -> None:
        """Nobody waits."""

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict:
        return Verdict.FAIL


def gated(gate: Any) -> Callable[[Any], Any]:
    return lambda tools: replace(tools, gate=gate)


class Deciding(NoGate):
    def __init__(self, *verdicts: Verdict, enter: str = "") -> None:
        self.verdicts = list(verdicts)
        self.enter = enter
        self.seen: list[str] = []

    def before(self, at: AtStep, cancel: Cancel) -> None:
        self.seen.append(f"before {at.step.id}")

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict:
        self.seen.append(f"failed {at.step.id} {exit_.code}")
        if self.enter:
            at.inside().exec(["sh", "-c", self.enter], lambda *_: None, cancel)
        return self.verdicts.pop(0)


def test_a_step_is_tried_again_until_it_passes(make: Make) -> None:
    gate = Deciding(Verdict.RETRY, Verdict.RETRY)
    project = make(workflow('echo x >>"$SEEN"; test $(wc -l <"$SEEN") -eq 3', "echo next"))
    ran = project.run(tools=gated(gate), var=[f"SEEN={project.home}/seen"])
    assert gate.seen == [
        "before script/01",
        "failed script/01 1",
        "before script/01",
        "failed script/01 1",
        "before script/01",
        "before script/02",
    ]
    assert ran.statuses == {"one": "success"}
    assert [fact["verdict"] for fact in ran.facts("step_decided", "one")] == ["retry", "retry"]


def test_the_next_step_runs_and_the_job_fails_by_the_first(make: Make) -> None:
    ran = make(workflow("exit 3", "echo next", "exit 4")).run(code=1, tools=gated(Deciding(Verdict.NEXT, Verdict.NEXT)))
    assert ran.lines("one", "script/02") == ["next"]
    assert (ran.error("one"), ran.job("one").exit_code) == ("script/01 failed with exit code 3", 3)


def test_nobody_is_asked_about_a_step_that_was_interrupted(make: Make) -> None:
    cancel = Cancel()
    gate = Deciding(Verdict.RETRY)

    def run(*_: object) -> Exit:
        cancel.request()
        return Exit(code=1)

    ran = make(workflow("true", "true")).run(
        code=130, cancel=cancel, tools=lambda tools: replace(on(Replaced(run=run))(tools), gate=gate)
    )
    assert gate.seen == ["before script/01"]
    assert ran.facts("step_decided", "one") == []
    assert ran.error("one") == "script/01 failed with exit code 1", "which the interrupt came after"


def test_a_person_who_was_inside_makes_the_run_an_assisted_one(make: Make) -> None:
    gate = Deciding(Verdict.RETRY, enter='echo "$CI_JOB_NAME $LOOM_STEP" >repaired; rm old')
    ran = make(workflow("cat repaired"), old="x\n").run(tools=gated(gate))
    assert ran.lines("one")[-1:] == ["one script/01"]
    (assisted,) = ran.facts("assisted")
    assert (assisted["how"], assisted["job_id"]) == ("shell", "one")
    assert ran.result.receipt.extent.tree_sha is None


def test_a_job_is_paused_only_where_nothing_else_follows(make: Make) -> None:
    more = f"{AFTER}    - echo after\n"
    ran = make(workflow("exit 3", "echo next", more=more)).run(
        on="far", keep="on-failure", code=None, tools=gated(Deciding(Verdict.PAUSE))
    )
    assert ran.code == 77
    assert ran.facts("session_kept", "one")[0]["paused"] is True
    assert ran.lines("one", "after_script/01") == []


def test_a_paused_job_that_can_not_be_kept_did_not_run_its_last_steps_either(make: Make) -> None:
    def keep(_: float) -> None:
        raise ProviderError("no room")

    gate, kept = gated(Deciding(Verdict.PAUSE)), on(Replaced(keep=keep))
    ran = make(workflow("exit 3", more=f"{AFTER}    - echo after\n")).run(
        keep="on-failure", code=1, tools=lambda tools: gate(kept(tools))
    )
    assert ran.warnings("one") == ["not kept: no room; its `after_script` was not run"]


@pytest.mark.parametrize("more", ["  allow_failure: true\n", "  retry: 1\n"])
def test_a_pause_of_a_job_that_goes_on_is_none(make: Make, more: str) -> None:
    ran = make(workflow("exit 3", more=f"{AFTER}    - echo after\n{more}")).run(
        on="far", code=None, tools=gated(Deciding(Verdict.PAUSE, Verdict.FAIL))
    )
    assert ran.lines("one", "after_script/01", attempt=1) == ["after"]


# -- shared shells, coverage, missing commands ------------------------------------------------------------------------


def test_gitlabs_lines_share_a_shell_that_may_end(make: Make) -> None:
    text = "one:\n  script: [cd /, pwd, exit 0, echo never]\n  after_script: [pwd]\n"
    ran = make("", **{".gitlab-ci.yml": text}).run()
    assert ran.lines("one", "script/02") == ["/"]
    assert ran.lines("one", "after_script/01") != ["/"]
    (warning,) = ran.warnings("one")
    assert warning == "script/03 ended the shell with exit code 0: the steps after it were not run"
    assert ran.statuses == {"one": "success"}


def test_other_steps_have_a_shell_each(make: Make) -> None:
    ran = make(workflow("cd /", "pwd")).run()
    assert len(ran.lines("one", "script/02")) == 1
    assert ran.lines("one", "script/02") != ["/"]


def test_the_last_line_that_ends_the_shell_is_no_warning(make: Make) -> None:
    ran = make("", **{".gitlab-ci.yml": "one:\n  script: [pwd, exit 0]\n  after_script: [exit 0, echo never]\n"}).run()
    assert ran.warnings("one") == []
    assert ran.lines("one", "after_script/02") == []


# -- what GitLab's jobs have besides ----------------------------------------------------------------------------------


def of_gitlab(make: Make, text: str, code: int = 0, **fields: Any) -> Any:
    project = make(text)
    run, tools = project.planned()
    jobs = tuple(replace(job, **fields) for job in run.plan.jobs)
    return project.execute(replace(run, plan=replace(run.plan, jobs=jobs)), tools, code=code)


def warnings(ran: Any) -> list[str]:
    return [fact["text"] for fact in ran.facts("warning", "one")]


def test_the_coverage_of_a_job_is_stated(make: Make) -> None:
    text = workflow("echo 'total 12.345%'", "printf 'total 87.654%%'")
    ran = of_gitlab(make, text, coverage=r"total (\d+\.\d+)%")
    assert ran.facts("coverage", "one") == [{"percent": 87.65}]
    assert {"text": "one: coverage 87.65 %"} in ran.facts("notice")
    assert warnings(ran) == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("(", "coverage: '(' is not a regular expression here: "), (r"(x+x+)+y|(\d+)%", "coverage: not known: ")],
)
def test_a_coverage_that_can_not_be_found_is_a_warning(
    make: Make, monkeypatch: pytest.MonkeyPatch, pattern: str, said: str
) -> None:
    monkeypatch.setattr(searches, "MAX_SEARCH_S", 0.01)
    ran = of_gitlab(make, workflow(f"echo {'x' * 3000}; echo 7%"), coverage=pattern)
    assert ran.facts("coverage", "one") == []
    assert [warning.startswith(said) for warning in warnings(ran)] == [True]


@pytest.mark.parametrize(
    ("after", "ends", "said"),
    [
        ("", True, []),
        ("  after_script: [echo after]\n", True, ["`after_script` was not run: the job's time was over, as in GitLab"]),
        ("  after_script: [echo after]\n", False, []),
    ],
)
def test_after_a_jobs_time_is_over_nothing_runs_as_in_gitlab(
    make: Make, after: str, ends: bool, said: list[str]
) -> None:
    ran = of_gitlab(make, workflow("sleep 60", more=f"{after}  timeout: 100ms\n"), code=4, ends_at_timeout=ends)
    assert warnings(ran) == said
    assert ran.lines("one", "after_script/01") == ([] if ends else ["after"])


def test_the_record_says_of_a_step_where_it_is_written(make: Make) -> None:
    ran = make(
        "stages: [a]\none:\n  stage: a\n  script:\n    - |\n      true\n    - 'true'\n  after_script: ['true']\n"
    ).run()
    begun = [event.data for event in ran.events if event.step and "command" in event.data]
    common = {"attempt": 1, "file": ".loom/workflow.yml"}
    assert begun == [
        {"command": "true\n", "phase": "script", "number": 1, "line": 7, "literal": True, **common},
        {"command": "true", "phase": "script", "number": 2, "line": 8, "literal": False, **common},
        {"command": "true", "phase": "after_script", "number": 1, "line": 9, "literal": False, **common},
    ]


def test_a_job_takes_as_long_as_its_steps_at_least(make: Make) -> None:
    ran = make("stages: [a]\none: {stage: a, script: [sleep 0.02, 'true']}\ntwo: {stage: a, script: ['false']}\n").run(
        "one"
    )
    steps = [event.duration_ms for event in ran.events if event.step and event.duration_ms is not None]
    whole = ran.job("one").end
    assert whole is not None
    assert len(steps) == 2
    assert whole.duration_ms is not None
    assert 20 < sum(steps) <= whole.duration_ms
    assert whole.duration_ms == round(whole.duration_ms, 3)
