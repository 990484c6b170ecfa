"""Values that functions pass on do not change, and are made with names; the others are known."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from msgspec import Struct

import loom.plan
import loom.runner
import loom.snapshot
import loom.storage
import loom.workflow

CHANGE = {
    *("Candidate", "EntryCandidate", "GitHubCandidate", "JobCandidate", "WorkflowScope", "ContainerOptions"),
    *("Shapes", "GitHubShapes", "GitLabShapes", "Problems", "File"),
    *(
        "_Copied",
        "_Draft",
        "_Packed",
        "_Scope",
        "RunStart",
        "New",
        "Index",
        "IndexEdits",
        "Applied",
        "Observed",
        "Filled",
        "KnownFiles",
        "EntryWriter",
    ),
}
"""They are filled as somebody works on them."""
WITHOUT_NAMES = {
    *("Literal", "Context", "Property", "Wildcard", "Call", "Negation", "Binary", "Part", "NotSet"),
    *("Key", "Keyword", "Shape", "Type", "Withheld", "Ref", "ArtifactFile", "TarEntry", "Problems"),
    *("New", "Index", "IndexEdits", "Applied", "Filled", "KnownFiles"),
    *("_Free", "_Packed", "_Part", "_Piece", "_Waiting"),
}
"""Rows of tables, nodes of trees, and those of few fields."""


def structs() -> Iterator[type[Struct]]:
    for package in (loom.plan, loom.runner, loom.snapshot, loom.storage, loom.workflow):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for one in vars(importlib.import_module(module.name)).values():
                if isinstance(one, type) and issubclass(one, Struct) and one.__module__ == module.name:
                    yield one


def test_values_do_not_change_and_are_made_with_names() -> None:
    found = [one for one in structs() if one.__module__ != "loom.storage.findings" or not one.__name__.startswith("_")]
    assert {one.__name__ for one in found if not one.__struct_config__.frozen} == CHANGE
    assert {one.__name__ for one in found if one.__match_args__} == WITHOUT_NAMES
