"""What the runner is asked to do for a prepared run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from loom.cancel import Cancel
from loom.commands.run import wiring
from loom.commands.run.preparing import Options, Prepared
from loom.config import Config
from loom.plan.model import MountMode, Plan
from loom.runner import JobTools
from loom.runner.request import Reuse, RunRequest
from loom.util import clock

if TYPE_CHECKING:
    from loom.record.journal import Sink


MAX_NOTICES = 5


def tools_of(prepared: Prepared, options: Options) -> JobTools:
    """Return the dependencies of the jobs of what was prepared."""
    root = prepared.source.root
    return wiring.tools_for(prepared.plan, prepared.here, root, run_id=prepared.run_id, isolated=options.strict)


def request_of(
    prepared: Prepared,
    options: Options,
    *,
    cancel: Cancel,
    tools: JobTools | None = None,
    sinks: Sequence[Sink] = (),
    reuse: Reuse | None = None,
) -> RunRequest:
    """Return the request to run what was prepared. `tools`: if they are more than `tools_of`; `reuse`: see `RunRequest`."""
    here, source, plan = prepared.here, prepared.source, prepared.plan
    tools = tools or tools_of(prepared, options)
    config = here.config
    return RunRequest(
        run_id=prepared.run_id,
        command=sys.argv,
        invocation=options.saved(here),
        plan=plan,
        source=source,
        config=config,
        tools=tools,
        preflight=partial(wiring.preflight, plan, tools, config),
        store=here.store,
        clock_ns=clock.steady(),
        cancel=cancel,
        sinks=sinks,
        cache=None if options.no_cache else partial(wiring.cache_for, config, source),
        isolated=options.strict,
        reuse=reuse,
        brought=prepared.brought,
        parent_run_id=options.parent_run_id,
        variables=prepared.variables,
        detached=options.detach,
        notices=(*_not_isolated(plan, config), *_not_shared(plan, tools, config), *prepared.notices),
    )


def _not_isolated(plan: Plan, config: Config) -> tuple[str, ...]:
    """Return the notice that jobs run on this machine, and how to change this."""
    jobs = [job.id for job in plan.jobs if job.image is None]
    if not jobs:
        return ()
    by = config.origins.get("container")
    why = f" ({by.place})" if by is not None and by.place and not config.container else ""
    return (f"on this machine, not isolated{why}: {_some(jobs)}; in a container: loom run --container",)


def _not_shared(plan: Plan, tools: JobTools, config: Config) -> tuple[str, ...]:
    """Return the notice that `bind_mount` has no effect on jobs in places without this machine's directories."""
    if config.mount_mode != "bind_mount":
        return ()
    mounts = {name: one.capabilities.mounts for name, one in tools.providers.items()}
    jobs = [job.id for job in plan.jobs if MountMode.BIND not in mounts[job.provider]]
    text = f"bind_mount has no effect where this machine's directories are not; own files for each: {_some(jobs)}"
    return (text,) if jobs else ()


def _some(jobs: Sequence[str]) -> str:
    more = len(jobs) - MAX_NOTICES
    return ", ".join(jobs[:MAX_NOTICES]) + (f" and {more} more" if more > 0 else "")
