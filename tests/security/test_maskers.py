"""Runs beside and inside each other in one process: each hides the secrets of all."""

import gc

import pytest

from loom.util import controls
from loom.util.masking import Masker, known

from .conftest import Victim

OUTER, INNER = "outer-value-1f3a", "inner-value-77c2"


def test_a_second_masker_hides_for_the_first_and_takes_nothing_away() -> None:
    parent = known(Masker({"OUTER": OUTER}))
    stream = parent.stream()
    assert not known(Masker()).mask(OUTER).count(OUTER)
    child = known(Masker())
    child.add("INNER", INNER)
    both = f"{OUTER} {INNER}\n"
    wanted = "[REDACTED:SECRET_OUTER] [REDACTED:SECRET_INNER]\n"
    assert [parent.mask(both), child.mask(both), controls.hide(both)] == [wanted] * 3
    assert stream.feed(both.encode()) == wanted.encode()
    child.add("LATER", "later-value-99")
    assert "later-value" not in parent.mask("later-value-99") + controls.shown("later-value-99")
    assert Masker().mask(both) == both


def test_a_masker_that_ended_hides_in_messages_and_is_forgotten_in_the_end() -> None:
    kept = known(Masker({"OUTER": OUTER}))
    known(Masker({"INNER": INNER}))
    gc.collect()
    assert INNER not in controls.hide(INNER)  # an error that is printed afterwards
    for _ in range(8):
        known(Masker())
    gc.collect()
    known(Masker())
    assert controls.hide(INNER) == INNER
    assert OUTER not in controls.hide(OUTER) + kept.mask(OUTER)


@pytest.mark.slow
def test_a_child_pipeline_neither_shows_its_parents_secret_nor_ends_its_masking(victim: Victim) -> None:
    (victim.root / ".loom/workflow.yml").unlink()
    (victim.root / ".gitlab-ci.yml").write_text(
        "first: {script: ['echo first=$OUTER', 'echo $OUTER > $HOME/note']}\n"
        "child: {stage: test, needs: [first], trigger: {include: child.yml, strategy: depend}}\n"
        "last: {stage: deploy, script: ['echo last=$OUTER', exit 3]}\n"
    )
    (victim.root / "child.yml").write_text(
        "inner: {script: ['unset OUTER; echo inner=$(cat ~/note)', 'echo own=$INNER']}\n"
    )
    victim.git("add", "-A")
    victim.git("commit", "-q", "-m", "a change")
    (victim.home / "variables.yml").write_text("OUTER: {ref: 'env://OUTER'}\nINNER: {ref: 'env://INNER'}\n")
    victim.configure("container: false\ngitlab: {variables: ~/variables.yml}\n")
    done = victim.loom("run", "--trust", OUTER=OUTER, INNER=INNER)
    said = done.stdout + done.stderr
    kept = {path: path.read_text(errors="replace") for path in victim.state.rglob("*") if path.is_file()}
    for name, text in {"last": "OUTER", "inner": "OUTER", "own": "INNER"}.items():
        assert [path for path in kept if f"{name}=[REDACTED:SECRET_{text}]" in kept[path]], (name, said)
    for value in (OUTER, INNER):
        assert value not in said
        assert not [path for path in kept if value in kept[path]]
