"""runs, show, logs, diagnose on real runs."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loom_process import run_loom
from tests.support.report_page import log_lines
from tests.support.waiting import until

from .conftest import Make, Project, Ran

pytestmark = pytest.mark.slow


def test_show_prints_what_the_run_printed(failed: Ran) -> None:
    assert failed.project.loom("show") == failed.output
    assert "before 30" in failed.output
    assert "before 1\n" not in failed.output


@pytest.mark.parametrize("flags", [["--verbose"], ["--quiet"], ["--color", "always"], ["--stream"], ["--stream", "-v"]])
def test_show_with_the_runs_flags_prints_the_same(make: Make, flags: list[str]) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  retry: 1\n  script: [echo one, 'echo two; exit 3']\n")
    output = project.loom("run", "--local", *flags, code=1)
    assert project.loom("show", *flags) == output


def test_show_a_run_that_never_began(make: Make) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  image: none\n  script: [echo one]\n")
    environ = {"DOCKER_HOST": f"unix://{project.home}/none.sock"}
    output = project.loom("run", "--local", code=3, **environ)
    assert project.loom("show") == output
    diagnosis = json.loads(project.loom("diagnose", "--json"))
    assert diagnosis["state"] == "error"
    assert (diagnosis["error_code"], diagnosis["ended_by"]["by"]) == ("ENGINE_UNAVAILABLE", "loom")
    assert "could not run" in project.loom("diagnose")


def test_runs_are_listed_newest_first(failed: Ran) -> None:
    row = json.loads(failed.project.loom("runs", "--json"))["runs"][0]
    assert (row["status"], row["failing_job_id"], row["exit_code"]) == ("failure", "test", 1)
    text = failed.project.loom("runs")
    assert "failure" in text
    assert row["tree_sha"][:12] in text


def test_logs_of_a_job_and_a_step(failed: Ran) -> None:
    loom = failed.project.loom
    assert loom("logs", "last", "build") == "building\n"
    assert loom("logs", "build") == "building\n"
    assert loom("logs", "last", "test", "1", "--tail", "2") == "line 29\nline 30\n"
    assert (
        loom("logs", "last", "test", "script/02", "--grep", "Assertion.*2")
        == "tests/test_x.py:12: AssertionError: 1 != 2\n"
    )
    assert loom("logs", "last", "test", "1", "--grep", "line .*9", "--tail", "1") == "line 29\n"
    assert loom("logs", "lint").splitlines() == ["linting", "linting"]  # of both attempts
    assert loom("logs", "--tail", "1").startswith("test ")


def test_logs_as_json_say_where(failed: Ran) -> None:
    line = json.loads(failed.project.loom("logs", "last", "build", "--json"))
    assert (line["kind"], line["text"], line["job_id"], line["step"]) == ("output", "building", "build", "script/01")


def test_a_name_that_is_neither_a_run_nor_a_job(failed: Ran) -> None:
    for command in ("logs", "diagnose"):
        ran = failed_command(failed.project, command, "tset")
        assert ran.returncode == 2
        assert "'tset' is neither a run nor a job of the last run\n  its jobs: build, lint, test, after\n" in ran.stderr
    ran = failed_command(failed.project, "diagnose", "test", "lint")
    assert (ran.returncode, "unexpected argument lint: expected [RUN] [JOB]" in ran.stderr) == (2, True)


def test_the_name_of_several_jobs_means_all_of_them(make: Make) -> None:
    matrix = "{matrix: [{N: ['1', '2']}]}"
    project = make(f"version: v1\nstages: [s]\nunit: {{stage: s, script: [echo n=$N], parallel: {matrix}}}\n")
    project.loom("run", "--local")
    for names in (["unit"], ["last", "unit"]):
        assert sorted(line.split()[-1] for line in project.loom("logs", *names).splitlines()) == ["n=1", "n=2"]


def test_a_name_of_a_job_where_nothing_ran_yet(make: Make) -> None:
    project = make("version: v1\nstages: [s]\na: {stage: s, script: x}\n")
    asked = failed_command(project, "exec", "nosuch", "--", "true")
    assert asked.returncode == 125, "not a code that a command ends with by habit"
    assert failed_command(project, "exec", "--nosuch").returncode == 125
    error, advice = asked.stderr.splitlines()
    assert error == "loom: no run is named 'nosuch'"
    assert advice.startswith("  `loom runs` lists them; of a job of that name: `loom logs nosuch`")
    shell = failed_command(project, "shell", "nosuch", "bash").stderr
    assert shell.endswith("in a job of the last run: `loom shell nosuch`, `loom exec nosuch -- bash`\n")
    assert failed_command(project, "exec", "179", "--", "true").stderr.endswith("  `loom runs` lists them\n")


def test_the_end_of_a_failed_run_names_what_says_why(failed: Ran) -> None:
    (line,) = [line for line in failed.output.splitlines() if line.startswith("failed in ")]
    command = line.partition("(why: loom ")[2].removesuffix(")").split()
    assert command == ["diagnose", failed.project.last().run_id]
    assert "frobnicate" in failed.project.loom(*command)


def test_logs_say_what_there_is(failed: Ran) -> None:
    assert failed.project.loom("logs", "nothing", code=2) == ""
    assert failed.project.loom("logs", "last", "nothing", code=2) == ""
    assert failed.project.loom("logs", "last", "test", "9", code=2) == ""
    assert failed.project.loom("logs", "--grep", "(", code=2) == ""


def test_diagnose_follows_the_pointers(failed: Ran) -> None:
    found = json.loads(failed.project.loom("diagnose", "--json"))
    assert (found["job_id"], found["step"], found["exit_code"]) == ("test", "script/02", 1)
    assert found["readings"][0]["code"] == "ignored_file"
    assert ".gitignore:1" in found["readings"][0]["text"]
    assert found["locations"] == [{"file": "tests/test_x.py", "line": 12, "column": None, "one_of": []}]
    assert found["reproduce"] == "LOOM_CONTAINER=false loom run test"
    assert Path(found["events_path"]).exists()
    text = failed.project.loom("diagnose")
    assert "failed: job test, step script/02 (.loom/workflow.yml:11), exit code 1" in text


@pytest.mark.parametrize(
    ("needs", "options"), [("", ["--from", "test"]), ("", ["--no-needs", "test"]), ("needs: [], ", [])]
)
@pytest.mark.parametrize("in_checkout", [True, False])
def test_the_artifact_of_a_job_that_gave_none_is_not_told_as_ignored(
    make: Make, needs: str, options: list[str], in_checkout: bool
) -> None:
    project = make(
        "version: v1\nstages: [build, test]\n"
        "build: {stage: build, script: ['mkdir dist', 'echo 1 >dist/app'], artifacts: {paths: [dist/]}}\n"
        f"test: {{stage: test, {needs}script: [cat dist/app]}}\n"
    )
    (project.root / ".gitignore").write_text("dist/\n")
    if in_checkout:
        (project.root / "dist").mkdir()
        (project.root / "dist/app").write_text("1\n")
    project.loom("run", "--local", *options, code=1)
    (reading,) = json.loads(project.loom("diagnose", "--json"))["readings"]
    why = "this run left out (not selected)" if options else "test does not take (needs, dependencies)"
    assert reading["text"] == f"dist/app is an artifact of build, which {why}"


@pytest.mark.parametrize(
    ("script", "told"),
    [("sh run.sh", ["merge_conflict"]), ("echo 'run.sh:3:1: error: above an example of markers'; exit 1", [])],
)
def test_a_failure_at_conflict_markers_is_told_as_that(make: Make, script: str, told: list[str]) -> None:
    project = make(f'version: v1\nstages: [test]\ntest: {{stage: test, script: ["{script}"]}}\n')
    lines = ["<<<<<<< HEAD", "echo 1", "=======", "echo 2", ">>>>>>> other"]
    (project.root / "run.sh").write_text("\n".join(lines) + "\n")
    assert ("run.sh:1 has a marker of a conflict" in project.loom("run", "--local", code=1)) == bool(told)
    readings = json.loads(project.loom("diagnose", "--json"))["readings"]
    assert [reading["code"] for reading in readings] == told


def test_diagnose_for_an_agent_is_short(failed: Ran) -> None:
    text = failed.project.loom("diagnose", "--format", "agent")
    assert len(text.encode()) <= 2048
    for part in (
        "job test, step script/02",
        "config.local.json",
        "AssertionError",
        "reproduce: LOOM_CONTAINER=false loom run test",
    ):
        assert part in text


def test_a_job_may_be_named(failed: Ran) -> None:
    found = json.loads(failed.project.loom("diagnose", "last", "lint", "--json"))
    assert (found["job_id"], found["exit_code"]) == ("lint", 3)
    entry = failed.project.last()
    assert entry.receipt is not None
    run = rf"run {entry.run_id}, (just now|\d+ min ago), tree {str(entry.receipt.snapshot_tree_sha)[:12]}\n"
    passed, skipped = failed.project.loom("diagnose", "last", "build"), failed.project.loom("diagnose", "after")
    assert re.fullmatch(f"job build passed: nothing to diagnose\n{run}", passed), passed
    assert re.fullmatch(f"job after was skipped: test did not succeed\n{run}", skipped), skipped
    failed.project.loom("diagnose", "last", "nothing", code=2)


def test_runs_are_named_by_path_and_by_parts(failed: Ran) -> None:
    entry = failed.project.last()
    names = [entry.run_id, entry.run_id[-9:], str(entry.paths.receipt), str(entry.paths.root), "last-failed"]
    names.append(str(entry.identity["workspace"]))
    for name in names:
        assert failed.project.loom("show", name) == failed.output, name


def test_verify_finds_a_run_by_its_id(failed: Ran) -> None:
    entry = failed.project.last()
    for name in (entry.run_id, entry.run_id[-9:], "last"):
        assert f"isolated workspace: {entry.identity['workspace']}" in failed.project.loom("verify", name), name


SLOW = """\
version: v1
stages: [s]
slow:
  stage: s
  script:
    - echo started; sleep 0.3; echo more; touch "$MARK/on"; sleep 60
