"""What the machine refuses is an error of the run; anything else that is missing is a bug."""

import errno
from pathlib import Path

import pytest

from loom.errors import InfrastructureError
from loom.util.refusals import refusal, refusals


def test_a_place_of_a_run_that_somebody_removed_is_no_bug(tmp_path: Path) -> None:
    directory = tmp_path / "loom-run-local-1-2"
    for missing in (directory, directory / "a/b", tmp_path / "loom-run-local-1-2.jobs/job/upper"):
        with pytest.raises(InfrastructureError, match="the workspace is gone") as raised, refusals():
            missing.stat()
        assert raised.value.code == "WORKSPACE_MISSING"
    directory.mkdir()
    with pytest.raises(FileNotFoundError), refusals():
        (directory / "a").stat()
    with pytest.raises(FileNotFoundError), refusals():
        (tmp_path / "elsewhere").stat()


def test_what_is_used_up_names_the_file_and_the_next_move() -> None:
    refused = refusal(OSError(errno.ENOSPC, "No space left on device", "/some/file"))
    assert refused is not None
    assert (refused.message, refused.hint) == ("/some/file: No space left on device", "free some space there")
    assert refusal(OSError(errno.EBADF, "Bad file descriptor")) is None
