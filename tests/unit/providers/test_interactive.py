"""The shell of a person begins where the shell that steps shared stood."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from loom.providers import interactive
from loom.providers.command import Command, Share
from loom.providers.driver import steps

STEP = """\
export EXPORTED=yes; plain=too; TERM=dumb-of-the-step
greet() { echo "greet $1"; }
trap 'echo trapped' EXIT
cd sub
"""


def left_by(shell: tuple[str, ...], tmp_path: Path) -> Path:
    """Run the step in a shared shell; return the file with the state that it leaves."""
    (tmp_path / "sub").mkdir()
    state, step = tmp_path / "state", tmp_path / "step"
    command, share = Command(script=STEP, shell=shell, environment={"LOOM_STEP": "script/01"}), Share(first=True)
    step.write_text(steps.file_of(command, share, "", b""))
    program = steps.program(command, share, str(step), str(state))
    subprocess.run(shell, input=program, cwd=tmp_path, check=True, capture_output=True, pass_fds=())
    return state


def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "TERM": "xterm", "LOOM_STEP": "script/02", "HOME": str(tmp_path)}


SHELLS = pytest.mark.parametrize(
    "shell", [("bash", "-e", "-o", "pipefail"), ("dash", "-e"), ("busybox", "ash", "-e", "-o", "pipefail")]
)


@SHELLS
def test_it_has_the_directory_variables_and_functions_without_the_options_and_traps(
    tmp_path: Path, shell: tuple[str, ...]
) -> None:
    state = left_by(shell, tmp_path)
    files, command = interactive.prepared(
        shell,
        script="echo again $EXPORTED; false; echo never",
        name="job script/02",
        state=str(state),
        new_path=lambda what: str(tmp_path / what),
    )
    for path, content in files.items():
        Path(path).write_bytes(content)
    typed = 'pwd; echo "$EXPORTED $plain $TERM $LOOM_STEP"; greet you; false; again; echo "goes on $?"\n'
    done = subprocess.run(
        command,
        input=typed,
        cwd=tmp_path,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    has_functions = shell[0] == "bash"  # no other shell can print them
    assert done.stdout.splitlines() == [
        str(tmp_path / "sub"),
        "yes too xterm script/02",
        *(["greet you"] if has_functions else []),
        "again yes",
        "goes on 1",
    ], done.stderr


@SHELLS
def test_a_command_has_them_too(tmp_path: Path, shell: tuple[str, ...]) -> None:
    state = left_by(shell, tmp_path)

    def done(*command: str) -> tuple[int, str]:
        asked = interactive.continued(command, str(state))
        ended = subprocess.run(
            asked, cwd=tmp_path, env=environ(tmp_path), input="typed", capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout

    shown = done("sh", "-c", 'pwd; echo "$EXPORTED ${plain-} $TERM $LOOM_STEP $1"; cat; exit 3', "sh", "a  b")
    assert shown == (3, f"{tmp_path}/sub\nyes  xterm script/02 a  b\ntyped")
    assert done("greet", "you") == ((0, "greet you\n") if shell[0] == "bash" else (127, ""))
    assert done("no-such-command")[0] == 127
    state.unlink()
    assert done("pwd") == (0, f"{tmp_path}\n")


def test_a_terminals_kind_counts_where_its_description_is(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/fancy").touch()
    for term, counts in (("fancy", "fancy"), ("strange", "xterm"), ("../f/fancy", "xterm"), ("", "xterm")):
        command = interactive.terminal_command(["sh", "-c", "echo $TERM $0", "an argument"], term)
        env = {**environ(tmp_path), "TERMINFO": str(tmp_path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"{counts} an argument\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_a_zsh_has_the_step_its_history_and_a_prompt(tmp_path: Path) -> None:
    files, command = interactive.prepared(
        ("zsh", "-e", "-f", "{0}"),
        script="echo 100% of\nfalse; echo never",
        name="a %job",
        state=str(tmp_path / "state"),
        new_path=lambda what: str(tmp_path / what),
    )
    for path, content in files.items():
        Path(path).write_bytes(content)
    typed = 'print -r -- "$PS1=$ZDOTDIR="; again; echo "code $?"; fc -l -1\nfalse; echo "goes on"\n'
    env = {**environ(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, input=typed, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[:3] == ["[a %%job] %~ %# ==", "100% of", "code 1"], done.stderr
    assert "goes on" in done.stdout
    assert "echo 100% of" in done.stdout.partition("code 1")[2]


def test_a_value_is_quoted_also_where_only_zsh_needs_it() -> None:
    command = Command(script="", shell=("zsh",), environment={"FILTER": "=ls", "IT": "it's"})
    program = steps.program(command, Share(first=True), "step", "state")
    assert b"export FILTER='=ls'\nexport IT='it'\\''s'\n" in program
