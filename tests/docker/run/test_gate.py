"""`loom gate` in containers: what a run has shown counts for exactly its files, images, secrets and plan, and for nothing else."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import docker
import pytest

from tests.docker.run.conftest import Project, output_of
from tests.docker.run.conftest import project as project
from tests.support.waiting import until

pytestmark = pytest.mark.docker

ACCEPT = {"LOOM_GATE_ACCEPT": "other-commit,image-by-tag", "TOKEN": "first-value"}
"""The images of these tests come from no registry."""
TAG = f"loom-test/gate-{os.getpid()}:moving"
WORKFLOW = f"""\
version: v1
stages: [test]
lint:
  stage: test
  image: debian:trixie-slim
  script: [mkdir out, echo made > out/made]
  artifacts: {{paths: [out]}}
unit:
  stage: test
  image: {TAG}
  needs: [lint]
  secrets: {{TOKEN: env://TOKEN}}
  script: [cat out/made, test "$FAIL" = "", test "$(cat $TOKEN)" != wrong]
  variables: {{FAIL: ""}}
"""


def states(project: Project, *words: str, **environ: str) -> tuple[int, dict[str, str]]:
    done = project.loom("gate", "--json", *words, **{**ACCEPT, **environ})
    assert done.out, done.err
    return done.code, {one["job_id"]: one["state"] for one in json.loads(done.out)["jobs"]}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose uncommitted work was run, and then committed."""
    path = tmp_path_factory.mktemp("shown")
    (path / "project").mkdir()
    made = Project(path / "project", path / "home")
    made.git("init", "-q", "-b", "main")
    made.write("README", "")
    made.commit()
    client = docker.from_env()
    client.images.get("debian:trixie-slim").tag(TAG)
    made.write(".loom/workflow.yml", WORKFLOW)
    assert made.loom("run", **ACCEPT).code == 0
    made.commit()
    yield path
    client.images.remove(TAG)
    client.close()


@pytest.fixture
def copy(shown: Path, tmp_path: Path) -> Project:
    """The same project, to be changed."""
    for name in ("project", "home"):
        shutil.copytree(shown / name, tmp_path / name, symlinks=True)
    (tmp_path / "home/tmp").rmdir() if not any((tmp_path / "home/tmp").iterdir()) else shutil.rmtree(
        tmp_path / "home/tmp"
    )
    return Project(tmp_path / "project", tmp_path / "home")


def test_it_counts_for_the_commit_with_these_files(copy: Project) -> None:
    copy.write("README", "not committed\n")
    runs = len(copy.record_files("run.json"))
    assert states(copy) == (0, {"lint": "shown", "unit": "shown"})
    assert len(copy.record_files("run.json")) == runs


def test_what_is_not_shown_runs_with_what_is(copy: Project) -> None:
    assert states(copy, TOKEN="second-value") == (0, {"lint": "shown", "unit": "passed"})
    assert states(copy, TOKEN="second-value") == (0, {"lint": "shown", "unit": "shown"})
    (archive,) = copy.record_files("logs/*/jobs/lint/artifacts.tar.gz")
    archive.write_bytes(b"")  # of which no digest is kept in the list
    assert states(copy, TOKEN="third-value") == (0, {"lint": "passed", "unit": "passed"})
    assert states(copy, TOKEN="wrong") == (1, {"lint": "shown", "unit": "failed"})
    assert states(copy, "--dry-run") == (0, {"lint": "shown", "unit": "shown"}), "what failed had another secret"
    assert states(copy, "--dry-run", TOKEN="wrong") == (1, {"lint": "shown", "unit": "to-run"})


def test_nothing_is_accepted_without_a_word(copy: Project) -> None:
    assert states(copy, LOOM_GATE_ACCEPT="other-commit") == (1, {"lint": "doubtful", "unit": "doubtful"})
    not_of_this_commit = states(copy, "--dry-run", LOOM_GATE_ACCEPT="image-by-tag")
    assert not_of_this_commit == (1, {"lint": "to-run", "unit": "to-run"})


def test_another_image_is_not_that_of_ci(copy: Project) -> None:
    copy.write("../home/.config/loom/config.yml", f"images: {{'{TAG}': 'loom/base:latest'}}\n")
    assert states(copy, "--dry-run") == (1, {"lint": "doubtful", "unit": "doubtful"})
    assert "mapped-image" in copy.loom("run", **ACCEPT).receipt["unlike_ci"]["unit"]


def proofs(project: Project) -> Path:
    return project.home / ".local/state/loom/proofs.jsonl"


def edit_the_list(project: Project) -> None:
    proofs(project).write_text(proofs(project).read_text().replace('"status":"success"', '"status":"failure"'))


def edit_the_record(project: Project) -> None:
    (events,) = project.record_files("logs/*/jobs/lint/manifest.json")
    events.write_text(events.read_text() + " ")


def change_a_file(project: Project) -> None:
    project.write("README", "other\n")
    project.commit()


def change_a_mode(project: Project) -> None:
    (project.root / ".loom/workflow.yml").chmod(0o755)
    project.commit()


def move_the_tag(project: Project) -> None:
    client = docker.from_env()
    client.images.get("loom/base:latest").tag(TAG)
    client.close()


def push_another_branch(project: Project) -> None:
    project.git("checkout", "-q", "-b", "other")


def add_what_is_not_committed(project: Project) -> None:
    change_a_file(project)
    project.write("untracked", "")
    assert project.loom("run", **ACCEPT).code == 0


def give_a_variable(project: Project) -> None:
    change_a_file(project)
    assert project.loom("run", "--var", "FAIL=", **ACCEPT).code == 0


def have_attributes_of_ones_own(project: Project) -> None:
    change_a_file(project)
    project.write(".git/info/attributes", "README eol=crlf\n")
    assert project.loom("run", **ACCEPT).code == 0


def leave_a_job_out(project: Project) -> None:
    change_a_file(project)
    assert project.loom("run", "unit", **ACCEPT).code == 0


def change_a_setting(project: Project) -> None:
    project.write("../home/.config/loom/config.yml", "cpus: 1\n")


@pytest.mark.parametrize(
    "change",
    [
        edit_the_list,
        edit_the_record,
        change_a_file,
        change_a_mode,
        move_the_tag,
        push_another_branch,
        add_what_is_not_committed,
        give_a_variable,
        have_attributes_of_ones_own,
        leave_a_job_out,
        change_a_setting,
    ],
    ids=lambda change: change.__name__,
)
def test_a_doubt_means_that_it_runs(copy: Project, change: Callable[[Project], None]) -> None:
    change(copy)
    try:
        code, found = states(copy, "--dry-run")
    finally:
        client = docker.from_env()
        client.images.get("debian:trixie-slim").tag(TAG)
        client.close()
    assert code == 1
    assert found["unit"] == "to-run"


def test_jobs_that_decide_nothing(project: Project) -> None:
    image = "debian:trixie-slim"
    jobs = {
        "unit": {"script": ["true"]},
        "flaky": {"script": ["exit 1"], "allow_failure": True},
        "press": {"script": ["exit 1"], "when": "manual", "allow_failure": True},
        "cleanup": {"script": ["exit 1"], "when": "on_failure"},
        "ship": {"script": ["touch /tmp/shipped"], "environment": "production"},
        "docs": {"script": ["true"], "rules": [{"changes": ["docs/*"]}]},
        "nightly": {"script": ["true"], "rules": [{"if": "$NIGHTLY"}]},
    }
    project.write(".gitlab-ci.yml", json.dumps({"default": {"image": image}, **jobs}))
    project.commit()
    code, found = states(project)
    rest = dict.fromkeys(("flaky", "press", "cleanup", "ship"), "not-gating")
    assert (code, found) == (1, {"unit": "passed", "docs": "passed", "nightly": "doubtful", **rest})
    (project.home / "variables.yml").write_text("NIGHTLY: ''\n")
    project.write("../home/.config/loom/config.yml", f"gitlab: {{variables: {project.home}/variables.yml}}\n")
    code, found = states(project)
    assert (code, found) == (0, {"unit": "passed", "docs": "passed", **rest})
    jobs["unit"]["script"] = ["exit 3"]
    report = "<testsuite><testcase name='t'><flakyFailure/></testcase></testsuite>"
    jobs["docs"] = {"script": [f'echo "{report}" > r.xml'], "artifacts": {"reports": {"junit": "r.xml"}}}
    project.write(".gitlab-ci.yml", json.dumps({"default": {"image": image}, **jobs}))
    project.commit()
    found = states(project)[1]
    assert (found["unit"], found["docs"]) == ("failed", "doubtful")


def test_a_killed_run_ends_the_trust_in_those_before(project: Project) -> None:
    job = {"image": "debian:trixie-slim", "script": ["echo begun", "sleep 3"]}
    project.write(".gitlab-ci.yml", json.dumps({"unit": job, "quick": {**job, "script": ["true"]}}))
    project.commit()
    assert states(project) == (0, {"unit": "passed", "quick": "passed"})
    process = project.start("run", "unit")
    until(lambda: len(project.record_files("logs/*/jobs/unit/user/script/02")) == 2, while_runs=process)
    process.kill()
    process.communicate()
    assert states(project, "--dry-run") == (1, {"unit": "to-run", "quick": "shown"})
    assert states(project) == (0, {"unit": "passed", "quick": "shown"})
    more = {"image": "loom-test/gone:1", "script": "true"}
    project.write(".gitlab-ci.yml", json.dumps({"unit": job, "more": more}))
    project.commit()
    done = project.loom("gate", LOOM_PULL="never", **ACCEPT)
    assert (done.code, "did not get to it: loom-test/gone:1" in done.out) == (3, True), done.out


def test_a_push_for_which_ci_runs_no_job(project: Project) -> None:
    project.write(".github/workflows/ci.yml", "on: pull_request\njobs: {a: {runs-on: x, steps: [{run: 'false'}]}}\n")
    project.commit()
    assert states(project) == (0, {})
    project.write(
        ".github/workflows/ci.yml", "on: push\njobs: {a: {runs-on: x, if: vars.A, steps: [{run: 'false'}]}}\n"
    )
    project.commit()
    assert states(project) == (1, {"a": "doubtful"})
    assert states(project, LOOM_GATE_ACCEPT="undecided") == (0, {"a": "not-gating"})
    project.write(".github/workflows/ci.yml", "on: push\njobs: {a: {runs-on: x, steps: [{run: 'false'}]}}\n")
    project.commit()
    assert states(project) == (1, {"a": "doubtful"}), "it can't run here"
    for message, code in {"as on GitHub [skip ci]": 0, "as on GitLab [SKIP-CI]": 1}.items():
        project.git("commit", "-q", "--allow-empty", "-m", message)
        assert project.loom("gate").code == code, message
    project.git("rm", "-q", "-r", ".github")
    project.commit()
    none = project.loom("gate")
    assert (none.code, ".gitlab-ci.yml" in none.out) == (0, True)
    (project.root / ".gitlab-ci.yml").symlink_to("nowhere")
    project.commit()
    assert project.loom("gate").code == 2
    (project.root / ".gitlab-ci.yml").unlink()
    project.write(".gitlab-ci.yml", "a: {image: debian:trixie-slim, script: ['false']}\n")
    for message, code in {"as on GitHub [no ci]": 1, "as on GitLab [SKIP-CI]": 0}.items():
        project.write("file", message)
        project.git("add", "-A")
        project.git("commit", "-q", "-m", message)
        assert project.loom("gate", **ACCEPT).code == code, message


def test_an_included_file_whose_server_does_not_answer(project: Project, tmp_path: Path) -> None:
    (tmp_path / "ci.yml").write_text("unit: {image: debian:trixie-slim, script: ['true']}\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        project.git("remote", "add", "origin", f"{url}/group/project.git")
        project.write(".gitlab-ci.yml", f"include: [{{remote: {url}/ci.yml}}]\n")
        project.commit()
        found = states(project), states(project)
        server.shutdown()
    assert found == ((0, {"unit": "passed"}), (0, {"unit": "shown"}))
    assert states(project) == (1, {"unit": "doubtful"})


def test_an_action_whose_tag_moves(project: Project, tmp_path: Path) -> None:
    action = Project(tmp_path / "server/o/act", tmp_path / "other")
    action.root.mkdir(parents=True)
    action.git("init", "-q")
    action.write("action.yml", "runs: {using: composite, steps: [{run: 'true', shell: bash}]}\n")
    action.commit()
    action.git("tag", "v1")
    project.write("../home/.config/loom/config.yml", f"github: {{server: 'file://{tmp_path}/server'}}\n")
    job = {"runs-on": "ubuntu-latest", "container": "debian:trixie-slim", "steps": [{"uses": "o/act@v1"}]}
    project.write(".github/workflows/ci.yml", json.dumps({"on": "push", "jobs": {"unit": job}}))
    project.commit()
    assert states(project) == (0, {"unit": "passed"})
    assert states(project, "--dry-run") == (0, {"unit": "shown"})
    action.write("action.yml", "runs: {using: composite, steps: [{run: 'false', shell: bash}]}\n")
    action.commit()
    action.git("tag", "-f", "v1")
    assert states(project) == (1, {"unit": "failed"})
    (tmp_path / "server").rename(tmp_path / "gone")
    assert states(project) == (1, {"unit": "doubtful"})


def test_a_child_pipeline_that_ran_unlike_ci(project: Project) -> None:
    kid = {"trigger": {"include": "kid.yml", "strategy": "depend"}}
    project.write(".gitlab-ci.yml", json.dumps({"default": {"image": "debian:trixie-slim"}, "kid": kid}))
    project.write("kid.yml", json.dumps({"deep": {"script": ["true"]}}))
    project.commit()
    assert states(project) == (1, {"kid": "doubtful"}), "it ran on this machine"
    accept = f"{ACCEPT['LOOM_GATE_ACCEPT']},not-isolated"
    assert states(project, LOOM_GATE_ACCEPT=accept) == (0, {"kid": "passed"})
    project.write(
        "kid.yml", json.dumps({"deep": {"script": ["true"]}, "more": {"script": "x", "rules": [{"if": "$MORE"}]}})
    )
    project.commit()
    assert states(project, LOOM_GATE_ACCEPT=accept) == (1, {"kid": "doubtful"})


def test_a_job_that_its_condition_skips_decides_nothing(project: Project) -> None:
    job = {"runs-on": "ubuntu-latest", "container": "debian:trixie-slim"}
    jobs = {
        "unit": {**job, "steps": [{"run": "true"}]},
        "tell": {**job, "needs": "unit", "if": "failure()", "steps": [{"run": "exit 1"}]},
        "ask": {**job, "steps": [{"run": "true"}, {"if": "vars.ASK", "run": "exit 1"}]},
        "late": {**job, "needs": "unit", "if": "needs.unit.result && vars.ASK", "steps": [{"run": "exit 1"}]},
    }
    project.write(".github/workflows/ci.yml", json.dumps({"on": "push", "jobs": jobs}))
    project.commit()
    doubtful = {"ask": "doubtful", "late": "doubtful"}
    assert states(project) == (1, {"unit": "passed", "tell": "not-gating", **doubtful})
    assert states(project, "--dry-run") == (1, {"unit": "shown", "tell": "not-gating", **doubtful})
    accept = f"{ACCEPT['LOOM_GATE_ACCEPT']},undecided"
    found = states(project, "--dry-run", LOOM_GATE_ACCEPT=accept)
    assert found == (0, {"unit": "shown", "tell": "not-gating", "ask": "shown", "late": "not-gating"})


INPUTS = """\
version: v1
stages: [test]
lint:
  stage: test
  image: debian:trixie-slim
  inputs: [src, "*.cfg"]
  script: ["find . -mindepth 1 ! -type d | sort | tr '\\\\n' ' '", mkdir out, cp src/code out/made]
  artifacts: {paths: [out]}
unit:
  stage: test
  image: debian:trixie-slim
  needs: [lint]
  inputs: [tests/**, .git]
  script: [cat out/made, test -d .git, test ! -e src]
"""


def test_a_job_has_its_inputs_alone_and_counts_while_they_are_the_same(project: Project) -> None:
    project.write(".loom/workflow.yml", INPUTS)
    for path in ("src/code", "src/deep/er", "tests/t", "docs/d", "setup.cfg", "setup.md"):
        project.write(path, path)
    project.commit()
    assert states(project) == (0, {"lint": "passed", "unit": "passed"})
    (heard,) = project.record_files("logs/*/jobs/lint/user/script/01/events.jsonl")
    assert " ".join(output_of(heard)).split() == ["./setup.cfg", "./src/code", "./src/deep/er"]

    def after(path: str, mode: int = 0o644) -> dict[str, str]:
        project.write(path, "more\n")
        (project.root / path).chmod(mode)
        project.commit()
        return states(project, "--dry-run")[1]

    # The one that asks for .git has the whole tree with it.
    assert after("docs/d") == {"lint": "shown", "unit": "to-run"}
    assert after(".gitattributes") == {"lint": "to-run", "unit": "to-run"}
    assert states(project) == (0, {"lint": "passed", "unit": "passed"})
    assert after("src/code") == {"lint": "to-run", "unit": "to-run"}
    assert states(project) == (0, {"lint": "passed", "unit": "passed"})
    assert after("src/code", 0o755) == {"lint": "to-run", "unit": "to-run"}

    # What is not committed keeps no file from a job in a gate.
    project.write("../home/.config/loom/config.yml", "job_inputs: {unit: [README]}\n")
    project.write(".gitlab-ci.yml", "unit: {image: debian:trixie-slim, script: [test ! -e src]}\n")
    (project.root / ".loom/workflow.yml").rename(project.home / "workflow.yml")
    project.commit()
    assert states(project) == (1, {"unit": "failed"})
    (project.home / "workflow.yml").rename(project.root / ".loom/workflow.yml")
    (project.root / ".gitlab-ci.yml").unlink()
    (project.home / ".config/loom/config.yml").unlink()
    project.commit()

    # Work that is not committed: what ran of it counts for the next run, with its artifacts.
    project.write("src/code", "by hand\n")
    assert project.loom("run", "--reuse", **ACCEPT).code == 0
    project.write("docs/d", "by hand\n")
    again = project.loom("run", "--reuse", **ACCEPT)
    assert (again.code, "lint does not run" in again.out, "unit does not run" in again.out) == (0, True, False)
    assert again.output("unit") == ["by hand"]


def test_inputs_are_suggested_by_what_was_read(project: Project) -> None:
    for path in ("lib/a/one", "lib/b/two", "deep/in/x", "deep/in/y", "deep/z", "docs/d", "top", "changed/c"):
        project.write(path, path)
    (project.root / "docs/link").symlink_to("d")
    script = ["cat lib/a/one lib/b/two deep/in/x top", "ls -R", "echo >> changed/c", "echo > new"]
    job = {"stage": "test", "image": "debian:trixie-slim", "script": script}
    workflow = {"version": "v1", "stages": ["test"], "unit": job, "git": {**job, "script": ["cat .git/HEAD"]}}
    project.write(".loom/workflow.yml", json.dumps(workflow))
    project.commit()
    done = project.loom("run", "--suggest-inputs")
    assert done.code == 0
    assert "unit read: inputs: [changed, deep/in, lib, top]" in done.out
    assert "git read: inputs: [.git]" in done.out
    # The checkout of GitHub's jobs reads `.git` in each of them.
    steps = [{"uses": "actions/checkout@v4"}, {"run": "cat top"}]
    job = {"runs-on": "ubuntu-latest", "container": "loom/base:latest", "steps": steps}
    project.write(".github/workflows/ci.yml", json.dumps({"on": "push", "jobs": {"unit": job}}))
    done = project.loom("run", "-f", ".github/workflows/ci.yml", "--suggest-inputs")
    assert "unit read: inputs: [top]" in done.out, done.err


def test_a_job_that_looks_at_the_commit_counts_for_that_one_alone(project: Project) -> None:
    scripts = {
        "unit": ["echo $CI_COMMIT_BRANCH"],
        "log": ["true\ngit log -1 --format=%s"],
        "title": ["echo $CI_COMMIT_TITLE"],
    }
    described = {"script": ["git describe --exact-match"], "rules": [{"if": "$CI_COMMIT_TAG"}]}
    jobs = {name: {"script": lines} for name, lines in scripts.items()}
    project.write(".gitlab-ci.yml", json.dumps({"default": {"image": "loom/base"}, **jobs, "described": described}))
    project.commit()
    assert states(project) == (0, dict.fromkeys(scripts, "passed"))
    assert states(project) == (0, dict.fromkeys(scripts, "shown"))
    project.git("commit", "-q", "--amend", "-m", "other words")
    assert states(project, "--dry-run")[1] == {"unit": "shown", "log": "to-run", "title": "to-run"}
    project.git("tag", "-a", "-m", "", "v1")
    assert states(project, "v1")[1]["described"] == "passed"
