"""`loom run`, end to end: what it prints, what it leaves, what it ends with."""

import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from msgspec.structs import replace

from loom.record import derive
from loom.record.events import PhaseEvent, decode
from loom.record.fold import RunFold
from loom.util import jsons
from tests.docker.run.conftest import IMAGE, Project, Ran, events_of, load, output_of, project_in, tree
from tests.support.waiting import promptly, until

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [build, test]
variables: {GREETING: hello}
default:
  image: debian:trixie-slim
build:
  stage: build
  script:
    - echo "$GREETING from $LOOM_JOB_NAME in $PWD"
    - |
      mkdir -p out
      echo made > out/file
  artifacts: {paths: [out/]}
good:
  stage: test
  script: [cat out/file]
bad:
  stage: test
  script:
    - echo before
    - |
      echo "to stderr" >&2
      exit 42
    - echo never
after:
  stage: test
  needs: [bad]
  script: [echo no]
flaky:
  stage: build
  retry: 1
  script: [exit 9]
  allow_failure: true
"""


@pytest.fixture(scope="module")
def ran(project_of_module: Project) -> Ran:
    """The run of WORKFLOW."""
    project_of_module.workflow(WORKFLOW)
    return project_of_module.run("--mount-mode", "overlay")


def test_a_run_that_fails_leads_to_the_failing_line_in_three_reads(ran: Ran) -> None:
    assert ran.code == 1
    receipt = ran.receipt
    assert (receipt["status"], receipt["exit_code"], receipt["kind"]) == ("failure", 1, "loom-run-local")
    pipeline = load(Path(receipt["pipeline_manifest_path"]))
    assert pipeline["failing_job_id"] == "bad"
    manifest = load(ran.logs / pipeline["failing_job_manifest_path"])
    assert (manifest["failing_step"], manifest["exit_code"], manifest["failing_command"]) == (
        "script/02",
        42,
        'echo "to stderr" >&2\nexit 42\n',
    )
    events = events_of(ran.logs / manifest["failing_step_events_path"])
    assert events[0]["kind"] == "phase_started"
    assert events[0]["job_id"] == "bad"
    assert events[1]["text"] == "to stderr"
    assert events[1]["stream"] == "stderr"
    assert events[-1]["exit_code"] == 42
    assert {job["job_id"]: job["status"] for job in pipeline["jobs"]} == {
        "build": "success",
        "good": "success",
        "bad": "failure",
        "after": "skipped",
        "flaky": "failure",
    }
    assert ran.manifest("after")["blocked_by"] == "bad"
    assert load(Path(receipt["phase_report_path"]))["complete"]


def test_the_screen_tells_what_failed_where_and_how(ran: Ran, project_of_module: Project) -> None:
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"isolated workspace: {project_of_module.tmp}/loom-{os.geteuid()}/loom-run-local-")
    at = next(number for number, line in enumerate(lines) if line.startswith("✗ bad"))
    shown = "\n".join(lines[at : at + 7])
    assert "step script/02, exit code 42" in shown
    assert '$ echo "to stderr" >&2' in shown
    assert "│ to stderr" in shown
    events = next(line.split("events: ")[1] for line in lines if "events: " in line)
    assert Path(events).exists()
    assert lines[-1] == f"receipt: {ran.receipt_path}"
    assert any(line.startswith("– after") and "bad did not succeed" in line for line in lines)


def test_jobs_of_different_users_at_once_all_get_into_the_workspace(project: Project) -> None:
    project.workflow("""
