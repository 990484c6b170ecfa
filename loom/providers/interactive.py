"""A shell for a person, at a step: its command, and the files that it starts with; the same in a container and on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from loom.config import AUTO_SHELL
from loom.providers.steps import BASH, SH, arguments_of

_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh")
# $1: the file for its process id, $2: what it reads first. Then the shell and its options.
_INTERACTIVE = """
f=$1 rc=$2; shift 2
{ printf '%s\\n' "$$" >"$f"; } 2>/dev/null
case ${1##*/} in
  sh | ash | dash)
    if command -v bash >/dev/null 2>&1; then shift; exec bash --rcfile "$rc" "$@" -i; fi
    ENV=$rc; export ENV ;;
  bash) p=$1; shift; exec "$p" --rcfile "$rc" "$@" -i ;;
  *) ENV=$rc; export ENV ;;
esac
exec "$@" -i
"""


class Prepared(Struct, frozen=True, kw_only=True):
    files: Mapping[str, bytes]
    """To be made first, each for the user alone."""
    command: Sequence[str]
    pid_file: str
    """Where it says which process it is."""


def prepared(shell: Sequence[str], *, script: str, name: str, new_path: Callable[[str], str]) -> Prepared:
    """What makes an interactive shell out of a job's `shell`: the step's `script` in its history, and as `again`.

    It is `shell` as the job has it, but for `-e`, which would end it at the first typing mistake; where that is a plain
    `sh` and there is bash, it is bash, for its line editing. `new_path` names a new file by what it is for.
    """
    step, rc, pid_file, history = (new_path(what) for what in ("step", "rc", "shell", "history"))
    words = " ".join(_quoted(word) for word in arguments_of(shell, step))
    if tuple(shell) == AUTO_SHELL:
        bash, sh = (" ".join(_quoted(word) for word in arguments_of(one, step)) for one in (BASH, SH))
        words = f"if command -v bash >/dev/null 2>&1; then {bash}; else {sh}; fi"
    program = shell[0] if shell and shell[0].rpartition("/")[2] in _SHELLS else "sh"
    return Prepared(
        files={
            step: _bytes(script.rstrip("\n") + "\n"),
            history: _bytes("".join(f"{line}\n" for line in script.splitlines() if line.strip())),
            rc: _bytes(_rc(words, step, history, name)),
        },
        command=("sh", "-c", _INTERACTIVE, "loom", pid_file, rc, program, *options_of(shell)),
        pid_file=pid_file,
    )


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def options_of(shell: Sequence[str]) -> list[str]:
    """A step shell's options for an interactive one: without `-e`, and without what stands for the script."""
    options: list[str] = []
    rest = list(shell[1:])
    while rest:
        option = rest.pop(0)
        if "{0}" in option or option in ("-c", "--"):
            break
        if option.startswith("--"):
            continue
        if option[:1] in "+-" and len(option) > 1:
            takes_name = "o" in option
            letters = "".join(letter for letter in option[1:] if letter not in "eo")
            if letters:
                options.append(option[0] + letters)
            if takes_name and rest:
                name = rest.pop(0)
                if name != "errexit":
                    options += [option[0] + "o", name]
    return options


def _rc(words: str, step: str, history: str, name: str) -> str:
    plain = name.replace("'", "").replace("\\", "")
    return f"""\
unset ENV
HISTFILE={history}
again() {{ {words}; }}
if [ -n "$BASH_VERSION" ]; then
  IFS= read -r -d '' loom_script <{step}
  HISTFILE=/dev/null
  history -c
  history -s -- "${{loom_script%?}}"
  unset loom_script
  PS1='[{plain}] \\w \\$ '
else
  PS1='[{plain}] $ '
fi
"""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
