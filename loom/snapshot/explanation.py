"""Would CI see this file? Which rule of which file decides."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.errors import RequestError
from loom.snapshot import git
from loom.snapshot.index import ancestors, is_directory, is_runtime, lstat, pin_name
from loom.snapshot.model import Source, path_fields, readable
from loom.snapshot.removal import is_workspace
from loom.snapshot.submodules import inner_repository, submodule_names, submodule_names_in_index
from loom.util.paths import own_directories
from loom.util.special_files import special_kind


class Rule(Struct, frozen=True, kw_only=True):
    """A line of an ignore file. `file` is relative to the repository where it lies in it."""

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
    """For each path (relative to `start`, or absolute): whether a snapshot holds it, and what decides that.

    `tmp_dir` is where workspaces are made, in case that is in the checkout. RequestError for a path outside of the checkout.
    """
    explaining = _Explaining(source, tmp_dir, outermost=True)
    return tuple(explaining.one(_relative(source, path, start)) for path in paths)


def _relative(source: Source, path: str, start: Path) -> str:
    # Only the parents are resolved: the path itself may be a link, which is then the thing asked about.
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
        if ".git" in path.split("/"):
            return _out(path, "git never adds what is called .git")
        if self._outermost and is_runtime(path):
            return _out(path, "loom's record of runs: never part of a snapshot")
        status = self._status(path)
        entry = self._entry(path)
        behind = self._link_above(path)
        if behind is not None:
            of_link = self.one(behind)
            if of_link.included or entry is None or not _is_hidden(entry):
                return _behind(path, of_link)
        if entry is not None and entry[1] != "160000":  # also in a directory that is another repository's by now
            return self._tracked(path, entry, status)
        inner = self._repository_above(path)
        if inner is not None:
            return inner
        if entry is not None:
            return self._tracked(path, entry, status)
        if any(path == own or path.startswith(f"{own}/") for own in self._own):
            return _out(path, "loom's own, a workspace or what is beside one: never part of a snapshot")
        if status is None:
            # All that a sparse checkout leaves out of a directory is in the index.
            return (
                self._directory(path)
                if self._in_index(path)
                else _out(path, "does not exist, and git does not track it")
            )
        if stat.S_ISDIR(status.st_mode):
            return self._directory(path)
        rule = self._rule(path)
        if rule is not None and rule.ignores:
            return Explanation(path=path, included=False, reason="ignored, and not tracked", rule=rule)
        if kind := special_kind(status.st_mode):
            return _out(path, f"a {kind}: git keeps only files and links")
        why = (
            "untracked, and a rule takes it back from the ignored ones" if rule else "untracked, and no rule ignores it"
        )
        return Explanation(path=path, included=True, reason=why, rule=rule)

    def _status(self, path: str) -> os.stat_result | None:
        return lstat(self._source.root / path)

    def _is_directory(self, path: str) -> bool:
        return is_directory(self._source.root / path)

    def _link_above(self, path: str) -> str | None:
        for above in ancestors(path):
            status = self._status(above)
            if status is not None and stat.S_ISLNK(status.st_mode):
                return above
        return None

    def _repository_above(self, path: str) -> Explanation | None:
        """The answer for a path that a submodule, or another repository inside this one, has to do with."""
        for above in [*ancestors(path), path] if path else ():
            if not self._is_directory(above):
                continue
            place = self._source.root / above
            tracked = above in self._gitlinks
            if not git.is_repository(place, self._source.environment):
                if tracked and above != path:
                    return _out(
                        path, f"in the submodule {readable(above)}, which is not checked out: git does not look there"
                    )
                continue
            if not tracked and self._in_index(above):
                continue  # to git a directory like any other
            rule = None if tracked else self._rule(above)
            if rule is not None and rule.ignores:
                return Explanation(path=path, included=False, reason="ignored, and not tracked", rule=rule)
            if above in self._submodules:
                inner = inner_repository(place, self._source)
                if inner is not None:
                    return self._in_submodule(path, above, inner)
                if tracked:
                    return _out(path, f"in the submodule {readable(above)}, in which git finds no commit")
            if is_workspace(place):
                return _out(path, f"{readable(above)} is one of loom's workspaces: never part of a snapshot")
            return _out(
                path, f"{readable(above)} is a repository of its own and no submodule: CI has an empty directory there"
            )
        return None

    def _in_submodule(self, path: str, submodule: str, inner: Source) -> Explanation:
        entry = self._entry(submodule)
        if entry is not None and _is_hidden(entry) and entry[2] != inner.head_sha:
            why = f"{readable(submodule)} is a submodule at another commit ({pin_name(entry[0])} hides that)"
            return Explanation(path=path, included=path == submodule, reason=f"{why}: an empty directory")
        if path == submodule:
            return Explanation(path=path, included=True, reason="a submodule, laid out at its checked-out commit")
        found = _Explaining(inner, self._tmp_dir, outermost=False).one(path.removeprefix(f"{submodule}/"))
        why = f"in the submodule {readable(submodule)}: {found.reason}"
        return Explanation(path=path, included=found.included, reason=why, rule=found.rule)

    def _in_index(self, path: str) -> bool:
        """Whether it is there, or something in it."""
        return bool(git.run(("ls-files", "-z", "--", path), self._here, cwd=self._source.root))

    @cached_property
    def _gitlinks(self) -> frozenset[str]:
        listed = git.run(("ls-files", "-z", "--stage"), self._here, cwd=self._source.root)
        return frozenset(
            os.fsdecode(item.partition(b"\t")[2]) for item in git.nul_list(listed) if item.startswith(b"160000 ")
        )

    @cached_property
    def _submodules(self) -> frozenset[str]:
        """The paths that .gitmodules names, as a snapshot has it."""
        entry = self._entry(".gitmodules")
        if entry is not None and _is_hidden(entry):
            return frozenset(submodule_names_in_index(self._source))
        if entry is None and (rule := self._rule(".gitmodules")) is not None and rule.ignores:
            return frozenset()
        return frozenset(submodule_names(self._source.root / ".gitmodules", self._source))

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
        if _is_hidden(entry):
            why = pin_name(tag)
            if self._gave_way(path):
                if status is None:
                    return _out(path, "something new has the name of its directory")
                return self._repository_above(path) or self._directory(path)
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
            return self._directory(path)
        if kind := special_kind(status.st_mode):
            return _out(path, f"tracked, and a {kind} on disk: counts as deleted")
        rule = self._rule(path)
        if rule is not None and rule.ignores:
            return Explanation(
                path=path, included=True, reason="tracked, so the rule that would ignore it has no say", rule=rule
            )
        return Explanation(path=path, included=True, reason="tracked: copied as it is on disk")

    def _gave_way(self, path: str) -> bool:
        """Whether something new has the name of this hidden entry, or that of a directory of it: git drops it then."""
        for above in ancestors(path):
            if self._status(above) is not None and not self._is_directory(above):
                return self.one(above).included
        if not self._is_directory(path):
            return False
        return self._counting(path) > 0 or git.is_repository(self._source.root / path, self._source.environment)

    def _directory(self, path: str) -> Explanation:
        count = self._counting(path)
        rule = self._rule(path)
        if rule is not None and rule.ignores:
            why = f"ignored, but {count} tracked path(s) in it count" if count else "ignored, and not tracked"
            return Explanation(path=path, included=count > 0, reason=why, rule=rule)
        if count == 0:
            return _out(path, "a directory without a file that counts: git keeps no empty directories")
        return Explanation(path=path, included=True, reason=f"a directory: {count} path(s) in it count", rule=rule)

    def _counting(self, directory: str) -> int:
        """How many paths in a directory a snapshot holds."""
        where = ("--", directory or ".")
        tracked = git.run(("ls-files", "-z", "-v", "--deduplicate", *where), self._here, cwd=self._source.root)
        others = git.run(
            ("ls-files", "-z", "--others", "--exclude-standard", *where), self._here, cwd=self._source.root
        )
        new = map(os.fsdecode, git.nul_list(others))
        old = (os.fsdecode(item).partition(" ") for item in git.nul_list(tracked))
        return sum(path != directory and self._is_there(tag, path) for tag, _, path in old) + sum(
            map(self._is_new, new)
        )

    def _is_new(self, path: str) -> bool:
        """Of a path that git lists as untracked, with a slash at the end if it is a repository of its own."""
        if path.startswith(tuple(f"{own}/" for own in self._own)) or (self._outermost and is_runtime(path)):
            return False
        place = self._source.root / path
        return not path.endswith("/") or (not is_workspace(place) and inner_repository(place, self._source) is not None)

    def _is_there(self, tag: str, path: str) -> bool:
        if _is_hidden((tag, "", "")):
            return True
        status = self._status(path)
        if status is None:
            return False
        if stat.S_ISDIR(status.st_mode):
            return path in self._gitlinks
        return stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)

    def _rule(self, path: str) -> Rule | None:
        """The last ignore rule that speaks of `path` or a directory above it, tracked or not."""
        if not path:
            return None
        # Git says nothing of what is in the index, or has something in it there, unless it is told to leave that aside.
        # Then it does not see the rules of a .gitignore that a sparse checkout has in the index only, either.
        return self._asked_rule(path) or (self._asked_rule(path, "--no-index") if self._in_index(path) else None)

    def _asked_rule(self, path: str, *switches: str) -> Rule | None:
        here = {name: value for name, value in self._here.items() if name != "GIT_LITERAL_PATHSPECS"}
        process = git.Running(
            ("check-ignore", "-z", "-v", "-n", *switches, "--stdin"),
            here,
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


def _is_hidden(entry: tuple[str, str, str]) -> bool:
    """Whether git was told not to look at the file."""
    return entry[0].upper() == "S" or entry[0] == "h"


def _behind(path: str, link: Explanation) -> Explanation:
    """The answer for a path that only exists through a symbolic link."""
    there = "itself part of the snapshot as a link" if link.included else f"not part of the snapshot: {link.reason}"
    why = f"behind the symbolic link {readable(link.path)}, which is {there}"
    return Explanation(path=path, included=False, reason=why, rule=link.rule)


def _out(path: str, reason: str) -> Explanation:
    return Explanation(path=path, included=False, reason=reason)
