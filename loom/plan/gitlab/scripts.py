"""Steps that only together are commands: GitLab's runner gives all entries of `script` to one shell, as one text."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from msgspec.structs import replace

from loom.plan.model import Step

_PAIRS = (("if", "fi"), ("case", "esac"), ("do", "done"), ("{", "}"), ("(", ")"))
_WORDS = re.compile(r"[{}()]|\b(?:if|fi|case|esac|do|done)\b")
_OPEN = re.compile(r"<<(?!<)|(?:\||&&)\s*\Z")
_BROKEN_OFF = re.compile(r"unexpected end of file|unexpected EOF|delimited by end-of-file")


def joined(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps; entries that bash, where this machine has it, can only read together are one, with the first's name."""
    rest = list(steps)
    while rest:
        step = rest.pop(0)
        whole = step.script
        for number, other in enumerate(rest if _is_broken_off(whole) else (), start=1):
            if (other.phase == "after_script") != (step.phase == "after_script"):
                break
            whole += f"\n{_shown(other.script)}\n{other.script}"
            if not (open_ := _is_broken_off(whole)) and open_ is not None:
                step, rest = replace(step, script=whole, literal=False), rest[number:]
                break
        yield step


def _shown(script: str) -> str:
    """Return the command by which the runner shows an entry before it (`writeCommands` in its shells/abstract.go)."""
    first, *others = script.strip().split("\n")
    return f"echo {shlex.quote(f'$ {first}' + (' # collapsed multi-line command' if others else ''))}"


def _is_broken_off(script: str) -> bool | None:
    """Return whether a script lacks its end; None if it is wrong in another way, or nothing can tell."""
    words: Sequence[str] = _WORDS.findall(script)
    paired = all(words.count(one) == words.count(other) for one, other in _PAIRS)
    closed = not any(script.count(quote) % 2 for quote in "'\"`")
    return False if paired and closed and not _OPEN.search(script) else _read(script)  # without a process for most


@lru_cache(4096)
def _read(script: str) -> bool | None:
    if (bash := shutil.which("bash")) is None:
        return None
    given = script.encode(errors="surrogateescape") + b"\n"
    command = (bash, "-O", "extglob", "-n")
    try:
        ran = subprocess.run(command, input=given, env={"LC_ALL": "C"}, capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    said = ran.stderr.decode(errors="replace")
    return True if _BROKEN_OFF.search(said) else None if said else False
