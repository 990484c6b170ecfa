"""Steps that are decided when they start: conditions, variables, files, commands."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.analysis.evidence import diagnosis_of
from loom.cancel import Cancel
from loom.commands.again import resume
from loom.plan import late
from loom.plan.late import Action
from loom.plan.model import Image, Secret, Service
from loom.runner.hooks import AtStep, Verdict
from loom.runner.late.state import LateState, runtime
from loom.runner.late.steps import SHELLS
from loom.status import Exit
from tests.unit.runner.conftest import Make, Replaced, on

from .plans import job, run, states, step


def test_a_step_reports_variables_paths_and_outputs_for_those_after_it(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step(
                'echo "A=b c" >>"$GITHUB_ENV"; echo "$PWD/bin" >>"$GITHUB_PATH"\n'
                "printf 'x<<E\\none\\ntwo\\nE\\ny=1\\n' >>\"$GITHUB_OUTPUT\"; mkdir bin; echo 'echo found' >bin/tool; chmod +x bin/tool",
                key="first",
            ),
            step('echo "$A ${{ env.A }} ${{ steps.first.outputs.y }}"; echo "${{ steps.first.outputs.x }}"; tool'),
            step("echo $B ${{ env.B }} ${{ env.C }}", env={"B": "${{ env.A }}!", "C": "2"}),
            env={"A": "outer", "J": "j${{ github.ref_name }}"},
            outputs={"y": "${{ steps.first.outputs.y }}${{ env.J }}"},
            contexts={"github": {"ref_name": "main"}},
        ),
    )
    assert ran.lines("one", "script/02") == ["b c b c 1", "one", "two", "found"]
    assert ran.lines("one", "script/03") == ["b c! b c! 2"]
    assert ran.job("one").outcome["outputs"] == {"y": "1jmain"}


def test_after_a_failure_only_the_steps_run_whose_condition_says_so(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step("exit 3", key="bad", continue_on_error="true"),
            step("echo ${{ steps.bad.outcome }} ${{ steps.bad.conclusion }}"),
            step("exit 4", key="worse"),
            step("echo never"),
            step("echo f ${{ job.status }}", condition="failure()"),
            step("echo a", condition="always()"),
            step("echo s", condition="success()"),
            step("echo o ${{ steps.worse.outcome }}", condition="failure() && steps.worse.outcome == 'failure'"),
            step("echo c", condition="cancelled()"),
        ),
        code=1,
    )
    expected = [
        "failure/success",
        "success",
        "failure",
        "skipped",
        "success",
        "success",
        "skipped",
        "success",
        "skipped",
    ]
    assert list(states(ran).values()) == expected
    assert ran.lines("one", "script/02") == ["failure success"]
    assert ran.lines("one", "script/05") == ["f failure"]
    outcome = ran.job("one").outcome
    assert (outcome["failing_step"], ran.error("one")) == ("script/03", "script/03 failed with exit code 4")
    assert ran.job("one").exit_code == 4


@pytest.mark.parametrize(
    ("shell", "script", "lines", "code"),
    [
        ("", "false | true; echo on; echo $0 | grep -c step", ["on", "1"], 0),
        ("bash", "false | true; echo never", [], 1),
        ("sh", "echo sh; false; echo never", ["sh"], 1),
        ("python", "import sys\nprint('py', len(sys.argv))", ["py 1"], 0),
        ("bash -u {0}", "false; echo on; exit 1", ["on"], 1),
        ("cat -n {0}", "text", ["     1\ttext"], 0),
    ],
)
def test_shells(make: Make, shell: str, script: str, lines: list[str], code: int) -> None:
    ran = run(make, job("one", step(script, shell=shell)), code=code)
    assert ran.lines("one") == lines


def test_powershell_is_missed_by_its_name(tmp_path: Path) -> None:
    def ran(path: str) -> tuple[int, str]:
        (tmp_path / "step").write_text("")
        command = ["/bin/sh", *SHELLS["pwsh"][1:-1], str(tmp_path / "step")]
        done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said = ran("/nowhere")
    assert (code, said.count("\n"), "has no PowerShell" in said) == (127, 1, True)
    (tmp_path / "pwsh").write_text('#!/bin/sh\necho "$@"')
    (tmp_path / "pwsh").chmod(0o755)
    assert ran(f"{tmp_path}:/usr/bin:/bin") == (0, f"-command . '{tmp_path}/step.ps1'\n")


def test_a_step_that_can_t_begin_fails_with_the_reason(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step("echo a", shell="powershell"),
            step("echo ${{ fromJSON('{') }}", condition="always()"),
            step("echo b", condition="always()", working_directory="none"),
        ),
        code=1,
    )
    assert list(states(ran).values()) == ["failure"] * 3
    assert "only on Windows" in ran.error("one")
    assert "not valid JSON" in ran.lines("one", "script/02")[0]


def test_masks_hold_from_their_line_on_and_commands_do_what_they_say(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step(
                "echo before; printf '::add-mask::se'; sleep 0.1; echo cret-1; echo has secret-1 in it\n"
                "echo '::warning file=a.py,line=3,col=2,title=T::m%0An'; echo '  ::error::bad %25'\n"
                "echo '::stop-commands::tok'; echo '::error::not one'; echo '::tok::'; echo '::notice::seen'; echo '::nonsense::x'\n"
                "printf '::notice::no end'"
            ),
            step("echo secret-1", condition="always()"),
        ),
    )
    assert ran.lines("one")[1:3] == ["::add-mask::[REDACTED:SECRET_MASK]", "has [REDACTED:SECRET_MASK] in it"]
    assert ran.lines("one", "script/02") == ["[REDACTED:SECRET_MASK]"]
    found = [(fact["level"], fact["message"], fact["file"], fact["line"]) for fact in ran.facts("annotation", "one")]
    assert found == [
        ("warning", "m\nn", "a.py", 3),
        ("error", "bad %", None, None),
        ("notice", "seen", None, None),
        ("notice", "no end", None, None),
    ]
    assert ran.lines("one")[-1] == "::notice::no end"


def test_disabled_commands_and_invalid_files_fail_the_step(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step("echo '::set-env name=A::b'", continue_on_error="true"),
            step(
                "printf '%s\\n' K=1 =x nonsense L=2 >>$GITHUB_ENV; echo o=1 >>$GITHUB_OUTPUT",
                key="part",
                continue_on_error="${{ true }}",
            ),
            step('echo "x<<E" >>"$GITHUB_OUTPUT"', continue_on_error="true"),
            step("echo '::set-output name=a::b'", key="old"),
            step("echo ${{ steps.old.outputs.a }} [$K] [$L] ${{ steps.part.outputs.o }}"),
        ),
    )
    assert list(states(ran).values()) == ["failure/success"] * 3 + ["success"] * 2
    assert "disabled" in ran.lines("one")[-1]
    assert ran.lines("one", "script/02") == ["Error: Invalid format 'nonsense'"]
    assert "delimiter not found" in ran.lines("one", "script/03")[0]
    assert ran.lines("one", "script/05") == ["b [1] [] 1"]


def test_old_commands_can_be_allowed(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step("echo '::set-env name=A::b'; echo '::add-path::/zip'"),
            step("echo $A ${PATH%%:*}"),
            env={"ACTIONS_ALLOW_UNSECURE_COMMANDS": "true"},
        ),
    )
    assert ran.lines("one", "script/02") == ["b /zip"]


def test_a_composite_action_has_its_own_inputs_steps_and_status(make: Make) -> None:
    inside = {"scope": ("act",)}
    ran = run(
        make,
        job(
            "one",
            step(kind="enter", key="act", inputs={"who": "${{ env.W }}"}, env={"E": "e"}),
            step('echo "v=${{ inputs.who }}$E" >>"$GITHUB_OUTPUT"', key="own", **inside),
            step("exit 2", **inside),
            step("echo skipped", **inside),
            step("echo ${{ steps.own.outputs.v }} ${{ env.E }}", condition="always()", **inside),
            step(kind="leave", key="act", outputs={"out": "${{ steps.own.outputs.v }}"}, continue_on_error="true"),
            step('echo "${{ steps.act.outputs.out }} ${{ steps.act.outcome }} [${{ steps.own.outputs.v }}] [$E]"'),
            step(kind="enter", key="no", condition="false"),
            step("echo no", scope=("no",)),
            step(kind="leave", key="no", condition="false"),
            step("echo ${{ steps.no.outcome }}"),
            env={"W": "we"},
        ),
    )
    expected = [
        "success",
        "success",
        "failure",
        "skipped",
        "success",
        "failure/success",
        "success",
        "skipped",
        "skipped",
        "skipped",
        "success",
    ]
    assert list(states(ran).values()) == expected
    assert ran.lines("one", "script/05") == ["wee e"]
    assert ran.lines("one", "script/07") == ["wee failure [] []"]
    assert ran.lines("one", "script/11") == ["skipped"]


def test_post_steps_run_after_their_main_step_with_its_state(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step("echo pre; echo s=1 >>$GITHUB_STATE", stage="pre", main="script/02"),
            step('echo "[$STATE_s]"; echo t=2 >>$GITHUB_STATE'),
            step("exit 1"),
            step("echo never"),
            step("echo $STATE_s $STATE_t", stage="post", main="script/02"),
            step("echo no", stage="post", main="script/04"),
            step("echo no", stage="post", main="script/02", condition="success()"),
        ),
        code=1,
    )
    assert list(states(ran).values()) == ["success", "success", "failure", "skipped", "success", "skipped", "skipped"]
    assert (ran.lines("one", "script/02"), ran.lines("one", "script/05")) == (["[1]"], ["1 2"])


def test_a_post_step_of_an_action_in_another_fails_the_job(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step(kind="enter", key="act"),
            step("true", scope=("act",)),
            step(kind="leave", key="act"),
            step("exit 3", scope=("act",), stage="post", main="script/02"),
        ),
        code=1,
    )
    assert ran.error("one") == "script/04 failed with exit code 3"


def test_default_variables_and_the_event(make: Make) -> None:
    github = {"ref": "refs/heads/main", "event": {"n": 7}, "job": "build", "repository": "o/r"}
    ran = run(
        make,
        job(
            "one",
            step(
                'echo "$CI $GITHUB_ACTIONS $GITHUB_REF $GITHUB_JOB $RUNNER_OS"; cat "$GITHUB_EVENT_PATH" | tr -d " \\n"; echo\n'
                'test "$GITHUB_WORKSPACE" = "$PWD"; echo "${{ github.event.n }} ${{ github.workspace == env.P }}"',
                env={"P": "${{ github.workspace }}"},
            ),
            contexts={"github": github},
        ),
    )
    assert ran.lines("one") == [
        "true true refs/heads/main build Linux",
        json.dumps({"n": 7}).replace(" ", ""),
        "7 true",
    ]


def test_a_variable_that_no_shell_can_set_reaches_programs(make: Make) -> None:
    script = "import os\nprint(os.environ['A-B'])"
    ran = run(make, job("one", step(script, shell="python", env={"A-B": "c d"})))
    assert ran.lines("one") == ["c d"]


def test_variables_of_the_container_are_not_in_the_context(make: Make) -> None:
    one = job(
        "one",
        step('echo "$A $B $C [${{ env.A }}] ${{ env.B }}"', env={"C": "step"}),
        env={"B": "job"},
        container_env={"A": "${{ env.B }}s", "B": "c", "C": "c"},
    )
    assert run(make, one).lines("one") == ["jobs job step [] job"]


def test_a_step_s_own_time_limit_is_a_failure(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts whole minutes: less than one is no limit."""
    monkeypatch.setattr(late, "MINUTE_S", 0.3)
    limited = step("sleep 60", timeout_minutes="${{ 1.9 }}")
    ran = run(
        make,
        job("one", step("sleep 0.4", timeout_minutes="0.9"), limited, step("echo f", condition="failure()")),
        code=None,
    )
    assert list(states(ran).values()) == ["success", "failure", "success"]


