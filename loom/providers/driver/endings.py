"""The command that ended a step, as the step's own shell reports it: traps that cost nothing while commands succeed.

bash reports from its traps ERR (the exact line, also in a function where the script has no trap ERR of its own) and EXIT (the
command and the call stack; it has no line there), other shells from EXIT with the line. A report is a few lines in a file
beside `$LOOM_ENV`. Traps that the script sets replace these, and a script that lists its traps (`observable`) gets none.

bash also marks, in both streams, where a command of its top level begins in a line that had none yet, which tells the output
of one command from that of another. It writes to the streams of its parent, which is the driver, so a mark comes out where
the script has redirected its own. The trap DEBUG for it costs 0.15 ms of processor time beside a program (`/bin/true` has
0.85 ms), and goes after `CHECKED` commands that took less than `LEAST_MS`; after `MARKED` commands, than `LATER_MS`. A step
of 10,000 programs (8.5 s) takes 0.2 to 0.6 % longer, one of slower commands 2 % at most, one of 10,000 builtins (12 ms) 1.5 ms.

A bash that runs a script as a program has traps too, by `BASH_ENV`, if the job does not set it. It reports to its parent,
which adds that to its own report. `bash -c` gets no traps: with one, it would not become its last command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from loom.status import EndedBy, Frame
from loom.values import Immutable

CHECKED, LEAST_MS = 24, 5
MARKED, LATER_MS = 120, 200
_SHOWS_TRAPS = re.compile(r"\btrap[ \t]*(?:-p|$|[;&|)}\n])|\bset\s+-(?:\w*v|o\s+verbose)", re.MULTILINE)
_IN_THE_WAY = re.compile(r"\bDEBUG\b|\bset\s+-\w*T|functrace|BASH_XTRACEFD")
_SEES_ERRTRACE = re.compile(
    r"\bERR\b|errtrace|\$\{?-|\bset\s+[-+]\w*E|\bset\s+[-+]o\s*(?:$|[;&|)])|\bshopt\b|SHELLOPTS",
    re.MULTILINE,
)
_READS = re.compile(r"(?:^|[\s;&|(!])(?:\.|source)\s", re.MULTILINE)
"""A script that reads another one, which may set a trap ERR: functions get the trap when that is known not to be so."""
_HANDS_ON = ("exit", "exit $?", 'exit "$?"', "return", "return $?")
"""Commands that give the exit code of the one before them."""
_RUNNERS = frozenset(
    ["bash", "command", "env", "exec", "flock", "nice", "nohup", "setsid", "stdbuf", "time", "timeout", "xargs"]
)
_XARGS = 123
"""What xargs gives when a command gave 1 to 125."""
_OF_STEP = re.compile(r"(?:^|/)step\.\d+\Z")
_ENDS = re.compile(r"(?:exit|return)\b|(?:test|\[|\[\[) ")
"""Commands that end a shell without a trap ERR: also a test before `&&`, the last thing that it ran."""
_TO_ITS_END = r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^;&|}'"\\])*"""
_GOES_ON = re.compile(r"\+[a-z]*e|\+o\s+errexit")

