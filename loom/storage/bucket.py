"""A bucket beside the cache's folder (`s3://NAME/PREFIX`): objects by name, in and out with bounded memory.

It decides nothing: `cache.Cache` says what is stored, looked up and trusted. The library (`fsspec`) is an optional extra, and
takes the address of the server and the credentials from where the store's own programs take them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from loom.errors import CacheError
from loom.util.extras import install_command
from loom.util.within import within

T = TypeVar("T")
ANSWERS_S = 15.0
"""Time limit of a request for something small; the libraries' own are minutes for a store that accepts and says nothing."""


class Bucket:
    """Connects at the first request. Each method raises CacheError when the store does not answer or refuses."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._made: tuple[Any, str] | None = None
        self._lock = threading.Lock()
        self._silent = False

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the content of the small objects that exist."""
        if not names:
            return {}
        with self._errors("read") as (store, root):
            found = {
                path.removeprefix(f"{root}/"): data
                for path, data in self._asked(
                    lambda: store.cat([f"{root}/{name}" for name in names], on_error="return")
                ).items()
            }
            for data in found.values():
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
        return {name: data for name, data in found.items() if isinstance(data, bytes)}

    def write(self, name: str, data: bytes) -> None:
        with self._errors("written") as (store, root):
            self._asked(lambda: store.pipe_file(f"{root}/{name}", data))

    def download(self, name: str, target: Path) -> None:
        """Fill `target`. CacheError also when there is no such object."""
        with self._errors("read") as (store, root):
            store.get_file(f"{root}/{name}", str(target))

    def upload(self, source: Path, name: str) -> None:
        """Store a file, unless there is an object of this name and size."""
        with self._errors("written") as (store, root):
            path, size = f"{root}/{name}", source.stat().st_size
            if not self._asked(lambda: store.exists(path) and store.size(path) == size):
                store.put_file(str(source), path)

    def names(self, folder: str) -> list[str]:
        """List the objects of a folder."""
        with self._errors("listed") as (store, root):
            try:
                found = self._asked(lambda: store.ls(f"{root}/{folder}", detail=False))
                return [path.removeprefix(f"{root}/") for path in found]
            except FileNotFoundError:
                return []

    def _asked(self, call: Callable[[], T]) -> T:
        """Return the answer to a small request. TimeoutError without one, and at once from then on."""
        if not self._silent:
            try:
                return within(ANSWERS_S, call)
            except TimeoutError:
                self._silent = True
        raise TimeoutError(f"it does not answer within {ANSWERS_S:g} s")

    @contextmanager
    def _errors(self, verb: str) -> Iterator[tuple[Any, str]]:
        """Yield the store and the bucket's path in it; convert the library's errors."""
        try:
            with self._lock:
                if self._made is None:
                    core = import_module("fsspec.core")  # an optional extra, and 100 ms
                    self._made = core.url_to_fs(self.address, skip_instance_cache=True, use_listings_cache=False)
            yield self._made
        except ImportError as error:
            kind = self.address.partition("://")[0]
            raise CacheError(
                f"the bucket {self.address} needs a library that is not installed: {error}",
                hint=install_command("s3") if kind == "s3" else f"install fsspec's package for {kind} beside loom",
                code="BUCKET_UNAVAILABLE",
            ) from error
        except Exception as error:
            # Each store's library raises errors of its own.
            text = str(error).strip() or type(error).__name__
            raise CacheError(
                f"the bucket {self.address} can't be {verb}: {text.splitlines()[0]}",
                hint="see `bucket` in your configuration, and the store's address and credentials in the environment",
                code="BUCKET_UNAVAILABLE",
            ) from error
