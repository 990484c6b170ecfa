import io
import time

import pytest

from loom.storage import junit
from loom.storage.reports import UnreadableReport


def read(text: str | bytes, **more: str) -> junit.Report:
    return junit.read(io.BytesIO(text.encode() if isinstance(text, str) else text), **more)


def one(text: str, **more: str) -> junit.FailingTest:
    (test,) = read(text, **more).failing
    return test


PYTEST = """<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="0"
failures="1" skipped="1" tests="3" time="0.1"><testcase classname="tests.test_math.TestAdd" name="test_add[1-2]" time="0.0">
<failure message="AssertionError: assert 3 == 4&#10; +  where 3 = add(1, 2)">def test_add():
        helper()

tests/test_math.py:14:
_ _ _ _ _ _ _
/workspace/src/math.py:3: in add
    check(a)
tests/test_math.py:18: AssertionError</failure></testcase>
<testcase classname="tests.test_math" name="test_ok"/>
<testcase classname="tests.test_math" name="test_later"><skipped message="later">x</skipped></testcase>
</testsuite></testsuites>"""

UNITTEST = """<testsuite name="T"><testcase classname="tests.test_x.T" name="test_a" file="tests/test_x.py" line="9"><error
type="KeyError" message="'k'">Traceback (most recent call last):
  File "/usr/lib/python3.11/unittest/case.py", line 57, in testPartExecutor
  File "/workspace/tests/test_x.py", line 12, in test_a
    f()
  File "/workspace/src/x.py", line 99, in f
KeyError: 'k'</error></testcase></testsuite>"""

JEST = """<testsuites><testsuite name="sum"><testcase classname="adds" name="adds numbers"><failure>Error: expected 4
    at Object.toBe (/workspace/node_modules/expect/build/index.js:12:3)
    at Object.&lt;anonymous&gt; (/workspace/src/sum.test.js:5:21)
    at Promise.then (node:internal/process:1:1)</failure></testcase></testsuite></testsuites>"""

JAVA = """<testsuite name="com.acme.CartTest"><testcase name="total" classname="com.acme.CartTest" time="0.01">
<failure message="expected: &lt;3&gt; but was: &lt;4&gt;" type="org.opentest4j.AssertionFailedError">org.opentest4j...
	at org.junit.jupiter.api.AssertionUtils.fail(AssertionUtils.java:55)
	at com.acme.Cart.total(Cart.java:10)
	at com.acme.CartTest.total(CartTest.java:42)</failure></testcase></testsuite>"""

GO = """<testsuites><testsuite name="example/pkg"><testcase classname="example/pkg" name="TestX"><failure message="Failed"
type="">    x_test.go:21: got 1, want 2</failure></testcase></testsuite></testsuites>"""

RSPEC = """<testsuite name="rspec"><testcase classname="spec.cart" name="Cart adds" file="./spec/cart_spec.rb"><failure
message="expected: 2" type="E">Failure/Error: expect(1).to eq 2
./lib/cart.rb:3:in `add'
./spec/cart_spec.rb:17:in `block (2 levels)'</failure></testcase></testsuite>"""

PHPUNIT = """<testsuites><testsuite name="CartTest" file="/workspace/tests/CartTest.php"><testcase name="testTotal"
class="CartTest" classname="CartTest" file="/workspace/tests/CartTest.php" line="12"><failure type="E">CartTest::testTotal
Failed asserting that 1 matches expected 2.

/workspace/tests/CartTest.php:15
</failure></testcase></testsuite></testsuites>"""

