"""The protocol with the driver in a container: commands are lines of shell, answers are marks in the output.

A mark is `<token> <text>` up to a line end, on both streams. Each command has a new random token, so a step can't forge
a mark. `Cutter` removes marks from a stream, at any chunk boundaries.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath

from msgspec import Struct

from loom.providers.command import Command, Share
from loom.providers.driver import endings, steps
from loom.status import Stream
from loom.values import Environ

DIRECTORY = "/run/loom"
"""A tmpfs of the container, writable for all its users, for scripts, `$LOOM_ENV` and secrets."""
REPORTED: Mapping[str, str] = {
    "=": "env",
    "-": "mask",
    "!": "ended",
    "p": "path",
    "o": "output",
    "v": "saved",
    "s": "summary",
}
"""The files beside `$LOOM_ENV` that the driver reads after a step, by the letter of their marks."""
_FIRST = b"\x1e"
_PREFIX = _FIRST + b"loom:"

ENDED = "ended"
"""The file beside `$LOOM_ENV` with the reports of a step's shell (`endings`)."""

HANDED_ON = f"{DIRECTORY}/handed"
"""The file with the variables that handed-over steps appended to `$LOOM_ENV`, as shell text for later steps."""

MARK = "loom_boot"
"""Is in the command line of each process of the driver, and of nothing else."""
SURROUNDINGS = f"{DIRECTORY}/surroundings"
"""What steps inherit from the driver: shell text that sets environment, umask and limits. Only its owner believes it, so that
root runs no text of the job's user."""
_INHERIT = f"[ -O {SURROUNDINGS} ] && . {SURROUNDINGS}"
_ENTER = f"""
loom_names=$1 loom_bytes=$2; shift 2
if [ -O {SURROUNDINGS} ]; then
  for loom_name in $loom_names; do eval "loom_own_$loom_name=\\${{$loom_name-}}"; done
  . {SURROUNDINGS}
  for loom_name in $loom_names; do eval "$loom_name=\\$loom_own_$loom_name; export $loom_name"; done
fi 2>/dev/null
eval "$loom_bytes"
exec "$@"
"""


