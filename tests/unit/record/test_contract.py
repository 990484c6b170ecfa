"""Whole records of real runs of every kind, held to the published schemas and to the fold."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from loom.commands.record import schema as schemas
from loom.record import derive
from loom.record.documents import Document
from loom.record.event_files import read_phases
from loom.record.fold import RunFold
from loom.record.run_paths import RunPaths
from loom.util import jsons

from .conftest import Make, Ran

PRINTED = {"runs", "diagnosis", "plan", "exec", "bisection", "repetition", "reproduction"}
"""Kinds of documents that one schema, `output`, has together."""
PUBLISHED = Path(__file__).parents[3] / "docs" / "reference" / "schemas"
_ADDED = ("job_id", "step", "section")
"""What a line of output has in a stream, beside the keys of its event."""
_VALIDATORS: dict[str, jsonschema.Draft202012Validator] = {}


def validate(name: str, value: Any) -> None:
    """Hold a document to its published schema; one without a schema has at least a version and a kind."""
    if name in PRINTED:
        assert value["kind"].removeprefix("loom-") == name
        name = "output"
    if name not in schemas.NAMES:
        assert value["schema_version"].startswith("loom.")
        assert value["kind"]
        return
    if name not in _VALIDATORS:
        schema = json.loads((PUBLISHED / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        _VALIDATORS[name] = jsonschema.Draft202012Validator(schema)
    _VALIDATORS[name].validate(value)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_the_published_schema_is_current(name: str) -> None:
    written = (PUBLISHED / f"{name}.schema.json").read_text()
    assert json.loads(written) == schemas.record_schema(name), (
        f"loom schema --record {name} > {PUBLISHED}/{name}.schema.json"
    )


def test_nothing_else_is_published() -> None:
    assert {path.name for path in PUBLISHED.iterdir()} == {f"{name}.schema.json" for name in schemas.NAMES}


def documents(fold: RunFold) -> Iterator[tuple[str, Document | dict[str, Any]]]:
    """Every document that a whole record has, with its path below `logs/<run_id>/`."""
    yield "phase-report.json", derive.phase_report(fold)
    yield "pipeline/manifest.json", derive.pipeline_manifest(fold)
    for job in fold.jobs.values():
        yield f"jobs/{job.id}/manifest.json", derive.job_manifest(fold, job.id)


def hold(paths: RunPaths, *, whole: bool = True) -> None:
    """Every file is valid, every pointer leads somewhere, and the fold gives each document's bytes again."""
    fold = RunFold()
    for event in read_phases(paths):
        fold.apply(event)
    rebuilt = {directory: jsons.encode_file(document) for directory, document in documents(fold)}
    if whole:
        receipt = derive.receipt(fold)
        diagnosed = None if receipt.status.ok else f"{receipt.logs_dir}/diagnosis.json"
        assert paths.receipt.read_bytes() == jsons.encode_file(replace(receipt, diagnosis_path=diagnosed))
        assert paths.diagnosis.exists() == (diagnosed is not None)
        validate("receipt", json.loads(paths.receipt.read_bytes()))
        assert derive.phase_report(fold)["complete"], derive.phase_report(fold)
    found = set()
    for path in paths.logs.rglob("*.json"):
        directory = str(path.relative_to(paths.logs))
        if path.name != "diagnosis.json":
            assert path.read_bytes() == rebuilt[directory], directory
        shape = json.loads(path.read_bytes())
        validate(shape["kind"], shape)
        found |= {directory} if path.name != "diagnosis.json" else set()
        for key, value in shape.items():
            if key.endswith("_path") and value is not None and whole:
                assert (paths.logs / value).exists(), (directory, key)
    if whole:
        assert found == set(rebuilt)
    seqs = []
    for path in paths.logs.rglob("events.jsonl"):
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        for line in lines:
            validate("event", line)
        own = [line["seq"] for line in lines]
        assert own == sorted(own), path
        if path.parent.parent.name in ("script", "system"):
            assert lines[0]["kind"] == "phase_started"
            assert lines[0]["job_id"] is not None
            seqs += own
    assert len(seqs) == len(set(seqs))


@pytest.mark.slow
def test_a_failed_run(failed: Ran) -> None:
    hold(failed.project.last().paths)


RUNS = {
    "passed": ("script: ['echo \"é\"', 'printf \"no end\"']", 0),
    "timed_out": ("script: [sleep 30]\n  timeout: 0.3s", 4),
    "binary": ('script: [\'printf "\\\\377\\\\n"; head -c 200000 /dev/zero | tr "\\\\0" x; exit 9\']', 1),
    "after": ("script: [exit 1]\n  after_script: [echo after]\n  before_script: [echo before]", 1),
    "service": ("image: busybox-that-is-not-there\n  script: [echo hi]", 3),
    "artifacts": ("script: [echo hi > out.txt]\n  artifacts: {paths: [out.txt, missing.txt]}", 0),
    "allowed": ("script: [exit 3]\n  allow_failure: true\n  retry: 2", 0),
}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.slow
def test_a_run_that(kind: str, make: Make) -> None:
    body, code = RUNS[kind]
    project = make(f"version: v1\nstages: [s]\na:\n  stage: s\n  {body}\n")
    output = project.loom("run", "--local", code=code, DOCKER_HOST=f"unix://{project.home}/none.sock")
    hold(project.last().paths)
    assert project.loom("show") == output
    shown = json.loads(project.loom("show", "--json"))
    validate("show", shown)
    validate("diagnosis", json.loads(project.loom("diagnose", "--json")))


