"""The JSON Schema says the same as the loader, as judged by a validator that knows neither."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from loom.errors import WorkflowError
from loom.util import yaml_file
from loom.workflow.native import keywords
from loom.workflow.native.schema import workflow_schema
from tests.support import native as workflow
from tests.support.effort import effort

ROOT = Path(__file__).parents[3]
CORPUS = ROOT / "tests/workflows"

BEYOND_SHAPES = {
    "doubles",
    "duplicate_keys",
    "names_without_a_value",
    "extends_cycle",
    "image_names",
    "condition_of_github",
    "image_without_name",
    "image_without_value",
    "needs_a_later_stage",
    "needs_cycle",
    "needs_itself",
    "no_job",
    "references",
    "stage_twice",
    "texts",
    "variable_cycle",
    "keys_that_are_no_text",
    "incomplete_templates",
}
"""Broken in a way that only the loader can tell: what a name refers to, a circle, a value's own language."""


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = workflow_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def shipped() -> list[Path]:
    """Every workflow that comes with loom."""
    found = [
        *ROOT.glob(".loom/workflow.yml"),
        *ROOT.glob("docs/**/workflow*.yml"),
        *ROOT.glob("images/**/.loom/workflow.yml"),
    ]
    found += [p for kind in ("good", "doubtful") for p in (CORPUS / kind).rglob("*.yml") if "templates" not in p.parts]
    return sorted(found)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_workflows_are_valid(validator: Any, path: Path) -> None:
    root = yaml_file.read(path, path.name).root
    assert root is not None
    assert [error.message for error in validator.iter_errors(root.plain())] == []


@pytest.mark.parametrize("path", sorted((CORPUS / "broken").glob("*.yml")), ids=lambda path: path.stem)
def test_what_the_loader_refuses_the_schema_refuses(validator: Any, path: Path) -> None:
    file = yaml_file.read(path, path.name)
    if file.root is None or file.problems:
        return  # no YAML that another reader would see the same way
    assert validator.is_valid(file.root.plain()) is (path.stem in BEYOND_SHAPES)


JOB = "version: v1\nstages: [test]\na:\n  stage: test\n  script: x\n"
AGREE = [
    ("timeout: 10m", True),
    ("timeout: 1h30m", True),
    ("timeout: 1m1h", False),
    ('timeout: ""', False),
    ("timeout: 10", False),
    ("timeout: 2d", True),
    ("timeout: 0s", False),
    ("step_timeout: 0h0.0s", False),
    ("retry: {backoff: 0s}", True),
    ("services: [{name: x, image: y, alias: [a, b.c]}]", True),
    ("services: [{name: x, image: y, alias: a b}]", False),
    ("services: [{name: x, ready: {tcp: 1, timeout: 0s}}]", False),
    ("resources: {memory: 1.5GiB}", True),
    ("resources: {memory: 8388608}", True),
    ("resources: {memory: 1024}", False),
    ("resources: {memory: 0}", True),
    ("resources: {memory: 1x}", False),
    ("resources: {memory: -1}", False),
    ('resources: {cpus: "1.5"}', True),
    ("resources: {cpus: 0}", False),
    ("resources: {ulimits: {nofile: {soft: 1, hard: 2}}}", True),
    ("resources: {ulimits: {nofile: {soft: 1}}}", False),
    ("resources: {ulimits: {nofiles: 1}}", False),
    ("resources: {cpus: 0.001}", False),
    ("resources: {tmpfs: [/a, '/b:size=1m']}", True),
    ("resources: {tmpfs: a}", False),
    ("resources: {tmpfs: /}", False),
    ("resources: {gpus: device=0}", True),
    ("image: alpine", True),
    ('image: ""', False),
    ("image: {build: {}}", True),
    ("image: {build: {context: /x}}", False),
    ("image: {build: {context: a/../b}}", False),
    ("image: {build: {context: ./a..b}}", True),
    ("image: {pull: sometimes, name: x}", False),
    ("cache: {paths: x}", True),
    ("cache: {paths: []}", False),
    ("cache: []", True),
    ("cache: {key: x}", False),
    ("cache: {paths: x, key: {prefix: x}}", False),
    ("artifacts: {paths: x}", True),
    ("artifacts: {reports: {junit: a.xml}}", True),
    ("retry: 3", True),
    ("retry: 11", False),
    ("retry: {when: timeout}", True),
    ("retry: {when: []}", False),
    ("allow_failure: true", True),
    ("allow_failure: {exit_codes: 3}", True),
    ("allow_failure: {exit_codes: 300}", False),
    ("allow_failure: {exit_codes: []}", False),
    ("parallel: 2", True),
    ("parallel: {matrix: [{A: x}]}", True),
    ("parallel: {matrix: []}", False),
    ("parallel: {matrix: [{}]}", False),
    ("needs: []", True),
    ("needs: [{artifacts: false}]", False),
    ("rules: [{if: $A}]", True),
    ("rules: [{changes: x}]", True),
    ("rules: [{changes: {paths: [x], compare_to: main}}]", True),
    ("rules: [{changes: []}]", False),
    ("rules: [{when: maybe}]", False),
    ("rules: []", True),
    ("secrets: {A: env://A}", True),
    ("secrets: {A: {file: false}}", False),
    ("secrets: {a-b: env://A}", False),
    ("services: [x, {name: y, ready: {tcp: 1}}]", True),
    ("services: [{alias: y}]", False),
    ("services: x", False),
    ("shell: bash", True),
    ("shell: [bash, -eo, pipefail]", True),
    ("shell: []", False),
    ("network: host", True),
    ("network: {extra_hosts: {a: 1.2.3.4}}", True),
    ("network: {extra_hosts: {a: host-gateway, b: 'fd00::1'}}", True),
    ("network: {extra_hosts: {a: somewhere}}", False),
    ("network: {extra_hosts: {a b: 1.2.3.4}}", False),
    ("network: {modes: x}", False),
    ("variables: {A: x}", True),
    ("variables: {A: 1}", False),
    ("variables: {a-b: x}", False),
    ("before_script: x", True),
    ("before_script: []", True),
    ('before_script: [""]', False),
    ("when: manual", True),
    ("when: delayed", False),
    ("target: linux", True),
    ("target: windows", False),
    ("user: x", True),
    ('user: ":5"', True),
    ("user: $U", True),
    ('user: "-1"', False),
    ('user: "x:-1"', False),
    ("image: {name: x, platform: linux/arm/v7}", True),
    ("image: {name: x, platform: arm64}", True),
    ("image: {name: x, platform: $P}", True),
    ("image: {name: x, platform: a/b/c/d}", False),
    ("image: {name: x, platform: a b}", False),
    ("privileged: true", True),
    ("privileged: yes", False),
    ("zzz: 1", False),
]


