"""Actions, which steps use: of the project, of other repositories, images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from loom.errors import RequestError
from loom.plan.late import Action
from loom.plan.model import ResolveContext
from loom.util import yaml_file
from loom.util.units import meant
from loom.util.yaml_file import Node, YamlFile, fields_of, items_of, node_at, scalars_of, text_of
from loom.values import Immutable
from loom.workflow.github import yaml
from loom.workflow.github.shapes import faults
from loom.workflow.parser import InvalidExpression
from loom.workflow.sources import NotFetched, Repositories, Unreachable

NAMES = ("action.yml", "action.yaml")
NODES = ("node20", "node24")
_OF_STEP = frozenset(
    ["id", "if", "name", "run", "shell", "env", "working-directory", "continue-on-error", "uses", "with"]
)
"""The keys of a step of a composite action."""
_OLDER = ("node12", "node16")
"""Their actions run with the oldest of `NODES`, as on GitHub."""


_SHARED = "github strategy matrix job runner"
_CONTEXTS = {
    "inputs": f"{_SHARED} hashfiles()",
    "outputs": f"{_SHARED} steps inputs env",
    "runs:steps": f"{_SHARED} steps inputs env hashfiles()",
    "runs:env": "inputs",
    "runs:args": "inputs",
}
"""The contexts that the texts of an action's own file may read: a secret only by an input."""
_STATUS = "always() success() failure() cancelled()"


class BadAction(Exception):
    """An action that can't be used here; the message has the reason and the next move."""


class NotInProject(BadAction):
    """An action that the project does not have. A step of the job may write it."""


class NoServer(BadAction):
    """The server of an action does not answer, which is no mistake of the workflow."""


class ActionFile(Immutable):
    """An action as its `action.yml` describes it. Texts may hold expressions."""

    action: Action
    """The action without the parts that differ between its stages."""
    name: str = ""
    inputs: Mapping[str, str | None] = {}
    """Each with its default."""
    outputs: Mapping[str, str] = {}
    """Of a composite action."""
    steps: tuple[Node, ...] = ()
    """Of a composite action."""
    pre: str = ""
    main: str = ""
    post: str = ""
    """Files for Node, or entrypoints of a container."""
    pre_if: str = "always()"
    post_if: str = "always()"
    args: tuple[str, ...] = ()
    is_described: bool = False
    """Whether it has been read from its `action.yml`."""


def read(uses: str, root: Path, context: ResolveContext) -> ActionFile:
    """Return the action that a step names. Raises BadAction."""
    if uses.startswith("docker://"):
        return ActionFile(action=Action(uses=uses, using="docker", image=uses))
    repositories = context.repositories()  # a plan with requests is not kept, even for the project's own files
    if not uses.startswith(("./", "$/")):
        return _remote(uses, repositories)
    path = uses[2:].strip("/")
    for name in (*NAMES, "Dockerfile"):
        file = f"{path}/{name}".lstrip("/")
        if (data := _content(uses, root / file, root)) is None:
            continue
        if name == "Dockerfile":
            return ActionFile(action=Action(uses=uses, path=path, using="docker", image=name))
        return described(yaml.parse(data, file), Action(uses=uses, path=path))
    raise NotInProject(f"{uses}: the project has no {f'{path}/action.yml'.lstrip('/')}")


def _content(uses: str, path: Path, root: Path) -> bytes | None:
    """Return the content of a file in an action's repository; None if missing. Raises BadAction for a link that leads out."""
    try:
        return yaml_file.read_bytes(path, within=root)
    except OSError:
        return None
    except RequestError as error:
        raise BadAction(f"{uses}: {error.message}") from error


def _remote(uses: str, repositories: Repositories | None) -> ActionFile:
    """Return the action of another repository: `owner/name[/path]@ref`."""
    where, _, ref = uses.partition("@")
    owner, _, rest = where.partition("/")
    name, _, path = rest.partition("/")
    path = path.strip("/")
    if not (owner and name and ref) or ".." in path.split("/"):
        raise BadAction(f"{uses}: expected owner/name@ref, owner/name/path@ref, ./path or docker://IMAGE")
    try:
        action = fetched(f"{owner}/{name}", ref, repositories)
    except BadAction as error:
        raise type(error)(f"{uses}: {error}") from error
    if action is None:
        return ActionFile(action=Action(uses=uses, using="composite"))
    action, directory = replace(action, uses=uses, path=path), Path(action.directory)
    for file in NAMES:
        if (data := _content(uses, directory / path / file, directory)) is not None:
            return described(yaml.parse(data, f"{where}/{file}@{ref}"), action)
    if (directory / path / "Dockerfile").is_file():
        return ActionFile(action=replace(action, using="docker", image="Dockerfile"))
    raise BadAction(f"{uses}: {owner}/{name} has no {path and f'{path}/'}action.yml at {ref}")


