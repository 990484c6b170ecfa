"""Find the inputs of an image build in files: the context's files, and the images that a Dockerfile names.

The builder interprets `.dockerignore`; this module only reads its lines.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from loom.values import Immutable

ALWAYS_OUT = ("/.git/loom", "/.loom/.runtime")
"""Loom's record in a workspace: it changes during the build, and a CI checkout does not contain it."""


def read_ignore(context: Path, dockerfile: Path) -> list[str]:
    """Return the lines of `<Dockerfile>.dockerignore`, or of the context's `.dockerignore`, or nothing."""
    for path in (dockerfile.with_name(dockerfile.name + ".dockerignore"), context / ".dockerignore"):
        if path.is_file():
            return path.read_text(errors="surrogateescape").splitlines()
    return []


def copy_inputs(root: Path, target: Path, *, context: str, dockerfile: str) -> None:
    """Copy the inputs of a build below `root` to the same paths below `target`; links stay links. OSError on failure.

    Missing paths and paths outside `root` are skipped; the builder reports them.
    """
    root = root.resolve()
    target.mkdir(parents=True, mode=0o700)
    source, copy = (root / context).resolve(), target / posixpath.normpath(context)
    if not _is_below(source, root) or not source.is_dir():
        return
    names = [posixpath.normpath(name) for name in (f"{context}/{dockerfile}", dockerfile)]
    found = [name for name in names if _is_below((root / name).resolve(), root) and (root / name).is_file()]
    own = {f"{source}{path}" for path in ALWAYS_OUT}

    def left_out(folder: str, names: list[str]) -> list[str]:
        """Return sockets and devices, which no context has, and loom's own record."""
        paths = {name: Path(folder, name) for name in names}
        return [
            name
            for name, path in paths.items()
            if str(path) in own or not (path.is_symlink() or path.is_dir() or path.is_file())
        ]

    shutil.copytree(source, copy, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    for name in (*found, *(f"{name}.dockerignore" for name in found)):  # they may lie beside the context
        target_path = target / name
        real = (root / name).resolve()
        if real.is_file() and _is_below(real, root) and not target_path.is_file():
            target_path = target / real.relative_to(root) if target_path.is_symlink() else target_path
            target_path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target_path)


def _is_below(path: Path, root: Path) -> bool:
    return path == root or root in path.parents


def inputs_hash(
    *,
    files: str,
    dockerfile: bytes,
    ignore: Sequence[str],
    args: Mapping[str, str],
    target: str | None,
    platform: str,
    bases: Mapping[str, str],
) -> str:
    """Hash all inputs of a build; 32 hex digits. `files` lists the whole context, ignored files included: equal hashes
    mean the same image, different hashes prove nothing.
    """
    settings = (files, dockerfile, tuple(ignore), sorted(args.items()), target, platform, sorted(bases.items()))
    return hashlib.sha256(repr(settings).encode(errors="surrogateescape")).hexdigest()[:32]


class Instruction(Immutable):
    """One instruction with its continuation lines joined. `line` counts from 1."""

    line: int
    name: str
    flags: Mapping[str, tuple[str, ...]]
    words: str


class Stage(Immutable):
    name: str
    line: int
    """The line of its FROM, from 1."""
    written: str
    base: str
    """The base as it is written, and after variables are expanded: a stage name, `scratch` or an image."""
    platform: str | None
    instructions: list[Instruction] = []


_FLAG = re.compile(r"--([a-z-]+)(?:=(\S+))?\s*")
_HEREDOC = re.compile(r"(?<!<)<<-?\s*([\"']?)([A-Za-z_][A-Za-z0-9_]*)\1")
_ESCAPE = re.compile(r"#\s*escape\s*=\s*(\S)\s*", re.IGNORECASE)


