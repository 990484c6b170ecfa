"""A reason is a difference that the failing command or its output names; there is none where both sides fail alike."""

from pathlib import Path

import pytest

from loom.analysis.diff import Pair
from loom.analysis.server_log import diagnosis_of_log, read_log
from loom.analysis.verdict import Verdict, reasons
from loom.plan.model import Artifacts, Job, Need, Plan
from tests.unit.analysis.test_server_log import gitlab

BUILD = Job(id="build", name="build", stage="build", steps=(), provider="docker", artifacts=Artifacts(paths=("dist/",)))
UNIT = Job(id="unit", name="unit", stage="test", steps=(), provider="docker", needs=(Need(job="build"),))
PLAN = Plan(workflow_path=".gitlab-ci.yml", stages=("build", "test"), jobs=(BUILD, UNIT))
LACKS = Pair(name="artifacts of build", a="present", b=None)
KEY = Pair(name="variable DEPLOY_KEY", a="set, hidden", b=None)
CURL = '$ curl -f -H "Key: $DEPLOY_KEY" https://example.org\ncurl: (22) The requested URL returned error: 403'


def told(there: str, *differs: Pair, kind: Verdict = "passes-here") -> list[str]:
    diagnosis = diagnosis_of_log(read_log([gitlab(there, "exit code 1").encode()]), "log", root=Path("/nowhere"))
    return [each.text for each in reasons(kind, (diagnosis, None), differs, UNIT, lambda: PLAN)]


@pytest.mark.parametrize(
    ("there", "pair", "says"),
    [
        (CURL, KEY, "DEPLOY_KEY is not as there, and the failing command names it"),
        ("$ ./deploy\n./deploy: line 3: DEPLOY_KEY: unbound variable", KEY, "DEPLOY_KEY is not as there"),
        ("$ cat dist/app\ncat: dist/app: No such file or directory", LACKS, "dist/app is an artifact of build, which is not as there"),
        ("$ sh ./dist/app\nerror: boo", LACKS, "dist/app is an artifact of build"),
    ],
)  # fmt: skip
def test_a_difference_that_the_command_or_its_output_names(there: str, pair: Pair, says: str) -> None:
    (text,) = told(there, pair)
    assert text.startswith(says)
    assert told(there) == []
    assert told(there, pair, kind="reproduced") == []


@pytest.mark.parametrize(
    ("there", "pair"),
    [
        (CURL, Pair(name="variable KEY", a="1", b="2")),
        ("$ make\nerror: x", LACKS),
        ("$ pytest\nE   AssertionError: assert '2026-03-29 03:30' == '2026-03-29 02:30'", Pair(name="runner", a="2 CPUs", b="16 CPUs")),
        ("$ ./test\nworker 371/12 died", Pair(name="image", a="sha256:aa", b="sha256:bb")),
        ("$ curl -f http://db.internal/\ncurl: (6) Could not resolve host: db.internal", Pair(name="cache", a="restored", b="cold")),
    ],
)  # fmt: skip
def test_what_differs_and_nothing_names_is_no_reason(there: str, pair: Pair) -> None:
    assert told(there, pair) == []
