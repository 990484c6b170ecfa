"""The snapshot as an image: pushed to a registry once, pulled by each node once, copied into each pod there.

The image is a small base with `sh` and `cp`, layers with git's objects, the files and the repository's own `.git`, and upon them
one layer for each later push, with what differs from the one before: that alone is sent, and pulled. A pod's first init
container copies all into the pod's volumes; image volumes would spare the copy, and old clusters lack them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.config.pools import Pool
from loom.errors import ProviderError
from loom.images.reference import parse_reference
from loom.providers.base import SessionRequest
from loom.providers.files import members_of, moved_below
from loom.providers.kubernetes.images.registry import CONFIG, LAYER, MANIFEST, RegistryError, Repository
from loom.status import OnOutput
from loom.storage.tar import Check, CheckedStream, Content, Item, TarEntry, packed
from loom.util import atomic, jsons, typed
from loom.util.digests import Hashed, digest_line, digest_of
from loom.util.private import make_private
from loom.util.units import rough_size
from loom.util.untrusted_files import read_regular
from loom.values import Environ, Immutable

BASE = "busybox:stable-musl"
"""The base where the pool names none: an image with `sh` and `cp`, 1 MB."""
COPY = "loom-snapshot"
"""The name of the init container, and of the folder in the image: below it a folder for each path in the pod, by number."""
_REMOVED = ".wh."
"""The beginning of a name in a layer that removes the name behind it from the layers below."""
_MOST_DIFFERENCES = 30
_MOST_KEPT = 20
"""Kept lists of what was pushed, of all checkouts; the oldest go first."""


class _CheckedFile(CheckedStream):
    """A file that calls the check at each read: it may be large, and the registry slow."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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


class LastPush(Immutable):
    """What a checkout's last push left in the registry."""

    manifest: str = ""
    layers: tuple[tuple[str, int, str], ...]
    """The digest and the size of each, and the digest of its tar stream."""
    whole: int
    """The number of the layers that hold a whole snapshot; the others hold what differs from the one before."""
    marks: dict[str, str]
    """What the layers say of each path: its kind, mode and time, and its target or the digest of its content."""


def members_below(source: Path, folder: str) -> Iterator[Item]:
    """Yield the members of a directory, without itself, as those of a folder in an archive."""
    return ((moved_below(folder, entry), content) for entry, content in members_of(source, ["."]) if entry.path != ".")


def digests_below(folder: str, marks: Mapping[str, str]) -> list[bytes]:
    """Return a line for each file below a folder, by its mark: with its digest and its path there, as `sha256sum` reads it."""
    files = (path for path, mark in marks.items() if path.startswith(f"{folder}/") and mark.startswith("file"))
    lines = (digest_line(marks[path].rpartition(" ")[2], path.removeprefix(f"{folder}/")) for path in files)
    return [line for line in lines if line]


def difference(members: Iterable[Item], before: Mapping[str, str], marks: dict[str, str]) -> Iterator[Item]:
    """Yield the entries of a layer upon one with the marks `before`, so that both together hold these members.

    `marks` gets the marks of all members. Every directory above a changed path is an entry too: a layer gives it its mode.
    """
    directories: dict[str, Item] = {}

    def down_to(path: str) -> list[Item]:
        ways = [*map(str, reversed(PurePosixPath(path).parents)), path]
        return [directories.pop(way) for way in ways if way in directories]

    for entry, content in members:
        marks[entry.path] = _mark(entry, content)
        if entry.kind == "directory":
            directories[entry.path] = entry, None
        if before.get(entry.path) != marks[entry.path]:
            yield from down_to(entry.path)
            if entry.kind != "directory":
                yield entry, content
    for path in sorted(before.keys() - marks.keys()):
        above, _, name = path.rpartition("/")
        # What a file or a link replaces, and what was in a removed directory, is gone with it.
        if above.count("/") == 1 or marks.get(above, "").startswith("directory"):
            yield from down_to(path)
            yield TarEntry(f"{above}/{_REMOVED}{name}", "file", 0o600, 0), None


def _mark(entry: TarEntry, content: Content | None) -> str:
    told = entry.target
    if content is not None:
        told = digest_of(content).hexdigest()
        cast("IO[bytes]", content).seek(0)
    # Of git's own files the content counts: loom writes them in each run.
    timed = entry.kind == "file" and "/.git/" not in f"{entry.path}/"
    return f"{entry.kind} {entry.mode:o} {entry.mtime_ns // 1_000_000_000 if timed else 0} {told}"


