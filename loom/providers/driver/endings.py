"""The command that ended a step, as the step's own shell reports it: traps that cost nothing while commands succeed.

bash reports from its traps ERR (the exact line) and EXIT (the command and the call stack; it has no line there), other
shells from EXIT with the line. A report is a few lines in a file beside `$LOOM_ENV`. Traps that the script sets replace
these, and a script that lists its traps (`observable`) gets none.

A shared bash also marks, in both streams, where each of the first `MOST_MARKS` commands of its top level begins, which
tells the output of one command from that of another. It writes to copies of its streams that bash keeps for itself, so
no child inherits them. A mark costs 25 µs of a processor. All of it
takes 1.3 ms for a step of 10,000 builtins (8.7 ms in the shell alone), and less than what can be measured for one of 300
programs (250 ms); without a limit, 10,000 builtins would take thirty times as long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from loom.status import EndedBy, Frame

MOST_MARKS = 24
_SHOWS_TRAPS = re.compile(r"\btrap[ \t]*(?:-p|$|[;&|)}\n])|\bset\s+-(?:\w*v|o\s+verbose)", re.MULTILINE)
_IN_THE_WAY = re.compile(r"\bDEBUG\b|\bset\s+-\w*T|functrace|BASH_XTRACEFD|(?<![\w$])\d\d+[<>]")
_OF_STEP = re.compile(r"(?:^|/)step\.\d+\Z")
_ENDS = re.compile(r"(?:exit|return)\b|(?:test|\[|\[\[) ")
"""Commands that end a shell without a trap ERR: also a test before `&&`, the last thing that it ran."""
_GOES_ON = re.compile(r"\+[a-z]*e|\+o\s+errexit")

# Of bash: kind, code, line, parts of the pipeline; the lines, functions and files of the calls; the command; the directory.
_BASH = (
    r"""{ builtin printf '%%s\n' "%(kind)s $? $LINENO ${#PIPESTATUS[@]}" "${BASH_LINENO[*]}" "${FUNCNAME[*]-}" """
    r""""${BASH_SOURCE[*]-}" "${BASH_COMMAND//$'\n'/ }" "$PWD" %(to)s"%(file)s"; } 2>/dev/null || :"""
)
# A bash that could make no process (254) would wait in its trap for all that it has in the background, as it does not without.
_AT_EXIT = "case $? in 254) exec /bin/sh -c 'exit 254' ;; *) %s ;; esac"
_SH = r"""{ printf 'S %%s %%s\n%%s\n' "$?" "${LINENO-}" "$PWD" >>"%(file)s"; } 2>/dev/null || :"""
_WORD = "${BASH_COMMAND%%%%[!][A-Za-z0-9_./!(-]*}"
_MARK = (
    r"""{ loom_u=$_; [ "$((loom_k += 1))" -lt %(most)d ] || trap - DEBUG; """
    rf"""builtin printf '%(token)s %%s %%.40s\n' "$LINENO" "{_WORD}" >&$loom_o; """
    r"""builtin printf '%(token)s %%s%%.0s\n' "$LINENO" "$loom_u" >&$loom_e; } 2>/dev/null || :"""
)
# The copies of its streams are those that bash has saved for the end of `. file`, the first ones from 10 on.
_PREPARE = """{ loom_k=0 loom_o= loom_e=; for loom_i in 10 11 12 13 14 15 16 17 18 19 20; do \
[ -z "$loom_o" ] && [ /dev/fd/$loom_i -ef /dev/fd/1 ] && loom_o=$loom_i && continue; \
[ -z "$loom_e" ] && [ /dev/fd/$loom_i -ef /dev/fd/7 ] && loom_e=$loom_i; done; unset loom_i; \
[ -z "$loom_o" ] || [ -z "$loom_e" ] || trap %s DEBUG; } 7>&2 2>/dev/null || :; """
_MOST_LINES = 100
COPIES = (98, 99)
"""The descriptors of the shared bash that are copies of its streams; its commands have them closed."""


def observable(scripts: Sequence[str]) -> bool:
    """Return whether no script lists its traps, or the lines that it reads, and so would show these."""
    return not any(_SHOWS_TRAPS.search(script) for script in scripts)


def is_bash(shell: Sequence[str]) -> bool:
    return PurePosixPath(shell[0]).name == "bash" and not any(
        re.match(r"-\w*[xvT]", word) or word in ("xtrace", "verbose", "functrace") for word in shell[1:]
    )


def reporting(shell: Sequence[str], file: str) -> str:
    """Return what stands before a script, on its first line, so that `shell` reports the command that ends it to `file`."""
    if is_bash(shell):
        traps = [("ERR", {"kind": "E", "to": ">|"}), ("EXIT", {"kind": "X", "to": ">>"})]
        reports = {name: _BASH % {**values, "file": file} for name, values in traps}
        reports["EXIT"] = _AT_EXIT % reports["EXIT"]
        texts = [f"trap {_quoted(report)} {name}" for name, report in reports.items()]
        return f"{{ {'; '.join(texts)}; }} 2>/dev/null; "
    if PurePosixPath(shell[0]).name in ("sh", "ash", "dash", "busybox"):
        return f"{{ trap {_quoted(_SH % {'file': file})} EXIT; }} 2>/dev/null; "
    return ""


def marking(shell: Sequence[str], script: str, token: bytes) -> str:
    """Return what stands before a script in a shared bash, so that it marks where its commands begin."""
    if not token or not is_bash(shell) or _IN_THE_WAY.search(script):
        return ""
    return _PREPARE % _quoted(_MARK % {"most": MOST_MARKS, "token": token.decode()})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


class Begun(Struct, frozen=True):
    """A mark: the line and the first word of a command, and the lines of each stream before its output."""

    line: int
    word: str
    stdout_lines: int = 0
    stderr_lines: int = 0


class _Report(Struct, frozen=True, kw_only=True):
    kind: str
    code: int
    line: int | None
    parts: int = 1
    lines: Sequence[int] = ()
    functions: Sequence[str] = ()
    files: Sequence[str] = ()
    command: str = ""
    directory: str = ""


def reports_of(lines: Sequence[bytes]) -> tuple[str, ...]:
    """Decode the lines of a step's reports, for `Exit.reports`."""
    return tuple(line.decode("utf-8", "replace") for line in lines[:_MOST_LINES])


