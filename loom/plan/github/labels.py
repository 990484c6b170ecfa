"""The labels of `runs-on`: which of them are of machines that there are none of here."""

from __future__ import annotations

import re
from collections.abc import Collection

from loom.util.units import machine, nearest

_SYSTEM = re.compile(r"(?:^|[^a-z])(?:(?P<Windows>win(dows)?)|(?P<macOS>macos|mac|osx))(?:[^a-z]|$)")
_ARM = re.compile(r"(?:^|[^a-z])(?:arm|arm64|aarch64)(?:[^a-z0-9]|$)")
_LINUX = re.compile(r"ubuntu|linux|^(x64|x86_64|arm64|aarch64)$")
"""In the labels of GitHub's runners, and of others that stand in for them."""
_RETIRED = re.compile(r"ubuntu-(?:1\d|20)\.\d\d")
"""Labels whose jobs wait at GitHub for ever."""
_HOSTED = (
    *("ubuntu-latest", "ubuntu-slim", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-22.04-arm", "ubuntu-24.04-arm"),
    *("windows-latest", "windows-2022", "windows-2025", "macos-latest", "macos-14", "macos-15"),
)
"""The labels of GitHub's machines that are written most."""


def system_of(labels: Collection[str]) -> str | None:
    """Return the system of the machine that labels mean, if it is not Linux."""
    return next((found.lastgroup for label in labels if (found := _SYSTEM.search(label))), None)


def refused(labels: Collection[str], known: Collection[str]) -> tuple[str, str, bool] | None:
    """Return why a job with these labels does not run here, also the kind of such jobs in a word or two; None if it does.

    The third value: it does not run even if it is named, since its result would say nothing. `known`: the labels that the
    user's configuration has an image or a pool for, in lower case.
    """
    if any(label in known for label in labels):
        return None
    for label in labels:
        if found := _SYSTEM.search(label):
            system = found.lastgroup
            return f"its label {label} is of {system}; jobs run on Linux here", str(system), True
        if _ARM.search(label) and not (here := machine()).endswith("/arm64"):
            return f"its label {label} is of arm64; this machine is {here}", "arm64", True
    for label in labels:
        retired, advice = _RETIRED.fullmatch(label), f"`--image {label}=IMAGE` gives it an image"
        if "self-hosted" in label:
            own = "runners of your own"
            return f"its label {label} is of {own}; jobs run on Linux here", own, False
        if not retired and (close := _meant(label)) is not None:
            what = "GitHub has no such machine, and the job would wait for one"
            return (
                f"its label {label}: {what}; did you mean {close}? {advice}",
                f"{label}: did you mean {close}?",
                False,
            )
        if retired or not _LINUX.search(label):
            one, kind = ("a retired runner", "retired runners") if retired else ("no known runner", "unknown runners")
            return f"its label {label} is of {one}; {advice}", kind, False
    return None


def _meant(label: str) -> str | None:
    """Return the label of GitHub's that another one is misspelt for. Own machines have such a label with an addition."""
    if re.fullmatch(r"ubuntu-\d\d\.\d\d", label) or any(hosted in label for hosted in _HOSTED):
        return None
    return nearest(label, _HOSTED, likeness=0.85)
