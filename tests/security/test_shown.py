"""What a job prints: no secret is readable in anything that is shown or kept, and nothing steers who reads it."""

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import SecretError
from loom.record.events import PhaseCode, Where
from loom.record.journal import Journal, Outcome
from loom.render.ci import GitHub, GitLab, JsonLines
from loom.render.look import Look
from loom.render.screen import Screen
from loom.status import Status
from loom.util.masking import Masker
from tests.security.conftest import PLAIN, Victim
from tests.support.effort import fuzzed
from tests.support.report_page import log_lines

pytestmark = pytest.mark.slow

INSERTED = [
    "", "\x1b[01;31m", "\x1b[m\x1b[K", "\0", "\x07", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x1b\\", "\x1bPq\x1b\\", "\x1b(B", "\x7f",
    "\x9b1m", "\x9d0;x\x9c", "\x85", "\u202e", "\u2066", "\u200b", "\x1b", "\x1b[", "\x1b]",
]  # fmt: skip
ENCODINGS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "as it is": (str, str),
    "json": (lambda value: json.dumps(value)[1:-1], lambda text: text),
    "percent": (lambda value: quote(value, safe=""), lambda text: unquote_to_bytes(text).decode(errors="replace")),
    "all percent": (
        lambda value: "".join(f"%{byte:02x}" for byte in value.encode()),
        lambda text: unquote_to_bytes(text).decode(errors="replace"),
    ),
    "entities": (lambda value: "".join(f"&#{ord(character)};" for character in value), html.unescape),
    "xml": (html.escape, html.unescape),
    "hex": (lambda value: value.encode().hex(), str),
    "base64": (lambda value: base64.b64encode(value.encode()).decode(), str),
}
# An independent reading of what is no visible character.
CONTROLS = re.compile(
    r"\x1b\][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|\x1b[PX^_][^\x1b\x9c]*(?:\x1b\\|\x9c)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]+[0-~]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]|<U\+[0-9A-F]{4}>"
)
STEERS = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\x1b(?!\[[0-9;:]*m)")


def values() -> st.SearchStrategy[str]:
    """Any text; what stands at a value's ends may be read as a part of what stands beside it, so letters are there."""
    middle = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=4, max_size=20)
    return st.builds("wq{}zw".format, middle).filter(lambda value: value.isprintable())


def paint(text: str, style: str) -> str:
    return f"\x1b[31m{text}\x1b[0m" if style else text


class Sinks:
    """Everything that a run is shown in while it runs, and its events as they are written."""

    def __init__(self, masker: Masker) -> None:
        self.shown: dict[str, list[str]] = {
            name: [] for name in ("plain", "stream", "colours", "github", "gitlab", "json")
        }
        take = {name: lines.append for name, lines in self.shown.items()}
        sinks = [
            Screen(Look(), take["plain"]),
            Screen(Look(stream=True), take["stream"]),
            Screen(Look(stream=True, paint=paint), take["colours"]),
            GitHub(take["github"], token="t0ken"),
            GitLab(take["gitlab"], clock_ns=lambda: 10**18),
            JsonLines(lambda data: self.shown["json"].append(data.decode())),
        ]
        self.journal = Journal(run_id="1", now_ns=lambda: 10**18, masker=masker, sinks=sinks)

    def run(self, chunks: list[bytes], text: str) -> dict[str, str]:
        at = Where(scope="step", job_id="job", step="script/01")
        with self.journal.span(at, PhaseCode.STEP_EXECUTE, {"command": f"echo {text}"}) as outcome:
            writer = self.journal.writer(at)
            for chunk in chunks:
                writer("stdout", chunk)
            writer.close()
            outcome.status, outcome.error = Status.FAILURE, f"failed at {text}"
        where = Where(scope="job", job_id="job")
        self.journal.fact(where, PhaseCode.JOB_CLEANUP, "warning", {"text": text})
        self.journal.fact(
            where,
            PhaseCode.JOB_CLEANUP,
            "job_finished",
            {"failing_step": "script/01"},
            status=Status.FAILURE,
            error=text,
        )
        return {name: "\n".join(lines) for name, lines in self.shown.items()}


@fuzzed(150)
@given(value=values(), encoding=st.sampled_from(sorted(ENCODINGS)), inserted=st.sampled_from(INSERTED), data=st.data())
def test_no_sink_shows_a_secret(value: str, encoding: str, inserted: str, data: st.DataObject) -> None:
    encode, decode = ENCODINGS[encoding]
    masker = Masker()
    try:
        masker.add("S", value)
    except SecretError:
        return
    written = encode(value)
    at = data.draw(st.integers(1, len(written) - 1))
    text = f"key: {written[:at]}{inserted}{written[at:]} ."
    raw = f"first\n{text}\nlast\n".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    chunks = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    for name, shown in Sinks(masker).run(chunks, text).items():
        texts = [shown]
        if name == "json":
            texts = [str(json.loads(line)) + str(json.loads(line).get("text")) for line in shown.split("\n") if line]
            assert not STEERS.search(shown.replace("\n", "")), shown
        elif name != "gitlab":
            assert not STEERS.search(shown), repr(shown)
        for each in texts:
            bare = CONTROLS.sub("", each)
            assert value not in bare, (name, bare)
            assert written not in bare, (name, bare)
            assert value not in decode(bare), (name, bare)


