"""`loom attest`, from the run to the check: with the notes of somebody else on the server."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.docker.run.conftest import IMAGE, Project
from tests.support.ci_server import Reply, serving

pytestmark = pytest.mark.docker


def test_a_run_counts_for_the_commit_that_has_its_tree(project: Project, tmp_path: Path) -> None:
    def git(*words: str, at: Path = project.root) -> str:
        who = ("-c", "user.name=o", "-c", "user.email=o@example.org")
        return subprocess.run(
            ("git", *who, *words), cwd=at, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    key, signers, remote, other = (tmp_path / name for name in ("id", "signers", "remote.git", "other"))
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), check=True)
    signers.write_text(f"dev@example.org {key.with_name('id.pub').read_text()}")
    git("config", "gpg.format", "ssh")
    git("config", "user.signingkey", f"{key}.pub")
    git("config", "user.email", "dev@example.org")
    git("config", "gpg.ssh.program", "/bin/false")  # not the user's own word
    git("init", "-q", "--bare", str(remote))
    git("remote", "add", "origin", f"file://{remote}")

    (project.root / ".gitlab-ci.yml").write_text(
        f"default: {{image: {IMAGE}}}\nunit: {{script: [cat word]}}\nlint: {{script: ls}}\n"
    )
    (project.root / "word").write_text("one\n")
    accept = {"LOOM_GATE_ACCEPT": "other-commit,image-by-tag"}
    assert project.loom("run", "unit").code == 0
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    git("push", "-q", "origin", "HEAD:main")
    partial = project.loom("attest", **accept)
    assert project.loom("run").code == 0
    by_tag = project.loom("attest")
    assert (partial.code, "lint has to run" in partial.err) == (2, True), partial.err
    assert (by_tag.code, "image-by-tag" in by_tag.err) == (2, True), by_tag.err

    assert project.loom("attest", **accept).code == 0
    git("clone", "-q", "-b", "main", str(remote), str(other))
    git("notes", "--ref=loom", "add", "-m", "theirs", "HEAD", at=other)
    git("push", "-q", "origin", "refs/notes/loom", at=other)
    pushed = project.loom("attest", "--push", **accept)
    assert pushed.code == 0, pushed.err
    git("fetch", "-q", "origin", "+refs/notes/loom:refs/notes/loom", at=other)
    note = git("notes", "--ref=loom", "show", "HEAD", at=other).splitlines()
    assert sorted(line[:6] for line in note) == ["theirs", '{"payl']
    assert project.loom("attest", **accept).code == 0
    assert "theirs" in git("notes", "--ref=loom", "show", "HEAD").splitlines()

    unlike = project.loom("attest", "verify", "--signers", str(signers))
    assert (unlike.code, "unlike CI: image-by-tag" in unlike.out) == (1, True)
    verify = ("attest", "verify", "--signers", str(signers), "--allow-unlike", "--json")
    git("branch", "other")
    git("checkout", "-q", "other")
    of_other = [project.loom(*verify, name).code for name in ("HEAD", "main", "origin/main", git("rev-parse", "HEAD"))]
    assert of_other == [1, 0, 0, 0], "a branch may have other jobs"
    git("tag", "other")
    assert "is a branch, and a tag" in project.loom(*verify, "other").err
    git("tag", "-d", "other")
    git("checkout", "-q", "main")
    found = json.loads(project.loom(*verify).out)
    assert found["passed"] == {"unit": ["dev@example.org"], "lint": ["dev@example.org"]}
    assert json.loads(project.loom(*verify, "--job", "deploy").out)["missing"] == ["deploy"]

    (project.root / "word").write_text("two\n")
    assert project.loom("run").code == 0
    git("commit", "-q", "-a", "-m", "two")
    git("commit", "-q", "--allow-empty", "-m", "same tree")
    assert project.loom("attest", "HEAD~1", **accept).code == 0
    (project.root / "word").write_text("three\n")
    git("commit", "-q", "-a", "-m", "three")
    assert project.loom("attest", **accept).code == 2

    with serving() as stub:
        at, sha = "/api/v4/projects/group%2Fproject", git("rev-parse", "HEAD")
        git("remote", "set-url", "origin", f"{stub.url}/group/project.git")
        token = {**accept, "GITLAB_HOST": stub.url, "GITLAB_TOKEN": "glpat-of-the-user"}
        assert project.loom("signoff", **token).code == 2
        assert project.loom("gate", **accept).code == 0
        early = project.loom("signoff", **token)
        assert (early.code, "push it first" in early.err) == (2, True), early.err
        stub.routes |= {
            f"{at}/repository/commits/{sha}": Reply({"id": sha}),
            f"{at}/statuses/{sha}": Reply({"id": 1}, 201),
        }
        signed_off = project.loom("signoff", "--each", **token)
        assert signed_off.code == 0, signed_off.err
        assert [(path, one["name"], one["state"]) for path, one in stub.posted] == [
            (f"{at}/statuses/{sha}", f"loom/{job}", "success") for job in ("unit", "lint")
        ]
