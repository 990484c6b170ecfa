"""A shell or a command of a person at a step, for containers and the host."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from loom.config import AUTO_SHELL
from loom.providers.driver.steps import AUTO, KNOWS_PIPEFAIL, SH, arguments_of, quoted

_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh")
# $1: its start-up file. Then the shell and its options.
_INTERACTIVE = """
rc=$1; shift
case ${1##*/} in
  sh | ash | dash)
    if command -v bash >/dev/null 2>&1; then shift; exec bash --rcfile "$rc" "$@" -i; fi
    ENV=$rc; export ENV ;;
  bash) p=$1; shift; exec "$p" --rcfile "$rc" "$@" -i ;;
  zsh) mkdir -p "$rc.d" && cat "$rc" >"$rc.d/.zshrc"; ZDOTDIR=$rc.d; export ZDOTDIR ;;
  *) ENV=$rc; export ENV ;;
esac
exec "$@" -i
"""
# $1: the caller's TERM, which counts where the container has a description of such a terminal. Then a command.
_ON_TERMINAL = """
t=$1; shift
for d in "${TERMINFO:-/etc/terminfo}" "$HOME/.terminfo" /etc/terminfo /lib/terminfo /usr/share/terminfo; do
  if [ -f "$d/${t%"${t#?}"}/$t" ]; then TERM=$t; export TERM; break; fi
done
exec "$@"
"""
# $1: the program. Functions are only in the state of a bash.
_BASH_IF_THERE = """
p=$1; shift
if command -v bash >/dev/null 2>&1; then exec bash -c "$p" loom "$@"; fi
exec sh -c "$p" loom "$@"
"""
_RUN = """\
if [ -n "${BASH_VERSION-}" ] && declare -F -- "$1" >/dev/null; then "$@"; else exec "$@"; fi
"""


def prepared(
    shell: Sequence[str], *, script: str, name: str, state: str, new_path: Callable[[str], str]
) -> tuple[Mapping[str, bytes], Sequence[str]]:
    """Return the private files and the command of an interactive shell: a job's `shell`, with the step's `script` in its
    history and as `again`.

    It is the job's `shell` without `-e`, which would end it at the first typo. In place of a plain `sh`, bash is used
    if available, for line editing. `state`: where a shell that steps shared left its own, if there is one; the shell then begins
    with its directory, variables and functions. `new_path` names a new file by its purpose.
    """
    step, rc, history = (new_path(what) for what in ("step", "rc", "history"))
    words = b" ".join(quoted(word) for word in arguments_of(shell, step)).decode("utf-8", "surrogateescape")
    if tuple(shell) == AUTO_SHELL:
        bash, strict, plain = (" ".join(arguments_of(one, shlex.quote(step))) for one in (*AUTO.values(), SH))
        words = (
            f"if command -v bash >/dev/null 2>&1; then {bash}; elif {KNOWS_PIPEFAIL}; then {strict}; else {plain}; fi"
        )
    named = shell[0].rpartition("/")[2] if shell else ""
    program = shell[0] if named in _SHELLS else "sh"
    files = {
        step: _bytes(script.rstrip("\n") + "\n"),
        history: _bytes("".join(f"{line}\n" for line in script.splitlines() if line.strip())),
        rc: _bytes(_rc(words, step, history, name, state)),
    }
    # A zsh with `-f` would pass over its start-up file.
    options = options_of(shell, "eof" if named == "zsh" else "eo")
    return files, ("sh", "-c", _INTERACTIVE, "loom", rc, program, *options)


def continued(command: Sequence[str], state: str) -> Sequence[str]:
    """Return `command` as it runs in the directory, and with the variables and functions, of the shell that left `state`."""
    return ("sh", "-c", _BASH_IF_THERE, "loom", _became(state) + _RUN, *command)


def terminal_command(command: Sequence[str], term: str) -> Sequence[str]:
    """Return `command` for a terminal of the kind `term`; the container's own default counts where it does not know that kind."""
    return ("sh", "-c", _ON_TERMINAL, "loom", term, *command) if term and "/" not in term else command


def options_of(shell: Sequence[str], without: str = "eo") -> list[str]:
    """Convert a step shell's options to interactive use: without `-e` and the script's placeholder."""
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
            letters = "".join(letter for letter in option[1:] if letter not in without)
            if letters:
                options.append(option[0] + letters)
            if takes_name and rest:
                name = rest.pop(0)
                if name != "errexit":
                    options += [option[0] + "o", name]
    return options


def _became(state: str) -> str:
    """Return lines with which a shell becomes the one that left `state`, if one did.

    Options and traps are not for a person: `-e` would end a shell, a trap would act at its end.
    """
    return f"""\
if [ -s {shlex.quote(state)} ]; then
  loom_kept=$(set +o; [ -z "${{BASH_VERSION-}}" ] || shopt -p) loom_term=${{TERM-}} loom_step=${{LOOM_STEP-}}
  . {shlex.quote(state)} 2>/dev/null || :
  set +e
  eval "$loom_kept" 2>/dev/null
  trap - EXIT ERR DEBUG 2>/dev/null
  TERM=${{loom_term:-${{TERM-}}}} LOOM_STEP=$loom_step
  unset loom_kept loom_term loom_step loom_code
fi
"""


def _rc(words: str, step: str, history: str, name: str, state: str) -> str:
    plain = name.replace("'", "").replace("\\", "")
    percents = plain.replace("%", "%%")
    return f"""\
unset ENV
{_became(state)}\
if [ -s {shlex.quote(state)} ]; then
  again() {{ ( set -e; ! {KNOWS_PIPEFAIL} || set -o pipefail; . {step} ); }}
else
  again() {{ {words}; }}
fi
HISTFILE={history}
if [ -n "$BASH_VERSION" ]; then
  IFS= read -r -d '' loom_script <{step}
  HISTFILE=/dev/null
  history -c
  history -s -- "${{loom_script%?}}"
  unset loom_script
  PS1='[{plain}] \\w \\$ '
elif [ -n "$ZSH_VERSION" ]; then
  unset ZDOTDIR HISTFILE
  print -sr -- "$(cat {step})"
  PS1='[{percents}] %~ %# '
else
  PS1='[{plain}] $ '
fi
"""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
