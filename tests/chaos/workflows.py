"""Random workflows, with what a whole run of each prints and how it ends."""

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

IMAGE = "ash:test"


@dataclass(frozen=True)
class Workflow:
    """`lines`: by job and step, the number of lines that the step prints, of those that print numbers up to it."""

    text: str
    code: int
    """The exit code of a run that nothing disturbs."""
    arguments: tuple[str, ...]
    lines: dict[tuple[str, str], int] = field(default_factory=dict)


def random_workflow(random: Random, *, quick: bool = False, image: str = IMAGE) -> Workflow:
    """`quick`: one job with one step that ends soon."""
    count = 1 if quick else random.choice((1, 1, 2, 3))
    stages = ["build", "test"]
    lines: dict[tuple[str, str], int] = {}
    document: dict[str, Any] = {"version": "v1", "stages": stages}
    fails = False
    for number in range(count):
        name = f"job{number}"
        job: dict[str, Any] = {"stage": random.choice(stages), "image": image, "network": "none"}
        steps = []
        for step in range(1 if quick else random.randint(1, 3)):
            printed = random.choice((1, 10, 2000)) if random.random() < 0.9 else 40000
            pause = random.choice(("0", "0.05", "0.4", "1.5"))
            text = f"seq 1 {printed}; sleep {pause}; echo made-{step} >made-{step}"
            if random.random() < 0.2:
                text = f"sleep 300 & {text}"
            lines[(name, f"script/{step + 1:02d}")] = printed
            steps.append(text)
        job["script"] = steps
        if not quick:
            fails = _more(random, job) or fails
        document[name] = job
    modes = ("auto", "overlay", "copy", "ephemeral_volume", "bind_mount")
    arguments = ["--mount-mode", random.choice(modes)]
    if not quick and random.random() < 0.25:
        arguments += ["--keep", random.choice(("on-failure", "always"))]
    return Workflow(json.dumps(document, indent=1), 1 if fails else 0, tuple(arguments), lines)


def _more(random: Random, job: dict[str, Any]) -> bool:
    """Give a job more to do; tell whether it fails."""
    if random.random() < 0.3:
        job["artifacts"] = {"paths": ["made-0"]}
    if random.random() < 0.3:
        job["script"][0] += "; mkdir -p kept; echo kept >kept/file"
        job["cache"] = {"key": "k", "paths": ["kept"]}
    if random.random() < 0.3:
        job.pop("network")
        command = ["sh", "-c", "echo ready; sleep 600"]
        job["services"] = [{"name": "side", "image": job["image"], "command": command, "ready": {"log": "ready"}}]
    if random.random() < 0.2:
        job["after_script"] = ["echo after"]
    if random.random() < 0.15:
        job["secrets"] = {"KEY": "env://CHAOS_SECRET"}
    if random.random() < 0.15:
        job["image"] = {"build": {"context": ".", "dockerfile": "Dockerfile"}}
    elif random.random() < 0.15:
        job.pop("image")  # on this machine
        job.pop("services", None)
    if random.random() < 0.15:
        job["script"].append("exit 3")
        return True
    return False
