"""The snapshot as an image: pushed to a registry once, pulled by each node once, copied into each pod there.

The image is a small base with `sh` and `cp`, and layers with git's objects, the files and the repository's own `.git`: what a
run shares with the one before is neither sent nor pulled again. A pod's first init container copies them into the pod's
volumes; image volumes would spare the copy, and old clusters lack them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.config.pools import Pool
from loom.errors import ProviderError
from loom.images.reference import parse_reference
from loom.providers.base import SessionRequest
from loom.providers.files import members_of, moved_below
from loom.providers.kubernetes.images.registry import CONFIG, LAYER, MANIFEST, RegistryError, Repository
from loom.status import OnOutput
from loom.storage.tar import Item, packed
from loom.util.digests import Hashed, digest_line
from loom.util.typed import Immutable
from loom.util.units import rough_size

BASE = "busybox:stable-musl"
"""The base where the pool names none: an image with `sh` and `cp`, 1 MB."""
COPY = "loom-snapshot"
"""The name of the init container, and of the folder in the image: below it a folder for each path in the pod, by number."""


class Pushed(Immutable):
    """A snapshot in the registry."""

    reference: str
    digests: bytes
    """The digests of the workspace's files, as `sha256sum` reads them."""
    files: int
    sent: int
    """The bytes that left this machine for it."""
    paths: tuple[str, ...]
    """The paths in the pod of the image's folders; the last is the workspace."""
    mode: str
    """The mode of the workspace."""


def members_below(source: Path, folder: str, digests: list[bytes] | None = None) -> Iterator[Item]:
    """Yield the members of a directory, without itself, as those of a folder in an archive; note its files' `digests`."""
    for entry, content in members_of(source, ["."]):
        if entry.path == ".":
            continue
        hashed = None if content is None or digests is None else Hashed(content)
        yield moved_below(folder, entry), hashed or content
        if digests is not None and hashed and (line := digest_line(hashed.digest.hexdigest(), entry.path)):
            digests.append(line)


class SnapshotImages:
    """The snapshots of one run in the registry of one pool, each pushed once however many jobs get it. Thread-safe."""

    def __init__(self, pool: Pool, environ: Mapping[str, str]) -> None:
        """Raise ProviderError for an invalid address."""
        assert pool.registry is not None
        self._repository = Repository(pool.registry, environ)
        self._base = pool.registry_base or BASE
        self._environ = environ
        self._lock = threading.Lock()
        self._made: dict[Path, Pushed | None] = {}

    def of(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Pushed | None:
        """Return the request's workspace, with the stores that it borrows from, in the registry; None if that is not
        possible now: it then has to be sent to each pod.
        """
        with self._lock:
            if request.workspace not in self._made:
                self._made[request.workspace] = None
                try:
                    found = self._made[request.workspace] = self._push(request, cancel)
                    said = f"the snapshot is {found.reference} ({rough_size(found.sent)} sent)"
                except RegistryError as error:
                    said = f"warning: {error.message}; the snapshot is sent to each pod"
                on_output("stdout", f"{said}\n".encode())
            return self._made[request.workspace]

    def _push(self, request: SessionRequest, cancel: Cancel) -> Pushed:
        before = self._repository.sent
        stores = list(request.read_only_mounts)
        platform = request.image.platform or "linux/amd64"
        blobs, config = self._based_on(platform)
        digests: list[bytes] = []
        # The objects first: a node unpacks every layer again that follows a changed one.
        for number, source in enumerate([*(path.resolve() for path in stores), request.workspace]):
            members = members_below(source, f"{COPY}/{number}", digests if source is request.workspace else None)
            for _, layer in groupby(members, lambda member: member[0].path.split("/")[2] == ".git"):
                if cancel.requested:
                    raise ProviderError("canceled while the snapshot was pushed", code="CANCELED")
                blob, content = self._layer(layer)
                blobs.append(blob)
                config["rootfs"]["diff_ids"].append(content)
        return Pushed(
            reference=self._repository.reference(self._publish(blobs, config)),
            digests=b"".join(digests),
            files=len(digests),
            sent=self._repository.sent - before,
            paths=(*map(str, stores), request.project_dir),
            mode=f"{stat.S_IMODE(request.workspace.stat().st_mode):o}",
        )

    def _layer(self, members: Iterable[Item]) -> tuple[dict[str, Any], str]:
        """Put a layer into the registry, unless it is there; return its descriptor and the digest of its content.

        The same files give the same bytes: a workspace's directories are new in each run, and so get no time.
        """
        timeless = (
            (entry if entry.kind == "file" else replace(entry, mtime_ns=0), content) for entry, content in members
        )
        with tempfile.TemporaryFile(prefix="loom-layer-") as file:
            outer = Hashed(file)
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=outer, mtime=0) as zipped:
                inner = Hashed(zipped)
                for piece in packed(timeless):
                    inner.write(piece)
            digest = f"sha256:{outer.digest.hexdigest()}"
            self._repository.put_blob(digest, file, outer.size)
        return {"mediaType": LAYER, "digest": digest, "size": outer.size}, f"sha256:{inner.digest.hexdigest()}"

    def _based_on(self, platform: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the layers and the configuration of the base, whose layers are then in the registry."""
        scheme = "http://" if self._base.startswith("http://") else ""
        reference = parse_reference(self._base.removeprefix("http://"))
        source = Repository(f"{scheme}{reference.registry}/{reference.repository}", self._environ)
        manifest = source.manifest(reference.digest or reference.tag or "latest", platform)
        for blob in manifest["layers"]:
            if not self._repository.has(blob["digest"]):
                with tempfile.TemporaryFile(prefix="loom-base-") as file:
                    for piece in source.blob(blob["digest"]):
                        file.write(piece)
                    self._repository.put_blob(blob["digest"], file, blob["size"])
        config = json.loads(b"".join(source.blob(manifest["config"]["digest"])))
        document = {
            "architecture": config["architecture"],
            "os": config["os"],
            "config": {"Env": (config.get("config") or {}).get("Env") or []},
            "rootfs": {"type": "layers", "diff_ids": config["rootfs"]["diff_ids"]},
        }
        docker = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        return [
            {**blob, "mediaType": blob["mediaType"].replace(docker, LAYER)} for blob in manifest["layers"]
        ], document

    def _publish(self, layers: list[dict[str, Any]], config: Mapping[str, Any]) -> str:
        """Write the image's manifest; return its digest."""
        content = json.dumps(config, sort_keys=True).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._repository.put_blob(digest, io.BytesIO(content), len(content))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": len(content)},
            "layers": layers,
        }
        text = json.dumps(manifest, sort_keys=True).encode()
        name = hashlib.sha256(text).hexdigest()
        # A name keeps it from the registry's garbage collection.
        self._repository.put_manifest(f"snapshot-{name[:24]}", text)
        return f"sha256:{name}"


def copying(pushed: Pushed, mounts: Mapping[str, str]) -> dict[str, Any]:
    """Return the init container that fills the pod's volumes. `mounts`: the volume's name for each path in the pod."""
    lines = [
        f"cp -a /{COPY}/{number}/. /loom-volumes/{mounts[path]}/"
        for number, path in enumerate(pushed.paths)
        if path in mounts
    ]
    lines.append(f"chmod {pushed.mode} /loom-volumes/{mounts[pushed.paths[-1]]}")
    return {
        "name": COPY,
        "image": pushed.reference,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", "\n".join(lines)],
        "workingDir": "/",
        "volumeMounts": [
            {"name": name, "mountPath": f"/loom-volumes/{name}"} for name in dict.fromkeys(mounts.values())
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
