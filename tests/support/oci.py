"""A small image in a registry, made of one static program of this machine."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from loom.providers.kubernetes.images.registry import CONFIG, LAYER, MANIFEST, Repository

APPLETS = ("sh", "cp", "tar", "sha256sum", "cat", "ls", "find", "sleep", "mkdir", "wc")


def push_busybox(address: str, program: Path = Path("/bin/busybox")) -> str:
    """Push an image of a static busybox as the tag `base`; return its name."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w:gz") as archive:
        archive.add(program, "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer.getvalue()))]},
    }
    repository = Repository(address, {})
    blobs = {}
    for kind, data in ((LAYER, layer.getvalue()), (CONFIG, json.dumps(config).encode())):
        blobs[kind] = {"mediaType": kind, "digest": _digest(data), "size": len(data)}
        repository.put_blob(_digest(data), io.BytesIO(data), len(data))
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blobs[CONFIG], "layers": [blobs[LAYER]]}
    repository.put_manifest("base", json.dumps(manifest).encode())
    return f"{address}:base"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
