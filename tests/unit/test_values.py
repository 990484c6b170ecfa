"""Values that functions pass on do not change, and are made with names; the others are known."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import FunctionType, ModuleType

from msgspec import NODEFAULT, Struct

import loom.plan
import loom.runner
import loom.snapshot
import loom.storage
import loom.workflow
from loom.snapshot import copy_files, copy_workers

CHANGE = {
    *("Candidate", "EntryCandidate", "GitHubCandidate", "JobCandidate", "WorkflowScope", "ContainerOptions"),
    *("Shapes", "Checker", "GitHubShapes", "GitLabShapes", "Problems", "Schedule", "JobRunner", "Waits"),
    *(
        "_Draft",
        "_Scope",
        "RunStart",
        "New",
        "Index",
        "IndexEdits",
        "Applied",
        "Observed",
        "Filled",
        "KnownFiles",
        "Totals",
    ),
}
"""They are filled as somebody works on them."""
WITHOUT_NAMES = {
    *("Literal", "Context", "Call", "Operation", "Part", "NotSet"),
    *("Keyword", "Shape", "Type", "Withheld", "TarEntry"),
    *("New", "Index", "IndexEdits", "Applied", "Filled", "KnownFiles"),
    *("_Part", "_Piece"),
}
"""Rows of tables, nodes of trees, and those of few fields."""

CONFIGURED = {
    "Locked": {"omit_defaults", "forbid_unknown_fields"},
    "Plan": {"dict"},
    "Schedule": {"eq", "dict"},
    "JobRunner": {"eq"},
    "Waits": {"eq"},
    "Scope": {"dict"},
    "Client": {"eq"},
    "Type": {"eq"},
}
"""All others are compared field by field, take unknown fields, and are written with their defaults."""

GIVEN_BY_NOBODY: dict[str, object] = {
    "ActionFile.pre_if": "always()",
    "ActionFile.post_if": "always()",
    "ContainerOptions.health_interval_s": 1.0,
    "LateNeed.result": "success",
    "LateJob.fail_fast": True,
    "LateStep.stage": "main",
    "Build.context": ".",
    "Build.dockerfile": "Dockerfile",
    "Image.pull": "missing",
    "Need.artifacts": True,
    "Retry.when": frozenset({"always"}),
    "Ready.interval_s": 1.0,
    "Ready.timeout_s": 60.0,
    "Service.needed": True,
    "Artifacts.when": "on_success",
    "Cache.key": "default",
    "Cache.policy": "pull-push",
    "Cache.when": "on_success",
    "Job.target": "linux",
    "Job.shell": ("auto",),
    "Job.when": "on_success",
    "JobSelection.on": "docker",
    "ProjectOrigin.protocol": "https",
    "ProjectOrigin.port": "443",
    "ProjectOrigin.ssh_port": "22",
    "Trace.number": 1,
    "Resumption.number": 1,
    "Checkout.clean": True,
    "Start.status": "success",
    "_Scope.status": "success",
    "Nested.directory": True,
    "KnownFiles.plain": True,
    "Stored.schema": 2,
    "_Issue.type": "issue",
    "_Suppression.status": "accepted",
    "_RuleReference.index": -1,
    "_Result.ruleIndex": -1,
    "_Result.kind": "fail",
    "_Default.level": "warning",
    "Checker.code": "WF_SCHEMA_V1",
    "Checker.idle_code": "GL_NO_EFFECT",
    "Checker._left": 500_000,
    "Checker._comparisons": 50_000,
    "GitHubShapes.code": "GH_INVALID",
    "GitHubShapes.refused_code": "GH_UNSUPPORTED",
    "GitHubShapes.idle_code": "GH_NO_EFFECT",
    "GitHubShapes._left": 500_000,
    "GitHubShapes._comparisons": 50_000,
    "GitLabShapes.code": "GL_INVALID",
    "GitLabShapes.refused_code": "GL_UNSUPPORTED",
    "GitLabShapes.idle_code": "GL_NO_EFFECT",
    "GitLabShapes._left": 500_000,
    "GitLabShapes._comparisons": 50_000,
    "Shapes.idle_code": "GL_NO_EFFECT",
    "Shapes.code": "WF_SCHEMA_V1",
    "Shapes._left": 500_000,
    "Shapes._comparisons": 50_000,
    "Variable.expand": True,
    "Keyword.support": "same",
    "Problems.code": "WF_SCHEMA_V1",
    "Problems._comparisons": 50_000,
    "WantedNeed.artifacts": True,
    "WantedNeed.always": True,
}
"""A field that nobody gives is empty, zero or false, but for these."""

CONSTANTS = Path(__file__).with_name("constants.txt")
KINDS = (str, int, float, tuple, list, frozenset, set, Mapping, re.Pattern)
PASSED_BY_NOBODY: dict[str, object] = {
    "candidates.GitHubCandidates._jobs.depth": 1,
    "jobs.GitLabJobBuilder.say.severity": "error",
    "jobs.GitLabJobBuilder.say.code": "GL_INVALID",
    "image_lock.decode_lock.path": ".loom/images.lock",
    "selection.Choice.__init__.code": "WF_SCHEMA_V1",
    "variables.for_run.event": "push",
    "attempt.Attempt.fact.code": "pipeline.execute",
    "job.JobRunner.skip.status": "skipped",
    "steps.LateSteps._invalid.kind": "Error",
    "git.Running.result.check": True,
    "model.path_fields.name": "path",
    "model.Snapshot.document.changes": 100,
    "source.discover.commit": True,
    "junit.read.project_dir": "/workspace",
    "reports.short.most": 500,
    "tar.packed.owner": (0, 0),
    "tar._parts.owner": (0, 0),
    "tar._block.owner": (0, 0),
    "tar._number.digits": 11,
    "tar.Content.read.size": -1,
    "tar._Reader.read.size": -1,
    "tar.CheckedStream.read.size": -1,
    "zips._Whole.read.size": -1,
    "expressions._join.separator": ",",
    "yaml.parse.most": 2,
    "job_ids.id_part.limit": 64,
    "patterns.Search.__init__.most_s": 10.0,
    "predefined._not_set.source": "*",
}
"""A parameter that nobody passes is empty, zero or false, but for these."""


def structs() -> Iterator[type[Struct]]:
    for package in (loom.plan, loom.runner, loom.snapshot, loom.storage, loom.workflow):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for one in vars(importlib.import_module(module.name)).values():
                if isinstance(one, type) and issubclass(one, Struct) and one.__module__ == module.name:
                    yield one


def shown(value: object) -> str:
    """Return a value as text, the same in each process."""
    if isinstance(value, Enum):
        return shown(value.value)
    if isinstance(value, frozenset | set):
        return "{" + ", ".join(sorted(map(shown, value))) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(name)}: {shown(one)}" for name, one in value.items()) + "}"
    if isinstance(value, re.Pattern):
        return f"{value.pattern!r} {value.flags}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(shown, value)) + ")"
    if isinstance(value, Struct):
        fields = (shown(getattr(value, name)) for name in value.__struct_fields__)
        return f"{type(value).__name__}({', '.join(fields)})"
    if callable(value):
        return getattr(value, "__qualname__", "")
    return "'...'" if isinstance(value, str) and len(value) > 40 and " " in value else repr(value)


def known(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield the numbers, words and patterns of a module, and lists and mappings of them that are not long."""
    for node in ast.parse(Path(str(module.__file__)).read_text()).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for name in (target.id for target in targets if isinstance(target, ast.Name)):
            value = vars(module).get(name)
            rows = isinstance(value, tuple) and any(isinstance(one, Struct) for one in value)
            if isinstance(value, KINDS) and len(text := shown(value)) <= (80 if rows else 1000):
                yield f"{module.__name__}.{name}", text


