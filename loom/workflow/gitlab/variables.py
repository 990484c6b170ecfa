"""Variables as GitLab reads, layers and expands them.

GitLab expands twice. The server replaces `$NAME`, `${NAME}` and `%NAME%` by values it knows, variables that others refer
to first; it leaves unknown names, and names of variables with `expand: false`, to the runner. The runner then expands
once more: `$$` is a dollar sign, and a name without a value is empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from loom.errors import RequestError, WorkflowError, reason_of
from loom.util import globs, yaml_file
from loom.util.toposort import CycleError, order
from loom.util.yaml_file import Node, fields_of, items_of, node_at, text_of, truth
from loom.values import Immutable
from loom.workflow import interpolation
from loom.workflow.facts import Variable
from loom.workflow.messages import Problems

_SERVER = re.compile(r"\$\$|%%|\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)\}|%([A-Za-z_]\w*)%", re.ASCII)
_EXISTING = re.compile(r"\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)\}|%([A-Za-z_]\w*)%", re.ASCII)
_RUNNER = re.compile(r"\$(?:\{([^}]*)\}|([*#$@!?\-0-9])|(\w+)|\{())", re.ASCII)


SECRET = "[MASKED]"
"""The value of a secret for conditions."""
GIVE = "give it with --var, or in the file that `gitlab: {variables: FILE}` in ~/.config/loom/config.yml names"
_CODE = "CONFIG_INVALID"
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HINT = "`gitlab: {variables: FILE}` in ~/.config/loom/config.yml names it"


def read(node: Node | None, *path: str) -> dict[str, Variable]:
    """Read a `variables:` mapping; numbers and truth values become the texts that GitLab makes of them."""
    found = {}
    for name, value in fields_of(node, *path).items():
        if value.is_mapping:
            expands = truth(value, "expand", default=True)
            found[name] = Variable(value=text_of(value, "value"), expand=expands, node=value)
        else:
            found[name] = Variable(value=text_of(value), node=value)
    return found


def own(path: Path, project: str) -> dict[str, Variable]:
    """Read the user's file with the variables that projects have on the server, for the project of this path.

    A name with a value counts for every project; a mapping below a project's path, or a glob of paths, for those alone.
    RequestError for a file that can't be read or has mistakes.
    """
    try:
        file = yaml_file.read(path, str(path), code=_CODE)
    except OSError as error:
        raise RequestError(f"{path}: {reason_of(error)}", hint=_HINT, code=_CODE) from error
    if file.problems:
        raise WorkflowError(file.problems)
    found: dict[str, Variable] = {}
    for name, node in fields_of(file.root).items():
        if _NAME.fullmatch(name):
            found[name] = _own(name, node)
    for glob, node in fields_of(file.root).items():
        if not _NAME.fullmatch(glob) and globs.match_name(glob, project):
            found |= {name: _own(name, value) for name, value in fields_of(node).items()}
    return found


def secret_variables(names: Iterable[str]) -> dict[str, Variable]:
    """Return the masked variables whose values loom's environment has."""
    return {name: Variable(value=SECRET, expand=False, ref=f"env://{name}") for name in names}


def environment_scoped(variables: Mapping[str, Variable], environment: str = "") -> dict[str, Variable]:
    """Return the variables of a job with this environment; empty: of one without, of rules and of includes.

    The glob that is the whole name wins, then the longest one.
    """
    found = {}
    for name, variable in variables.items():
        globs_of = [glob for glob in variable.environments if globs.match_name(glob, environment)]
        if globs_of:
            found[name] = variable.environments[max(globs_of, key=lambda glob: (glob == environment, len(glob)))]
        elif not variable.environments:
            found[name] = variable
    return found


def _own(name: str, node: Node) -> Variable:
    """`NAME: value`, a mapping with `value` or `ref`, and `file` and `expand`, or one with `environments`."""
    fields = fields_of(node) or {"value": node}
    if fields.keys() == {"environments"}:
        scoped = fields_of(fields["environments"])
        return Variable(value="", environments={glob: _single(name, one) for glob, one in scoped.items()}, node=node)
    return _single(name, node)


def _single(name: str, node: Node) -> Variable:
    fields = fields_of(node) or {"value": node}
    if fields.keys() - {"value", "ref", "file", "expand"} or ("value" in fields) == ("ref" in fields):
        message = (
            f"{name}: expected a value, or a mapping with value or ref, and optionally file and expand, "
            "or one with environments alone"
        )
        raise WorkflowError([node.file.problem(node, message, code=_CODE)])
    ref = text_of(fields.get("ref"))
    return Variable(
        value=SECRET if ref else text_of(fields.get("value")),
        expand=not ref and truth(fields.get("expand"), default=True),
        file=truth(fields.get("file")),
        ref=ref,
        node=node,
    )


def check(node: Node | None, problems: Problems) -> None:
    """Report each variable whose value is not one of its `options`."""
    for name, value in fields_of(node).items():
        options = value.get("options")
        if options is None:
            continue
        allowed = [text_of(option) for option in items_of(options)]
        if text_of(value, "value") not in allowed:
            message = f"variables:options: the value of {name} must be one of its options: {', '.join(allowed)}"
            problems.say(value.get("value") or value, message)


