"""Read the share of covered lines from a coverage report: Cobertura XML or JaCoCo XML."""

from __future__ import annotations

from typing import IO, Literal, get_args
from xml.parsers import expat

from loom.storage.reports import UnreadableReport, parse_xml

MAX_BYTES = 256 << 20
"""Read as a stream. JaCoCo names each line and branch of a project."""
Kind = Literal["cobertura", "jacoco"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_ROOT = {"cobertura": "coverage", "jacoco": "report"}


def read(kind: Kind, file: IO[bytes]) -> tuple[float, float]:
    """Return the numbers of covered lines and of all lines; of a report that has only their share, the share and 1.

    UnreadableReport for a file that is not of this kind, is too large, or defines entities.
    """
    reader = _Reader(kind)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.EntityDeclHandler = _refuse_entities
    parse_xml(parser, file, MAX_BYTES)
    if reader.lines is None:
        raise UnreadableReport(f"it is XML, but has no line coverage as {kind} has it")
    return reader.lines


def _refuse_entities(*_: object) -> None:
    raise UnreadableReport("it defines entities; coverage reports have none")


class _Reader:
    """Cobertura states the total in the root's attributes, JaCoCo in a counter directly below the root."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._depth = 0
        self.lines: tuple[float, float] | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and tag != _ROOT[self._kind]:
            raise UnreadableReport(f"it begins with <{tag[:60]}> and not with <{_ROOT[self._kind]}>")
        if self._depth == 1 and self._kind == "cobertura":
            covered, valid = (_count(attributes.get(name)) for name in ("lines-covered", "lines-valid"))
            self.lines = (covered, valid) if covered is not None and valid else _share(attributes.get("line-rate"))
        elif self._depth == 2 and self._kind == "jacoco" and tag == "counter" and attributes.get("type") == "LINE":
            missed, covered = (_count(attributes.get(name)) for name in ("missed", "covered"))
            if missed is not None and covered is not None:
                self.lines = (covered, covered + missed)

    def end(self, _: str) -> None:
        self._depth -= 1


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 12 else None


def _share(text: str | None) -> tuple[float, float] | None:
    try:
        share = float(text or "")
    except ValueError:
        return None
    return (share, 1) if 0 <= share <= 1 else None