"""


@pytest.fixture
def killed(make: Make, tmp_path: Path) -> Project:
    project = make(SLOW.replace("$MARK", str(tmp_path)))
    process = project.start("run", "--local")
    try:
        until((tmp_path / "on").exists)
        assert "running" in project.loom("runs")
        assert "running, last event at" in project.loom("show")
        until(lambda: project.loom("logs").splitlines() == ["started", "more"])
        assert "still runs" in project.loom("diagnose")
    finally:
        process.kill()
        process.communicate()
    return project


def test_a_killed_run_is_readable(killed: Project) -> None:
    shown = killed.loom("show")
    assert "interrupted, last event at 20" in shown
    assert "interrupted" in killed.loom("runs")
    found = json.loads(killed.loom("diagnose", "--json"))
    assert (found["state"], found["job_id"], found["step"]) == ("interrupted", "slow", "script/01")
    assert found["lines"] == ["started", "more"]
    assert found["ended_by"]["says"].startswith("nobody recorded the end")
    assert json.loads(killed.loom("show", "--json"))["receipt"] is None


def test_a_half_written_last_line_is_passed_over(killed: Project) -> None:
    entry = killed.last()
    for path in (entry.paths.events, entry.paths.job("slow") / "user" / "script" / "01" / "events.jsonl"):
        with path.open("ab") as file:
            file.write(b'{"seq":99,"ts":"20')
    assert "interrupted, last event at 20" in killed.loom("show")
    assert killed.loom("logs").splitlines() == ["started", "more"]
    assert json.loads(killed.loom("diagnose", "--json"))["lines"] == ["started", "more"]


FOLLOWED = """\
version: v1
stages: [s]
a:
  stage: s
  retry: 1
  script:
    - echo first; touch "$MARK/on"; while [ ! -e "$MARK/go" ]; do sleep 0.05; done
    - echo second $LOOM_ATTEMPT; [ "$LOOM_ATTEMPT" = 2 ]
    - echo third
