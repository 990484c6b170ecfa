"""A stranger's pattern, glob or expansion costs a bounded time and amount of memory, and says so where it is written."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.runner.own_output import Coverage
from loom.workflow import patterns
from loom.workflow.patterns import Pattern, PatternError, Search, SearchError, pattern_of
from tests.support.waiting import promptly

from .conftest import Victim

LOOM = Path(__file__).parents[2] / "loom"
SEARCHES = {"compile", "search", "match", "fullmatch", "findall", "finditer", "sub", "subn", "split", "template"}
BUILT = {
    ("analysis/ending.py", "name"): "a name of the script, escaped",
    ("analysis/ending.py", "pattern"): "a table of loom",
    ("analysis/formats.py", "text"): "data of loom",
    ("analysis/readings.py", "table text"): "data of loom",
    ("commands/plan/init.py", "expression"): "data of loom",
    ("snapshot/bundles.py", "id_bytes"): "20 or 32",
    ("plan/candidates.py", "name"): "a name in a table of loom",
    ("plan/reported.py", ""): "a table of loom",
    ("providers/docker/images/registry.py", "pattern"): "a table of loom",
    ("providers/driver/endings.py", "last"): "a word of the script, escaped",
    ("providers/kubernetes/cluster/client.py", "pattern"): "a table of loom",
    ("providers/kubernetes/pod/spec.py", "label"): "a constant",
    ("snapshot/line_endings.py", "unlike"): "constants",
    ("snapshot/manifest.py", "pattern"): "two constants",
    ("util/controls.py", "c1 escape in_ascii"): "constants",
    ("util/extras.py", "extra"): "an extra of loom's",
    ("util/globs.py", "end glob re"): "a text that is escaped",
    ("util/globs.py", "end written"): "not searched where it could go back often",
    ("util/globs.py", "part"): "one character",
    ("util/globs.py", "text"): "three constants",
    ("workflow/gitlab/predefined.py", "pattern"): "a table of loom",
    ("workflow/native/lint.py", "node"): "a number",
    ("workflow/patterns.py", "pattern"): "searched with a limit",
    ("workflow/patterns.py", "source"): "checked here, and searched with a limit",
    ("workflow/native/values.py", "pattern"): "constants",
}
"""Patterns that are no literals, by the names in them: each with the reason why nobody else wrote one that takes long."""


def built_patterns() -> Iterator[tuple[str, str]]:
    for path in LOOM.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if re.search(r"\b(?:re|regex)\.", text) else ():
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="re" | "regex"), attr=name), args=[first, *_]) if (
                    name in SEARCHES and not is_literal(first)
                ):
                    names = {leaf.id for leaf in ast.walk(first) if isinstance(leaf, ast.Name) and not is_literal(leaf)}
                    yield str(path.relative_to(LOOM)), " ".join(sorted(names))


def is_literal(node: ast.expr) -> bool:
    """A constant, made of constants (by their names, in capitals), or of texts that are escaped."""
    match node:
        case ast.Constant():
            return True
        case ast.Tuple(elts=values):
            return all(map(is_literal, values))
        case ast.BinOp(left=left, right=right):
            return is_literal(left) and is_literal(right)
        case ast.JoinedStr(values=values):
            return all(map(is_literal, values))
        case ast.FormattedValue(value=value) | ast.Subscript(value=value):
            return is_literal(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == name.upper()
        case ast.Call(func=ast.Attribute(attr="escape")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Constant() | ast.Name(), attr="join"), args=[argument]):
            return is_literal(argument) or ast.unparse(argument).endswith(".split()")
        case _:
            return False


@pytest.mark.slow
def test_no_pattern_of_somebody_else_is_searched_without_a_limit() -> None:
    found = set(built_patterns())
    assert found - BUILT.keys() == set(), "search it by loom.workflow.patterns"
    imports = [str(path.relative_to(LOOM)) for path in LOOM.rglob("*.py") if "import regex" in path.read_text()]
    assert imports == ["workflow/patterns.py"]
    assert not [path for path in LOOM.rglob("*.py") if "from re import" in path.read_text()]


@pytest.mark.slow
def test_a_search_ends_and_all_searches_of_one_pattern_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAX_SEARCH_S", 0.02)
    slow = Search(pattern_of("(x+x+)+y"), most_s=0.05)
    line = "x" * 2000
    with promptly():
        with pytest.raises(SearchError, match=r"took longer than 0\.02 s"):
            slow.first_in(line)
        for text in (line, "x"):
            with pytest.raises(SearchError, match=r"took longer than 0\.05 s in all"):
                slow.first_in(text)
    with pytest.raises(SearchError, match=r"^/\(/ is not a valid pattern: "):
        Search(Pattern(written="/(/", source="(", flags=0))
    quick = Search(pattern_of("x$"), most_s=0.01)
    assert all(quick.first_in(line[:20]) for _ in range(10_000))


@pytest.mark.parametrize(
    "source",
    [
        "(?:a?){99999999}",
        "(?:(?:(?:a|bc){60}){60}){60}",
        "x{1000000}",
        "(?x)(?:(?:(?:a|bc) {60}) {60}) {60}",
        "(?:(?:(?:a|bc)(?#){60})(?#){60}){60}",
        "x{9}{999}{999}",
        f"x{{{'9' * 900}}}",
    ],
)
def test_a_pattern_that_takes_long_to_compile_is_refused(source: str) -> None:
    for check in (pattern_of, lambda text: pattern_of(text, wider=True)):
        with promptly(), pytest.raises(PatternError, match=r"the counts in braces repeat more than|multiple repeat"):
            check(source)


def test_counts_as_people_write_them() -> None:
    digest = "-".join(f"[0-9a-f]{{{count}}}" for count in (8, 4, 4, 4, 12))
    for source in (
        f"^{digest} {digest} [0-9a-f]{{64}}$",
        r"(?:\d{1,3}\.){3}\d+",
        r"^.{0,5000}$",
        r"(?:[a-z]{2}:){5,}",
        r"\{\d{4}\}",
    ):
        assert pattern_of(source).source == source


def test_a_coverage_pattern_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAX_SEARCH_S", 0.02)
    coverage = Coverage("(x+x+)+y|([0-9]+)%")
    write = coverage.watching(lambda stream, data: None)
    with promptly():
        write("stdout", b"50%\n" + b"x" * 2000 + b"\n" + b"60%\n")
        coverage.end()
    assert coverage.percent is None
    assert coverage.problem is not None
    assert coverage.problem.startswith("the search for (x+x+)+y|([0-9]+)% in a value of 2000 characters took longer")


@pytest.mark.slow
def test_a_coverage_that_never_ends_lets_the_run_end(victim: Victim) -> None:
    victim.configure("container: false\n")
    (victim.root / ".loom/workflow.yml").unlink()
    script = 'python3 -c "print(chr(120) * 2000)"'
    (victim.root / ".gitlab-ci.yml").write_text(f"j: {{script: ['{script}'], coverage: '/(x+x+)+y/'}}\n")
    victim.git("add", "-A")
    victim.git("commit", "-q", "-m", "a change")
    done = victim.loom("run")
    assert done.returncode == 0, done
    assert "coverage: not known: the search for" in done.stdout + done.stderr


BRACES = "{a,b}" * 18
TEXT = "x" * 900_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"j: {{script: x, artifacts: {{paths: ['{BRACES}']}}}}", "/j/artifacts/paths/0: the braces of the glob"),
        (f"j: {{script: x, cache: {{paths: ['{BRACES}']}}}}", "/j/cache/paths/0: the braces of the glob"),
        (f"j: {{script: x, rules: [{{exists: ['{BRACES}']}}]}}", "/j/rules/0: rules: the braces of the glob"),
        (f"j: {{script: x, only: {{changes: ['{BRACES}']}}}}", "only:changes: the braces of the glob"),
        (f"include: '{'**a' * 101}.yml'\nj: {{script: x}}", "more than 200 stars"),
        (
            f"spec: {{inputs: {{a: {{default: {TEXT}}}}}}}\n---\nj: {{script: [{', '.join(['$[[ inputs.a ]]'] * 9000)}]}}",
            "with its inputs, .gitlab-ci.yml is larger than",
        ),
        (
            f"variables: {{V: {TEXT}}}\nj: {{script: x, environment: '{'$V' * 200_000}'}}",
            "the expanded value exceeds 1024 KiB",
        ),
        ("j: {script: x, parallel: 100000000}", "GitLab makes 1 to 200 instances"),
    ],
)
def test_what_stands_for_too_much_is_an_error_with_its_position(victim: Victim, text: str, said: str) -> None:
    (victim.root / ".loom/workflow.yml").unlink()
    (victim.root / ".gitlab-ci.yml").write_text(text)
    (victim.root / ("a" * 200)).write_text("")
    victim.git("add", "-A")
    victim.git("commit", "-q", "-m", "a change")
    with promptly():
        done = victim.loom("compile" if "only:" in text else "check")
    assert done.returncode == 2, done.stderr[:500]
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("key", ["artifacts: {paths: [G]}", "rules: [{changes: [G]}]", "rules: [{exists: [G]}]"])
def test_looms_own_language_refuses_the_same(victim: Victim, key: str) -> None:
    victim.write(workflow=f"version: v1\nstages: [t]\nj: {{stage: t, script: x, {key.replace('G', repr(BRACES))}}}\n")
    done = victim.loom("check")
    assert done.returncode == 2
    assert ".loom/workflow.yml:3:" in done.stdout + done.stderr
    assert "stand for more than 200 paths; write several globs" in done.stdout + done.stderr