@fuzzed(100)
@given(st.text(max_size=60))
def test_nothing_that_a_service_prints_is_a_command(printed: str) -> None:
    for hostile in (
        f"::error::{printed}",
        f"  ::add-path::{printed}",
        f"{printed}##[group]x",
        f"\x1b[0m::x::{printed}",
    ):
        shown: list[str] = []
        journal = Journal(
            run_id="1",
            now_ns=lambda: 1,
            masker=Masker(),
            sinks=[GitHub(shown.append, token="t0ken")],
        )
        where = Where(scope="job", job_id="job")
        journal.finished(where, PhaseCode.JOB_EXECUTION, 0, Outcome(status=Status.ERROR, error=hostile))
        journal.fact(where, PhaseCode.JOB_CLEANUP, "warning", {"text": hostile})
        error = f"its last lines:\n{hostile}"
        journal.fact(where, PhaseCode.JOB_CLEANUP, "job_finished", {}, status=Status.ERROR, error=error)
        lines = "\n".join(shown).splitlines()
        ours = (
            "::group::job: error in",
            "::stop-commands::t0ken",
            "::t0ken::",
            "::endgroup::",
        )
        assert [line for line in lines if line.lstrip().startswith("::") and not line.startswith(ours)] == []
        assert [line for line in lines if "##[" in line] == []


WORKFLOW = r"""
version: v1
stages: [s]
leak:
  stage: s
  secrets: {TOKEN: {ref: "env://MY_TOKEN", file: false}}
  script:
    - |
      printf '%s\n' "$TOKEN" | sed 's/horse/\x1b[01;31m&\x1b[0m/'
      printf '\033]52;c;aGk=\007\033]0;title\007\033[2J\302\2332J\342\200\256evil\n'
      printf '%s' "$TOKEN" | base64; printf '%s' "$TOKEN" | od -An -tx1 | tr -d ' \n'; echo
      printf '%s' "$TOKEN" | sed 's/./&\x00/g'; echo
      made=$(printf 'made-%s-%s' here 4711); echo "$made" >> "$LOOM_MASK"; echo "MADE=$made" >> "$LOOM_ENV"
    - |
      echo "made: $MADE"
      echo "$TOKEN" | tr 'a-z' 'a-z' >&2; exit 3
"""


def test_no_command_and_no_file_shows_a_secret(victim: Victim) -> None:
    victim.write(workflow=WORKFLOW)
    token = "correct-horse/battery"
    state = victim.home / "state"
    environ = {"MY_TOKEN": token, "LOOM_STATE_DIR": str(state)}
    said = [victim.loom("run", "--local", "--trust", "--stream", "--color", "always", **environ)]
    assert said[0].returncode == 1, said[0].stderr
    for arguments in (
        ["logs", "last"], ["logs", "last", "--color", "always"], ["logs", "last", "--json"], ["show"], ["show", "--stream"],
        ["diagnose"], ["diagnose", "--format", "agent"], ["diagnose", "--format", "json"], ["report", "-o", "-"],
    ):  # fmt: skip
        ended = victim.loom(*arguments, LOOM_STATE_DIR=str(state))
        assert ended.returncode == 0, (arguments, ended.stderr)
        said.append(ended)
    forms = [
        token,
        base64.b64encode(token.encode()).decode(),
        token.encode().hex(),
        quote(token, safe=""),
        "made-here-4711",
    ]
    for ended in said:
        shown = "\n".join([ended.stdout, ended.stderr, *log_lines(ended.stdout)])
        assert not STEERS.search(shown.replace("\r\n", "\n")), (ended.args, STEERS.search(shown))
        assert not any(form in CONTROLS.sub("", shown) for form in forms), ended.args
        assert "[REDACTED:SECRET_TOKEN]" in shown
    for path in (path for path in state.rglob("*") if path.is_file()):
        kept = path.read_bytes().decode(errors="replace").replace("\\u0000", "").replace("\\u001b", "\x1b")
        assert not any(form in CONTROLS.sub("", kept) for form in forms), path


@pytest.mark.parametrize("arguments", [["logs"], ["show"], ["check", "--workflow"], ["run", "--local"], ["cache"], []])
def test_errors_do_not_repeat_what_steers_a_terminal(victim: Victim, arguments: list[str]) -> None:
    hostile = "x\x1b]52;c;aGk=\x07\x1b[2J\u202e\x9b2J\n::error::y\n ##[group]z"
    ended = victim.loom(*arguments, hostile)
    assert ended.returncode != 0
    assert not STEERS.search(ended.stdout + ended.stderr), ended.stderr
    assert "x" in ended.stderr


def test_what_others_named_is_shown_and_steers_nothing(victim: Victim) -> None:
    (victim.root / "a\x1b]0;t\x07\u202eb.txt").write_text("x\x1b[2J\n")
    victim.write(workflow=PLAIN)
    victim.git("commit", "-q", "--allow-empty", "-m", "subject \x1b]52;c;aGk=\x07\u202e")
    (victim.root / "a\x1b]0;t\x07\u202eb.txt").write_text("y\x1b[2J\n")
    (victim.root / "\x1b[2Jnew\u2066").write_text("new")
    for arguments in (
        ["run", "--local", "--verbose"],
        ["show", "--verbose"],
        ["snapshot", "explain"],
        ["runs"],
        ["pull"],
        ["plan"],
    ):
        ended = victim.loom(*arguments)
        assert not STEERS.search(ended.stdout + ended.stderr) or arguments == ["pull"], (
            arguments,
            ended.stdout,
            ended.stderr,
        )
