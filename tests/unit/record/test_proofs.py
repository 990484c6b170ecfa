"""The list of proofs: whoever changes, moves or removes a line ends the trust in all of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.record.proofs import JobProof, Proofs, RunProof
from loom.status import Status


def proof(number: int) -> RunProof:
    job = JobProof(job_id="unit", key=f"{number:064x}", status=Status.FAILURE if number == 1 else Status.SUCCESS)
    return RunProof(run_id=str(number), tree="a" * 40, commit="c", record="r", jobs=(job,))


def kept(directory: Path) -> Proofs:
    proofs = Proofs(directory / "state")
    for number in range(3):
        proofs.add(proof(number))
    return proofs


def test_it_keeps_what_was_added(tmp_path: Path) -> None:
    assert kept(tmp_path).read() == ([proof(0), proof(1), proof(2)], True)


def green(lines: list[bytes]) -> list[bytes]:
    shape = json.loads(lines[1])
    shape["entry"]["jobs"][0]["status"] = "success"
    return [lines[0], json.dumps(shape).encode() + b"\n", lines[2]]


@pytest.mark.parametrize(
    "change",
    [
        green,
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[2]],
        lambda lines: [lines[0], b"?\n", lines[2]],
    ],
    ids=["edited", "removed", "moved", "replayed", "broken"],
)
def test_a_change_by_another_hand_ends_the_trust(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    proofs = kept(tmp_path)
    proofs.path.write_bytes(b"".join(change(proofs.path.read_bytes().splitlines(keepends=True))))
    assert proofs.read() == ([], False)
    proofs.add(proof(7))
    assert proofs.read() == ([proof(7)], True)


def test_a_list_signed_with_another_key_is_none(tmp_path: Path) -> None:
    theirs, ours = kept(tmp_path / "theirs"), kept(tmp_path / "ours")
    ours.path.write_bytes(theirs.path.read_bytes())
    assert ours.read() == ([], False)


def test_half_a_line_does_no_harm(tmp_path: Path) -> None:
    """A full disk leaves one."""
    proofs = kept(tmp_path)
    with proofs.path.open("ab") as file:
        file.write(b'{"mac":"ab')
    assert proofs.read() == ([proof(0), proof(1), proof(2)], True)
    proofs.add(proof(3))
    assert proofs.read() == ([proof(0), proof(1), proof(2), proof(3)], True)
