"""Load the files of a workflow: the named one and its includes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from msgspec import Struct

from loom.errors import RequestError, reason_of
from loom.util import globs, yaml_file
from loom.util.paths import name_from
from loom.util.yaml_file import Kind, Node, YamlFile, one_or_more
from loom.workflow import wording
from loom.workflow.languages import GITLAB, NATIVE
from loom.workflow.loaded import content_of
from loom.workflow.messages import Problems

TEMPLATES = ".loom/templates"
MAX_FILES = 200
FIRST_ONE = """\
To draft one for what is in this project: loom init
For a file with another name: --workflow PATH"""


class WorkflowFiles(Struct):
    _root: Path
    _problems: Problems
    _seen: dict[Path, str] = {}
    found: list[YamlFile] = []
    """Included files first; unreadable ones are missing."""

    def read(self, path: Path) -> str:
        """Read the main file and its includes; return its name. RequestError when it can't be read."""
        absolute = self._root / path
        name = self._label(absolute)
        if not absolute.exists():
            hint = FIRST_ONE if name == NATIVE.default else "The path is relative to the working directory."
            for expected in (absolute, *((self._root / GITLAB.default,) if name == NATIVE.default else ())):
                if (other := expected.with_suffix(".yaml")).exists():
                    hint = f"There is {self._label(other)}: rename it to {expected.name}, or name it with --workflow"
                    break
            raise RequestError(f"{name}: workflow file not found", hint=hint, code="WF_NOT_FOUND")
        self._seen[absolute.resolve()] = name
        self._take(yaml_file.parse(content_of(absolute, self._root), name), trail=(name,), main=True)
        return name

    def _label(self, path: Path) -> str:
        return name_from(self._root, path)

    def _take(self, yaml: YamlFile, *, trail: tuple[str, ...], main: bool) -> None:
        """Add one parsed file, after the files that it includes."""
        self._problems.found += yaml.problems
        root = yaml.root
        if root is None:
            if not yaml.problems:
                way = "a workflow begins with `version: v1`" if main else "remove the include"
                self._problems.found.append(yaml.problem(None, f"the file is empty; {way}"))
        elif root.is_mapping:
            for node in one_or_more(root, "include"):
                if (local := node.get("local")) is not None:
                    self._include(local, trail)
            self.found.append(yaml)
        elif root.kind is not Kind.REFUSED:
            self._problems.say(root, wording.expected("a mapping with version, stages and jobs", root))

    def _include(self, node: Node, trail: tuple[str, ...]) -> None:
        say = partial(self._problems.say, node)
        text = node.value.strip() if isinstance(node.value, str) else ""
        if not text or text.startswith(("/", "~")) or ".." in text.split("/"):
            return None  # the shape check reports it
        if not text.startswith(f"{TEMPLATES}/"):
            return say(f"expected a file below {TEMPLATES}/, found {text}; move the file there")
        paths = [self._root / text]
        if "*" in text or "?" in text:
            if globs.problem(text) is not None:
                return None  # as above
            there = sorted(path for path in (self._root / TEMPLATES).rglob("*") if path.is_file())
            paths = [path for path in there if globs.matches(text, str(path.relative_to(self._root)))]
            if not paths:
                say(f"no file matches {text}")
        for path in paths:
            real, name = path.resolve(), self._label(path)
            if not real.is_relative_to((self._root / TEMPLATES).resolve()):
                say(f"{name} is a link to a file outside {TEMPLATES}/; put the file itself there")
            elif name in trail:
                cycle = " -> ".join((*trail[trail.index(name) :], name))
                say(f"the includes form a cycle: {cycle}; remove one")
            elif real not in self._seen:
                self._seen[real] = name
                if len(self._seen) > MAX_FILES:
                    return say(f"more than {MAX_FILES} files are included")
                try:
                    data = yaml_file.read_bytes(real, within=(self._root / TEMPLATES).resolve())
                except OSError as error:
                    say(f"{name} can't be read: {reason_of(error)}")
                else:
                    self._take(yaml_file.parse(data, name), trail=(*trail, name), main=False)
        return None
