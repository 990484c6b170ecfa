"""Store images in one file, for a machine without a registry.

The file is the output of `docker save` with an additional first member, `loom-images.json`, which maps names to images.
`docker load` accepts it too; `loom images import` also verifies and names each image.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import docker
import docker.errors
import zstandard
from msgspec import Struct

from loom.errors import ImageError, RequestError
from loom.images.reference import parse_reference
from loom.providers.docker.engine.client import taking_long
from loom.providers.docker.engine.errors import engine_errors, explanation, translated
from loom.providers.docker.images.images import ResolvedImage
from loom.util import atomic, jsons

INDEX = "loom-images.json"
SCHEMA = "loom.images.export.v1"
_CHUNK = 1 << 20
_LARGEST_INDEX = 1 << 24


class Exported(Struct, frozen=True, kw_only=True):
    """One image of an export file."""

    name: str
    image_id: str
    digest: str
    platform: str


def export_images(client: docker.DockerClient, images: Sequence[ResolvedImage], target: Path) -> int:
    """Write the images to `target` atomically (compressed for .gz or .zst); return its size."""
    index = {
        "schema_version": SCHEMA,
        "images": [
            {"name": image.name, "image_id": image.image_id, "digest": image.digest, "platform": image.platform}
            for image in images
        ],
    }
    try:
        with (
            atomic.replacing(target) as draft,
            _writing(draft, target.name) as file,
            tarfile.open(fileobj=file, mode="w|") as out,
        ):
            content = jsons.encode_file(index)
            entry = tarfile.TarInfo(INDEX)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
            names = list(dict.fromkeys(_saved_as(client, image) for image in images))
            with _saved(client, names) as stream, tarfile.open(fileobj=stream, mode="r|") as saved:
                for member in saved:
                    out.addfile(member, saved.extractfile(member) if member.isreg() else None)
    except OSError as error:
        raise ImageError(f"{target}: the images could not be written: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise ImageError(f"the engine's answer is not an archive of images: {error}") from error
    return target.stat().st_size


def _saved_as(client: docker.DockerClient, image: ResolvedImage) -> str:
    """Return the name to save an image under: its own if the engine knows it, so that `docker load` sets it too."""
    with translated(f"looking for the image {image.name}"):
        try:
            found = client.api.inspect_image(image.name)  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return image.image_id
    return image.name if found["Id"] == image.image_id else image.image_id


@contextlib.contextmanager
def _saved(client: docker.DockerClient, names: list[str]) -> Iterator[IO[bytes]]:
    # The SDK's call saves one image; several in one archive share layers.
    api: Any = client.api
    with engine_errors():
        try:
            response = api._get(api._url("/images/get"), params={"names": names}, stream=True)
            api._raise_for_status(response)
        except docker.errors.APIError as error:
            raise ImageError(f"the engine could not save the images: {explanation(error)}") from error
        try:
            yield cast("IO[bytes]", response.raw)
        finally:
            response.close()


@contextlib.contextmanager
def _writing(path: Path, name: str) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=5) as packed:
                yield cast("IO[bytes]", packed)
        elif name.endswith(".zst"):
            with zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as stream:
                yield cast("IO[bytes]", stream)
        else:
            yield raw


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """Decompress by the file's magic bytes, not its name."""
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=raw) as packed:
                yield cast("IO[bytes]", packed)
        elif start == b"\x28\xb5\x2f\xfd":
            with zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                yield cast("IO[bytes]", stream)
        else:
            yield raw


def read_index(path: Path) -> tuple[Exported, ...]:
    """Read the list of images in a file. RequestError when it is not an export of loom."""

    def refuse(reason: str) -> RequestError:
        return RequestError(
            f"{path}: {reason}", hint="`loom images export` writes such files; for others there is `docker load`."
        )

    try:
        with _reading(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            first = archive.next()
            content = archive.extractfile(first) if first is not None and first.name == INDEX else None
            if first is None or content is None or first.size > _LARGEST_INDEX:
                raise refuse("is not an export of loom's")
            shape = jsons.decode(content.read())
        if shape["schema_version"] != SCHEMA:
            raise refuse(f"is an export of another version ({shape['schema_version']})")
        return tuple(
            Exported(**{key: str(entry[key]) for key in Exported.__annotations__}) for entry in shape["images"]
        )
    except OSError as error:
        raise refuse(error.strerror or str(error)) from error
    except (tarfile.TarError, EOFError, zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise refuse("is not an export of loom's, or it is damaged") from error


def import_images(client: docker.DockerClient, path: Path) -> tuple[Exported, ...]:
    """Load and name a file's images. ImageError when one is not what the file announced."""
    announced = read_index(path)
    try:
        with engine_errors(), taking_long(), _reading(path) as file:
            for line in client.api.load_image(_chunks(file)):  # type: ignore[no-untyped-call]
                if "error" in line:
                    raise ImageError(f"{path}: the engine could not load it: {line['error']}")
    except docker.errors.APIError as error:
        raise ImageError(f"{path}: the engine could not load it: {explanation(error)}") from error
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise ImageError(f"{path}: can't be read to its end: {error}", hint="Copy the file again.") from error
    for image in announced:
        with translated(f"looking for the image {image.name}"):
            try:
                client.api.inspect_image(image.image_id)  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                raise ImageError(
                    f"{path}: {image.name} did not arrive as {image.image_id}",
                    hint="The file was changed, or this engine keeps images under other ids.",
                ) from None
            reference = parse_reference(image.name)
            if reference.tag:
                client.api.tag(image.image_id, reference.repository_name, reference.tag, force=True)
    return announced


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
