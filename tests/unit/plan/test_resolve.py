"""From a workflow to what will run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loom.config import Config
from loom.config.pools import Pool
from loom.errors import RequestError, WorkflowError
from loom.plan.model import Build, Image, Need, Plan, Secret
from loom.plan.selection import held_back
from loom.plan.variables import job_environment

MakePlan = Callable[..., Plan]

CHAIN = """
make: {stage: build, script: make, image: "gcc:14"}
unit: {stage: test, script: make check, needs: [make]}
lint: {stage: test, script: make lint, needs: []}
docs: {stage: test, script: make docs}
ship: {stage: deploy, script: make ship, when: manual}
tell: {stage: deploy, script: echo told, needs: [ship]}
"""


def ids(found: Plan) -> list[str]:
    return [job.id for job in found.jobs]


def reasons(found: Plan) -> dict[str, str]:
    return {item.id: item.reason for item in found.left_out}


def test_order_and_needs(plan: MakePlan, tmp_path: Path) -> None:
    found = plan(tmp_path, CHAIN)
    assert ids(found) == ["make", "unit", "lint", "docs"]
    assert found.job("unit").needs == (Need(job="make"),)
    assert found.job("lint").needs == ()
    assert reasons(found) == {
        "ship": "manual: name it to run it",
        "tell": "needs ship, which is left out (manual: name it to run it)",
    }
    assert held_back(found) == (), "CI does not run them by itself either"


def test_containers_for_all(plan: MakePlan, tmp_path: Path) -> None:
    without, with_ = plan(tmp_path, CHAIN), plan(tmp_path, CHAIN, container=True)
    assert [job.provider for job in without.jobs] == ["docker", *["host"] * 3]
    assert with_.job("lint").image == Image(name="debian:trixie-slim")
    assert with_.job("make").image == Image(name="gcc:14")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"jobs": ("unit",)}, ["make", "unit"]),
        ({"jobs": ("unit",), "with_needs": False}, ["unit"]),
        ({"jobs": ("*i*t",)}, ["make", "unit", "lint"]),
        ({"jobs": ("ship",)}, ["ship"]),
        ({"jobs": ("ship", "tell")}, ["ship", "tell"]),
        ({"stages": ("test",)}, ["make", "unit", "lint", "docs"]),
        ({"stages": ("test",), "with_needs": False}, ["unit", "lint", "docs"]),
        ({"from_job": "make"}, ["make", "unit", "docs"]),
        ({"from_job": "ship"}, ["ship", "tell"]),
        ({"stages": ("test",), "jobs": ("d*",)}, ["docs"]),
    ],
)
def test_selection(plan: MakePlan, tmp_path: Path, selection: dict[str, object], expected: list[str]) -> None:
    assert ids(plan(tmp_path, CHAIN, **selection)) == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"jobs": ("unit",)}, ["build", "unit"]),
        ({"jobs": ("unit",), "with_needs": False}, ["unit"]),
        ({"jobs": ("free",)}, ["free"]),
        ({"stages": ("deploy",)}, ["build", "unit", "ship"]),
        ({"from_job": "unit"}, ["unit", "ship"]),
        ({"from_job": "unit", "with_needs": True}, ["build", "unit", "ship"]),
    ],
)
def test_a_selected_job_brings_those_whose_artifacts_it_gets(
    plan: MakePlan, tmp_path: Path, selection: dict[str, object], expected: list[str]
) -> None:
    """Alone it would miss files that it has in CI."""
    stages = """\
