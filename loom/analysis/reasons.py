"""Name the likely reasons why a job fails there and not here: from what differs, and from what both logs say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from msgspec import Struct

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.diff import Pair
from loom.analysis.named_files import makers, missing_paths
from loom.analysis.verdict import LogParting, Reason, ReasonKind
from loom.plan.model import Job, Plan
from loom.util.units import counted


class Circumstances(Struct, frozen=True, kw_only=True):
    """The facts beside the two logs."""

    checkout: Path
    """The user's own, in which the job passes."""
    tree: Path
    """The commit's files."""
    plan: Callable[[], Plan | None]
    """Return the plan of the whole workflow, if there is one."""
    job: Job
    depth: str = ""
    withheld: Sequence[str] = ()
    """Protected variables, which the job's branch does not get."""
    size: str = ""
    """CPUs and memory of the machine there, as far as known."""
    here: str = ""


OF_TAG = "image of the tag "
"""The name of a difference: this machine's image of a tag is not the one that ran there, which then ran here, too."""
_READINGS: Mapping[str, ReasonKind] = {
    "unset_variable": "variable",
    "git_no_tags": "history",
    "git_no_remote_branch": "history",
    "git_unknown_revision": "history",
    "name_resolution": "network",
    "connection_refused": "network",
    "network_unreachable": "network",
    "certificate": "network",
    "out_of_memory": "machine",
    "out_of_processes": "machine",
    "wrong_architecture": "machine",
}
"""The reasons that a known failure stands for."""
_NETWORK = re.compile(
    r"could not resolve|name resolution|name or service not known|no such host|temporary failure resolving|unknown ?host"
    r"|\b(?:ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT)\b|connection (?:refused|reset|timed out)|failed to connect"
    r"|network is unreachable|no route to host|i/o timeout|certificate verify|proxy (?:error|connect)"
    r"|50[234] (?:bad gateway|service unavailable|gateway)",
    re.IGNORECASE,
)
_WORDS: Sequence[tuple[ReasonKind, re.Pattern[str]]] = (
    (
        "history",
        re.compile(
            r"shallow|no merge base|unrelated histories|no names found|cannot describe|bad (?:revision|object)|not a valid object"
            r"|unknown revision|needed a single revision|ambiguous argument|setuptools.scm was unable",
            re.IGNORECASE,
        ),
    ),
    ("network", _NETWORK),
    ("machine", re.compile(r"\bOOM|out of memory|cannot allocate memory|heap limit|MemoryError|\bKilled\b")),
    ("time-zone", re.compile(r"time ?zone|tzinfo|zoneinfo|offset-(?:naive|aware)|daylight", re.IGNORECASE)),
)
"""The words for each reason in the telling lines, or in the first lines that differ."""
_OF_MACHINE = re.compile(r"\b(?:cpus?|cores?|nproc|workers?|threads?|processors?|memory|RAM)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_ZONES = "UTC|GMT|CET|EET|WET|MSK|(?:[ABCEHIJKMNP]|AC|AE|AK|CE|EE|NZ|WE)[SD]T"
_ZONE = re.compile(rf"\b(?:{_ZONES})\b")
_TIME = re.compile(
    r"(?:(?<![\w:.])|(?<=\dT))(?P<h>\d{1,2}):(?P<m>\d{2})(?P<s>:\d{2})?(?:\.\d+)?"
    rf"(?: ?(?:[AP]M|Z|{_ZONES}|[+-]\d{{2}}:?\d{{2}})\b)?"
)
_COMPARED = re.compile(r"\W*(?:expected|received|got|want|wanted|actual)\b", re.IGNORECASE)
"""One of two lines by which a test shows what it compares."""
_SEED = re.compile(r"\b(?:seed|shuffle)\b\D{0,20}(\d+)", re.IGNORECASE)
_NAME = re.compile(
    r"\b(?!(?:ERR|ERROR|FATAL|FAIL|FAILED|FAILURE|WARN|WARNING|INFO|NOTE|DEBUG|TODO|PANIC|HTTP|URL|JSON|SQL)\b)"
    r"(?P<name>[A-Z][A-Z0-9_]{2,}):? (?:\w+ ){0,3}?"
    r"(?:not set|unset|undefined|missing|required|not defined|empty|null|must be (?:set|given|provided))\b"
    r"|(?:KeyError|key not found|variables?(?: \w+){0,3}): ['\"`]?(?P<key>[A-Z][A-Z0-9_]{2,})\b"
)


def reasons(
    kind: str,
    sides: Sequence[Diagnosis | None],
    parting: LogParting | None,
    differs: Sequence[Pair],
    known: Circumstances,
) -> list[Reason]:
    """Return the likely reasons for a verdict (`kind`), those with evidence in the logs first; each kind once.

    `sides`: the job's diagnoses there and here.
    """
    found: dict[ReasonKind, str] = {}
    for name, text in _found(kind, sides, parting, differs, known):
        found.setdefault(name, text)
    return [Reason(kind=name, text=text) for name, text in found.items()]


def _found(
    kind: str,
    sides: Sequence[Diagnosis | None],
    parting: LogParting | None,
    differs: Sequence[Pair],
    known: Circumstances,
) -> Iterator[tuple[ReasonKind, str]]:
    failed = [side for side in sides if side is not None and side.failed]
    yield from _files(failed, known)
    command, one, other = (parting.command, parting.there or "", parting.here or "") if parting else ("", "", "")
    telling = [line for side in failed for line in (side.telling_line,) if line]
    ran = command or (failed[0].command if failed else None) or ""
    for line in [*telling, one, other]:
        yield from _variable(line, ran, differs, known)
    readings = [reading for side in failed for reading in side.readings]
    texts = _texts(known)
    for reading in readings:
        if (name := _READINGS.get(reading.code)) is not None:
            yield name, f"{reading.text}; {texts[name]}" if name in texts else reading.text
    for line in [*telling, one, other]:
        yield from ((name, texts[name]) for name, words in _WORDS if words.search(line))
        if "git" in ran and known.depth.strip("0") and re.search(rf"\b{re.escape(known.depth)}\b", line):
            yield "history", texts["history"]
    if one and other and one != other:
        yield from _of_parting(command, one, other, texts)
    compared = " ".join(line for side in failed for line in side.lines if _COMPARED.match(line))
    if any(map(_names_shifted_times, (*telling, compared))):
        yield "time-zone", texts["time-zone"]
    if parting is not None and parting.reordered:
        yield "order", "both sides run these tests, in another order"
    for pair in differs:
        if pair.name.startswith(OF_TAG):
            yield (
                "image",
                f"{pair.name.removeprefix(OF_TAG)} was another image on this machine than there: `loom images pull`",
            )
    if kind == "passes-here":
        printed = [line for side in failed for line in side.lines]
        yield from (("network", texts["network"]) for line in printed if _NETWORK.search(line))
    if kind in ("passes-here", "another-failure"):
        yield from _of_differences(differs, [command, *(side.command or "" for side in failed)], known)


def _texts(known: Circumstances) -> dict[ReasonKind, str]:
    depth = f"of the last {counted(int(known.depth), 'commit')}" if known.depth.strip("0") else "as it was made there"
    zone = known.job.variables.get("TZ")
    return {
        "history": f"the job has a clone {depth}, without what lies outside (GIT_DEPTH, fetch-depth; tags)",
        "network": "the network there and this machine's reach different hosts",
        "machine": f"{known.size or 'a machine of unknown size'} there; {known.here} here",
        "time-zone": f"times decide; here the job has the zone {zone or 'of its image'}: its variable TZ sets another one",
    }


def _files(sides: Sequence[Diagnosis], known: Circumstances) -> Iterator[tuple[ReasonKind, str]]:
    """Explain a missing file: by the user's checkout, or by the job that makes it."""
    for reading in (reading for side in sides for reading in side.readings):
        if reading.code == "ignored_file":
            yield "ignored-file", reading.text
    paths = [path for side in sides for path in missing_paths(side.lines, side.command)]
    made = _makers(known, paths)
    for path in paths:
        if path in made:
            job, why = made[path]
            yield "artifact", f"{path} is an artifact of {job}, which {why or 'was not available'}"
        elif os.path.lexists(known.checkout / path) and not os.path.lexists(known.tree / path):
            yield "ignored-file", f"{path} is in your checkout, but not in the commit: the clone there lacks it"


def _makers(known: Circumstances, paths: Sequence[str]) -> dict[str, tuple[str, str]]:
    return makers(plan, known.job, paths) if paths and (plan := known.plan()) is not None else {}


def _variable(
    line: str, command: str, differs: Sequence[Pair], known: Circumstances
) -> Iterator[tuple[ReasonKind, str]]:
    """Name a variable that the line misses, or that the command reads and one side does not have."""
    absent = {pair.name.removeprefix("variable ") for pair in differs if pair.name.startswith("variable ")}
    for name in (*known.withheld, *absent):
        if re.search(rf"\b{re.escape(name)}\b", line) or re.search(rf"\$\{{?{re.escape(name)}\b", command):
            protected = "is protected, and the job's branch is not"
            yield ("variable", f"{name} {protected if name in known.withheld else 'is read, and is not as there'}")
    if (found := _NAME.search(line)) is not None and (name := found["name"] or found["key"] or ""):
        own = ", but your shell has it, which no job sees" if name in os.environ else ""
        yield "variable", f"the job has no variable {name}{own}"


def _of_parting(
    command: str, one: str, other: str, texts: Mapping[ReasonKind, str]
) -> Iterator[tuple[ReasonKind, str]]:
    """Read two lines that differ in little."""
    seeds = [_SEED.search(line) for line in (one, other)]
    if seeds[0] and seeds[1] and seeds[0][1] != seeds[1][1]:
        yield "order", f"tests run in another order: seed {seeds[0][1]} there, {seeds[1][1]} here"
    elif _NUMBER.sub("#", one) == _NUMBER.sub("#", other) and _OF_MACHINE.search(f"{command} {one}"):
        yield "machine", f"`{one.strip()[:80]}` there, `{other.strip()[:80]}` here: {texts['machine']}"
    if _ZONE.sub("#", _TIME.sub("#", one)) == _ZONE.sub("#", _TIME.sub("#", other)) and _TIME.search(one):
        yield "time-zone", texts["time-zone"]


def _names_shifted_times(line: str) -> bool:
    """Return whether two times in a line differ by whole quarters of an hour, as in two time zones."""
    times = {(int(found["h"]) * 60 + int(found["m"]), found["s"]) for found in islice(_TIME.finditer(line), 20)}
    return any(
        one != other and (one[0] - other[0]) % 15 == 0 and one[1] == other[1] for one in times for other in times
    )


def _of_differences(
    differs: Sequence[Pair], commands: Sequence[str], known: Circumstances
) -> Iterator[tuple[ReasonKind, str]]:
    for pair in differs:
        if pair.name == "image":
            yield "image", "the tag means another image by now, or on the other side"
        elif pair.name.startswith("variable "):
            yield "variable", f"{pair.name.removeprefix('variable ')} is not as there"
        elif pair.name.startswith("artifacts "):
            yield "artifact", f"the job here has no {pair.name}"
        elif pair.name == "cache":
            yield "cache", "the cache there may hold what the job itself does not make"
    words = [word for text in commands for word in text.split() if "/" in word or "." in word]
    for path, (job, why) in _makers(known, words).items():
        if not why:
            yield "artifact", f"{path} is an artifact of {job}, and may differ"