version: v1
stages: [test]
default: {image: "debian:trixie-slim"}
one: {stage: test, user: "1001:1001", script: ["id -u; sleep 1; ls -l . && cat .loom/workflow.yml"]}
two: {stage: test, user: "1002:1002", script: ["id -u; sleep 1; ls -l . && cat .loom/workflow.yml"]}
""")
    ran = project.run("-j", "2")
    assert ran.code == 0, ran.out
    status = ran.workspace.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o755, os.geteuid())


def test_the_record_is_reached_from_the_workspace_and_is_not_part_of_it(ran: Ran) -> None:
    assert ran.workspace.parent.stat().st_mode & 0o777 == 0o700  # what is not committed yet is nobody else's to read
    link = ran.workspace / ".loom" / ".runtime"
    assert link.is_symlink()
    assert (link / "receipts" / ran.receipt_path.name).samefile(ran.receipt_path)
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ran.workspace, capture_output=True, text=True, check=True
    ).stdout
    assert ".runtime" not in status


def test_a_run_from_inside_a_workspace_is_the_same_run_again(project: Project) -> None:
    project.workflow(WORKFLOW.replace("mkdir -p out", "mkdir -p /tmp/out && cd /tmp").replace("[out/]", "[none/]"))
    project.write("untracked", "work in progress\n")
    first = project.run("build")
    before = tree(first.receipt_path.parents[1])
    second = project.loom(
        "run", "--local", "--container", "--workflow", ".loom/workflow.yml", "build", cwd=first.workspace
    )
    assert second.code == 0
    assert second.receipt["snapshot_tree_sha"] == first.receipt["snapshot_tree_sha"]
    assert second.workspace != first.workspace
    assert tree(first.receipt_path.parents[1]) == before
    assert not (second.workspace / ".loom" / ".runtime" / "logs" / first.receipt["run_id"]).exists()


@pytest.mark.parametrize("mode", ["bind_mount", "overlay", "ephemeral_volume"])
def test_every_mount_mode_gives_the_same_results(ran: Ran, project: Project, mode: str) -> None:
    if mode != "overlay":  # which the run above has
        project.workflow(WORKFLOW)
        ran = project.run("--mount-mode", mode, "build", "good")
    assert {ran.manifest(job)["session"]["mount_mode"] for job in ("build", "good")} == {mode}
    assert ran.output("good") == ["made"]
    assert ran.output("build") == ["hello from build in /workspace"]
    artifacts = ran.manifest("build")["artifacts"]
    with tarfile.open(ran.logs / artifacts["archive_path"]) as archive:
        assert archive.extractfile("out/file").read() == b"made\n"  # type: ignore[union-attr]
    assert (artifacts["files"], artifacts["missing"]) == (1, [])


def test_jobs_without_an_image_run_on_the_host(project: Project) -> None:
    project.workflow("version: v1\nstages: [a]\nhere:\n  stage: a\n  script: ['echo $LOOM_PROVIDER; pwd']\n")
    ran = project.loom("run", "--local")
    assert ran.code == 0
    assert ran.output("here") == ["host", str(ran.workspace)]


def test_a_job_that_cleans_everything_away_does_not_touch_the_record(project: Project) -> None:
    project.workflow(
        "version: v1\nstages: [a]\nwipe:\n  stage: a\n  script:\n    - ls -A .loom\n    - rm -rf * .[!.]*\n    - ls -A\n"
    )
    for arguments in (("run", "--local"), ("run", "--local", "--container")):
        ran = project.loom(*arguments)
        assert ran.code == 0, ran.out
        assert ran.output("wipe") == ["workflow.yml"]
        assert ran.output("wipe", "script/02") == []
        assert ran.output("wipe", "script/03") == []
        assert (ran.workspace / ".loom/.runtime/receipts").is_dir()


def test_quiet_prints_the_receipt_and_the_status_only_and_stream_the_output_too(project: Project) -> None:
    project.workflow(WORKFLOW)
    ran = project.run("-q", "build")
    assert ran.out.splitlines() == [f"receipt: {ran.receipt_path}", "status: success"]
    assert ran.err == ""
    ran = project.run("--stream", "build")
    assert "build    │ hello from build in /workspace" in ran.out.splitlines()


def test_documents_are_what_the_events_say_byte_for_byte(ran: Ran) -> None:
    fold = RunFold()
    for line in (ran.logs / "events.jsonl").read_bytes().splitlines():
        event = decode(line)
        assert isinstance(event, PhaseEvent)
        fold.apply(event)
    written = {
        "phase-report.json": derive.phase_report(fold),
        "pipeline/manifest.json": derive.pipeline_manifest(fold),
    }
    for job_id in fold.jobs:
        written[f"jobs/{job_id}/manifest.json"] = derive.job_manifest(fold, job_id)
    for name, document in written.items():
        assert (ran.logs / name).read_bytes() == jsons.encode_file(document), name
    diagnosis = ran.logs / "diagnosis.json"
    assert ran.receipt_path.read_bytes() == jsons.encode_file(
        replace(derive.receipt(fold), diagnosis_path=str(diagnosis))
    )
    assert {str(path.relative_to(ran.logs)) for path in ran.logs.rglob("*.json")} == {*written, diagnosis.name}
    assert fold.jobs["flaky"].attempts == 2


ENDS = """
version: v1
stages: [a]
default: {image: debian:trixie-slim}
allowed:
  stage: a
  allow_failure: {exit_codes: [5]}
  before_script: ['echo "WORD=passed on" >> "$LOOM_ENV"']
  script:
    - echo "$WORD"
    - cd /; exit 5
  after_script: ['echo "$LOOM_JOB_STATUS in $PWD"']
