"""`include`: find the files of a pipeline and merge them, the including file last."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from msgspec.structs import replace

from loom.addresses import hide_credentials
from loom.errors import InfrastructureError
from loom.util import globs, yaml_file
from loom.util.yaml_file import Kind, Node, YamlFile, fields_of, flat, items_of, one_or_more, text_of
from loom.values import Immutable
from loom.workflow.facts import Facts
from loom.workflow.gitlab import inputs, rules, yaml
from loom.workflow.gitlab.inputs import GivenInputs
from loom.workflow.gitlab.variables import Scope, environment_scoped, expand
from loom.workflow.merge import drop_keys, merge
from loom.workflow.messages import Problems
from loom.workflow.sources import SUFFIXES, Component, NotFound, OwnTree, Sources, Tree, Unreachable

CODE = "GL_INCLUDE"
MAX_INCLUDES = 150
KINDS = ("local", "project", "remote", "template", "component")


class _IncludeSite(Immutable):
    tree: Tree
    trail: tuple[str, ...]
    """The names of this file and of those that led to it."""
    given: GivenInputs = GivenInputs()


class GitLabFiles:
    def __init__(self, root: Path, facts: Facts, problems: Problems) -> None:
        self.own = OwnTree(root, facts.files)
        self.facts = facts
        self.problems = problems
        self.found: list[YamlFile] = []
        """Included files first; unreadable ones are missing."""
        own = {name: variable.value for name, variable in environment_scoped(facts.own_variables()).items()}
        self.variables: Mapping[str, str] = {"GITLAB_CI": "true", **facts.predefined, **own, **facts.given}
        self.rules: list[Node] = []
        """The rules of all includes."""
        self.undecided: dict[str, tuple[str, ...]] = {}
        """The includes that are left out by variables that only the server knows, with these."""
        self.incomplete = False
        """Whether files from elsewhere are left out (`Facts.own_files_only`)."""
        self._number = 0

    @cached_property
    def sources(self) -> Sources:
        """NotFound for a reader that has none."""
        if (found := self.facts.sources()) is None:
            raise NotFound("files of other projects and servers are not available here")
        return found

    def load(self, data: bytes, name: str) -> Node | None:
        """Parse the main file and return its content merged over that of its includes."""
        given = GivenInputs(
            texts=self.facts.inputs, inputs=inputs.nodes_of(self.facts.typed_inputs, "trigger:include:inputs")
        )
        return self._parsed(data, name, _IncludeSite(tree=self.own, trail=(name,), given=given))

    def _parsed(self, data: bytes, name: str, where: _IncludeSite) -> Node | None:
        file = yaml_file.decoded(data, name, code=yaml.CODE)
        root = None
        if not file.problems:
            root = inputs.load(file, replace(where.given, variables=self.variables))
            if not file.problems and (root is None or root.value in (None, {})):
                empty = root or Node(file, Kind.SCALAR, None, 1, 1, 1)
                self._say(empty, f"{name} is empty; add a job to it: a name, and below it `script`")
                root = None
        self.problems.found += file.problems
        file.root = root
        if root is not None and not root.is_mapping:
            self._say(root, f"{name}: expected a mapping of jobs and keywords")
            root = None
        included = self._included(root, where) if root is not None else None
        self.found.append(file)
        if root is None or included is None:
            return root
        return merge(included, drop_keys(root, ("include",)))

    def _say(self, node: Node, message: str) -> None:
        self.problems.found.append(node.file.problem(node, message, code=CODE))

    def _included(self, root: Node, where: _IncludeSite) -> Node | None:
        """Merge the files that a file includes, in their order; None without any."""
        merged: Node | None = None
        include = root.get("include")
        written = (
            [] if include is None or include.value is None else one_or_more(include)
        )  # null: nothing, as in GitLab
        for item in flat(written):
            for content in self._item(item, where):
                merged = content if merged is None else merge(merged, content)
        return merged

    def _item(self, item: Node, where: _IncludeSite) -> Iterator[Node]:
        """Yield the content of each file that one entry of `include` means."""
        if item.is_scalar:
            text = self._text(item)
            key, entry = ("remote" if text.startswith(("https://", "http://")) else "local"), {}
            entry[key] = item
        else:
            entry = fields_of(item)
        kinds = [kind for kind in KINDS if kind in entry]
        kind = kinds[0] if kinds else None
        if len(kinds) > 1:
            self._say(item, f"include: {' and '.join(kinds)} exclude each other; write an entry for each")
            return
        if kind is None:
            if entry.keys() <= {"file", "inputs", "ref", "rules"}:  # the check of shapes reports an unknown one
                self._say(item, f"include: expected one of {', '.join(KINDS)}")
            return
        scope = Scope(layered={}, known=self.variables)
        if "rules" in entry:
            self.rules.append(entry["rules"])
            if any(map(rules.is_blank, (entry["rules"], *items_of(entry["rules"])))):
                self._say(entry["rules"], "include:rules: the list, or a rule in it, is empty")
                return
        try:
            if not rules.GitLabRules(scope, self.facts, self.problems).include_applies(entry.get("rules")):
                self._left_out(entry, kind)
                return
            if self.facts.own_files_only and kind != "local":
                self.incomplete = True
                return
            yield from self._files(kind, entry, where)
        except Unreachable as error:
            where_written = f"{entry[kind].position}: include:{kind}"
            raise InfrastructureError(f"{where_written}: {error}", code="SERVER_UNAVAILABLE") from error
        except NotFound as error:
            self._say(entry[kind], f"include:{kind}: {error}")

    def _left_out(self, entry: Mapping[str, Node], kind: str) -> None:
        def applies(given: Mapping[str, str]) -> bool:
            scope = Scope(layered={}, known={**self.variables, **given})
            return rules.GitLabRules(scope, self.facts, Problems(code=yaml.CODE)).include_applies(entry["rules"])

        if names := rules.missing(rules.read_by(entry["rules"]), self.facts, self.variables, applies):
            self.undecided[f"include {text_of(entry[kind])}"] = names

    def _text(self, node: Node | None) -> str:
        return "" if node is None or not node.is_scalar else expand(text_of(node), self.variables).strip()

    def _files(self, kind: str, entry: Mapping[str, Node], where: _IncludeSite) -> Iterator[Node]:
        given = GivenInputs(inputs=fields_of(entry.get("inputs")), include=entry[kind])
        match kind:
            case "local":
                yield from self._tree_files(where.tree, self._text(entry[kind]), entry[kind], where, given)
            case "project":
                ref = self._text(entry.get("ref")) or None
                files = one_or_more(entry.get("file"))
                if not files:
                    raise NotFound("`file` says which file of the project; add it")
                tree = self.sources.project(self._text(entry[kind]), ref)
                for node in flat(files):
                    yield from self._tree_files(tree, self._text(node), node, where, given)
            case "component":
                yield from self._component(self._text(entry[kind]), entry[kind], where, given)
            case "remote":
                url = self._text(entry[kind])
                data = self.sources.remote(url)
                _check_integrity(data, entry.get("integrity"))
                yield from self._one(self.own, hide_credentials(url), data, entry[kind], where, given)
            case _:
                name = self._text(entry[kind])
                yield from self._one(
                    self.own, f"template:{name}", self.sources.template(name), entry[kind], where, given
                )

    def _tree_files(self, tree: Tree, text: str, node: Node, where: _IncludeSite, given: GivenInputs) -> Iterator[Node]:
        path = text.lstrip("/")
        if not path.endswith(SUFFIXES):
            raise NotFound(f"{text or 'an empty path'} is no YAML file; its name must end in .yml or .yaml")
        if path.startswith("./"):
            raise NotFound(f"GitLab finds no file by a path with ./ in front; write {path.removeprefix('./')}")
        if ".." in path.split("/"):
            raise NotFound(f"{text} leads out of the project; write the path from the project's root")
        names = [path]
        if "*" in path:
            try:
                wanted = globs.compile(_wildcards(path))
            except globs.GlobError as error:
                raise NotFound(str(error)) from error
            names = sorted(name for name in tree.paths() if wanted.fullmatch(name) and name.endswith(SUFFIXES))
            if not names:
                raise NotFound(f"no file matches {text}")
        for name in names[: MAX_INCLUDES + 1]:
            yield from self._one(tree, f"{tree.label}{name}", tree.read(name), node, where, given)

    def _component(self, address: str, node: Node, where: _IncludeSite, given: GivenInputs) -> Iterator[Node]:
        path, _, version = address.rpartition("@")
        host, _, rest = path.partition("/")
        project, _, name = rest.rpartition("/")
        if not (host and project and name and version):
            raise NotFound(f"expected HOST/GROUP/PROJECT/NAME@VERSION, found {address}")
        own = self.variables.get("CI_PROJECT_PATH"), self.variables.get("CI_COMMIT_SHA")
        if (project, version) == own:
            component = Component(tree=self.own, version="")
        else:
            component = self.sources.component(host, project, version)
        tree, tried = component.tree, (f"templates/{name}.yml", f"templates/{name}/template.yml")
        for path in tried:
            try:
                data = tree.read(path)
            except NotFound:
                continue
            about = {"name": name, "reference": version, "sha": tree.sha or version, "version": component.version}
            yield from self._one(tree, f"{tree.label}{path}", data, node, where, replace(given, component=about))
            return
        raise NotFound(f"{project} has no component {name}: there is neither {tried[0]} nor {tried[1]}")

    def _one(
        self, tree: Tree, name: str, data: bytes, node: Node, where: _IncludeSite, given: GivenInputs
    ) -> Iterator[Node]:
        self._number += 1
        if self._number > MAX_INCLUDES:
            if self._number == MAX_INCLUDES + 1:
                self._say(node, f"more than {MAX_INCLUDES} files are included, which GitLab refuses")
            return
        if name in where.trail:
            cycle = " -> ".join((*where.trail[where.trail.index(name) :], name))
            self._say(node, f"the includes form a cycle: {cycle}; remove one")
            return
        content = self._parsed(data, name, _IncludeSite(tree=tree, trail=(*where.trail, name), given=given))
        if content is not None:
            yield content


def _wildcards(path: str) -> str:
    """Return the glob for what GitLab makes of a path: `**` is any text, `*` any without a slash, and all else itself."""
    return re.sub(r"[\\?\[\]{}]", r"\\\g<0>", path).replace("**/", "**\\/")


def _check_integrity(data: bytes, node: Node | None) -> None:
    if node is None:
        return
    algorithm, _, wanted = node.text.partition("-")
    found = base64.b64encode(hashlib.sha256(data).digest()).decode()
    if algorithm != "sha256" or wanted != found:
        raise NotFound(f"include:integrity: expected {node.text}, the file has sha256-{found}")
