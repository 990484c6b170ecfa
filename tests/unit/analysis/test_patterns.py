"""The table of formats reads real output of each tool: `samples/` holds what the tools print, with /workspace as the project's place."""

from pathlib import Path

import pytest

from loom.analysis import formats, patterns
from loom.analysis.output import GAP
from loom.record.events import OutputEvent, encode
from loom.record.highlights import Highlighter
from loom.status import Failure
from loom.util.controls import cleaned

HERE = Path(__file__).parent / "samples"

# What pytest reports alike with long and with short tracebacks.
PYTEST = [
    ("pytest", "tests/test_calc.py::test_fixture", "tests/test_calc.py", None, "fixture 'nosuch' not found"),
    ("pytest", "tests/test_calc.py::test_adds", "tests/test_calc.py", 6, "assert 3 == 4"),
    (
        "pytest",
        "tests/test_calc.py::test_parses[1]",
        "tests/test_calc.py",
        11,
        "AssertionError: assert 1 == (1 + 1)",
    ),
    (
        "pytest",
        "tests/test_calc.py::test_parses[2]",
        "tests/test_calc.py",
        11,
        "AssertionError: assert 2 == (2 + 1)",
    ),
]
SAMPLES = {
    "black": [
        ("black", None, "ugly.py", None, "would reformat ugly.py"),
    ],
    "cargo_test": [
        ("cargo", "tests::panics", "src/lib.rs", 20, "index out of bounds: the len is 0 but the index is"),
        ("cargo", "tests::adds", "src/lib.rs", 11, "assertion `left == right` failed"),
    ],
    "behave": [
        ("behave", None, "features/steps/s.py", 4, "x is 1"),
    ],
    "clang": [
        ("compiler", None, "main.c", 2, "expected ';' after return statement"),
    ],
    "cmake": [
        ("cmake", None, "CMakeLists.txt", 3, 'By not providing "FindNoSuchThing.cmake" in CMAKE_'),
    ],
    "prettier": [
        ("prettier", None, "pr/a.js", None, "[warn] pr/a.js"),
    ],
    "webpack": [
        ("webpack", None, "src/index.js", 1, "Module not found: Error: Can't resolve './nothing'"),
    ],
    "eslint": [
        ("eslint", None, "src/a.js", 1, "'unused' is assigned a value but never used"),
        ("eslint", None, "src/a.js", 2, "'b' is defined but never used"),
        ("eslint", None, "src/a.js", 3, "'c' is not defined"),
        ("eslint", None, "src/a.js", 5, "'module' is not defined"),
        ("eslint", None, "src/b.js", 1, "'f' is defined but never used"),
        ("eslint", None, "src/b.js", 2, "'y' is not defined"),
    ],
    "gcc": [
        ("compiler", None, "main.c", 2, "expected ‘;’ before ‘}’ token"),
    ],
    "github": [
        ("github", None, "app.js", 1, "Missing semicolon"),
        ("github", None, "src/b.js", 9, "Boo"),
        ("github", None, None, None, "Process completed with exit code 1."),
    ],
    "go_build": [
        ("go", None, "bad/bad.go", 3, '"os" imported and not used'),
        ("go", None, "bad/bad.go", 5, "undefined: undefinedThing"),
    ],
    "go_panic": [
        ("go", "TestPanics", "pan/pan_test.go", 7, "runtime error: index out of range [3] with length "),
    ],
    "go_test": [
        ("go", "TestAdd", "calc_test.go", 7, "Add(1, 2) = -1, want 3"),
        ("go", "TestSub/deep", "calc_test.go", 14, "boo"),
    ],
    "go_vet": [
        ("go", None, "bad/bad.go", 5, "undefined: undefinedThing"),
    ],
    "gradle": [
        ("gradle", "com.example.AppTest > adds()", "AppTest.java", 11, "org.opentest4j.AssertionFailedError"),
        ("gradle", "com.example.AppTest > throwsNothing", None, None, "java.lang.NullPointerException: text is null"),
    ],
    "gradle_4": [
        ("gradle", "shop.CartTest > name", "CartTest.java", 21, "java.lang.NullPointerException"),
        ("gradle", "shop.CartTest > total", "CartTest.java", 10, "java.lang.AssertionError"),
    ],
    "java": [
        ("java", None, "Main.java", 2, 'java.lang.NullPointerException: Cannot invoke "Str'),
    ],
    "javac": [
        ("compiler", None, "src/main/java/A.java", 1, "incompatible types: String cannot be converted to "),
    ],
    "jest": [
        ("jest", "sum › adds two numbers", "test/sum.test.js", 4, "expect(received).toBe(expected) // Object.is equal"),
        ("jest", "sum › throws", "test/sum.test.js", 7, "TypeError: boo is not a function"),
    ],
    "ld": [
        ("ld", None, "ok.c", None, "undefined reference to `missing'"),
    ],
    "make": [
        ("compiler", None, "main.c", 2, "expected ‘;’ before ‘}’ token"),
    ],
    "make_rule": [
        ("make", None, None, None, "No rule to make target 'missing.o', needed by 'all"),
        ("make", None, "Makefile", 2, "missing separator.  Stop."),
    ],
    "maven": [
        ("maven", None, "src/main/java/app/Sum.java", 1, "cannot find symbol"),
    ],
    "maven_test": [
        ("maven", "throwsAway(app.SumTest)", "SumTest.java", 11, "java.lang.IllegalStateException: database is gone"),
        ("maven", "adds(app.SumTest)", "SumTest.java", 8, "java.lang.AssertionError: expected:<5> but was:<-1"),
    ],
    "minitest": [("minitest", "TestA#test_sum", "rb/test_a.rb", 4, "Expected: 5")],
    "mocha": [
        ("mocha", "adds two numbers", "spec/sum.js", 4, "AssertionError [ERR_ASSERTION]: -1 == 3"),
        ("mocha", "throws", "spec/sum.js", 7, "TypeError: boo is not a function"),
    ],
    "mypy": [
        ("mypy", None, "bad.py", 5, 'Incompatible return value type (got "int", expecte'),
        ("mypy", None, "bad.py", 8, 'Argument 1 to "f" has incompatible type "str"; exp'),
        ("mypy", None, "bad.py", 9, 'Name "undefined_name" is not defined'),
    ],
    "mypy_pretty": [
        ("mypy", None, "bad.py", 5, 'Incompatible return value type (got "int", expecte'),
        ("mypy", None, "bad.py", 8, 'Argument 1 to "f" has incompatible type "str"; exp'),
        ("mypy", None, "bad.py", 9, 'Name "undefined_name" is not defined'),
    ],
    "ninja": [
        ("compiler", None, "main.c", 2, "expected ‘;’ before ‘}’ token"),
    ],
    "node_spec": [
        ("node", "adds two numbers", "test/node.mjs", 3, "AssertionError [ERR_ASSERTION]: Expected values to"),
    ],
    "node_tap": [
        ("tap", "adds two numbers", "test/node.mjs", 3, "Expected values to be strictly equal:"),
    ],
    "php": [
        ("php", None, "fatal.php", 3, "Uncaught Error: Call to undefined function undefin"),
        ("php", None, "parse.php", 2, 'syntax error, unexpected token "{"'),
    ],
    "phpunit": [
        ("phpunit", "SumTest::testThrows", "SumTest.php", 7, "RuntimeException: database is gone"),
        ("phpunit", "SumTest::testAdds", "SumTest.php", 5, "Failed asserting that -1 is identical to 5."),
        ("phpunit", "SumTest::testText", "SumTest.php", 6, "Failed asserting that 'acc' [ASCII](length: 3) con"),
    ],
    "pyright": [
        ("pyright", None, "src/app.py", 5, 'Type "int" is not assignable to return type "str"'),
        ("pyright", None, "src/app.py", 9, '"undefined_name" is not defined'),
    ],
    "pytest": [
        *PYTEST,
        (
            "pytest",
            "tests/test_calc.py::TestClass::test_raises",
            "calc.py",
            6,
            "ValueError: invalid literal for int() with base 10",
        ),
    ],
    "pytest_short": [
        *PYTEST,
        (
            "pytest",
            "tests/test_calc.py::TestClass::test_raises",
            "tests/test_calc.py",
            16,
            "ValueError: invalid literal for int() with base 10",
        ),
    ],
    "python": [
        ("python", None, "bad.py", 9, "NameError: name 'undefined_name' is not defined"),
    ],
    "rspec": [
        ("rspec", "sum adds two numbers", "sum_spec.rb", 3, "expected: 3"),
        ("rspec", "sum raises", "sum_spec.rb", 7, "undefined method `upcase' for nil"),
    ],
    "ruff": [
        ("ruff", None, "bad.py", 1, "`os` imported but unused"),
        ("ruff", None, "bad.py", 9, "Undefined name `undefined_name`"),
    ],
    "ruff_concise": [
        ("ruff", None, "bad.py", 1, "`os` imported but unused"),
        ("ruff", None, "bad.py", 9, "Undefined name `undefined_name`"),
    ],
    "ruff_format": [
        ("ruff", None, "ugly.py", 1, "File would be reformatted"),
    ],
    "rust_panic": [
        ("rust", None, "pan.rs", 3, "called `Option::unwrap()` on a `None` value"),
    ],
    "rustc": [
        ("rustc", None, "bad.rs", 3, "cannot find value `y` in this scope"),
        ("rustc", None, "bad.rs", 2, "mismatched types"),
    ],
    "shellcheck": [
        ("shellcheck", None, "scripts/deploy.sh", 3, "Use 'cd ... || exit' or 'cd ... || return' in case"),
    ],
    "surefire": [
        ("maven", "com.example.AppTest.adds", "AppTest.java", 11, "org.opentest4j.AssertionFailedError: expected: <3>"),
        (
            "maven",
            "com.example.AppTest.throwsNothing",
            "App.java",
            9,
            'java.lang.NullPointerException: Cannot invoke "Str',
        ),
    ],
    "tap": [
        ("tap", "adds two numbers", "test/tap.js", 2, ""),
    ],
    "tsc": [
        ("tsc", None, "src/a.ts", 2, "Type 'number' is not assignable to type 'string'."),
        ("tsc", None, "src/a.ts", 4, "Argument of type 'string' is not assignable to par"),
    ],
    "tsc_pretty": [
        ("tsc", None, "src/a.ts", 2, "Type 'number' is not assignable to type 'string'."),
        ("tsc", None, "src/a.ts", 4, "Argument of type 'string' is not assignable to par"),
    ],
    "unittest": [
        (
            "unittest",
            "test_raises (test_unit.Sums.test_raises)",
            "test_unit.py",
            11,
            "ValueError: invalid literal for int() with base 10",
        ),
        ("unittest", "test_adds (test_unit.Sums.test_adds)", "test_unit.py", 8, "AssertionError: 3 != 4"),
    ],
    "vitest": [
        (
            "vitest",
            "test/sum.spec.mjs > sum > adds two numbers",
            "test/sum.spec.mjs",
            4,
            "AssertionError: expected -1 to be 3 // Object.is e",
        ),
        ("vitest", "test/sum.spec.mjs > sum > throws", "test/sum.spec.mjs", 7, "TypeError: boo is not a function"),
    ],
}


