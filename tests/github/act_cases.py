"""Run the workflows that act's own tests run, with the outcomes that these expect, and print a table.

    python tests/github/act_cases.py CLONE_OF_ACT [--server ADDRESS] [NAME...]

The cases are read from `pkg/runner/runner_test.go`. `--server`: where their actions are (`github.server`). Their images have to be
there, or what stands in for them under the same names: node:16-buster-slim, node:16-buster, alpine:3, ubuntu:latest, nginx, postgres:12.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.loom_process import run_loom

CASE = re.compile(r'\{workdir, "(?P<name>[^"]+)", "(?P<event>[^"]+)", "(?P<error>(?:[^"\\]|\\.)*)", (?P<images>\w+)')
IMAGE = "node:16-buster-slim"
INPUTS = ("--input", "required=required input", "--input", "boolean=true")
"""Of a file that is only called."""
REASONS = {
    "shells/custom": "needs an image with PowerShell",
    "shells/pwsh": "needs an image with PowerShell",
    "uses-nested-composite": "needs Node 16, which its action downloads",
    "mysql-service-container-with-health-check": "needs the image mysql:8",
    "if-env-act": "wants the variable ACT, which only act has",
    "local-remote-action-overrides": "wants an option of act",
    "docker-action-custom-path": "a step writes an action with a Dockerfile; its image has to be known before the run",
    "docker-action-host-env": "wants a job on act's own machine",
    "job-container-invalid-credentials": "credentials have no effect here",
    "uses-workflow": "passes a secret that the called workflow does not declare; GitHub refuses that",
    "workflow_call_inputs": "has inputs without a type; GitHub refuses them",
    "services-host-network": "a service is at localhost by the port of its container: 8080:80 refuses the job",
}


def cases(act: Path) -> list[re.Match[str]]:
    source = (act / "pkg/runner/runner_test.go").read_text()
    return list(CASE.finditer(source.split("func TestRunEvent(")[1].split("\n}\n")[0]))


def run(act: Path, case: re.Match[str], root: Path) -> bool:
    """Run the files of a case; return whether they end as act's test expects."""
    data, name, event = act / "pkg/runner/testdata", case["name"], case["event"]
    shutil.copytree(data, root, symlinks=True, ignore=shutil.ignore_patterns("node_modules"))
    workflows = root / ".github/workflows"
    workflows.mkdir(parents=True, exist_ok=True)
    git = ["git", "-c", "user.name=nektos/act", "-c", "user.email=act@example.org"]
    files = [file for file in sorted((data / name).glob("*.y*ml")) if file.stem != "action"]
    for file in files:
        shutil.copy(file, workflows / f"case-{file.name}")
    origin = ["remote", "add", "origin", "https://github.com/nektos/act"]
    for words in (["init", "-q", "-b", "main"], origin, ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    options: tuple[str, ...] = ("--event", "push", *INPUTS)
    if event != "workflow_call":
        payload = data / name / "event.json"
        options = ("--event", event, *(("--event-file", str(payload)) if payload.exists() else ()))
    ended = []
    for file in files:
        if event not in file.read_text():
            continue  # a file of another event
        words = ("run", "--trust", "--workflow", f".github/workflows/case-{file.name}", *options)
        ended.append(run_loom(words, cwd=root, environ=environment(root), timeout=600).returncode)
    return bool(max(ended, default=9)) == bool(case["error"])


def environment(root: Path) -> dict[str, str]:
    home = root.parent / "home"
    actor = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "nektos/act"}
    return {**os.environ, **actor, "HOME": str(home), "SECRET": "keep_it_private", "LOOM_STATE_DIR": f"{home}/state"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", type=Path)
    parser.add_argument("--server", default="https://github.com")
    parser.add_argument("names", nargs="*")
    given = parser.parse_intermixed_args()
    good = ran = 0
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "home/.config/loom/config.yml"
        settings.parent.mkdir(parents=True)
        images = {"ubuntu-latest": IMAGE}
        github = {"server": given.server, "secrets": {"secret": "env://SECRET"}}
        settings.write_bytes(msgspec.json.encode({"github": github, "images": images}))
        for case in cases(given.act):
            if given.names and case["name"] not in given.names:
                continue
            as_expected = run(given.act, case, Path(folder) / "project")
            shutil.rmtree(Path(folder) / "project")
            ran, good = ran + 1, good + as_expected
            reason = "" if as_expected else REASONS.get(case["name"], "")
            print(f"{'ok' if as_expected else 'DIFFERS':8}{case['name']} ({case['event']})  {reason}", flush=True)
    print(f"{good} of {ran} as in act's tests")


if __name__ == "__main__":
    main()
