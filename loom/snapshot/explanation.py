"""Explain whether CI would see a file, and which rule decides."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.errors import RequestError
from loom.snapshot import git
from loom.snapshot.contents import Contents, Nested
from loom.snapshot.index import ancestors, directories, is_runtime, lstat
from loom.snapshot.model import Source, path_fields, readable
from loom.snapshot.special_files import rules_environment
from loom.util.paths import own_directories
from loom.util.special_files import special_kind
from loom.util.units import counted


class Rule(Struct, frozen=True, kw_only=True):
    """A line of an ignore file. `file` is relative to its repository, if inside."""

    file: str
    line: int
    pattern: str

    @property
    def ignores(self) -> bool:
        return not self.pattern.startswith("!")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.pattern}"


class Explanation(Struct, frozen=True, kw_only=True):
    path: str
    included: bool
    reason: str
    rule: Rule | None = None

    def document(self) -> dict[str, Any]:
        rule = self.rule and {
            "file": readable(self.rule.file),
            "line": self.rule.line,
            "pattern": readable(self.rule.pattern),
        }
        return {**path_fields(self.path), "included": self.included, "reason": self.reason, "rule": rule}


def explain(
    source: Source, paths: Sequence[str], *, start: Path, tmp_dir: Path | None = None
) -> tuple[Explanation, ...]:
    """Explain for each path (relative to `start`, or absolute) whether a snapshot holds it.

    `tmp_dir` is the directory of workspaces, which may be in the checkout. RequestError for a path outside the
    checkout.
    """
    explaining = _Explaining(source, tmp_dir, outermost=True)
    return tuple(explaining.one(_relative(source, path, start)) for path in paths)


def _relative(source: Source, path: str, start: Path) -> str:
    # Resolve only the parents: the path itself may be the link in question.
    joined = Path(os.path.normpath(start / path))
    parent = Path(os.path.realpath(joined.parent)) if joined != source.root else joined.parent
    for candidate in (joined, parent / joined.name):
        if candidate == source.root:
            return ""
        if candidate.is_relative_to(source.root):
            return str(candidate.relative_to(source.root))
        if candidate.is_relative_to(source.root.resolve()):
            return str(candidate.relative_to(source.root.resolve()))
    raise RequestError(f"{path}: outside of the checkout {source.root}", hint="name a path inside of it")


class _Explaining:
    def __init__(self, source: Source, tmp_dir: Path | None, *, outermost: bool) -> None:
        self._source = source
        self._outermost = outermost
        self._tmp_dir = tmp_dir
        self._own = own_directories(tmp_dir, source.root) if tmp_dir else []
        self._contents = Contents(source, self._own, outermost=outermost)
        self._in_index = {*self._contents.index.paths(), *directories(self._contents.index.paths())}

    def one(self, path: str) -> Explanation:
        if path == ".git" or path.startswith(".git/"):
            return _out(path, "git's own directory: the workspace gets one of its own")
        if ".git" in path.split("/"):
            return _out(path, "git never adds what is called .git")
        if self._outermost and is_runtime(path):
            return _out(path, "loom's record of runs: never part of a snapshot")
        if path in self._contents.files:
            return self._held(path, self._contents.files[path])
        for above in ancestors(path):
            if self._is(stat.S_ISLNK, above):
                return _behind(path, self.one(above))
        if any(path == own or path.startswith(f"{own}/") for own in self._own):
            return _out(path, "loom's own, a workspace or what is beside one: never part of a snapshot")
        return self._repository_above(path) or self._missing(path)

    def _held(self, path: str, how: str) -> Explanation:
        if how not in ("tracked", "untracked"):
            why = f"tracked and marked {how}: its staged content is laid out"
            return Explanation(path=path, included=True, reason=why)
        rule = self._rule(path)
        if how == "untracked":
            taken_back = "a rule takes it back from the ignored ones" if rule else "no rule ignores it"
            return Explanation(path=path, included=True, reason=f"untracked, and {taken_back}", rule=rule)
        if rule is not None and rule.ignores:
            why = "tracked, so the rule that would ignore it has no say"
            return Explanation(path=path, included=True, reason=why, rule=rule)
        return Explanation(path=path, included=True, reason="tracked: copied as it is on disk")

    def _missing(self, path: str) -> Explanation:
        if path in self._contents.dropped and not self._is(stat.S_ISDIR, path):
            return _out(path, self._contents.dropped[path])
        status = lstat(self._source.root / path)
        # The index has everything that a sparse checkout leaves out of a directory.
        if not path or self._is(stat.S_ISDIR, path) or (status is None and path in self._in_index):
            return self._directory(path)
        if status is None:
            return _out(path, "does not exist, and git does not track it")
        rule = self._rule(path)
        if rule is not None and rule.ignores:
            return Explanation(path=path, included=False, reason="ignored, and not tracked", rule=rule)
        if kind := special_kind(status.st_mode):
            return _out(path, f"a {kind}: git keeps only files and links")
        return _out(path, "git does not list it")

    def _is(self, kind: Callable[[int], bool], path: str) -> bool:
        status = lstat(self._source.root / path)
        return status is not None and kind(status.st_mode)

    def _repository_above(self, path: str) -> Explanation | None:
        """Explain a path in a submodule or nested repository."""
        for above in [*ancestors(path), path] if path else ():
            nested = self._contents.nested(above)
            if nested is not None and nested.directory:
                return self._in_nested(path, nested)
            if not self._is(stat.S_ISDIR, above):
                continue
            if nested is not None:
                return _out(path, f"{readable(above)} is {nested.reason}")
            if above in self._contents.new.workspaces:
                return _out(path, f"{readable(above)} is one of loom's workspaces: never part of a snapshot")
            # git treats one with entries in the index as an ordinary directory.
            place = self._source.root / above
            if above not in self._in_index and git.is_repository(place, self._source.environment):
                reason, rule = "ignored, and not tracked", self._rule(above)
                return Explanation(path=path, included=False, reason=reason, rule=rule)
        return None

    def _in_nested(self, path: str, nested: Nested) -> Explanation:
        at, name = path == nested.path, readable(nested.path)
        if nested.inner is None:
            why = nested.reason or "a submodule that is not checked out: an empty directory"
            held = at and nested.held and nested.commit is None
            return Explanation(path=path, included=held, reason=why if at else f"in {name}, which is {why}")
        if at:
            return Explanation(path=path, included=True, reason="a submodule, laid out at its checked-out commit")
        inner = _Explaining(nested.inner, self._tmp_dir, outermost=False)
        found = inner.one(path.removeprefix(f"{nested.path}/"))
        why = f"in the submodule {name}: {found.reason}"
        return Explanation(path=path, included=found.included, reason=why, rule=found.rule)

    def _directory(self, path: str) -> Explanation:
        count = self._count(path)
        rule = self._rule(path)
        if rule is not None and rule.ignores:
            why = (
                f"ignored, but the snapshot has {counted(count, 'tracked path')} of it"
                if count
                else "ignored, and not tracked"
            )
            return Explanation(path=path, included=count > 0, reason=why, rule=rule)
        if count == 0:
            return _out(path, "a directory without a file that counts: git keeps no empty directories")
        return Explanation(
            path=path, included=True, reason=f"a directory: the snapshot has {counted(count, 'path')} of it", rule=rule
        )

    def _count(self, directory: str) -> int:
        """Count the paths of a directory in a snapshot."""
        below = f"{directory}/" if directory else ""
        nested = (path for path in self._contents.repositories if path.startswith(below))
        held = sum(found is not None and found.held for found in map(self._contents.nested, nested))
        return held + sum(path.startswith(below) for path in self._contents.files)

    def _rule(self, path: str) -> Rule | None:
        """Return the last ignore rule that matches `path` or a parent, tracked or not."""
        if not path:
            return None
        # By default git skips paths in the index or with entries there. With the option that changes this, it ignores a
        # .gitignore that a sparse checkout has only in the index.
        return self._asked_rule(path) or (self._asked_rule(path, "--no-index") if path in self._in_index else None)

    def _asked_rule(self, path: str, *switches: str) -> Rule | None:
        process = git.Running(
            ("check-ignore", "-z", "-v", "-n", *switches, "--stdin"),
            rules_environment(self._source),
            cwd=self._source.root,
            given=git.nul_joined([f"./{path}"]),
        )
        fields = git.nul_list(process.result(check=False)[1])
        if len(fields) < 3 or not fields[0]:
            return None
        file = os.fsdecode(fields[0])
        if Path(file).is_absolute() and Path(file).is_relative_to(self._source.root):
            file = str(Path(file).relative_to(self._source.root))
        return Rule(file=file, line=int(fields[1]), pattern=os.fsdecode(fields[2]))


def _behind(path: str, link: Explanation) -> Explanation:
    """Explain a path that exists only through a symbolic link."""
    there = "itself part of the snapshot as a link" if link.included else f"not part of the snapshot: {link.reason}"
    why = f"behind the symbolic link {readable(link.path)}, which is {there}"
    return Explanation(path=path, included=False, reason=why, rule=link.rule)


def _out(path: str, reason: str) -> Explanation:
    return Explanation(path=path, included=False, reason=reason)
