"""The images that ran elsewhere, by digest; where one can't be had, today's tag, and a note."""

from types import SimpleNamespace
from typing import cast

from loom.commands.again.elsewhere import pinned_job
from loom.commands.again.server_job import Differences
from loom.commands.project import Worktree
from loom.errors import ImageError
from loom.plan.model import Image, Job, Service

DIGESTS = {"debian:trixie": f"sha256:{'1' * 64}", "registry.example/db:5": f"sha256:{'2' * 64}"}


def prepared(*, lost: str = "") -> Worktree:
    """Return a checkout whose engine can't have images with `lost` in their names."""

    def digest_of(_: str, image: Image) -> str:
        if lost and lost in (image.name or ""):
            raise ImageError(f"{image.name}: no such image")
        return ""

    return cast("Worktree", SimpleNamespace(digest_of=digest_of))


def names(*, lost: str = "") -> tuple[list[str | None], list[str]]:
    service = Service(name="db", aliases=("db",), image=Image(name="registry.example/db:5"))
    other = Service(name="x", aliases=("x",), image=Image(name="other:1"))
    job = Job(
        id="a",
        name="a",
        stage="t",
        steps=(),
        provider="docker",
        image=Image(name="debian:trixie"),
        services=(service, service, other),
    )
    differences = Differences()
    found = pinned_job(job, DIGESTS, prepared(lost=lost), differences)
    assert found.image is not None
    return [found.image.name, *(one.image.name for one in found.services)], differences.notes


def test_an_image_and_the_services_run_by_their_digests() -> None:
    found, notes = names()
    database = f"registry.example/db@{DIGESTS['registry.example/db:5']}"
    assert found == [f"debian@{DIGESTS['debian:trixie']}", database, database, "other:1"]
    assert notes == []


def test_where_a_digest_can_not_be_had_todays_tag_runs_and_is_named_once() -> None:
    found, notes = names(lost="db@")
    assert found[1:3] == ["registry.example/db:5"] * 2
    (note,) = notes
    assert "no such image): today's registry.example/db:5 runs" in note