RUST = """<testsuites><testsuite name="crate"><testcase name="tests::adds" classname="crate"><failure type="test failure"
message="thread 'tests::adds' panicked at src/lib.rs:8:9: assertion failed">thread 'tests::adds' panicked at
src/lib.rs:8:9:
assertion failed</failure></testcase></testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("text", "name", "file", "line", "message"),
    [
        (PYTEST, "test_add[1-2]", "tests/test_math.py", 18, "AssertionError: assert 3 == 4\n +  where 3 = add(1, 2)"),
        (UNITTEST, "test_a", "tests/test_x.py", 12, "'k'"),
        (JEST, "adds numbers", "src/sum.test.js", 5, "Error: expected 4"),
        (JAVA, "total", "CartTest.java", 42, "expected: <3> but was: <4>"),
        (GO, "TestX", "x_test.go", 21, "Failed"),
        (RSPEC, "Cart adds", "spec/cart_spec.rb", 17, "expected: 2"),
        (PHPUNIT, "testTotal", "tests/CartTest.php", 15, "CartTest::testTotal"),
        (RUST, "tests::adds", "src/lib.rs", 8, "thread 'tests::adds' panicked at src/lib.rs:8:9: assertion failed"),
    ],
    ids=["pytest", "unittest", "jest", "java", "go", "rspec", "phpunit", "rust"],
)
def test_where_each_language_says_a_test_failed(text: str, name: str, file: str, line: int, message: str) -> None:
    test = one(text)
    assert (test.name, test.file, test.line, test.message) == (name, file, line, message)


def test_all_that_is_told_of_a_failed_test() -> None:
    assert one(UNITTEST, report="r.xml") == junit.FailingTest(
        name="test_a",
        classname="tests.test_x.T",
        file="tests/test_x.py",
        line=12,
        message="'k'",
        kind="error",
        report="r.xml",
    )
    bare = '<testsuite><testcase name="a" classname=""><failure type="T"/></testcase></testsuite>'
    assert one(bare) == junit.FailingTest(name="a", message="T")


def test_counts() -> None:
    report = read(PYTEST)
    assert (report.tests, report.failures, report.errors, report.skipped) == (3, 1, 0, 1)
    assert one(UNITTEST).kind == "error"


def test_attributes_serve_where_the_text_says_nothing() -> None:
    case = '<testcase name="a" classname="c" file="t/a.py" line="9"><failure/></testcase>'
    assert (
        one(f'<testsuite name="x">{case}</testsuite>').file,
        one(f'<testsuite name="x">{case}</testsuite>').line,
    ) == ("t/a.py", 9)
    assert one(f'<testsuite name="pytest">{case}</testsuite>').line == 10
    assert one('<testsuite file="s.js"><testcase name="a"><error/></testcase></testsuite>').file == "s.js"
    bare = one("<testcase><failure/></testcase>")
    assert (bare.name, bare.file, bare.line, bare.message) == ("(no name)", None, None, None)


def test_a_case_has_the_file_of_the_innermost_suite_around_it() -> None:
    case = '<testcase name="{}"><failure/></testcase>'
    report = read(
        f"""<testsuites><testsuite file="outer.js">{case.format(1)}
        <testsuite file="inner.js">{case.format(2)}</testsuite><testsuite>{case.format(3)}</testsuite>
        </testsuite><testsuite name="pytest">{case.format(4)}</testsuite>{case.format(5)}</testsuites>"""
    )
    assert [test.file for test in report.failing] == ["outer.js", "inner.js", "outer.js", None, None]
    assert report.tests == report.failures == 5


def test_of_a_case_that_was_read_nothing_is_held() -> None:
    cases = junit._Cases(lambda path: path, None)
    suite = cases.start("testsuite", {})
    for outcome in ("failure", "error", "skipped"):
        case = cases.start("testcase", {"name": outcome})
        cases.start(outcome, {})
        cases.end(outcome)
        assert [element.tag for element in case] == [outcome]
        cases.end("testcase")
        assert list(suite) == []
    cases.start("system-out", {})
    cases.end("system-out")
    assert list(suite) == []
    assert dict(cases.counts) == {"tests": 3, "failure": 1, "error": 1, "skipped": 1}


def test_a_number_without_measure_is_no_line() -> None:
    case = '<testsuite><testcase name="a" line="{}"><failure/></testcase></testsuite>'
    found = [one(case.format(line)).line for line in ("123456789", "1234567890", "-1", "x", "")]
    assert found == [123456789, None, None, None, None]
    text = '<testsuite><testcase name="a"><failure>File "/x/t.py", line {}</failure></testcase></testsuite>'
    assert [one(text.format(line)).line for line in ("12345678", "123456789")] == [12345678, None]


def test_the_project_dir_of_a_job_on_the_host() -> None:
    text = '<testsuite><testcase name="a"><failure>File "/tmp/run x/t.py", line 3</failure></testcase></testsuite>'
    assert one(text, project_dir="/tmp/run x").file == "t.py"


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<testsuite><testcase name="&b;"/></testsuite>"""
EXTERNAL = '<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuite><testcase name="&x;"/></testsuite>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "document type"),
        (EXTERNAL, "document type"),
        ("", "not well-formed"),
        ("junk", "not well-formed"),
        ("<testsuite><testcase", "not well-formed"),
        ("<html></html>", "begins with <html>"),
        (f"<{'x' * 61}/>", f"begins with <{'x' * 60}> "),
        ('<?xml version="1.0" encoding="klingon"?><testsuite/>', "unknown encoding|can't be read"),
        (b"<testsuite>\xff\xfe</testsuite>", "not well-formed"),
        ("<testsuite>" * 201 + "</testsuite>" * 201, "nested more than 200 deep"),
    ],
    ids=[
        "bomb",
        "external entity",
        "empty",
        "junk",
        "cut off",
        "html",
        "long",
        "encoding",
        "not utf-8",
        "deep",
    ],
)
def test_what_is_no_report_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(UnreadableReport, match=said) as refused:
        read(text)
    assert not str(refused.value).startswith("it can't be read: it ")


