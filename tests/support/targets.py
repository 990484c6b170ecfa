"""Readers of bytes from outside, each with what has to be true for any bytes: for hypothesis and for atheris.

`python -m tests.support.targets NAME DIRECTORY [ARGUMENT OF LIBFUZZER...]` has atheris look for bytes that break one, led by
the branches that they reach; those which reach more stay in the directory. `scripts/fuzz --guided NAME` calls it.
"""

import io
import itertools
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType

from loom.errors import ProviderError
from loom.providers.docker.session import attach
from loom.providers.docker.session.attach import Demultiplexer
from loom.record import events
from loom.storage import junit, tar, unpacking
from loom.storage.unpacking import UnsafeArchive, checked
from loom.util import yaml_file
from loom.util.yaml_file import Node, YamlFile, fields_of, items_of
from loom.workflow.gitlab import inputs, yaml


def frames(data: bytes) -> None:
    """The same output and the same refusal, however the connection cuts the frames; none of the output is lost."""
    assert _frames(data, len(data) + 1) == _frames(data, 1) == _frames(data, 7)


def _frames(data: bytes, size: int) -> tuple[list[tuple[str, bytes]], bool]:
    reader, output, refused = Demultiplexer(), list[tuple[str, bytes]](), False
    try:
        for at in range(0, len(data), size):
            output += reader.feed(data[at : at + size])
        reader.end()
    except ProviderError:
        refused = True
    merged = [
        (stream, b"".join(chunk for _, chunk in chunks))
        for stream, chunks in itertools.groupby(output, key=lambda chunk: chunk[0])
    ]
    return [chunk for chunk in merged if chunk[1]], refused


def event(data: bytes) -> None:
    """A line is refused, or it is an event that comes back as it went out."""
    with suppress(ValueError):
        decoded = events.decode(data)
        line = events.encode(decoded)
        assert b"\n" not in line[:-1]
        assert events.decode(line) == decoded


def report(data: bytes) -> None:
    """A report is refused, or its totals fit each other and no text is without a limit."""
    with suppress(junit.UnreadableReport):
        found = junit.read(io.BytesIO(data))
        assert found.failures + found.errors + found.skipped <= found.tests
        assert len(found.failing) <= junit.MAX_FAILING
        for test in found.failing:
            assert len(test.name) <= 500
            assert len(test.message or "") <= 2000
            assert test.line is None or test.line >= 0


def archive(data: bytes) -> None:
    """An archive is refused, or each entry stays below its root and has the content that it promises."""
    with suppress(tar.DamagedArchive, UnsafeArchive):
        for entry, content in checked(tar.read(io.BytesIO(data)), (".loom/.runtime",)):
            assert not entry.path.startswith(("/", ".loom/.runtime"))
            assert ".." not in entry.path.split("/")
            assert 0 <= entry.mode <= 0o777
            if content is not None and entry.size < 1 << 20:
                assert len(content.read()) == entry.size


def interpolation(data: bytes) -> None:
    """A GitLab file is refused, or it is what its text says; all that it has, and all that is wrong, stands in it."""
    file = yaml_file.decoded(data, "x.yml", code=yaml.CODE)
    if file.problems:
        return
    root = inputs.load(file, inputs.GivenInputs(texts={"name": "a\nb: [", "list": '["x", {"y": 1}]'}))
    for problem in file.problems:
        assert_stands_in(file, problem.line, problem.column)
    pending, seen = [] if root is None else [root], set[int]()
    while pending:
        node = pending.pop()
        if id(node) not in seen:  # an alias is the aliased node itself
            seen.add(id(node))
            assert_stands_in(file, node.line, node.column)
            pending += [*items_of(node), *fields_of(node).values(), *_reference(node)]
            assert node.kind is not yaml_file.Kind.MAPPING or node.value.keys() == node.keys.keys()
    if not file.problems and "$[[" not in file.text and "spec" not in file.text:
        plain = yaml.parse(YamlFile(name="x.yml", text=file.text))[0]
        assert repr(plain and plain.plain()) == repr(root and root.plain())  # not a number equals nothing


def _reference(node: Node) -> list[Node]:
    return node.value if node.kind is yaml_file.Kind.REFERENCE else []


def assert_stands_in(file: YamlFile, line: int, column: int) -> None:
    """A place is within the file: the end of a line counts."""
    text = file.line(line)
    assert text is not None, (file.name, line)
    assert 1 <= column <= len(text) + 1, (file.name, line, column)


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, kind in (
            ("a" * 120, tarfile.REGTYPE),
            ("d", tarfile.DIRTYPE),
            ("d/l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.mtime = kind, 700 if kind == tarfile.REGTYPE else 0, 1.5
            entry.linkname = {tarfile.SYMTYPE: "../x", tarfile.LNKTYPE: "a" * 120}.get(kind, "")
            file.addfile(entry, io.BytesIO(bytes(700)))
    return out.getvalue()[: 12 * 512]


_PIPELINE = b"""spec:
  inputs:
    name: {default: "\xc3\xa9", regex: /^[a-z]/}
    list: {type: array, default: [&a x, *a]}
    flag: {type: boolean, options: [true, yes], rules: [{if: $[[ inputs.name ]] == "x", default: true}, {default: false}]}
---
.a: &b {script: [!reference [job, script], "$[[ inputs.name | truncate(0,3) | expand_vars ]]"]}
"job $[[ inputs.name | posix_escape ]]":
  <<: *b
  script: $[[ inputs.list ]] # $[[ inputs.flag ]]
"""
_EVENT = events.PhaseEvent(
    seq=1,
    ts="2026-11-26T11:12:13.000014Z",
    run_id="1795000000000000000",
    pipeline_id="p",
    scope="run",
    phase_code=events.PhaseCode.RUN_BOOTSTRAP,
    phase_family="run",
    kind="phase_started",
    data={"command": ["loom", "run"]},
)
_REPORT = b"""<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" tests="3" file="s.py">
<testcase name="a" classname="t.A" file="t.py" line="3"><failure message="m &lt; n" type="E"><![CDATA[File "t.py", line 12
t.py:12: E]]></failure></testcase><testcase name="b"><error/></testcase><testcase><skipped/></testcase></testsuite></testsuites>"""

TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "frames": (frames, (b"\1\0\0\0\0\0\0\5one\n2\2\0\0\0\0\0\0\1x\1\0\0\0\0\0\0\0\3\0\0\0\0\0\0\4gone",)),
    "event": (
        event,
        (
            events.encode(_EVENT),
            b'{"kind":"output","seq":3,"ts":"2026-11-26T11:12:13.000014Z","stream":"stdout","text":"a","raw_b64":"/w=="}',
        ),
    ),
    "report": (report, (_REPORT,)),
    "archive": (archive, (_archive(),)),
    "interpolation": (interpolation, (_PIPELINE, _PIPELINE.partition(b"---\n")[2])),
}
"""By name, the target and inputs to begin with."""


def main(name: str, directory: Path, arguments: list[str]) -> None:
    import atheris

    target, seeds = TARGETS[name]
    for module in (attach, events, junit, tar, unpacking, inputs, yaml, yaml_file):
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        for value in own + [method for found in own if isinstance(found, type) for method in vars(found).values()]:
            if isinstance(value, FunctionType):
                atheris.instrument_func(value)
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (directory / f"seed-{number}").write_bytes(seed)
    atheris.Setup([name, *arguments, str(directory)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