build: {stage: build, script: [x], artifacts: {paths: [out]}}
tidy: {stage: build, script: [x]}
rare: {stage: build, script: [x], when: manual, artifacts: {paths: [out]}}
unit: {stage: test, script: [x], artifacts: {paths: [report]}}
free: {stage: test, script: [x], needs: []}
ship: {stage: deploy, script: [x]}
"""
    assert ids(plan(tmp_path, stages, **selection)) == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"jobs": ("unti",)}, "unknown job unti; did you mean unit?"),
        ({"jobs": ("x*",)}, "no job matches x*"),
        ({"jobs": ("test",)}, "unknown job test, but a stage"),
        ({"jobs": ("1796224681377412761",)}, "unknown job 1796224681377412761, but a run's id"),
        ({"stages": ("tests",)}, "unknown stage tests; did you mean test?"),
        ({"from_job": "unti"}, "unknown job unti; did you mean unit?"),
        ({"jobs": ("tell",)}, "tell needs ship, which is left out (manual: name it to run it)"),
        ({"matrix": {"OS": "x"}}, "--matrix OS=x: no job has a matrix variable OS; there are none"),
        (
            {"variables": {"a-b": "x"}},
            "--var a-b: a variable name has letters, digits and _; no digit first, no LOOM_ prefix",
        ),
        ({"jobs": ("make",), "stages": ("test",)}, "no job matches all selection options; use fewer of them"),
    ],
)
def test_a_selection_of_what_is_not_there(
    plan: MakePlan, tmp_path: Path, selection: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        plan(tmp_path, CHAIN, **selection)
    assert caught.value.message == message


def test_jobs_with_a_part_of_an_unknown_name_are_listed(plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan(tmp_path, MATRIX, jobs=("3.12",))
    assert caught.value.hint == "Jobs with that in their name: test.3.12-alpine, test.3.12-slim."
    with pytest.raises(RequestError) as caught:
        plan(tmp_path, MATRIX, jobs=("unit,lint",))
    assert (caught.value.hint or "").startswith("A space is between two jobs: unit lint. ")


def test_a_file_in_the_place_of_a_job(plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan(tmp_path, MATRIX, jobs=("ci.yaml",))
    assert caught.value.hint == "A workflow's file is named with --workflow ci.yaml (-f)."


MATRIX = """
test:
  stage: test
  image: python:$PYTHON-$OS
  parallel: {matrix: [{PYTHON: ["3.11", "3.12"], OS: [alpine, slim]}, {PYTHON: "3.13", OS: slim}]}
  script: pytest
