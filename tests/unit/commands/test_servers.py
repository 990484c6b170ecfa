"""Clients of CI servers against a server that answers as documented."""

import io
import json
from pathlib import Path

import pytest

from loom.commands.servers import (
    RemoteJob,
    Server,
    ServerRefused,
    ServerUnavailable,
    address_of,
    server_of,
    tokens,
)
from loom.config import load
from loom.errors import LoomError, RequestError
from tests.support.ci_server import SHA, Reply, Stub, gitlab_job, gitlab_project
from tests.support.loom_process import run_loom
from tests.unit.analysis.test_server_log import GITHUB, PYTEST, gitlab

AT = "/api/v4/projects/group%2Fproject"
TOKEN = "glpat-of-the-user"


def of_gitlab(stub: Stub, token: str | None = TOKEN, job: int = 12) -> tuple[Server, RemoteJob]:
    address = address_of(f"{stub.url}/group/project/-/jobs/{job}")
    server = server_of(address, token)
    return server, server.job(address)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://gitlab.com/group/sub/project/-/jobs/123", ("gitlab", "group/sub/project", None, 123)),
        ("https://gitlab.com/group/project/-/pipelines/9/failures", ("gitlab", "group/project", 9, None)),
        ("https://github.com/o/r/actions/runs/1/job/2?pr=3#step:4:5", ("github", "o/r", 1, 2)),
        ("https://github.com/o/r/actions/runs/1/attempts/2", ("github", "o/r", 1, None)),
    ],
)
def test_address_of_a_page(url: str, expected: tuple[object, ...]) -> None:
    found = address_of(url)
    assert (found.kind, found.project, found.pipeline, found.job) == expected


@pytest.mark.parametrize(
    "url",
    ["https://gitlab.com/group/project", "https://example.com/-/jobs/1", "http://gitlab.com/group/project/-/jobs/1"],
)
def test_other_addresses_and_those_without_encryption_are_refused(url: str) -> None:
    with pytest.raises(RequestError):
        address_of(url)


def test_job_of_gitlab_and_its_log(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    stub.routes[f"{AT}/jobs/12/trace"] = Reply(gitlab(PYTEST, "exit code 1").encode())
    server, job = of_gitlab(stub)
    assert (job.name, job.sha, job.ref, job.pipeline, job.tags) == ("unit", SHA, "main", 7, ["docker"])
    file = io.BytesIO()
    server.log(job, file)
    assert b"E       assert 3 == 4" in file.getvalue()
    assert {headers.get("authorization") for _, headers in stub.asked} == {f"Bearer {TOKEN}"}


def test_first_failed_job_of_a_pipeline_is_found_over_pages(stub: Stub) -> None:
    jobs = [gitlab_job(number, f"j{number}", "success") for number in range(1, 6)]
    gitlab_project(stub, [*jobs, gitlab_job(8, "lint", allow_failure=True), gitlab_job(9, "unit")])
    address = address_of(f"{stub.url}/group/project/-/pipelines/7")
    assert server_of(address, None).job(address).name == "unit"


def test_token_does_not_follow_a_redirect_to_another_host(stub: Stub, other: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    stub.routes[f"{AT}/jobs/12/trace"] = Reply(b"", 302, {"Location": f"{other.url}/store/trace"})
    other.routes["/store/trace"] = Reply(b"the log")
    server, job = of_gitlab(stub)
    file = io.BytesIO()
    server.log(job, file)
    assert file.getvalue() == b"the log"
    ((_, headers),) = other.asked
    assert not any(TOKEN in value for value in headers.values())


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, ServerRefused, "the token is not valid, or has expired"),
        (403, ServerRefused, "this token may not read it"),
        (404, ServerRefused, "not there"),
        (500, ServerUnavailable, "500"),
    ],
)
def test_refusals_name_what_and_the_scope(stub: Stub, status: int, error: type[LoomError], says: str) -> None:
    stub.routes[f"{AT}/jobs/12"] = Reply({"message": "no"}, status)
    with pytest.raises(error) as raised:
        of_gitlab(stub)
    assert says in raised.value.message
    assert "job 12" in raised.value.message
    assert TOKEN not in str(raised.value)
    assert status == 500 or "read_api" in (raised.value.hint or "")


