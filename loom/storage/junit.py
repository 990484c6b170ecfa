"""Parse JUnit XML reports of all test runners: totals, and the location of each failure.

A report is a stranger's: it is read as a stream, within limits of size and depth, and a doctype is refused. junitparser reads
a whole file into memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from loom.status import FailingTest
from loom.storage.reports import UnreadableReport, project_path, short
from loom.storage.tar import Content
from loom.values import Immutable

MAX_BYTES = 64 << 20
MAX_FAILING = 1000
_MAX_TEXT = 64 << 10
_MAX_MESSAGE = 2000
_MAX_DEPTH = 200
_CHUNK = 1 << 16
_FLAKY = {"flakyFailure", "flakyError"}
_Inside = Callable[[str], str]


class Report(Immutable):
    """`failing` holds the first `MAX_FAILING` of `failures + errors` failed tests."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0
    """Tests that passed after they had failed."""
    failing: tuple[FailingTest, ...] = ()


def read(file: Content, *, project_dir: str = "/workspace", report: str | None = None) -> Report:
    """Parse one report. `project_dir` is the workspace path in the job; paths below it become relative.

    UnreadableReport for a file that is not XML, not JUnit, too large, or defines entities.
    """
    cases = _Cases(lambda path: project_path(path, project_dir), report)
    parser = ElementTree.XMLParser(target=cases)
    size = 0
    try:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise UnreadableReport(f"it is larger than {MAX_BYTES >> 20} MiB")
            parser.feed(chunk)
        parser.close()
    except ElementTree.ParseError as error:
        raise UnreadableReport(f"it is not well-formed XML: {error}") from error
    except (LookupError, ValueError, OverflowError) as error:
        if isinstance(error, UnreadableReport):
            raise
        raise UnreadableReport(f"it can't be read: {error}") from error
    counts = cases.counts
    return Report(
        tests=counts["tests"],
        failures=counts["failure"],
        errors=counts["error"],
        skipped=counts["skipped"],
        flaky=counts["flaky"],
        failing=tuple(cases.failing),
    )


class _Cases(ElementTree.TreeBuilder):
    """Builds one test case after the other, and keeps of each what is needed."""

    def __init__(self, inside: _Inside, report: str | None) -> None:
        super().__init__()
        self.counts = Counter[str]()
        self.failing: list[FailingTest] = []
        self._failed_before = set[tuple[str | None, str | None]]()
        self._inside = inside
        self._report = report
        self._open: list[ElementTree.Element] = []
        self._cases = 0

    def doctype(self, *_: object) -> None:
        raise UnreadableReport(
            "it has a document type declaration, which could define entities; JUnit reports have none"
        )

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        if len(self._open) >= _MAX_DEPTH:
            raise UnreadableReport(f"its elements are nested more than {_MAX_DEPTH} deep")
        element = super().start(tag, attributes)
        if not self._open and _name(element) not in ("testsuites", "testsuite", "testcase"):
            raise UnreadableReport(f"it is XML, but begins with <{tag[:60]}> and not with <testsuites> or <testsuite>")
        self._open.append(element)
        self._cases += _name(element) == "testcase"
        return element

    def end(self, tag: str) -> ElementTree.Element:
        element = super().end(tag)
        self._open.pop()
        if _name(element) == "testcase":
            self._cases -= 1
            self._count(element)
        if self._open and not self._cases:
            self._open[-1].remove(element)
        return element

    def _count(self, case: ElementTree.Element) -> None:
        self.counts["tests"] += 1
        inner = list(map(_name, case.iter()))
        named = case.get("classname"), case.get("name")
        outcome = next((element for element in case.iter() if _name(element) in ("failure", "error")), None)
        if outcome is not None:
            self.counts[_name(outcome)] += 1
            self._failed_before.add(named)
            if len(self.failing) < MAX_FAILING:
                self.failing.append(self._failed(case, outcome))
        elif "skipped" in inner:
            self.counts["skipped"] += 1
        # Surefire and Gradle say so; gotestsum has the test again.
        elif named in self._failed_before or not _FLAKY.isdisjoint(inner):
            self.counts["flaky"] += 1

    def _failed(self, case: ElementTree.Element, outcome: ElementTree.Element) -> FailingTest:
        text = "".join(outcome.itertext())[:_MAX_TEXT]
        message = outcome.get("message") or ""
        suites = [element for element in reversed(self._open) if _name(element) == "testsuite"]
        named = case.get("file") or next(filter(None, (suite.get("file") for suite in suites)), None)
        named = self._inside(named) if named else None
        classname = case.get("classname") or None
        written, line = case.get("line", ""), None
        if written.isdecimal() and len(written) <= 9:
            # pytest counts lines from 0
            line = int(written) + (bool(suites) and suites[0].get("name") == "pytest")
        file, line = _location(f"{message}\n{text}", named, classname, self._inside) or (named, line)
        return FailingTest(
            name=short(case.get("name") or "(no name)"),
            classname=short(classname) if classname else None,
            file=file,
            line=line,
            message=_message(message, text) or outcome.get("type") or None,
            kind="failure" if _name(outcome) == "failure" else "error",
            report=self._report,
        )


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


_PATH = r"(?:[A-Za-z]:)?[\w./\\@+~-]+\.[A-Za-z]\w{0,9}"
_INNERMOST_LAST = re.compile(
    rf'File "([^"\n]+)", line (\d+)|(?:^\s*|\bat )({_PATH}):(\d+)(?::\d+)?:(?: |$)', re.MULTILINE
)
_INNERMOST_FIRST = re.compile(
    rf"\(((?:file://|webpack://)?{_PATH}):(\d+)(?::\d+)?\)|^\s*(?:at |# )?((?:file://)?{_PATH}):(\d+)(?::\d+)?(?::in .*)?\s*$",
    re.MULTILINE,
)
_NOT_THEIRS = re.compile(r"node_modules|node:internal|site-packages|dist-packages|^(?:Native)?Method|^<|/usr/lib/")


def _locations(pattern: re.Pattern[str], text: str, inside: _Inside) -> Iterator[tuple[str, int]]:
    for match in pattern.finditer(text):
        path, line = (match[1], match[2]) if match[1] else (match[3], match[4])
        if len(line) < 9 and not _NOT_THEIRS.search(path):
            yield inside(path), int(line)


def _location(text: str, named: str | None, classname: str | None, inside: _Inside) -> tuple[str, int] | None:
    """Locate a failure: the innermost frame in the test's file, else in the user's code."""
    last = list(_locations(_INNERMOST_LAST, text, inside))[::-1]
    first = list(_locations(_INNERMOST_FIRST, text, inside))
    everything = last + first
    for file, line in everything:
        if named is not None and (file == named or file.endswith("/" + named) or named.endswith("/" + file)):
            return named, line
    if named is not None:
        return None
    words = set(re.split(r"[./\\$:]", classname)) if classname else set()
    for file, line in everything:
        if file.rpartition("/")[2].rpartition(".")[0] in words:
            return file, line
    return everything[0] if everything else None


def _message(message: str, text: str) -> str | None:
    message = message.strip() or next((line.strip() for line in text.splitlines() if line.strip()), "")
    return short(message, _MAX_MESSAGE) or None
