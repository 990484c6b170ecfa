"""`loom watch` on a real engine: what waits for the next run, that the run is a whole one, and that nothing is left."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.cancel import Cancel
from loom.commands.run.prewarmed import PreparedRuns
from loom.providers.docker.container.cleanup import reap, remove_run
from loom.record.request import Request
from tests.support.loom_process import run_loom
from tests.support.own_engine import OwnEngine
from tests.support.waiting import until
from tests.support.watching import Watched, gone, left

pytestmark = pytest.mark.docker

SHOWS = """
version: v1
stages: [test]
shows:
  stage: test
  image: debian:trixie-slim
  script: ['echo "it is $(cat a.txt) of $(git rev-parse HEAD 2>/dev/null || echo $CI_COMMIT_SHA) in $(hostname)"', "test ! -e broken"]
"""


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Watched]:
    repo = Watched(tmp_path, SHOWS)
    yield repo
    client = docker.from_env()
    for receipt in repo.receipts():
        remove_run(client, receipt["run_id"])
    client.close()


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def containers(client: docker.DockerClient, repo: Watched) -> list[Any]:
    """Those of the runs of this repository's workspaces."""
    found = client.containers.list(all=True, filters={"label": "loom.workspace"}, ignore_removed=True)
    return [one for one in found if one.labels["loom.workspace"].startswith(f"{repo.base}/")]


def prepared(client: docker.DockerClient, repo: Watched) -> Any:
    """The container that waits for the next run, when its workspace has been laid out."""

    def there() -> Any:
        recorded = {receipt["run_id"] for receipt in repo.receipts()}
        waiting = [one for one in containers(client, repo) if one.labels["loom.run"] not in recorded]
        ready = [
            one
            for one in waiting
            if one.status == "running" and (Path(one.labels["loom.workspace"]) / ".git/loom-snapshot.json").exists()
        ]
        return ready[0] if ready and len(waiting) == 1 else None

    return until(there)


def opened_in(repo: Watched) -> str:
    """The container of the last run."""
    logs = Path(repo.receipts()[-1]["logs_dir"])
    return str(json.loads((logs / "jobs/shows/manifest.json").read_text())["session"]["container_id"])


@contextmanager
def nothing_is_left(client: docker.DockerClient, repo: Watched) -> Iterator[None]:
    yield
    assert containers(client, repo) == []
    recorded = {receipt["snapshot_path"] for receipt in repo.receipts()}
    assert {str(path) for path in (repo.base / "tmp").glob("*/loom-run-local-*-*[0-9]")} <= recorded
    registered = [json.loads(path.read_text()) for path in (repo.state / "workspaces").glob("*.json")]
    assert len(registered) == len(recorded)


def test_the_next_run_begins_in_what_waits_for_it_and_is_a_whole_one(
    repo: Watched, client: docker.DockerClient
) -> None:
    with nothing_is_left(client, repo), repo.watch("--stream", "--keep", "never") as terminal:
        waiting = prepared(client, repo)
        repo.write("new.txt", "new\n")
        assert "it is 1 of" in repo.next_run(terminal)
        assert opened_in(repo) == waiting.id
        receipt = repo.receipts()[-1]
        repo.git("add", "-A")
        assert receipt["snapshot_tree_sha"] == repo.git("write-tree").strip()
        assert receipt["status"] == "success" and receipt["run_id"] == waiting.labels["loom.run"]  # noqa: PT018
        verified = run_loom(("verify", receipt["snapshot_path"]), cwd=repo.root, environ=repo.environ)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        waiting = prepared(client, repo)
        repo.git("commit", "-qm", "second")  # what waits is of another commit now
        until(lambda: waiting.id not in [one.id for one in containers(client, repo)])
        waiting = prepared(client, repo)
        assert f"it is 2 of {repo.git('rev-parse', 'HEAD').strip()}" in repo.changed(terminal, "a.txt", "2\n")
        assert opened_in(repo) == waiting.id
        prepared(client, repo)
        terminal.send("q")
        assert left(terminal) == 0