# Of bash: kind, code, line, codes of the pipeline; the lines, functions and files of the calls; the command; the directory.
_BASH = (
    r"""{ builtin printf '%%s\n' "%(kind)s $? $LINENO ${PIPESTATUS[*]}" "${BASH_LINENO[*]}" "${FUNCNAME[*]-}" """
    r""""${BASH_SOURCE[*]-}" "${BASH_COMMAND//$'\n'/ }" "$PWD" %(to)s"%(file)s" || :; }"""
)
_AT_ERROR = "{ case $BASH_SUBSHELL in 0) %s ;; esac; } 2>/dev/null"
# A bash that can't fork (254) would wait in its trap for its background processes, which it does not do without a trap.
_AT_EXIT = "{ case $? in 254) exec /bin/sh -c 'exit 254' ;; *) %s ;; esac; } 2>/dev/null"
_CHILDREN = r"""[ ! -s "%(file)s.$$" ] || while IFS= read -r loom_l; do builtin printf "%%s\n" "$loom_l"; done <"%(file)s.$$" """
# The processes in the background that have the step's output, which is that of the shell's parent.
_PRINTING = (
    r"""{ jobs -p >|"%(file)s.jobs"; while read -r loom_j; do [ ! "/proc/$loom_j/fd/1" -ef "/proc/$PPID/fd/3" ] && """
    r"""[ ! "/proc/$loom_j/fd/2" -ef "/proc/$PPID/fd/4" ] || echo B; done <"%(file)s.jobs" >>"%(file)s"; } 2>/dev/null || :"""
)
_SH = r"""{ printf 'S %%s %%s\n%%s\n' "$?" "${LINENO-}" "$PWD" >>"%(file)s"; } 2>/dev/null || :"""
_CHILD_REPORT = (
    r"""builtin printf -v %s "%%%%s\n" "%s $? $LINENO ${PIPESTATUS[*]}" "${BASH_LINENO[*]}" "${FUNCNAME[*]-}" """
    r""""${BASH_SOURCE[*]-}" "${BASH_COMMAND//"$loom_nl"/ }" "$PWD";"""
)
# Its parent is who started it: behind a program that gives its exit code on, that one's. On one line, as all of a prefix.
_CHILD = (
    r"case ${BASH_EXECUTION_STRING+c}$- in c* | *[ivx]*) ;; *) { loom_d=$PWD loom_e= loom_nl=$'\n'; "
    rf"trap '{{ case $BASH_SUBSHELL in 0) {_CHILD_REPORT % ('loom_e', 'E')} ;; esac; }} 2>/dev/null' ERR; "
    rf"trap '{{ case $? in 0 | 254) ;; *) {_CHILD_REPORT % ('loom_x', 'X')} "
    r"""loom_p=$PPID loom_n=; read -r loom_n <"/proc/$PPID/comm"; """
    r"""case $loom_n in xargs | timeout | flock) read -r _ _ _ loom_p _ <"/proc/$PPID/stat" ;; esac; """
    r"""{ builtin printf "%%s\n" "C $loom_n" "$0" "$loom_d"; builtin printf %%s "$loom_x" "$loom_e"; %(children)s; } """
    r""">|"%(file)s.$loom_p" ;; esac; } 2>/dev/null || :' EXIT; } 2>/dev/null ;; esac"""
)
_ERRTRACE = '{ [ -n "${loom_errtrace-}" ] || set -E; } 2>/dev/null; '
_NO_ERRTRACE = "{ loom_errtrace=no; set +E; } 2>/dev/null; "
_ERRTRACE_LATER = '{ [ -n "${loom_errtrace-}" ] || { loom_errtrace=later; set +E; }; } 2>/dev/null; '
_WORD = "${BASH_COMMAND%%%%[!][A-Za-z0-9_./!(-]*}"
_OUT, _ERR = (f'>>"/proc/$PPID/fd/{stream}"' for stream in (3, 4))
# Before a command of the top level: off while a file is read, on for a function where no trap ERR is but loom's.
_DECIDE = (
    rf"""case ${{loom_errtrace-}}:{_WORD} in later:*) ! builtin declare -F "{_WORD}" >/dev/null || """
    r"""{ loom_u=$_ loom_errtrace=no loom_v=$(builtin trap -p ERR; builtin declare -f); """
    r"""case $-$loom_v in *E*trap\ --*) ;; *"trap -- '{ case \$BASH_SUBSHELL in 0) {"*) case ${loom_v#*"' ERR"} in """
    r"""*ERR* | *errtrace* | *"\$-"* | *shopt* | *SHELLOPTS* | *"set -"*E*) ;; *) loom_errtrace=yes; set -E ;; esac ;; esac; """
    r"""builtin : "$loom_u"; } ;; yes:. | yes:source) loom_errtrace=later; set +E ;; esac; """
)
_MARK = (
    rf"""{{ {_DECIDE}"""
    r"""[[ $loom_lines == *,$LINENO,* && $BASH_COMMAND != exit* ]] || { loom_u=$_ loom_lines+=$LINENO,; """
    rf"""builtin printf '%(token)s %%s %%.40s\n' "$LINENO" "{_WORD}" {_OUT}; """
    rf"""builtin printf '%(token)s %%s%%.0s\n' "$LINENO" "$loom_u" {_ERR}; }}; """
    r"""(( ++loom_k %% %(checked)d )) || { loom_u=$_ loom_t=$loom_now loom_now=${EPOCHREALTIME-0}; """
    r"""loom_now=${loom_now/[.,]}; (( loom_now - loom_t > (loom_k > %(marked)d ? %(later)d : %(least)d) )) || { trap - DEBUG; """
    rf"""builtin printf '%(token)s 0\n' {_OUT}; builtin printf '%(token)s 0\n' {_ERR}; }}; builtin : "$loom_u"; }}; """
    r"""} 2>/dev/null || :"""
)
_PREPARE = "{ loom_k=0 loom_lines=, loom_now=${EPOCHREALTIME-0}; loom_now=${loom_now/[.,]}; \
[[ -w /proc/$PPID/fd/3 && -w /proc/$PPID/fd/4 ]] && trap %s DEBUG; } 2>/dev/null || :; "
_MOST_LINES = 200


