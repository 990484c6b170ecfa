"""The variables of the jobs of a GitLab file: levels, environments, the user's file, what waits for the job."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from loom.config import Config, GitLabSettings
from loom.config.pools import Pool
from loom.errors import LoomError
from loom.plan.model import CacheKeyFiles, Image, Job, JobSelection, Plan, ResolveContext, Secret
from loom.plan.resolve import resolve
from loom.plan.variables import (
    HeadCommit,
    Message,
    add_reported,
    attempt_variables,
    job_environment,
    run_variables,
    session_variables,
)
from loom.util import controls
from loom.workflow import dialects
from loom.workflow.gitlab import variables
from loom.workflow.gitlab.pipeline import Pipeline
from loom.workflow.gitlab.predefined import environment_slug
from tests.support.gitlab import PUSH
from tests.support.plans import as_declared

OWN = """
REGION: de
RAW: {value: "$REGION", expand: false}
group/*:
  TOKEN: {ref: "env://TOKEN"}
  KEY: {ref: "env://KEY", file: true}
  CONF: {value: "region $REGION", file: true}
other/project: {REGION: no}
"""


def plan(
    tmp_path: Path,
    text: str,
    *,
    own: str = "",
    given: dict[str, str] | None = None,
    jobs: tuple[str, ...] = (),
    settings: GitLabSettings | None = None,
) -> Plan:
    path, mine = tmp_path / ".gitlab-ci.yml", tmp_path / "variables.yml"
    path.write_text(text)
    mine.write_text(own)
    config = Config(gitlab=settings or GitLabSettings(), deploy=True)
    context = ResolveContext(config=config, predefined=PUSH, own_variables=lambda: variables.own(mine, "group/project"))
    loaded = dialects.load(path, tmp_path, lambda: context)
    return as_declared(resolve(loaded, JobSelection(container=True, variables=given or {}, jobs=jobs), context))


def job(tmp_path: Path, text: str, name: str = "job", *, own: str = "", given: dict[str, str] | None = None) -> Job:
    return plan(tmp_path, text, own=own, given=given).job(name)


def test_the_users_file_is_above_the_file_and_below_the_command_line(tmp_path: Path) -> None:
    text = "variables: {REGION: us, B: 1}\njob: {script: x, variables: {B: $REGION}, rules: [{if: $TOKEN, variables: {REGION: rule}}]}"
    found = job(tmp_path, text, own=OWN)
    assert (found.variables["REGION"], found.variables["B"], found.variables["RAW"]) == ("de", "de", "$REGION")
    assert job(tmp_path, text, own=OWN, given={"REGION": "uk"}).variables["B"] == "uk"
    assert set(found.given_variables) == {"REGION", "RAW", "TOKEN", "KEY", "CONF"}


def test_a_variable_without_a_value_is_empty_also_one_called_name(tmp_path: Path) -> None:
    found = job(tmp_path, 'variables: {NAME: , A: }\njob: {script: x, variables: {B: "<$NAME$A>"}}')
    assert [found.variables[name] for name in ("NAME", "A", "B")] == ["", "", "<>"]


def test_secrets_and_files_of_the_users_file_reach_only_the_job(tmp_path: Path) -> None:
    text = 'job: {script: x, variables: {AUTH: "Bearer $TOKEN", WHERE: $CONF}}'
    found = job(tmp_path, text, own=OWN)
    assert [(secret.name, secret.ref, secret.file) for secret in found.secrets] == [
        ("TOKEN", "env://TOKEN", False),
        ("KEY", "env://KEY", True),
    ]
    assert found.file_variables == ("CONF",)
    assert found.variables["CONF"] == "region de"
    assert (found.variables["AUTH"], found.variables["WHERE"]) == ("Bearer ${TOKEN}", "${CONF}")
    assert "TOKEN" not in found.variables


def test_a_variable_of_an_environment_reaches_the_jobs_of_that_environment(tmp_path: Path) -> None:
    own = """
HOST: {environments: {"*": any, "review/*": review, review/main: main, "review/main*": longer, production: {value: "$ZONE", file: true}}}
TOKEN: {environments: {production: {ref: "env://TOKEN"}}}
ZONE: eu
"""
    text = """
variables: {TARGET: review}
none: {script: x}
review: {script: x, variables: {URL: "https://$HOST"}, environment: $TARGET/other, rules: [{if: $TOKEN == null}]}
main: {script: x, environment: {name: review/$CI_COMMIT_BRANCH}}
live: {script: x, environment: production, rules: [{if: $TOKEN, when: never}, {if: $CI, variables: {ZONE: us}}]}
"""
    jobs = {one.id: one for one in plan(tmp_path, text, own=own).jobs}
    hosts = {name: one.variables.get("HOST") for name, one in jobs.items()}
    assert hosts == {"none": "any", "review": "review", "main": "main", "live": "eu"}
    assert jobs["review"].variables["URL"] == "https://review"
    assert {name: [secret.name for secret in one.secrets] for name, one in jobs.items() if one.secrets} == {
        "live": ["TOKEN"]
    }
    assert jobs["live"].file_variables == ("HOST",)
    assert [set(jobs[name].given_variables) for name in ("none", "live")] == [
        {"HOST", "ZONE"},
        {"HOST", "TOKEN", "ZONE"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: {value: 1, environments: {x: 1}}", "or one with environments alone"),
        ("A: {environments: {x: {environments: {y: 1}}}}", "or one with environments alone"),
        ("A: {value: 1, ref: x}", "expected a value, or a mapping"),
        ("group/*: {A: {masked: true}}", "expected a value, or a mapping"),
        ("A: [", "not valid YAML"),
    ],
)
def test_mistakes_in_the_users_file_have_a_position(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LoomError, match=r"variables\.yml:[12]") as caught:
        plan(tmp_path, "job: {script: x}", own=text)
    assert message in str(caught.value)
    assert "CONFIG_INVALID" in str(caught.value)


def test_an_environment_sets_variables_that_others_refer_to(tmp_path: Path) -> None:
    text = """
job:
  script: x
  variables: {HOST: $CI_ENVIRONMENT_SLUG.example.com}
  environment: {name: $TARGET/$CI_COMMIT_BRANCH, url: "https://$HOST/$CI_ENVIRONMENT_NAME"}
  rules: [{if: $CI, variables: {TARGET: review}}]
"""
    found = job(tmp_path, text).variables
    slug = environment_slug("review/main")
    assert {name: value for name, value in found.items() if name.startswith("CI_ENVIRONMENT")} == {
        "CI_ENVIRONMENT_NAME": "review/main",
        "CI_ENVIRONMENT_SLUG": slug,
        "CI_ENVIRONMENT_ACTION": "start",
        "CI_ENVIRONMENT_TIER": "development",
        "CI_ENVIRONMENT_URL": f"https://{slug}.example.com/review/main",
    }
    assert found["HOST"] == f"{slug}.example.com"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("production", "production"),
        ("review-1", "review-1"),
        ("review-", "review"),
        ("Production", "production-iis43c"),
        ("review/a", "review-a-ppbxnw"),
        ("1", "env-1-x3mbm3"),
        ("a__b", "a-b-y8d62t"),
        ("x" * 24, "x" * 24),
        ("x" * 25, f"{'x' * 17}-lb3sqk"),
        ("a" * 16 + "/b", f"{'a' * 16}-w3sct4"),
    ],
)
def test_the_slug_of_an_environment(name: str, slug: str) -> None:
    assert environment_slug(name) == slug


def test_a_name_that_no_job_before_reports_is_empty(tmp_path: Path) -> None:
    text = """
stages: [build, test]
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job:
  stage: test
  script: x
  variables: {A: $DYNAMIC/$CI_COMMIT_BRANCH, COST: "$$$DYNAMIC$CI_COMMIT_BRANCH", GONE: "$NONE$5${NONE:-x}"}
  environment: {name: here, url: "$DYNAMIC/$CI_ENVIRONMENT_SLUG/$CI_JOB_URL", action: verify}
  cache: {paths: [x], key: $DYNAMIC$CI_COMMIT_BRANCH}
with-needs: {stage: test, needs: [build], script: x, variables: {A: $DYNAMIC}}
alone: {stage: test, needs: [], script: x, variables: {A: $DYNAMIC/x}}
"""
    found = plan(tmp_path, text)
    assert [found.job(name).variables["A"] for name in ("job", "with-needs", "alone")] == ["/main", "", "/x"]
    for reported, value in (({"OTHER": "1"}, ""), ({"DYNAMIC": "1"}, "1")):
        made = add_reported(found.job("job"), reported)
        assert made.variables["A"] == f"{value}/main"
        assert made.variables["COST"] == f"${value}main"
        assert made.variables["CI_ENVIRONMENT_URL"] == f"{value}/here/${{CI_JOB_URL}}"
        assert made.variables["GONE"] == ""
        assert made.cache[0].key == f"{value}main"


FIELDS = """
stages: [build, test]
variables: {V: "0", DIR: out/$V}
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job:
  stage: test
  script: x
  image: {name: "app:$V", entrypoint: [$V], docker: {user: u$V}}
  services:
    - {name: "db:$V", alias: "a$V,b $MORE", command: [$V], variables: {OWN: $V, COST: $$V}}
    - a/c$V
    - d
  artifacts: {name: n$V, paths: [$DIR, $GONE/x, $CI_PROJECT_DIR/$V], exclude: [x$V], reports: {junit: $V.xml}}
  cache:
    - {paths: [c$V], key: $CI_JOB_IMAGE-$V, fallback_keys: [f$V]}
    - {paths: [c], key: {files: [l$V], prefix: p$V}}
    - {paths: [c], key: $GONE, policy: $POLICY}
  variables: {POLICY: pull, TEST: $CI_ENVIRONMENT_URL/x}
  environment: {name: e$V, url: "https://$V", action: verify}
  resource_group: r$V$GONE
  tags: [t$V]
"""


@pytest.mark.parametrize("v", ["0", "1"])
def test_each_text_that_gitlabs_runner_expands_has_the_reported_value(tmp_path: Path, v: str) -> None:
    planned = plan(tmp_path, FIELDS).job("job")
    made = planned if v == "0" else add_reported(planned, {"V": v, "MORE": "m"})
    more = () if v == "0" else ("m",)
    assert made.image is not None
    assert (made.image.name, made.image.entrypoint, made.image.user) == (f"app:{v}", ("$V",), f"u{v}")
    assert [(one.name, one.aliases, one.image.name) for one in made.services] == [
        (f"a{v}", (f"a{v}", "b", *more, "db"), f"db:{v}"),
        (f"a-c{v}", (f"a-c{v}", f"a__c{v}"), f"a/c{v}"),
        ("d", ("d",), "d"),
    ]
    assert made.services[0].command == ("$V",)
    values = [(one.variables["V"], one.variables["DIR"]) for one in made.services]
    assert values == [(v, f"out/{v}")] * 3
    assert (made.services[0].variables["OWN"], made.services[0].variables["COST"]) == (v, "$V")
    assert made.artifacts is not None
    assert (made.artifacts.name, made.artifacts.paths) == (f"n{v}", (f"out/{v}", v))
    assert (made.artifacts.exclude, made.artifacts.reports) == ((f"x{v}",), {"junit": (f"{v}.xml",)})
    assert made.cache[0].key == f"app:{v}-{v}"
    assert (made.cache[0].paths, made.cache[0].fallback_keys) == ((f"c{v}",), (f"f{v}",))
    assert made.cache[1].key == CacheKeyFiles(files=(f"l{v}",), prefix=f"p{v}")
    assert (made.cache[2].key, made.cache[2].policy) == ("default", "pull")
    assert made.variables["TEST"] == f"https://{v}/x"
    # GitLab's server expands these, before any job has run.
    assert (made.variables["CI_ENVIRONMENT_NAME"], made.resource_group) == ("e0", "r0")
    assert made.variables["CI_JOB_TAGS"] == '["t0"]'


def test_services_get_only_those_project_variables_that_the_file_names(tmp_path: Path) -> None:
    text = """
variables: {ROOT: $DB}
job: {script: x, variables: {USER: $USER}, services: [{name: db, variables: {OWN: $DB}}]}
"""
    made = plan(tmp_path, text, own="DB: d\nUSER: u\n", given={"GIVEN": "g"}).job("job")
    wanted = {"ROOT": "d", "USER": "u", "OWN": "d", "DB": None, "GIVEN": None}
    assert {name: made.services[0].variables.get(name) for name in wanted} == wanted
    assert (made.variables["DB"], made.variables["GIVEN"]) == ("d", "g")


def test_services_get_no_reported_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "hide", lambda text: text.replace("hush", "***"))
    made = add_reported(plan(tmp_path, FIELDS).job("job"), {"V": "hush", "NEW": "1"})
    values = made.services[0].variables
    assert {name: values[name] for name in ("V", "DIR", "OWN", "NEW")} == {
        "V": "0",
        "DIR": "out/0",
        "OWN": "0",
        "NEW": "1",
    }
    assert made.variables["DIR"] == "out/hush"


def test_only_a_name_that_a_report_changes_replaces_an_image_with_a_digest(tmp_path: Path) -> None:
    planned = plan(tmp_path, FIELDS).job("job")
    exact = Image(name=f"app@sha256:{'0' * 64}", platform="linux/arm64")
    assert add_reported(replace(planned, image=exact), {"OTHER": "1"}).image == replace(exact, user="u0")
    made = add_reported(replace(planned, image=exact), {"V": "1"})
    assert made.image is not None
    assert made.image.name == "app:1"


def test_an_image_that_only_a_job_before_can_name_is_asked_for_when_the_job_runs(tmp_path: Path) -> None:
    text = """
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job: {script: x, image: "app:$VERSION", artifacts: {paths: [$OUT]}, variables: {OUT: ""}}
"""
    found = plan(tmp_path, text).job("job")
    assert found.image is not None
    assert found.image.name == "app:$VERSION"
    made = add_reported(found, {"VERSION": "2", "OUT": "/workspace/o"})
    assert (made.image and made.image.name, made.artifacts and made.artifacts.paths) == ("app:2", ("o",))
    made = add_reported(found, {"VERSION": "2", "OUT": "../o"})
    assert made.artifacts is not None
    assert made.artifacts.paths == ()


@pytest.mark.parametrize(
    ("top", "name"),
    [("variables: {CI_DEFAULT_BRANCH: hub.here}", "$CI_DEFAULT_BRANCH/app:1"), ("", "$CI_ENVIRONMENT_URL")],
)
def test_an_image_of_a_predefined_name_with_a_value_of_the_file_is_no_fault(
    tmp_path: Path, top: str, name: str
) -> None:
    text = f"""
{top}
build: {{stage: build, script: x, artifacts: {{reports: {{dotenv: a.env}}}}}}
job: {{script: x, image: {name}, environment: {{name: e, url: "hub.here/app:1", action: verify}}}}
"""
    found = plan(tmp_path, text).job("job")
    for made in (found, add_reported(found, {"OTHER": "1"})):
        assert (made.refused, made.image and made.image.name) == ((), "hub.here/app:1")


def test_secrets_and_files_still_wait_for_the_job_after_a_report(tmp_path: Path) -> None:
    text = """
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job: {script: x, variables: {AUTH: "Bearer $TOKEN $V", WHERE: "$CONF $CI_JOB_URL"}}
"""
    own = 'TOKEN: {ref: "env://TOKEN"}\nCONF: {value: "version $V", file: true}'
    made = add_reported(plan(tmp_path, text, own=own).job("job"), {"V": "1", "TOKEN": "no"}).variables
    assert (made["AUTH"], made["WHERE"]) == ("Bearer ${TOKEN} 1", "${CONF} ${CI_JOB_URL}")
    assert made["CONF"] == "version 1"


def test_a_child_pipeline_gets_what_refers_to_a_reported_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
variables: {V: "0"}
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job: {trigger: {include: child.yml}, variables: {PASSED: v$V}}
"""
    made = add_reported(plan(tmp_path, text).job("job"), {"V": "1"})
    assert made.trigger is not None
    assert (made.trigger.variables["PASSED"], made.trigger.variables["V"]) == ("v1", "0")
    monkeypatch.setattr(controls, "hide", lambda text: text.replace("1", "***"))
    made = add_reported(plan(tmp_path, text).job("job"), {"V": "1"})
    assert made.trigger is not None
    assert made.trigger.variables["PASSED"] == "v0", "its plan is in its record"


def test_what_refers_to_a_variable_that_a_job_before_replaces_has_its_value(tmp_path: Path) -> None:
    text = """
stages: [build, test]
variables: {VERSION: "0", TAG: "app:$VERSION", NAME: "$TAG/$CI_COMMIT_BRANCH", SUFFIX: $VERSION$CI_COMMIT_BRANCH, RAW: {value: $VERSION, expand: false}}
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
"costs $$5 $VERSION": {stage: test, script: x, variables: {COST: "$$VERSION", SAID: $CI_JOB_NAME, GIVEN: $OTHER, OTHER: $VERSION}}
alone: {stage: test, needs: [], script: x}
"""
    found = plan(tmp_path, text, given={"OTHER": "given"})
    assert found.job("alone").referring is None
    job = next(one for one in found.jobs if "SAID" in one.variables)
    made = add_reported(job, {"VERSION": "1", "OTHER": "reported"}).variables
    expected = {"VERSION": "1", "TAG": "app:1", "NAME": "app:1/main", "SUFFIX": "1main", "SAID": "costs $5 1"}
    literal = {"RAW": "$VERSION", "COST": "$VERSION", "GIVEN": "given", "OTHER": "given"}
    assert {name: made[name] for name in (*expected, *literal)} == {**expected, **literal}
    before = {"VERSION": "0", "TAG": "app:0", "NAME": "app:0/main", "SUFFIX": "0main", "SAID": "costs $5 0"}
    assert {name: job.variables[name] for name in (*before, *literal)} == {**before, **literal}
    assert add_reported(job, {"NEW": "1"}).variables == {**job.variables, "NEW": "1"}


def test_an_instance_has_the_name_that_gitlab_prints(tmp_path: Path) -> None:
    found = job(
        tmp_path, "job: {script: x, parallel: {matrix: [{OS: [a, b]}]}, variables: {N: '$CI_JOB_NAME'}}", "job.b"
    )
    assert (found.variables["CI_JOB_NAME"], found.variables["N"], found.variables["OS"]) == (
        "job: [b]",
        "job: [b]",
        "b",
    )
    assert found.variables["CI_NODE_INDEX"] == "2"


def test_a_cycle_of_variables_is_an_error_with_its_position(tmp_path: Path) -> None:
    with pytest.raises(LoomError, match=r"\.gitlab-ci\.yml:1.*variables: they refer to each other in a cycle"):
        plan(tmp_path, "job: {script: x, variables: {A: $B, B: $A}}")


def test_an_image_whose_name_a_job_before_may_report_is_taken_as_it_is(tmp_path: Path) -> None:
    before = "build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}\n"
    found = plan(tmp_path, f'{before}job: {{script: x, image: "img:$REPORTED", services: ["db:$REPORTED"]}}').jobs[1]
    assert (found.image and found.image.name, found.services[0].image.name) == ("img:$REPORTED", "db:$REPORTED")
    assert found.refused == ()


def test_a_pipeline_has_the_name_that_workflow_gives_it(tmp_path: Path) -> None:
    text = """
workflow: {name: "$WHAT of $CI_COMMIT_BRANCH", rules: [{if: $CI, variables: {WHAT: build}}]}
job: {script: x, variables: {N: $CI_PIPELINE_NAME}}
"""
    found = job(tmp_path, text).variables
    assert (found["CI_PIPELINE_NAME"], found["N"]) == ("build of main", "build of main")


def test_a_value_that_is_not_an_option_is_an_error(tmp_path: Path) -> None:
    said = r"yml:1:56: \w+ /variables/B/value: variables:options: the value of B must be one of its options: x, y$"
    with pytest.raises(LoomError, match=said):
        plan(tmp_path, "variables: {A: {value: x, options: [x, y]}, B: {value: z, options: [x, y]}}\njob: {script: x}")


def test_an_image_without_a_value_names_the_variable_that_lacks_one(tmp_path: Path) -> None:
    text = "variables: {HUB: $MIRROR/, IMAGE: '${HUB}base'}\njob: {script: x, image: $IMAGE}"
    with pytest.raises(
        LoomError, match=r"image: '/base' is not a valid image name. \$MIRROR has no value here: give it"
    ):
        plan(tmp_path, text)
    assert plan(tmp_path, text, own="MIRROR: hub.example.com").jobs[0].image is not None


DEMANDS = """
sound: {script: x}
unset: {script: x, image: "$REGISTRY/app"}
service: {script: x, services: ["$REGISTRY/db"]}
token: {script: x, id_tokens: {TOKEN: {aud: [a, b]}}}
secret: {script: x, secrets: {DB: {vault: a/b@c}}}
identity: {script: x, identity: google_cloud}
steps: {run: [{name: a, script: b}]}
child: {trigger: {include: [{project: group/other, file: x.yml}]}}
"""


def test_a_job_that_needs_a_server_is_refused_and_not_its_file(tmp_path: Path) -> None:
    jobs = {one.id: one for one in plan(tmp_path, DEMANDS).jobs}
    assert jobs["sound"].refused == ()
    for name, line, said in [
        ("unset", 3, "unset/image: image: '/app' is not a valid image name"),
        ("service", 4, "service/services/0: services: '/db' is not"),
        ("token", 5, "token/id_tokens/TOKEN: id_tokens: no GitLab server issues"),
        ("secret", 6, "secret/secrets/DB: secrets: loom does not ask the store"),
        ("identity", 7, "identity/identity: identity is not supported: Only a GitLab server"),
        ("steps", 8, "steps/run: run is not supported: CI/CD steps need"),
        ("child", 9, "child/trigger/include/0/project: trigger:include:project is not"),
    ]:
        [why] = jobs[name].refused
        assert re.match(rf"\.gitlab-ci\.yml:{line}:\d+: GL_UNSUPPORTED /{re.escape(said)}", why), why
        assert (jobs[name].services, jobs[name].secrets) == ((), ())
        assert jobs[name].image == Image()


def test_a_run_that_names_a_refused_job_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(LoomError, match="identity is not supported"):
        plan(tmp_path, DEMANDS, jobs=("identity", "sound"))
    assert [one.id for one in plan(tmp_path, DEMANDS, jobs=("sound",)).jobs] == ["sound"]


def test_an_inherited_token_refuses_each_job_that_inherits_it(tmp_path: Path) -> None:
    text = "default: {id_tokens: {T: {aud: x}}}\na: {script: x}\nb: {script: x, inherit: {default: false}}"
    assert {one.id: bool(one.refused) for one in plan(tmp_path, text).jobs} == {"a": True, "b": False}


def test_a_token_that_the_user_gives_is_a_variable(tmp_path: Path) -> None:
    settings = GitLabSettings(secrets={"T": "env://MY_TOKEN"})
    found = plan(tmp_path, "a: {script: x, id_tokens: {T: {aud: x}}}", settings=settings).job("a")
    assert (found.refused, found.secrets) == ((), (Secret(name="T", ref="env://MY_TOKEN", file=False),))


def test_caches_and_exclusions_of_artifacts_are_gitlabs(tmp_path: Path) -> None:
    found = job(
        tmp_path,
        "job: {script: x, artifacts: {paths: ['out**', 'a/**/*.o'], exclude: [out/tmp]}, cache: ["
        "{paths: [a], key: {files: [lock]}}, {paths: [b], key: {files: [lock]}}, {paths: [c], key: {files: [lock], prefix: p}}]}",
    )
    assert found.artifacts is not None
    assert (found.artifacts.paths, found.artifacts.exclude_alone) == (("out*", "a/**/*.o"), True)
    assert all(cache.by_key for cache in found.cache)
    assert [key.prefix for cache in found.cache if not isinstance(key := cache.key, str)] == ["0", "1", "p"]


