"""A value leads back to where it is written."""

from collections.abc import Iterator

from loom.util import yaml_file
from loom.util.yaml_file import Node, fields_of, items_of
from loom.workflow.gitlab import yaml as gitlab_yaml

TEXT = """\
.base: &base
  script: [a, [b, c]]
  list:
  - x: {y: 1, z: }
  - - deep
    - - deeper: 2
  ~key/of: text
job: {<<: *base, own: &own [1], again: *own}
empty:
"""


def parts(node: Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    """Yield every value and key with its path."""
    yield path, node
    for key, child in fields_of(node).items():
        yield (*path, key), node.keys[key]
        yield from parts(child, (*path, key))
    for number, child in enumerate(items_of(node)):
        yield from parts(child, (*path, number))


def test_each_value_and_key_has_its_path_and_what_is_shared_that_of_its_anchor() -> None:
    file = yaml_file.decoded(TEXT.encode(), "f", code="C")
    gitlab_yaml.parse(file)
    assert file.root is not None
    merged = {"script", "list", "~key/of"}
    for path, node in parts(file.root):
        wanted = (".base", *path[1:]) if path[0:1] == ("job",) and path[1:2] and path[1] in merged else path
        wanted = ("job", "own", *path[2:]) if path[:2] == ("job", "again") and node.text != "again" else wanted
        assert (tuple(file.path_to(node)), node.owner) == (wanted, str(next(iter(wanted), ""))), path
    copy = file.root.value["job"].having({})
    assert file.problem(copy, "x").pointer == "/job"
    assert file.problem(file.root.value[".base"].keys["~key/of"], "x").pointer == "/.base/~0key~1of"
    assert file.problem(None, "x").pointer == "/"
