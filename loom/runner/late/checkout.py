"""Carry out `actions/checkout`: a job's files are the snapshot from its start, or come from there; then they are changed.

The snapshot has the whole history of the user's checkout and a detached HEAD, in a `.git` that loom has written; GitHub's
step fetches one commit and checks out its branch. Submodules and files of LFS are as in the user's checkout, without a token.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from loom.plan.github.events import text_at
from loom.plan.model import Step
from loom.values import Immutable

_NO_SUBMODULES = "git submodule --quiet deinit --all --force\n"
_REF = """\
for loom_ref in {ref} {remote} ''; do
  if [ -z "$loom_ref" ]; then
    echo {missing} >&2
    exit 1
  fi
  if git rev-parse --verify --quiet "$loom_ref^{{commit}}" >/dev/null; then
    git -c advice.detachedHead=false checkout --quiet --force --detach "$loom_ref"
    break
  fi
done
"""
_WORK = """\
if git rev-parse --verify --quiet LOOM_WORK >/dev/null; then git read-tree --reset -u LOOM_WORK; fi
"""
"""A checkout of a pull request's head has the uncommitted work, which the merge has."""
_SPARSE = """\
git add --all
git sparse-checkout set {0}
"""
"""First into the index: git leaves changed files where they are."""
_GIT = """\
read -r loom_sha <.git/HEAD
case $loom_sha in
  ref:*) ;; # by another checkout before
  *)
{0}    ;;
esac
"""
_FETCHED = """\
    if command -v git >/dev/null; then
      git -c protocol.file.allow=always fetch --quiet --no-tags --depth={depth} "file://$PWD" HEAD || :
    fi
"""
_ONE = """\
    echo "$loom_sha" >.git/shallow
"""
_REFS = """\
    rm -rf {gone}
    mkdir -p .git/refs/heads .git/refs/tags
    {kept} >.git/packed-refs.new
    mv .git/packed-refs.new .git/packed-refs
    for loom_ref in {refs}; do
      mkdir -p ".git/${{loom_ref%/*}}"
      echo "$loom_sha" >".git/$loom_ref"
    done
"""
_TAGS = "sed -n '/ refs.tags./p' .git/packed-refs"
_ALL = """\
grep -q ' refs.remotes.origin.' .git/packed-refs || sed -i 's| refs/heads/| refs/remotes/origin/|' .git/packed-refs
    sed -n '/ refs.tags./p;/ refs.remotes.origin./p' .git/packed-refs"""
"""Of a repository without origin, the branches count as pushed."""
_BRANCH = """\
    echo ref: {} >.git/HEAD
"""


class Checkout(Immutable):
    script: str
    """Makes the files in `target` those of a checkout; empty: they are."""
    outputs: Mapping[str, str] = {}
    target: str = ""
    """The directory of the files, from the workspace; empty: the checkout is refused."""
    other: str = ""
    """The files of another repository on this machine; empty: the snapshot's."""
    clean: bool = True
    """What was there before goes."""


def checkout_of(
    step: Step, text: Callable[[str], str], github: Mapping[str, Any], *, submodules: bool, history: bool
) -> Checkout:
    """Return what a step does to the job's files.

    `github` is the context; `submodules`: the project has some; `history`: the snapshot has a `.git`. The action of the step
    is another repository that it names.
    """
    given = {name.lower(): text(value).strip() for name, value in step.inputs.items()}
    path, ref, repository = (given.get(name, "") for name in ("path", "ref", "repository"))
    own = str(github.get("repository") or "")
    root = str(github.get("workspace") or "/")
    target = posixpath.relpath(whole := posixpath.normpath(posixpath.join(root, path)), root)
    if target.split("/")[0] == "..":
        return _refused(f"Repository path '{whole}' is not under '{root}'")
    if repository and repository.lower() != own.lower():
        if step.action is None or step.action.repository.lower() != repository.lower():
            return _refused(f"repository: {repository} is not known before the job runs; write its name")
        outputs = {"commit": step.action.commit, "ref": ref}
        return Checkout(script="", outputs=outputs, target=target, other=step.action.directory)
    lines = f"cd {shlex.quote(target)}\n" if target != "." else ""
    if submodules and given.get("submodules", "").lower() not in ("true", "recursive"):
        lines += _NO_SUBMODULES
    sha, full = (str(github.get(name) or "") for name in ("sha", "ref"))
    request_ref, head = (text_at(github, "event", "pull_request", "head", name) for name in ("ref", "sha"))
    head_ref = str(github.get("head_ref") or request_ref)
    of_head = ref != "" and head not in ("", sha) and ref in (head, head_ref, f"refs/heads/{head_ref}")
    if of_head or (ref and ref not in {sha, full, head_ref, str(github.get("ref_name") or "")}):
        full = f"refs/heads/{head_ref}" if of_head and ref != head else ""
        lines += _REF.format(
            ref=shlex.quote(head if of_head else ref),
            remote=shlex.quote(f"origin/{ref.removeprefix('refs/heads/')}"),
            missing=shlex.quote(f"loom: checkout: the history that this job has does not hold {ref}: fetch it first"),
        )
        lines += _WORK if of_head else ""
    elif ref and ref in (sha, head_ref):
        full = f"refs/heads/{ref}" if ref == head_ref else ""
    if history:
        lines += _git_lines(full, given.get("fetch-depth", ""), tags=given.get("fetch-tags", "").lower() == "true")
    if patterns := [line.strip() for line in given.get("sparse-checkout", "").splitlines() if line.strip()]:
        cone = _is_on(given.get("sparse-checkout-cone-mode"))
        lines += _SPARSE.format(shlex.join(["--cone" if cone else "--no-cone", *patterns]))
    outputs = {"commit": sha, "ref": ref or str(github.get("ref") or "")}
    clean = _is_on(given.get("clean"))
    return Checkout(script=lines, outputs=outputs, target=target, clean=clean)


def _is_on(given: str | None) -> bool:
    """Return whether an input of the action whose default is true is so, as the action reads it."""
    return (given or "true").lower() == "true"


def _git_lines(ref: str, fetch_depth: str, *, tags: bool) -> str:
    """Return the lines that make `.git` that of a fetch of this ref (and all tags), by this depth; empty: 1, 0: everything."""
    depth = int(fetch_depth) if fetch_depth.isdecimal() else 0 if fetch_depth else 1
    lines = {0: "", 1: _ONE}.get(depth, _FETCHED.format(depth=depth))
    branch = ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else ""
    there = [ref.replace("refs/pull/", "refs/remotes/pull/"), *([f"refs/remotes/origin/{branch}"] if branch else [])]
    known = (tags or not depth) and ref.startswith("refs/tags/")
    lines += _REFS.format(
        gone=".git/refs" if depth else ".git/refs/heads .git/refs/tags",
        kept=_ALL if not depth else _TAGS if tags else ":",
        refs=shlex.join(there if ref and not known else []),
    )
    lines += _BRANCH.format(shlex.quote(ref)) if branch else ""
    return _GIT.format(lines)


def _refused(why: str) -> Checkout:
    return Checkout(script=f"echo {shlex.quote(f'loom: checkout: {why}')} >&2\nexit 1\n")