def environment(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of a container, those `given` and the driver's own; and those of them that each step must set, since
    they are no text, and an engine's JSON can't encode them.
    """
    found = {**given, "LOOM_ENV": f"{DIRECTORY}/env", "LOOM_MASK": f"{DIRECTORY}/mask"}
    # The workspace may have another owner, which git would reject as dubious.
    try:
        count = int(found.get("GIT_CONFIG_COUNT", "0"))
    except ValueError:
        count = 0
    found[f"GIT_CONFIG_KEY_{count}"] = "safe.directory"
    found[f"GIT_CONFIG_VALUE_{count}"] = "*"
    found["GIT_CONFIG_COUNT"] = str(count + 1)
    texts = {name: value for name, value in found.items() if is_text(value)}
    return texts, {name: value for name, value in found.items() if name not in texts}


def entering(command: Sequence[str], environment: Environ) -> list[str]:
    """`command` with what steps inherit around it; `environment`, which it is started with, counts more.

    A value that is not text is set here, since the engine's JSON can't encode it.
    """
    names = [name for name in environment if name.isidentifier() and name.isascii()]
    set_bytes = [_assignment(name, environment[name]) for name in names if not is_text(environment[name])]
    return ["sh", "-c", _ENTER, "loom", " ".join(names), "\n".join(set_bytes), *command]


def is_text(value: str) -> bool:
    """Return whether `value` has no bytes that are not UTF-8 (surrogates, in Python)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _assignment(name: str, value: str) -> str:
    escaped = "".join(f"\\0{byte:03o}" for byte in os.fsencode(value))
    # The `x` protects newlines at the end, which a substitution drops.
    return f"{name}=$(printf %b '{escaped}x'); {name}=${{{name}%x}}; export {name}"


NOBODY_CAME_S = 120
"""How long a container waits for the driver. Then it ends, because its creator can't reach it."""
NOBODY_CAME_CODE = 155


def boot(limit_s: int = NOBODY_CAME_S) -> tuple[str, ...]:
    """Return the container's command: it reads the driver up to an empty line and runs it.

    Keeping the driver out of the arguments keeps `ps` readable and protects it from a step's `pkill -f`. Not every
    shell's `read` supports a limit, so a guard (if the image has `sleep`) ends this shell; the driver ends the guard.
    """
    # KILL, because the signal may arrive before the child runs `sleep`; by `$!`, which is set before a trap can run.
    guard = f"(trap 'kill -9 $! && wait $!; exit' TERM; sleep {limit_s} & wait $! && kill $$) >/dev/null 2>&1 &"
    ended = f"loom_boot=$!; trap 'exit {NOBODY_CAME_CODE}' TERM; loom_s="
    read = 'while IFS= read -r loom_line && [ -n "$loom_line" ]; do loom_s="$loom_s$loom_line\n"; done; eval "$loom_s"'
    return ("sh", "-c", f"{_INHERIT}; {guard} {ended}; {read}", "loom")


BOOT = boot()


def command_behind(entrypoint: Sequence[str] | None, command: Sequence[str]) -> list[str]:
    """Return a container's command, a `boot`, behind an entrypoint of the workflow.

    A shell with `-c` reads one word of it as its script, which is all of it here. GitLab's runner gives it `sh -c SCRIPT`,
    and so `sh` then reads its steps, never bash.
    """
    if not entrypoint or not _TAKES_SCRIPT.fullmatch(f"{PurePosixPath(entrypoint[0]).name} {entrypoint[-1]}"):
        return [*(entrypoint or ()), *command]
    name, option, script, *rest = command
    return [*entrypoint, f"exec {shlex.join([name, option, f'loom_no_bash=1; {script}', *rest])}"]


_TAKES_SCRIPT = re.compile(r"(?:ba|da|a|k|mk|z)?sh -\w*c")


@cache
def program() -> bytes:
    """Return the driver of a container as sent: no comments, no empty lines, then one empty line."""
    return _source("container.sh") + _source("driver.sh") + b"\n"


def program_here(directory: str, mark: str) -> bytes:
    """Return the driver of a job on this machine, whose processes have `mark` in their environment."""
    settings = b"loom_dir=%b loom_own=%b\n" % (steps.quoted(directory), steps.quoted(mark))
    return settings + _source("host.sh") + _source("driver.sh")


@cache
def handing_over() -> bytes:
    """Return the command before `later`: the part of the driver for it, with nothing handed over."""
    return _ordered("eval", _source("detached.sh"))


@cache
def source(file: Path) -> str:
    """Return a program for a shell as it is sent: no comments, no empty lines."""
    return "".join(f"{line}\n" for line in file.read_text().splitlines() if line.strip() and line.lstrip()[0] != "#")


def _source(name: str) -> bytes:
    return source(Path(__file__).with_name(name)).encode()


def new_token() -> bytes:
    return _PREFIX + secrets.token_hex(16).encode()


def quoted(text: str | bytes) -> bytes:
    """Quote `text` as one word of a one-line shell command; any bytes except NUL."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    # A line end would end the command, so it comes from a variable of the driver.
    return b"'" + raw.replace(b"'", b"'\\''").replace(b"\n", b"'\"$loom_nl\"'") + b"'"


def _ordered(name: str, *words: str | bytes) -> bytes:
    """Return the line of a command of the driver."""
    return b" ".join([name.encode(), *map(quoted, words)]) + b"\n"


def begin_token(token: bytes) -> bytes:
    """Return the token of the marks where commands begin. The step knows it, and only half of the other one by it."""
    return _PREFIX + b"+" + token[-16:]


greeting = partial(_ordered, "loom_greeting")
keep = partial(_ordered, "loom_keep")
end = partial(_ordered, "loom_quit")
"""Commands with no more words than a token."""


def step(
    token: bytes, command: Command, number: int, directory: str = DIRECTORY, *, handed_over: bool = False
) -> bytes:
    """Run a command with all its variables. ProviderError for text that no shell accepts.

    `handed_over`: with the variables that the steps before it handed on.
    """
    script = command.script
    steps.checked(script, command.environment)
    if command.observed:
        marks = endings.marking(command.shell, script, begin_token(token))
        script = endings.reporting(command.shell, f"{directory}/{ENDED}") + marks + script
    file = f"{directory}/step.{number}"
    settings = (_TAKE_ON if handed_over else b"") + _settings(command)
    for name, reported in command.files.items():
        settings += f'\nexport {name}={directory}/{reported}; : >|"${name}"'.encode()
    if command.start_in:
        settings += b"\ncd -- " + steps.quoted(command.start_in) + b" || exit 1"
    return _ordered("loom_step", token, script, settings, file, *steps.arguments_of(command.shell, file))


_TAKE_ON = f"[ ! -r {HANDED_ON} ] || . {HANDED_ON}\n".encode()


def _settings(command: Command) -> bytes:
    return steps.exports(command.environment) + (b"exec 2>&1" if command.merge_output else b"")


def share(token: bytes, command: Command) -> bytes:
    """Start a shell that steps share, that of `command`, until CLOSE or its own end; each step is `next_step`."""
    return _ordered("loom_share", token, _settings(command), *command.shell)


def next_step(
    token: bytes,
    command: Command,
    share: Share,
    number: int,
    directory: str = DIRECTORY,
    *,
    restore: bool = False,
    handed_over: bool = False,
) -> bytes:
    """Run a command in the shared shell with this token, with `handed_over` as in `step`. ProviderError as there."""
    steps.checked(command.script, command.environment)
    file, state = f"{directory}/step.{number}", f"{directory}/state"
    content = steps.file_of(command, share, f"{directory}/{ENDED}", begin_token(token))
    program = steps.program(command, share, file, state, restore=restore)
    return _ordered("loom_next", content, file, (_TAKE_ON if handed_over else b"") + program)


def later(when: str, *lines: bytes) -> bytes:
    """Hand lines over: to run them after what was handed over before (see `loom_later` in detached.sh)."""
    return _ordered("loom_later", when, b"; ".join(line.removesuffix(b"\n") for line in lines))


GO = b"loom_go 0\n"
"""Begin with what was handed over."""
GO_INSIDE = b"printf 'loom_go 0\\n' >&5"
"""The shared shell that starts next begins with what was handed over."""
STAY = b"loom_stay\n"
"""Do nothing more of what was handed over."""


def put(token: bytes, path: str, content: bytes) -> bytes:
    """Write `content`, any bytes, to `path`, readable only for the driver's user."""
    escaped = content.replace(b"\\", b"\\\\").replace(b"\0", b"\\0000")
    return _ordered("loom_put", token, path, escaped)


def ping(token: bytes) -> bytes:
    """Return a command that is only answered."""
    return _ordered("loom_mark", token, "0")


INPUT_LOST_CODE = 154
"""The driver's exit code when its input closed without an order to end: 128 plus signal 26."""
OK = b"ok\n"
TERM = b"term\n"
KILL = b"kill\n"
CLOSE = b"close\n"
"""The shared shell has no further step: its input ends."""


class Mark(Struct, frozen=True):
    """The text between a token and the line end: ` <answer>`, a letter of REPORTED and a line of its file, or `.<answer>` at
    the end of a shared shell; ` <line> <word>` where a command begins (`begins`).
    """

    text: bytes
    begins: bool = False

    def tell(self, stream: Stream, began: Callable[[Stream, int, str], None] | None) -> None:
        """Call `began` (`Command.began`), if this is where a command begins."""
        line, _, word = self.text.decode("utf-8", "replace").strip().partition(" ")
        if self.begins and began is not None and line.isascii() and line.isdigit() and len(line) < 8:
            began(stream, int(line), word)

    def encoded(self, token: bytes) -> bytes:
        """Return the mark as it was among the output."""
        return b"%b%b\n" % (begin_token(token) if self.begins else token, self.text)


class Cutter:
    """Removes the marks of one command from one stream. Holds back text that may begin a mark."""

    def __init__(self, token: bytes) -> None:
        self._tokens = ((token, False), (begin_token(token), True))
        self._longest = len(token)
        self._held = b""

    def feed(self, chunk: bytes) -> list[bytes | Mark]:
        """Return output and marks in order."""
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        if _FIRST not in chunk:  # searching one byte is ten times faster than a token
            return [chunk] if chunk else []
        parts: list[bytes | Mark] = []
        done, at = 0, chunk.find(_PREFIX)
        while at >= 0:
            found = next(((token, begins) for token, begins in self._tokens if chunk.startswith(token, at)), None)
            after = at + 1
            if found is not None:
                token, begins = found
                end = chunk.find(b"\n", at + len(token))
                if end < 0:
                    break
                if at > done:
                    parts.append(chunk[done:at])
                parts.append(Mark(chunk[at + len(token) : end], begins))
                done = after = end + 1
            at = chunk.find(_PREFIX, after)
        if at < 0:
            # A token contains its first byte once, so only the last occurrence in the chunk can begin a cut token.
            at = chunk.rfind(_FIRST, max(done, len(chunk) - self._longest + 1))
            if at < 0 or not any(token.startswith(chunk[at:]) for token, _ in self._tokens):
                at = len(chunk)
        if at > done:
            parts.append(chunk[done:at])
        self._held = chunk[at:]
        return parts

    def rest(self) -> bytes:
        """Return the held text, which the end of the stream proves to be output."""
        held, self._held = self._held, b""
        return held
