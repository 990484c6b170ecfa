"""A provider for tests: a machine far away, which sees no directory of this one. Files are sent there, and brought back.

Its machine is a directory (`FAR`), each session a directory of that, and a process there a process here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ProviderError
from loom.plan.model import PROJECT_DIR, Job, MountMode
from loom.providers.base import Capabilities, Provider, SessionFacts, SessionRequest, Setup
from loom.providers.command import Command
from loom.providers.driver.steps import AUTO, arguments_of, checked, chosen, handed_on
from loom.providers.files import members_in, members_of, unpack
from loom.status import Ended, Exit, OnOutput, Stream
from loom.storage.tar import Item, packed
from loom.storage.workspace import OnSkipped


def provider(setup: Setup) -> Provider:
    return FarProvider(Path(setup.environ["FAR"]))


class FarProvider(Provider):
    name = "far"
    capabilities = Capabilities(mounts=frozenset({MountMode.VOLUME}), isolated=True)

    def __init__(self, machine: Path) -> None:
        self._machine = machine

    def check(self) -> None:
        if not self._machine.is_dir():
            raise ProviderError("the far machine does not answer")

    def described(self) -> str:
        return "a far machine"

    def project_dir(self, workspace: Path) -> str:
        return PROJECT_DIR

    @contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[FarSession]:
        directory = Path(tempfile.mkdtemp(prefix=f"{request.run_id}.{request.job_id}.", dir=self._machine))
        (directory / "private").mkdir()
        (directory / "job").write_text(json.dumps([request.run_id, request.job_id]))
        (directory / "environment").write_text(json.dumps(dict(request.environment)))
        with self._session(directory, request) as session:
            yield session

    @contextmanager
    def _session(self, directory: Path, request: SessionRequest) -> Iterator[FarSession]:
        session = FarSession(directory, request)
        try:
            yield session
        finally:
            if not (directory / "kept").exists():
                shutil.rmtree(directory)

    def find(self, run_id: str, job_id: str, kept_id: str = "", *, user: str = "") -> FarKept | None:
        self._must_answer()
        for directory in sorted(self._machine.iterdir()):
            if json.loads((directory / "job").read_text()) == [run_id, job_id]:
                return FarKept(directory, self._session)
        return None

    def remove_run(self, run_id: str, jobs: Sequence[Job]) -> Sequence[str]:
        self._must_answer()
        for directory in self._machine.glob(f"{run_id}.*"):
            shutil.rmtree(directory)
        return ()

    def _must_answer(self) -> None:
        if not self._machine.is_dir():
            raise EngineUnavailable("the far machine does not answer")


class FarSession:
    def __init__(self, directory: Path, request: SessionRequest) -> None:
        self._place = directory
        self._files = directory / "files"
        self._private = directory / "private"
        self._request = request
        self._environment = {
            "PATH": os.environ["PATH"],
            **request.environment,
            "LOOM_ENV": str(self._private / "env"),
            "LOOM_MASK": str(self._private / "mask"),
        }
        self._handed_on: dict[str, str] = {}
        self._reported: Mapping[str, Sequence[bytes]] = {}
        self.facts = SessionFacts(container_id=directory.name, container_name=directory.name, auto_shell=AUTO["bash"])

    def _send(self) -> None:
        """Before the first step: the workspace may not be filled when the session is opened."""
        if not self._files.exists():
            self._files.mkdir()
            unpack(members_of(self._request.workspace, ["."]), self._files)

    def answers(self) -> bool:
        return True

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        if cancel.wait(0):
            return Exit(code=130, ended=Ended.CANCELED)
        checked(command.script, command.environment)
        self._send()
        script = self._private / "step"
        script.write_text(command.script)
        for name in ("env", "mask", *command.files.values()):
            (self._private / name).write_bytes(b"")
        process = subprocess.Popen(
            arguments_of(chosen(command.shell or self._request.shell, AUTO["bash"]), str(script)),
            cwd=self._files / command.start_in,
            env={
                **self._environment,
                **command.environment,
                **{name: str(self._private / file) for name, file in command.files.items()},
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if command.merge_output else subprocess.PIPE,
        )

        def read(stream: Stream, pipe: Any) -> None:
            with pipe:
                for line in pipe:
                    on_output(stream, line)

        threads = [
            threading.Thread(target=read, args=("stdout", process.stdout)),
            threading.Thread(target=read, args=("stderr", process.stderr)),
        ][: 1 if command.merge_output else 2]
        for thread in threads:
            thread.start()
        ended = Ended.EXITED
        unregister = cancel.on_request(process.kill)
        try:
            process.wait(command.timeout_s)
        except subprocess.TimeoutExpired:
            ended = Ended.TIMED_OUT
            process.kill()
        unregister()
        for thread in threads:
            thread.join()
        self._handed_on.update(handed_on((self._private / "env").read_bytes().splitlines()))
        read = ("mask", *command.files.values())
        self._reported = {name: (self._private / name).read_bytes().splitlines() for name in read}
        return Exit(code=abs(process.wait()), ended=Ended.CANCELED if cancel.requested else ended)

    def handed_on(self) -> Mapping[str, str]:
        return dict(self._handed_on)

    def reported(self) -> Mapping[str, Sequence[bytes]]:
        return self._reported

    def put_secret(self, name: str, content: bytes) -> str:
        path = self._private / f"secret.{name}"
        path.write_bytes(content)
        return str(path)

    def settle(self) -> None:
        """The files can be read."""

    def files(self) -> FarSession:
        self._send()
        return self

    def get(self, paths: Iterable[str], on_skipped: OnSkipped) -> Generator[Item, None, None]:
        return members_in([("", packed(members_of(self._files, paths)))], on_skipped)

    def put(self, items: Iterable[Item]) -> None:
        unpack(items, self._files)

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> FarInside:
        self._send()
        return FarInside(self._files, {**self._environment, **environment})

    def size(self) -> int:
        return 0

    def keep(self, expires_at: float) -> None:
        (self._place / "kept").write_text(str(expires_at))


class FarKept:
    def __init__(self, directory: Path, session: Callable[[Path, SessionRequest], Any]) -> None:
        self._place = directory
        self._session = session
        self.name = self.kept_id = directory.name
        self.kept = (directory / "kept").exists()

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        return {name: str(self._place / "private" / f"secret.{name}") for name in secrets}, False

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> FarInside:
        of_job = json.loads((self._place / "environment").read_text())
        return FarInside(self._place / "files", {"PATH": os.environ["PATH"], **of_job, **environment})

    def has_its_files(self, mode: MountMode) -> bool:
        return True

    def copy_files(self, target: Path, on_skipped: OnSkipped) -> None:
        target.mkdir(parents=True)
        unpack(members_of(self._place / "files", ["."]), target)

    def view(self) -> Path | None:
        return None

    def bring(self, source: Path, paths: Sequence[str]) -> None:
        for path in paths:
            if (target := self._place / "files" / path).is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        unpack(members_of(source, [path for path in paths if (source / path).exists()]), self._place / "files")

    def remove(self) -> Sequence[str]:
        shutil.rmtree(self._place)
        return ()

    def adopt(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Any:
        (self._place / "kept").unlink()
        return self._session(self._place, request)


class FarInside:
    def __init__(self, files: Path, environment: Mapping[str, str]) -> None:
        self._files = files
        self._environment = environment

    def exec(
        self,
        command: Sequence[str],
        on_output: OnOutput | None,
        cancel: Cancel,
        *,
        timeout_s: float | None = None,
        grace_s: float = 10.0,
        stdin: bool = True,
    ) -> Exit:
        ended = subprocess.run(
            command,
            cwd=self._files,
            env=dict(self._environment),
            check=False,
            stdin=None if stdin else subprocess.DEVNULL,
            capture_output=on_output is not None,
        )
        if on_output is not None:
            on_output("stdout", ended.stdout)
            on_output("stderr", ended.stderr)
        return Exit(code=ended.returncode)

    def continued(self, command: Sequence[str]) -> Sequence[str]:
        return command

    def shell(self, shell: Sequence[str], *, script: str, name: str, cancel: Cancel) -> int:
        return subprocess.run(["sh", "-i"], cwd=self._files, env=dict(self._environment), check=False).returncode