def test_what_does_not_fit_or_answer_any_more_is_made_anew(repo: Watched, client: docker.DockerClient) -> None:
    with nothing_is_left(client, repo), repo.watch("--stream", "--keep", "never") as terminal:
        waiting = prepared(client, repo)
        waiting.kill()
        assert "it is 2 of" in repo.changed(terminal, "a.txt", "2\n")
        assert opened_in(repo) != waiting.id
        waiting = prepared(client, repo)
        changed = SHOWS.replace("script:", "variables: {NEW: yes}\n  script:")
        assert "it is 2 of" in repo.changed(terminal, ".loom/workflow.yml", changed)
        assert opened_in(repo) != waiting.id
        waiting = prepared(client, repo)
        ran = run_loom(("run", "--quiet"), cwd=repo.root, environ=repo.environ)
        assert ran.returncode == 0, ran.stderr
        assert "it is 3 of" in repo.changed(terminal, "a.txt", "3\n")
        assert opened_in(repo) != waiting.id  # its id is older than the other run's
        terminal.send("q")
        assert left(terminal) == 0


def test_a_killed_watcher_leaves_nothing_that_runs_and_the_next_loom_removes_the_rest(
    repo: Watched, client: docker.DockerClient
) -> None:
    with repo.watch() as terminal:
        waiting = prepared(client, repo)
        os.kill(terminal.pid, signal.SIGKILL)
        gone(terminal.pid)

    def ended() -> bool:
        waiting.reload()
        return bool(waiting.status == "exited")

    until(ended)  # by itself, without its watcher
    reap(client)
    assert containers(client, repo) == []
    workspace = Path(waiting.labels["loom.workspace"])
    assert workspace.exists()
    cleaned = run_loom(("clean", "--all", "--keep-last", "0"), cwd=repo.root, environ=repo.environ)
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    assert not workspace.exists()


def test_an_engine_is_restarted_while_watching(
    tmp_path: Path, new_engine: Callable[[], OwnEngine], busybox: bytes
) -> None:
    repo = Watched(
        tmp_path,
        """
version: v1
stages: [test]
shows: {stage: test, image: ash:test, network: none, script: ["echo it is $(cat a.txt)", "test ! -e wait || sleep 300"]}
""",
    )
    own = new_engine()
    client = own.start()
    own.load_busybox(client, busybox)
    repo.environ["DOCKER_HOST"] = own.url
    with repo.watch("--stream", "--keep", "never") as terminal:
        prepared(client, repo)
        own.stop()
        client = own.start()
        assert "it is 2" in repo.changed(terminal, "a.txt", "2\n")  # nothing waits for it any more
        prepared(client, repo)
        own.stop()
        assert "docker" in repo.changed(terminal, "a.txt", "3\n").lower()
        client = own.start()
        assert "it is 4" in repo.changed(terminal, "a.txt", "4\n")
        repo.write("wait", "")
        terminal.expect("it is 4")
        own.stop()
        assert "could not run" in repo.next_run(terminal, "")
        client = own.start()
        (repo.root / "wait").unlink()
        assert "passed" in repo.next_run(terminal)
        terminal.send("q")
        assert left(terminal) == 0
    reap(client)  # as the next loom does: the engine was away when the watcher wanted to remove two of them
    assert client.api.containers(all=True) == []
    assert len(repo.receipts()) == 6
    client.close()


def test_what_nobody_takes_goes_after_a_while(
    repo: Watched, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in repo.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repo.root)
    with nothing_is_left(client, repo), PreparedRuns(idle_s=0.1) as warm:
        warm.prepare(Request())
        with warm._guard:  # however long it takes: what would remove it waits
            prepared(client, repo)
        until(lambda: containers(client, repo) == [])
        ended = warm.run(Request(), sinks=[], cancel=Cancel())
        assert ended is not None
        assert ended.receipt.exit_code == 0


def test_a_person_stands_in_the_failure(repo: Watched, client: docker.DockerClient) -> None:
    with repo.watch("--keep", "on-failure") as terminal:
        shown = repo.changed(terminal, "broken", "")
        assert "exit code 1" in shown
        terminal.send("s")
        terminal.expect(r"\[shows\] [^\r\n]*[#$] ")
        terminal.sendline("ls broken; exit")
        terminal.expect("broken")
        terminal.expect("waiting for changes")
        (repo.root / "broken").unlink()
        assert "passed" in repo.next_run(terminal)
        terminal.send("q")
        assert left(terminal) == 0
    with repo.watch("--stop-at", "failure") as terminal:
        repo.write("broken", "")
        terminal.expect(r"\[shows\] [^\r\n]*[#$] ")
        terminal.sendline("rm broken; exit")
        terminal.expect("ail the job")
        terminal.sendline("r")
        terminal.expect("passed")
        terminal.expect("waiting for changes")
        terminal.sendintr()
        assert left(terminal) == 130
