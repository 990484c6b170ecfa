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
    ],
)
def test_many_stars_take_no_time(glob: str, path: str) -> None:
    """A matcher that goes back would take years, and no signal ends it."""
    with promptly():
        assert not matches(glob, path)


def test_stars_that_never_go_back_find_what_others_find() -> None:
    chosen = random.Random(1)
    tokens = ["*", "**", "**/", "/", "a", "b", "?", "[ab]", "[!a]", "[+-b]", "{a,", "}", ",", "a/", "*a", "b*", "***"]
    found = 0
    for _ in range(4000):
        glob = "".join(chosen.choice(tokens) for _ in range(chosen.randint(1, 9))).rstrip("/")
        with warnings.catch_warnings(action="ignore"):
            plain = re.compile("".join(globs._STARS.get(part, part) for part in globs._parts(glob)), re.DOTALL)
            for _ in range(8):
                path = re.sub("/+", "/", "".join(chosen.choice(["a", "b", "/", "ab"]) for _ in range(8))).strip("/")
                expected = plain.fullmatch(path) is not None
                found += expected
                assert (globs.compile(glob).fullmatch(path) is not None) is expected, (glob, path)
    assert found > 500


def test_names_know_no_folders() -> None:
    assert globs.match_name("test*", "test.3.12")
    assert globs.match_name("*/x", "a/b/x")
    assert globs.match_name("b[0-9]", "a", "b7")
    assert not globs.match_name("test", "test.3.12", "Test")
