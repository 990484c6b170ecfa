"""Check a file of GitLab's against the tables of its keywords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from loom.util.yaml_file import Node
from loom.workflow import shapes
from loom.workflow.gitlab import limits, yaml
from loom.workflow.gitlab.durations import seconds
from loom.workflow.gitlab.keywords import DEFAULTS, GLOBALS, JOB, ROOT_KEYWORDS, runner_variable
from loom.workflow.keywords import Keyword, Shape, tabled
from loom.workflow.words import WrongType

UNSUPPORTED = "GL_UNSUPPORTED"
JOB_TABLE, _ROOT = tabled(JOB), tabled(ROOT_KEYWORDS)
_TABLE = {
    **JOB_TABLE,
    **_ROOT,
    "": {**_ROOT[""], **{name: JOB_TABLE[""][name] for name in GLOBALS}},
    "default": {name: JOB_TABLE[""][name] for name in DEFAULTS},
}
_NESTS = re.compile(r"(?:before_|after_|.*:pre_get_sources_)?script|(?:.*:)?(?:rules|needs|include)")
"""The keywords whose lists may contain lists, by which `!reference` puts several together."""


def _duration(value: Any) -> Any:
    try:
        if isinstance(value, str) and seconds(value) > 0:
            return value
    except ValueError:
        pass
    raise WrongType("a duration such as 1h 30m")


class GitLabShapes(shapes.Shapes, kw_only=True):
    parsers: ClassVar[Mapping[str, shapes.Parser]] = {
        **shapes.PARSERS,
        "alphanumeric": shapes.type_parser("text or a whole number", str, int),
        "duration": _duration,
    }
    code: str = yaml.CODE
    refused_code: str = UNSUPPORTED

    def nests(self, keyword: Keyword) -> bool:
        return _NESTS.fullmatch(keyword.name) is not None

    def formed(self, value: Node, node: Node, shape: Shape, keyword: Keyword) -> Node:
        """Report what GitLab refuses in a value whose shape is right."""
        name = keyword.name.replace("workflow:rules", "rules")
        each = limits.LIMITS.get(name, ()) if not node.is_list else ()
        whole = limits.LIMITS.get(f"{name}[]", ()) if shape.items is not None else ()
        for why in filter(None, (check(value) for check in (*each, *whole))):
            self.say(value, f"{name.removesuffix(':NAME').removeprefix('workflow:')}: {why}")
        return value

    def root(self, root: Node) -> Node:
        """Check all but the jobs; return the root without its invalid parts."""
        found: dict[str, Node] = {}
        for key, node in root.value.items():
            keyword = _TABLE[""].get(key)
            if (value := node if keyword is None else self.value(node, keyword, _TABLE)) is not None:
                found[key] = value
        return root.having(found)

    def named(self, keyword: Keyword, name: str, node: Node) -> bool:
        """Refuse a name that is no text; say what becomes of a variable that GitLab's runner reads."""
        if isinstance(node.value, bool | float):
            self.say(node, f'{keyword.name}: a name is text; write it in quotes: "{node.text}"')
        if keyword.name.endswith("variables") and (known := runner_variable(name)) is not None:
            self.supported(node, known)
        return True
