"""The whole program has the types that it declares, so that no other test has to look for a value of a wrong type."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)  # half a minute of processor time where mypy has no cache yet, a second where it has one
def test_the_program_has_the_types_that_it_declares() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