def test_the_fallback_key_of_all_caches_comes_last_and_is_no_protected_one(tmp_path: Path) -> None:
    text = """
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job: {script: x, variables: {CACHE_FALLBACK_KEY: '@'}, cache: {paths: [a], fallback_keys: [f]}}
other: {script: x, cache: {paths: [a]}}
"""
    for key, keys in (("main", ("f", "main")), ("main-protected", ("f",)), ("$V", ("f",))):
        found = plan(tmp_path, text.replace("@", key))
        assert [found.job(name).cache[0].fallback_keys for name in ("job", "other")] == [keys, ()]
    assert add_reported(found.job("job"), {"V": "v"}).cache[0].fallback_keys == ("f", "v")
    assert add_reported(found.job("other"), {"V": "v"}).cache[0].fallback_keys == ()


def test_a_reported_value_is_expanded_as_gitlab_expands_it(tmp_path: Path) -> None:
    text = """
build: {stage: build, script: x, artifacts: {reports: {dotenv: a.env}}}
job: {script: x, variables: {OWN: "own $R", TEXT: a}, cache: {paths: [a], key: $R}}
"""
    own = 'TOKEN: {ref: "env://TOKEN"}'
    reported = {
        "R": "$OTHER-$CI_COMMIT_BRANCH-$TEXT-$NONE-$TOKEN-$$HOME-%x%",
        "OTHER": "${TEXT}o",
        "SELF": "$SELF:x",
        "AT": "$CI_JOB_URL",
    }
    made = add_reported(plan(tmp_path, text, own=own).job("job"), reported, {"CI_COMMIT_BRANCH": "main"})
    value = "ao-main-a--${TOKEN}-$HOME-%x%"
    assert {name: made.variables[name] for name in (*reported, "OWN")} == {
        "R": value, "OTHER": "ao", "SELF": "$SELF:x", "AT": "${CI_JOB_URL}", "OWN": f"own {value}",
    }  # fmt: skip
    assert made.cache[0].key == value


