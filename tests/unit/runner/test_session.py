"""How a job's place is opened: ahead of time or when the job starts, with its own files or the run's, in another way if one fails."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from loom.analysis.evidence import recorded_diagnosis
from loom.cancel import Cancel
from loom.errors import ImageError, ProviderError, ServiceError, SnapshotError
from loom.plan.model import Image, MountMode, Resolved, Service
from loom.providers.base import Capabilities, ResolveRequest, SecretValues, SessionFacts, SessionRequest
from loom.providers.host import HostProvider, HostSession
from loom.record.run import FilledWorkspace, Resumed
from loom.runner.session import SessionOpener, Work, _Buffered

from .conftest import Make, Project, Replaced, on

ONE = "stages: [a]\none: {stage: a, script: ['cat file; echo x >file'], image: debian}\n"
TWO = f"{ONE}two: {{stage: a, script: ['cat file'], image: debian}}\n"


IMAGE = Resolved(name="debian", image_id="sha256:1", digest="sha256:2")


class Engine(HostProvider):
    """This machine as if it were an engine: with images, and sessions that are opened ahead of time."""

    images: Any = None

    def __init__(self, *mounts: MountMode, problem: str = "") -> None:
        super().__init__(os.environ)
        self.capabilities = Capabilities(mounts=frozenset(mounts or {MountMode.BIND}), isolated=True)
        self.opened: list[SessionRequest] = []
        self.closed: list[str] = []
        self.threads: list[str] = []
        self.problem = problem
        self.images = self
        self.identity_of: Any = None
        self.image_error: ImageError | None = None
        self.build_secrets: Any = None

    def absent(self, images: Any) -> Any:
        return {}

    def resolve(self, image: Any, request: ResolveRequest) -> Any:
        self.build_secrets = request.secrets.own
        request.say("resolved")
        if self.image_error is not None:
            raise self.image_error
        return IMAGE

    @contextmanager
    def open(self, request: SessionRequest, on_output: Any, cancel: Cancel) -> Iterator[Any]:
        self.opened.append(request)
        self.threads.append(threading.current_thread().name)
        on_output("stdout", b"opened\n")
        if self.problem and len(self.opened) == 1:
            raise ProviderError("no such view", code=self.problem)
        if request.wait_until_filled is not None:
            request.wait_until_filled()
        with super().open(replace(request, mount_mode=MountMode.BIND), on_output, cancel) as session:
            yield session
        self.closed.append(request.job_id)

    def overlays(self, workspace: Any) -> bool:
        return True


def project(make: Make, workflow: str = ONE) -> Project:
    return make(workflow, file="snapshot\n")


def running(project: Project, engine: Engine, **options: Any) -> Any:
    return project.run(container=True, tools=on(engine, "docker"), **options)


def test_a_job_alone_has_its_session_before_the_snapshot_is_complete(make: Make) -> None:
    engine = Engine()
    ran = running(project(make), engine)
    assert engine.threads == ["open one"]
    (request,) = engine.opened
    assert (request.workspace, request.directory, request.image_id) == (ran.workspace, None, "sha256:1")
    assert engine.closed == ["one"]
    assert ran.lines("one") == ["snapshot"]
    assert ran.lines("one", "image_build") == ["resolved"]
    assert ran.lines("one", "provider") == ["opened"]
    assert ran.facts("image_resolved", "one") == [{"name": "debian", "id": "sha256:1", "digest": "sha256:2"}]
    opened = ran.job("one").facts["session_opened"]
    assert (opened["workspace"], opened["view_of"], opened["mount_mode"]) == (
        str(ran.workspace),
        str(ran.workspace),
        "none",
    )


def test_the_request_has_what_the_plan_and_the_settings_say(make: Make) -> None:
    text = ONE.replace("image: debian", "image: debian, resources: {memory: 64m}, network: none, variables: {A: b}")
    engine = Engine()
    ran = running(project(make, text), engine, grace="7s")
    (request,) = engine.opened
    assert (request.run_id, request.job_id, request.grace_s, request.detached) == (
        ran.reading.run_id,
        "one",
        7.0,
        False,
    )
    assert (request.environment["A"], request.environment["CI_JOB_NAME"]) == ("b", "one")
    assert request.resources.memory == 64 << 20
    assert request.network.mode == "none"
    assert (request.privileged, request.docker_socket, request.pool) == (False, False, None)
    assert request.image.name == "debian"
    assert request.environment["CI_PROJECT_DIR"] == request.project_dir


def test_jobs_beside_each_other_have_copies_of_their_own(make: Make) -> None:
    engine = Engine()
    ran = running(project(make, TWO), engine)
    assert {request.job_id: request.workspace.parent.name for request in engine.opened} == {"one": "one", "two": "two"}
    assert (ran.lines("one"), ran.lines("two")) == (["snapshot"], ["snapshot"])
    assert (ran.workspace / "file").read_text() == "snapshot\n"
    assert all(not thread.startswith("open") for thread in engine.threads)


def test_jobs_over_an_overlay_are_opened_early_and_start_when_the_snapshot_is_there(make: Make) -> None:
    engine = Engine(MountMode.OVERLAY, MountMode.BIND, MountMode.VOLUME)
    ran = running(project(make, TWO), engine)
    assert sorted(engine.threads) == ["open one", "open two"]
    assert {request.mount_mode for request in engine.opened} == {MountMode.OVERLAY}
    assert all(request.wait_until_filled is not None for request in engine.opened)
    assert ran.statuses == {"one": "success", "two": "success"}


@pytest.mark.parametrize("more", [", resource_group: g", ", runner_pool: p", ", services: [redis]"])
def test_a_job_that_waits_for_others_or_services_is_not_opened_early(make: Make, more: str) -> None:
    engine = Serving()
    engine.capabilities = Engine(MountMode.OVERLAY, MountMode.BIND).capabilities
    text = TWO.replace("image: debian}", f"image: debian{more}}}", 1)
    made = project(make, text)
    (made.home / ".config/loom").mkdir(parents=True)
    (made.home / ".config/loom/config.yml").write_text("pools: {p: {provider: docker}}\n")
    running(made, engine)
    assert sum(thread == "open one" for thread in engine.threads) == 0
    assert sum(thread == "open two" for thread in engine.threads) == 1


@pytest.mark.parametrize("code", ["VIEW_UNAVAILABLE", "WORKSPACE_UNSEEN"])
@pytest.mark.parametrize("workflow", [ONE, TWO])
def test_a_view_that_can_not_be_had_is_replaced_by_another(make: Make, code: str, workflow: str) -> None:
    engine = Engine(*MountMode, problem=code)
    ran = running(project(make, workflow), engine, jobs=1)
    assert set(ran.statuses.values()) == {"success"}
    said = ran.lines("one", "provider") + (ran.lines("two", "provider") if "two" in workflow else [])
    assert "not here: no such view; the job gets its files in another way" in said


def test_a_session_that_can_not_be_had_at_all_is_the_jobs_error(make: Make) -> None:
    ran = running(project(make), Engine(problem="ENGINE_BROKEN"), code=3)
    assert (ran.error("one"), ran.job("one").outcome["error_code"]) == ("no such view", "ENGINE_BROKEN")
    assert ran.job("one").outcome["failing_section"] == "provider"
    assert ran.lines("one", "provider") == ["opened"]


def test_an_image_that_can_not_be_had_is_an_error_at_the_line_that_names_it(make: Make) -> None:
    engine = Engine()
    engine.image_error = ImageError("no such image", code="IMAGE_NOT_FOUND")
    ran = running(project(make), engine, code=3)
    assert ran.job("one").outcome["failing_section"] == "image_build"
    assert ran.job("one").outcome["error_code"] == "IMAGE_NOT_FOUND"
    assert ".loom/workflow.yml:3" in ran.error("one")
    assert engine.opened == []
    assert ran.lines("one", "image_build") == ["resolved"]


def test_sessions_that_no_job_takes_are_closed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()

    def take(*_: object, **__: object) -> Any:
        raise SnapshotError("unreadable", code="X")

    monkeypatch.setattr("loom.snapshot.take", take)
    ran = running(project(make), engine, code=3)
    assert engine.closed == ["one"]
    assert not ran.workspace.exists()


def test_sessions_over_an_overlay_end_when_the_workspace_is_not_filled(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(MountMode.OVERLAY, MountMode.BIND)

    def take(*_: object, **__: object) -> Any:
        raise SnapshotError("unreadable", code="X")

    monkeypatch.setattr("loom.snapshot.take", take)
    running(project(make, TWO), engine, code=3)
    assert engine.closed == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("open ")] == []


def test_a_copy_that_fails_is_the_jobs_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def duplicate(*_: object, **__: object) -> None:
        raise SnapshotError("no room", code="WORKSPACE_NOT_WRITTEN")

    monkeypatch.setattr("loom.snapshot.duplicate", duplicate)
    ran = running(project(make, TWO), Engine(), code=3)
    assert (ran.error("one"), ran.job("one").outcome["error_code"]) == ("no room", "WORKSPACE_NOT_WRITTEN")


# -- services, secrets, facts -----------------------------------------------------------------------------------------


class Serving(Engine):
    """An engine with services."""

    def __init__(self, dies: str = "", error: ProviderError | None = None) -> None:
        super().__init__()
        self.dies, self.error = dies, error
        self.values: SecretValues | None = None
        self.over: list[str] = []
        self.ended: ServiceError | None = None

    @contextmanager
    def services(self, job: Any, request: ResolveRequest, on_died: Any) -> Iterator[Any]:
        self.values = request.secrets
        request.say("started")
        if self.error is not None:
            raise self.error
        if self.dies:
            on_died("db", self.dies)
        keep, blamed_for = partial(self.over.append, "kept"), lambda _: self.ended
        yield SimpleNamespace(
            images=(IMAGE,),
            network_id="net",
            variables={"DB": "here"},
            container_ids={},
            keep=keep,
            blamed_for=blamed_for,
        )
        request.say("stopped")
        self.over.append("over")


SERVED = "stages: [a]\none: {stage: a, script: ['echo $DB; sleep 0'], image: debian, services: [{name: db}]}\n"


def test_a_job_has_its_services_until_its_end(make: Make) -> None:
    engine = Serving()
    ran = running(project(make, SERVED), engine)
    assert ran.lines("one") == ["here"]
    assert engine.opened[0].network_id == "net"
    assert ran.lines("one", "services") == ["started", "stopped"]
    assert engine.over == ["over"]
    assert ran.facts("image_used", "one") == [{"name": "debian", "id": "sha256:1", "digest": "sha256:2"}]
    assert engine.threads != ["open one"]


@pytest.mark.parametrize("isolated", [True, False])
def test_services_are_kept_with_their_job(make: Make, monkeypatch: pytest.MonkeyPatch, isolated: bool) -> None:
    monkeypatch.setattr(HostSession, "keep", lambda *_: None)
    engine = Serving()
    engine.capabilities = replace(engine.capabilities, isolated=isolated)
    ran = running(project(make, SERVED), engine, keep="always")
    assert len(ran.facts("session_kept", "one")) == 1
    assert engine.over == (["kept"] if isolated else []) + ["over"]


def test_services_that_do_not_start_are_the_jobs_error(make: Make) -> None:
    ran = running(
        project(make, SERVED), Serving(error=ProviderError("db is not ready", code="SERVICE_NOT_READY")), code=3
    )
    assert ran.job("one").outcome["failing_section"] == "services"
    assert ran.error("one") == "db is not ready"
    assert ran.reading.fold.jobs["one"].sections["services"].error == "db is not ready"


@pytest.mark.parametrize("how", ["exit code 1", "exit code 0\nIts last lines:\n  bye"])
def test_a_service_that_ends_while_the_job_needs_it_is_the_jobs_error(make: Make, how: str) -> None:
    text = SERVED.replace("echo $DB; sleep 0", "sleep 60")
    ran = running(project(make, text), Serving(dies=how), code=3)
    result, *last = how.splitlines()
    found = recorded_diagnosis(ran.reading)
    assert found is not None
    assert found.telling_line == f"service db ended while the job ran: {result}"
    assert ran.error("one").splitlines()[0] == found.telling_line
    assert ran.error("one").endswith("\n".join(last))
    assert ran.job("one").outcome["failing_section"] == "services"
    assert "failing_step" not in ran.job("one").outcome


@pytest.mark.parametrize("code", [1, 0])
def test_a_service_of_gitlabs_that_fails_is_a_warning(make: Make, code: int) -> None:
    text = "one: {script: ['true'], image: debian, services: [db]}\n"
    ran = running(make("", **{".gitlab-ci.yml": text}), Serving(dies=f"exit code {code}\nIts last lines:\n  bye"))
    told = [{"text": f"service db ended while the job ran: exit code {code}; it printed: bye"}]
    assert ran.facts("warning", "one") == (told if code else [])


@pytest.mark.parametrize("told", [True, False])
def test_a_service_that_ends_before_its_job_can_start_is_the_jobs_error(make: Make, told: bool) -> None:
    engine = Serving(dies="exit code 1" if told else "")
    engine.problem = "NO_NETWORK"
    engine.ended = None if told else ServiceError("service db ended before the job had started")
    ran = running(project(make, SERVED), engine, code=3)
    assert ran.error("one").startswith("service db ended")
    assert ran.job("one").outcome["failing_section"] == "services"
    assert engine.over == ["over"]


def test_secrets_are_found_before_anything_is_printed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    secrets = (
        """secrets: {A: "env://TOKEN", B: {ref: "env://TOKEN", file: false}, C: {ref: "env://NONE", required: false}}"""
    )
    text = f"stages: [a]\none: {{stage: a, script: ['cat $A; echo; echo $B; echo ${{C-none}}'], image: debian, {secrets}}}\n"
    ran = running(project(make, text), Engine())
    assert ran.lines("one", "secrets")[:2] == ["A: found", "B: found"]
    assert all("REDACTED" in line for line in ran.lines("one")[:2])
    assert ran.lines("one")[2] == "none"
    (warning,) = ran.warnings("one")
    assert warning.startswith("C is not set: ")


def test_an_image_that_the_job_builds_gets_the_jobs_secrets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    build = "{build: {context: ., secrets: [A]}}"
    text = f'stages: [a]\none: {{stage: a, script: ["true"], image: {build}, secrets: {{A: "env://TOKEN"}}}}\n'
    engine = Engine()
    running(project(make, text), engine)
    assert engine.build_secrets == {"A": b"correct horse battery"}


def test_a_secret_that_no_variable_can_hold_is_the_jobs_error(make: Make) -> None:
    text = """stages: [a]