def test_limit_of_requests_is_waited_for_and_asked_again(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    answers = [
        Reply({}, 429, {"Retry-After": "0"}),
        Reply({}, 503, {"Retry-After": "0"}),
        Reply(gitlab_job(12, "unit")),
    ]
    stub.routes[f"{AT}/jobs/12"] = lambda _: answers.pop(0)
    assert of_gitlab(stub)[1].name == "unit"


def test_limit_of_an_hour_is_an_error_at_once(stub: Stub) -> None:
    stub.routes[f"{AT}/jobs/12"] = Reply({}, 429, {"Retry-After": "3600"})
    with pytest.raises(ServerUnavailable, match="too many requests"):
        of_gitlab(stub)
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    "change", [{"id": "12"}, {"commit": {"id": "../../etc"}}, {"name": "x" * 5000}, {"pipeline": None}]
)
def test_answer_of_another_shape_is_refused(stub: Stub, change: dict[str, object]) -> None:
    stub.routes[f"{AT}/jobs/12"] = Reply({**gitlab_job(12, "unit"), **change})
    with pytest.raises(ServerUnavailable, match="not as documented"):
        of_gitlab(stub)


@pytest.mark.parametrize("body", [b"<html>", {"total_count": 0}, []])
def test_a_list_of_another_shape_is_refused(stub: Stub, body: object) -> None:
    stub.routes["/api/v3/repos/o/r/actions/runs/1/jobs"] = Reply(body)
    address = address_of(f"{stub.url}/o/r/actions/runs/1")
    with pytest.raises(ServerUnavailable, match="not as documented"):
        server_of(address, TOKEN).job(address)


def test_variables_that_may_not_be_read_are_named(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    stub.routes[f"{AT}/pipelines/7/variables"] = Reply([{"key": "LEVEL", "value": "debug", "variable_type": "env_var"}])
    stub.routes[f"{AT}/variables"] = Reply(
        [
            {"key": "PLAIN", "value": "1", "variable_type": "env_var", "masked": False, "protected": False},
            {"key": "DEPLOY_KEY", "value": None, "variable_type": "file", "masked": True, "hidden": True, "raw": True},
        ]
    )
    server, job = of_gitlab(stub)
    assert server.pipeline(job).variables == {"LEVEL": "debug"}
    found, unread = server.variables(job)
    assert [(one.name, one.value, one.masked, one.file) for one in found] == [
        ("PLAIN", "1", False, False),
        ("DEPLOY_KEY", None, True, True),
    ]
    assert unread == []
    stub.routes[f"{AT}/variables"] = Reply({"message": "403 Forbidden"}, 403)
    assert server.variables(job) == ([], ["the variables of the project"])


def test_sizes_of_the_servers_own_runners(stub: Stub) -> None:
    stub.routes[f"{AT}/jobs/12"] = Reply(gitlab_job(12, "unit", tag_list=["saas-linux-large-amd64"]))
    assert of_gitlab(stub)[1].size == "8 CPUs, 32 GB"


def _github_job(**more: object) -> dict[str, object]:
    return {
        "id": 2,
        "run_id": 1,
        "name": "test",
        "status": "completed",
        "conclusion": "failure",
        "html_url": None,
        "head_sha": SHA,
        "head_branch": "main",
        "labels": ["ubuntu-latest"],
        "url": "",
        "started_at": "2026-01-01T10:00:00Z",
        "steps": [{"name": "Run make test", "status": "completed", "conclusion": "failure", "number": 3}],
        **more,
    }


def test_log_of_github_comes_from_a_store_that_gets_no_token(stub: Stub, other: Stub) -> None:
    job = "/api/v3/repos/o/r/actions/jobs/2"
    stub.routes[job] = Reply(_github_job(url=f"{stub.url}{job}"))
    stub.routes[f"{job}/logs"] = Reply(b"", 302, {"Location": f"{other.url}/store/log"})
    other.routes["/store/log"] = Reply(GITHUB.encode())
    address = address_of(f"{stub.url}/o/r/actions/runs/1/job/2")
    server = server_of(address, TOKEN)
    found, file = server.job(address), io.BytesIO()
    server.log(found, file)
    assert (found.name, found.sha, found.failed) == ("test", SHA, True)
    assert b"Process completed" in file.getvalue()
    assert not any(TOKEN in value for _, headers in other.asked for value in headers.values())
    assert any(TOKEN in headers.get("authorization", "") for _, headers in stub.asked)


def test_first_failed_job_of_a_run_of_github(stub: Stub) -> None:
    run = "/api/v3/repos/o/r/actions/runs/1"
    stub.routes[run] = Reply({"id": 1, "url": f"{stub.url}{run}", "jobs_url": f"{stub.url}{run}/jobs"})
    stub.routes[f"{run}/jobs"] = Reply(
        {"total_count": 2, "jobs": [_github_job(id=3, name="lint", conclusion="success"), _github_job()]}
    )
    address = address_of(f"{stub.url}/o/r/actions/runs/1")
    assert server_of(address, TOKEN).job(address).name == "test"


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply({"message": "Bad credentials"}, 401), ServerRefused, "not valid"),
        (Reply({"message": "Not Found"}, 404), ServerRefused, "not there"),
        (Reply({"message": "Gone"}, 410), ServerRefused, "it has expired.*\n.*run the job there again"),
        (
            Reply({"message": "API rate limit exceeded"}, 403, {"X-RateLimit-Remaining": "0"}),
            ServerUnavailable,
            "too many",
        ),
        (Reply({"message": "no"}, 500), ServerUnavailable, "500"),
    ],
)
def test_refusals_of_github(stub: Stub, reply: Reply, error: type[LoomError], says: str) -> None:
    stub.routes["/api/v3/repos/o/r/actions/jobs/2"] = reply
    address = address_of(f"{stub.url}/o/r/actions/runs/1/job/2")
    with pytest.raises(error, match=says):
        server_of(address, TOKEN).job(address)


