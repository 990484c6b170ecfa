"""Other repositories inside a checkout: submodules, and those that are none."""

from __future__ import annotations

import os
from pathlib import Path

from loom.errors import RequestError
from loom.snapshot import git
from loom.snapshot.model import Source
from loom.snapshot.source import discover


def inner_repository(place: Path, outer: Source) -> Source | None:
    """The repository at `place` in another's checkout, as its own checkout; None without a commit.

    RequestError when git does not trust it. A submodule that was moved still names its old place for its work tree.
    """
    as_it_says = outer.environment
    for environ in (as_it_says, {**as_it_says, "GIT_DIR": str(place / ".git"), "GIT_WORK_TREE": str(place)}):
        try:
            inner = discover(place, environ=environ)
        except RequestError as error:
            if error.code == "REPOSITORY_NOT_TRUSTED":
                raise
            continue
        if inner.root in (place, place.resolve()):
            return inner
    return None


def submodule_names(source: Source) -> dict[str, str]:
    """path -> name of the submodules that .gitmodules names, as that is on disk."""
    file = source.root / ".gitmodules"
    if not file.is_file() or file.is_symlink():
        return {}
    _, out, _ = git.Running(
        ("config", "-z", "--file", str(file), "--get-regexp", r"^submodule\..*\.path$"),
        git.environment_for(source.environment),
        cwd=source.root,
    ).result(check=False)
    pairs = (os.fsdecode(item).partition("\n") for item in git.nul_list(out))
    named = {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in pairs}
    # The name becomes a path below .git/modules: git refuses such names as well.
    return {path: name for path, name in named.items() if ".." not in name.split("/") and not name.startswith("/")}