class Scope(Immutable, dict=True):
    """The variables that rules and texts of one job see: `layered` above the `known` predefined ones."""

    layered: Mapping[str, Variable] = MappingProxyType({})
    known: Mapping[str, str] = MappingProxyType({})

    @cached_property
    def written(self) -> Mapping[str, str]:
        """The values that conditions compare: as written, since GitLab expands no variable for `if`."""
        return {**self.known, **{name: variable.value for name, variable in self.layered.items()}}

    @cached_property
    def expanded(self) -> Mapping[str, str]:
        """The values that globs and texts see; as written when they refer to each other in a cycle."""
        try:
            return {**self.known, **expand_all(self.layered, self.known)}
        except (CycleError, interpolation.ExpansionTooLong):
            return self.written


def layers(
    *,
    root: Mapping[str, Variable],
    workflow: Mapping[str, Variable] = MappingProxyType({}),
    inherit: Node | None = None,
    job: Mapping[str, Variable] = MappingProxyType({}),
    matrix: Mapping[str, str] = MappingProxyType({}),
    rule: Mapping[str, Variable] = MappingProxyType({}),
    project: Mapping[str, Variable] = MappingProxyType({}),
    given: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Variable]:
    """Merge the levels of a job's variables; the later ones win.

    `workflow`: those of the matching rule of `workflow:rules`. `project`: those of the user's file. `given`: `--var`.
    Variables of dotenv reports come between `rule` and `project`, when the job runs.
    """
    return {
        **inherited({**root, **workflow}, inherit),
        **job,
        **{name: Variable(value=value) for name, value in matrix.items()},
        **rule,
        **project,
        **{name: Variable(value=value, expand=False) for name, value in given.items()},
    }


def inherited(variables: Mapping[str, Variable], inherit: Node | None) -> Mapping[str, Variable]:
    """Return the global variables that `inherit:variables` lets through."""
    wanted = node_at(inherit, "variables")
    if wanted is None or wanted.value is True:
        return variables
    names = {node.value for node in items_of(wanted)}
    return {name: variable for name, variable in variables.items() if name in names}


def names(text: str) -> Iterator[str]:
    """Return every name that a text refers to."""
    return interpolation.names(text, _SERVER)


def never(_name: str) -> bool:
    return False


def expand(text: str, values: Mapping[str, str], *, late: Callable[[str], bool] = never) -> str:
    """Expand one text as the runner does: `$$` is a dollar sign, a name without a value is empty.

    References to `late` names, whose values are only known when the job runs, stay, as `${NAME}`: the value of a next one
    would become a part of a name without braces.
    """

    def unknown(name: str, _written: str) -> str:
        return f"${{{name}}}" if _NAME.fullmatch(name) and late(name) else ""

    return interpolation.expand(text, values, _RUNNER, unknown)


def referring(variable: Variable, values: Mapping[str, str]) -> str:
    """Return the text that the runner expands to a variable's value; `values` are texts of the same kind.

    A `$` that stands for itself is `$$` there.
    """
    if not variable.expand:
        return variable.value.replace("$", "$$")
    return interpolation.expand(references(variable.value), values, _SERVER)


def references(text: str) -> str:
    """Return a text as the runner reads it, in the syntax of `interpolation`."""
    return expand(text.replace("$$", "$$$$"), {}, late=lambda _name: True)


def expand_existing(text: str, values: Mapping[str, str]) -> str:
    """Expand a text as GitLab's server does for globs, refs and names: references to unknown names stay."""
    return interpolation.expand(text, values, _EXISTING)


def expand_all(
    layered: Mapping[str, Variable], known: Mapping[str, str], *, late: Callable[[str], bool] = never
) -> dict[str, str]:
    """Expand variables that may refer to each other, in any order, and to known values, which stay as they are.

    CycleError for variables that refer to each other in a cycle; a variable that refers only to itself is no cycle, as in GitLab.
    References to `late` names, to secrets and to variables of type file stay.
    """
    if not any((variable.expand and "$" in variable.value) or "%" in variable.value for variable in layered.values()):
        return {name: variable.value for name, variable in layered.items()}
    needs = {
        name: [other for other in names(variable.value) if other in layered and other != name]
        for name, variable in layered.items()
        if variable.expand
    }
    of_session = {name for name, variable in layered.items() if variable.file or variable.ref}
    left = of_session | {name for name, variable in layered.items() if not variable.expand}
    served = {name: value for name, value in known.items() if name not in left}
    texts: dict[str, str] = {}
    for name in order(layered, needs):
        text, expands = layered[name].value, layered[name].expand
        texts[name] = interpolation.expand(text, served, _SERVER) if expands else text
        if name not in left:
            served[name] = texts[name]
    values = {name: value for name, value in {**known, **texts}.items() if name not in of_session}
    at_run = (lambda name: name in of_session or late(name)) if of_session else late
    return {
        name: expand(texts[name], values, late=at_run) if variable.expand else variable.value
        for name, variable in layered.items()
    }