def _reports(lines: Sequence[str]) -> dict[str, _Report]:
    """Return the last report of each kind; a step may have written anything else."""
    found: dict[str, _Report] = {}
    for number, text in enumerate(lines):
        match = re.fullmatch(r"([EXS]) (\d{1,3}) (\d{1,7})?(?: (\d{1,4}))?", text)
        if match is None:
            continue
        report = _Report(kind=match[1], code=int(match[2]), line=int(match[3]) if match[3] else None)
        rest = [*lines[number + 1 : number + 6], "", "", "", "", ""]
        if match[1] == "S":
            report = replace(report, directory=rest[0])
        else:
            report = _Report(
                kind=report.kind,
                code=report.code,
                line=report.line,
                parts=int(match[4] or 1),
                lines=[int(word) for word in rest[0].split() if word.isdigit()],
                functions=rest[1].split(),
                files=rest[2].split(),
                command=rest[3].strip(),
                directory=rest[4],
            )
        found[report.kind] = report
    return found


def ended_by(reports: Sequence[str], marks: Sequence[Begun], script: str, code: int) -> EndedBy | None:
    """Return the command that ended `script` with `code`, as its shell reported; None where that is not certain."""
    found = _reports(reports)
    ended = _ended_by(found, marks, script, code)
    directory = next(
        (report.directory for report in reversed(list(found.values())) if report.directory.startswith("/")), None
    )
    return ended and replace(ended, directory=directory)


def _ended_by(found: Mapping[str, _Report], marks: Sequence[Begun], script: str, code: int) -> EndedBy | None:
    written = script.splitlines()
    failed, at_end, plain = found.get("E"), found.get("X"), found.get("S")
    if plain is not None:
        known = plain.code == code and plain.line is not None and 1 <= plain.line <= len(written)
        return EndedBy(command=_whole(written, plain.line), line=plain.line, code=code) if known else None
    if at_end is not None and len(marks) > 1 and marks[-1].line == 1 and at_end.command.startswith(marks[-1].word):
        marks = marks[:-1]  # that of the trap EXIT itself
    if failed is not None and failed.code == code and failed.files and _is_last(failed, at_end, marks, script):
        return _by_report(failed, failed.line, written)
    if at_end is not None and at_end.code != code:
        return None
    if at_end is not None and at_end.files and not _sources_step(at_end):
        in_function = bool(at_end.functions) and at_end.functions[0] not in ("source", "main")
        known = in_function or _ENDS.match(at_end.command) is not None
        return _by_report(at_end, _only_line(written, at_end.command), written) if known else None
    return _by_mark(marks, at_end, written, code)