def test_a_busy_github_is_asked_again(stub: Stub) -> None:
    answers = [
        Reply({"message": "You have exceeded a secondary rate limit"}, 403, {"Retry-After": "0"}),
        Reply({"message": "no"}, 502, {"Retry-After": "0"}),
        Reply(_github_job()),
    ]
    stub.routes["/api/v3/repos/o/r/actions/jobs/2"] = lambda _: answers.pop(0)
    address = address_of(f"{stub.url}/o/r/actions/runs/1/job/2")
    assert server_of(address, TOKEN).job(address).name == "test"


# -- tokens ---------------------------------------------------------------------------------------------------------


def _token(tmp_path: Path, host: str, environ: dict[str, str], allowed: str = "", kind: str = "gitlab") -> str | None:
    path = "group/project/-/jobs/1" if kind == "gitlab" else "o/r/actions/runs/1"
    environ = {"HOME": str(tmp_path), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring", **environ}
    config = load(root=tmp_path, environ=environ, flags={})
    return tokens.token_for(address_of(f"https://{host}/{path}"), environ, config, tmp_path, may_send=allowed.__eq__)


def test_token_of_the_environment_is_for_the_server_that_it_is_of(tmp_path: Path) -> None:
    given = {"GITLAB_TOKEN": "t"}
    assert _token(tmp_path, "gitlab.com", given) == "t"
    assert _token(tmp_path, "evil.example", given) is None
    assert _token(tmp_path, "git.example", given, allowed="GITLAB_TOKEN") == "t"
    assert _token(tmp_path, "git.example", {**given, "GITLAB_HOST": "https://git.example"}) == "t"
    assert _token(tmp_path, "gitlab.com", {**given, "GITLAB_HOST": "git.example"}) is None
    assert _token(tmp_path, "github.com", {"GITHUB_TOKEN": "h", "GH_TOKEN": "g"}, kind="github") == "g"


def test_token_of_glab_gh_and_netrc_is_found_by_host(tmp_path: Path) -> None:
    for tool, text in {
        "glab-cli/config.yml": "hosts:\n  git.example:\n    token: of-glab\n",
        "gh/hosts.yml": "git.example:\n  oauth_token: of-gh\n",
    }.items():
        path = tmp_path / ".config" / tool
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / ".netrc").write_text("machine other.example login me password of-netrc\n")
    assert _token(tmp_path, "git.example", {}) == "of-glab"
    assert _token(tmp_path, "git.example", {}, kind="github") == "of-gh"
    assert _token(tmp_path, "other.example", {}) == "of-netrc"
    assert _token(tmp_path, "third.example", {}) is None


