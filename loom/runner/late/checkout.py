"""Carry out `actions/checkout`: the job's files are the snapshot already, so it only moves or changes them.

Most inputs have no effect: the snapshot has the whole history that the checkout has, submodules and files of LFS as they are
there, and needs no token.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from loom.plan.late import LateStep

_NO_SUBMODULES = "git submodule --quiet deinit --all --force\n"
_REF = """\
for loom_ref in {ref} {remote}; do
  if git rev-parse --verify --quiet "$loom_ref^{{commit}}" >/dev/null; then
    git -c advice.detachedHead=false checkout --quiet --force --detach "$loom_ref"
    exit
  fi
done
echo {missing} >&2
exit 1
"""


def checkout_script(
    step: LateStep, text: Callable[[str], str], github: Mapping[str, Any], *, submodules: bool
) -> tuple[str, dict[str, str]]:
    """Return the script that makes the job's files those of a checkout (empty: they are), and the step's outputs.

    `github` is the context; `submodules`: the project has some. The action of the step is another repository that it names.
    """
    given = {name.lower(): text(value).strip() for name, value in step.inputs.items()}
    path, ref, repository = (given.get(name, "") for name in ("path", "ref", "repository"))
    own = str(github.get("repository") or "")
    root = str(github.get("workspace") or "/")
    target = posixpath.relpath(whole := posixpath.normpath(posixpath.join(root, path)), root)
    if target.split("/")[0] == "..":
        return _refused(f"Repository path '{whole}' is not under '{root}'"), {}
    if repository and repository.lower() != own.lower():
        if step.action is None or step.action.repository.lower() != repository.lower():
            return _refused(f"repository: {repository} is not known before the job runs; write its name"), {}
        if target == ".":
            return _refused(f"repository: {repository} needs a `path` here: the workspace is that of {own}"), {}
        files = shlex.quote(step.action.directory)
        lines = f"mkdir -p {shlex.quote(target)}\ncp -R {files}/. {shlex.quote(target)}\n"
        return lines, {"commit": step.action.commit, "ref": ref}
    lines = ""
    if target != ".":
        top = shlex.quote(target.split("/")[0])
        lines += f"mkdir -p {shlex.quote(target)}\n"
        lines += f"tar --exclude=./{top} -cf - . | (cd {shlex.quote(target)} && tar -xf -)\ncd {shlex.quote(target)}\n"
    if submodules and given.get("submodules", "false").lower() in ("false", ""):
        lines += _NO_SUBMODULES
    sha = str(github.get("sha") or "")
    if ref and ref not in {sha, *(str(github.get(name) or "") for name in ("ref", "ref_name", "head_ref"))}:
        lines += _REF.format(
            ref=shlex.quote(ref),
            remote=shlex.quote(f"origin/{ref.removeprefix('refs/heads/')}"),
            missing=shlex.quote(f"loom: checkout: the history that this job has does not hold {ref}: fetch it first"),
        )
    return lines, {"commit": sha, "ref": ref or str(github.get("ref") or "")}


def _refused(why: str) -> str:
    return f"echo {shlex.quote(f'loom: checkout: {why}')} >&2\nexit 1\n"