def fetched(repository: str, ref: str, repositories: Repositories | None) -> Action | None:
    """Return a repository as it is at a ref; None where nothing is fetched, to check a file. Raises BadAction."""
    if repositories is None:
        return None
    try:
        found = repositories.at(repository, ref)
    except NotFetched as error:
        raise (NoServer if isinstance(error, Unreachable) else BadAction)(str(error)) from error
    uses = f"{repository}@{ref}"
    return Action(uses=uses, repository=repository, ref=ref, commit=found.commit, directory=str(found.directory))


def _check(uses: str, node: Node | None, contexts: str) -> None:
    """Raise BadAction where expressions below a node read other contexts than these."""
    for path, scalar in scalars_of(node) if node is not None else ():
        condition = len(path) == 2 and path[-1] == "if"
        allowed = frozenset(f"{contexts} {_STATUS if condition else ''}".split())
        said = path[-1:] in (("description",), ("deprecationMessage",))
        if isinstance(scalar.value, str) and not said and (condition or "${{" in scalar.value):
            try:
                for message, _ in faults(scalar.value, allowed, is_condition=condition):
                    raise BadAction(f"{uses}: {scalar.position}: {message}")
            except InvalidExpression as error:
                raise BadAction(f"{uses}: {scalar.position}: invalid expression: {error}") from error


def described(file: YamlFile, action: Action) -> ActionFile:
    """Return the action that a file describes. Raises BadAction."""
    if file.problems:
        raise BadAction(f"{action.uses}: {file.problems[0]}")
    runs = node_at(file.root, "runs")
    if file.root is None or runs is None:
        raise BadAction(f"{action.uses}: {file.name} has no `runs`")
    for part, contexts in _CONTEXTS.items():
        _check(action.uses, file.root.find(*part.split(":")), contexts)
    using = text_of(runs, "using").lower()
    texts = {key: text_of(node) for key, node in fields_of(runs).items() if key not in ("steps", "env", "args")}
    shared: dict[str, object] = {
        "name": text_of(file.root, "name"),
        "inputs": {
            name: None if (default := node.get("default")) is None else text_of(default)
            for name, node in fields_of(file.root, "inputs").items()
        },
        "pre_if": texts.get("pre-if") or "always()",
        "post_if": texts.get("post-if") or "always()",
    }
    more = {name: getattr(action, name) for name in action.__struct_fields__} | {"using": using}
    match using:
        case "composite" if runs.get("steps") is None:
            raise BadAction(f"{action.uses}: {file.name} has no `runs.steps`")
        case "composite":
            for step in items_of(runs, "steps"):
                for key in sorted(fields_of(step).keys() - _OF_STEP):
                    raise BadAction(
                        f"{action.uses}: {step.keys[key].position}: unknown key {key}{meant(key, _OF_STEP)}"
                    )
                for key in ("env", "with"):
                    if (node := step.get(key)) is not None and node.is_scalar and node.value is not None:
                        raise BadAction(f"{action.uses}: {node.position}: {key}: expected a mapping")
                if step.get("run") is not None and step.get("shell") is None:
                    raise BadAction(f"{action.uses}: {file.name}:{step.line}: `shell` is missing")
            shared |= {
                "outputs": {name: text_of(node, "value") for name, node in fields_of(file.root, "outputs").items()},
                "steps": tuple(items_of(runs, "steps")),
            }
        case "docker":
            env = {name: text_of(node) for name, node in fields_of(runs, "env").items()}
            more |= {"image": texts.get("image", "Dockerfile"), "env": env}
            shared |= {
                "pre": texts.get("pre-entrypoint", ""),
                "main": texts.get("entrypoint", ""),
                "post": texts.get("post-entrypoint", ""),
                "args": tuple(text_of(one) for one in items_of(runs, "args")),
            }
        case _ if using in (*NODES, *_OLDER) and not texts.get("main"):
            raise BadAction(f"{action.uses}: {file.name} has no `runs.main`, the file that Node runs")
        case _ if using in (*NODES, *_OLDER):
            more |= {"using": NODES[0] if using in _OLDER else using}
            shared |= {key: texts.get(key, "") for key in ("pre", "main", "post")}
        case _:
            raise BadAction(
                f"{action.uses}: runs.using is {using or 'missing'}; known are composite, docker, {', '.join(NODES)}"
            )
    return ActionFile(action=Action(**more), is_described=True, **shared)  # type: ignore[arg-type]