def test_diagnose_of_an_address(stub: Stub, tmp_path: Path) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    stub.routes[f"{AT}/jobs/12/trace"] = Reply(gitlab(PYTEST, "exit code 1").encode())
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "GITLAB_HOST": stub.url, "GITLAB_TOKEN": TOKEN}
    url = f"{stub.url}/group/project/-/jobs/12"
    done = run_loom(("diagnose", url, "--json"), cwd=tmp_path, environ=environ)
    document = json.loads(done.stdout)
    assert (document["job_id"], document["telling_line"]) == ("unit", "E       assert 3 == 4")
    assert document["reproduce"] == f"loom reproduce {url}"
    assert TOKEN not in done.stdout + done.stderr
    assert all(headers.get("authorization") == f"Bearer {TOKEN}" for _, headers in stub.asked)


@pytest.mark.parametrize(
    ("change", "trace", "says"),
    [({"status": "running"}, b"$ make\n", "has not ended: running"), ({}, b"", "its log is empty")],
)
def test_job_without_a_whole_log_is_refused(
    stub: Stub, tmp_path: Path, change: dict[str, str], trace: bytes, says: str
) -> None:
    gitlab_project(stub, [{**gitlab_job(12, "unit"), **change}])
    stub.routes[f"{AT}/jobs/12/trace"] = Reply(trace)
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = run_loom(("diagnose", f"{stub.url}/group/project/-/jobs/12"), cwd=tmp_path, environ=environ)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


# -- the job as it was there ----------------------------------------------------------------------------------------


def test_producers_are_those_that_had_ended_when_the_job_began(stub: Stub) -> None:
    def at(minute: int) -> str:
        return f"2026-01-01T10:{minute:02d}:00.000Z"

    jobs = [
        gitlab_job(9, "build", finished_at=at(1)),
        gitlab_job(10, "build", "success", finished_at=at(5)),
        gitlab_job(12, "unit", started_at=at(6), finished_at=at(7)),
        gitlab_job(13, "build", "success", finished_at="2026-01-01T12:30:00.000+02:00"),
        gitlab_job(14, "later", "success", finished_at=at(40)),
    ]
    gitlab_project(stub, jobs)
    listed = stub.routes[f"{AT}/pipelines/7/jobs"]
    assert callable(listed)
    stub.routes[f"{AT}/pipelines/7/jobs"] = lambda query: listed(
        query if query.get("include_retried") == "true" else {"page": "99"}
    )
    server, job = of_gitlab(stub)
    assert {one.name: one.id for one in server.jobs_before(job)} == {"build": 10, "unit": 12, "later": 14}


