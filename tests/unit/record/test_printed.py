"""What commands print with --json: each document has a published schema, and fits it."""

import json

import pytest
from msgspec.structs import fields

from loom.analysis.printed import BY_NAME

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
COMMANDS = {
    "check": ["check"],
    "plan": ["compile"],
    "plan-explanation": ["compile", "--explain", "a"],
    "settings": ["config", "show"],
    "trust": ["trust"],
    "snapshot-explanation": ["snapshot", "--explain", "data"],
    "snapshot": ["snapshot"],
    "artifacts": ["artifacts"],
    "cache-list": ["cache", "ls"],
    "cache-verification": ["cache", "verify"],
    "cache-removal": ["cache", "prune", "--unused-for", "300d"],
    "clean": ["clean", "--dry-run"],
}


def test_each_document_has_a_kind_and_a_version_of_its_own() -> None:
    for name in ("schema_version", "kind"):
        constants = [field.default for kind in BY_NAME.values() for field in fields(kind) if field.name == name]
        assert len(constants) == len(set(constants)) == len(BY_NAME)


@pytest.mark.slow
def test_each_command_prints_the_document_of_its_schema(make: Make) -> None:
    project = make(WORKFLOW, data="0\n")
    project.loom("run", "--local")
    for name, arguments in COMMANDS.items():
        validate(name, json.loads(project.loom(*arguments, "--json")))
    workspace = json.loads(project.loom("snapshot", "--json"))["path"]
    validate("verification", json.loads(project.loom("verify", workspace, "--json")))
