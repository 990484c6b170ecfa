"""Records that somebody damaged or planted: every command that reads them ends soon, with a message, and in order.

A record of a real run is copied, one of its files is damaged in one way, and each reading command runs on it. The exit
code is one of those that are promised (never 70, an internal error), and nothing waits.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from loom.analysis.evidence import diagnosis_of
from loom.analysis.html_report.page import values as page_values
from loom.analysis.printed import document_of
from loom.cli.boundary import run_app
from loom.errors import RecordError
from loom.record.events import PhaseEvent, decode
from loom.record.fold import RunFold
from loom.record.past_run import PastRun
from loom.record.reader import Reading
from loom.record.run import load_run
from loom.record.store import Store
from loom.render.look import Detail, Look
from loom.render.screen import Screen
from tests.support.effort import LONG, effort

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [build, test]
build:
  stage: build
  script: [mkdir -p out, echo building > out/app]
  artifacts: {paths: [out], expire_in: 1h}
test:
  stage: test
  script:
    - echo fine
    - "echo broken >&2; exit 3"
"""
PROMISED = {0, 1, 2, 3}
SECONDS = 120


class Checkout:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "repo"
        (self.root / ".loom").mkdir(parents=True)
        (self.root / ".loom/workflow.yml").write_text(WORKFLOW)
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
            subprocess.run([*git, *command], cwd=self.root, check=True)
        for name in ("home", "tmp"):
            (base / name).mkdir()
        for _ in range(2):
            ran = subprocess.run(
                [sys.executable, "-m", "loom", "run", "--local"],
                cwd=self.root,
                env={**os.environ, **self.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                check=False,
                capture_output=True,
            )
            assert ran.returncode == 1, ran.stderr
        self.runs = base / "state/runs"
        self.whole, self.run_id = sorted(path.name for path in self.runs.iterdir())
        self.pristine = base / "pristine"
        shutil.copytree(self.runs, self.pristine, symlinks=True)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "HOME": str(self.base / "home"),
            "LOOM_STATE_DIR": str(self.base / "state"),
            "LOOM_TMP_DIR": str(self.base / "tmp"),
            "LOOM_CONTAINER": "0",
            "LOOM_CACHE_DIR": str(self.base / "cache"),
            "DOCKER_HOST": f"unix://{self.base}/none.sock",
        }

    @property
    def record(self) -> Path:
        return self.runs / self.run_id

    def restore(self, name: str) -> None:
        """Undo what was done to a file of the record that is damaged."""
        path = self.record / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        shutil.copy2(self.pristine / self.run_id / name, path)

    def restore_all(self) -> None:
        shutil.rmtree(self.runs)
        shutil.copytree(self.pristine, self.runs, symlinks=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("records"))


