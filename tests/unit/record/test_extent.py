"""What a run says it ran: whole, partial, resumed, assisted, and on which tree."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

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


def test_a_pull_request_without_all_of_its_base_is_no_proof(make: Make) -> None:
    project = make("")
    (project.root / ".loom/workflow.yml").unlink()
    (project.root / ".github/workflows").mkdir(parents=True)
    step = 'echo "on $GITHUB_REF, $GITHUB_SHA into ${{ github.event.pull_request.base.sha }}"'
    job = f"runs-on: ubuntu-latest, steps: [{{run: {json.dumps(step)}}}]"
    (project.root / ".github/workflows/ci.yml").write_text(f"on: [push, pull_request]\njobs:\n  unit: {{{job}}}\n")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project.root), "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

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
    assert f"on refs/pull/1/merge, {head} into {base}" in of_run()
    assert (extent(project)["kinds"], "behind" in extent(project)) == (["whole"], False)

    there = commit("main")
    git("checkout", "-q", "topic")
    shown = project.loom("run", "--event", "merge_request")
    why = f"not the same commit: GitHub runs the merge with main ({there[:12]}), which is not in HEAD's history here: merge it"
    assert shown.count(why) == 2
    assert f"{NO_PROOF}whole, behind ({why})" in shown
    found = extent(project)
    assert (found["kinds"], found["proof"], found["behind"]) == (["whole", "behind"], False, why)
    assert f"on refs/pull/1/merge, {head} into {base}" in project.loom("logs", "unit")
    project.loom("run")
    assert extent(project)["proof"] is True

    git("update-ref", "refs/remotes/origin/main", base)  # what GitHub has counts, not a commit that was never pushed
    of_run()
    assert extent(project)["proof"] is True
    event = project.home / "event.json"
    event.write_text(json.dumps({"number": 7, "pull_request": {"head": {"ref": "topic"}, "base": {"ref": "gone"}}}))
    assert "on refs/pull/7/merge" in of_run("--event-file", str(event))
    assert "GitHub runs the merge with gone, which is not known here" in extent(project)["behind"]


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
