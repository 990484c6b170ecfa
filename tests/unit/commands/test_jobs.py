"""`loom jobs`: one line a job, with an engine and without one."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from tests.support.loom_process import run_loom
from tests.support.repository import commit_all

WORKFLOW = """\
stages: [build, test, deploy]
compile: {stage: build, image: debian:trixie-slim, script: make}
unit: {stage: test, image: docker.io/library/node:14, needs: [compile], script: make test}
cleanup: {stage: test, image: debian:trixie-slim, when: on_failure, script: make clean}
publish: {stage: deploy, image: debian:trixie-slim, when: manual, script: make publish}
tagged: {stage: test, rules: [{if: $CI_COMMIT_TAG}], script: make}
"""


class Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps([{"RepoTags": ["debian:trixie-slim"]}, {"RepoTags": None, "RepoDigests": ["<none>@<none>"]}])
        self.send_response(200 if self.path == "/images/json" else 404)
        self.end_headers()
        self.wfile.write(body.encode())

    def address_string(self) -> str:
        return "here"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    with UnixStreamServer(str(tmp_path / "e"), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{tmp_path}/e"
        server.shutdown()


@pytest.fixture
def jobs(tmp_path: Path) -> Callable[..., str]:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / ".gitlab-ci.yml").write_text(WORKFLOW)
    commit_all(checkout)

    def run(*words: str, engine: str = "unix:///nowhere") -> str:
        environ = {**os.environ, "HOME": str(tmp_path), "DOCKER_HOST": engine}
        done = run_loom(("jobs", *words), cwd=checkout, environ=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_each_job_has_one_line(jobs: Callable[..., str], engine: str) -> None:
    lines = [" ".join(line.split()) for line in jobs(engine=engine).splitlines()]
    assert lines == [
        "stage job image needs when",
        "build compile debian:trixie-slim (here)",
        "test unit docker.io/library/node:14 (to pull) compile",
        "test cleanup debian:trixie-slim (here) after a failure",
        "deploy publish debian:trixie-slim (here) by hand: loom run publish",
        f"left out: tagged: {lines[-1].partition('tagged: ')[2]}",
    ]
    assert "rules" in lines[-1]


@pytest.mark.slow
def test_without_an_engine_only_the_images_state_is_unknown(jobs: Callable[..., str]) -> None:
    document = json.loads(jobs("--json", "unit", "--no-needs"))
    assert [(job["id"], job["image_here"], job["needs"]) for job in document["jobs"]] == [("unit", None, [])]
    assert (document["kind"], document["schema_version"]) == ("jobs", "loom.jobs.v1")


def test_jobs_are_listed_where_the_actions_server_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/a.yml").write_text("""\
on: [push]
jobs:
  a: {runs-on: ubuntu-latest, steps: [{uses: "some/action@v1"}]}
  b: {runs-on: macos-latest, steps: [{run: x}]}
  c: {runs-on: macos-latest, steps: [{run: x}]}
""")
    (tmp_path / ".config/loom").mkdir(parents=True)
    (tmp_path / ".config/loom/config.yml").write_text("github: {server: 'http://127.0.0.1:9'}\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LOOM_"))}
    environ = {**environ, "HOME": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"}
    done = run_loom(("jobs",), cwd=tmp_path, environ=environ)
    assert done.returncode == 0, done.stderr
    assert "a.yml:3" in done.stderr
    assert "http://127.0.0.1:9 can't be reached" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[1] == "a"
    assert lines[2] == "left out: b, c: its label macos-latest is of macOS; jobs run on Linux here"
    none = run_loom(("jobs", "--event", "schedule"), cwd=tmp_path, environ=environ)
    assert (none.returncode, none.stdout.splitlines()) == (
        0,
        ["no job of .github/workflows would run", "left out: a, b, c: on: push; the event is schedule"],
    )
    assert "--event push" in none.stderr


@pytest.mark.parametrize(
    ("include", "why"),
    [
        ("remote: http://127.0.0.1:9/ci.yml", "no connection"),
        ("template: Jobs/Build.yml", "one of GitLab's templates"),
        ("component: gitlab.example/a/b/c@1", "a/b is a project of the server"),
    ],
)
def test_jobs_are_listed_without_includes_that_cannot_be_had(tmp_path: Path, include: str, why: str) -> None:
    (tmp_path / "own.yml").write_text("lint: {extends: .far, needs: [far], script: x, rules: [{if: $NEVER}]}\n")
    (tmp_path / ".gitlab-ci.yml").write_text(f"""\
include: [{{{include}}}, {{local: own.yml}}]
stages: [build, test]
unit: {{stage: test, image: debian:trixie-slim, script: [!reference [.far, script]]}}
make: {{stage: build, script: make}}
later: {{stage: far, script: x}}
""")
    environ = {**os.environ, "HOME": str(tmp_path), "LOOM_TRUST": "1", "DOCKER_HOST": "unix:///nowhere"}
    done = run_loom(("jobs",), cwd=tmp_path, environ=environ)
    assert done.returncode == 0, done.stderr
    assert why in done.stderr
    assert [" ".join(line.split()) for line in done.stdout.splitlines()[1:]] == [
        "build make not known",
        "test lint not known far",
        "test unit debian:trixie-slim",
        "far later not known",
    ]


@pytest.mark.slow
def test_where_no_job_would_run_each_reason_is_told_once_with_the_next_move(tmp_path: Path) -> None:
    rules = "rules: [{if: $CI_COMMIT_TAG}], script: x"
    (tmp_path / ".gitlab-ci.yml").write_text(
        f"a: {{{rules}}}\nb: {{rules: [{{when: never}}], script: x}}\nc: {{{rules}}}\n"
    )
    commit_all(tmp_path)
    done = run_loom(("run",), cwd=tmp_path, environ={**os.environ, "HOME": str(tmp_path)})
    told = [line.strip() for line in done.stderr.splitlines()]
    assert told[0] == "loom: no job of the workflow would run"
    assert [line.partition(":")[0] for line in told[1:]] == ["a, c", "b", "a job that you name runs whatever its rules"]
    assert told[-1].endswith("loom run a")


def test_a_dry_run_in_json_is_the_compiled_plan(jobs: Callable[..., str], tmp_path: Path) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "LOOM_MOUNT_MODE": "copy"}
    dry, compiled = (
        json.loads(run_loom(words, cwd=tmp_path / "checkout", environ=environ).stdout)
        for words in (("run", "-n", "--json"), ("compile", "--format", "json"))
    )
    assert dry["jobs"][0]["mounts"] == compiled["jobs"][0]["mounts"]
    assert [job["id"] for job in dry["jobs"]] == [job["id"] for job in compiled["jobs"]]
