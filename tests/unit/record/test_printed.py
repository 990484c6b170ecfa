"""What commands print with --json: each document has a kind and a version of its own."""

import json

import pytest

from .conftest import Make
from .test_contract import validate

WORKFLOW = """\
version: v1
stages: [s]
a:
  stage: s
  script: [echo x > out]
  artifacts: {paths: [out]}
  cache: {key: k, paths: [out]}
"""
COMMANDS = (
    "check",
    "compile",
    "compile --explain a",
    "config show",
    "trust",
    "snapshot --explain data",
    "snapshot",
    "artifacts",
    "cache ls",
    "clean --dry-run",
    "version",
)


@pytest.mark.slow
def test_each_document_has_a_kind_and_a_version_of_its_own(make: Make) -> None:
    project = make(WORKFLOW, data="0\n")
    project.loom("run", "--local")
    documents = {command: json.loads(project.loom(*command.split(), "--json")) for command in COMMANDS}
    documents["verify"] = json.loads(project.loom("verify", documents["snapshot"]["path"], "--json"))
    validate("plan", documents["compile"])
    for name in ("schema_version", "kind"):
        assert len({document[name] for document in documents.values()}) == len(documents)
        assert all(list(document)[:2] == ["schema_version", "kind"] for document in documents.values())