def test_a_report_of_one_byte_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit, "MAX_BYTES", 1 << 20)
    with pytest.raises(UnreadableReport, match="larger than 1 MiB"):
        read(b"<testsuite>" + b" " * ((1 << 20) - 10))


@pytest.mark.slow
def test_large_reports_are_bounded() -> None:
    case = '<testcase name="a"><failure message="{0}">{0}</failure></testcase>'.format("x" * 5000)
    report = read("<testsuite>" + case * 3000 + "</testsuite>")
    assert (report.failures, len(report.failing)) == (3000, junit.MAX_FAILING)
    assert len(report.failing[0].message or "") == 2000

    class Endless:
        def read(self, size: int) -> bytes:
            return b"<a>" * (size // 3) if self.started else self.start()

        started = False

        def start(self) -> bytes:
            self.started = True
            return b"<testsuite>"

    with pytest.raises(UnreadableReport):
        junit.read(Endless())  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a" * 60000, "at " * 20000, "a.b:1\n" * 10000, "(" * 60000, 'File "' * 10000])
def test_hostile_failure_texts_take_no_time(text: str) -> None:
    started = time.thread_time()
    one(f"<testsuite><testcase name='a'><failure>{text}</failure></testcase></testsuite>")
    assert time.thread_time() - started < 3


def test_reports_as_deep_as_may_be_are_read() -> None:
    assert read("<testsuite>" * 200 + "</testsuite>" * 200).tests == 0


def test_only_so_many_failures_and_so_much_of_a_text_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit, "MAX_FAILING", 2)
    case = '<testcase name="{0}"><{1} type="T">{2}</{1}></testcase>'
    cases = [
        case.format("a", "failure", "x" * 3000),
        case.format("b", "error", ""),
        case.format("c", "failure", "no more"),
    ]
    report = read(f'<testsuites><testsuite>{"".join(cases)}</testsuite><x:testcase xmlns:x="u" name="d"/></testsuites>')
    assert (report.tests, report.failures, report.errors, report.skipped) == (4, 2, 1, 0)
    assert [(test.name, len(test.message or ""), test.kind) for test in report.failing] == [
        ("a", 2000, "failure"),
        ("b", 1, "error"),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("  C:\\src\\A.cs:7: error", ("C:/src/A.cs", 7)),
        ("at (webpack://src/a.ts:3:4)", ("webpack://src/a.ts", 3)),
        ("# ./a.rb:9:in `b'", ("a.rb", 9)),
        ("at file:///workspace/x.mjs:5:6", ("x.mjs", 5)),
        ("at (x.js:1234567890:1)", (None, None)),
        ("at (/usr/lib/x.js:1:1)\n at (own.js:2:1)", ("own.js", 2)),
        ('File "<string>", line 1\nFile "a.py", line 2', ("a.py", 2)),
        ("x.py:3", ("x.py", 3)),
        ("time 12:30: no place", (None, None)),
    ],
)
def test_where_a_text_says_that_it_failed(text: str, place: tuple[str | None, int | None]) -> None:
    case = f'<testsuite><testcase name="a"><failure><![CDATA[{text}]]></failure></testcase></testsuite>'
    assert (one(case).file, one(case).line) == place


def test_a_failures_text_is_that_of_all_its_elements() -> None:
    found = one(
        '<testsuite><testcase name="a"><failure>src/a.<b>py:<i>3</i>: E</b>rror</failure></testcase></testsuite>'
    )
    assert (found.file, found.line) == ("src/a.py", 3)


def test_a_test_that_fails_twice_is_one_failure() -> None:
    case = '<testcase name="a"><failure message="m">one</failure> between <error>two</error></testcase>'
    report = read(f"<testsuite>{'<testcase><skipped/></testcase>' * 2}</testsuite>")
    assert (report.tests, report.skipped) == (2, 2)
    report = read(f'<testsuite>{case}<testcase name="b"><skipped/><failure/></testcase></testsuite>')
    assert (report.tests, report.failures, report.errors, report.skipped) == (2, 2, 0, 0)
    assert [(test.name, test.message, test.kind) for test in report.failing] == [
        ("a", "m", "failure"),
        ("b", None, "failure"),
    ]


@pytest.mark.parametrize(
    "cases",
    [
        '<testcase classname="a" name="t"><flakyFailure message="m">first</flakyFailure></testcase>',  # Surefire
        '<testcase classname="a" name="t"><failure/></testcase><testcase classname="a" name="t"/>',  # gotestsum
    ],
)
def test_a_test_that_passed_after_it_had_failed(cases: str) -> None:
    others = '<testcase classname="b" name="t"/><testcase classname="a" name="u"><failure/></testcase>'
    assert read(f"<testsuite>{cases}{others}</testsuite>").flaky == 1
