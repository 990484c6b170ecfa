"""What a command beside the driver ended with, as the engine tells it."""

from types import SimpleNamespace

import pytest

from loom.errors import ProviderError
from loom.providers.docker.session import exec as execs


def ended(*answers: tuple[bool, int | None]) -> execs.EngineCommand:
    """A command of which the engine says in turn whether it runs, and its exit code; the last answer stays."""
    left = list(answers)
    inspect = lambda _: dict(zip(("Running", "ExitCode"), left.pop(0) if len(left) > 1 else left[0], strict=True))  # noqa: E731
    command = execs.EngineCommand.__new__(execs.EngineCommand)
    command._api, command._exec_id = SimpleNamespace(exec_inspect=inspect), "x"
    return command


def test_an_exit_code_is_waited_for() -> None:
    assert ended((True, None), (False, None), (False, 3)).code == 3
    assert ended((True, 0), (False, 0)).code == 0


def test_a_code_that_the_engine_never_tells_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "_CODE_WITHIN_S", 0.1)
    with pytest.raises(ProviderError, match="has not told the command's exit code"):
        assert ended((False, None)).code
    with pytest.raises(ProviderError, match="has not told the command's exit code"):
        assert ended((True, 0)).code