gone:
  stage: a
  script: ['kill -9 -1; sleep 5']
  after_script: [echo never]
ended_after:
  stage: a
  script: [echo made > out]
  after_script: ['kill -9 -1; sleep 5', echo never]
  artifacts: {paths: [out]}
hangs_after:
  stage: a
  step_timeout: 5s
  script: [exit 7]
  after_script: ['echo begun; sleep 60', 'echo cleaned up']
eats:
  stage: a
  shell: sh
  resources: {memory: 32m}
  script:
    - (echo 1000 >/proc/self/oom_score_adj; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}) | cat
    - echo went on
slow:
  stage: a
  timeout: 5s
  script: ['echo begun; sleep 60']
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ran, Ran]]:
    """Two runs of ENDS: of the jobs that do not fail it, and of the others."""
    with project_in(tmp_path_factory.mktemp("ends")) as made:
        made.workflow(ENDS)
        yield made.run("allowed", "ended_after", "eats", "slow", "-j4"), made.run("gone", "hangs_after", "-j2")


def test_before_and_after_scripts_variables_handed_on_and_an_allowed_failure(ends: tuple[Ran, Ran]) -> None:
    ran, _ = ends
    assert ran.output("allowed") == ["passed on"]
    assert ran.output("allowed", "after_script/01") == ["failure in /workspace"]
    assert ran.manifest("allowed")["allowed_failure"] is True


def test_an_after_script_in_a_container_that_is_gone_is_not_what_failed(ends: tuple[Ran, Ran]) -> None:
    _, ran = ends
    assert ran.code == 1
    manifest = ran.manifest("gone")
    assert (manifest["status"], manifest["exit_code"]) == ("failure", 137)
    assert manifest["failing_step"] == "script/01"
    assert "step script/01, exit code 137" in ran.out


def test_an_after_script_that_ends_the_container_does_not_change_the_result(ends: tuple[Ran, Ran]) -> None:
    ran, _ = ends
    manifest = ran.manifest("ended_after")
    assert (manifest["status"], manifest["artifacts"]["files"]) == ("success", 1)
    (warning,) = manifest["warnings"]
    failed = (
        "after_script/01 failed with exit code 137, and what comes after it was not run: it has ended the container"
    )
    assert warning == f"{failed}; `after_script` does not change the job's result"


def test_an_after_script_that_hangs_is_ended_and_the_result_stays(ends: tuple[Ran, Ran]) -> None:
    _, ran = ends
    assert ran.code == 1
    manifest = ran.manifest("hangs_after")
    assert (manifest["status"], manifest["exit_code"], manifest["failing_step"]) == ("failure", 7, "script/01")
    assert manifest["warnings"] == [
        "after_script/01 ran out of time and was ended; each of its steps may take 5s (`step_timeout`)"
    ]
    assert ran.output("hangs_after", "after_script/01") == ["begun"]
    assert ran.output("hangs_after", "after_script/02") == ["cleaned up"]


