"""git: freeze the repository, lay it out, prove it.

source = discover(Path.cwd(), environ=os.environ)         reads only
snapshot = take(source, workspace, cancel=cancel)         fills an empty directory
remove(workspace)                                         deletes one of loom's own
"""

from typing import TYPE_CHECKING

from loom import lazily
from loom.snapshot.model import Change, LeftOut, Snapshot, SnapshotCanceled, Source, Submodule, readable
from loom.snapshot.source import discover

if TYPE_CHECKING:
    from loom.snapshot.comparing import differing
    from loom.snapshot.duplicating import duplicate
    from loom.snapshot.exchange import Patch, bring, patch_of
    from loom.snapshot.exchange import apply as apply_patch
    from loom.snapshot.explaining import Explanation, Rule, explain
    from loom.snapshot.identity import identity_of
    from loom.snapshot.manifest import manifest_bytes, read_manifest
    from loom.snapshot.occupancy import is_occupied, occupied
    from loom.snapshot.removing import Removal, is_workspace, remains, remove
    from loom.snapshot.specials import ignored
    from loom.snapshot.taking import take
    from loom.snapshot.verifying import Verification, verify
else:
    __getattr__ = lazily.names_of(
        __name__,
        {
            "comparing": "differing",
            "duplicating": "duplicate",
            "exchange": "Patch bring patch_of apply_patch=apply",
            "explaining": "Explanation Rule explain",
            "identity": "identity_of",
            "manifest": "manifest_bytes read_manifest",
            "occupancy": "is_occupied occupied",
            "removing": "Removal is_workspace remains remove",
            "specials": "ignored",
            "taking": "take",
            "verifying": "Verification verify",
        },
    )

__all__ = [
    "Change",
    "Explanation",
    "LeftOut",
    "Patch",
    "Removal",
    "Rule",
    "Snapshot",
    "SnapshotCanceled",
    "Source",
    "Submodule",
    "Verification",
    "apply_patch",
    "bring",
    "differing",
    "discover",
    "duplicate",
    "explain",
    "identity_of",
    "ignored",
    "is_occupied",
    "is_workspace",
    "manifest_bytes",
    "occupied",
    "patch_of",
    "read_manifest",
    "readable",
    "remains",
    "remove",
    "take",
    "verify",
]
