"""Run a program in a container of its own beside a job's: the job's files and network, another image (an action's)."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.providers import labels
from loom.providers.base import SessionFacts, SessionRequest, SideProgram
from loom.providers.docker.container.cleanup import remove_container
from loom.providers.docker.container.create import HARDENED_SERVICE, limits_of
from loom.providers.docker.engine.client import EngineClient
from loom.providers.docker.engine.errors import explanation, translated
from loom.providers.docker.session.attach import attached, follow
from loom.providers.driver import protocol as driver
from loom.status import Ended, Exit, OnOutput

_LIMITS = ("nano_cpus", "mem_limit", "memswap_limit", "pids_limit")
MOST_REPORTED = 16 << 20
"""The largest file that is read after the end, in bytes."""


def run_beside(
    client: EngineClient,
    request: SessionRequest,
    facts: SessionFacts,
    image_id: str,
    asked: SideProgram,
    on_output: OnOutput,
    cancel: Cancel,
) -> tuple[Exit, Mapping[str, Sequence[bytes]]]:
    """Implement `Provider.run_beside`; the image is already present."""
    api = client.api
    host: dict[str, Any] = {
        "init": True,
        "volumes_from": [facts.container_id],
        "network_mode": f"container:{facts.container_id}",
        **{key: value for key, value in limits_of(request.resources).items() if key in _LIMITS},
        **(HARDENED_SERVICE if request.hardened else {}),
    }
    with translated(f"creating the container of {asked.name}"):
        config = api.create_container_config(
            image=image_id,
            entrypoint=list(asked.entrypoint) if asked.entrypoint else None,
            command=list(asked.arguments) or None,
            environment=driver.environment(asked.environment)[0],  # git trusts the workspace, whoever owns it
            working_dir=request.project_dir,
            labels=labels.request_labels(request, "helper"),
            host_config=api.create_host_config(**host),
        )
        made = api.create_container_from_config(config, f"{facts.container_name}-{token_hex(3)}")["Id"]
    try:
        with translated(f"preparing the container of {asked.name}"):
            api.put_archive(made, "/", _files(asked, request.project_dir))
        exit_ = _run(client, made, asked, on_output, cancel, request.grace_s)
        with translated(f"reading what {asked.name} reported"):
            return exit_, _reported(api, made, asked)
    finally:
        remove_container(client, made)


def _files(asked: SideProgram, project_dir: str) -> bytes:
    """Return the content of `SideProgram.directory`: the program's files, a home, and the project's directory as `workspace`."""
    archive = io.BytesIO()
    root = asked.directory.strip("/")
    with tarfile.open(fileobj=archive, mode="w") as packed:
        for name, content in (("", None), ("home", None), ("files", None), *asked.files.items()):
            entry = tarfile.TarInfo(f"{root}/{name}".rstrip("/"))
            entry.mode = 0o777 if content is None else 0o666
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            packed.addfile(entry, io.BytesIO(content or b""))
        link = tarfile.TarInfo(f"{root}/workspace")
        link.type, link.linkname = tarfile.SYMTYPE, project_dir
        packed.addfile(link)
    return archive.getvalue()


def _run(
    client: EngineClient, made: str, asked: SideProgram, on_output: OnOutput, cancel: Cancel, grace_s: float
) -> Exit:
    api = client.api
    output = attached(client, made, "stdout", "stderr")
    ended: list[Ended] = []
    over = threading.Event()

    def stop(why: Ended) -> None:
        if not ended and not over.is_set():
            ended.append(why)
            with suppress(Exception):  # the end of its output tells whether it worked
                api.stop(made, timeout=int(grace_s))

    timer = threading.Timer(asked.timeout_s, stop, (Ended.TIMED_OUT,)) if asked.timeout_s is not None else None
    unregister = cancel.on_request(lambda: threading.Thread(target=stop, args=(Ended.CANCELED,), daemon=True).start())
    try:
        try:
            api.start(made)
        except Exception as error:
            if (status := getattr(error, "status_code", None)) is None or status >= 500:
                raise ProviderError(f"{asked.name} could not be started: {explanation(error)}") from error
            on_output("stderr", f"{asked.name} could not be started: {explanation(error)}\n".encode())
            return Exit(code=127)
        if timer is not None:
            timer.start()
        follow(output, on_output)
        with translated(f"waiting for {asked.name}"):
            state = api.wait(made)  # no limit: its output has ended, and with it the program
            oom = bool(api.inspect_container(made)["State"].get("OOMKilled"))
    finally:
        over.set()
        unregister()
        if timer is not None:
            timer.cancel()
        output.close()
    why = ended[0] if ended else Ended.OOM_KILLED if oom else Ended.EXITED
    return Exit(code=int(state["StatusCode"]), ended=why)


def _reported(api: Any, made: str, asked: SideProgram) -> dict[str, Sequence[bytes]]:
    """Return the lines of the files that the program was to write."""
    found: dict[str, Sequence[bytes]] = {}
    for key, path in asked.reported.items():
        stream, status = api.get_archive(made, f"{asked.directory}/{path}")
        if status["size"] > MOST_REPORTED:
            raise ProviderError(f"{asked.name} wrote {status['size']} bytes to {path}, and {MOST_REPORTED} are read")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            file = archive.extractfile(archive.next() or tarfile.TarInfo())
            content = file.read() if file is not None else b""
        lines = content.split(b"\n")
        found[key] = lines[:-1] if not lines[-1] else lines
    return found
