"""What goes out is searched for the values of secrets, seen by runs of the checkout or looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from pathlib import Path

from loom.commands.project import Project
from loom.errors import RequestError, SecretError
from loom.plan.model import Plan
from loom.record.store import RunEntry
from loom.secrets.base import NOT_FOUND
from loom.secrets.lookup import resolve
from loom.util.controls import shown
from loom.util.masking import Masker
from loom.util.seen_values import SeenMasker, SeenValue, key_in, noted, seen

_MOST_RUNS = 100
_AT_HAND = ("env", "file")
"""The stores that ask nobody, and are read also where a run has seen the value: it may be another one now."""


def seen_by_runs(project: Project, root: Path, first: RunEntry | None = None) -> dict[SeenValue, None]:
    """Return the values that the last runs of a checkout, and the `first` one, have seen."""
    entries = islice(project.store.entries(root), _MOST_RUNS)
    return {value: None for entry in chain([first] if first else [], entries) for value in noted(entry.paths.seen)}


def hiding_masker(project: Project) -> Masker:
    """Return a masker of the values that the last runs of this checkout have seen."""
    values = seen_by_runs(project, project.root)
    return SeenMasker(values, key_in(project.config.state_dir)) if values else Masker()


def masker_for(project: Project, root: Path, entry: RunEntry, plan: Plan) -> tuple[Masker, Mapping[str, str]]:
    """Return what finds the values of the secrets that a plan names; and those that are unknown, with the reasons.

    An optional secret that its store does not have, and that no run has seen, has no value. Nothing is looked up for the plan
    of a record from elsewhere.
    """
    key, values, unknown = key_in(project.config.state_dir), seen_by_runs(project, root, entry), dict[str, str]()
    known = {value.ref for value in values}
    for secret in {one.ref: one for job in plan.jobs for one in job.all_secrets}.values():
        if secret.ref in known and secret.ref.partition("://")[0] not in _AT_HAND:
            continue
        if not project.store.has_record(entry):
            unknown[secret.name] = "the record is not one of this user's runs"
            continue
        optional = type(secret)(name=secret.name, ref=secret.ref, required=False)
        try:
            found = resolve(
                [optional], environ=project.environ, root=root, config=project.config, judged=project.judged
            )
        except SecretError as error:
            unknown[secret.name] = error.message
            continue
        values |= {seen(secret.name, secret.ref, value, key): None for value in found.values.values()}
        for why in found.missing.values():
            if secret.ref not in known and (secret.required or why.code != NOT_FOUND):
                unknown[secret.name] = why.message
    return SeenMasker(values, key), unknown


def check(masker: Masker, what: str, read: Callable[[int], bytes]) -> None:
    """Raise RequestError for a file with the value of a secret; `what` names it."""
    if (name := masker.found_in(read)) is not None:
        raise RequestError(
            shown(f"{what} has the value of the secret {name}"),
            hint="let git ignore the file, run again, and hand out that run; a value that was committed is in the history:"
            " give the secret another one",
            code="SECRET_FOUND",
        )
