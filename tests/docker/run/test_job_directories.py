"""Each job has a directory of its own: the snapshot, its artifacts and its caches, and nothing that another job wrote."""

import os
import secrets
import shutil
import signal
from pathlib import Path

import pytest

from tests.docker.run.conftest import Project, Ran

pytestmark = pytest.mark.docker

# The mode `auto` is an overlay where the tests run; a test below sees to that.
IMAGE = "image: debian:trixie-slim"


def place_of(project: Project, *names: str) -> Path:
    said = project.loom("workspace", *names)
    assert said.code == 0, said.out + said.err
    return Path(said.out.strip())


def opened(ran: Ran, job: str) -> tuple[str, str]:
    session = ran.manifest(job)["session"]
    return session["mount_mode"], session["workspace"]


@pytest.mark.parametrize(("mode", "at_once"), [("auto", "4"), ("copy", "1"), ("ephemeral_volume", "4")])
def test_no_job_sees_what_another_wrote(project: Project, mode: str, at_once: str) -> None:
    project.write("given", "given\n")
    body = (
        "script: ['test ! -e made', 'cat given', 'echo $LOOM_JOB_NAME | tee made given', 'cat made given', 'rm given']"
    )
    project.workflow(
        "version: v1\nstages: [a, b]\n"
        f"one:\n  stage: a\n  {IMAGE}\n  {body}\n"
        f"copies:\n  stage: a\n  {IMAGE}\n  parallel: {{matrix: [{{N: ['1', '2']}}]}}\n  {body}\n"
        + "".join(f"{name}:\n  stage: b\n  {body}\n" for name in ("here", "there"))
    )
    ran = project.loom("run", "--local", "--no-container", "--mount-mode", mode, "-j", at_once)
    assert ran.code == 0, ran.out + ran.err
    assert not (ran.workspace / "made").exists()
    assert (ran.workspace / "given").read_text() == "given\n"
    verified = project.loom("verify")
    assert verified.code == 0, verified.out
    assert place_of(project) == ran.workspace
    if mode != "ephemeral_volume":  # which goes with the container of a job that passed
        left = place_of(project, "one")
        assert (left / "made").read_text() == "one\n"
        assert not (left / "given").exists()


def ready_while_the_snapshot_waits(project: Project, then: str) -> tuple[str, Path]:
    """Two jobs, and a snapshot that waits for their containers in a filter, which then runs `then`.

    Return a part of the containers' names, and a file that the filter makes when they are there.
    """
    name, there = f"early{secrets.token_hex(4)}", project.home / "there"
    project.write(".gitattributes", "given filter=waits\n")
    project.write("given", "committed\n")
    jobs = (f"{name}-{number}: {{stage: a, {IMAGE}, script: [cat given]}}\n" for number in "12")
    project.workflow("version: v1\nstages: [a]\n" + "".join(jobs))
    listed = f"docker ps --all --quiet --filter status=created --filter name={name}"
    wait = f'n=0; until [ "$({listed} | wc -l)" = 2 ]; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done'
    project.write("../waits.sh", f"{wait}\ntouch {there}\n{then}\n")
    project.git("config", "filter.waits.clean", f"sh {project.root.parent / 'waits.sh'}")
    project.write("given", "edited\n")
    return name, there


def test_containers_are_made_while_the_snapshot_is_taken_and_start_after_it(project: Project) -> None:
    name, there = ready_while_the_snapshot_waits(project, "cat")
    ran = project.loom("run", "--local", "-j", "2")
    assert ran.code == 0, ran.out + ran.err
    assert there.exists()
    assert [ran.output(f"{name}-{number}") for number in "12"] == [["edited"]] * 2
    assert opened(ran, f"{name}-1")[0] == "overlay"


def test_containers_that_wait_for_an_interrupted_snapshot_are_removed(project: Project) -> None:
    _, there = ready_while_the_snapshot_waits(project, "sleep 600")
    ran = project.stop_when(there.exists, signal.SIGINT, "-j", "2")
    assert ran.code == 130
    assert ran.receipt["status"] == "canceled"
    assert project.leftovers() == []


def test_a_file_that_is_no_artifact_is_not_handed_on(project: Project) -> None:
    project.workflow(f"""
version: v1
stages: [build, test]
build: {{stage: build, {IMAGE}, script: [echo app > app]}}
test: {{stage: test, {IMAGE}, script: [cat app]}}
""")
    ran = project.run()
    assert ran.code == 1
    assert ran.manifest("test")["failing_step"] == "script/01"


