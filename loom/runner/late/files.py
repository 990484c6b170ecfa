"""The files in which GitHub's steps report: variables, paths, outputs, state and a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

FILES: Mapping[str, str] = {
    "GITHUB_ENV": "env",
    "GITHUB_PATH": "path",
    "GITHUB_OUTPUT": "output",
    "GITHUB_STATE": "saved",
    "GITHUB_STEP_SUMMARY": "summary",
}
"""The variables, with the names of their files (`Command.files`); the first is `$LOOM_ENV`."""
MOST_SUMMARY = 1024 * 1024
"""Bytes of a step's summary, as on GitHub."""


class InvalidFile(ValueError):
    """A file that a step wrote in no known form."""


def values_of(lines: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a file: `NAME=value`, or `NAME<<END`, lines, `END`; a CR is part of it. InvalidFile at another line.

    Only with `=` may a name be empty, as on GitHub.
    """
    texts = [line.decode("utf-8", "surrogateescape") for line in lines]
    at = 0
    while at < len(texts):
        line = texts[at]
        at += 1
        if not line:
            continue
        equals, opens = line.find("="), line.find("<<")
        if opens >= 0 and (equals < 0 or opens < equals):
            name, end = line[:opens], line[opens + 2 :]
            if not name or not end:
                raise InvalidFile(f"Invalid format '{line}'. Name must not be empty and delimiter must not be empty")
            stop = next((number for number in range(at, len(texts)) if texts[number] == end), None)
            if stop is None:
                raise InvalidFile(f"Invalid value. Matching delimiter not found '{end}'")
            yield name, "\n".join(texts[at:stop])
            at = stop + 1
        elif equals >= 0:
            yield line[:equals], line[equals + 1 :]
        else:
            raise InvalidFile(f"Invalid format '{line}'")


def paths_of(lines: Sequence[bytes]) -> list[str]:
    return [text for line in lines if (text := line.decode("utf-8", "surrogateescape").strip())]


def summary_of(lines: Sequence[bytes]) -> str:
    """Return a step's summary. InvalidFile if it is too long."""
    data = b"\n".join(lines)
    if len(data) > MOST_SUMMARY:
        raise InvalidFile(
            f"$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of 1024k, got {len(data) // 1024}k"
        )
    return data.decode("utf-8", "replace")