def test_the_job_s_time_limit_cancels_what_does_not_ask_for_it(make: Make) -> None:
    ran = run(
        make,
        job(
            "one",
            step("sleep 60"),
            step("echo a", condition="always()"),
            step("echo c", condition="cancelled()"),
            step("echo f", condition="failure()"),
            step(kind="enter", condition="always()"),
            step("echo inside", scope=("act",)),
            step(kind="leave", condition="always()"),
            timeout_s=0.5,
        ),
        code=4,
    )
    assert list(states(ran).values()) == ["cancelled", "success", "success", "skipped", *["success"] * 3]
    assert ran.statuses == {"one": "timed_out"}


def test_the_time_limit_of_an_action_counts_for_its_steps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MINUTE_S", 0.3)
    inside = (step("sleep 60", scope=("act",)), step("echo never", scope=("act",)))
    ran = run(
        make,
        job(
            "one",
            step(kind="enter", timeout_minutes="1"),
            *inside,
            step(kind="leave"),
            step("echo f", condition="failure()"),
        ),
        code=None,
    )
    assert list(states(ran).values()) == ["success", "failure", "skipped", "failure", "success"]


def test_the_job_s_time_limit_inside_an_action(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs all the same has its own time, and not what the action has left."""
    monkeypatch.setattr(late, "MINUTE_S", 0.6)
    ran = run(
        make,
        job(
            "one",
            step(kind="enter", key="act", timeout_minutes="1"),
            step("sleep 60", scope=("act",)),
            step("sleep 0.2", scope=("act",), condition="always()"),
            step(kind="leave", key="act"),
            timeout_s=0.5,
        ),
        code=4,
    )
    assert list(states(ran).values()) == ["success", "cancelled", "success", "cancelled"]
    assert ran.statuses == {"one": "timed_out"}


def test_hashes_of_files_are_github_s(make: Make) -> None:
    # sha256(sha256("a\n") + sha256("b\n"))
    ran = run(
        make,
        job(
            "one",
            step(kind="checkout"),
            step("echo ${{ hashFiles('**/*.lock', '!no/**') }}"),
            step("echo [${{ hashFiles('none') }}]"),
            step("echo ${{ hashFiles(format('{0}/d', github.workspace), './x.lock', '!./no') }}"),
            step("echo ${{ hashFiles('**', format('!{0}/no', github.workspace), '!.loom/**') }}"),
        ),
        files={"x.lock": "a\n", "d/y.lock": "b\n", "no/z.lock": "c\n"},
    )
    import hashlib

    one = [hashlib.sha256(text).digest() for text in (b"b\n", b"a\n")]
    assert ran.lines("one", "script/02") == [hashlib.sha256(b"".join(one)).hexdigest()]
    assert ran.lines("one", "script/03") == ["[]"]
    assert ran.lines("one", "script/04") == ran.lines("one", "script/05") == ran.lines("one", "script/02")


def test_problem_matchers_find_the_failures_of_later_steps(make: Make) -> None:
    matcher = {"owner": "mine", "pattern": [{"regexp": r"^(\S+):(\d+) BAD (.*)$", "file": 1, "line": 2, "message": 3}]}
    ran = run(
        make,
        job(
            "one",
            step("echo '::add-matcher::m.json'", continue_on_error="true"),
            step("echo 'z.c:9 BAD is no failure'"),
            step("echo 'a.c:3 BAD thing'; exit 1", continue_on_error="true"),
            step("echo '::remove-matcher owner=mine::'; echo 'b.c:4 BAD no'; exit 1"),
        ),
        code=1,
        files={"m.json": json.dumps({"problemMatcher": [matcher]})},
    )
    found = [(each["file"], each["line"], each["message"]) for each in ran.facts("finding", "one")]
    assert found == [("a.c", 3, "thing")]


def test_a_secret_is_there_where_it_is_named_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "very-secret-1")
    ran = run(
        make,
        job(
            "one",
            step(
                "env | grep -c very-secret || true; echo ${{ secrets.TOKEN }} [${{ secrets.OTHER }}] [${{ github.token }}]"
            ),
            step('echo "$T" | rev; echo "K=$T" >>$GITHUB_ENV', env={"T": "${{ secrets.token }}"}),
            step("test ${#K} = 13"),
            secrets=(Secret(name="TOKEN", ref="env://MY_TOKEN", file=False),),
            outputs={"o": "${{ env.K }}"},
        ),
    )
    assert ran.lines("one") == ["0", "[REDACTED:SECRET_TOKEN] [] []"]
    assert ran.facts("step_state", "one")[1]["env"]["variables"] == {"K": "[REDACTED:SECRET_TOKEN]"}
    assert ran.job("one").outcome.get("outputs") is None


def test_ports_of_services_are_in_the_context_of_the_job() -> None:
    service = Service(name="redis", aliases=("redis",), image=Image(name="redis"), ports=(6379,))
    one = replace(job("one"), services=(service,))
    state = LateState(one, runtime("/w", "", ("bash",), ""), needs={}, secrets={}, run_id="1")
    text = "${{ job.services.redis.ports[6379] }} ${{ job.services.redis.ports['6379'] }} ${{ job.services.none.ports[1] }}"
    assert state.at(step()).text(text) == "6379 6379 "
    assert one.late is not None
    boxed = replace(one, late=replace(one.late, contexts={"job": {"container": {}}}))
    at = runtime("/w", "", ("bash",), "", {"id": "c1", "network": "n1"}, {"redis": "r1"})
    ids = "${{ job.container.id }} ${{ job.container.network }} ${{ job.services.redis.id }} ${{ job.services.redis.network }}"
    text = f"${{{{ job.container && 1 }}}} ${{{{ job.services.redis.ports[6379] }}}} {ids}"
    said = [LateState(each, at, needs={}, secrets={}, run_id="1").at(step()).text(text) for each in (boxed, one)]
    assert said == ["1 6379 c1 n1 r1 n1", " 6379   r1 n1"]


def test_a_missing_file_of_problem_matchers_is_named(make: Make) -> None:
    ran = run(make, job("one", step("echo '::add-matcher::no/m.json'")))
    told = ran.warnings("one")
    assert any("of no/m.json are not used: cat: " in text and "No such file" in text for text in told)


def test_problem_matchers_look_at_the_last_lines_of_a_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.runner.late.steps.MOST_LOOKED_AT", 2)
    matcher = {"owner": "mine", "pattern": [{"regexp": r"^BAD (.*)$", "message": 1}]}
    ran = run(
        make,
        job("one", step("echo '::add-matcher::m.json'"), step("echo BAD 1; echo BAD 2; echo BAD 3; exit 1")),
        code=1,
        files={"m.json": json.dumps({"problemMatcher": [matcher]})},
    )
    assert [one["message"] for one in ran.facts("finding", "one")] == ["2", "3"]


def test_a_problem_matcher_that_takes_too_long_is_left_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.workflow.patterns.MAX_SEARCH_S", 0.01)
    matcher = {"owner": "slow", "pattern": [{"regexp": "((.*a){20}b)", "message": 1}]}
    ran = run(
        make,
        job("one", step("echo '::add-matcher::m.json'"), step(f"echo {'a' * 10_000}; exit 1")),
        code=1,
        files={"m.json": json.dumps({"problemMatcher": [matcher]})},
    )
    assert ran.facts("finding", "one") == []
    assert any("slow" in text for text in ran.warnings("one"))


class Deciding:
    """A gate that decides about failures in turn, and looks at the variables of each step before it."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)
        self.seen: list[str] = []

    def before(self, at: AtStep, cancel: Cancel) -> None:
        said: list[bytes] = []
        inside = at.inside()
        inside.exec(["sh", "-c", "echo $A $X"], lambda _, data: said.append(data), cancel, stdin=False)
        self.seen.append(f"{at.step.id.removeprefix('script/')} {b''.join(said).decode().strip()}".strip())

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict:
        return self.verdicts.pop(0)


def gated(gate: Deciding) -> Any:
    return lambda tools: replace(tools, gate=gate)


def test_a_person_stands_before_each_step_that_runs_with_its_variables(make: Make) -> None:
    gate = Deciding()
    ran = run(
        make,
        job(
            "one",
            step("echo A=1 >>$GITHUB_ENV"),
            step(kind="enter", inputs={"x": "i"}),
            step("true", scope=("act",), env={"X": "${{ inputs.x }}"}),
            step(kind="leave"),
            step("never", condition="false"),
        ),
        tools=gated(gate),
    )
    assert gate.seen == ["01", "02 1", "03 1 i"]
    assert ran.statuses == {"one": "success"}


def test_a_failed_step_is_tried_again_or_the_next_one_runs(make: Make) -> None:
    steps = (step("test -e up || { touch up; exit 1; }"), step("exit 3"), step("echo on ${{ job.status }}"))
    ran = run(make, job("one", *steps), code=1, tools=gated(Deciding(Verdict.RETRY, Verdict.NEXT)))
    assert list(states(ran).values()) == ["success", "failure/success", "success"]
    assert (ran.error("one"), ran.lines("one", "script/03")) == ("script/02 failed with exit code 3", ["on success"])


def test_a_paused_job_stays_as_the_step_left_it(make: Make) -> None:
    steps = (step("exit 3"), step("echo never", condition="always()"))
    ran = run(make, job("one", *steps), code=None, tools=gated(Deciding(Verdict.PAUSE)))
    assert (list(states(ran).values()), ran.statuses) == (["failure/success"], {"one": "failure"})


@pytest.mark.parametrize("part", ["env", "outputs"])
def test_a_variable_or_output_of_the_job_that_is_invalid_fails_it(make: Make, part: str) -> None:
    invalid: dict[str, Any] = {part: {"A": "${{ fromJSON('{') }}"}}
    ran = run(make, job("one", step("echo ran"), **invalid), code=1)
    assert ran.error("one").startswith(f"the job's `{part}`: ")
    assert ran.lines("one", "script/01") == ([] if part == "env" else ["ran"])


def test_an_output_with_a_secret_is_left_out_with_a_word(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "very-secret-1")
    secret = Secret(name="TOKEN", ref="env://MY_TOKEN", file=False)
    ran = run(make, job("one", step("true"), secrets=(secret,), outputs={"o": "<${{ secrets.TOKEN }}>", "p": "1"}))
    assert ran.job("one").outcome["outputs"] == {"p": "1"}
    assert [fact["text"] for fact in ran.facts("warning", "one")] == ["Skip output 'o' since it may contain secret."]


def test_what_is_invalid_at_a_step_fails_it_and_is_told(make: Make) -> None:
    invalid = "${{ fromJSON('{') }}"
    ran = run(
        make,
        job(
            "one",
            step(kind="checkout"),
            step("echo", condition=f"always() && {invalid[4:-3]}"),
            step("exit 1", condition="always()", continue_on_error=invalid),
            step("echo", condition="always()", shell="sh -e"),
            step("echo", condition="always()", shell="sh '{0}"),
            step("echo ${{ hashFiles('../x') }}", condition="always()"),
            step("echo ::add-matcher::none.json", condition="always()"),
            step("echo last", condition="always()"),
        ),
        code=1,
    )
    assert list(states(ran).values()) == ["success"] + ["failure"] * 5 + ["success"] * 2
    lines = [ran.lines("one", f"script/0{number}") for number in range(2, 9)]
    assert [
        bool(found) and said in found[0]
        for found, said in zip(
            lines, ("JSON", "", "Invalid shell option", "No closing quotation", "hashFiles: ", "", "last"), strict=True
        )
    ] == [True, False, True, True, True, True, True]
    warned = [fact["text"].partition(":")[0] for fact in ran.facts("warning", "one")]
    assert warned == ["continue-on-error", "script/07"]


@pytest.mark.parametrize(
    ("allowed", "outcome"), [("true", "success"), ("${{ env.Y == '1' }}", "success"), ("${{ env.YES }}", "failure")]
)
def test_a_step_may_fail_by_a_boolean_alone_also_if_its_script_is_invalid(
    make: Make, allowed: str, outcome: str
) -> None:
    ran = run(
        make,
        job(
            "one",
            step("exit 1", continue_on_error=allowed),
            step("echo ${{ fromJSON('') }}", condition="always()", continue_on_error=allowed),
            step(kind="enter", condition="always()", continue_on_error=allowed, inputs={"a": "${{ fromJSON('') }}"}),
            step("echo in", scope=("act",)),
            step(kind="leave"),
            env={"YES": "true", "Y": "1"},
        ),
        code=0 if outcome == "success" else 1,
    )
    failed = "failure" if outcome == "failure" else "failure/success"
    assert list(states(ran).values()) == [failed] * 3 + ["skipped"] * 2


@pytest.mark.parametrize(
    ("paths", "found"),
    [(["."], True), ([""], True), (["a"], True), (["$W/a/"], True), (["b", "a/.x"], False), ([], False)],
)
def test_an_action_and_hashes_of_the_project_need_a_checkout_before_them(
    make: Make, paths: list[str], found: bool
) -> None:
    action = Action(uses="./a/act", path="a/act", using="composite")
    written = [path.replace("$W", "${{ github.workspace }}") for path in paths]
    ran = run(
        make,
        job(
            "one",
            *(step(kind="checkout", inputs={"Path": path}) for path in written),
            step("echo '[${{ hashFiles('x') != '' }}]'"),
            step(kind="enter", action=action),
            step("echo in", scope=("act",)),
            step(kind="leave", action=action),
            step(kind="checkout", condition="always()"),
            no_checkout=True,
        ),
        code=0 if found else 1,
        files={"x": "1", "act/action.yml": "", "a/act/action.yml": ""},
    )
    assert list(states(ran).values())[len(paths) + 1] == ("success" if found else "failure")
    assert ran.lines("one", f"script/0{len(paths) + 1}") == [f"[{'true' if paths in (['.'], ['']) else 'false'}]"]
    said = ran.lines("one", f"script/0{len(paths) + 2}")
    assert (
        said == []
        if found
        else said[0].endswith("Did you forget to run actions/checkout before running your local action?")
    )


def test_an_invalid_variable_fails_a_step_that_may_fail(make: Make) -> None:
    ran = run(make, job("one", step("true", continue_on_error="true", env={"A": "${{ fromJSON('') }}"})), code=1)
    assert list(states(ran).values()) == ["failure"]


@pytest.mark.parametrize(("mode", "expected"), [("auto", "1"), ("bind_mount", "0")])
def test_a_checkout_leaves_the_history_whole_that_other_jobs_share(make: Make, mode: str, expected: str) -> None:
    steps = step("actions/checkout@v4", kind="checkout"), step("ls .git | grep -c shallow || true")
    ran = run(make, job("one", *steps), job("two", *steps), mount_mode=mode)
    assert [ran.lines(name, "script/02") for name in ("one", "two")] == [[expected]] * 2


def test_the_checkout_of_the_project_itself_runs_nothing_and_has_outputs(make: Make) -> None:
    commit = {"github": {"repository": "me/p", "sha": "a" * 40, "ref": "refs/heads/main"}}
    ran = run(
        make,
        job(
            "one",
            step("actions/checkout@v4", kind="checkout", key="c"),
            step("echo ${{ steps.c.outputs.commit }}"),
            contexts=commit,
        ),
    )
    assert ran.lines("one", "script/02") == ["a" * 40]
    assert list(states(ran).values()) == ["success"] * 2


def test_what_a_step_reports_has_limits_and_forms(make: Make) -> None:
    many = "for n in $(seq 12); do echo ::warning::w$n; echo ::error::e$n; done"
    ran = run(
        make,
        job(
            "one",
            step("echo node_options=x >>$GITHUB_ENV; echo K=kept >>$GITHUB_ENV"),
            step(
                "echo [$node_options] [$K]; printf 'a=1\\r\\n\\n\\nb<<E F\\r\\n1\\n2\\nE F\\r\\n' >>$GITHUB_OUTPUT",
                key="s",
            ),
            step("echo '${{ toJSON(steps.s.outputs) }}' | tr -d ' \\n\\r'"),
            step("echo '<<E' >>$GITHUB_OUTPUT", continue_on_error="true"),
            step("echo 'a<<' >>$GITHUB_OUTPUT", continue_on_error="true"),
            step("echo =x >>$GITHUB_OUTPUT", continue_on_error="true"),
            step("head -c 1048577 /dev/zero | tr '\\0' x >>$GITHUB_STEP_SUMMARY"),
            step("head -c 1048576 /dev/zero | tr '\\0' x >>$GITHUB_STEP_SUMMARY"),
            step(
                f"{many}; echo '::error line=x,col=12345678::'; printf '::notice line=7,col=3::'; head -c 5000 /dev/zero | tr '\\0' x"
            ),
            step("echo ::add-mask::ab; echo '::add-mask::long-one%0Aab%0Along-two'; echo ab long-one long-two"),
            step(
                "echo '::save-state name=a::1'; echo '::save-state name=b::2'; echo '::set-output name=c::3'", key="old"
            ),
            step("echo ${{ steps.old.outputs.c }}"),
        ),
    )
    assert list(states(ran).values()) == [
        *["success"] * 3,
        *["failure/success"] * 3,
        *["success"] * 6,
    ]
    said = {number: ran.lines("one", f"script/{number:02}") for number in range(1, 13)}
    assert said[2] == ["[] [kept]"]
    assert said[3] == ['{"a":"1\\r","b":"1\\n2"}']
    format_ = "Error: Invalid format '{}'. Name must not be empty and delimiter must not be empty"
    assert (said[4], said[5]) == ([format_.format("<<E")], [format_.format("a<<")])
    assert said[6] == ["Error: Invalid format '=x'"]
    assert said[7] == []
    sizes = [len(fact.get("summary", "")) for fact in ran.facts("step_state", "one")]
    assert sizes == [0] * 7 + [1048576] + [0] * 4
    told = ran.facts("annotation", "one")
    assert [fact["message"] for fact in told if fact["level"] == "warning"] == [f"w{n}" for n in range(1, 11)]
    assert [fact["message"] for fact in told if fact["level"] == "error"] == [f"e{n}" for n in range(1, 11)]
    (notice,) = [fact for fact in told if fact["level"] == "notice"]
    assert (len(notice["message"]), notice["line"], notice["column"], notice["title"]) == (4000, 7, 3, None)
    masked = "[REDACTED:SECRET_MASK]"
    assert said[10][-1] == f"ab {masked} {masked}"
    warned = [text.partition(": ")[2] for text in ran.warnings("one")]
    assert warned[0] == "Can't store node_options output parameter using '$GITHUB_ENV' command."
    assert warned.pop(1) == "$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of 1024k, got 1024k"
    assert [text.partition(" (")[0] for text in warned[1:3]] == [
        "a value of add-mask is not masked: the value is shorter than 4 characters"
    ] * 2
    assert warned[3:] == [
        f"the `{name}` command is deprecated: write to a file instead" for name in ("save-state", "set-output")
    ]
    assert ran.facts("step_state", "one")[10]["saved"]["variables"] == {"a": "1", "b": "2"}


def test_a_job_of_githubs_goes_on_in_its_kept_container(make: Make) -> None:
    text = """
on: push
jobs:
  one:
    runs-on: ubuntu-latest
    steps:
      - {id: s, run: "echo A=b >>$GITHUB_ENV; echo o=1 >>$GITHUB_OUTPUT; echo never twice"}
      - {run: "test -e repaired; echo ${{ steps.s.outputs.o }} $A"}
      - {run: "echo last ${{ job.status }}"}
  two: {runs-on: ubuntu-latest, steps: [{run: echo}]}
"""
    project = make("", **{".github/workflows/ci.yml": text})
    before = project.run(on="far", keep="on-failure", code=1)
    assert list(states(before).values()) == ["success", "failure", "skipped"]
    (kept,) = (project.home / "far").iterdir()
    (kept / "files/repaired").touch()
    given = {**dict.fromkeys(("stream", "jobs", "keep", "sync", "var")), "quiet": True, "stop_at": None, "trust": True}
    assert resume.resume(None, from_step=None, **given) == 0
    after = project.last()
    assert list(states(after).values()) == ["success", "success", "success"]
    assert (after.lines("one"), after.lines("one", "script/02")) == ([], ["1 b"])
    assert after.lines("one", "script/03") == ["last success"]


def test_nothing_runs_in_a_container_that_a_step_has_ended(make: Make) -> None:
    ended = Replaced(run=lambda *_: Exit(code=137, ended_session=True))
    steps = step("x", continue_on_error="true"), step("y", condition="always()")
    ran = run(make, job("one", *steps), code=1, tools=on(ended))
    assert states(ran) == {"01": "failure"}
    assert ran.error("one") == "script/01 failed with exit code 137"


def test_a_secret_may_be_a_text_of_the_workflow(make: Make) -> None:
    ran = run(make, job("one", step("echo ${{ secrets.S }} [${{ secrets.T }}]"), contexts={"secrets": {"S": "text"}}))
    assert ran.lines("one") == ["text []"]


@pytest.mark.parametrize(("value", "lines_are_its_own"), [("1", True), ("1\n2", False)])
def test_the_lines_of_a_script_are_those_of_its_file_where_no_value_has_more(
    make: Make, value: str, lines_are_its_own: bool
) -> None:
    made = job("one", step("echo a\necho ${{ env.V }}\n"), env={"V": value})
    (only,) = made.steps
    written = replace(made, steps=(replace(only, file=".github/workflows/ci.yml", line=5, literal=True),))
    ran = run(make, written, code=None)
    (begun,) = [event.data for event in ran.events if event.step and "command" in event.data]
    assert (begun["line"], begun["literal"]) == (5, lines_are_its_own)


@pytest.mark.parametrize(("given", "shown"), [({}, ["0 on"]), ({"ACTIONS_STEP_DEBUG": "True"}, ["1 on", "Debug: d"])])
def test_debugging_is_a_variable_of_the_user(make: Make, given: dict[str, str], shown: list[str]) -> None:
    script = 'echo "${RUNNER_DEBUG-0} on"; echo "::debug::d"; exit 1'
    ran = run(make, job("one", step(script), contexts={"vars": given}), code=1)
    assert ran.lines("one")[1] == "::debug::d"
    assert diagnosis_of(ran.reading, "one").lines == shown


def test_a_problem_matcher_finds_failures_of_the_step_that_adds_it(make: Make) -> None:
    matcher = {"owner": "mine", "pattern": [{"regexp": r"^BAD (.*)$", "message": 1}]}
    text = "echo BAD before; echo '::add-matcher::m.json'; echo BAD after; exit 1"
    ran = run(make, job("one", step(text)), code=1, files={"m.json": json.dumps({"problemMatcher": [matcher]})})
    assert [one["message"] for one in ran.facts("finding", "one")] == ["after"]