def test_a_process_killed_for_want_of_memory_is_told_also_when_its_step_passes(ends: tuple[Ran, Ran]) -> None:
    ran, _ = ends
    manifest = ran.manifest("eats")
    (warning,) = manifest["warnings"]
    assert manifest["status"] == "success"
    assert warning.startswith("script/01: ")
    assert "ran out of memory; the step passed all the same" in warning
    assert any(line.startswith("! eats ") and line.endswith(warning) for line in ran.out.splitlines())


def test_a_timeout_has_its_own_exit_code(ends: tuple[Ran, Ran]) -> None:
    ran, _ = ends
    assert ran.code == 4, "of the job that ran out of time: the others do not fail the run"
    assert ran.manifest("slow")["status"] == "timed_out"
    assert ran.output("slow") == ["begun"]


def test_what_a_background_child_says_after_the_last_step_is_kept(project: Project) -> None:
    # `first` is opened while the snapshot is taken, `second` is not; `here` runs without a container.
    job = """
  script:
    - |
      head -c 20000000 /dev/urandom > big
      echo said
      (i=0; while i=$((i + 1)); do printf '%s ' $i; sleep 0.02; done) &
  artifacts: {paths: [big]}
"""
    image = "  image: debian:trixie-slim"
    project.workflow(
        "version: v1\nstages: [a, b, c]\n"
        f"first:\n  stage: a\n{image}{job}second:\n  stage: b\n{image}{job}here:\n  stage: c{job}"
    )
    ran = project.loom("run", "--local")
    assert ran.code == 0, ran.out + ran.err
    for name in ("first", "second", "here"):
        said, *counted = ran.output(name)
        after = output_of(ran.logs / "jobs" / name / "system/provider/events.jsonl")
        assert said == "said"
        assert after, name
        # Where the step ended is up to chance; nothing is lost or doubled there.
        numbers = "".join(counted + after).split()
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)], name


def test_an_image_that_cannot_be_had_is_an_error_and_what_is_said_meanwhile_is_told(project: Project) -> None:
    project.workflow("version: v1\nstages: [a]\nx:\n  stage: a\n  image: localhost:1/no/such:image\n  script: [echo]\n")
    ran = project.run("--stream")
    assert ran.code == 3
    manifest = ran.manifest("x")
    assert (manifest["status"], manifest["failing_section"]) == ("error", "image_build")
    assert "localhost:1 can't be reached" in manifest["error"]
    assert (ran.logs / manifest["failing_section_events_path"]).exists()
    said = output_of(ran.logs / "jobs/x/system/image_build/events.jsonl")
    assert [line.rpartition("(")[2] for line in said if "trying again" in line] == ["1 of 3)", "2 of 3)", "3 of 3)"]
    streamed = [line.partition("│ ")[2] for line in ran.out.splitlines() if line.startswith("x ") and "│" in line]
    assert streamed == said