def test_a_neighbours_reports_are_not_a_jobs_own(project: Project) -> None:
    case = '<testcase name="t">{}</testcase>'
    report = "<testsuite>{}</testsuite>"
    bad, good = (report.format(case.format(inner)) for inner in ("<failure/>", ""))
    project.workflow(f"""
version: v1
stages: [a]
bad:
  stage: a
  script: ['echo "$R" > bad.xml; exit 1']
  variables: {{R: '{bad.replace(chr(34), chr(39) * 2)}'}}
  artifacts: {{reports: {{junit: "*.xml"}}}}
good:
  stage: a
  script: ['echo "$R" > good.xml']
  variables: {{R: '{good.replace(chr(34), chr(39) * 2)}'}}
  artifacts: {{reports: {{junit: "*.xml"}}}}
""")
    ran = project.run("-j1")
    assert ran.code == 1, ran.out + ran.err
    assert (ran.manifest("good")["test_reports"]["tests"], ran.manifest("good")["failing_tests"]) == (1, [])
    assert ran.manifest("bad")["test_reports"]["failures"] == 1


@pytest.mark.parametrize("mode", ["auto", "ephemeral_volume"])
def test_artifacts_and_variables_reach_every_kind_of_job(project: Project, mode: str) -> None:
    project.workflow(f"""
version: v1
stages: [a, b]
inside: {{stage: a, {IMAGE}, script: [mkdir o; echo in > o/in], artifacts: {{paths: [o]}}}}
here: {{stage: a, script: [mkdir o; echo here > o/here], artifacts: {{paths: [o]}}}}
copies:
  stage: a
  {IMAGE}
  parallel: {{matrix: [{{N: ['1', '2']}}]}}
  script: [echo $N > n$N]
  artifacts: {{paths: ["n*"]}}
all_inside: {{stage: b, {IMAGE}, script: [cat o/in o/here n1 n2]}}
all_here: {{stage: b, script: [cat o/in o/here n1 n2]}}
without: {{stage: b, {IMAGE}, needs: [{{job: inside, artifacts: false}}, here], script: [ls o]}}
""")
    ran = project.loom("run", "--local", "--no-container", "--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("all_inside") == ran.output("all_here") == ["in", "here", "1", "2"]
    assert ran.output("without") == ["here"]


@pytest.mark.parametrize("target", [f"  {IMAGE}\n", ""])
def test_a_second_attempt_starts_from_the_snapshot(project: Project, target: str) -> None:
    project.workflow(
        f"version: v1\nstages: [a]\nx:\n  stage: a\n{target}  retry: 1\n"
        "  script: ['test ! -e left; touch left; exit $((2 - LOOM_ATTEMPT))']\n"
    )
    ran = project.loom("run", "--local", "--no-container")
    assert ran.code == 0, ran.out + ran.err
    assert not (ran.workspace / "left").exists()


def test_a_job_that_is_alone_runs_in_the_runs_workspace(project: Project) -> None:
    project.workflow(f"version: v1\nstages: [a]\nx: {{stage: a, {IMAGE}, script: [touch made]}}\n")
    ran = project.run()
    assert opened(ran, "x") == ("bind_mount", str(ran.workspace))
    assert place_of(project, "x") == ran.workspace
    assert (ran.workspace / "made").exists()
    assert not list(project.tmp.glob("*/*.jobs"))


def test_jobs_share_one_directory_for_those_who_ask_for_it(project: Project) -> None:
    project.workflow(f"""
version: v1
stages: [a, b, c]
a: {{stage: a, {IMAGE}, script: [echo a > a]}}
b: {{stage: b, script: [cat a]}}
c: {{stage: c, {IMAGE}, script: [cat a]}}
""")
    ran = project.loom("run", "--local", "--no-container", "--mount-mode", "bind_mount")
    assert ran.code == 0, ran.out + ran.err
    assert (ran.workspace / "a").exists()


CHANGES = """
version: v1
stages: [a]
job:
  stage: a
  script:
    - mv moved/deep elsewhere
    - rm gone; rm -r emptied; mkdir emptied; echo new > emptied/new
    - echo changed > kept; ln -s kept link; mkdir empty; perl -e 'rename("moved", "taken") or die $!'
    - exit 3
beside: {stage: a, script: [pwd]}
"""


@pytest.mark.parametrize("mode", ["auto", "ephemeral_volume"])
def test_what_a_failed_job_left_has_a_plain_path(project: Project, mode: str) -> None:
    for name in ("moved/deep/file", "moved/file", "gone", "emptied/old", "kept"):
        project.write(name, f"{name}\n")
    project.workflow(CHANGES)
    ran = project.run("--mount-mode", mode)
    assert ran.code == 1, ran.out + ran.err
    (told,) = [line.split(": ", 1)[1] for line in ran.out.splitlines() if line.startswith("    files: ")]
    left = place_of(project, *told.split()[2:]) if told.startswith("loom workspace") else Path(told)
    found = {str(path.relative_to(left)) for path in left.rglob("*") if not path.is_dir() or not any(path.iterdir())}
    found = {path for path in found if not path.startswith((".git/", ".loom/", "README"))}
    assert found == {"elsewhere/file", "taken/file", "emptied/new", "kept", "link", "empty"}
    assert (left / "kept").read_text() == "changed\n"
    verified = project.loom("verify", "last", "job")
    assert verified.code == 1
    assert {line.split()[-1] for line in verified.out.splitlines() if line.startswith("  deleted")} == {
        *("moved/deep/file", "moved/file", "gone", "emptied/old"),
    }
    assert "+changed" in project.loom("pull", "job").out
    if mode == "auto":
        assert opened(ran, "job")[0] == "overlay", "on the file systems and engines that the tests are made for"


@pytest.mark.parametrize("mode", ["auto", "ephemeral_volume"])
def test_a_repair_by_hand_is_pulled_from_the_jobs_session(project: Project, mode: str) -> None:
    project.write("code", "wrong\n")
    project.workflow(f"""
version: v1
stages: [a, b]
test: {{stage: a, {IMAGE}, script: [grep right code]}}
beside: {{stage: a, {IMAGE}, script: [grep wrong code]}}
after: {{stage: b, {IMAGE}, script: [grep wrong code]}}
""")
    assert project.run("--mount-mode", mode, "--keep", "on-failure").code == 1
    mended = project.loom("exec", "test", "--", "sh", "-c", "echo right > code")
    assert mended.code == 0, mended.out + mended.err
    resumed = project.loom("resume")
    assert resumed.code == 0, resumed.out + resumed.err
    assert "+right" in project.loom("pull", "last", "test").out
    assert project.loom("verify").code == 0, "the snapshot is what it was"


def test_where_overlays_can_not_be_the_job_has_a_copy(project: Project) -> None:
    project.workflow(CHANGES.replace("mv moved/deep elsewhere", "pwd"))
    for name in ("moved/file", "gone", "emptied/old", "kept"):
        project.write(name, "x\n")
    project.commit()
    awkward = project.home / "a,b:c"
    awkward.mkdir()
    ran = project.run(TMPDIR=str(awkward))
    assert ran.code == 1, ran.out + ran.err
    mode, place = opened(ran, "job")
    assert mode == "bind_mount"
    assert (Path(place) / "taken/file").exists()
    assert (ran.workspace / "moved/file").exists()


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="hides a directory from the engine")
@pytest.mark.parametrize("jobs", [1, 2])
def test_where_the_engine_does_not_see_the_files_they_are_sent(project: Project, jobs: int) -> None:
    project.write("given", "given\n")
    project.workflow(
        "version: v1\nstages: [a]\n"
        + "".join(f"j{number}: {{stage: a, {IMAGE}, script: [cat given, echo x > made]}}\n" for number in range(jobs))
    )
    hidden = f'mount -t tmpfs none {project.tmp}; exec "$@"'
    project.become = ("unshare", "--mount", "sh", "-c", hidden, "sh")
    ran = project.run()
    assert ran.code == 0, ran.out + ran.err
    assert ran.manifest("j0")["session"]["mount_mode"] == "ephemeral_volume"
    assert ran.output("j0") == ["given"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize(("mode", "jobs"), [("auto", 1), ("auto", 2), ("bind_mount", 2)])
def test_a_workspace_stays_its_owners_whatever_a_job_does(project: Project, mode: str, jobs: int) -> None:
    project.workflow(
        "version: v1\nstages: [a]\n"
        + "".join(
            f"j{number}: {{stage: a, {IMAGE}, script: ['chown -R 1000:1000 .; chmod 777 .']}}\n"
            for number in range(jobs)
        )
    )
    ran = project.run("--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    for directory in (ran.workspace.parent, *ran.workspace.parent.glob("*.jobs")):
        assert directory.stat().st_mode & 0o777 == 0o700, directory
        assert {path.stat().st_uid for path in (directory, ran.workspace)} == {0}


def test_two_runs_of_one_tree_end_the_same(project: Project) -> None:
    project.workflow(
        "version: v1\nstages: [a]\n"
        + "".join(
            f"j{number}: {{stage: a, {IMAGE}, script: ['echo {number} >> out; cat out']}}\n" for number in range(2)
        )
    )
    runs = [project.run("-j", at_once) for at_once in ("1", "2")]
    assert runs[0].receipt["snapshot_tree_sha"] == runs[1].receipt["snapshot_tree_sha"]
    heard = [[ran.output(f"j{number}") for number in range(2)] for ran in runs]
    assert heard[0] == heard[1] == [["0"], ["1"]]
