"""git: freeze the repository, lay it out, prove it.

source = discover(Path.cwd(), environ=os.environ)         reads only
snapshot = take(source, workspace, cancel=cancel)         fills an empty directory
remove(workspace)                                         deletes one of loom's own
"""

# mypy: implicit-reexport
# ruff: noqa: F401  the names that other folders use

from typing import TYPE_CHECKING

from loom.snapshot.model import Change, LeftOut, Snapshot, SnapshotCanceled, Source, Submodule, path_fields, readable
from loom.snapshot.source import check_consent, discover
from loom.util import startup

if TYPE_CHECKING:
    from loom.snapshot.bundles import BundledRepository, BundledTree, TreeOfBundle
    from loom.snapshot.capture import empty, take
    from loom.snapshot.copy_workers import duplicate
    from loom.snapshot.explanation import Explanation, Rule, explain, ignore_rule
    from loom.snapshot.git import elsewhere, nul_list
    from loom.snapshot.git_dir import reduced_manifest, reduction
    from loom.snapshot.history import as_cloned
    from loom.snapshot.identity import identity_of
    from loom.snapshot.inputs import copy_inputs, input_tree, present_entries, tree_entries
    from loom.snapshot.lock import alone_in, is_occupied, occupied
    from loom.snapshot.manifest import manifest_bytes, read_manifest
    from loom.snapshot.merge import Applied, Content, Merge, content_at, displaced
    from loom.snapshot.objects import facts_of_commit, first_hunks
    from loom.snapshot.pull_request import with_merge, with_merge_of
    from loom.snapshot.removal import Removal, is_workspace, remains, remove
    from loom.snapshot.renewal import hand_over
    from loom.snapshot.sync import Patch, SavedFiles, bring, compare, patch_of
    from loom.snapshot.sync import apply as apply_patch
    from loom.snapshot.tree import tracked
    from loom.snapshot.verification import Verification, changed_since, changes_between, is_untouched, verify
    from loom.snapshot.watched import WatchedWorkspace
else:
    __getattr__ = startup.names_of(
        __name__,
        {
            "bundles": "BundledRepository BundledTree TreeOfBundle",
            "copy_workers": "duplicate",
            "merge": "Applied Content Merge content_at displaced",
            "sync": "Patch SavedFiles bring compare patch_of apply_patch=apply",
            "explanation": "Explanation Rule explain ignore_rule",
            "git": "elsewhere nul_list",
            "git_dir": "reduced_manifest reduction",
            "history": "as_cloned",
            "identity": "identity_of",
            "inputs": "copy_inputs input_tree present_entries tree_entries",
            "manifest": "manifest_bytes read_manifest",
            "lock": "alone_in is_occupied occupied",
            "objects": "facts_of_commit first_hunks",
            "pull_request": "with_merge with_merge_of",
            "removal": "Removal is_workspace remains remove",
            "renewal": "hand_over",
            "capture": "empty take",
            "tree": "tracked",
            "watched": "WatchedWorkspace",
            "verification": "Verification changed_since changes_between is_untouched verify",
        },
    )
