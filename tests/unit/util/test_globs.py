import random
import re
import warnings

import pytest

from loom.util import globs
from loom.util.globs import matches
from tests.support.waiting import promptly


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("*.py", "a.py", True),
        ("*.py", "x/a.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "x/y/a.py", True),
        ("docs/**", "docs/a/b.md", True),
        ("docs/", "docs/a/b.md", True),
        ("docs", "docs/a", False),
        ("src/**/test_?.py", "src/test_1.py", True),
        ("src/**/test_?.py", "src/a/b/test_12.py", False),
        ("*.{yml,yaml}", "a.yaml", True),
        ("[a-c]*.txt", "b1.txt", True),
        ("[!a-c]*.txt", "b1.txt", False),
        ("[!a]", "/", False),
        ("./a", "a", True),
        ("a+b(c).txt", "a+b(c).txt", True),
        (r"\*.py", "*.py", True),
        ("[", "[", True),
        ("{a", "{a", True),
        ("**", "a/b", True),
        ("a\nb*", "a\nbc", True),
    ],
)
def test_matches(glob: str, path: str, expected: bool) -> None:
    assert matches(glob, path) is expected


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("**/" * 12 + "zz", "/".join("abcdefghij" * 6)),
        ("**/a/" * 12 + "zz", "a/" * 60 + "f"),
        ("*a" * 12 + "b", "a" * 200),
        ("**a" * 12 + "b", "a" * 200),
        ("**/*a*a*a*a*a*/" * 3 + "zz", ("a" * 30 + "/") * 10 + "f"),
        ("*{a,b}" * 5 + "x", "a" * 200),
        ("*[a/]" * 20 + "x", "a" * 200),
        ("**/*a" * 15 + "x", "a" * 4000),
        ("*?**?" * 10 + "x", "a" * 4000),
    ],
)
def test_many_stars_take_no_time(glob: str, path: str) -> None:
    """A matcher that goes back would take years, and no signal ends it."""
    with promptly():
        assert not matches(glob, path)


def test_a_search_in_one_pass_finds_what_one_that_goes_back_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(1)
    tokens = ["*", "**", "**/", "/", "a", "b", "?", "[ab]", "[!a]", "[+-b]", "{a,", "}", ",", "a/", "*a", "b*", "***"]
    found = 0
    for number in range(800):
        glob = "".join(chosen.choice(tokens) for _ in range(chosen.randint(1, 9)))
        below = number % 2 == 0
        with warnings.catch_warnings(action="ignore"):
            both = globs.Glob(glob, below=below)
            for _ in range(8):
                path = re.sub("/+", "/", "".join(chosen.choice(["a", "b", "/", "ab"]) for _ in range(8))).strip("/")
                with monkeypatch.context() as going_back:
                    going_back.setattr(globs, "_CHEAP", 1 << 60)
                    expected = both.fullmatch(path)
                with monkeypatch.context() as in_one_pass:
                    in_one_pass.setattr(globs, "_CHEAP", 0)
                    assert both.fullmatch(path) is expected, (glob, path)
                found += expected
    assert found > 500


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("a", ["a"]),
        ("a.{js,ts}", ["a.js", "a.ts"]),
        ("{a,b{c,d}}/{,e}", ["a/", "a/e", "bc/", "bc/e", "bd/", "bd/e"]),
        ("[{a,b}]", ["[{a,b}]"]),
        (r"\{a,b}", [r"\{a,b}"]),
        ("{a,b", ["{a,b"]),
        ("{{a,b}", ["a", "b"]),
        ("{a}", ["a"]),
    ],
)
def test_braces_stand_for_each_of_their_words(glob: str, expected: list[str]) -> None:
    assert globs.expanded(glob) == expected


@pytest.mark.parametrize(
    ("glob", "reason"),
    [
        ("{a,b}" * 18, "the braces of the glob .* stand for more than 200 paths; write several globs"),
        ("{" * 18 + "a" + ",b}" * 18 + "{c,d}" * 20, "more than 200 paths"),
        ("*a" * 201, "more than 200 stars"),
        ("**a{b*,c*}" * 5, "more than 200 stars"),
        ("a" * 2001, "longer than 2000 characters"),
    ],
)
def test_a_glob_that_stands_for_too_much_is_an_error(glob: str, reason: str) -> None:
    with promptly(), pytest.raises(globs.GlobError, match=reason):
        globs.compile(glob)


def test_names_know_no_folders() -> None:
    assert globs.match_name("test*", "test.3.12")
    assert globs.match_name("*/x", "a/b/x")
    assert globs.match_name("b[0-9]", "a", "b7")
    assert not globs.match_name("test", "test.3.12", "Test")