def test_a_path_below_the_runners_directory_of_the_project_is_a_path_of_the_project(tmp_path: Path) -> None:
    found = job(tmp_path, "job: {script: x, artifacts: {paths: [/builds/group/project/out/log, /builds/other/x, ./a]}}")
    assert found.artifacts is not None
    assert found.artifacts.paths == ("out/log", "a")


def test_a_job_for_another_system_is_left_out_unless_a_tag_is_a_pool(tmp_path: Path) -> None:
    text = "a: {script: x, tags: [saas-windows-medium-amd64]}\nb: {script: x, tags: [saas-macos-medium-m1, linux]}\nc: {script: x}"
    made = plan(tmp_path, text)
    assert [(one.id, one.reason) for one in made.left_out] == [
        ("a", "its tag saas-windows-medium-amd64 is of runners with Windows; jobs run on Linux here"),
        ("b", "its tag saas-macos-medium-m1 is of runners with macOS; jobs run on Linux here"),
    ]
    with pytest.raises(LoomError, match="tags: saas-macos-medium-m1 is of runners with macOS; jobs run on Linux here"):
        plan(tmp_path, text, jobs=("b",))
    config = Config(pools={"linux": Pool(name="linux", provider="docker")})
    loaded = dialects.load(tmp_path / ".gitlab-ci.yml", tmp_path, ResolveContext)
    found = resolve(loaded, JobSelection(), ResolveContext(config=config, predefined=PUSH))
    assert {one.id: bool(one.refused) for one in found.jobs} == {"b": False, "c": False}