copy: {stage: test, script: echo, parallel: 2}
join: {stage: deploy, script: echo, needs: [{job: test, matrix: {PYTHON: "3.12"}}, copy]}
"""


def test_a_matrix_can_be_narrowed(plan: MakePlan, tmp_path: Path) -> None:
    assert ids(plan(tmp_path, MATRIX, matrix={"OS": "slim", "PYTHON": "3.12"})) == [
        "test.3.12-slim",
        "copy.1",
        "copy.2",
        "join",
    ]
    assert ids(plan(tmp_path, MATRIX, jobs=("test.3.13-slim",))) == ["test.3.13-slim"]
    with pytest.raises(RequestError, match=r"its values are 3\.11, 3\.12, 3\.13"):
        plan(tmp_path, MATRIX, matrix={"PYTHON": "3.1"})


def test_ids_that_look_the_same_are_told_apart(plan: MakePlan, tmp_path: Path) -> None:
    found = plan(tmp_path, 'a: {stage: test, script: x, parallel: {matrix: [{V: ["x y", x/y, "$", ü]}]}}')
    assert ids(found) == ["a.x-y", "a.x-y-2", "a.x", "a.x-2"]


@pytest.mark.parametrize(
    ("rules", "context", "expected"),
    [
        ("[{if: '$CI_COMMIT_BRANCH == \"main\"'}]", {"predefined": {"CI_COMMIT_BRANCH": "main"}}, "runs"),
        (
            "[{if: '$CI_COMMIT_BRANCH == \"main\"'}]",
            {"predefined": {"CI_COMMIT_BRANCH": "x"}},
            "none of its rules matches: $CI_COMMIT_BRANCH is 'x'",
        ),
        ("[{if: $CI_COMMIT_TAG == null}]", {"predefined": {"CI_COMMIT_TAG": ""}}, "runs"),
        ("[{changes: [docs/**]}]", {"changed": ["docs/a/b.md"]}, "runs"),
        (
            "[{changes: docs/*}]",
            {"changed": ["docs/a/b.md"]},
            "none of its rules matches: 1 changed file, none matches docs/*",
        ),
        ("[{changes: docs/*}]", {"changed": None}, "runs"),
        ("[{exists: ['**/Cargo.toml']}]", {"files": ["x/Cargo.toml"]}, "runs"),
        (
            "[{exists: [Cargo.toml]}]",
            {"files": ["x/Cargo.toml"]},
            "none of its rules matches: no file matches Cargo.toml",
        ),
        (
            "[{if: $SKIP, when: never}, {when: on_success}]",
            {"variables": {"SKIP": "secret"}},
            "rules[0] says never ($SKIP is set)",
        ),
        ("[{if: $SKIP, when: never}, {when: on_success}]", {}, "runs"),
        ("[{when: manual}]", {}, "manual: name it to run it"),
    ],
)
def test_rules(plan: MakePlan, tmp_path: Path, rules: str, context: dict[str, object], expected: str) -> None:
    found = plan(tmp_path, f"a: {{stage: test, script: x, rules: {rules}}}", **context)
    assert reasons(found).get("a", "runs") == expected


def test_a_named_job_runs_whatever_its_rules_say(plan: MakePlan, tmp_path: Path) -> None:
    text = "a: {stage: test, script: x, rules: [{if: $NO}]}\nb: {stage: test, script: x, when: never}"
    assert ids(plan(tmp_path, text)) == []
    assert ids(plan(tmp_path, text, jobs=("a", "b"))) == ["a", "b"]
    assert ids(plan(tmp_path, text, stages=("test",))) == []


def test_a_rule_s_variables_and_allow_failure_hold(plan: MakePlan, tmp_path: Path) -> None:
    text = "variables: {A: root}\na: {stage: test, script: x, variables: {A: job}, rules: [{variables: {A: rule}, allow_failure: true, when: always}]}"
    (job,) = plan(tmp_path, text).jobs
    assert (job.variables, job.allow_failure.always, job.when) == ({"A": "rule"}, True, "always")
    (job,) = plan(tmp_path, text, variables={"A": "$A literally"}).jobs
    assert job.variables == {"A": "$A literally"}
    (job,) = plan(tmp_path, "a: {stage: test, script: x, when: on_failure, rules: [{allow_failure: true}]}").jobs
    assert (job.allow_failure.always, job.when) == (True, "on_failure")


def test_a_job_s_texts_and_rules_have_loom_s_variables(plan: MakePlan, tmp_path: Path) -> None:
    expected = {
        "CI_JOB_NAME": "a_b",
        "CI_JOB_NAME_SLUG": "a-b",
        "CI_JOB_STAGE": "test",
        "LOOM_JOB_NAME": "a_b",
        "LOOM_JOB_ID": "a_b",
        "LOOM_JOB_STAGE": "test",
        "LOOM_JOB_TARGET": "linux",
        "LOOM_PROVIDER": "docker",
        "LOOM_WORKFLOW_PATH": ".loom/workflow.yml",
        "CI_JOB_ID": "a_b",
        "CI_CONCURRENT_ID": "0",
        "CI_CONCURRENT_PROJECT_ID": "0",
        "LOOM_PROJECT_DIR": "/workspace",
        "CI_PROJECT_DIR": "/workspace",
        "CI_BUILDS_DIR": "/",
    }
    given = ", ".join(f"X_{name}: ${name}" for name in expected)
    rule = " && ".join(f'${name} == "{value}"' for name, value in expected.items())
    (job,) = plan(
        tmp_path, f"a_b: {{stage: test, image: x, script: x, rules: [{{if: '{rule}', variables: {{{given}}}}}]}}"
    ).jobs
    assert job.variables == {f"X_{name}": value for name, value in expected.items()}


def test_workflow_rules_hold_for_all(plan: MakePlan, tmp_path: Path) -> None:
    text = "workflow: {rules: [{if: $CI_COMMIT_TAG, when: never}, {if: $GO, variables: {MODE: fast}}]}\na: {stage: test, script: x}"
    assert reasons(plan(tmp_path, text)) == {
        "a": "no rule of `workflow: rules` matches: $CI_COMMIT_TAG is not set; $GO is not set"
    }
    tagged = plan(tmp_path, text, predefined={"CI_COMMIT_TAG": "v1"})
    assert reasons(tagged) == {"a": "workflow: rules[0] says never ($CI_COMMIT_TAG is 'v1')"}
    (job,) = plan(tmp_path, text, variables={"GO": "1"}).jobs
    assert job.variables == {"MODE": "fast", "GO": "1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a: {stage: test, script: x, variables: {A: "$B", B: "${A}"}}',
            ".loom/workflow.yml:3:44: WF_SCHEMA_V1 /a/variables/A: the variables of a refer to each other in a cycle: $A -> $B -> $A; write $$ for a plain $",
        ),
        (
            'a: {stage: test, script: x, image: "python:$VERSION"}',
            ".loom/workflow.yml:3:36: WF_SCHEMA_V1 /a/image: $VERSION has no value here; define it, or write $$ for a plain $",
        ),
        (
            "a: {stage: test, script: x, variables: {A: "
            + "x" * 1000
            + ", B: "
            + "$A" * 40
            + ", C: "
            + "$B" * 40
            + "}}",
            ".loom/workflow.yml:3:1: WF_SCHEMA_V1 /a: a variable of a: the expanded value exceeds 1024 KiB",
        ),
        (
            'a: {stage: test, script: x, variables: {A: "$B", B: "$A"}, rules: [{if: "$A"}]}',
            ".loom/workflow.yml:3:44: WF_SCHEMA_V1 /a/variables/A: the variables of a refer to each other in a cycle: $A -> $B -> $A; write $$ for a plain $",
        ),
        (
            "a: {stage: test, script: x, variables: {A: "
            + "x" * 1000
            + ", B: "
            + "$A" * 40
            + ", C: "
            + "$B" * 20
            + "}, resource_group: $C$C}",
            ".loom/workflow.yml:3:1193: WF_SCHEMA_V1 /a/resource_group: the expanded value exceeds 1024 KiB",
        ),
        (
            "a: {stage: build, script: x, rules: [{if: $NO}]}\nb: {stage: test, script: x, needs: [a]}",
            ".loom/workflow.yml:4:37: WF_SCHEMA_V1 /b/needs/0: a is not part of this run (none of its rules matches: $NO is not set); add `optional: true` to the need of a if it may be missing",
        ),
        (
            f"a: {{stage: test, script: x, variables: {{A: {'x' * 2000}}}, rules: [{{if: '$A =~ /(x+x+)+y/'}}]}}",
            ".loom/workflow.yml:3:2060: WF_SCHEMA_V1 /a/rules/0/if: the search for /(x+x+)+y/ in a value of 2000 characters took longer than 0.01 s; begin the pattern with ^, or use no repeat inside another, such as (a+)+",
        ),
    ],
)
def test_what_only_the_plan_can_tell(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr("loom.workflow.patterns.MAX_SEARCH_S", 0.01)
    with pytest.raises(WorkflowError) as caught:
        plan(tmp_path, text)
    assert [str(problem) for problem in caught.value.problems] == [message]


def test_services(plan: MakePlan, tmp_path: Path) -> None:
    (job,) = plan(
        tmp_path,
        """
