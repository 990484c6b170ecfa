"""Load the files of a workflow: the named one and its includes."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from loom.errors import RequestError
from loom.util import globs, yaml_file
from loom.util.paths import name_from
from loom.util.units import meant
from loom.util.yaml_file import Kind, Node, YamlFile, one_or_more, pointer
from loom.workflow.messages import Problems
from loom.workflow.native import wording

TEMPLATES = ".loom/templates"
MAX_FILES = 200
FIRST_ONE = """\
Write one, or name another file with --workflow PATH. The smallest:
    version: v1
    stages: [test]
    hello:
      stage: test
      image: debian:trixie-slim
      script:
        - echo hello"""


class File(Struct, kw_only=True):
    yaml: YamlFile
    root: Node
    main: bool


class WorkflowFiles:
    def __init__(self, root: Path, problems: Problems) -> None:
        self._root = root
        self._problems = problems
        self._seen: dict[Path, str] = {}
        self.found: list[File] = []
        """Included files first; unreadable ones are missing."""

    def read(self, path: Path) -> str:
        """Read the main file and its includes; return its name. RequestError when it can't be read."""
        absolute = path if path.is_absolute() else self._root / path
        name = self._label(absolute)
        try:
            yaml = yaml_file.read(absolute, name, within=self._root)
        except FileNotFoundError as error:
            other = absolute.with_suffix(".yaml")
            raise RequestError(
                f"{name}: workflow file not found",
                hint=f"There is {self._label(other)}; rename it."
                if other.exists()
                else FIRST_ONE
                if name == ".loom/workflow.yml"
                else "The path is relative to the working directory.",
                code="WF_NOT_FOUND",
            ) from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RequestError(f"{name}: the workflow file can't be read: {reason}", code="WF_NOT_FOUND") from error
        self._seen[absolute.resolve()] = name
        self._take(yaml, trail=(name,), main=True)
        return name

    def _label(self, path: Path) -> str:
        return name_from(self._root, path)

    def _take(self, yaml: YamlFile, *, trail: tuple[str, ...], main: bool) -> None:
        """Add one parsed file, after the files that it includes."""
        self._problems.found += yaml.problems
        if yaml.root is None:
            if not yaml.problems:
                empty = (
                    "the file is empty; a workflow begins with `version: v1`"
                    if main
                    else "the file is empty; remove the include"
                )
                self._problems.found.append(yaml.problem(None, "/", empty))
            return
        if yaml.root.kind is not Kind.MAPPING:
            if yaml.root.kind is not Kind.REFUSED:
                self._problems.say(
                    yaml.root,
                    "/",
                    f"expected a mapping with version, stages and jobs, found {wording.describe(yaml.root)}",
                )
            return
        for number, node in enumerate(one_or_more(yaml.root.get("include"))):
            local = node.get("local")
            if local is not None:
                self._include(local, pointer("include", number, "local"), trail)
        self.found.append(File(yaml=yaml, root=yaml.root, main=main))

    def _include(self, node: Node, at: str, trail: tuple[str, ...]) -> None:
        if not isinstance(node.value, str):
            return  # the shape check reports the rest
        folder = (self._root / TEMPLATES).resolve()
        text = node.value.strip()
        if text.startswith(("/", "~")) or ".." in text.split("/"):
            return  # the shape check reports it
        if not text.startswith(f"{TEMPLATES}/"):
            self._problems.say(node, at, f"expected a file below {TEMPLATES}/, found {text}; move the file there")
            return
        if "*" in text or "?" in text:
            if (wrong := globs.problem(text)) is not None:
                self._problems.say(node, at, wrong)
                return
            paths = sorted(
                path
                for path in (self._root / TEMPLATES).rglob("*")
                if globs.matches(text, str(path.relative_to(self._root))) and path.is_file()
            )
            if not paths:
                self._problems.say(node, at, f"no file matches {text}")
        else:
            paths = [self._root / text]
        for path in paths:
            real = path.resolve()
            name = self._label(path)
            if not real.is_relative_to(folder):
                self._problems.say(
                    node, at, f"{name} is a link to a file outside {TEMPLATES}/; put the file itself there"
                )
            elif name in trail:
                cycle = " -> ".join((*trail[trail.index(name) :], name))
                self._problems.say(node, at, f"the includes form a cycle: {cycle}; remove one")
            elif real not in self._seen:
                self._seen[real] = name
                if len(self._seen) > MAX_FILES:
                    self._problems.say(node, at, f"more than {MAX_FILES} files are included")
                    return
                try:
                    included = yaml_file.parse(yaml_file.read_bytes(real, within=folder), name)
                except OSError as error:
                    self._problems.say(
                        node,
                        at,
                        f"{name} can't be read: {(error.strerror or str(error)).lower()}{self._other_file(name)}",
                    )
                    continue
                self._take(included, trail=(*trail, name), main=False)

    def _other_file(self, name: str) -> str:
        folder = self._root / TEMPLATES
        known = (
            [self._label(path) for path in folder.rglob("*") if path.suffix in (".yml", ".yaml")][:1000]
            if folder.is_dir()
            else []
        )
        return meant(name, known)
