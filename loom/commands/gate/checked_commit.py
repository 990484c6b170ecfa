"""The commit that a gate is about: where it is, what a server would run for it, and a checkout of it alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from loom.commands.plan.contexts import NO_COMMIT
from loom.commands.project import WORKFLOWS, Project, workflows_of
from loom.errors import RequestError
from loom.plan.origin import origin_of
from loom.record.request import Request
from loom.snapshot import git, repository, tree_entries
from loom.values import Environ, Immutable
from loom.workflow.languages import GITHUB, GITLAB

_SKIPS = {
    GITLAB.default: re.compile(r"\[(?:ci[ _-]skip|skip[ _-]ci)\]", re.IGNORECASE),
    GITHUB.default: re.compile(r"\[(?:skip ci|ci skip|no ci|skip actions|actions skip)\]"),
}
"""What a commit's message has for which the server runs nothing, by the place of the workflow."""


class CheckedCommit(Immutable):
    """A commit with the event for which a server would run it."""

    sha: str
    tree: str
    message: str
    branch: str
    """Empty for a tag."""
    tag: str = ""
    event: str
    base: str
    """The commit that `changes` compares with; `NO_COMMIT`: all files are new."""

    @property
    def ref(self) -> str:
        """The ref of the server that is pushed to, or is to be merged."""
        return f"refs/tags/{self.tag}" if self.tag else f"refs/heads/{self.branch}"

    def no_pipeline(self, root: Path, workflow: str | None) -> str:
        """Return why a server makes no pipeline of the commit, whose checkout is at `root`; empty where it does."""
        if workflow is None and not any((root / path).is_symlink() for path in WORKFLOWS):
            return f"it has no {', '.join(map(str, WORKFLOWS))}"
        skips = _SKIPS.get(workflow or "")
        said = skips.search(self.message) if skips is not None else None
        return f"its message says {said[0]}" if said else ""

    def request(self, accepted: tuple[str, ...], *, trust: bool, workflow: str | None) -> Request:
        """Return the request for the run of all jobs. It deploys nothing, and has no cache that counts against it."""
        return Request(
            workflow=workflow,
            event=self.event,
            changes_base=self.base,
            no_delay=True,
            no_cache="cache" not in accepted,
            trust=trust,
            flags={"deploy": False, "keep": "never"},
        )


