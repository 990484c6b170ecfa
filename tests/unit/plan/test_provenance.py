"""Where each value of a job's plan comes from."""

from pathlib import Path
from typing import Any

from loom.config import Config
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.provenance import sources
from loom.plan.resolve import resolve
from loom.workflow.dialects import load
from tests.support.gitlab import PUSH

TEXT = """version: v1
stages: [a]
variables: {ROOT: r}
default: {timeout: 5m}
.base: {image: {name: debian, user: me}, variables: {OF_BASE: b}}
whole:
  extends: .base
  stage: a
  variables: {OWN: o}
  parallel: {matrix: [{N: ["1", "2"]}]}
  rules: [{if: $ROOT == "r", variables: {BY_RULE: x}}]
  script: [one]
  network: {mode: none}
  shell: bash
  resources: {cpus: 2, memory: 1g, pids: 9}
bare: {stage: a, script: [one]}
"""


def said(tmp_path: Path, job_id: str, config: Config, **selection: Any) -> dict[str, str]:
    path = tmp_path / ".loom/workflow.yml"
    path.parent.mkdir()
    path.write_text(TEXT)
    context = ResolveContext(config=config)
    loaded, chosen = load(path, tmp_path, lambda: context), JobSelection(**selection)
    plan = resolve(loaded, chosen, context)
    found = sources(loaded, plan.job(job_id), chosen)
    return {
        one.key: f"{one.value} by {one.by} {one.position.removeprefix('.loom/workflow.yml')}".strip() for one in found
    }


def test_values_of_a_workflow_have_their_position(tmp_path: Path) -> None:
    found = said(tmp_path, "whole.1", Config(cpus=3, memory=5, pids=7), variables={"OWN": "mine"})
    assert found == {
        "id": "whole.1 by job :6:1",
        "timeout": "5m by default :4:20",
        "image.name": "debian by .base :5:23",
        "image.user": "me by .base :5:37",
        "stage": "a by job :8:10",
        "parallel.matrix[0].N[0]": "1 by job :10:28",
        "parallel.matrix[0].N[1]": "2 by job :10:33",
        "rules[0].if": '$ROOT == "r" by job :11:16',
        "rules[0].variables.BY_RULE": "x by job :11:51",
        "script[0]": "one by job :12:12",
        "network.mode": "none by job :13:19",
        "shell": "bash by job :14:10",
        "resources.cpus": "2 by job :15:21",
        "resources.memory": "1g by job :15:32",
        "resources.pids": "9 by job :15:42",
        "when": "on_success by rules[0] :11:11",
        "variables.CI_NODE_INDEX": "1 by parallel",
        "variables.CI_NODE_TOTAL": "2 by parallel",
        "variables.ROOT": "r by root :3:19",
        "variables.OF_BASE": "b by .base :5:63",
        "variables.OWN": "mine by --var",
        "variables.N": "1 by matrix :10:28",
        "variables.BY_RULE": "x by rules[0] :11:51",
    }


def test_a_combination_has_the_positions_of_its_own_row(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index(".base")] + (
        "many:\n  stage: a\n  script: [x]\n  parallel:\n    matrix:\n      - {N: a, M: x}\n      - {N: a, M: [y, z]}\n"
        "      - {N: [b, c], M: d, O: w}\n      - {N: b, M: d}\n"
    )
    path = tmp_path / ".loom/workflow.yml"
    path.parent.mkdir()
    path.write_text(text)
    loaded = load(path, tmp_path, ResolveContext)
    plan = resolve(loaded, JobSelection(), ResolveContext())
    found = {}
    for job in plan.jobs:
        told = {one.key: one.position.rpartition(":")[0] for one in sources(loaded, job, JobSelection())}
        found[job.id] = [told[f"variables.{name}"].rpartition(":")[2] for name in "NM"]
    assert found == {
        "many.a-x": ["10", "10"],
        "many.a-y": ["11", "11"],
        "many.a-z": ["11", "11"],
        "many.b-d-w": ["12", "12"],
        "many.c-d-w": ["12", "12"],
        "many.b-d": ["13", "13"],
    }


def test_a_number_of_a_combination_has_its_position(tmp_path: Path) -> None:
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text("many:\n  script: x\n  parallel:\n    matrix:\n      - N: [1, 2]\n")
    facts = ResolveContext(predefined=PUSH)
    loaded = load(path, tmp_path, lambda: facts)
    job = resolve(loaded, JobSelection(), facts).jobs[1]
    (found,) = [one for one in sources(loaded, job, JobSelection()) if one.key == "variables.N"]
    assert (found.value, found.by, found.position) == ("2", "matrix", ".gitlab-ci.yml:5:16")
