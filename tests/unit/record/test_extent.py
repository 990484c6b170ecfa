"""What a run says it ran: whole, partial, resumed, assisted, and on which tree."""

import json
import re
import subprocess
from typing import Any

import pytest

from tests.support import repository
from tests.support.loom_process import run_loom

from .conftest import Make, Project

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [test]
unit:
  stage: test
  script:
    - sleep 0.2; echo made > made.txt; echo x > ignored.log
    - cat fixed
    - echo done
other:
  stage: test
  script: [echo other]
"""
NO_PROOF = "no proof that the workflow passes: "


def extent(project: Project) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(project.loom("show", "last", "--json"))
    return {**shown["receipt"]["extent"], "snapshot": shown["receipt"]["snapshot_tree_sha"]}


def tree_with(project: Project, files: dict[str, str]) -> str:
    """The tree of the checkout with these files, as git would commit it."""
    for name, content in files.items():
        (project.root / name).write_text(content)
    git = ["git", "-C", str(project.root)]
    subprocess.run([*git, "add", "-A"], check=True)
    tree = subprocess.run([*git, "write-tree"], check=True, capture_output=True, text=True).stdout.strip()
    for name in files:
        (project.root / name).unlink()
    subprocess.run([*git, "reset", "-q"], check=True)
    return tree


def test_a_whole_run_is_a_proof_and_a_partial_one_is_not(make: Make) -> None:
    project = make(WORKFLOW.replace("cat fixed", "echo fine"))
    assert NO_PROOF not in project.loom("run", "--local")
    whole = extent(project)
    assert (whole["kinds"], whole["proof"], whole["tree_sha"]) == (["whole"], True, whole["snapshot"])
    assert sorted(whole["ran"]) == ["other", "unit"]

    assert f"{NO_PROOF}partial (ran other)" in project.loom("run", "--local", "other")
    partial = extent(project)
    assert (partial["kinds"], partial["proof"]) == (["partial"], False)
    assert (partial["ran"], partial["not_selected"]) == (["other"], ["unit"])
    rows = json.loads(project.loom("runs", "--json"))["runs"]
    assert [row["extent"] for row in rows] == [["partial"], ["whole"]]
    assert "partial" in project.loom("runs").splitlines()[1]
    assert project.loom("rerun", rows[1]["run_id"])
    again = extent(project)
    assert (again["kinds"], again["parent_run_id"]) == (["whole"], rows[1]["run_id"])


PULL_REQUEST = """\
on: [push, pull_request, pull_request_review, pull_request_target, schedule]
jobs:
  unit:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: |
          echo "on $GITHUB_REF, $GITHUB_SHA into ${{ github.event.pull_request.base.sha }}:" *
          test "$(git rev-parse HEAD)" = "$GITHUB_SHA"
          git for-each-ref
  whole:
    runs-on: ubuntu-latest
    steps:
      - {uses: actions/checkout@v4, with: {fetch-depth: 0}}
      - run: echo $(git rev-list --parents -1 HEAD) / $(git status --porcelain)
  head:
    runs-on: ubuntu-latest
    steps:
      - {uses: actions/checkout@v4, with: {ref: "${{ github.event.pull_request.head.sha }}"}}
      - run: echo $(git rev-parse HEAD) *
