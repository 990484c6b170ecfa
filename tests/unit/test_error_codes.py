"""The page of error codes has each code that loom can print, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"
CODE = re.compile(r"[A-Z]+(_[A-Z0-9]+)*")
ALWAYS_CODES = re.compile(
    r"(?!GH_(?:HOST|TOKEN)$|CONFIG_(?:COUNT|PARAMETERS)$)(WF|GH|CONFIG|SECRETS|CLUSTER|IMAGE)_[A-Z0-9_]+"
)
"""These go through helpers by position, or by way of a table."""


def strings_in(node: ast.AST | None) -> set[str]:
    """The codes that an expression may be: a conditional expression has two."""
    if isinstance(node, ast.IfExp):
        return strings_in(node.body) | strings_in(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def names_in(node: ast.AST) -> set[str]:
    if isinstance(node, ast.IfExp):
        return names_in(node.body) | names_in(node.orelse)
    return {ast.unparse(node).rpartition(".")[2]} if isinstance(node, ast.Name | ast.Attribute) else set()


def codes() -> Iterator[str]:
    constants: dict[str, set[str]] = {}
    used: set[str] = set()
    for path in (ROOT / "loom").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg="code", value=value):
                    yield from strings_in(value)
                    used |= names_in(value)
                case ast.AnnAssign(target=ast.Name(id="code" | "default_code"), value=value):
                    yield from strings_in(value)
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    constants.setdefault(name, set()).update(strings_in(value))
                    if name in ("code", "default_code"):
                        yield from strings_in(value)
                case ast.Constant(value=str(text)) if ALWAYS_CODES.fullmatch(text):
                    yield text
    for name in used:
        yield from constants.get(name, ())


@pytest.mark.slow
def test_the_page_has_each_code_and_no_other() -> None:
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({code for code in codes() if CODE.fullmatch(code)})