def observable(scripts: Sequence[str]) -> bool:
    """Return whether no script lists its traps, or the lines that it reads, and so would show these."""
    return not any(_SHOWS_TRAPS.search(script) for script in scripts)


def is_bash(shell: Sequence[str]) -> bool:
    return PurePosixPath(shell[0]).name == "bash" and not any(
        re.match(r"-\w*[xvT]", word) or word in ("xtrace", "verbose", "functrace") for word in shell[1:]
    )


def reporting(shell: Sequence[str], file: str) -> str:
    """Return a prefix for a script's first line that makes `shell` report to `file` the command that ended the script."""
    if is_bash(shell):
        at_error = _AT_ERROR % (_BASH % {"kind": "E", "to": ">|", "file": file})
        # Without the trap DEBUG: what follows would count as commands of the script, and could end its marks.
        more = f'trap - DEBUG; {_PRINTING}; {{ {_CHILDREN}; }} >>"%(file)s"' % {"file": file}
        at_exit = _AT_EXIT % f"{_BASH % {'kind': 'X', 'to': '>>', 'file': file}}; {more}"
        traps = f"trap {shlex.quote(at_error)} ERR; trap {shlex.quote(at_exit)} EXIT"
        child = shlex.quote(_CHILD % {"file": file, "children": _CHILDREN % {"file": file}})
        given = f'[ -n "${{BASH_ENV-}}" ] || {{ builtin printf %s {child} >|"{file}.bash"; export BASH_ENV="{file}.bash"; }}'
        return f"{{ {traps}; {given}; }} 2>/dev/null; "
    if PurePosixPath(shell[0]).name in ("sh", "ash", "dash", "busybox"):
        return f"{{ trap {shlex.quote(f'{_SH}; {_PRINTING}' % {'file': file})} EXIT; }} 2>/dev/null; "
    return ""


def marking(shell: Sequence[str], script: str, token: bytes) -> str:
    """Return a prefix for each script of a bash that marks the beginning of commands and reports from functions."""
    if not is_bash(shell):
        return ""
    reads = _ERRTRACE_LATER if _READS.search(script) else _ERRTRACE
    errtrace = _NO_ERRTRACE if _SEES_ERRTRACE.search(script) else reads
    if not token or _IN_THE_WAY.search(script):
        return errtrace
    limits = {"checked": CHECKED, "least": 1000 * LEAST_MS, "marked": MARKED, "later": 1000 * LATER_MS}
    mark = _MARK % {**limits, "token": token.decode()}
    return errtrace + _PREPARE % shlex.quote(mark)


class CommandMark(Struct, frozen=True):
    """A mark: the line and the first word of a command, and the lines of each stream before its output."""

    line: int
    word: str
    stdout_lines: int = 0
    stderr_lines: int = 0


