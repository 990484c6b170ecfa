import pytest

from loom.globs import matches


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
