"""GitHub's artifact service, version 4: named zip files, each in the record of the job that uploaded it.

The files themselves are the only list: `<folder of the job>/<name, quoted>.zip`. So a later run finds those of jobs that it
takes over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

from msgspec import Struct, field

from loom.action_services.caches import number_of
from loom.action_services.requests import Client, Message, ServiceStore, Uploads, text
from loom.action_services.uploads import Refused, Upload
from loom.storage import zips
from loom.storage.tar import DamagedArchive
from loom.storage.unpacking import UnsafeArchive, checked
from loom.util.untrusted_files import open_regular

SUFFIX = ".zip"
_LONGEST_NAME = 240
"""Quoted, so that it is the name of a file."""
_NO_NAMES = (SUFFIX, f".{SUFFIX}", f"..{SUFFIX}")
_FORBIDDEN = '"/:<>|*?\r\n\\\0'


class ArtifactService(Struct):
    store: ServiceStore
    uploads: Uploads
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _deleted: set[Path] = set()
    """Deleted artifacts of earlier runs, whose files stay."""
    _uploaded: set[Path] = set()
    """The artifacts that this run uploaded: a resumed job may upload its earlier ones once more."""

    def create(self, client: Client, request: Message) -> Message:
        """`CreateArtifact`: reserve a name, and give an address to upload to."""
        name = text(request, "name")
        file = file_of(name)
        if file in _NO_NAMES or any(one in _FORBIDDEN for one in name) or len(file) > _LONGEST_NAME:
            raise Refused(400, "invalid_argument", f"{name!r} can't be the name of an artifact")
        with self._lock:
            taken = any(
                found == name and (job_id != client.job_id or path in self._uploaded)
                for job_id, found, path in self._all(client)
            )
            address = None if taken else self.uploads.begin(client, "artifact", client.pipeline, name)
        if address is None:
            raise Refused(409, "already_exists", "an artifact with this name already exists on the workflow run")
        return {"ok": True, "signed_upload_url": address}

    def finish(self, client: Client, request: Message) -> Message:
        """`FinalizeArtifact`: keep what was uploaded in the job's record."""
        name = text(request, "name")
        size = text(request, "size", "0")
        with self.uploads.taken(client, size, "artifact", client.pipeline, name) as upload:
            files, content = self._looked_through(upload)
            client.folder.mkdir(parents=True, exist_ok=True)
            path = client.folder / file_of(name)
            upload.file.replace(path)
            self._uploaded.add(path)
        fact = {"name": name, "archive": path.name, "files": files, "bytes": content, "sha256": upload.sha256}
        client.tell("artifact", fact)
        return {"ok": True, "artifact_id": str(_number(client.job_id, name))}

    def listed(self, client: Client, request: Message) -> Message:
        """`ListArtifacts`: all of the pipeline, or those with this name or id."""
        wanted = {name: text(request, f"{name}_filter") for name in ("name", "id") if request.get(f"{name}_filter")}
        with self._lock:  # nobody deletes one meanwhile
            found = [
                {
                    "workflow_run_backend_id": client.pipeline,
                    "workflow_job_run_backend_id": job_id,
                    "database_id": str(_number(job_id, name)),
                    "name": name,
                    "size": str(path.stat().st_size),
                    "created_at": f"{datetime.fromtimestamp(int(path.stat().st_mtime), UTC):%Y-%m-%dT%H:%M:%SZ}",
                }
                for job_id, name, path in self._all(client)
            ]
        return {
            "artifacts": [
                one
                for one in found
                if wanted.get("name", one["name"]) == one["name"]
                and wanted.get("id", one["database_id"]) == one["database_id"]
            ]
        }

    def found(self, client: Client, request: Message) -> Message:
        """`GetSignedArtifactURL`: give an address to download from."""
        job_id, name, path = self._one(client, request)
        return {
            "name": name,
            "signed_url": self.uploads.address(client, "artifact", f"{quote(job_id, '')}/{path.name}"),
        }

    def delete(self, client: Client, request: Message) -> Message:
        """`DeleteArtifact`: let another one have the name."""
        with self._lock:
            job_id, name, path = self._one(client, request)
            if path.is_relative_to(self.store.record):
                path.unlink(missing_ok=True)
            else:
                self._deleted.add(path)
        return {"ok": True, "artifact_id": str(_number(job_id, name))}

    def open(self, name: str) -> IO[bytes]:
        """Open the archive with this name in an address."""
        job_id, _, file = name.partition("/")
        return open_regular(self.store.folder_of(unquote(job_id)) / file)

    def _all(self, client: Client) -> Iterator[tuple[str, str, Path]]:
        """Yield job, name and archive of every artifact of the pipeline."""
        for job_id in self.store.jobs_of(client.pipeline):
            for path in sorted(archives(self.store.folder_of(job_id))):
                if path not in self._deleted:
                    yield job_id, named(path), path

    def _one(self, client: Client, request: Message) -> tuple[str, str, Path]:
        wanted = text(request, "name")
        for one in self._all(client):
            if one[1] == wanted:
                return one
        raise Refused(404, "not_found", f"there is no artifact {wanted!r}")

    def _looked_through(self, upload: Upload) -> tuple[int, int]:
        """Return the number and the size of an archive's files. Refused for a secret in it, and for no zip."""
        files = size = 0
        try:
            with upload.file.open("rb") as file:
                for entry, content in checked(zips.items(file)):
                    files, size = files + (content is not None), size + entry.size
                    shown = self.store.masker.mask(entry.path)
                    if shown != entry.path:
                        raise Refused(400, "invalid_argument", f"{shown}: a secret is in its name")
                    secret = self.store.masker.found_in(content.read) if content is not None else None
                    if secret is not None:
                        raise Refused(400, "invalid_argument", f"{shown} holds the secret {secret}")
        except (DamagedArchive, UnsafeArchive) as error:
            raise Refused(400, "invalid_argument", f"the archive can't be kept: {error}") from error
        return files, size


def archives(folder: Path) -> Iterator[Path]:
    """Yield the archives in the folder of a job, which may not exist."""
    return (path for path in folder.glob(f"*{SUFFIX}") if path.name not in _NO_NAMES)


def named(archive: Path) -> str:
    """Return the name of the artifact."""
    return unquote(archive.name.removesuffix(SUFFIX))


def file_of(name: str) -> str:
    """Return the name of an artifact's archive."""
    return f"{quote(name, '')}{SUFFIX}"


def _number(job_id: str, name: str) -> int:
    return number_of(f"{job_id}\0{name}")
