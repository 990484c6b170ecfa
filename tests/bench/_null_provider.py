"""A provider that does nothing: what a run costs besides its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loom.cancel import Cancel
from loom.plan.model import PROJECT_DIR, MountMode
from loom.providers.base import Capabilities, SessionFacts, SessionRequest, Setup
from loom.providers.command import Command
from loom.status import Exit, OnOutput


def provider(setup: Setup) -> Any:
    return NullProvider()


class NullProvider:
    name = "null"
    capabilities = Capabilities(mounts=frozenset({MountMode.VOLUME}), isolated=True)
    images = None

    def check(self) -> None:
        """It is always there."""

    def described(self) -> str:
        return "nothing"

    def project_dir(self, workspace: Path) -> str:
        return PROJECT_DIR

    def overlays(self, workspace: Path) -> bool:
        return False

    @contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[NullSession]:
        yield NullSession()

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        return ()


class NullSession:
    facts = SessionFacts(auto_shell=("bash", "-e", "-o", "pipefail"))

    def answers(self) -> bool:
        return True

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        on_output("stdout", b"one line\n")
        return Exit(code=0)

    def handed_on(self) -> Mapping[str, str]:
        return {}

    def reported(self) -> Mapping[str, Sequence[bytes]]:
        return {}

    def settle(self) -> None:
        """Nothing runs."""

    def files(self) -> Path:
        return Path("/nowhere")