a:
  stage: test
  script: x
  image: b:1
  services:
    - postgres:16
    - {name: "registry.local:5000/team/redis:7", alias: cache, ready: {tcp: 6379, timeout: 10s}}
    - {name: web, image: {build: {context: web}}, variables: {PORT: "80"}}
""",
    ).jobs
    assert [(s.name, s.aliases, s.image.name) for s in job.services] == [
        ("postgres", ("postgres",), "postgres:16"),
        ("cache", ("cache",), "registry.local:5000/team/redis:7"),
        ("web", ("web",), None),
    ]
    assert job.services[1].ready.tcp == 6379


def test_the_project_s_folder_in_paths_and_variables(plan: MakePlan, tmp_path: Path) -> None:
    text = """
a:
  stage: test
  script: x
  variables: {PIP_CACHE_DIR: $CI_PROJECT_DIR/.cache}
  cache: {paths: [$CI_PROJECT_DIR/.cache, "${LOOM_PROJECT_DIR}"]}
  artifacts: {paths: [out/$CI_JOB_NAME]}
"""
    for container, seen in ((True, "/workspace/.cache"), (False, "$CI_PROJECT_DIR/.cache")):
        (job,) = plan(tmp_path, text, container=container).jobs
        assert job.variables["PIP_CACHE_DIR"] == seen
        assert job.cache[0].paths == (".cache", ".")
        assert job.artifacts is not None
        assert job.artifacts.paths == ("out/a",)
    on_host = job_environment(job, {}, project_dir="/w/space", image_name="")
    assert on_host["PIP_CACHE_DIR"] == "/w/space/.cache"


def test_a_path_that_a_variable_leads_out(plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"\.\./x is outside the project; use a path inside it"):
        plan(tmp_path, "a: {stage: test, script: x, variables: {UP: ..}, artifacts: {paths: [$UP/x]}}")


def test_a_service_s_build_is_expanded_and_its_secrets_are_in_the_plan(plan: MakePlan, tmp_path: Path) -> None:
    (job,) = plan(
        tmp_path,
        """
