"""`scripts/chaos`: disturb loom in every way, and look at what is true afterwards. Prints the seed of each finding."""

import argparse
import collections
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.faults import KINDS
from tests.chaos.invariants import check
from tests.chaos.trial import Trial
from tests.chaos.world import World


def attempt(world: World, kind: str, seed: int, *, long: bool = False) -> Trial:
    """Do one trial; its findings are in what is returned. The caller removes it."""
    world.mend()
    trial = Trial(world, seed, seed // len(KINDS), long=long)
    fault, allowed = KINDS[kind]
    try:
        done = fault(trial)
        for _ in done or (None,):  # a generator holds its small disk until all was looked at
            world.mend()
            check(trial, allowed)
    except Exception:  # noqa: BLE001  a finding like any other, with its seed
        trial.found(f"the trial itself failed\n{traceback.format_exc()}")
    return trial


def kind_of(seed: int) -> str:
    return list(KINDS)[seed % len(KINDS)]


def seeds_of(kind: str, first: int) -> int:
    """The first seed from there on that is of this kind."""
    return first + (list(KINDS).index(kind) - first) % len(KINDS)


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    if given.list:
        print("\n".join(KINDS))
        return 0
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "unshare", "busybox"))):
        print("error: chaos needs root, dockerd, unshare and busybox, for an engine of its own", file=sys.stderr)
        return 2
    signal.signal(
        signal.SIGHUP, lambda *_: None
    )  # where nohup ignores it, every loom would; this one goes on either way
    deadline = time.monotonic() + (given.minutes or 3) * 60
    seed = given.seed if given.seed is not None else time.time_ns() % 10**9
    one = given.seed is not None and given.trials is None and given.minutes is None
    world = World(Path(f"/tmp/loom-chaos-{os.getpid()}"))
    tried: collections.Counter[str] = collections.Counter()
    fell: collections.Counter[str] = collections.Counter()
    killed = 0
    try:
        while True:
            if given.kind:
                seed = seeds_of(given.kind, seed)
            kind = kind_of(seed)
            begun = time.monotonic()
            trial = attempt(world, kind, seed, long=given.long)
            tried[kind] += 1
            fell[kind] += bool(trial.findings)
            killed += sum(loom.killed for loom in trial.looms)
            _report(kind, seed, trial, time.monotonic() - begun)
            if trial.findings and given.keep:
                print(f"  its files: {trial.directory}", flush=True)
            else:
                trial.remove()
            world.mend()
            world.clear()
            seed += 1
            if one or sum(tried.values()) == given.trials or (given.trials is None and time.monotonic() > deadline):
                break
    finally:
        world.close(keep=given.keep and any(fell.values()))
    for kind in KINDS:
        if tried[kind]:
            print(f"{kind:20} {tried[kind]:5} tried {fell[kind]:5} fell")
    print(f"{sum(tried.values())} tried, {sum(fell.values())} fell; {killed} looms were killed")
    return 1 if any(fell.values()) else 0


def _report(kind: str, seed: int, trial: Trial, took_s: float) -> None:
    verdict = "FELL" if trial.findings else "ok"
    codes = [loom.code for loom in trial.looms[:20]]
    print(f"{verdict:4} {kind:20} --seed {seed}  {took_s:5.1f} s  {codes}  {'; '.join(trial.notes)[:200]}", flush=True)
    for finding in trial.findings:
        print("  - " + finding.replace("\n", "\n    "), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="do this one trial again; with --trials or --minutes, begin with it")
    parser.add_argument("--kind", choices=list(KINDS), help="only faults of this kind")
    parser.add_argument("--minutes", type=float, help="how long to go on (3)")
    parser.add_argument("--trials", type=int, help="how many trials, instead of a time")
    parser.add_argument("--long", action="store_true", help="also what takes long: 50 looms at once, 30 s of silence")
    parser.add_argument("--keep", action="store_true", help="leave the files of findings")
    parser.add_argument("--list", action="store_true", help="print the kinds of faults")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
