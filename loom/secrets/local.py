"""`env://NAME` and `file://path`: environment variables, and files on this machine."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from loom.secrets.base import Surroundings, not_found, unavailable
from loom.secrets.masking import LONGEST
from loom.util.untrusted_files import open_judged


class EnvironmentVariables:
    def check(self, reference: str) -> str | None:
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", reference):
            return None
        return "expected env://NAME, the name of a variable"

    def read(self, reference: str, around: Surroundings) -> bytes:
        value = around.environ.get(reference)
        if value is None:
            raise not_found(
                f"the variable {reference} is not set in loom's environment",
                f"Set it and run again: `{reference}=... loom run`, or `export {reference}` in your shell.",
            )
        if not value:
            raise not_found(f"the variable {reference} is set, but empty")
        return os.fsencode(value)


class FileSecrets:
    """A path relative to the repository, in the home directory (`~/`), or absolute."""

    def check(self, reference: str) -> str | None:
        if not reference or reference.endswith("/") or "\0" in reference:
            return "expected file://path/in/the/repository, file://~/path or file:///absolute/path"
        if reference.startswith("~") and not reference.startswith("~/"):
            return "only your own home directory is supported: file://~/path"
        return None

    def read(self, reference: str, around: Surroundings) -> bytes:
        path = self._path(reference, around)
        try:
            real = os.path.realpath(path)
            allowed = around.judged.get(f"file://{reference}", real)
            if real != allowed:
                raise unavailable(
                    f"{path} led to {allowed} when this run was allowed to read it, and leads to {real} now",
                    "Run again: `loom trust` shows what is new.",
                )
            file = open_judged(allowed)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_found(f"there is no file {path}") from error
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.EINVAL):
                raise not_found(f"{path} is not a file") from error
            raise unavailable(f"{path} can't be read: {error.strerror}") from error
        with file:
            if (size := os.fstat(file.fileno()).st_size) > LONGEST:
                raise unavailable(f"{path} has {size} bytes; the limit for a secret is {LONGEST}")
            try:
                value = file.read(LONGEST + 1)
            except OSError as error:
                raise unavailable(f"{path} can't be read: {error.strerror}") from error
        if not value.strip():
            raise not_found(f"{path} is empty")
        return value

    def _path(self, reference: str, around: Surroundings) -> Path:
        if not reference.startswith("~/"):
            return around.root / reference
        home = around.environ.get("HOME")
        if not home:
            raise unavailable(
                "HOME is not set, so ~ can't be resolved", "Write the path in full: file:///absolute/path"
            )
        return Path(home) / reference[2:]
