"""Load a workflow in any language. Nothing after the plan asks which language it was."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from loom.errors import RequestError
from loom.util import yaml_file
from loom.util.budget import limited
from loom.util.paths import name_from
from loom.workflow.facts import Facts
from loom.workflow.languages import LANGUAGES, NATIVE, Language
from loom.workflow.loaded import Loaded, LoadOutcome
from loom.workflow.messages import refused


class Loader(Protocol):
    """The module `loader` in the folder of a language."""

    def examine(self, path: Path, root: Path, facts: Callable[[], Facts]) -> LoadOutcome:
        """Read, merge and check; all findings are in the result. RequestError for a missing file."""


def load(path: Path, root: Path, facts: Callable[[], Facts], *, like: Path | None = None) -> Loaded:
    """Read, merge and check. RequestError for a missing file, WorkflowError with every problem otherwise.

    `facts` is only asked where what a file includes depends on them. `like`: another file, whose language this one has.
    """
    examined = examine(path, root, facts, like=like)
    if examined.rest is not None:
        return examined.rest
    if examined.problems or examined.workflow is None:
        raise refused(examined.problems)
    return examined.workflow


def examine(path: Path, root: Path, facts: Callable[[], Facts], *, like: Path | None = None) -> LoadOutcome:
    """Load and return all findings instead of raising WorkflowError; RequestError is still raised. `like`: see `load`."""
    language = language_of(like or path, root)
    with limited():
        return cast(Loader, import_module(f"loom.workflow.{language.name}.loader")).examine(path, root, facts)


def refuse_inputs(inputs: Collection[str], path: Path, root: Path) -> None:
    """Raise RequestError for inputs of a workflow in a language that has none."""
    if inputs and not language_of(path, root).has_inputs:
        raise RequestError(
            f"--input: {name_from(root, path)} is in loom's own language, which has no inputs",
            hint="set a variable: --var NAME=value; or name a .gitlab-ci.yml with --workflow",
        )


def language_of(path: Path, root: Path) -> Language:
    """Return a file's language by its path, else by its keys. For a file that can't be read, loom's own, which reports it."""
    absolute = root / path
    name = absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else absolute.as_posix()
    for language in LANGUAGES:
        if language.named.search(name):
            return language if absolute.exists() else NATIVE
    try:
        data = yaml_file.read_bytes(absolute)
    except OSError:
        return NATIVE
    for language in LANGUAGES:
        has, lacks = language.keys, language.foreign_keys
        if has is not None and has.search(data) and not (lacks is not None and lacks.search(data)):
            return language
    return NATIVE