"""


def test_a_pull_request_runs_on_the_merge_with_its_base(make: Make) -> None:
    project = make("")
    (project.root / ".loom/workflow.yml").unlink()
    (project.root / ".github/workflows").mkdir(parents=True)
    (project.root / ".github/workflows/ci.yml").write_text(PULL_REQUEST)

    def git(*arguments: str) -> str:
        return repository.git(project.root, *arguments)

    def commit(branch: str) -> str:
        git("checkout", "-q", branch)
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", branch)
        return git("rev-parse", "HEAD")

    def of_run(*arguments: str) -> str:
        project.loom("run", "--event", "pull_request", *arguments)
        return project.loom("logs", "unit")

    base = commit("main")
    git("branch", "topic")
    head = commit("topic")
    made = re.search(rf"on refs/pull/1/merge, (\w+) into {base}: ", of_run())
    assert made is not None
    assert made[1] != head, "a merge, though the branch has all of its base"
    assert f"{made[1]} {base} {head} /" in project.loom("logs", "whole")
    assert (extent(project)["kinds"], "behind" in extent(project)) == (["whole"], False)

    (project.root / "theirs").write_text("theirs")
    there = commit("main")
    git("checkout", "-q", "topic")
    (project.root / "mine").write_text("not committed")
    shown = project.loom("run", "--event", "merge_request")
    assert f"on the merge of {head[:12]} into main ({there[:12]}), as on GitHub" in shown
    assert (extent(project)["kinds"], extent(project)["proof"]) == (["whole"], True)
    said = project.loom("logs", "unit")
    merge = said.partition("merge, ")[2][:40]
    assert f"on refs/pull/1/merge, {merge} into {there}: mine theirs\n" in said
    assert f"{merge} commit\trefs/remotes/pull/1/merge\n" in said
    assert f"{merge} {there} {head} / A mine\n" in project.loom("logs", "whole")
    assert f"{head} mine\n" in project.loom("logs", "head")
    project.loom("rerun", "last")
    assert (project.loom("logs", "unit"), extent(project)["kinds"]) == (said, ["whole"])
    assert merge in of_run(), "the commit is the same in each run"

    git("update-ref", "refs/remotes/origin/main", base)  # what GitHub has counts, not a commit that was never pushed
    assert f"{made[1]} into {base}: mine\n" in of_run()
    project.loom("run", "--event", "pull_request_review")
    assert f"{made[1]} into {base}: mine\n" in project.loom("logs", "unit")
    event = project.home / "event.json"
    event.write_text(json.dumps({"number": 7, "pull_request": {"head": {"ref": "topic"}, "base": {"ref": "gone"}}}))
    assert "on refs/pull/7/merge" in of_run("--event-file", str(event))
    why = "GitHub runs the merge with gone, which is not known here"
    found = extent(project)
    assert (found["kinds"], found["proof"], why in found["behind"]) == (["whole", "behind"], False, True)

    (project.root / "theirs").write_text("ours")
    git("update-ref", "refs/remotes/origin/main", there)
    commit("topic")
    refused = run_loom(["run", "--event", "pull_request"], cwd=project.root, environ=project.environ)
    assert (refused.returncode, f"in conflict with main ({there[:12]})" in refused.stderr) == (2, True)
    for event in ("schedule", "pull_request_target"):
        assert f"not the same commit: GitHub runs {event} on main" in project.loom("run", "--event", event)
    git("checkout", "-q", "main")
    project.loom("run", "--event", "schedule")
    assert extent(project)["proof"] is True


def test_a_rerun_of_what_failed_takes_results_over(make: Make) -> None:
    project = make(WORKFLOW)
    project.loom("run", "--local", code=1)
    assert extent(project)["proof"] is True
    project.loom("rerun", "--failed", code=1)
    again = extent(project)
    assert (again["kinds"], again["ran"]) == (["partial"], ["unit"])
    assert [(one["job_id"], one["steps"], one["from_step"]) for one in again["reused"]] == [("other", 1, None)]


def test_a_resumed_run_states_repairs_by_hand(make: Make) -> None:
    project = make(WORKFLOW)
    (project.root / ".gitignore").write_text("*.log\n")
    project.loom("run", "--local", code=1)
    project.loom("exec", "unit", "--", "sh", "-c", "echo repaired > fixed; echo more >> ignored.log")
    shown = project.loom("resume")
    assert "assisted (1 command, 1 file edited)" in shown
    assert "assisted (1 command, 1 file edited)" in project.loom("show", "last")
    resumed = extent(project)
    assert resumed["kinds"] == ["partial", "resumed", "assisted"]
    assert [(one["job_id"], one["from_step"]) for one in resumed["reused"]] == [("other", None), ("unit", "script/02")]
    assert resumed["reused_steps"] == 2
    assert resumed["saved_ms"] >= 200
    command, edit = resumed["assisted"]
    assert (command["how"], command["command"]) == (
        "exec",
        "sh -c 'echo repaired > fixed; echo more >> ignored.log'",
    )
    assert (edit["how"], edit["job_id"], edit["changes"]) == ("edit", "unit", ["fixed"])
    assert resumed["tree_sha"] is None, "of files that somebody changed by hand"

    project.loom("resume", "--from", "unit:3")
    next_one = extent(project)
    assert [one["how"] for one in next_one["assisted"]] == ["exec", "edit"], "the work of the run before goes on"
    assert next_one["tree_sha"] is None
    assert next_one["reused_steps"] == 3


def test_a_sync_is_an_assistance_with_the_tree_of_the_checkout(make: Make) -> None:
    project = make(WORKFLOW)
    project.loom("run", "--local", code=1)
    (project.root / "fixed").write_text("synced\n")
    assert "assisted (1 file brought by --sync)" in project.loom("resume", "--sync")
    synced = extent(project)
    assert [(one["how"], one["changes"]) for one in synced["assisted"]] == [("sync", ["fixed"])]
    assert synced["tree_sha"] == tree_with(project, {"fixed": "synced\n"})


def test_what_ci_would_run_and_the_run_left_out_is_told_with_its_end(make: Make) -> None:
    project = make(WORKFLOW)
    file = project.root / ".gitlab-ci.yml"
    ends = "build: {script: echo x}\nhand: {script: x, when: manual, environment: live}\nrule: {script: x, rules: [{if: $NOT}]}\n"
    file.write_text(
        f"{ends}win: {{script: x, tags: [windows]}}\nsame: {{script: x, tags: [windows-2022]}}\nafter: {{script: x, needs: [win]}}\n"
        "other: {trigger: {project: a/b}}\n"
    )
    told = "; 4 jobs left out (Windows, pipelines of other projects, what needs them)"
    for output in (project.loom("run", "--local", "--workflow", file.name), project.loom("show", "last")):
        (line,) = (line for line in output.splitlines() if line.startswith("passed in "))
        assert line.endswith(told)
        assert NO_PROOF not in output
    stated = extent(project)
    assert (stated["kinds"], stated["proof"]) == (["partial"], False)
    assert [one["job_id"] for one in stated["held"]] == ["win", "same", "other", "after"]

    file.write_text(ends)  # what its rules leave out, and what waits for a person, CI would not run
    assert "left out" not in project.loom("run", "--local", "--workflow", file.name)
    assert extent(project)["proof"] is True
