"""What has to be true after every fault: a readable record, the right words, and nothing left after the next loom."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.trial import SECRET, Loom, Trial, command_of, commands_of
from tests.chaos.world import eventually

RECEIPT = re.compile(r"^receipt: (.+)$", re.MULTILINE)
CODES = frozenset(
    re.findall(
        r"^\| `([A-Z][A-Z0-9_]+)` \|",
        (Path(__file__).parents[2] / "docs/reference/errors.md").read_text(),
        re.MULTILINE,
    )
)
INTERRUPTS = {129, 130, 143}
SOON_S = 60.0
"""How long what a killed loom started may take to notice."""
BOOT_S = 130.0
"""A container that its engine forgot while it started ends by itself when no driver has begun in two minutes."""


def check(trial: Trial, allowed: Iterable[int]) -> None:
    """Look at everything. `allowed`: exit codes of this fault, besides that of an undisturbed run."""
    codes = {*allowed, trial.workflow.code}
    for loom in trial.looms:
        _end_of(trial, loom, codes)
    _processes(trial)
    runs = _runs(trial)
    for run in runs:
        _record(trial, run)
    _known(trial, {run["run_id"] for run in runs})
    ran = trial.loom("run", "--local")
    if ran.code != 0:
        trial.found(f"the next loom ends with {ran.code}\n{ran.out[-1500:]}{ran.err[-1500:]}")
    elif "could not be" in ran.out + ran.err:
        trial.found(f"the next loom says\n{ran.out[-1500:]}{ran.err[-1500:]}")
    keeps = "--keep" in trial.workflow.arguments or trial.on_terminal  # where a failed job is kept by default
    if not keeps and (left := trial.world.content()):
        trial.found(f"the next loom leaves in the engine: {', '.join(left)}")
    cleaned = trial.loom("clean", "--all", "--keep-last", "0")
    if cleaned.code != 0:
        trial.found(f"`loom clean` ends with {cleaned.code}\n{cleaned.out[-1500:]}{cleaned.err[-1500:]}")
    _left(trial)


def _end_of(trial: Trial, loom: Loom, codes: set[int]) -> None:
    text = loom.text
    if loom.hangs:
        trial.found(f"a wait without a limit\n{text[-6000:]}")
    elif loom.killed and loom.code == -9:
        pass
    elif loom.code not in codes:
        trial.found(f"exit code {loom.code}, not one of {sorted(codes)}\n{text[-3000:]}")
    if ("Traceback" in text or "is a bug" in text) and not loom.hangs:
        reports = [path.read_text()[-3000:] for path in (trial.directory / "scratch").glob("loom-bug-*")]
        trial.found("\n".join(["a traceback", text[-2000:], *reports]))
    if SECRET in text:
        trial.found("the secret is in the output")
    if loom.code is not None and loom.code > 0 and not trial.on_terminal and not text.strip():
        trial.found(f"exit code {loom.code} without a word")
    for path in RECEIPT.findall(text):
        _receipt(trial, loom, Path(path))


def _receipt(trial: Trial, loom: Loom, path: Path) -> None:
    try:
        receipt = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        if path.parent.parent.exists():
            trial.found(f"the receipt that the screen names can't be read: {error}")
        return
    if loom.code is not None and loom.code >= 0 and receipt["exit_code"] != loom.code:
        trial.found(f"the receipt says {receipt['exit_code']}, loom ended with {loom.code}\n{loom.text[-1500:]}")
    if not 0 <= receipt["duration_ms"] < 300_000:
        trial.found(f"the receipt gives a duration of {receipt['duration_ms']} ms")
    if receipt["exit_code"] not in {0, *INTERRUPTS} and not receipt.get("error"):
        trial.found(f"the receipt has no reason: {receipt}")
    if receipt["exit_code"] == 3 and receipt.get("error_code") not in CODES:
        trial.found(f"the error's code is not documented: {receipt.get('error_code')}: {receipt.get('error')}")
    if receipt["status"] == "success":
        for job, step, text in _incomplete(trial, Path(receipt["logs_dir"])):
            trial.found(f"a run that succeeded lacks lines of {job} {step}: {text}")


def _incomplete(trial: Trial, logs: Path) -> Iterator[tuple[str, str, str]]:
    for (job, step), count in trial.workflow.lines.items():
        path = logs / "jobs" / job / "user" / step / "events.jsonl"
        try:
            events = [json.loads(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            yield job, step, str(error)
            continue
        printed = [event["text"] for event in events if event["kind"] == "output" and event["stream"] == "stdout"]
        if printed[:count] != [str(number) for number in range(1, count + 1)]:
            yield job, step, f"{len(printed)} of {count}"


def _processes(trial: Trial) -> None:
    left: list[int] = []

    def gone() -> bool:
        left[:] = trial.processes()
        return not left

    if not eventually(gone, SOON_S):
        trial.found(f"processes go on: {commands_of(left)}")


def _runs(trial: Trial) -> list[dict[str, Any]]:
    document = trial.document("runs", "--all", "--limit", "1000")
    return [] if document is None else list(document["runs"])


def _record(trial: Trial, run: Mapping[str, Any]) -> None:
    run_id, status = run["run_id"], run["status"]
    if status == "running":
        trial.found(f"run {run_id} is shown as running")
    for arguments in (("show", run_id), ("diagnose", run_id), ("logs", run_id)):
        ran = trial.loom(*arguments)
        text = ran.out + ran.err
        if trial.record_was_removed and "not whole" in text:
            return  # there is nothing to show, and it says so
        if ran.code not in (0, 1, 2) or "Traceback" in text:
            trial.found(f"`loom {' '.join(arguments)}` of a run that is {status} ends with {ran.code}\n{text[-2000:]}")
    trial.document("show", run_id)


def _known(trial: Trial, run_ids: set[str]) -> None:
    """A run whose workspace or container exists is in `loom runs`."""
    for path in (trial.directory / "work").glob("*/loom-run-local-*"):
        run_id = path.name.removeprefix("loom-run-local-").partition("-")[0]
        if run_id not in run_ids and not trial.record_was_removed:
            trial.found(f"{path.name} is there, and its run is not in `loom runs`")
    for one in trial.world.client.api.containers(all=True, filters={"label": "loom.run"}):
        if one["Labels"]["loom.run"] not in run_ids and not trial.record_was_removed:
            trial.found(f"container {one['Names']} is there, and its run is not in `loom runs`")


def _in_containers(trial: Trial) -> list[int]:
    """Processes in containers. An engine that is killed between create and start leaves what waits for the start."""
    return [pid for pid in trial.world.processes() if "runc init" not in command_of(pid)]


def _left(trial: Trial) -> None:
    """Nothing is left by now: neither in the engine nor on this machine."""
    world, left = trial.world, []
    left += world.content()
    if not eventually(lambda: not _in_containers(trial), BOOT_S):
        left.append(f"processes in containers: {commands_of(_in_containers(trial))}")
    for pattern in ("work/*/*", "scratch/*", "run/*"):  # the user's own directory of workspaces stays
        left += [str(path) for path in trial.directory.glob(pattern)]
    state = trial.directory / "state"
    left += [str(path) for folder in ("runs", "snapshots", "container-locks") for path in (state / folder).glob("*")]
    left += [str(path) for path in (state / "workspaces").glob("*.json")]
    cache = trial.directory / "cache"
    left += [str(path) for root in (state, cache) for path in root.rglob("*") if path.name.endswith(".tmp")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    left += [f"mount {line}" for line in mounts if str(trial.directory) in line and line not in trial.mounts]
    home = trial.directory / "home"
    # git's views of repositories stay for the next command (`loom clean` removes those of a month ago), as buildx' files do.
    stay = (".docker/buildx", ".cache/loom/git/")
    left += [str(path) for path in home.rglob("*") if path.is_file() and not any(one in str(path) for one in stay)]
    if left:
        trial.found("left after the next loom and `loom clean`:\n" + "\n".join(left[:20]))