class _Report(Immutable):
    kind: str
    code: int
    line: int | None
    parts: Sequence[int] = ()
    lines: Sequence[int] = ()
    functions: Sequence[str] = ()
    files: Sequence[str] = ()
    command: str = ""
    directory: str = ""


def reports_of(lines: Sequence[bytes]) -> tuple[str, ...]:
    """Decode the lines of a step's reports, for `Exit.reports`."""
    return tuple(line.decode("utf-8", "replace") for line in lines[:_MOST_LINES])


class _Level(Struct, frozen=True):
    """The reports by kind of the step's shell, or of one that ran the script `name` in `directory`; `parent` started it."""

    parent: str = ""
    name: str = ""
    directory: str = ""
    reports: dict[str, _Report] = {}


def _levels(lines: Sequence[str]) -> list[_Level]:
    """Return the step's shell and the scripts that it ran last, each in the one before; a step may have written anything else."""
    found = [_Level()]
    number = 0
    while number < len(lines):
        match = re.fullmatch(r"([EXS]) (\d{1,3}) (\d{1,7})?((?: \d{1,3})*)", lines[number])
        rest = [*lines[number + 1 : number + 6], "", "", "", "", ""]
        number += 1
        if match is None:
            if lines[number - 1].startswith("C "):
                found.append(_Level(lines[number - 1][2:], rest[0], rest[1], {}))
                number += 2
            continue
        plain = match[1] == "S"
        number += 1 if plain else 5
        found[-1].reports[match[1]] = _Report(
            kind=match[1],
            code=int(match[2]),
            line=int(match[3]) if match[3] else None,
            parts=[] if plain else [int(word) for word in match[4].split()],
            lines=[] if plain else [int(word) for word in rest[0].split() if word.isdigit()],
            functions=[] if plain else rest[1].split(),
            files=[] if plain else rest[2].split(),
            command="" if plain else rest[3].strip(),
            directory=rest[0] if plain else rest[4],
        )
    return found


def ended_by(reports: Sequence[str], marks: Sequence[CommandMark], script: str, code: int) -> EndedBy | None:
    """Return the command that ended `script` with `code`, as its shell reported it; None where that is not certain. In a script
    that this command ran, the command there."""
    step, *scripts = _levels(reports)
    ended = _ended_by(step.reports, marks, script, code)
    directory = next(
        (report.directory for report in reversed(list(step.reports.values())) if report.directory.startswith("/")), None
    )
    for level in scripts:
        inner = None if ended is None else _command_in_script(level, ended)
        if inner is None:
            break
        ended = inner
    return ended and replace(ended, directory=directory, background="B" in reports)


def _command_in_script(level: _Level, outer: EndedBy) -> EndedBy | None:
    """Return the command that ended a script, if `outer` is the command that ran it and ended by it."""
    at_end, failed = level.reports.get("X"), level.reports.get("E")
    if at_end is None or not _runs(outer.command, PurePosixPath(level.name).name):
        return None
    given = _XARGS if level.parent == "xargs" and at_end.code in range(1, 126) else at_end.code
    if outer.code != given:
        return None
    commands = (at_end.command,) if at_end.command not in _HANDS_ON else (*_HANDS_ON, failed.command if failed else "")
    known = failed is not None and failed.code == at_end.code and failed.command in commands
    report, line = (failed, failed.line) if known and failed is not None else (at_end, None)
    stack = [
        replace(frame, file=str(PurePosixPath(level.directory, frame.file))) if frame.file else frame
        for frame in _stack(report, line)
    ]
    return EndedBy(
        command=report.command[:300],
        line=outer.line,
        code=report.code,
        parts=list(report.parts) if known and len(report.parts) > 1 else [],
        stack=[*stack, *(outer.stack or [Frame(line=outer.line, function="main")])],
    )


def _runs(command: str, script: str) -> bool:
    """Return whether a part of the command is the script, or a program that runs what its arguments name, with the script."""
    for part in re.split(r"[|;&\n({]+", command):
        words = [PurePosixPath(word.strip("\"'")).name for word in part.split() if not re.match(r"\w+=", word)]
        if script in words and (words[0] == script or words[0] in _RUNNERS):
            return True
    return False


