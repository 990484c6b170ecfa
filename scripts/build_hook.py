"""What a wheel and an archive of the sources know besides their files: the commit that they are built from."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Adds `loom/commit.txt`, from which `loom --version` reads the commit; an editable install reads the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        from loom.util.commits import BUILT_FROM, commit_of

        package = Path(self.root, "loom")
        commit = commit_of(package)
        if version == "editable" or commit is None or (package / BUILT_FROM).exists():  # of an archive of the sources
            return
        with NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
            file.write(f"{commit}\n")
            Path(file.name).chmod(0o644)
        self.written = Path(file.name)
        build_data["force_include"][file.name] = f"loom/{BUILT_FROM}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if (written := getattr(self, "written", None)) is not None:
            written.unlink()
