import random
from itertools import pairwise

import pytest

from loom.util.toposort import CycleError, closure, order


def test_order_is_stable() -> None:
    assert order(["c", "b", "a"], {}) == ["c", "b", "a"]
    assert order(["c", "b", "a"], {"c": ["a"], "b": ["c"]}) == ["a", "c", "b"]
    assert order(["a", "b"], {"a": ["gone"]}) == ["a", "b"]


def test_a_cycle_is_named_edge_by_edge() -> None:
    with pytest.raises(CycleError) as caught:
        order(["x", "a", "b", "c"], {"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]})
    assert caught.value.cycle == ("a", "b", "c", "a")
    with pytest.raises(CycleError) as caught:
        order(["a"], {"a": ["a"]})
    assert caught.value.cycle == ("a", "a")


def test_every_need_comes_first() -> None:
    chance = random.Random(4)
    for _ in range(50):
        names = [f"n{i}" for i in range(40)]
        needs = {name: chance.sample(names[:i], min(i, 3)) for i, name in enumerate(names)}
        shuffled = chance.sample(names, len(names))
        found = order(shuffled, needs)
        assert sorted(found) == sorted(names)
        assert all(found.index(needed) < found.index(name) for name in names for needed in needs[name])


@pytest.mark.slow
def test_a_chain_of_thousands() -> None:
    names = [f"n{i}" for i in range(20_000)]
    assert order(names, {a: [b] for a, b in pairwise(names)}) == names[::-1]


def test_closure() -> None:
    assert closure(["a"], {"a": ["b"], "b": ["c", "a"], "c": [], "d": ["a"]}.__getitem__) == {"a", "b", "c"}