@pytest.mark.parametrize(("line", "good"), AGREE, ids=[line for line, _ in AGREE])
def test_schema_and_loader_agree(validator: Any, tmp_path: Path, line: str, good: bool) -> None:
    path = tmp_path / "workflow.yml"
    path.write_text(f"{JOB}  {line}\n")
    root = yaml_file.read(path, path.name).root
    assert root is not None
    assert validator.is_valid(root.plain()) is good
    try:
        workflow.load(path, tmp_path)
        loads = True
    except WorkflowError:
        loads = False
    assert loads is good


def test_every_key_is_described() -> None:
    def undescribed(shape: Any, at: str) -> list[str]:
        if isinstance(shape, dict):
            own = [
                f"{at}/{name}"
                for name, key in shape.get("properties", {}).items()
                if isinstance(key, dict) and "description" not in key
            ]
            return own + [found for key, value in shape.items() for found in undescribed(value, f"{at}/{key}")]
        return [found for value in shape for found in undescribed(value, at)] if isinstance(shape, list) else []

    assert undescribed(workflow_schema(), "") == []


def test_a_template_may_lack_what_a_job_needs(validator: Any) -> None:
    whole = {"stage": "a", "script": "x"}
    for part in ({"services": [{"alias": "db"}]}, {"cache": {"key": "k"}}, {"image": {"build": {"secrets": ["A"]}}}):
        template = {"version": "v1", "stages": ["a"], ".t": part, "default": {}, "job": whole}
        assert validator.is_valid(template), part
    for part in ({"services": [{"alias": "db"}]}, {"cache": {"key": "k"}}):
        assert not validator.is_valid({"version": "v1", "stages": ["a"], "job": {**whole, **part}}), part


def test_the_schema_is_stable_json() -> None:
    assert json.dumps(workflow_schema()) == json.dumps(workflow_schema())
    assert set(keywords.ROOT_KEYS) == set(workflow_schema()["properties"])


ODD: list[Any] = [
    *("", " ", "x", "a b", "10m", "0s", "/abs", "../x", "$X", "a\nb", "always", "http://x", ".", "é"),
    *(0, 1, -1, 1.5, 256, True, False, [], ["x"], [1], [""], [[]], [{}]),
    *({}, {"a": "b"}, {"name": "x"}, {"paths": "x"}, {"exit_codes": []}, {"matrix": []}, {"mode": "none"}),
]


def places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [at] if at else []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(item, (*at, key))
    return found


@pytest.mark.slow
def test_the_schema_never_refuses_what_the_loader_accepts(validator: Any, tmp_path: Path) -> None:
    root = yaml_file.read(CORPUS / "good/every_key.yml", "every_key.yml").root
    assert root is not None
    whole = root.plain()
    chance = random.Random(7)
    path = tmp_path / "workflow.yml"
    accepted = 0
    for _ in range(effort(100, 2_000)):
        changed = copy.deepcopy(whole)
        *holders, last = chance.choice(places(whole))
        holder: Any = changed
        for key in holders:
            holder = holder[key]
        holder[last] = chance.choice(ODD)
        path.write_text(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
        try:
            workflow.load(path, tmp_path)
        except WorkflowError:
            continue
        accepted += 1
        assert [error.message for error in validator.iter_errors(changed)] == []
    assert accepted > 10
