"""Other repositories inside a checkout: submodules, and nested repositories."""

from __future__ import annotations

import os
import re
from pathlib import Path

from loom.errors import RequestError
from loom.snapshot import git
from loom.snapshot.model import Source
from loom.snapshot.source import check_lenders_of_module, discover


def inner_repository(place: Path, outer: Source) -> Source | None:
    """Return the repository at `place` in another's checkout, as its own checkout; None without a commit.

    RequestError when git does not trust it, or when its `.git` leads to a repository that does not lead back, or has links
    or borrows objects that lead elsewhere.
    """
    modules = (outer.git_dir / "modules", outer.common_dir / "modules")
    try:
        inner = discover(place, environ=outer.environment, commit=False, modules=modules, filters=outer.may_filter)
    except RequestError as error:
        if error.code in ("REPOSITORY_NOT_TRUSTED", "REPOSITORY_ELSEWHERE", "REPOSITORY_LINKED", "OBJECTS_ELSEWHERE"):
            raise
        return None
    check_lenders_of_module(inner.objects_dir, outer.objects_dir)
    return inner if inner.root == place.resolve() else None


def submodule_names(file: Path, source: Source) -> dict[str, str]:
    """Return path -> name of the submodules that a .gitmodules names; none where it is no file."""
    if not file.is_file() or file.is_symlink():
        return {}
    _, out, _ = git.Running(
        ("config", "-z", "--file", str(file), "--get-regexp", r"^submodule\..*\.path$"),
        git.environment_for(source.environment, repository=source.repository, index=source.index_path),
        cwd=source.root,
    ).result(check=False)
    pairs = (os.fsdecode(item).partition("\n") for item in git.nul_list(out))
    named = {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in pairs}
    # The others git refuses as well: a name becomes a path below .git/modules.
    return {path: name for path, name in named.items() if name and not {".", ".."} & set(re.split(r"[/\\]", name))}


def own_place(name: str, taken: list[str]) -> str:
    """Return the git directory of a submodule below .git/modules. Names may be the same, or inside another."""
    parts = name.split("/")
    usual = all(parts) and max(map(len, map(os.fsencode, parts))) < 200
    clashes = any(name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in taken)
    place = name if usual and not clashes else f"loom-{len(taken)}"
    taken.append(place)
    return place
