"""No command loses a text that a person wrote: in a table of edits on both sides, through the orders of sync and pull."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.loom_process import run_loom

from .conftest import Make, Project

pytestmark = pytest.mark.slow

# name: what the checkout has before the run (None: nothing; `+`: not committed), what the person and the job make of it afterwards
# (None: it is deleted, `=`: it stays, `->`: a link, `x`: executable).
SITUATIONS = {
    "both": ("committed", "mine", "job"),
    "both-uncommitted": ("+dirty", "mine", "job"),
    "job-alone": ("committed", "=", "job"),
    "job-alone-uncommitted": ("+dirty", "=", "job"),
    "deleted-by-job": ("+dirty", "=", None),
    "deleted-by-job-edited": ("committed", "mine", None),
    "deleted-by-me": ("committed", None, "job"),
    "mine-alone": ("committed", "mine", "="),
    "both-new": (None, "mine", "job"),
    "job-new": (None, "=", "job"),
    "modes": ("committed", "xmine", "xjob"),
    "link-by-job": ("+dirty", "mine", "->job"),
    "link-by-me": ("+dirty", "->mine", "job"),
    "was-link": ("->before", "->mine", "->job"),
    "new.ignored": (None, "mine", "job"),
    "dirty.ignored": ("+dirty", "mine", "job"),
    "down/inside": ("committed", "mine", "job"),
    "becomes-directory": ("+dirty", "mine", None),
}
STEPS = ("becomes-directory/in", "job becomes-directory/in"), ("down-new/in", "job down-new/in")
ORDERS = [
    ("pull --apply", "pull --apply"),
    ("resume --sync", "resume --sync=ours", "pull --apply", "pull --apply"),
    ("edit", "resume --sync=ours", "pull --apply", "resume --sync=theirs", "pull --apply"),
    ("resume --sync=ours", "resume --sync=ours", "edit", "resume --sync", "resume --sync=theirs", "pull --apply"),
    ("pull --apply", "edit", "resume --sync=ours", "edit", "pull --apply"),
]
COPY = re.compile(r"git cat-file blob ([0-9a-f]{40})")


def content(name: str, what: str, more: str = "") -> str:
    return f"{what} {name}{more}"


def put(path: Path, name: str, what: str | None, more: str = "") -> None:
    if what == "=":
        return
    path.unlink(missing_ok=True)
    if what is not None:
        path.parent.mkdir(exist_ok=True)
        text = content(name, what, more)
        path.symlink_to(text) if what.startswith("->") else path.write_text(text)
        if what.startswith("x"):
            path.chmod(0o755)


def script() -> str:
    """Return the commands that make the job's side."""
    lines = []
    for name, (_, _, what) in SITUATIONS.items():
        if what == "=":
            continue
        lines.append(f"rm -f '{name}'")
        if what is not None:
            text = content(name, what)
            lines.append(f"ln -s -- '{text}' '{name}'" if what.startswith("->") else f"printf %s '{text}' > '{name}'")
        if what is not None and what.startswith("x"):
            lines.append(f"chmod +x '{name}'")
    for name, text in STEPS:
        lines += [f"mkdir -p {Path(name).parent}", f"printf %s '{text}' > {name}"]
    return "\n".join(lines)


def texts(root: Path) -> set[str]:
    found = set()
    for here, _, names in os.walk(root):
        for path in (Path(here, name) for name in names if ".git/" not in f"{here}/"):
            found.add(str(path.readlink()) if path.is_symlink() else path.read_text())
    return found


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_each_text_of_a_person_is_in_the_checkout_or_in_a_named_object(make: Make, order: tuple[str, ...]) -> None:
    project = make("version: v1\nstages: [test]\na: {stage: test, script: [exit 3]}\n")
    root = project.root
    (root / ".gitignore").write_text("*.ignored\n")
    for name, (before, _, _) in SITUATIONS.items():
        if before is not None and not before.startswith("+"):
            put(root / name, name, before)
    git(project, "add", "-A")
    git(project, "-c", "user.name=t", "-c", "user.email=t@e", "commit", "-qm", "before")
    for name, (before, _, _) in SITUATIONS.items():
        if before is not None and before.startswith("+"):
            put(root / name, name, before)
    project.loom("run", "--local", code=1)
    project.loom("exec", "a", "--", "sh", "-ec", script())  # a person writes in the job's files as well
    edit(root, "")
    of_person, copies = texts(root), set[str]()
    ever = set(of_person)
    for number, command in enumerate(order):
        if command == "edit":
            edit(root, f" again {number}")  # a person may overwrite what is there
            of_person = texts(root)
            ever |= of_person
            copies.clear()
            continue
        job = texts(Path(project.loom("workspace", "a").strip()))
        ran = run_loom(tuple(command.split()), cwd=root, environ=project.environ)
        assert ran.returncode in (0, 1, 2), ran.stderr
        named = COPY.findall(ran.stdout + ran.stderr)
        copies |= {git(project, "cat-file", "blob", sha) for sha in named}
        committed = {content(name, before) for name, (before, _, _) in SITUATIONS.items() if before == "committed"}
        there = texts(root) | copies | committed
        assert not of_person - there, (command, of_person - there, ran.stdout + ran.stderr)
        if command.startswith("resume"):
            left = job - texts(Path(project.loom("workspace", "a").strip())) - copies - ever - committed
            left = {text for text in left if not text.startswith(("+dirty", "->before"))}
            assert not left, (command, left, ran.stdout + ran.stderr)


def edit(root: Path, more: str) -> None:
    for name, (_, mine, _) in SITUATIONS.items():
        put(root / name, name, mine, more)


def git(project: Project, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=project.root, env=project.environ, check=True, capture_output=True, text=True
    ).stdout
