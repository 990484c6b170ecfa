"""The snapshot as an image: pushed to a registry once, pulled by each node once, copied into each pod there.

The image is a small base with `sh` and `cp`, and the layers of the snapshot. A pod's first init container copies them into
the pod's volumes; image volumes would spare the copy, and old clusters lack them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.images.reference import parse_reference
from loom.pools import Pool
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.images import layers
from loom.providers.kubernetes.images.layers import Layer, LayerSource, Packer, PlannedLayer
from loom.providers.kubernetes.images.registry import CONFIG, LAYER, MANIFEST, RegistryError, Repository
from loom.status import OnOutput
from loom.util.units import rough_size

BASE = "busybox:stable-musl"
"""The base where the pool names none: an image with `sh` and `cp`, 1 MB."""
COPY = "loom-snapshot"
"""The name of the init container."""
_AT_ONCE = 4


class Pushed(Struct, frozen=True, kw_only=True):
    """A snapshot in the registry."""

    reference: str
    digests: bytes
    """The digests of the workspace's files, as `sha256sum` reads them."""
    files: int
    sent: int
    """The bytes that left this machine for it."""
    folders: Mapping[str, str]
    """The folder in the image of each path in the pod."""


class SnapshotImages:
    """The snapshots of one run in the registry of one pool, each pushed once however many jobs get it. Thread-safe."""

    def __init__(self, pool: Pool, environ: Mapping[str, str], folder: Path) -> None:
        """`folder` remembers which layers were packed before. ProviderError for an invalid address."""
        assert pool.registry is not None
        self._repository = Repository(pool.registry, environ)
        self._base = pool.registry_base or BASE
        self._environ = environ
        self._packer = Packer(folder)
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
        stores = [one.path for one in request.read_only_mounts]
        parts = [
            LayerSource(source=request.workspace, folder=layers.WORKSPACE),
            *(
                LayerSource(source=path.resolve(), folder=str(number), by_name=True)
                for number, path in enumerate(stores)
            ),
        ]
        before = self._repository.sent
        plan = layers.planned(parts)
        platform = (request.image.platform if request.image else None) or "linux/amd64"
        base, config = self._based_on(platform)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            own = list(pool.map(lambda one: self._layer(one, cancel), plan))
        digest = self._publish(base, config, own)
        proof = layers.digests(plan)
        return Pushed(
            reference=self._repository.reference(digest),
            digests=proof,
            files=proof.count(b"\n"),
            sent=self._repository.sent - before,
            folders=dict(zip([request.project_dir, *map(str, stores)], [part.folder for part in parts], strict=True)),
        )

    def _layer(self, plan: PlannedLayer, cancel: Cancel) -> Layer:
        """Put one layer into the registry, unless it is there."""
        if cancel.requested:
            raise ProviderError("canceled while the snapshot was pushed", code="CANCELED")
        known = self._packer.known(plan)
        if known is not None and self._repository.has(known.digest):
            return known
        with self._packer.pack(plan) as (layer, file):
            if not self._repository.has(layer.digest):
                self._repository.put_blob(layer.digest, file, layer.size)
            return layer

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
                    size = file.tell()
                    file.seek(0)
                    self._repository.put_blob(blob["digest"], file, size)
        config = json.loads(b"".join(source.blob(manifest["config"]["digest"])))
        return [_as_oci(blob) for blob in manifest["layers"]], config

    def _publish(self, base: Sequence[dict[str, Any]], config: Mapping[str, Any], own: Sequence[Layer]) -> str:
        """Write the image's manifest; return its digest."""
        document = {
            "architecture": config["architecture"],
            "os": config["os"],
            "config": {"Env": (config.get("config") or {}).get("Env") or []},
            "rootfs": {"type": "layers", "diff_ids": [*config["rootfs"]["diff_ids"], *(one.diff_id for one in own)]},
        }
        content = json.dumps(document, sort_keys=True).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if not self._repository.has(digest):
            with tempfile.TemporaryFile(prefix="loom-config-") as file:
                file.write(content)
                file.seek(0)
                self._repository.put_blob(digest, file, len(content))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": len(content)},
            "layers": [*base, *({"mediaType": LAYER, "digest": one.digest, "size": one.size} for one in own)],
        }
        text = json.dumps(manifest, sort_keys=True).encode()
        name = hashlib.sha256(text).hexdigest()
        # A name keeps it from the registry's garbage collection.
        self._repository.put_manifest(f"snapshot-{name[:24]}", text)
        return f"sha256:{name}"


def _as_oci(blob: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(blob["mediaType"]).replace(
        "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip"
    )
    return {"mediaType": kind, "digest": blob["digest"], "size": blob["size"]}


def copying(pushed: Pushed, mounts: Mapping[str, str]) -> dict[str, Any]:
    """Return the init container that fills the pod's volumes. `mounts`: the volume's name for each path in the pod."""
    lines = [
        f"cp -a /{layers.ROOT}/{folder}/. /loom-volumes/{mounts[path]}/"
        for path, folder in pushed.folders.items()
        if path in mounts
    ]
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
