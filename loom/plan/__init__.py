"""What will run: the frozen plan, and its derivation from a workflow."""

from typing import TYPE_CHECKING

from loom.util import startup

if TYPE_CHECKING:
    from loom.plan.gitlab.resolve import rehearse as rehearse_gitlab
    from loom.plan.gitlab.resolve import resolve as resolve_gitlab
    from loom.plan.own import rehearse as rehearse_own
    from loom.plan.own import resolve as resolve_own
else:  # a plan needs the modules of one language
    __getattr__ = startup.names_of(
        __name__,
        {
            "own": "rehearse_own=rehearse resolve_own=resolve",
            "gitlab.resolve": "rehearse_gitlab=rehearse resolve_gitlab=resolve",
        },
    )

__all__ = ["rehearse_gitlab", "rehearse_own", "resolve_gitlab", "resolve_own"]
