"""Build with BuildKit, through the `buildx` program and the same engine."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.dockerfile import ALWAYS_OUT
from loom.plan import model
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine.endpoint import endpoint_of
from loom.providers.docker.images.build_inputs import BuildInputs
from loom.status import OnOutput
from loom.util import processes
from loom.values import Environ

_PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def find_buildx(environ: Environ) -> list[str] | None:
    """Return the command that runs BuildKit builds, if installed; `LOOM_BUILDKIT=0` or `DOCKER_BUILDKIT=0` disables it."""
    if "0" in (environ.get("LOOM_BUILDKIT"), environ.get("DOCKER_BUILDKIT")):
        return None
    home = environ.get("DOCKER_CONFIG") or f"{environ.get('HOME', '')}/.docker"
    for folder in (f"{home}/cli-plugins", *_PLUGIN_FOLDERS):
        program = f"{folder}/docker-buildx"
        if os.access(program, os.X_OK):
            # The plugin also runs directly, without the `docker` program.
            return [program]
    program = shutil.which("docker-buildx", path=environ.get("PATH")) or ""
    return [program] if program else None


def build_with_buildx(
    buildx: list[str],
    build: model.Build,
    inputs: BuildInputs,
    request: ResolveRequest,
    environ: Environ,
) -> None:
    given, cancel = request.secrets.own, request.cancel
    secrets = {secret.name: given[secret.name] for secret in build.secrets if secret.name in given}
    # Beside ignore rules that also leave loom's own record out: the builder looks for `<Dockerfile>.dockerignore` first, and
    # the workspace stays untouched.
    with (
        TemporaryDirectory(prefix="loom-build-", ignore_cleanup_errors=True) as folder,
        _memory_files(secrets) as descriptors,
    ):
        dockerfile = Path(folder, inputs.dockerfile.name)
        dockerfile.write_bytes(inputs.text.encode())
        rules = "\n".join([*inputs.ignore_lines, *ALWAYS_OUT]) + "\n"
        Path(f"{dockerfile}.dockerignore").write_bytes(os.fsencode(rules))
        command = [*buildx, "build", "--builder", "default", "--progress", "plain", "--provenance", "false"]
        command += ["--file", str(dockerfile), "--tag", inputs.tag, "--platform", inputs.platform]
        if build.target is not None:
            command += ["--target", build.target]
        for name, value in build.args.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, descriptor in descriptors.items():
            command += ["--secret", f"id={name},src=/proc/self/fd/{descriptor}"]
        tail = BuildOutput(request.on_output)
        arguments = [folder, *command, str(inputs.context)]
        code = _run(arguments, descriptors.values(), _buildx_environment(environ), tail.feed, cancel)
        tail.end()
        if cancel.requested:
            raise ImageError(f"canceled while building {inputs.tag}", code="CANCELED")
        if code != 0:
            raise build_failed(inputs.dockerfile_name, *tail.failure())


@contextmanager
def _memory_files(secrets: Mapping[str, bytes]) -> Iterator[dict[str, int]]:
    """Provide each value as a private file in memory, which is freed with its last process."""
    descriptors: dict[str, int] = {}
    try:
        for name, value in secrets.items():
            made = os.memfd_create("loom-secret", os.MFD_CLOEXEC)
            # Above the descriptor numbers that a shell may use itself.
            descriptors[name] = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 10)
            with os.fdopen(made, "wb") as file:
                file.write(value)
        yield descriptors
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _buildx_environment(environ: Environ) -> dict[str, str]:
    """Make builder `default` use loom's engine, even if a Docker context names it."""
    endpoint = endpoint_of(environ)
    values = {**environ, "DOCKER_HOST": endpoint.url, "NO_COLOR": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    values.pop("DOCKER_CONTEXT", None)
    if endpoint.certificates is not None:
        values |= {"DOCKER_CERT_PATH": str(endpoint.certificates), "DOCKER_TLS_VERIFY": "1" if endpoint.verify else ""}
    return values


# The input of this script ends when loom ends, also by `kill -9`. Then it ends the command, which would go on building. It
# removes the directory of the Dockerfile ($0). A shell says how a command was killed, which would end it where nobody reads:
# its own words go nowhere.
_WITH_LOOM = """
exec 3<&0
"$@" </dev/null 3<&- &
command=$!
exec >/dev/null 2>&1
{ read -r line <&3; kill -TERM "$command"; } &
watcher=$!
wait "$command"
code=$?
kill "$watcher"
rm -rf "$0"
exit "$code"
"""


def _run(
    arguments: list[str],
    descriptors: Collection[int],
    environ: Environ,
    on_bytes: Callable[[bytes], object],
    cancel: Cancel,
) -> int:
    """Run the command of `_WITH_LOOM`, which inherits `descriptors`; return its exit code."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WITH_LOOM, *arguments],
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=tuple(descriptors),
    )
    end = partial(processes.end, process, grace_s=5.0, group=True)
    # In a thread: that of the cancel request must not wait.
    unregister = cancel.on_request(lambda: threading.Thread(target=end, name="loom-build-end", daemon=True).start())
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while chunk := os.read(process.stdout.fileno(), 65536):
            on_bytes(chunk)
        return process.wait()  # no limit: a cancel kills it
    except BaseException:
        processes.end(process, group=True)
        raise
    finally:
        unregister()
        process.stdin.close()
        process.stdout.close()


# The output of a builder, this one or the classic one


class BuildOutput(Struct):
    """Passes a builder's output on and keeps its end, which has the reason of a failure."""

    on_output: OnOutput
    _half: bytes = b""
    _last: bytes = b""

    def feed(self, chunk: bytes) -> None:
        # Whole lines, without the empty ones between a builder's paragraphs.
        *lines, self._half = (self._half + chunk).split(b"\n")
        output = b"".join(line + b"\n" for line in lines if line.strip())
        if output:
            self.on_output("stdout", output)
        self._last = (self._last + chunk)[-4096:]

    def end(self) -> None:
        if self._half.strip():
            self.on_output("stdout", self._half + b"\n")

    def failure(self) -> tuple[int | None, str | None, str]:
        """Return the failed Dockerfile line and instruction, if reported, and the message."""
        return parse_failure(self._last.decode(errors="replace"))


def parse_failure(output: str) -> tuple[int | None, str | None, str]:
    """Return line, instruction and message from the end of a builder's output (BuildKit's or the classic one's)."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR: ", "error: "))]
    words = (
        (errors or lines or ["the builder printed no reason"])[-1]
        .removeprefix("ERROR: ")
        .removeprefix("failed to solve: ")
    )
    if marked := re.findall(r"^ *(\d+) \| >>> (.*)$", output, re.MULTILINE):
        number, instruction = marked[0]
        return int(number), instruction.strip(), words
    steps = re.findall(r"^Step \d+/\d+ : (.*)$", output, re.MULTILINE)
    return None, steps[-1].strip() if steps else None, words


def build_failed(dockerfile: str, line: int | None, instruction: str | None, words: str) -> ImageError:
    dockerfile += f":{line}" if line is not None else ""
    at = f" at `{instruction}`" if instruction else ""
    hint = "Its whole output is in the section image_build."
    if "docker/dockerfile" in words:
        hint = "Its `# syntax=` line asks a registry for the builder's front end. Most builders' own will do: leave it out."
    return ImageError(f"{dockerfile}: the build failed{at}: {words}", hint=hint, code="IMAGE_BUILD_FAILED")