@pytest.fixture
def checkout(made: Checkout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(made.root)
    yield made
    made.restore_all()


@contextmanager
def soon(seconds: int = SECONDS) -> Iterator[None]:
    """Whatever waits is ended by an exception that the boundary does not take for a failure of ours."""

    def ended(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def loom(*arguments: str) -> tuple[int, str, str]:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with soon(), redirect_stdout(out), redirect_stderr(err):
        code = run_app(list(arguments))
    out.flush()
    return code, out.buffer.getvalue().decode("utf-8", "replace"), err.getvalue()  # type: ignore[attr-defined]


COMMANDS: dict[str, tuple[str, ...]] = {
    "runs": ("runs",),
    "runs --json": ("runs", "--json"),
    "show": ("show", "RUN"),
    "show --json": ("show", "RUN", "--json"),
    "show --stream": ("show", "RUN", "--stream"),
    "logs": ("logs", "RUN", "--system"),
    "logs --json": ("logs", "RUN", "--json", "--tail", "3"),
    "diagnose": ("diagnose", "RUN"),
    "diagnose --json": ("diagnose", "RUN", "--json"),
    "report": ("report", "RUN", "-o", "PLACE/report.html"),
    "diff": ("diff", "RUN", "OTHER"),
    "diff --json": ("diff", "OTHER", "RUN", "--json"),
    "verify": ("verify", "RUN"),
    "pull": ("pull", "RUN"),
    "resume": ("resume", "RUN", "--from", "nothing"),
    "clean": ("clean", "--dry-run", "--keep-last", "0"),
    "last-failed": ("show", "last-failed", "--quiet"),
}
READ_BY = {
    "CACHEDIR.TAG": "clean",
    "run.json": "runs,show,logs,verify,pull,clean,diff",
    "plan.json": "diff,pull,resume",
    "snapshot.json": "diff,pull,verify,show --json,report",
    "receipt": "runs,runs --json,show,show --json,diagnose,report,diff,verify,clean,last-failed",
    "events.jsonl": ",".join(COMMANDS),
    "document": "runs,show --json,diagnose,diff,clean",
    "output": "show,show --stream,logs,logs --json,diagnose,report,diff",
}
"""Which commands read what of a record."""


def kinds_of(record: Path) -> dict[str, str]:
    """The files of a record that something reads, one of each kind (in the failed job, where jobs have it)."""
    logs = f"logs/{record.name}"
    documents = [f"{logs}/{name}" for name in ("pipeline/manifest.json", "diagnosis.json", "jobs/test/manifest.json")]
    return {
        **{name: name for name in ("CACHEDIR.TAG", "run.json", "plan.json", "snapshot.json")},
        f"receipts/loom-run-local-{record.name}.json": "receipt",
        f"{logs}/events.jsonl": "events.jsonl",
        **dict.fromkeys(documents, "document"),
        f"{logs}/jobs/test/user/script/02/events.jsonl": "output",
    }


# Ways to damage a file


def gone(path: Path) -> None:
    path.unlink()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def with_bytes(data: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(data)

    return damage


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def changed(change: Callable[[object], object]) -> Callable[[Path], None]:
    """Every value of a document, or of each line of a file of events, run through `change`."""

    def each(value: object) -> object:
        if isinstance(value, dict):
            return {key: each(item) for key, item in value.items()}
        if isinstance(value, list):
            return [each(item) for item in value]
        return change(value)

    def damage(path: Path) -> None:
        if path.suffix == ".json":
            path.write_text(json.dumps(each(json.loads(path.read_bytes()))))
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            path.write_text("".join(json.dumps(each(line)) + "\n" for line in lines))

    return damage


def without(number: int) -> Callable[[Path], None]:
    """Every third key is taken away."""

    def thinned(value: object) -> object:
        if isinstance(value, dict):
            return {key: thinned(item) for at, (key, item) in enumerate(value.items()) if at % 3 != number}
        return [thinned(item) for item in value] if isinstance(value, list) else value

    def damage(path: Path) -> None:
        if path.suffix == ".json":
            path.write_text(json.dumps(thinned(json.loads(path.read_bytes()))))
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            path.write_text("".join(json.dumps(thinned(line)) + "\n" for line in lines))

    return damage


def only(*kinds: type) -> Callable[[Callable[[object], object]], Callable[[object], object]]:
    return lambda change: lambda value: change(value) if type(value) in kinds else value


WAYS: dict[str, Callable[[Path], None]] = {
    "gone": gone,
    "a FIFO": fifo,
    "a directory": directory,
    "a link to zeros": link_to_zeros,
    "a link to itself": link_to_itself,
    "huge and empty": sparse,
    "empty": with_bytes(b""),
    "a list": with_bytes(b"[]"),
    "null": with_bytes(b"null\n"),
    "a number": with_bytes(b"7\n"),
    "no JSON": with_bytes(b"{]\n"),
    "no UTF-8": with_bytes(b'{"kind": "\xff\xfe"}\n'),
    "an empty object": with_bytes(b"{}\n"),
    "deep": with_bytes(b"[" * 100_000 + b"\n"),
    "deep, and JSON": with_bytes(b'{"a":' * 500 + b"1" + b"}" * 500 + b"\n"),
    "NUL bytes": with_bytes(b"\0" * 100),
    "half": half,
    "numbers for texts": changed(only(str)(lambda value: 7)),
    "texts for numbers": changed(only(int, float)(lambda value: str(value))),
    "huge numbers": changed(only(int, float)(lambda value: 10**30)),
    "negative numbers": changed(only(int, float)(lambda value: -(2**63))),
    "null for everything": changed(lambda value: None),
    "a list for every value": changed(lambda value: [value]),
    "climbing names": changed(only(str)(lambda value: "../" * 20 + "etc/passwd" if "/" in str(value) else value)),
    "NUL in texts": changed(only(str)(lambda value: f"{value}\0")),
    "long texts": changed(only(str)(lambda value: str(value) * 3000 if len(str(value)) < 20 else value)),
    "unknown words": changed(only(str)(lambda value: "fr\u00f6bnicate" if str(value).islower() else value)),
    "without some keys": without(0),
    "without other keys": without(1),
    "without more keys": without(2),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_every_command_reads_a_damaged_record(checkout: Checkout, way: str) -> None:
    for number, (name, kind) in enumerate(kinds_of(checkout.record).items()):
        WAYS[way](checkout.record / name)
        commands = READ_BY[kind].split(",")
        if not LONG:  # one decoder reads each file: one command, another one for each way
            commands = [commands[(number + list(WAYS).index(way)) % len(commands)]]
        for command in commands:
            words = {
                "RUN": checkout.run_id,
                "OTHER": checkout.whole,
                "PLACE/report.html": f"{checkout.base}/report.html",
            }
            code, out, err = loom(*(words.get(word, word) for word in COMMANDS[command]))
            told = f"{name} is {way}: loom {command}: {code}\n{err[-2000:]}"
            assert code in PROMISED, told
            assert code == 0 or out or err, told
            assert command not in ("runs", "clean") or code == 0, f"the other run counts; {told}"
        checkout.restore(name)


# One value at a time


VALUES: list[object] = [None, True, 7, -1, 1e300, "", "x", "../x", [], [None], {}, {"a": None}, [[]]]


def variants(value: object) -> Iterator[object]:
    """The same JSON with one value replaced, or one key taken away; each of them once for each replacement."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield {other: value[other] for other in value if other != key}
            yield from ({**value, key: changed} for changed in variants(item))
    elif isinstance(value, list):
        for number, item in enumerate(value[:3]):
            yield from ([*value[:number], changed, *value[number + 1 :]] for changed in variants(item))
    yield from VALUES


def read_all(reading: Reading, events: list[PhaseEvent]) -> None:
    """All that a command derives from the events."""
    fold = RunFold()
    screen = Screen(Look(detail=Detail.VERBOSE, stream=True), lambda line: None)
    for event in events:
        fold.apply(event)
        screen.phase(event)
    reading.__dict__["fold"] = fold
    with suppress(RecordError):
        document_of(reading)
    with suppress(RecordError):
        diagnosis_of(reading)
    with suppress(RecordError):
        page_values(reading)
    past = PastRun.__new__(PastRun)
    vars(past).update(vars(reading), planned=load_run(reading.paths.plan), _before={})
    for job in ("build", "test"):
        before = past.job(job)
        assert before.image is None or before.image.name is not None
        assert (before.failing_step, before.kept, before.expires_at, past.result_of(job)) is not None


def of_kind(event: PhaseEvent) -> tuple[str, ...]:
    return event.phase_code, event.kind, *sorted(event.data)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_value_of_every_event(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `decode` lets through, every reader can read."""
    entry = Store(checkout.base / "state").entry(checkout.run_id)
    # Without documents, so that all of them are folded.
    monkeypatch.setattr("loom.record.reader.read_document", lambda path, kind: None)
    lines = entry.paths.events.read_bytes().splitlines()
    whole = [event for line in lines if isinstance(event := decode(line), PhaseEvent)]
    reading = Reading(msgspec.structs.replace(entry, receipt=None))
    kinds = Counter(map(of_kind, whole))
    tried = 0
    with soon(600):
        for number, line in enumerate(lines):
            kinds[of_kind(whole[number])] -= 1
            if kinds[of_kind(whole[number])] > 1:  # of each kind the last two, which are the failed job's
                continue
            # 13 values and a step of 11: each key still meets values of several kinds.
            for variant in islice(variants(json.loads(line)), 0, None, effort(11, 1)):
                try:
                    event = decode(json.dumps(variant))
                except ValueError:
                    continue
                if isinstance(event, PhaseEvent) and event != whole[number]:
                    tried += 1
                    read_all(reading, [*whole[:number], event, *whole[number + 1 :]])
    assert tried > 100
