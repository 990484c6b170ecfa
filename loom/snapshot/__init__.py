"""git: freeze the repository, lay it out, prove it.

source = discover(Path.cwd(), environ=os.environ)         reads only
snapshot = take(source, workspace, cancel=cancel)         fills an empty directory
remove(workspace)                                         deletes one of loom's own
"""

from loom.snapshot.model import Change, LeftOut, Snapshot, SnapshotCanceled, Source, Submodule
from loom.snapshot.removing import Removal, is_workspace, remove
from loom.snapshot.source import discover
from loom.snapshot.taking import take

__all__ = [
    "Change",
    "LeftOut",
    "Removal",
    "Snapshot",
    "SnapshotCanceled",
    "Source",
    "Submodule",
    "discover",
    "is_workspace",
    "remove",
    "take",
]