def test_a_commit_without_a_description_has_an_empty_one() -> None:
    commit = HeadCommit(sha="a" * 40, message=Message(author="", timestamp="", text="title\n"))
    found = run_variables(run_id="", workflow_path="f", commit=commit, project_name="p", origin_url="https://h/p")
    assert (found["CI_COMMIT_DESCRIPTION"], "CI_COMMIT_TAG" in found) == ("", False)
    assert "CI_PROJECT_URL" in found
    assert "CI_PIPELINE_URL" not in found, "a plan has no page of its own on a server"


START = """
job:
  script: x
  image: base
  tags: [big, $CI_COMMIT_BRANCH]
  variables: {A: "$CI_JOB_ID $CI_BUILDS_DIR $CI_JOB_IMAGE $CI_JOB_TIMEOUT", B: "$CI_JOB_STARTED_AT $CI_JOB_IMAGE"}
  artifacts: {name: $CI_JOB_ID, paths: [a]}
  cache: {key: $CI_JOB_IMAGE, paths: [b]}
  rules: [{if: $CI_JOB_ID == null}]
"""


def test_variables_that_a_job_gets_when_it_starts_wait_for_it(tmp_path: Path) -> None:
    found = job(tmp_path, START)
    assert found.variables["A"] == "job / ${CI_JOB_IMAGE} ${CI_JOB_TIMEOUT}"
    assert (found.artifacts is not None and found.artifacts.name, found.variables["CI_JOB_TAGS"]) == (
        "job",
        '["big", "main"]',
    )
    assert [cache.key for cache in found.cache] == ["base"]
    environment = job_environment(
        found, {"CI_PROJECT_URL": "https://x/p"}, project_dir="/workspace", image_name="base:1"
    )
    assert (environment["A"], environment["B"]) == ("job / base:1 3600", "${CI_JOB_STARTED_AT} base:1")
    assert environment["CI_JOB_URL"] == "https://x/p/-/jobs/job"
    own = session_variables(found, environment, {}, {}, {}, attempt_variables(2, 1_700_000_000 * 10**9))
    assert own == {
        "B": "2023-11-14T22:13:20Z base:1",
        "CI_JOB_STARTED_AT": "2023-11-14T22:13:20Z",
        "CI_JOB_STARTED_AT_SLUG": "2023-11-14t22-13-20z",
        "CI_JOB_RETRY_COUNT": "1",
    }