one: {stage: a, script: ['true'], secrets: {A: {ref: "file://key", file: false}}}
"""
    made = make(text)
    (made.root / "key").write_bytes(b"with\0nul-and-more")
    ran = made.run(code=3)
    assert ran.job("one").outcome["error_code"] == "SECRETS_VALUE_NOT_TEXT"
    assert ran.job("one").outcome["failing_section"] == "secrets"


def test_what_the_session_can_not_do_is_a_warning(make: Make) -> None:
    facts = SessionFacts(user="0:0", warnings=("no limit here",), details={"pod": "p"})
    ran = make("stages: [a]\none: {stage: a, script: ['true']}\n").run(tools=on(Replaced(facts=facts)))
    assert ran.warnings("one") == ["no limit here"]
    opened = ran.job("one").facts["session_opened"]
    assert (opened["pod"], opened["user"], opened["shell"], opened["provider"]) == ("p", "0:0", opened["shell"], "host")


def test_a_session_that_is_still_being_opened_is_left_after_two_interrupts(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 0.0)
    cancel, over = Cancel(), threading.Event()

    class Slow(Engine):
        @contextmanager
        def open(self, *arguments: Any) -> Iterator[Any]:
            cancel.request()
            cancel.request()
            over.wait(60)
            with super().open(*arguments) as session:
                yield session

    ran = running(project(make), Slow(), code=130, cancel=cancel)
    over.set()
    assert ran.statuses == {"one": "skipped"}
    assert ran.warnings() == [
        (
            "the session of job one was still being opened 15 s after the second interrupt;"
            " the next loom removes what is there of it"
        )
    ]


def test_a_workspace_that_will_not_be_filled_is_said_to_who_waits_for_it(make: Make) -> None:
    run, tools = project(make).planned()
    opener = SessionOpener(run, run.repo_root, tools, tools.cancel)
    opener.close_unused()
    with pytest.raises(ProviderError) as error:
        opener.wait_until_filled()
    assert error.value.code == "CANCELED"
    assert opener.left_behind == []


def test_only_a_job_that_can_do_without_the_complete_workspace_is_opened_before(make: Make) -> None:
    engine = Engine()
    run, tools = project(make, TWO).planned(container=True, tools=on(engine, "docker"))
    opener = SessionOpener(run, run.repo_root, tools, tools.cancel)
    one, two = run.plan.jobs
    db = Service(name="db", aliases=(), image=Image(name="db"))
    opener.prewarm(one)  # its files will be a copy
    opener.prewarm(replace(two, no_checkout=True))
    opener.prewarm(replace(one, no_checkout=True, services=(db,)))
    assert list(opener.prewarmed) == ["two"]
    opener.close_unused()
    assert (engine.closed, opener.prewarmed) == (["two"], {})


def test_the_end_waits_for_sessions_that_are_being_closed(make: Make) -> None:
    over = threading.Event()

    class Slow(Engine):
        @contextmanager
        def open(self, *arguments: Any) -> Iterator[Any]:
            with super().open(*arguments) as session:
                yield session
                assert over.wait(60)

    engine = Slow()
    run, tools = project(make).planned(container=True, tools=on(engine, "docker"))
    opener = SessionOpener(run, run.repo_root, tools, tools.cancel)
    opener.prewarm(*run.plan.jobs)
    session = opener.prewarmed.pop("one")
    session.opened()
    opener.discard(session)
    threading.Timer(0.1, over.set).start()
    opener.close_unused()
    assert engine.closed == ["one"]


def test_the_next_attempt_at_a_job_that_resumed_begins_anew(make: Make) -> None:
    run, tools = project(make).planned()
    resumed = {name: Resumed(step="script/01", archive=Path("a")) for name in ("one", "two")}
    opener = SessionOpener(replace(run, starts=resumed), run.repo_root, tools, tools.cancel)
    (one,) = run.plan.jobs
    two = replace(one, id="two")
    opener.forget_resumed(one)
    assert (opener.resumed(one), opener.resumed(two)) == (None, resumed["two"])


@pytest.mark.parametrize("has_products", [False, True])
def test_a_workspace_with_what_other_jobs_left_is_nobodys_own(make: Make, has_products: bool) -> None:
    run, tools = project(make).planned()
    filled = FilledWorkspace(path=run.repo_root, snapshot={}, has_products=has_products)
    opener = SessionOpener(replace(run, workspace=filled), run.repo_root, tools, tools.cancel)
    assert opener.alone is not has_products


def test_output_before_its_section_is_open_is_passed_on_in_order() -> None:
    seen: list[tuple[str, bytes]] = []
    output = _Buffered()
    output("stdout", b"1")
    output("stderr", b"2")
    assert seen == []
    output.pass_on(lambda stream, data: seen.append((stream, data)))
    output("stdout", b"3")
    assert seen == [("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3")]


def test_work_that_goes_on_after_two_interrupts_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel, over, asked = Cancel(), threading.Event(), list[bool]()

    def work(own: Cancel) -> str:
        assert over.wait(60)
        asked.append(own.requested)
        return "done"

    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 0.0)
    going = Work(work, cancel, name="work")
    cancel.request()
    cancel.request()
    with pytest.raises(ProviderError, match="not waited for"):
        going.result(ProviderError("not waited for"))
    assert not going.stop()
    over.set()
    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 60.0)
    assert going.result(ProviderError("not waited for")) == "done"
    assert asked == [True]
    assert going.stop()
    assert going.error(ProviderError("not waited for")) is None


def test_the_error_of_work_comes_out_where_somebody_waits() -> None:
    going = Work(lambda _: 1 // 0, Cancel(), name="work")
    with pytest.raises(ZeroDivisionError):
        going.result(ProviderError("interrupted"))
    assert isinstance(going.error(ProviderError("interrupted")), ZeroDivisionError)