"""


def test_follow_shows_what_comes_and_ends_with_the_run(make: Make, tmp_path: Path) -> None:
    project = make(FOLLOWED.replace("$MARK", str(tmp_path)))
    run = project.start("run", "--local")
    until((tmp_path / "on").exists)
    follow = project.start("logs", "--follow")
    assert follow.stdout is not None
    assert follow.stdout.readline() == "first\n"
    (tmp_path / "go").touch()
    rest, _ = follow.communicate(timeout=60)
    assert rest.splitlines() == ["second 1", "first", "second 2", "third"]
    assert follow.returncode == 0
    run.communicate(timeout=60)


def test_an_interrupted_run_shows_the_same(make: Make, tmp_path: Path) -> None:
    project = make(SLOW.replace("$MARK", str(tmp_path)))
    run = project.start("run", "--local")
    until((tmp_path / "on").exists)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert project.loom("show") == output


def test_records_that_are_not_whole(failed: Ran, tmp_path: Path) -> None:
    entry = failed.project.last()
    alone = tmp_path / "receipt.json"
    copied = json.loads(entry.paths.receipt.read_text())
    copied["logs_dir"], copied["run_id"] = "/nowhere/logs/1", "1"
    alone.write_text(json.dumps(copied))
    ran = failed_command(failed.project, "show", str(alone))
    assert ran.returncode == 3
    assert "is not on this machine" in ran.stderr
    (tmp_path / "empty").mkdir()
    ran = failed_command(failed.project, "show", str(tmp_path / "empty"))
    assert ran.returncode == 2


def test_a_copied_record_is_read(failed: Ran, tmp_path: Path) -> None:
    entry = failed.project.last()
    subprocess.run(["cp", "-r", str(entry.paths.root), str(tmp_path / "copy")], check=True)
    receipt = next((tmp_path / "copy" / "receipts").iterdir())
    assert "line 30" in failed.project.loom("logs", str(receipt), "test", LOOM_STATE_DIR=str(tmp_path / "other"))


def test_an_older_schema_is_named(failed: Ran, tmp_path: Path) -> None:
    entry = failed.project.last()
    subprocess.run(["cp", "-r", str(entry.paths.root), str(tmp_path / "old")], check=True)
    receipt = next((tmp_path / "old" / "receipts").iterdir())
    shape = json.loads(receipt.read_text())
    receipt.write_text(json.dumps({**shape, "schema_version": "loom.receipt.v0", "logs_dir": ""}))
    ran = failed_command(failed.project, "diagnose", str(receipt))
    assert ran.returncode == 3
    assert "schema 'loom.receipt.v0', which this loom does not read" in ran.stderr


def test_a_run_that_another_loom_recorded_is_listed_as_that(failed: Ran, tmp_path: Path) -> None:
    entry = failed.project.last()
    root = tmp_path / "state/runs" / entry.run_id
    shutil.copytree(entry.paths.root, root, symlinks=True)
    events = root / entry.paths.events.relative_to(entry.paths.root)
    begin, rest = events.read_text().split("\n", 1)
    event = json.loads(begin)
    event["data"]["invocation"] = {"options": {}}
    events.write_text(f"{json.dumps(event)}\n{rest}")
    receipt = root / entry.paths.receipt.relative_to(entry.paths.root)
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "invocation": {"options": {}}}))
    environ = {"LOOM_STATE_DIR": str(tmp_path / "state")}
    assert "unreadable" in failed.project.loom("runs", **environ)
    shown = run_loom(["show", entry.run_id], cwd=failed.project.root, environ={**failed.project.environ, **environ})
    assert shown.returncode == 3
    assert "`loom clean RUN` removes it" in shown.stderr
    failed.project.loom("clean", entry.run_id, **environ)
    assert not root.exists()


def failed_command(project: Project, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_loom(arguments, cwd=project.root, environ=project.environ)


def test_completion_never_fails(failed: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from loom.commands.completion import complete

    for name, value in failed.project.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(failed.project.root)
    entry = failed.project.last()
    assert [name for name, _ in complete("run", {})] == ["last", "last-failed", entry.run_id]
    assert complete("job", {"run": "last"}) == ["build", "lint", "test", "after"]
    assert "script/02" in complete("step", {"run": "last", "job": "test"})
    assert complete("job", {"run": "nothing"}) == []
    assert [name for name, _ in complete("workflow-job", {})] == ["build", "lint", "test", "after"]
    monkeypatch.chdir(tmp_path)
    assert complete("job", {}) == []
    assert os.getcwd() == str(tmp_path)


def test_what_artifacts_and_caches_leave_out_is_said_on_the_screen(make: Make) -> None:
    project = make(
        """\