@pytest.mark.parametrize(
    ("name", "group"),
    [("job", "job"), ("test 1/3", "test"), ("test: [a, b] 2 / 3", "test"), ("v1 2", "v1 2"), ("a:b: 1:2", "a:b")],
)
def test_the_group_of_a_job_has_no_numbers(tmp_path: Path, name: str, group: str) -> None:
    [found] = plan(tmp_path, f'"{name}": {{script: x}}').jobs
    assert found.variables["CI_JOB_GROUP_NAME"] == group


def notices(
    tmp_path: Path, text: str, *, given: dict[str, str] | None = None, own: str = "", **known: str
) -> list[str]:
    path, mine = tmp_path / ".gitlab-ci.yml", tmp_path / "variables.yml"
    path.write_text(text)
    mine.write_text(own)
    context = ResolveContext(
        predefined={**PUSH, **known}, given=given or {}, own_variables=lambda: variables.own(mine, "group/project")
    )
    loaded = dialects.load(path, tmp_path, lambda: context)
    assert isinstance(loaded, Pipeline)
    return [f"{one.line}:{one.column} {one.message}" for one in loaded.notices]


READS = """
workflow: {rules: [{if: $CI_COMMIT_BRANCH}]}
.t: {rules: [{if: '$CI_PROJECT_ID == "1" && $CI_PIPELINE_SCHEDULE_DESCRIPTION'}]}
a: {extends: .t, script: x}
b: {extends: .t, script: x}
c: {script: x, variables: {GITLAB_FEATURES: x}, only: {variables: ['$GITLAB_FEATURES =~ /x+/']}}
"""