@pytest.mark.parametrize("mode", ["bind_mount", "overlay"])
def test_names_that_are_not_utf8_are_told_as_well_as_they_can_be(project: Project, mode: str) -> None:
    # What is left out, and what the job changed.
    project.workflow("""
version: v1
stages: [a]
job:
  stage: a
  script:
    - |
      mkdir out
      mkfifo "$(printf 'out/a\\377')"
      touch "$(printf 'out/b\\377')"
  artifacts: {paths: [out]}
""")
    ran = project.run("--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    manifest = ran.manifest("job")
    assert manifest["warnings"] == ["artifacts: out/a\ufffd left out: a FIFO, not a file"]
    assert manifest["artifacts"]["files"] == 1


@pytest.mark.parametrize("mode", ["bind_mount", "ephemeral_volume"])
def test_an_artifact_that_is_a_hard_link_to_a_file_that_is_none_is_kept(project: Project, mode: str) -> None:
    project.workflow("""
version: v1
stages: [a, b]
makes:
  stage: a
  script: ["mkdir a z; echo made > a/file; ln a/file z/one.out; ln a/file z/two.out"]
  artifacts: {paths: ["**/*.out"]}
takes:
  stage: b
  script: [cat z/one.out z/two.out]
""")
    ran = project.run("--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    manifest = ran.manifest("makes")
    assert (manifest["artifacts"]["files"], manifest["warnings"]) == (2, [])
    assert ran.output("takes") == ["made", "made"]


@pytest.mark.parametrize("mode", ["bind_mount", "overlay"])
def test_a_container_that_others_remove_is_why_artifacts_are_missing(project: Project, mode: str) -> None:
    project.workflow("""
version: v1
stages: [a]
x:
  stage: a
  script: ["echo begun; sleep 60"]
  artifacts: {paths: [out], when: always}
""")
    process = project.start("run", "--local", "--container", "--mount-mode", mode)
    until(lambda: project.has_printed("begun", "x"), while_runs=process)
    (container,) = project.leftovers()
    client = docker.from_env()
    client.api.remove_container(container.removeprefix("/"), force=True)
    client.close()
    out, err = process.communicate(timeout=60)
    ran = Ran(process.returncode, out, err)
    assert ran.code == 3, out + err
    manifest = ran.manifest("x")
    assert manifest["error"].startswith("the container of job x was ")
    (warning,) = manifest["warnings"]
    if mode == "bind_mount":
        assert warning == f"artifacts: nothing matches out, since the job was broken off: {manifest['error']}"
    else:
        gone = "the container of job x is gone, and its files can't be reached without it"
        assert warning == f"artifacts: not kept: {gone}"
    assert f"! x         {warning}" in out


@pytest.mark.parametrize(("mode", "found"), [("bind_mount", "there"), ("overlay", "")])
def test_what_a_failed_attempt_left_is_there_for_the_next_one_where_the_workspace_is_shared(
    project: Project, mode: str, found: str
) -> None:
    project.workflow("""
version: v1
stages: [a]
x:
  stage: a
  retry: 1
  script: ['if [ "$LOOM_ATTEMPT" = 1 ]; then echo there > left; exit 1; fi; cat left 2>/dev/null || echo']
""")
    ran = project.run("--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("x") == [found]


def test_a_limit_that_only_the_engine_can_refuse_is_named(project: Project) -> None:
    limits = {"cpus": "4000", "tmpfs": "['/x:color=red']", "ulimits": "{nofile: 99999999999}", "pids": "50"}
    project.workflow(
        "version: v1\nstages: [a]\n"
        + "".join(
            f"{name}: {{stage: a, script: [echo never], resources: {{{name}: {limit}}}}}\n"
            for name, limit in limits.items()
        )
    )
    runs = {
        project.run("cpus", "tmpfs", "ulimits"): ("cpus", "tmpfs", "ulimits"),
        project.run("pids", LOOM_CPUS="4000"): ("pids",),
    }
    for ran, names in runs.items():
        assert ran.code == 3, ran.out + ran.err
        for name in names:
            manifest = ran.manifest(name)
            assert (manifest["status"], manifest["error_code"]) == ("error", "LIMIT_REFUSED")
            where, limit = (
                ("LOOM_CPUS: ", "cpus")
                if name == "pids"
                else (f".loom/workflow.yml:{[*limits].index(name) + 3}:", name)
            )
            assert manifest["error"].startswith(where)
            told = f"the engine can't give job {name} the `{limit}` that it asks for: "
            assert told in manifest["error"]
            assert told in ran.out


def test_having_as_many_processes_as_pids_allows_is_told(project: Project) -> None:
    project.workflow(
        "version: v1\nstages: [test]\n"
        + "".join(
            f"""
{name}:
  stage: test
  image: debian:trixie-slim
  shell: sh
  resources: {{pids: 20}}
  script:
    - |
      set -- /proc/[0-9]*; most=$(($# + 5))
      code=0; (for i in $(seq 30); do sleep 3 & done; wait) || code=9
      while set -- /proc/[0-9]*; [ $# -gt $most ]; do :; done # they end, without a further fork
      {end}
"""
            for name, end in (("passes", "true"), ("fails", "exit $code"))
        )
    )
    ran = project.run("-j", "2")
    assert ran.code == 1, ran.out + ran.err
    told = "the job's container had as many processes as `pids` allows, and 1 further one could not be started"
    (warning,) = ran.manifest("passes")["warnings"]
    assert warning == f"script/01: {told}; the step passed all the same"
    assert f"! passes    {warning}" in ran.out
    error = ran.manifest("fails")["error"]
    assert error == f"script/01 failed with exit code 9: {told}"
    assert f"    {error}" in ran.out
    assert "resources: {pids: ...}" in project.loom("diagnose").out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_an_interrupted_run_ends_gracefully_and_its_record_is_whole(
    project: Project, number: signal.Signals, code: int
) -> None:
    project.workflow(
        """
version: v1
stages: [a, b]
long:
  stage: a
  script: ['echo begun; sleep 100']
  after_script: ['echo cleaned up']
later: {stage: b, script: [echo no]}
"""
    )

    def begun() -> bool:
        return any(
            '"begun"' in path.read_text() for path in project.record_files("logs/*/jobs/long/user/script/01/*.jsonl")
        )

    ran = project.stop_when(begun, number)
    assert ran.code == code
    assert (ran.receipt["status"], ran.receipt["exit_code"]) == ("canceled", code)
    assert load(Path(ran.receipt["phase_report_path"]))["complete"]
    assert ran.manifest("long")["status"] == "canceled"
    assert ran.output("long", "after_script/01") == ["cleaned up"]
    assert ran.manifest("later")["status"] == "skipped"


@pytest.mark.parametrize("jobs", ["a", "ab"])
def test_an_interrupt_ends_the_snapshot_and_leaves_no_workspace(project: Project, tmp_path: Path, jobs: str) -> None:
    """The snapshot of a run with several jobs is taken by a thread of its own."""
    started = tmp_path / "started"
    project.workflow(
        f"version: v1\nstages: [s]\ndefault: {{image: '{IMAGE}'}}\n"
        + "".join(f"{job}: {{stage: s, script: [echo]}}\n" for job in jobs)
    )
    project.write(".gitattributes", "*.slow filter=slow\n")
    project.write("a.slow", "x")
    clean = f"touch {started}; exec sleep 600"
    subprocess.run(["git", "config", "filter.slow.clean", clean], cwd=project.root, check=True)
    process = project.start("run", "--local", "--container")
    until(started.exists, while_runs=process)
    with promptly():
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    ran = Ran(process.returncode, out, err)
    assert (ran.code, ran.receipt["status"]) == (130, "canceled")
    assert list(project.tmp.glob("*/loom-run-local-*")) == []


@pytest.mark.parametrize("mode", ["bind_mount", "ephemeral_volume"])
def test_a_second_interrupt_does_not_wait_for_artifacts(project: Project, mode: str) -> None:
    # Packing that takes minutes.
    project.workflow(
        "version: v1\nstages: [a]\nx:\n  stage: a\n  script: [truncate -s 100G large]\n  artifacts: {paths: [large]}\n"
    )
    process = project.start("run", "--local", "--container", "--mount-mode", mode)
    until(lambda: project.record_files("logs/*/jobs/x/.artifacts.*.tmp"), while_runs=process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any(line.startswith("interrupted: ") for line in process.stdout)  # else the two could be one
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    ran = Ran(process.returncode, out, err)
    assert ran.code == 130
    assert (ran.manifest("x")["status"], ran.manifest("x")["failing_section"]) == ("canceled", "artifact_extract")
    assert not project.record_files("logs/*/jobs/x/.artifacts.*.tmp")


def test_no_engine_is_said_once_with_a_receipt_and_without_a_workspace(project: Project) -> None:
    project.workflow(WORKFLOW)
    ran = project.run(DOCKER_HOST="unix:///nowhere/docker.sock")
    assert ran.code == 3
    assert "/nowhere/docker.sock" in ran.out
    assert ran.receipt["snapshot_path"] is None
    assert {job["status"] for job in load(Path(ran.receipt["pipeline_manifest_path"]))["jobs"]} == {"skipped"}
    assert load(Path(ran.receipt["phase_report_path"]))["complete"]
    assert list(project.tmp.glob("*/loom-run-local-*")) == []


def test_a_bad_workflow_is_one_clear_message(project: Project) -> None:
    project.workflow("version: v1\nstages: [a]\nx: {stage: a, scirpt: [echo]}\n")
    ran = project.run()
    assert ran.code == 2
    assert "did you mean script" in ran.err
    assert "Traceback" not in ran.err
    assert list(project.tmp.glob("*/loom-run-local-*")) == []


def test_no_workflow_no_repository_no_commit(project: Project, tmp_path: Path) -> None:
    missing = project.run()
    assert (missing.code, ".loom/workflow.yml" in missing.err) == (2, True)
    outside = tmp_path / "outside"
    outside.mkdir()
    nothing = project.loom("run", "--local", cwd=outside)
    assert (nothing.code, "repository" in nothing.err) == (2, True)
    project_git = ["git", "init", "-q", str(outside)]
    subprocess.run(project_git, check=True, env=project.environ)
    unborn = project.loom("run", "--local", cwd=outside)
    assert (unborn.code, "commit" in unborn.err) == (2, True)


def test_two_runs_at_once_do_not_meet(project: Project) -> None:
    project.workflow(WORKFLOW)
    processes = [project.start("run", "--local", "--container", "build", "good") for _ in range(2)]
    outs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({out.splitlines()[0] for out in outs}) == 2


def test_a_record_that_can_no_longer_be_written_ends_the_run_and_leaves_nothing(
    project: Project, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        project.workflow("version: v1\nstages: [a]\nlong:\n  stage: a\n  script: ['seq 1 1000000; sleep 60']\n")
        ran = project.run(LOOM_STATE_DIR=str(small / "state"))
    finally:
        subprocess.run(["umount", small], check=True)
    assert ran.code == 3
    assert "can't be written" in ran.err
    assert "No space left" in ran.err
    assert "Traceback" not in ran.err


def test_show_prints_what_the_run_printed(ran: Ran, project_of_module: Project, project: Project) -> None:
    assert project_of_module.loom("show").out == ran.out
    project.workflow(WORKFLOW)
    for form in ("-v", "--stream"):
        printed = project.run(form, "bad", "after").out
        assert project.loom("show", form).out == printed


BUILT = """
version: v1
stages: [one, two]
default: {image: debian:trixie-slim}
writer:
  stage: one
  script: ['echo written > left; echo changed > README; git tag made 2>/dev/null || true']
built:
  stage: two
  image: {build: {dockerfile: ci/Dockerfile}}
  script: ['ls /seen', 'cat /seen/README', 'cat README left']
"""


@pytest.mark.parametrize("mode", ["bind_mount", "overlay"])
def test_a_build_after_other_jobs_sees_the_snapshot(project: Project, mode: str) -> None:
    project.write("ci/Dockerfile", f"FROM debian:trixie-slim\nCOPY . /seen\nRUN echo {project.home}\n")
    project.workflow(BUILT if mode == "bind_mount" else BUILT.replace(", 'cat README left'", ""))
    ran = project.run("--mount-mode", mode)
    client = docker.from_env()
    try:
        assert ran.code == 0, ran.out + ran.err
        assert ran.output("built") == ["README", "ci"]
        assert ran.output("built", "script/02") == ["hello"]
        if mode == "bind_mount":
            assert ran.output("built", "script/03") == ["changed", "written"]
            again = project.run("--mount-mode", mode)
            said = (again.logs / "jobs/built/system/image_build/events.jsonl").read_text()
            assert "nothing that goes into" in said, said
        assert project.record_files("builds") == []
    finally:
        client.images.remove(ran.manifest("built")["image"]["id"], force=True)
        client.close()


@pytest.mark.parametrize("mode", ["bind_mount", "overlay"])
def test_a_job_on_this_machine_gets_what_a_container_made(project: Project, mode: str) -> None:
    project.workflow(
        "version: v1\nstages: [one, two]\n"
        "made: {stage: one, image: debian:trixie-slim, script: ['echo hi > out.txt'], artifacts: {paths: [out.txt]}}\n"
        "used: {stage: two, script: ['cat out.txt']}\n"
    )
    ran = project.loom("run", "--local", "--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("used") == ["hi"]
