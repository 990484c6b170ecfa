"""Record a terminal session (run, red step, shell, fix, resume) and write it as an SVG. Run by `scripts/docs picture`."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pexpect
from rich.console import Console
from rich.text import Text

LOOM = Path(sys.executable).parent / "loom"
WIDTH = 84
FILES = {
    "src/answer": "41\n",
    "tests/run.sh": 'read -r answer < src/answer\n[ "$answer" = 42 ] || { echo "src/answer is $answer, expected 42"; exit 1; }\n',
    ".loom/workflow.yml": """\
version: v1
stages: [lint, test]

default:
  image: debian:trixie-slim

lint:
  stage: lint
  script:
    - grep -q '^[0-9]*$' src/answer

unit:
  stage: test
  script:
    - ls src
    - sh tests/run.sh
""",
}
LEFT_OUT = ("isolated workspace:", "receipt:", "    events:", "    files:")
"""Lines that name a path of a hundred characters: the picture would be twice as wide."""
CONTROL = re.compile(r"\x1b\[\?2004[hl]")
FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


class Session:
    """A terminal in the directory `project`; `lines` is what it has shown so far, with colours."""

    def __init__(self, project: Path) -> None:
        self.lines: list[str] = []
        self._project = project
        self.environment = {
            **os.environ,
            "PATH": f"{LOOM.parent}:{os.environ['PATH']}",
            "LOOM_STATE_DIR": str(project.parent / "state"),
            "LOOM_COLOR": "always",
            "TERM": "xterm-256color",
        }

    def run(self, command: str, *, expect: int) -> None:
        """Type a command; fail unless its exit code is the expected one."""
        self._type(command)
        done = subprocess.run(
            command,
            shell=True,
            cwd=self._project,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._show(done.stdout)
        if done.returncode != expect:
            raise SystemExit(f"{command}: exit code {done.returncode} instead of {expect}\n{done.stdout}")

    def enter(self, command: str, *typed: str) -> None:
        """Type a command that opens a shell, then each line at a prompt of that shell."""
        self._type(command)
        shell = pexpect.spawn(
            command, cwd=str(self._project), env=self.environment, encoding="utf-8", timeout=30, dimensions=(40, 200)
        )
        output = io.StringIO()
        shell.logfile_read = output
        for line in typed:
            shell.expect("/workspace # ")
            while shell.expect(["/workspace # ", pexpect.TIMEOUT], timeout=1) == 0:
                pass  # the shell drew its prompt again
            shell.sendline(line)
        shell.expect(pexpect.EOF)
        shell.close()
        self._show(output.getvalue().removesuffix("exit\r\n"))

    def _type(self, command: str) -> None:
        self.lines.append(f"\x1b[1;36m$\x1b[0m \x1b[1m{command}\x1b[0m")

    def _show(self, output: str) -> None:
        # A shell that draws its prompt again returns to the beginning of the line first.
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in CONTROL.sub("", output).split("\n")]
        if shown[-1] == "":
            shown.pop()
        self.lines += [line for line in shown if not Text.from_ansi(line).plain.startswith(LEFT_OUT)] + [""]


def record(project: Path) -> list[str]:
    for name, text in FILES.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git = ["git", "-c", "user.name=demo", "-c", "user.email=demo@localhost"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "A number and its test"]):
        subprocess.run([*git, *arguments], cwd=project, check=True)
    session = Session(project)
    try:
        session.run("loom run --keep on-failure", expect=1)
        session.enter("loom shell", "cat src/answer", "again", "exit")
        session.run("echo 42 > src/answer", expect=0)
        session.run("loom resume --sync", expect=0)
    finally:
        clean = [LOOM, "clean", "--keep-last", "0"]
        subprocess.run(clean, cwd=project, env=session.environment, stdout=subprocess.DEVNULL)
    return session.lines[:-1]


def picture(lines: list[str]) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    # rich names a font on another machine; the reader's own monospace font does.
    return FONT.sub("", console.export_svg(title="loom", unique_id="loom"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory) / "answer"
        Path(sys.argv[1]).write_text(picture(record(project)))