def test_a_condition_on_what_only_the_server_knows_is_said_once(tmp_path: Path) -> None:
    [said] = notices(tmp_path, READS)
    assert said.startswith("3:19 this condition reads $CI_PROJECT_ID, which has no value here: a number that only the")
    assert len(notices(tmp_path, READS, CI_PIPELINE_SOURCE="schedule")) == 2
    (tmp_path / "x.yml").write_text("d: {script: x}")
    [said] = notices(tmp_path, "include: [{local: x.yml, rules: [{if: $GITLAB_FEATURES}]}]\na: {script: x}")
    assert said.startswith("1:39 this condition reads $GITLAB_FEATURES")
    assert notices(tmp_path, READS, given={"CI_PROJECT_ID": "2"}) == notices(tmp_path, READS, own="CI_PROJECT_ID: 2")
    assert notices(tmp_path, READS, given={"CI_PROJECT_ID": "2"}) == []


def test_variables_that_are_too_long_together_are_an_error_of_their_job(tmp_path: Path) -> None:
    longer = ", ".join(f"V{number}: '{f'$V{number - 1}' * 16}'" for number in range(1, 7))
    with pytest.raises(LoomError, match=r"\.gitlab-ci\.yml:1:1: \w+ /job: variables: the expanded value exceeds"):
        plan(tmp_path, f"job: {{script: x, variables: {{V0: 'x', {longer}}}}}")


