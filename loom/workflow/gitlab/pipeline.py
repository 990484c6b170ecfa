"""A checked `.gitlab-ci.yml`: files merged, references and `extends` resolved, nothing decided about rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from loom.util.yaml_file import Node
from loom.workflow import loaded
from loom.workflow.loaded import LoadedWorkflow


class Entry(loaded.Entry):
    @property
    def stage(self) -> str:
        stage = self.merged.get("stage")
        return stage.value if stage is not None and isinstance(stage.value, str) else "test"


class Pipeline(LoadedWorkflow[Entry]):
    """The whole file. Values are nodes whose shapes are checked; `stages` have `.pre` and `.post`."""

    language: ClassVar[str] = "gitlab"

    root: Node
    undecided: Mapping[str, tuple[str, ...]] = {}
    """The includes that are left out by variables that only the server knows, with these."""
