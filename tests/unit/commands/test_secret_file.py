"""The file of `--secret-file`."""

from pathlib import Path

import pytest

from loom.commands.plan.secret_file import read_secrets
from loom.errors import RequestError


def test_each_line_is_a_secret(tmp_path: Path) -> None:
    (tmp_path / "s").write_text('# mine\n\nA=one two\nexport B = \'quoted=x\'\nC="\nD="a"b"\n')
    assert read_secrets(str(tmp_path / "s")) == {"A": "one two", "B": "quoted=x", "C": '"', "D": 'a"b'}


def test_a_mistake_is_named_by_its_line_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("A=1\nhunter22\n")
    with pytest.raises(RequestError, match=r"s:2: expected NAME=value") as caught:
        read_secrets(str(tmp_path / "s"))
    assert "hunter22" not in str(caught.value)
    with pytest.raises(RequestError, match="no such file"):
        read_secrets(str(tmp_path / "none"))
