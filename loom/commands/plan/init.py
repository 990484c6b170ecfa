"""`loom init`: name the workflows of a project, or draft its first one, by the table `starters.yml` beside this module."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from loom.commands.plan.check import check
from loom.commands.plan.contexts import resolve_context
from loom.commands.project import Project, checkout, open_project, workflow_path, workflows_of
from loom.providers.docker.images.present import present_images
from loom.snapshot.repository import bare
from loom.status import ExitCode
from loom.util import globs
from loom.util.paths import name_from
from loom.util.units import counted
from loom.util.untrusted_files import open_regular
from loom.values import Immutable
from loom.workflow.dialects import examine

OTHER_FILES = """
    .travis.yml .circleci/config.yml Jenkinsfile azure-pipelines.yml bitbucket-pipelines.yml .drone.yml .woodpecker.yml
    .cirrus.yml appveyor.yml .buildkite/pipeline.yml
"""
_NO_PROJECT = re.compile(
    r"(^|/)(\.[^/]*|docs?|examples?|samples?|vendor|third_party|node_modules|testdata|fixtures)(/|$)"
)
_MOST_READ = 200
_MOST_BYTES = 1 << 20
_PLAIN = re.compile(r"[a-z./][^:#\n]*")
_NOTHING_KNOWN = "echo 'Write the commands of your tests here.'"


class Starter(Immutable, forbid_unknown_fields=True):
    """A language in the table, which explains its fields."""

    name: str
    marks: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    images: tuple[str, ...]
    build: str = ""
    packages: dict[str, str] = {}
    steps: tuple[dict[str, str], ...]


class Draft(Immutable):
    """A job for the files of one language."""

    name: str
    images: tuple[str, ...]
    commands: tuple[str, ...]


def init(*, print_only: bool) -> int:
    project = open_project()
    if (project.root / "HEAD").is_file() and (project.root / "objects").is_dir():
        raise bare(project.root)
    present = [] if print_only else workflows_of(project.root)
    begin = "" if (project.root / ".git").exists() else "git init && git add -A && git commit -m 'First commit'"
    for path in present:
        print("\n".join(_existing(project, path, named=path != present[0])))
    if present:
        if begin:
            print(f"before the first run: {begin}")
        return ExitCode.OK
    files = checkout.files_of(project)
    drafts = drafts_for(project.root, files)
    local = present_images(project.environ, project.config.engine)
    jobs = {draft.name: image_for(draft.images or (project.config.default_image,), local or ()) for draft in drafts}
    text = workflow_text(drafts, jobs)
    if print_only:
        print(text, end="")
        return ExitCode.OK
    path = workflow_path(project.root, None, project.start)
    path.parent.mkdir(exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    print(f"{name_from(project.root, path)} is a draft, {_origin(drafts)}; its jobs:")
    for draft in drafts:
        note = "" if local is None or jobs[draft.name] in local else ", which the first run pulls"
        print(f"  {draft.name}: {'; '.join(draft.commands)}\n    in {jobs[draft.name]}{note}")
    for other in sorted({*OTHER_FILES.split()} & {*files}):
        print(f"{other} is of a CI system whose files loom does not read: compare its commands with the draft")
    code = check(None, "text", inputs=None, strict=False)
    if local is None:
        print("no container engine of this machine answers, which the jobs need: loom doctor")
    print(f"now: {begin and f'{begin} && '}loom run")
    return code


def _existing(project: Project, path: Path, *, named: bool) -> Iterator[str]:
    """Describe a workflow that the project has; `named`: `loom run` takes it only if it is named."""
    examined = examine(path, project.root, partial(resolve_context, project, path))
    shown = name_from(project.root, path)
    option = f" -f {shlex.quote(name_from(project.start, path))}" if named else ""
    if examined.problems or examined.workflow is None:
        yield f"{shown} has {counted(len(examined.problems), 'error')}: loom check{option}"
        return
    yield f"loom reads {shown} as it is, {counted(len(examined.workflow.jobs), 'job')}: loom run{option}"


def _origin(drafts: Sequence[Draft]) -> str:
    names = " and ".join(draft.name for draft in drafts)
    return (
        f"made for the files of {names}"
        if drafts[0].commands != (_NOTHING_KNOWN,)
        else "as loom knows no language here"
    )


# -- the draft ----------------------------------------------------------------------------------------------------


def drafts_for(root: Path, files: Sequence[str]) -> list[Draft]:
    """Draft a job for each language of a project, which has these files; a job that says what to write, if none is known."""
    table = msgspec.yaml.decode(Path(__file__).with_name("starters.yml").read_bytes(), type=tuple[Starter, ...])
    files = [file for file in files if file.isprintable()]
    folders = sorted({file.partition("/")[0] for file in files if "/" in file} - {""})
    places = ["", *(folder for folder in folders if not _NO_PROJECT.search(folder))]
    found = [
        (starter, place)
        for starter in table
        if (place := next((place for place in places if globs.any_of(starter.marks, _below(files, place))), None))
        is not None
    ]
    if not any(place == "" for _, place in found):
        found += [(starter, "") for starter in table if globs.any_of(starter.alone, files)][:1]
    drafts = []
    for starter, place in found:
        commands = _commands(starter, root / place, _below(files, place))
        enter = f"cd {shlex.quote(place)} && " if place else ""  # each step is a shell of its own
        drafts.append(
            Draft(name=starter.name, images=starter.images, commands=tuple(enter + command for command in commands))
        )
    return drafts or [Draft(name="test", images=(), commands=(_NOTHING_KNOWN,))]


def _below(files: Sequence[str], folder: str) -> list[str]:
    return [file.removeprefix(f"{folder}/") for file in files if file.startswith(f"{folder}/")] if folder else [*files]


def _commands(starter: Starter, root: Path, files: Sequence[str]) -> Iterator[str]:
    needed = {name: re.sub(r"\A~", f"{starter.build} ~", text) for name, text in starter.packages.items()}
    if packages := [name for name, condition in needed.items() if _met(condition, root, files) is not None]:
        yield from ("apt-get update", f"apt-get install -y {' '.join(packages)}")
    for conditions in starter.steps:
        for condition, commands in conditions.items():
            if (values := _met(condition, root, files)) is not None:
                for name, value in values.items():
                    commands = commands.replace(f"{{{name}}}", value)
                yield from commands.split(" && ")
                break


def _met(condition: str, root: Path, files: Sequence[str]) -> dict[str, str] | None:
    """Return the values for the commands of a condition that is met."""
    glob, _, expression = condition.partition(" ~ ")
    named = [file for file in files if globs.matches(glob, file)][:_MOST_READ]
    for file in named:
        if not expression:
            return {"found": shlex.quote(file)}
        text = ""
        with suppress(OSError), open_regular(root / file) as content:
            text = content.read(_MOST_BYTES).decode("utf-8", "replace")
        if match := re.search(expression, text, re.MULTILINE):
            return {"found": shlex.quote(file), "group": match[1] if match.re.groups else ""}
    return None


def image_for(images: Sequence[str], local: Collection[str]) -> str:
    """Return the first of these images that is here, with whatever tag, else the first."""
    for image in images:
        same = [name for name in local if name == image or name.rpartition(":")[0] == image.rpartition(":")[0]]
        if same:
            return image if image in same else max(same)
    return images[0]


def workflow_text(drafts: Sequence[Draft], images: Mapping[str, str]) -> str:
    """Write the jobs as a file in loom's own language."""
    lines = ["# A draft by `loom init`. Change it to what your CI does; `loom check` finds mistakes.", "version: v1"]
    lines += ["stages: [test]"]
    for draft in drafts:
        lines += ["", f"{draft.name}:", "  stage: test", f"  image: {images[draft.name]}", "  script:"]
        lines += [f"    - {_scalar(command)}" for command in draft.commands]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "''") + "'"
