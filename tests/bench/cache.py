"""Save and restore real caches, and print what it took.

    python tests/bench/cache.py WORKSPACE PATH...

WORKSPACE is a folder in which PATHs (such as .cache/npm) were filled by the tools themselves. Uses a store and a target
beside it, and removes both.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from loom.plan.model import Cache as Spec
from loom.status import Stream
from loom.storage.cache import Cache
from loom.storage.workspace import DirectoryView


def quiet(stream: Stream, data: bytes) -> None:
    pass


def main(workspace: Path, paths: list[str]) -> None:
    for path in paths:
        with tempfile.TemporaryDirectory(dir=workspace.parent, prefix="bench-cache-") as folder:
            measure(workspace, path, Path(folder))


def measure(workspace: Path, path: str, folder: Path) -> None:
    spec = Spec(paths=(path,))
    store = Cache(folder / "store", max_size=1 << 40, project="bench", clock=time.time)
    view = DirectoryView(workspace)
    times = []
    for _ in range(3):
        shutil.rmtree(folder / "store", ignore_errors=True)
        started = time.perf_counter()
        saved = store.save(spec, "k", view, quiet)
        times.append(time.perf_counter() - started)
    megabytes = f"{saved.files} files, {saved.bytes / 1e6:.0f} MB, packed {saved.packed_bytes / 1e6:.0f} MB"
    print(f"{path}: {megabytes}\n  save       {sorted(times)[1]:.2f} s")
    started = time.perf_counter()
    store.save(spec, "k", view, quiet)
    print(f"  unchanged  {time.perf_counter() - started:.2f} s")
    times = []
    for turn in range(3):
        target = folder / f"target{turn}"  # each its own: a file system is slow for a while after large deletes
        target.mkdir()
        started = time.perf_counter()
        found = store.restore(spec, "k", DirectoryView(target), quiet)
        times.append(time.perf_counter() - started)
        assert found.hit == "exact", found
    print(f"  restore    {sorted(times)[1]:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
