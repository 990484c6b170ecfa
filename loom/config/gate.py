"""What can make a run unlike CI's: a closed list, of which `gate_accept` names what a gate accepts all the same."""

from __future__ import annotations

from typing import Any

from loom.config.values import ValueContext, parse_choice, parse_names

UNLIKE = {
    "edited": "somebody entered its container or changed its files",
    "resumed": "it went on from a step of an earlier run",
    "given-variables": "the command line gave it variables, inputs or an event",
    "job-left-out": "a job that CI would run was left out",
    "cache": "a cache was restored",
    "retried": "it, or one of its tests, did not pass at the first attempt",
    "image-by-tag": "an image has no digest of a registry",
    "mapped-image": "the configuration names the image, not the workflow",
    "not-isolated": "it ran on this machine, in no container",
    "other-commit": "it ran with the same files before this commit was made, or in another one",
    "undecided": "rules ask for values that are not known here",
    "own-rules": "git attributes or filters of yours, which no clone has, may have changed its files",
    "unpushed": "a submodule's commit is on no branch or tag that was fetched from, or pushed to, its server",
    "behind": "CI would run another commit, or newer files of a server that does not answer",
}


def parse_unlike(value: Any, context: ValueContext) -> tuple[str, ...]:
    return tuple(parse_choice(*UNLIKE)(word, context) for word in parse_names(value, context))
