"""Would CI see this file? Which rule of which file decides."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.errors import RequestError
from loom.snapshot import copying, git
from loom.snapshot.model import Source, path_fields, readable
from loom.snapshot.source import discover
from loom.snapshot.taking import RUNTIME, pin_name


class Rule(Struct, frozen=True, kw_only=True):
    """A line of an ignore file. `file` is relative to the repository where it lies in it."""

    file: str
    line: int
    pattern: str

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


def explain(source: Source, paths: Sequence[str], *, start: Path) -> tuple[Explanation, ...]:
    """For each path (relative to `start`, or absolute): whether a snapshot holds it, and what decides that.

    RequestError for a path outside of the checkout.
    """
    return tuple(_Explaining(source).one(_relative(source, path, start)) for path in paths)


def _relative(source: Source, path: str, start: Path) -> str:
    # Only the parents are resolved: the path itself may be a link, which is then the thing asked about.
    joined = Path(os.path.normpath(start / path))
    parent = joined.parent.resolve() if joined != source.root else joined.parent
    for candidate in (joined, parent / joined.name):
        if candidate == source.root:
            return ""
        if candidate.is_relative_to(source.root):
            return str(candidate.relative_to(source.root))
        if candidate.is_relative_to(source.root.resolve()):
            return str(candidate.relative_to(source.root.resolve()))
    raise RequestError(f"{path}: outside of the checkout {source.root}", hint="name a path inside of it")


class _Explaining:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._here = git.environment_for(
            source.environment,
            keep_config=True,
            git_dir=source.git_dir,
            work_tree=source.root,
            index=source.index_path,
        )

    def one(self, path: str) -> Explanation:
        if path == ".git" or path.startswith(".git/"):
            return _out(path, "git's own directory: the workspace gets one of its own")
        if path == RUNTIME or path.startswith(RUNTIME + "/"):
            return _out(path, "loom's record of runs: never part of a snapshot")
        status = self._status(path)
        behind = self._link_above(path)
        if behind is not None:
            return _out(
                path, f"behind the symbolic link {readable(behind)}, which is itself part of the snapshot as a link"
            )
        entry = self._entry(path)
        if entry is not None and entry[1] != "160000":  # also in a directory that is another repository's by now
            return self._tracked(path, entry, status)
        inner = self._repository_above(path)
        if inner is not None:
            return inner
        if entry is not None:
            return self._tracked(path, entry, status)
        if status is None:
            return _out(path, "does not exist, and git does not track it")
        rule = self._rule(path, directory=stat.S_ISDIR(status.st_mode))
        if rule is not None and not rule.pattern.startswith("!"):
            return Explanation(path=path, included=False, reason="ignored, and not tracked", rule=rule)
        if stat.S_ISDIR(status.st_mode):
            return self._directory(path, rule)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return _out(path, f"a {copying.kind_of(status.st_mode)}: git keeps only files and links")
        why = (
            "untracked, and a rule takes it back from the ignored ones" if rule else "untracked, and no rule ignores it"
        )
        return Explanation(path=path, included=True, reason=why, rule=rule)

    def _status(self, path: str) -> os.stat_result | None:
        try:
            return (self._source.root / path).lstat()
        except OSError:
            return None

    def _link_above(self, path: str) -> str | None:
        parts = path.split("/")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            if (self._source.root / above).is_symlink():
                return above
        return None

    def _repository_above(self, path: str) -> Explanation | None:
        """The answer for a path that a submodule, or another repository inside this one, has to do with."""
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            above = "/".join(parts[:count])
            place = self._source.root / above
            if not above or place.is_symlink() or not place.is_dir() or not (place / ".git").exists():
                continue
            if self._submodule(above):
                if count == len(parts):
                    return Explanation(
                        path=path, included=True, reason="a submodule, laid out at its checked-out commit"
                    )
                inner = _Explaining(discover(place, environ=self._source.environment)).one("/".join(parts[count:]))
                return Explanation(
                    path=path,
                    included=inner.included,
                    reason=f"in the submodule {above}: {inner.reason}",
                    rule=inner.rule,
                )
            rule = self._rule(above, directory=True)
            if rule is not None and not rule.pattern.startswith("!"):
                return Explanation(path=path, included=False, reason="ignored, and not tracked", rule=rule)
            return _out(
                path, f"{readable(above)} is a repository of its own and no submodule: CI has an empty directory there"
            )
        return None

    def _submodule(self, path: str) -> bool:
        entry = self._entry(path)
        if entry is None or entry[1] != "160000":
            return False
        file = self._source.root / ".gitmodules"
        _, out, _ = git.Running(
            ("config", "-z", "--file", str(file), "--get-regexp", r"^submodule\..*\.path$"),
            self._here,
            cwd=self._source.root,
        ).result(check=False)
        return any(os.fsdecode(item).partition("\n")[2] == path for item in git.nul_list(out))

    def _entry(self, path: str) -> tuple[str, str, str] | None:
        """(tag, mode, id) of the index's entry for exactly this path."""
        if not path:
            return None
        out = git.run(("ls-files", "-z", "--stage", "-v", "--", path), self._here, cwd=self._source.root)
        for item in os.fsdecode(out).split("\0")[:-1]:
            about, _, name = item.partition("\t")
            if name == path:
                return about[0], about[2:8], about[9:-2]
        return None

    def _tracked(self, path: str, entry: tuple[str, str, str], status: os.stat_result | None) -> Explanation:
        tag, mode, sha = entry
        if tag.upper() == "S" or tag == "h":
            why = pin_name(tag)
            if sha in git.EMPTY_BLOBS and git.intended(self._here, path, cwd=self._source.root):
                return _out(path, f"intended to be added, but {why} hides it from git")
            return Explanation(
                path=path, included=True, reason=f"tracked and marked {why}: its staged content is laid out"
            )
        if mode == "160000" and status is not None and stat.S_ISDIR(status.st_mode):
            return Explanation(
                path=path, included=True, reason="a submodule that is not checked out: an empty directory"
            )
        if status is None:
            return _out(path, "tracked, and deleted on disk")
        if stat.S_ISDIR(status.st_mode):
            return _out(path, "tracked as a file, and a directory on disk: the file counts as deleted")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return _out(path, f"tracked, and a {copying.kind_of(status.st_mode)} on disk: counts as deleted")
        rule = self._rule(path, directory=False)
        if rule is not None and not rule.pattern.startswith("!"):
            return Explanation(
                path=path, included=True, reason="tracked, so the rule that would ignore it has no say", rule=rule
            )
        return Explanation(path=path, included=True, reason="tracked: copied as it is on disk")

    def _directory(self, path: str, rule: Rule | None) -> Explanation:
        listed = git.run(
            ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", path or "."),
            self._here,
            cwd=self._source.root,
        )
        count = len(set(git.nul_list(listed)))
        if count == 0:
            return _out(path, "a directory without a file that counts: git keeps no empty directories")
        return Explanation(path=path, included=True, reason=f"a directory: {count} path(s) in it count", rule=rule)

    def _rule(self, path: str, *, directory: bool) -> Rule | None:
        """The last ignore rule that speaks of `path` or a directory above it."""
        if not path:
            return None
        here = {name: value for name, value in self._here.items() if name != "GIT_LITERAL_PATHSPECS"}
        asked = f"./{path}" + ("/" if directory else "")
        process = git.Running(
            ("check-ignore", "-z", "-v", "-n", "--no-index", "--stdin"),
            here,
            cwd=self._source.root,
            given=os.fsencode(asked) + b"\0",
        )
        fields = git.nul_list(process.result(check=False)[1])
        if len(fields) < 3 or not fields[0]:
            return None
        file = os.fsdecode(fields[0])
        if Path(file).is_absolute() and Path(file).is_relative_to(self._source.root):
            file = str(Path(file).relative_to(self._source.root))
        return Rule(file=file, line=int(fields[1]), pattern=os.fsdecode(fields[2]))


def _out(path: str, reason: str) -> Explanation:
    return Explanation(path=path, included=False, reason=reason)