def test_constants_are_known() -> None:
    """`LOOM_TEST_ACCEPT=1 pytest tests/unit/test_values.py` writes the list again. Constants that are added or removed need no change of it."""
    packages = (loom.plan, loom.runner, loom.storage, loom.workflow)
    modules = [
        copy_files,
        copy_workers,
        *(
            importlib.import_module(module.name)
            for package in packages
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ),
    ]
    found = dict(each for module in modules for each in known(module))
    if "LOOM_TEST_ACCEPT" in os.environ:
        CONSTANTS.write_text("".join(f"{name} = {text}\n" for name, text in found.items()))
    listed = dict(line.split(" = ", 1) for line in CONSTANTS.read_text().splitlines())
    assert {name: found.get(name, text) for name, text in listed.items()} == listed


def functions() -> Iterator[tuple[str, FunctionType]]:
    for package in (loom.plan, loom.runner, loom.snapshot, loom.storage, loom.workflow):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            known = vars(importlib.import_module(module.name)).values()
            classes = [one for one in known if isinstance(one, type) and one.__module__ == module.name]
            for one in (*known, *(each for kind in classes for each in vars(kind).values())):
                function = (
                    inspect.unwrap(getattr(one, "__func__", one)) if callable(one) or hasattr(one, "__func__") else None
                )
                if isinstance(function, FunctionType) and function.__module__ == module.name:
                    yield f"{module.name.rpartition('.')[2]}.{function.__qualname__}", function


def test_values_do_not_change_and_are_made_with_names() -> None:
    found = [one for one in structs() if one.__module__ != "loom.storage.findings" or not one.__name__.startswith("_")]
    assert {one.__name__ for one in found if not one.__struct_config__.frozen} == CHANGE
    assert {one.__name__ for one in found if one.__match_args__} == WITHOUT_NAMES
    usual = {"eq": True, "omit_defaults": False, "forbid_unknown_fields": False, "dict": False}
    changed = {
        one.__name__: {name for name, value in usual.items() if getattr(one.__struct_config__, name) is not value}
        for one in found
    }
    assert {name: flags for name, flags in changed.items() if flags} == CONFIGURED


def test_what_nobody_gives_is_empty_but_for_what_is_listed() -> None:
    found: dict[str, object] = {}
    for one in structs():
        with_default = one.__struct_fields__[-len(one.__struct_defaults__) :] if one.__struct_defaults__ else ()
        for name, value in zip(with_default, one.__struct_defaults__, strict=True):
            if value is not NODEFAULT and isinstance(value, str | int | float | tuple | frozenset) and value:
                found[f"{one.__name__}.{name}"] = value
    assert found == GIVEN_BY_NOBODY


def test_what_nobody_passes_is_empty_but_for_what_is_listed() -> None:
    found: dict[str, object] = {}
    for name, function in functions():
        for parameter in inspect.signature(function).parameters.values():
            value = parameter.default
            if value is not parameter.empty and isinstance(value, str | int | float | tuple | frozenset) and value:
                found[f"{name}.{parameter.name}"] = value
    assert found == PASSED_BY_NOBODY