class CommitFinder:
    """Asks git about the user's repository, outside of which nothing is read."""

    def __init__(self, project: Project) -> None:
        found = repository.find(project.root, project.environ)
        if found is None:
            raise RequestError(
                f"{project.root} is in no git checkout, and a gate is about a commit",
                hint="Go to a checkout, or make one: git init && git add -A && git commit",
                code="NO_REPOSITORY",
            )
        self._environ = git.in_repository(found, project.environ)
        self.root, self.git_dir, self.common_dir = project.root, found.git_dir, found.common_dir

    def ask(self, *arguments: str) -> str | None:
        """Return git's answer; None if it has none."""
        code, out, _ = git.Running(arguments, self._environ, cwd=self.root).result(check=False)
        return os.fsdecode(out).strip() if code == 0 else None

    def commit(self, name: str) -> str:
        found = self.ask("rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}")
        if found is None:
            raise RequestError(
                f"{name}: no commit of this repository", hint="git log --all names them; git commit makes one"
            )
        return found

    def pushed(self, sha: str, ref: str, before: str | None) -> CheckedCommit:
        """Return a commit for its push to `ref`; `before`: the commit that the server has there, None where that is unknown."""
        if ref != (shown := os.fsencode(ref).decode("utf-8", "replace")):
            raise RequestError(
                f"{shown}: the name is no UTF-8, which no server takes", hint="git branch -m, or git tag"
            )
        of_tag = ref.startswith("refs/tags/")
        if before is None or before == sha or self.ask("merge-base", "--is-ancestor", before, sha) is None:
            before = NO_COMMIT
        head, _, message = (self.ask("cat-file", "commit", sha) or "").partition("\n\n")
        return CheckedCommit(
            sha=sha,
            tree=head.partition("\n")[0].removeprefix("tree "),
            message=message,
            branch="" if of_tag else ref.removeprefix("refs/heads/"),
            tag=ref.removeprefix("refs/tags/") if of_tag else "",
            event="tag" if of_tag else "push",
            base=before,
        )

    def named(self, ref: str) -> CheckedCommit:
        """Return the commit of a ref, to be pushed to the branch of that name at `origin`."""
        sha = self.commit(ref)
        full = self.ask("rev-parse", "--symbolic-full-name", "--verify", "-q", "--end-of-options", ref) or ""
        if full.startswith("refs/tags/"):
            return self.pushed(sha, full, None)
        if not full.startswith("refs/heads/"):
            raise RequestError(
                f"{ref}: no branch or tag, so it is not known for which push a server would run it",
                hint="check a branch out, or name one: loom gate BRANCH",
            )
        branch = full.removeprefix("refs/heads/")
        return self.pushed(sha, full, self.ask("rev-parse", "--verify", "-q", f"refs/remotes/origin/{branch}"))

    def ref_of(self, name: str) -> str | None:
        """Return the server's ref that a name here stands for; None where it names a commit alone."""
        full = self.ask("rev-parse", "--symbolic-full-name", "--verify", "-q", "--end-of-options", name) or ""
        if not full and self.ask("show-ref", "--verify", f"refs/heads/{name}"):
            raise RequestError(f"{name} is a branch, and a tag", hint=f"refs/heads/{name}, or refs/tags/{name}")
        full = re.sub("^refs/remotes/[^/]+/", "refs/heads/", full)
        return full if full.startswith(("refs/heads/", "refs/tags/")) else None

    def merging(self, ref: str, target: str | None) -> CheckedCommit:
        """Return the commit of a branch, for a request to merge it into `target` (None: the default branch)."""
        one = self.named(ref)
        default = (self.ask("symbolic-ref", "-q", "refs/remotes/origin/HEAD") or "").removeprefix(
            "refs/remotes/origin/"
        )
        names = [target] if target else [default] if default else ["main", "master"]
        sides = [f"refs/{where}/{name}" for name in names for where in ("remotes/origin", "heads")]
        tip = next((found for side in sides if (found := self.ask("rev-parse", "--verify", "-q", side))), None)
        if tip is None or not one.branch:
            raise RequestError(
                f"{ref}: the branch to merge into is not known",
                hint="name it: loom gate --for merge-request --target BRANCH",
            )
        return replace(one, event="merge_request", base=tip)

    def tree(self, sha: str) -> str:
        return self.ask("rev-parse", "--verify", f"{sha}^{{tree}}") or ""

    def workflow(self, root: Path) -> str | None:
        """Return the workflow of the checkout at `root` that the server of `origin` runs: of several, the one of its kind."""
        found = [str(path.relative_to(root)) for path in workflows_of(root)]
        if len(found) > 1 and (origin := origin_of(self.ask("remote", "get-url", "origin"))) is not None:
            own = (each.default for each in (GITLAB, GITHUB) if each.name in origin.host.lower())
            return next((path for path in own if path in found), found[0])
        return found[0] if found else None


def unpushed(root: Path, commit: str, environ: Environ) -> Iterator[str]:
    """Yield the submodules of a commit of the checkout at `root` whose own commits, as far as is known here, no server has."""
    found = repository.find(root, environ)
    asked = git.in_repository(found, environ) if found is not None else environ
    for path, (mode, at) in tree_entries(asked, root, commit).items():
        if mode == "160000" and (inner := repository.find(root / path, environ)) is not None:
            words = ("--count=1", "refs/remotes", "refs/tags")
            if not git.run(
                ("for-each-ref", "--contains", at, *words), git.in_repository(inner, environ), cwd=root / path
            ):
                yield path
            yield from (f"{path}/{one}" for one in unpushed(root / path, at, environ))