def _is_last(failed: _Report, at_end: _Report | None, marks: Sequence[Begun], script: str) -> bool:
    """Return whether a failed command ended the shell: under `-e` each does."""
    if not _GOES_ON.search(script):
        return True
    if at_end is not None and not _sources_step(at_end):
        return at_end.command == failed.command
    return bool(marks) and len(marks) < MOST_MARKS and marks[-1].line == failed.line


def _sources_step(report: _Report) -> bool:
    """Return whether it names the command that runs the step's file in a shared shell, not one of the step."""
    return report.command.startswith((". ", 'exit "$loom_code"'))


def _by_report(report: _Report, line: int | None, written: Sequence[str]) -> EndedBy:
    stack = _stack(report, line)
    own = [frame.line for frame in stack if frame.file is None]
    command = report.command
    if stack and stack[0].file is None and line is not None and (report.parts > 1 or command.startswith("(")):
        command = _whole(written, line)
    return EndedBy(
        command=command[:300], line=own[-1] if own else None, code=report.code, stack=stack if len(stack) > 1 else []
    )


def _by_mark(marks: Sequence[Begun], at_end: _Report | None, written: Sequence[str], code: int) -> EndedBy | None:
    """Return the command of the mark at which the shell ended: `exit`, `exec`, or the call of a function."""
    if not marks or len(marks) >= MOST_MARKS:
        return None
    if at_end is not None and at_end.functions and at_end.functions[0] not in ("source", "main"):
        command = f"exit {code}"
        return _by_report(replace(at_end, command=command), _only_line(written, command), written)
    last = next((mark for mark in marks if mark.word == "exit"), marks[-1])
    line = written[last.line - 1] if 1 <= last.line <= len(written) else ""
    if last.word in ("exit", "exec") and (whole := re.search(rf"\b{last.word}\b[^;&|}}]*", line)):
        return EndedBy(command=whole[0].strip(), line=last.line, code=code)
    function = re.compile(rf"(?:^|\s){re.escape(last.word)}\s*\(\)|\bfunction\s+{re.escape(last.word)}\b")
    if last.word and line and any(function.search(text) for text in written):
        return EndedBy(command=_whole(written, last.line), line=last.line, code=code)
    if at_end is not None and at_end.command.startswith('exit "$loom_code"'):  # it ran to its end
        last = [mark for mark in marks if mark.line <= len(written)][-1]
        return EndedBy(command=_whole(written, last.line), line=last.line, code=code)
    return None


def _stack(report: _Report, line: int | None) -> list[Frame]:
    """Return the calls, the innermost first; a frame without a file is in the step's script."""
    lines = [line, *report.lines, *(None for _ in report.files)]
    found = []
    for number, file in enumerate(report.files):
        name = report.functions[number] if number < len(report.functions) else None
        own = _OF_STEP.search(file) is not None
        if file:
            found.append(Frame(file=None if own else file, line=lines[number] or None, function=name))
        if own and name in (None, "source", "main"):
            break
    return found


def _only_line(written: Sequence[str], command: str) -> int | None:
    """Return the line of the script that has the command, if one alone does."""
    found = [number for number, line in enumerate(written, 1) if command and command in line]
    return found[0] if len(found) == 1 else None


def _whole(written: Sequence[str], line: int | None) -> str:
    """Return the command that ends in this line: with the lines before it that go on in it."""
    if line is None or not 1 <= line <= len(written):
        return ""
    first = line - 1
    while first > 0 and written[first - 1].rstrip().endswith(("|", "\\")):
        first -= 1
    last = line
    while last < len(written) and written[last - 1].rstrip().endswith(("|", "\\")):
        last += 1
    return " ".join(part.strip().removesuffix("\\").strip() for part in written[first:last])[:300]
