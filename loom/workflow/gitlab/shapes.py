"""Check a file of GitLab's against the tables of its keywords."""

from __future__ import annotations

import re

from loom.util.yaml_file import Kind, Node, mapping
from loom.workflow import shapes
from loom.workflow.gitlab import yaml
from loom.workflow.gitlab.durations import seconds
from loom.workflow.gitlab.keywords import DEFAULTS, GLOBALS, JOB, ROOT, ROOT_KEYWORDS, runner_variable
from loom.workflow.keywords import Keyword, by_name, shape_of

UNSUPPORTED = "GL_UNSUPPORTED"
_TABLE, JOB_TABLE = by_name(ROOT_KEYWORDS), by_name(JOB)
_NESTS = re.compile(r"(?:before_|after_|.*:pre_get_sources_)?script|(?:.*:)?(?:rules|needs|include)")
"""The keywords whose lists may contain lists, by which `!reference` puts several together."""


class GitLabShapes(shapes.Shapes, kw_only=True):
    code: str = yaml.CODE
    refused_code: str = UNSUPPORTED

    def nests(self, keyword: Keyword) -> bool:
        return _NESTS.fullmatch(keyword.name) is not None

    def seconds(self, text: str) -> float:
        return seconds(text)

    def root(self, root: Node) -> Node:
        """Check all but the jobs; return the root without its invalid parts."""
        found: dict[str, Node] = {}
        for key, node in root.value.items():
            if key == "default":
                value = self._default(node)
            elif key in GLOBALS:
                value = self.value(node, JOB_TABLE[key], JOB_TABLE)
            elif key in ROOT and key in _TABLE:
                value = self.value(node, _TABLE[key], _TABLE)
            else:
                value = node
            if value is not None:
                found[key] = value
        return mapping(root, found)

    def _default(self, node: Node) -> Node | None:
        if node.kind is not Kind.MAPPING:
            self.wrong(node, "default", shape_of("map"))
            return None
        allowed = {name: one for name, one in JOB_TABLE.items() if name.split(":")[0] in DEFAULTS}
        return self.fields(node, "", allowed)

    def named(self, keyword: Keyword, name: str, node: Node) -> None:
        """Refuse a name that is no text; say what becomes of a variable that GitLab's runner reads."""
        if isinstance(node.value, bool | float):
            self.say(node, f'{keyword.name}: a name is text; write it in quotes: "{node.text}"')
        if keyword.name.endswith("variables") and (known := runner_variable(name)) is not None:
            self.supported(node, known)