version: v1
stages: [s]
a:
  stage: s
  secrets: {TOKEN: {ref: "env://MY_TOKEN", file: false}}
  script: ["mkdir out; for i in 1 2 3 4 5 6 7; do echo $TOKEN > out/$i; done; echo fine > out/fine"]
  artifacts: {paths: [out/]}
  cache: [{key: k, paths: [out/1, out/fine]}]
"""
    )
    said = project.loom("run", "--local", "--trust", MY_TOKEN="correct-horse-battery").splitlines()
    assert [line for line in said if line.startswith("! a")] == [
        *(f"! a         artifacts: out/{number} left out: it holds the secret TOKEN" for number in range(1, 6)),
        "! a         artifacts: 2 more left out: `loom logs a --system` names them",
        "! a         cache: out/1 left out: it holds the secret TOKEN",
    ]
    assert "out/7 left out" in project.loom("logs", "a", "--system")


def test_a_report_lies_in_the_record_and_names_the_commit(failed: Ran) -> None:
    project = failed.project
    before = sorted(project.root.iterdir())
    path = Path(project.loom("report").removeprefix("report: ").strip())
    assert path == project.last().paths.root / "report.html"
    assert sorted(project.root.iterdir()) == before
    commit = json.loads(project.loom("show", "--json"))["commit"]
    log = subprocess.run(
        ["git", "log", "-1", "--format=%H%n%s%n%an"], cwd=project.root, capture_output=True, text=True, check=True
    )
    assert [commit["sha"], commit["subject"], commit["author"]] == log.stdout.splitlines()
    assert f"{commit['sha'][:12]} {commit['subject']} ({commit['author']}, " in path.read_text()


def test_a_diagnosis_says_that_a_later_run_left_no_record(make: Make) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  script: [exit 3]\n")
    project.loom("run", "--local", code=1)
    assert json.loads(project.loom("diagnose", "--json"))["unrecorded"] is None
    project.loom("run", "--local", "--dry-run", "nothing", code=2)
    assert json.loads(project.loom("diagnose", "--json"))["unrecorded"] is None
    project.loom("run", "--local", "nothing", code=2)
    refused = json.loads(project.loom("diagnose", "--json"))
    assert (refused["state"], refused["exit_code"], refused["unrecorded"]["exit_code"]) == ("refused", 2, 2)
    assert refused["previous_run_id"] == project.last().run_id
    assert "nothing" in refused["error"]
    for form in ("text", "agent"):
        text = project.loom("diagnose", "--format", form)
        assert text.startswith("refused: loom run --local nothing, exit code 2\n")
        assert "exit 3" not in text
        assert text.endswith(f"the run before it: loom diagnose {project.last().run_id}\n")
    assert "::error title=refused" in project.loom("diagnose", "--format", "github")
    assert project.loom("diagnose", project.last().run_id).startswith("failed: job a")
    project.loom("run", "--local", code=1)
    assert project.loom("diagnose").startswith("failed: job a")


@pytest.mark.parametrize(
    ("arguments", "environ", "error"),
    [
        (["run", "--nope"], {}, "No such option: --nope"),
        (["run", "--var"], {}, "requires an argument"),
        (["run", "--event", "x"], {}, "--event"),
        (["run"], {"LOOM_CONTAINER": "x"}, "LOOM_CONTAINER"),
        (["rerun", "none"], {}, "none"),
        (["resume", "--nope"], {}, "--nope"),
        (["run", "nojob"], {}, "nojob"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_refused_run_is_explained_as_such(
    make: Make, arguments: list[str], environ: dict[str, str], error: str
) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  script: [exit 3]\n")
    project.loom(*arguments, code=2, **environ)
    found = json.loads(project.loom("diagnose", "--json"))
    assert (found["state"], found["previous_run_id"]) == ("refused", None)
    assert found["unrecorded"]["command"] == ["loom", *arguments]
    assert error in found["error"]


def test_a_job_that_failed_is_explained_while_others_run(make: Make, tmp_path: Path) -> None:
    project = make(
        "version: v1\nstages: [s]\nbad:\n  stage: s\n  script: [echo wrong; exit 3]\n"
        f"slow:\n  stage: s\n  script: [touch {tmp_path}/on; sleep 60]\n"
    )
    process = project.start("run", "--local", "-j", "2")
    try:
        until((tmp_path / "on").exists)
        until(lambda: json.loads(project.loom("diagnose", "bad", "--json"))["job_status"])
        found = json.loads(project.loom("diagnose", "bad", "--json"))
        assert (found["failed"], found["exit_code"], found["lines"]) == (True, 3, ["wrong"])
        text = project.loom("diagnose")
        assert text.startswith("failed: job bad, step script/01")
        assert ", still runs\n" in text
        assert "still runs: nothing to diagnose" in project.loom("diagnose", "slow")
    finally:
        process.kill()
        process.communicate()


LONG = """\
version: v1
stages: [s]
a:
  stage: s
  script:
    - |
      long() { head -c 200000 /dev/zero | tr '\\0' "$1"; }
      echo before; long é >/dev/null; long x; echo " end"; long y >&2; echo " end" >&2; long z
    - echo after
