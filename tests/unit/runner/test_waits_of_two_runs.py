"""Jobs of one group in two runs at once, as real processes on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import commit_all
from tests.support.waiting import until

pytestmark = pytest.mark.slow

WORKFLOW = """
version: v1
stages: [deploy]
deploy:
  stage: deploy
  resource_group: production
  script:
    - echo "begin $NAME" >> "$SEEN"; while [ ! -e "$SEEN.go" ]; do sleep 0.05; done; echo "end $NAME" >> "$SEEN"
"""


def test_two_runs_take_turns_and_the_second_says_for_whom_it_waits(tmp_path: Path) -> None:
    repo, seen = tmp_path / "repo", tmp_path / "seen"
    (repo / ".loom").mkdir(parents=True)
    (repo / ".loom/workflow.yml").write_text(WORKFLOW)
    environ = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    commit_all(repo)

    def run(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "loom", "run", "--local", "--no-container", "--stream"]
        variables = ["--var", f"NAME={name}", "--var", f"SEEN={seen}"]
        with (tmp_path / f"{name}.out").open("w") as out:
            return subprocess.Popen([*command, *variables], cwd=repo, env=environ, stdout=out, stderr=out, text=True)

    with run("one") as one:
        until(lambda: seen.exists())
        with run("two") as two:
            until(lambda: "deploy waits: resource group production is in use by" in (tmp_path / "two.out").read_text())
            (tmp_path / "seen.go").touch()
            assert (one.wait(60), two.wait(60)) == (0, 0)
    assert seen.read_text().splitlines() == ["begin one", "end one", "begin two", "end two"]