def instructions_of(text: str) -> list[Instruction]:
    """Parse the instructions that loom needs; malformed lines are left to the builder."""
    lines = text.splitlines()
    escape = "\\"
    for line in takewhile(lambda line: line.lstrip().startswith("#"), lines):
        if found := _ESCAPE.fullmatch(line.strip()):
            escape = found[1]
    found_instructions = []
    at = 0
    while at < len(lines):
        start, joined = at, ""
        while at < len(lines):
            line, at = lines[at].rstrip(), at + 1
            if not line or line.lstrip().startswith("#"):
                if joined:
                    continue
                break
            joined += line
            if not joined.endswith(escape):
                break
            joined = joined[:-1] + " "
        if not joined.strip():
            continue
        name, _, rest = joined.strip().partition(" ")
        name, rest = name.upper(), rest.strip()
        flags: dict[str, tuple[str, ...]] = {}
        while match := _FLAG.match(rest):
            flags[match[1]] = (*flags.get(match[1], ()), match[2] or "")
            rest = rest[match.end() :]
        for heredoc in _HEREDOC.finditer(rest) if name in ("RUN", "COPY", "ADD") else ():
            while at < len(lines) and lines[at].strip() != heredoc[2]:
                at += 1
            at += 1
        found_instructions.append(Instruction(line=start + 1, name=name, flags=flags, words=rest))
    return found_instructions


_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::([-+])([^}]*))?\})")


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """Expand `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}` by the rules of FROM and flags."""

    def value(match: re.Match[str]) -> str:
        found, other = values.get(match[1] or match[2], ""), match[4]
        return {"-": found or other, "+": found and other}.get(match[3], found)

    return _VARIABLE.sub(value, text)


def stages_of(text: str, *, args: Mapping[str, str], predefined: Mapping[str, str]) -> list[Stage]:
    """Return the build stages with their bases; `predefined` holds the builder's own variables (`TARGETPLATFORM`...)."""
    values = dict(predefined)
    stages: list[Stage] = []
    for instruction in instructions_of(text):
        if instruction.name == "ARG" and not stages:
            for word in instruction.words.split():
                name, equals, default = word.partition("=")
                if name in args or equals:
                    values[name] = args.get(name, fill_in(default.strip("\"'"), values))
        elif instruction.name == "FROM":
            words = instruction.words.split()
            written = words[0] if words else ""
            base = fill_in(written.strip("\"'"), values)
            name = words[2].lower() if len(words) == 3 and words[1].upper() == "AS" else str(len(stages))
            platform = fill_in(instruction.flags["platform"][0], values) if "platform" in instruction.flags else None
            stages.append(
                Stage(name=name, line=instruction.line, written=written, base=base, platform=platform or None)
            )
        elif stages:
            stages[-1].instructions.append(instruction)
    return stages


def bases_of(stages: Sequence[Stage], *, target: str | None) -> tuple[tuple[str, str | None], ...]:
    """Return the images that a build of `target` (default: the last stage) starts or copies from, in file order, each with the
    platform that is written for it.
    """
    by_name = {stage.name: index for index, stage in enumerate(stages)}
    by_name |= {str(index): index for index in range(len(stages))}
    wanted = by_name.get((target or "").lower(), len(stages) - 1)
    needed: set[int] = set()
    images: dict[int, list[tuple[str, str | None]]] = {}
    pending = [wanted] if stages else []
    while pending:
        index = pending.pop()
        if index in needed:
            continue
        needed.add(index)
        stage = stages[index]
        sources = [(stage.base, stage.platform)]
        for instruction in stage.instructions:
            sources += [(source, None) for source in instruction.flags.get("from", ())]
            for mount in instruction.flags.get("mount", ()):
                sources += [(option[5:], None) for option in mount.split(",") if option.startswith("from=")]
        for source, platform in sources:
            earlier = by_name.get(source.lower())
            if earlier is not None and earlier < index:
                pending.append(earlier)
            elif source and source != "scratch" and "$" not in source:
                images.setdefault(index, []).append((source, platform))
    ordered = [base for index in sorted(images) for base in images[index]]
    return tuple(dict.fromkeys(ordered))


def pin_bases(text: str, pins: Mapping[str, str], stages: Sequence[Stage]) -> str:
    """Replace the images in the FROM lines of these stages by their names in `pins`. Line numbers stay the same, so builder
    messages point at the user's file.
    """
    lines = text.splitlines(keepends=True)
    for stage in stages:
        if stage.base in pins:
            lines[stage.line - 1] = lines[stage.line - 1].replace(stage.written, pins[stage.base], 1)
    return "".join(lines)
