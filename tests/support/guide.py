"""A guide, followed word for word: its files are written, its commands typed, and what it shows is what they print.

- A block whose first line is `# PATH` is that file. Other blocks of files are parts of one, and are left out.
- `console`: each line after `$ ` is a command, and the lines below are in its output, in this order; it may print more.
- `sh`: the block is one command.

A command ends with exit code 0, unless a comment in it says `exit code N`.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

GUIDES = Path(__file__).parents[2] / "docs/guides"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (~?[\w./-]+)\n")
_COMMAND = re.compile(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", re.MULTILINE)
_CODE = re.compile(r"# .*\bexit code (\d+)")
_VARIES = re.compile(
    r"\b(?:just now|\d+ min ago|\d+(?:\.\d+)? (?:ms|s|min|h|[KMG]?i?B)|\d{19}|[0-9a-f]{12,64}|(?:\d+\.){3}\d+:\d+)\b"
)
"""Ages, durations and sizes, the numbers of runs and commits, addresses."""
_END = "\x1e"


def follow(page: str, cwd: Path, environ: Mapping[str, str], instead: Mapping[str, str] | None = None) -> list[str]:
    """Follow `docs/guides/PAGE` in `cwd`, in one shell, and return what each command printed.

    `instead` has the commands of the page that can't be typed here, each with what stands in for it.
    """
    instead, script, shown = dict(instead or {}), ["export LC_ALL=C.UTF-8"], []
    for language, block in _BLOCK.findall((GUIDES / page).read_text()):
        if named := _FILE.match(block):
            path = named[1].replace("~", "$HOME", 1)
            script.append(f'mkdir -p "$(dirname "{path}")"; printf %s {shlex.quote(block)} >"{path}"')
            continue
        for command, expected in {"sh": [(block, "")], "console": _COMMAND.findall(block)}.get(language, []):
            shown.append((command.strip(), expected))
            script.append(f"{instead.pop(command.strip(), command).strip()}\nprintf '{_END}%s{_END}' $?")
    assert not instead, "not in the page"
    path = f"{Path(sys.executable).parent}:{environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=cwd,
        env={**environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    printed, codes = done.stdout.split(_END)[:-1:2], done.stdout.split(_END)[1::2]
    for (command, expected), output, code in zip(shown, printed, codes, strict=True):
        wanted = found[1] if (found := _CODE.search(command)) else "0"
        assert (command, code) == (command, wanted), output
        lines = iter(map(_lasting, output.splitlines()))
        for line in filter(None, map(_lasting, expected.splitlines())):
            assert line in lines, f"{command!r} does not print {line!r} there, but\n{output}"
    return printed


def _lasting(line: str) -> str:
    """Return the line without its padding, and without what differs from one run to the next."""
    return _VARIES.sub("N", " ".join(line.split()))