a:
  stage: test
  script: x
  image: {build: {args: {V: $V}, secrets: NPM}}
  variables: {V: "3", DIR: db}
  secrets: {NPM: env://NPM_TOKEN}
  services:
    - name: db
      image:
        build: {context: $DIR, dockerfile: $DIR.Dockerfile, target: v$V, args: {V: $V}, secrets: [NPM]}
        platform: linux/$ARCH
        user: u$V
        entrypoint: [run]
      secrets: {PASSWORD: env://PW, TOKEN: {ref: env://T, file: false, required: false}}
""",
        predefined={"ARCH": "arm64"},
    ).jobs
    npm = Secret(name="NPM", ref="env://NPM_TOKEN")
    assert job.image is not None
    assert job.image.build == Build(args={"V": "3"}, secrets=(npm,))
    (service,) = job.services
    built = Build(context="db", dockerfile="db.Dockerfile", target="v3", args={"V": "3"}, secrets=(npm,))
    assert service.image.build == built
    assert (service.image.platform, service.image.entrypoint, service.user) == ("linux/arm64", ("run",), "u3")
    of_service = (
        Secret(name="PASSWORD", ref="env://PW"),
        Secret(name="TOKEN", ref="env://T", file=False, required=False),
    )
    assert service.secrets == of_service
    assert job.all_secrets == (npm, *of_service)


SERVICE = "a:\n  stage: test\n  script: x\n  image: b:1\n  services:\n    - name: db\n      "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SERVICE + "image: {build: {context: $DIR}}\n", "9:32: /services/0/image/build/context $DIR has no value here"),
        (
            SERVICE + "image: {build: {context: ../x}}\n",
            "9:32: /services/0/image/build/context expected a path inside the project",
        ),
        (
            SERVICE + "image: {build: {secrets: [NPM]}}\n",
            "9:33: /services/0/image/build/secrets/0 the job has no secret NPM",
        ),
        (
            "a: {stage: test, script: x, image: {build: {secrets: NPM}}}\n",
            "3:54: /image/build/secrets the job has no secret NPM",
        ),
        (
            SERVICE + "variables: {P_FILE: x}\n      secrets: {P: env://P}\n",
            "9:27: /services/0/variables/P_FILE the secret P sets P_FILE for this service",
        ),
        (
            SERVICE + "alias: d\n  network: host\n",
            "10:12: /network a job with services shares a private netwo",
        ),
        (
            SERVICE + "alias: d\n  network: mine\n",
            "10:12: /network a job with services shares a private netwo",
        ),
    ],
)
def test_services_that_can_t_be_as_written(plan: MakePlan, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        plan(tmp_path, text)
    position, at, said = message.split(" ", 2)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f".loom/workflow.yml:{position} WF_SCHEMA_V1 /a{at}: {said}")


def test_the_configuration_s_host_network_is_none_for_a_job_with_services(plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="`network: host`, which the configuration asks for, is not possible here"):
        plan(tmp_path, SERVICE + "alias: d\n", config=Config(network="host"))
    assert plan(tmp_path, SERVICE + "alias: d\n", config=Config(network="none")).jobs[0].network.mode == "none"


POOLS = {
    "big": Pool(provider="kubernetes"),
    "here": Pool(provider="host"),
}


@pytest.mark.parametrize(
    ("job", "on", "said"),
    [
        ("runner_pool: bih", "docker", "3:42: WF_SCHEMA_V1 /a/runner_pool: your configuration has no pool bih; it has big, here; did you mean big?"),
        ("runner_pool: nothing_like_it", "docker", "3:42: WF_SCHEMA_V1 /a/runner_pool: your configuration has no pool nothing_like_it; it has big, here"),
        ("image: debian, runner_pool: here", "docker", "3:36: WF_SCHEMA_V1 /a/image: here runs jobs on this machine, without an image; remove the image, or name another pool"),
        ("image: debian", "here", "3:36: WF_SCHEMA_V1 /a/image: here runs jobs on this machine, without an image; remove the image, or name another pool"),
    ],
)  # fmt: skip
def test_a_pool_that_can_not_be_had(plan: MakePlan, tmp_path: Path, job: str, on: str, said: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        plan(tmp_path, f"a: {{stage: test, script: x, {job}}}", config=Config(pools=POOLS), on=on)
    assert [str(problem) for problem in caught.value.problems] == [f".loom/workflow.yml:{said}"]


def test_where_jobs_run(plan: MakePlan, tmp_path: Path) -> None:
    text = """\
plain: {stage: test, script: x}
image: {stage: test, script: x, image: debian}
pool: {stage: test, script: x, image: debian, runner_pool: big}
here: {stage: test, script: x, runner_pool: here}
"""
    found = plan(tmp_path, text, config=Config(pools=POOLS))
    assert {job.id: job.provider for job in found.jobs} == {
        "plain": "host", "image": "docker", "pool": "kubernetes", "here": "host",
    }  # fmt: skip
    without = plan(tmp_path, text, on="kubernetes")
    assert {job.id: job.provider for job in without.jobs} == {
        "plain": "host", "image": "kubernetes", "pool": "kubernetes", "here": "host",
    }  # fmt: skip


def test_hardened_jobs_may_ask_for_less(plan: MakePlan, tmp_path: Path) -> None:
    hard = Config(hardened=True)
    (job,) = plan(tmp_path, "a: {stage: test, script: x, image: debian}", config=hard).jobs
    assert (job.hardened, job.network.mode) == (True, "none")
    with pytest.raises(WorkflowError) as caught:
        plan(tmp_path, "a: {stage: test, script: x, image: debian, privileged: true}", config=hard)
    assert [(problem.line, problem.pointer) for problem in caught.value.problems] == [(3, "/a/privileged")]


def test_extends_has_a_limit(plan: MakePlan, tmp_path: Path) -> None:
    chain = "".join(f".t{number}: {{extends: .t{number - 1}}}\n" for number in range(1, 34))
    text = f".t0: {{stage: test, script: x}}\n{chain}a: {{extends: .t%d}}"
    assert plan(tmp_path, text.replace(".t33: {extends: .t32}\n", "") % 31).jobs[0].stage == "test"
    with pytest.raises(WorkflowError) as caught:
        plan(tmp_path, text % 31)
    assert [str(problem) for problem in caught.value.problems] == [
        ".loom/workflow.yml:36:17: WF_SCHEMA_V1 /.t33/extends: extends goes deeper than 32 levels"
    ]


def test_images_have_their_own_platform_or_the_configurations(plan: MakePlan, tmp_path: Path) -> None:
    text = """\
plain: {stage: test, script: x, image: debian, services: [{name: redis}]}
own: {stage: test, script: x, image: {name: debian, platform: linux/riscv64}, services: [{name: db, image: {name: redis, platform: linux/s390x}}]}
"""
    found = plan(tmp_path, text, config=Config(platform="linux/arm64"))
    images = {job.id: [job.image, *(service.image for service in job.services)] for job in found.jobs}
    assert {name: [one and one.platform for one in some] for name, some in images.items()} == {
        "plain": ["linux/arm64", "linux/arm64"],
        "own": ["linux/riscv64", "linux/s390x"],
    }
    bare = plan(tmp_path, "a: {stage: test, script: x}", config=Config(platform="linux/arm64"), container=True)
    assert bare.jobs[0].image == Image(name=Config().default_image, pull=Config().pull, platform="linux/arm64")


@pytest.mark.parametrize(
    ("more", "shared"), [("", False), (", shared_shell: false", False), (", shared_shell: true", True)]
)
def test_steps_share_a_shell_on_request(plan: MakePlan, tmp_path: Path, more: str, shared: bool) -> None:
    (job,) = plan(tmp_path, f"a: {{stage: test, script: [x, y]{more}}}").jobs
    assert job.shared_shell is shared


def test_what_a_job_has_where_nothing_is_written(plan: MakePlan, tmp_path: Path) -> None:
    text = """
a: {stage: test, script: x, user: "1000", retry: {backoff: 3s}}
b:
  stage: test
  script: x
  image: i:1
  services:
    - {name: db, image: {name: "postgres:16"}, alias: [one, two]}
    - {name: own, image: {name: "redis:7"}}
"""
    bare, serving = plan(tmp_path, text, container=True).jobs
    assert (bare.merge_output, bare.retry.max, bare.retry.backoff_s) == (False, 1, 3.0)
    assert bare.image is not None
    assert bare.image.user == "1000"
    assert [(one.name, one.aliases) for one in serving.services] == [("db", ("one", "two")), ("own", ("own",))]


def test_a_secret_takes_the_name_of_a_variable_for_all_jobs(plan: MakePlan, tmp_path: Path) -> None:
    head = "version: v1\nstages: [test]\nvariables: {TOKEN: x, OTHER: y}\n"
    text = "a: {stage: test, script: x, secrets: {TOKEN: 'env://T'}}\nb: {stage: test, script: x}"
    own, other = plan(tmp_path, text, head=head).jobs
    assert (dict(own.variables), dict(other.variables)) == ({"OTHER": "y"}, {"TOKEN": "x", "OTHER": "y"})


def test_a_matrix_may_have_256_combinations(plan: MakePlan, tmp_path: Path) -> None:
    row = ", ".join(f"'{number}'" for number in range(16))
    text = f"a: {{stage: test, script: x, parallel: {{matrix: [{{A: [{row}], B: [{row}]}}]}}}}"
    assert len(plan(tmp_path, text).jobs) == 256


def test_other_images_run_in_the_place_of_those_that_the_configuration_names(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    text = """\
a: {stage: test, image: library/node, services: [{name: db, image: "pg:12"}], script: x}
b: {stage: test, image: {name: node, build: {context: .}}, script: x}
"""
    found = plan(
        tmp_path, text, files=["Dockerfile"], config=Config(images={"node:latest": "node:22", "pg:12": "pg:16"})
    )
    a, b = found.jobs
    assert [image and image.name for image in (a.image, a.services[0].image, b.image)] == ["node:22", "pg:16", "node"]
    assert found.replaced == {"library/node": "node:22", "pg:12": "pg:16"}