def test_what_commands_print_for_machines(failed: Ran) -> None:
    loom = failed.project.loom
    validate("runs", json.loads(loom("runs", "--json")))
    validate("show", json.loads(loom("show", "--json")))
    validate("diagnosis", json.loads(loom("diagnose", "--json")))
    for line in map(json.loads, loom("logs", "--system", "--json").splitlines()):
        assert set(_ADDED) < set(line)
        validate("event", {name: line[name] for name in line if name not in _ADDED})
    diff = json.loads(loom("diff", "last", "last", "--json"))
    validate("diff", diff)
    assert diff["same"]


def test_a_run_streams_its_events(make: Make) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  script: [echo one, 'echo two >&2; exit 2']\n")
    lines = [json.loads(line) for line in project.loom("run", "--local", "--json", code=1).splitlines()]
    for line in lines[:-1]:
        validate("event", {name: line[name] for name in line if name not in _ADDED or line["kind"] != "output"})
    assert [line["seq"] for line in lines[:-1]] == list(range(1, len(lines)))
    printed = [
        (line["step"], line["stream"], line["text"]) for line in lines if line["kind"] == "output" and line["step"]
    ]
    assert printed == [("script/01", "stdout", "one"), ("script/02", "stderr", "two")]
    assert lines[-1]["kind"] == "receipt"
    assert Path(lines[-1]["receipt_path"]).exists()


def test_schemas_are_printed(failed: Ran) -> None:
    assert failed.project.loom("schema", "--record", "list").split() == list(schemas.NAMES)
    assert json.loads(failed.project.loom("schema", "--record", "receipt")) == schemas.record_schema("receipt")
    failed.project.loom("schema", "--record", "nothing", code=2)


@pytest.mark.parametrize(
    ("body", "code", "of_job"),
    [
        ("image: busybox\n  script: [x]", "ENGINE_UNAVAILABLE", None),
        ('secrets: {T: {ref: "env://NOT_SET"}}\n  script: [x]', "SECRETS_REQUIRED_MISSING", "SECRETS_REQUIRED_MISSING"),
        ("script: [exit 3]", None, None),
    ],
)
@pytest.mark.slow
def test_an_error_has_its_name(make: Make, body: str, code: str | None, of_job: str | None) -> None:
    project = make(f"version: v1\nstages: [s]\na:\n  stage: s\n  {body}\n")
    project.loom("run", "--local", "--trust", code=None, DOCKER_HOST=f"unix://{project.home}/none.sock")
    shown = json.loads(project.loom("show", "--json"))
    validate("show", shown)
    assert shown["receipt"]["error_code"] == code
    assert shown["jobs"][0]["error_code"] == of_job
    diagnosis = json.loads(project.loom("diagnose", "--json"))
    validate("diagnosis", diagnosis)
    assert diagnosis["error_code"] == code
    assert (f"error {code}: " in project.loom("diagnose", "--format", "agent")) is (code is not None)


def strict() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schema of each kind of document, by its name; events have none of their own."""
    for name in sorted(set(schemas.NAMES) - {"event"}):
        schema = schemas.record_schema(name)
        for member in schema.get("oneOf", ()):
            title = member["$ref"].removeprefix("#/$defs/")
            yield title, schema["$defs"][title]
        if "oneOf" not in schema:
            yield name, schema


@pytest.mark.parametrize(("name", "schema"), list(strict()))
def test_a_published_schema_is_strict(name: str, schema: dict[str, Any]) -> None:
    """Its version and kind are constants that must be there, nothing else may be, and numbers that count begin at 0."""
    assert schema["additionalProperties"] is False
    assert "kind" in schema["required"]
    assert "const" in schema["properties"]["kind"]
    assert "schema_version" in schema["required"]
    assert "const" in schema["properties"]["schema_version"]
    for field, shape in schema["properties"].items():
        kinds = [shape, *shape.get("anyOf", ())]
        if field.endswith("_at") or field == "ts":
            assert any(kind.get("format") == "date-time" for kind in kinds), field
        if field.endswith("_sha"):
            assert any("pattern" in kind for kind in kinds), field
        if field.endswith(("_total", "duration_ms")) or field == "seq":
            assert any("minimum" in kind for kind in kinds), field


def test_a_published_schema_refuses_what_is_no_such_document(failed: Ran) -> None:
    receipt = json.loads(failed.project.last().paths.receipt.read_bytes())
    validate("receipt", receipt)
    for change in (
        {"schema_version": "loom.receipt.v2"},
        {"kind": "receipt"},
        {"started_at": 7},
        {"duration_ms": -1},
        {"snapshot_head_sha": "main"},
        {"run_id": "last"},
        {"exit_code": "1"},
        {"unknown": True},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate("receipt", {**receipt, **change})
    for name in receipt:
        with pytest.raises(jsonschema.ValidationError):
            validate("receipt", {key: value for key, value in receipt.items() if key != name})