class SnapshotImages:
    """The snapshots of one run in the registry of one pool, each pushed once however many jobs get it. Thread-safe."""

    def __init__(self, pool: Pool, environ: Environ, kept: Path) -> None:
        """Raise ProviderError for an invalid address. `kept`: the file for this checkout's last push."""
        assert pool.registry is not None
        self._repository = Repository(pool.registry, environ)
        self._base = pool.registry_base or BASE
        self._environ = environ
        self._kept = kept
        self._lock = threading.Lock()
        self._made: dict[Path, Pushed | None] = {}

    def of(
        self, request: SessionRequest, on_output: OnOutput, warn: Callable[[str], None], cancel: Cancel
    ) -> Pushed | None:
        """Return the request's workspace, with the stores that it borrows from, in the registry; None if that is not
        possible now: it then has to be sent to each pod.
        """
        with self._lock:
            if request.workspace not in self._made:
                self._made[request.workspace] = None
                try:
                    found = self._made[request.workspace] = self._push(request, cancel)
                    said = f"the snapshot is {found.reference} ({rough_size(found.sent)} sent)\n"
                    on_output("stdout", said.encode())
                except RegistryError as error:
                    self._kept.unlink(missing_ok=True)
                    warn(
                        f"{error.message}; the snapshot is sent to each pod (see `registry` and `registry_base` of the pool)"
                    )
            return self._made[request.workspace]

    def give_up(self, request: SessionRequest) -> None:
        """Let the request's workspace be sent to each pod from now on."""
        with self._lock:
            self._made[request.workspace] = None

    def _push(self, request: SessionRequest, cancel: Cancel) -> Pushed:
        before = self._repository.sent
        platform = request.image.platform or "linux/amd64"
        blobs, config = self._based_on(platform)
        try:
            last = typed.decode(read_regular(self._kept), LastPush)
            self._repository.manifest(last.manifest, platform)
        except (OSError, ValueError, RegistryError):  # none, or the registry has removed it
            last = None
        push = self._layers(request, cancel, last)
        for digest, size, content in push.layers:
            blobs.append({"mediaType": LAYER, "digest": digest, "size": size})
            config["rootfs"]["diff_ids"].append(content)
        manifest = self._publish(blobs, config)
        with suppress(OSError, ValueError):  # not kept: the next push is whole; so it is with a name that is no UTF-8
            make_private(self._kept.parent)
            atomic.write_among(self._kept, jsons.encode_line(replace(push, manifest=manifest)), most=_MOST_KEPT)
        paths = (*map(str, request.read_only_mounts), request.project_dir)
        digests = digests_below(f"{COPY}/{len(paths) - 1}", push.marks)
        return Pushed(
            reference=self._repository.reference(manifest),
            digests=b"".join(digests),
            files=len(digests),
            sent=self._repository.sent - before,
            paths=paths,
            mode=f"{stat.S_IMODE(request.workspace.stat().st_mode):o}",
        )

    def _layers(self, request: SessionRequest, cancel: Cancel, last: LastPush | None) -> LastPush:
        """Put what the registry lacks of a snapshot there: what differs from the `last` one if that is little, else all."""

        def check() -> None:
            if cancel.requested:
                raise ProviderError("canceled while the snapshot was pushed", code="CANCELED")

        marks: dict[str, str] = {}
        if last is not None:
            with self._packed(difference(self._members(request, check), last.marks, marks), check) as (layer, file):
                if marks == last.marks:
                    return last
                layers, number = (*last.layers, layer), last.whole
                whole, more = (sum(size for _, size, _ in part) for part in (layers[:number], layers[number:]))
                # A hard link has to be in the layer of its target.
                linked = any(mark.startswith("hardlink") for mark in marks.values())
                if more <= whole // 2 and len(layers) - number <= _MOST_DIFFERENCES and not linked:
                    self._repository.put_blob(layer[0], file, layer[1])
                    return LastPush(layers=layers, whole=number, marks=marks)
        marks, layers = {}, ()
        # The objects first: a node unpacks every layer again that follows a changed one.
        members = difference(self._members(request, check), {}, marks)
        for _, part in groupby(members, lambda item: item[0].path.split("/")[1]):
            with self._packed(part, check) as (layer, file):
                self._repository.put_blob(layer[0], file, layer[1])
                layers = (*layers, layer)
        return LastPush(layers=layers, whole=len(layers), marks=marks)

    def _members(self, request: SessionRequest, check: Check) -> Iterator[Item]:
        """Yield the entries of the image's folder.

        The same files give the same bytes: a workspace's directories are new in each run, and git renews the time of objects
        that it would write again, so these get none.
        """
        for number, source in enumerate([*(path.resolve() for path in request.read_only_mounts), request.workspace]):
            for entry, content in members_below(source, f"{COPY}/{number}"):
                if f"/{_REMOVED}" in entry.path:
                    name = entry.path.split("/", 2)[2]
                    raise RegistryError(f"{name}: in an image, a name that begins with {_REMOVED} means a removed file")
                timed = entry.kind in ("file", "hardlink") and source is request.workspace
                yield entry if timed else replace(entry, mtime_ns=0), content and _CheckedFile(content, check)

    @contextmanager
    def _packed(self, members: Iterable[Item], check: Check) -> Iterator[tuple[tuple[str, int, str], IO[bytes]]]:
        with tempfile.TemporaryFile(prefix="loom-layer-") as file:
            outer = Hashed(file)
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=outer, mtime=0) as zipped:
                inner = Hashed(zipped)
                for piece in packed(members):
                    inner.write(piece)
            yield (
                (f"sha256:{outer.digest.hexdigest()}", outer.size, f"sha256:{inner.digest.hexdigest()}"),
                cast("IO[bytes]", _CheckedFile(file, check)),
            )

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