def test_a_red_pipeline_whose_red_job_is_in_its_child(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(1, "build", "success"), gitlab_job(2, "lint", allow_failure=True)])
    bridge = {"id": 3, "name": "child", "status": "failed", "downstream_pipeline": {"id": 8, "project_id": 1}}
    stub.routes[f"{AT}/pipelines/7/bridges"] = Reply(
        [{**bridge, "name": "x", "status": "success", "downstream_pipeline": None}, bridge]
    )
    stub.pages(f"{AT}/pipelines/8/jobs", [gitlab_job(21, "inner", pipeline={"id": 8})])
    stub.routes[f"{AT}/pipelines/8/bridges"] = Reply([])
    address = address_of(f"{stub.url}/group/project/-/pipelines/7")
    server = server_of(address, TOKEN)
    inner = server.job(address)
    assert (inner.name, inner.pipeline) == ("inner", 8)

    stub.routes[f"{AT}/pipelines"] = lambda query: Reply([{"id": 7, "source": "push"}] if query["sha"] == SHA else [])
    stub.routes[f"{AT}/pipelines/8"] = Reply({"id": 8, "source": "parent_pipeline"})
    assert server.pipeline(inner).above == (7, "child")

    stub.routes[f"{AT}/pipelines/7/bridges"] = Reply(
        [{**bridge, "downstream_pipeline": {"id": 8, "project_id": 99, "web_url": "https://x.example/8"}}]
    )
    with pytest.raises(ServerRefused, match=r"another project.*\n.*https://x\.example/8"):
        server.job(address)


def test_a_merge_requests_job_has_its_branches(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit", ref="refs/merge-requests/5/merge")])
    server, job = of_gitlab(stub)
    found = server.pipeline(job)
    assert "merge request 5: its branches and its title" in found.unread
    stub.routes[f"{AT}/merge_requests/5"] = Reply(
        {"id": 50, "iid": 5, "title": "t", "source_branch": "topic", "target_branch": "main", "labels": ["a", "b"]}
    )
    found = server.pipeline(job)
    assert found.branch == "topic"
    known = {name.removeprefix("CI_MERGE_REQUEST_"): value for name, value in found.known.items()}
    assert known["SOURCE_BRANCH_NAME"] == "topic"
    assert known["TARGET_BRANCH_NAME"] == "main"
    assert (known["IID"], known["EVENT_TYPE"], known["LABELS"]) == ("5", "merged_result", "a,b")


@pytest.mark.parametrize("is_tag", [False, True])
def test_whether_a_branch_or_tag_is_protected(stub: Stub, *, is_tag: bool) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit", ref="v1", tag=is_tag)])
    server, job = of_gitlab(stub)
    assert server.is_protected(job) is None
    kinds = ("repository/branches", "repository/tags")
    for protected in (True, False):
        for number, kind in enumerate(kinds):
            stub.routes[f"{AT}/{kind}/v1"] = Reply({"name": "v1", "protected": protected == (number == is_tag)})
        assert server.is_protected(job) is protected


def test_a_server_below_a_path(stub: Stub, tmp_path: Path) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    stub.routes = {f"/ci/gitlab{path}": route for path, route in stub.routes.items()}
    stub.routes[f"/ci/gitlab{AT}/jobs/12/trace"] = Reply(gitlab(PYTEST, "exit code 1").encode())
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "GITLAB_HOST": stub.url, "GITLAB_TOKEN": TOKEN}
    url = f"{stub.url}/ci/gitlab/group/project/-/jobs/12"
    done = run_loom(("diagnose", url, "--json"), cwd=tmp_path, environ=environ)
    assert json.loads(done.stdout)["job_id"] == "unit", done.stderr