def test_images_have_their_own_platform_or_the_configurations(tmp_path: Path) -> None:
    text = """\
plain: {script: x, image: debian, services: [redis]}
own:
  script: x
  image: {name: debian, docker: {platform: linux/riscv64}}
  services: [{name: redis, docker: {platform: linux/s390x}}]
bare: {script: x}
"""
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(text)
    context = ResolveContext(config=Config(platform="linux/arm64"), predefined=PUSH)
    found = resolve(dialects.load(path, tmp_path, lambda: context), JobSelection(container=True), context)
    images = {job.id: [job.image, *(service.image for service in job.services)] for job in found.jobs}
    assert {name: [one and one.platform for one in some] for name, some in images.items()} == {
        "plain": ["linux/arm64", "linux/arm64"],
        "own": ["linux/riscv64", "linux/s390x"],
        "bare": ["linux/arm64"],
    }


def test_hardened_jobs_may_ask_for_less(tmp_path: Path) -> None:
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text("job: {script: x, image: debian}")
    context = ResolveContext(config=Config(hardened=True), predefined=PUSH)
    (job,) = resolve(dialects.load(path, tmp_path, lambda: context), JobSelection(container=True), context).jobs
    assert (job.hardened, job.network.mode) == (True, "none")


@pytest.mark.parametrize("name", ["CI_JOB_IMAGE", "CI_JOB_TIMEOUT", "CI_JOB_STARTED_AT", "LOOM_JOB_IMAGE"])
def test_what_the_start_of_a_job_decides_is_not_expanded_before(tmp_path: Path, name: str) -> None:
    found = job(tmp_path, f"job: {{script: x, variables: {{A: 'at ${name}'}}}}").variables["A"]
    assert found == f"at ${{{name}}}"


@pytest.mark.parametrize(
    ("written", "entrypoint"),
    [("[sh, -c]", ("sh", "-c")), ('[""]', None), ("[]", None), ('["", sh]', ("sh",))],
)
def test_the_entrypoint_of_an_image(tmp_path: Path, written: str, entrypoint: tuple[str, ...] | None) -> None:
    found = job(tmp_path, f"job: {{script: x, image: {{name: debian, entrypoint: {written}}}}}").image
    assert found is not None
    assert found.entrypoint == entrypoint
