"""One run on a cluster as a user has it, from the command line: from the first job to `loom clean`."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from loom.providers.kubernetes.pod.spec import selector
from tests.support import kubernetes
from tests.support.loom_process import run_loom
from tests.support.waiting import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.disturbs]

SECRET = "s3cr3t-value"
WORKFLOW = f"""
version: v1
stages: [build, cut, test]
default: {{image: "{kubernetes.IMAGE}"}}
build:
  stage: build
  script:
    - mkdir -p out cached && cp a.txt out/b.txt
    - date >>cached/dates
  artifacts: {{paths: [out/]}}
  cache: {{paths: [cached/], key: k}}
cut:
  stage: cut
  retry: {{max: 1, when: [provider_failure]}}
  script:
    - echo attempt $LOOM_ATTEMPT begins
    - test $LOOM_ATTEMPT = $CUT || sleep 600
test:
  stage: test
  secrets: {{KEY: {{ref: "env://STORY_KEY"}}}}
  cache: {{paths: [cached/], key: k, policy: pull}}
  services:
    - {{name: sleeper, image: "{kubernetes.IMAGE}", command: [sh, -c, "echo awake; exec sleep 1000"], ready: {{log: awake}}}}
  script:
    - cat out/b.txt cached/dates
    - test $(wc -c <"$KEY") = {len(SECRET)} && echo the secret is right; cat "$KEY"; echo
    - echo left >left.txt; sleep 1000 & echo $! >/tmp/child
    - test -e fixed
    - kill -0 $(cat /tmp/child) && echo goes on
broken:
  stage: test
  script: exit 3
"""
# The nodes' cut is noticed after 10 seconds; a pod of this pool does not wait for their return.
POOL = """
pools:
  place:
    provider: kubernetes
    pod_template:
      spec:
        tolerations:
          - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
          - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
"""


class Story:
    def __init__(self, folder: Path, *, cut: bool) -> None:
        self.project = folder / "project"
        (self.project / ".loom").mkdir(parents=True)
        (self.project / ".loom/workflow.yml").write_text(WORKFLOW.replace("$CUT", "2" if cut else "1"))
        (self.project / "a.txt").write_text("from the snapshot\n")
        user = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["add", "-A"], [*user, "commit", "-qm", "x"]):
            subprocess.run(["git", *words], cwd=self.project, check=True)
        (folder / ".config/loom").mkdir(parents=True)
        (folder / ".config/loom/config.yml").write_text(POOL)
        self.state = folder / "state"
        self.environ = {
            **kubernetes.environ(),
            "HOME": str(folder),
            "LOOM_STATE_DIR": str(self.state),
            "LOOM_TMP_DIR": str(folder),
            "LOOM_CACHE_DIR": str(folder / "cache"),
            "LOOM_TRUST": "1",
            "STORY_KEY": SECRET,
        }

    def loom(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_loom(words, cwd=self.project, environ=self.environ, timeout=200)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "loom", *words],
            cwd=self.project,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def recorded(self) -> str:
        """Everything that the runs' records hold."""
        files = [path for path in self.state.rglob("*.json*") if path.suffix in (".json", ".jsonl")]
        return "".join(path.read_text("utf-8", "replace") for path in files)

    def job(self, name: str) -> dict[str, Any]:
        """The manifest of a job in the record of the only run so far."""
        (manifest,) = self.state.rglob(f"jobs/{name}/manifest.json")
        return dict(json.loads(manifest.read_text()))


@pytest.fixture
def node_cut(control: Callable[..., None] | None) -> Iterator[Callable[[str], None] | None]:
    """Cut a node's power; it comes back when the test is over. None for a cluster that the tests may not disturb."""
    cut: list[str] = []

    def cut_node(name: str) -> None:
        cut.append(name)
        assert control is not None
        control("kill-node", name)

    yield cut_node if control is not None else None
    for name in cut:
        assert control is not None
        control("start-node", name)


def everything_about(cluster: Any, run_id: str) -> str:
    """What `kubectl describe` and `kubectl logs` could show: the run's pods, their output, and the namespace's objects."""
    pods = cluster.call("looking", "list_namespaced_pod", label_selector=selector(run_id))
    found = [pods, *(cluster.call("looking", f"list_namespaced_{kind}") for kind in ("event", "config_map", "secret"))]
    logs = [
        b"\n".join(cluster.lines("reading", "read_namespaced_pod_log", pod["metadata"]["name"], container=one["name"]))
        for pod in pods["items"]
        for one in pod["spec"]["containers"]
    ]
    return json.dumps(found) + b"".join(logs).decode()


def test_one_run_from_its_first_job_to_clean(
    tmp_path: Path, cluster: Any, node_cut: Callable[[str], None] | None
) -> None:
    story = Story(tmp_path, cut=node_cut is not None)
    running = story.start("run", "--local", "--on", "place", "--keep", "on-failure", "--trust")
    try:
        if node_cut is not None:
            # With the attempt's output in the record, its node dies.
            until(lambda: "attempt 1 begins" in story.recorded(), while_runs=running, limit_s=150)
            listed = cluster.call("looking", "list_namespaced_pod", label_selector="loom.job=cut")
            lost_node = listed["items"][0]["spec"]["nodeName"]
            node_cut(lost_node)
        said, _ = running.communicate(timeout=200)
    finally:
        running.kill()
    assert running.returncode == 1, said
    run_id = json.loads(story.loom("runs", "--json").stdout)["runs"][0]["run_id"]

    cut = story.job("cut")
    if node_cut is not None:
        assert (cut["status"], cut["attempts"]) == ("success", 2), said
        attempts = list(story.state.rglob("jobs/cut/attempts/1"))
        assert "attempt 1 begins" in "".join(path.read_text() for path in attempts[0].rglob("*.jsonl"))
        assert f"was lost with its node {lost_node} while it ran" in story.recorded()
    else:
        assert (cut["status"], cut["attempts"]) == ("success", 1), said

    assert story.job("broken")["exit_code"] == 3
    output = story.loom("logs", run_id, "test").stdout
    assert "from the snapshot" in output
    assert "the secret is right" in output
    assert len(kubernetes.pods_of(run_id)) == 2
    assert SECRET not in everything_about(cluster, run_id)

    entered = story.loom("exec", run_id, "test", "--", "sh", "-c", "cat left.txt; exit 7")
    assert (entered.returncode, entered.stdout) == (7, "left\n"), entered.stderr
    shell = pexpect.spawn(
        sys.executable,
        ["-m", "loom", "shell", run_id, "test"],
        cwd=story.project,
        env=story.environ,
        timeout=60,
        dimensions=(33, 99),
    )
    shell.sendline("while stty size | grep -q ^0; do sleep 0.1; done; stty size; touch fixed; exit 3")
    shell.expect("33 99")
    shell.expect(pexpect.EOF)
    shell.wait()
    shell.close()
    assert shell.exitstatus == 3

    resumed = story.loom("resume", run_id, "--trust")
    assert resumed.returncode == 1, resumed.stdout + resumed.stderr
    assert "goes on" in story.loom("logs", "last", "test").stdout
    # What passed now is gone, what failed again was kept again.
    until(lambda: ["broken" in name for name in kubernetes.pods_of(run_id)] == [True])
    for one in (run_id, "last"):
        assert story.loom("clean", one).returncode == 0
    until(lambda: kubernetes.pods_of(run_id) == [])
    assert SECRET not in story.recorded()