def test_variables_of_groups_that_may_not_be_read_are_named(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")], ci_config_path="ci/main.yml")
    stub.routes["/api/v4/groups/group/variables"] = Reply({}, 403)
    stub.routes[f"{AT}/variables"] = Reply([])
    server, job = of_gitlab(stub)
    assert server.variables(job) == ([], ["the variables of group group"])
    assert server.pipeline(job).workflow == "ci/main.yml"


def test_a_users_own_namespace_has_no_variables_to_miss(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")], namespace={"kind": "user"})
    del stub.routes["/api/v4/groups/group/variables"]
    stub.routes[f"{AT}/variables"] = Reply([])
    server, job = of_gitlab(stub)
    assert server.variables(job) == ([], [])


def test_jobs_of_an_attempt_of_a_run(stub: Stub) -> None:
    run = "/api/v3/repos/o/r/actions/runs/1"
    stub.routes[f"{run}/jobs"] = Reply({"jobs": [_github_job(id=8, name="later")]})
    stub.routes[f"{run}/attempts/2/jobs"] = Reply({"jobs": [_github_job(run_attempt=2)]})
    address = address_of(f"{stub.url}/o/r/actions/runs/1/attempts/2")
    server = server_of(address, TOKEN)
    job = server.job(address)
    assert (job.name, job.attempt) == ("test", 2)
    assert [one.id for one in server.jobs_before(job)] == [2]


def test_variables_of_an_organisation_come_before_the_repositorys(stub: Stub) -> None:
    at = "/api/v3/repos/o/r/actions"
    stub.routes[f"{at}/jobs/2"] = Reply(_github_job())
    stub.routes[f"{at}/variables"] = Reply({"variables": [{"name": "LEVEL", "value": "own"}]})
    address = address_of(f"{stub.url}/o/r/actions/runs/1/job/2")
    server = server_of(address, TOKEN)
    job = server.job(address)
    assert server.variables(job)[1] == ["the variables of the organisation"]
    stub.routes[f"{at}/organization-variables"] = Reply({"variables": [{"name": "LEVEL", "value": "all"}]})
    found, unread = server.variables(job)
    assert ([one.value for one in found], unread) == (["all", "own"], [])


def test_the_request_of_a_pull_requests_run(stub: Stub) -> None:
    at = "/api/v3/repos/o/r"
    ends = {"number": 5, "base": {"ref": "main"}, "head": {"ref": "topic"}}
    stub.routes[f"{at}/actions/jobs/2"] = Reply(_github_job())
    stub.routes[f"{at}/actions/runs/1"] = Reply(
        {"id": 1, "event": "pull_request", "head_branch": "topic", "pull_requests": [ends]}
    )
    address = address_of(f"{stub.url}/o/r/actions/runs/1/job/2")
    server = server_of(address, TOKEN)
    job = server.job(address)
    assert server.pipeline(job).payload == {"number": 5, "pull_request": ends}
    stub.routes[f"{at}/pulls/5"] = Reply({**ends, "draft": True, "url": f"{stub.url}{at}/pulls/5"})
    found = server.pipeline(job)
    assert found.payload is not None
    assert (found.payload["pull_request"]["draft"], found.branch) == (True, "topic")


def test_a_commit_is_signed_off_on_gitlab(stub: Stub) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    server, _ = of_gitlab(stub)
    with pytest.raises(ServerRefused) as unknown:
        server.check_commit(SHA)
    assert unknown.value.status == 404
    stub.routes[f"{AT}/repository/commits/{SHA}"] = Reply({"id": SHA})
    stub.routes[f"{AT}/statuses/{SHA}"] = Reply({"id": 1, "status": "success"}, 201)
    server.check_commit(SHA)
    server.sign_off(SHA, "loom", "passed here: unit")
    posted = {"state": "success", "name": "loom", "description": "passed here: unit"}
    assert stub.posted == [(f"{AT}/statuses/{SHA}", posted)]


def test_a_commit_is_signed_off_on_github(stub: Stub) -> None:
    server = server_of(address_of(f"{stub.url}/o/r/actions/runs/1"), "ghp-of-the-user")
    with pytest.raises(ServerRefused) as unknown:
        server.check_commit(SHA)
    assert unknown.value.status == 404
    at = "/api/v3/repos/o/r"
    stub.routes[f"{at}/git/commits/{SHA}"] = Reply({"sha": SHA, "url": f"{stub.url}{at}/git/commits/{SHA}"})
    stub.routes[f"{at}/statuses/{SHA}"] = Reply({"state": "success", "url": f"{stub.url}{at}/statuses/{SHA}"}, 201)
    server.check_commit(SHA)
    server.sign_off(SHA, "loom/unit", "passed here: unit")
    posted = {"state": "success", "context": "loom/unit", "description": "passed here: unit"}
    assert stub.posted == [(f"{at}/statuses/{SHA}", posted)]
    stub.routes[f"{at}/statuses/{SHA}"] = Reply({"message": "Resource not accessible"}, 403)
    with pytest.raises(ServerRefused, match="may not"):
        server.sign_off(SHA, "loom", "x")
