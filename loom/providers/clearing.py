"""Make way for files in a kept place, which only a command in it can do."""

from __future__ import annotations

from collections.abc import Sequence

from loom.providers.driver.shared_shell import quoted

_CLEAR = b"""clear() {
    a=$1
    while :; do
        case $a in */*) a=${a%/*} ;; *) break ;; esac
        if [ -h "$a" ] || { [ -e "$a" ] && [ ! -d "$a" ]; }; then rm -f -- "$a" || exit 1; fi
    done
    rm -rf -- "$1" || exit 1
}
"""


def script(directory: str, paths: Sequence[str]) -> bytes:
    """Return a program for `sh`, which reads it from its standard input: in `directory`, delete what is at these paths,
    and a link or a file in the place of a directory above one. It exits with 1 if that fails.
    """
    lines = [b"cd " + quoted(directory) + b" || exit 1\n", _CLEAR]
    lines += [b"clear " + quoted(path) + b"\n" for path in paths]
    return b"".join([*lines, b"exit 0\n"])