def _ended_by(found: Mapping[str, _Report], marks: Sequence[CommandMark], script: str, code: int) -> EndedBy | None:
    written = script.splitlines()
    failed, at_end, plain = found.get("E"), found.get("X"), found.get("S")
    if plain is not None:
        number = plain.line or (1 if len(written) == 1 and not re.search(r"[;&|]", script) else 0)
        known = plain.code == code and 1 <= number <= len(written)
        return EndedBy(command=_whole(written, number), line=number, code=code) if known else None
    while at_end is not None and len(marks) > 1 and marks[-1].line == 1 and at_end.command.startswith(marks[-1].word):
        marks = marks[:-1]  # that of the trap EXIT itself
    in_trap = failed is not None and _sources_step(failed)
    if (
        failed is not None
        and not in_trap
        and failed.code == code
        and failed.files
        and _is_last(failed, at_end, marks, script)
    ):
        return _ending_by_report(failed, failed.line, written)
    if at_end is not None and at_end.code != code:
        return None
    if at_end is not None and at_end.files and not _sources_step(at_end):
        in_function = bool(at_end.functions) and at_end.functions[0] not in ("source", "main")
        known = in_function or _ENDS.match(at_end.command) is not None
        line = _only_line(written, at_end.command) if _OF_STEP.search(at_end.files[0]) else None
        return _ending_by_report(at_end, line, written) if known else None
    return _ending_by_mark(marks, at_end, written, code)


def _is_last(failed: _Report, at_end: _Report | None, marks: Sequence[CommandMark], script: str) -> bool:
    """Return whether a failed command ended the shell: under `-e` each does."""
    if not _GOES_ON.search(script):
        return True
    if at_end is not None and not _sources_step(at_end):
        return at_end.command == failed.command
    return bool(marks) and marks[-1].line == failed.line


def _sources_step(report: _Report) -> bool:
    """Return whether it names the command that runs the step's file in a shared shell, not one of the step."""
    return report.command.startswith((". ", 'exit "$loom_code"'))


def _ending_by_report(report: _Report, line: int | None, written: Sequence[str]) -> EndedBy:
    stack = _stack(report, line)
    own = [frame.line for frame in stack if frame.file is None]
    command = report.command
    if stack and stack[0].file is None and line is not None and (len(report.parts) > 1 or command.startswith("(")):
        command = _whole(written, line)
    return EndedBy(
        command=command[:300],
        line=own[-1] if own else None,
        code=report.code,
        parts=list(report.parts) if report.kind == "E" and len(report.parts) > 1 else [],
        stack=stack if len(stack) > 1 else [],
    )


def _ending_by_mark(
    marks: Sequence[CommandMark], at_end: _Report | None, written: Sequence[str], code: int
) -> EndedBy | None:
    """Return the command of the mark at which the shell ended: `exit`, `exec`, or the call of a function."""
    if not marks or marks[-1].line == 0:
        return None
    if at_end is not None and at_end.functions and at_end.functions[0] not in ("source", "main"):
        command = f"exit {code}"
        return _ending_by_report(replace(at_end, command=command), _only_line(written, command), written)
    last = next((mark for mark in marks if mark.word == "exit"), marks[-1])
    line = written[last.line - 1] if 1 <= last.line <= len(written) else ""
    if (given := re.search(r"\bexit (\d+)\s*$", line)) and int(given[1]) != code:
        return None  # a trap of the script's has ended otherwise
    if last.word in ("exit", "exec") and (whole := re.search(rf"\b{last.word}\b{_TO_ITS_END}", line)):
        return EndedBy(command=whole[0].strip(), line=last.line, code=code)
    own = next((mark for mark in reversed(marks) if mark.line <= len(written)), last)
    function = re.compile(rf"(?:^|\s){re.escape(own.word)}\s*\(\)|\bfunction\s+{re.escape(own.word)}\b")
    # Any other command would have been reported, so it calls a function, or reads a file, that ended the shell.
    if at_end is not None or (own.word and any(function.search(text) for text in written)):
        return EndedBy(command=_whole(written, own.line), line=own.line, code=code)
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