"""


def test_logs_print_long_lines_whole(make: Make) -> None:
    project = make(LONG)
    project.loom("run", "--local")
    lines = [f"{letter * 200000}{end}" for letter, end in (("x", " end"), ("y", " end"), ("z", ""))]
    for flags in ([], ["--follow"]):
        assert sorted(project.loom("logs", *flags).splitlines()) == sorted(["before", *lines, "after"])
    assert project.loom("logs", "a", "2", "--tail", "1") == "after\n"
    assert project.loom("logs", "a", "1", "--tail", "1") in [f"{line}\n" for line in lines]
    assert project.loom("logs", "--grep", "xx end$") == f"{lines[0]}\n"
    pieces = [json.loads(line) for line in project.loom("logs", "a", "1", "--json").splitlines()]
    assert max(len(piece["text"]) for piece in pieces) <= 65536
    assert sorted(log_lines(project.loom("report", "-o", "-"))) == sorted(["before", *lines, "after"])


def test_streams_that_run_side_by_side_are_no_difference(make: Make) -> None:
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n"
        "  script: ['for i in $(seq 200); do echo out $i; echo err $i >&2; done']\n"
    )
    project.loom("run", "--local")
    for _ in range(3):
        project.loom("run", "--local")
        first, *_ = json.loads(project.loom("runs", "--json"))["runs"][1:]
        found = json.loads(project.loom("diff", first["run_id"], "last", "--json"))
        assert found["same"], found["jobs"]
    workflow = project.root / ".loom" / "workflow.yml"
    workflow.write_text(workflow.read_text().replace("err $i", "err $i $((i / 100))"))
    project.loom("run", "--local")
    shown = project.loom("diff", first["run_id"])
    assert "script/01, line 1 of standard error:" in shown


def test_a_run_does_not_pay_for_libgit2(make: Make) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  script: [echo one]\n")
    loom = [sys.executable, "-X", "importtime", "-m", "loom"]
    for arguments, paid in ((["run", "--local"], False), (["show", "--json"], True)):
        ran = subprocess.run(
            [*loom, *arguments], cwd=project.root, env=project.environ, capture_output=True, text=True, check=True
        )
        assert (" pygit2\n" in ran.stderr) is paid


def test_the_command_that_reproduces_survives_resume_and_rerun(make: Make) -> None:
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n  variables: {X: '0'}\n  script: ['test \"$X\" = 0']\n"
        "b: {stage: s, script: [echo b]}\n"
    )
    asked = ("--var", "X=1 2", "--no-cache", "-j", "2")
    project.loom("run", "--local", *asked, "a", "b", code=1, LOOM_NETWORK="none")
    again = "LOOM_NETWORK=none LOOM_CONTAINER=false loom run --var 'X=1 2' --no-cache --jobs 2 a"
    for command in ((), ("resume",), ("rerun", "--failed"), ("rerun", "--fresh", "--failed")):
        if command:
            project.loom(*command, code=1)
        found = json.loads(project.loom("diagnose", "--json"))["reproduce"]
        assert set(shlex.split(found)) == set(shlex.split(again)), command