def lines_of(sample: str) -> list[str]:
    return [cleaned(line) for line in (HERE / f"{sample}.txt").read_text().splitlines()]


def read(lines: list[str]) -> list[Failure]:
    return patterns.failures(lines, formats.readers())


def short(found: list[Failure]) -> list[object]:
    return [(each.tool, each.test, each.file, each.line, (each.message or "")[:50]) for each in found]


def test_every_sample_is_expected() -> None:
    assert {path.stem for path in HERE.iterdir()} == set(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_failures_of_a_sample(sample: str) -> None:
    assert short(read(lines_of(sample))) == SAMPLES[sample]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_failures_are_found_far_from_the_end(sample: str) -> None:
    """The highlights of a long output hold what the formats need."""
    noise = [f"[{number}] doing something usual" for number in range(3000)]
    lines = [*noise, *(HERE / f"{sample}.txt").read_text().splitlines(), *noise]
    highlighter = Highlighter(formats.watch())
    for number, line in enumerate(lines, 1):
        highlighter.feed(encode(OutputEvent(number, "2026-11-24T23:59:01.000042Z", "stdout", line)), 1)
    kept: list[str] = []
    last = 0
    for line in highlighter.finish().lines:
        kept += [GAP, line.text] if line.line != last + 1 else [line.text]
        last = line.line
    found = {(each.test, each.file, each.line) for each in read(kept)}
    assert found >= {(test, file, line) for _, test, file, line, _ in SAMPLES[sample]}


def test_every_format_has_a_sample() -> None:
    tools = {tool for expected in SAMPLES.values() for tool, *_ in expected}
    assert {each.name for each in formats.table()} == tools


def test_noise_is_no_failure() -> None:
    usual = [
        "0 errors",
        "test result: ok. 3 passed; 0 failed",
        "ok 1 - error handling",
        "src/error.py",
        "INFO a.py:3: started",
    ]
    assert read(usual) == []


def test_forty_failures_of_three_kinds() -> None:
    reasons = ["AssertionError: assert %d == 2", "KeyError: 'name%d'", "sqlite3.OperationalError: no such table: users"]
    lines = [
        f"FAILED tests/test_{number % 5}.py::test_{number} - {reasons[number % 3].replace('%d', str(number))}"
        for number in range(40)
    ]
    found = read(lines)
    groups = patterns.groups(found, [])
    assert len(found) == 40
    assert [group.count for group in groups] == [14, 13, 13]
    assert groups[0].first.test == "tests/test_0.py::test_0"


def test_two_tests_of_one_name_are_two_failures() -> None:
    section = ["____ test_x ____", "E   assert 1 == 2", "tests/%s.py:3: AssertionError"]
    lines = [line.replace("%s", file) for file in "ab" for line in section]
    lines += [f"FAILED tests/{file}.py::test_x - assert 1 == 2" for file in "ab"]
    assert [(each.test, each.line) for each in read(lines)] == [("tests/a.py::test_x", 3), ("tests/b.py::test_x", 3)]


def test_a_number_that_is_none_is_left_out() -> None:
    (found,) = read([f"a.c:{'9' * 30}:1: error: boo"])
    assert found.line is None


def test_the_whole_message_of_cmake() -> None:
    (failure,) = read(lines_of("cmake"))
    assert failure.message is not None
    assert len(failure.message.splitlines()) == 11
    assert failure.message.endswith("be sure it\nhas been installed.")
