"""Real stores: files, a .kdbx database, a keyring backend that writes a file. The one stand-in is named as such: `op`."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keyring
import pytest

from loom.config import Config, KeepassDatabase, load
from loom.errors import SecretError
from loom.plan.model import Secret
from loom.secrets import lookup

VALUE = "correct-horse-battery"


def read(ref: str, tmp_path: Path, environ: Mapping[str, str] | None = None, config: Config | None = None) -> bytes:
    found = lookup.resolve(
        [Secret(name="TOKEN", ref=ref)],
        environ={"HOME": str(tmp_path / "home"), **(environ or {})},
        root=tmp_path,
        config=config or Config(),
    )
    return found.values["TOKEN"]


def refusal(ref: str, tmp_path: Path, **more: Any) -> SecretError:
    with pytest.raises(SecretError) as refused:
        read(ref, tmp_path, **more)
    return refused.value


# env://


def test_environment(tmp_path: Path) -> None:
    assert read("env://MY_TOKEN", tmp_path, {"MY_TOKEN": VALUE}) == VALUE.encode()
    assert read("env://MY_TOKEN", tmp_path, {"MY_TOKEN": os.fsdecode(b"\xff\xfe1234")}) == b"\xff\xfe1234"


@pytest.mark.parametrize("environ", [{}, {"MY_TOKEN": ""}])
def test_environment_without_it(tmp_path: Path, environ: dict[str, str]) -> None:
    error = refusal("env://MY_TOKEN", tmp_path, environ=environ)
    assert error.code == "SECRETS_REQUIRED_MISSING"
    assert "secret TOKEN: the variable MY_TOKEN is" in error.message
    assert error.message.endswith("(SECRETS_REQUIRED_MISSING)")
    assert error.hint is not None
    assert "required: false" in error.hint


# file://


def test_files(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "key.pem").write_bytes(b"line one\nline two\n")
    (tmp_path / "home" / "token").write_text(VALUE)
    assert read("file://key.pem", tmp_path) == b"line one\nline two\n"
    assert read(f"file://{tmp_path}/key.pem", tmp_path) == b"line one\nline two\n"
    assert read("file://~/token", tmp_path) == VALUE.encode()


def test_files_that_can_not_be_had(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    for name, said in {"gone": "no file", "empty": "is empty", "folder": "not a file", "pipe": "not a file"}.items():
        error = refusal(f"file://{name}", tmp_path)
        assert error.code == "SECRETS_REQUIRED_MISSING"
        assert said in error.message
        assert str(tmp_path / name) in error.message
    error = refusal("file://large", tmp_path)
    assert error.code == "SECRETS_PROVIDER_UNAVAILABLE"
    assert "100000 bytes" in error.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked").touch(mode=0)
    assert refusal("file://locked", tmp_path).code == "SECRETS_PROVIDER_UNAVAILABLE"


# keyring://


@pytest.fixture
def file_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from keyrings.alt.file import PlaintextKeyring

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    before = keyring.get_keyring()
    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "keyring.cfg")  # type: ignore[misc]
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_keyring(tmp_path: Path, file_keyring: Any) -> None:
    keyring.set_password("my-service", "me", VALUE)
    keyring.set_password("https://host/path", "me@home", VALUE + "2")
    assert read("keyring://my-service/me", tmp_path) == VALUE.encode()
    assert read("keyring://https://host/path/me@home", tmp_path) == (VALUE + "2").encode()
    assert read("keyring://https%3A%2F%2Fhost%2Fpath/me%40home", tmp_path) == (VALUE + "2").encode()
    error = refusal("keyring://my-service/you", tmp_path)
    assert error.code == "SECRETS_REQUIRED_MISSING"
    assert "`keyring set my-service you`" in (error.hint or "")


def test_no_keyring_on_this_machine(tmp_path: Path) -> None:
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())
    try:
        assert refusal("keyring://a/b", tmp_path).code == "SECRETS_PROVIDER_UNAVAILABLE"
    finally:
        keyring.set_keyring(before)


# keepass://


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pykeepass import create_database

    folder = tmp_path_factory.mktemp("vault")
    (folder / "vault.key").write_bytes(os.urandom(64))
    database = create_database(str(folder / "vault.kdbx"), password="master-password")
    derivation = database.kdbx.header.value.dynamic_header.kdf_parameters.data.dict
    derivation["I"].value, derivation["M"].value = 1, 64 * 1024  # else each opening takes a second, on purpose
    group = database.add_group(database.add_group(database.root_group, "CI"), "a/b")
    entry = database.add_entry(group, "deploy: prod", "deployer", VALUE, url="https://x", notes="one\ntwo")
    entry.set_custom_property("api key", "custom-value")
    database.add_entry(database.root_group, "top", "", "top-level-value")
    database.save()
    database.keyfile = str(folder / "vault.key")
    database.save(str(folder / "keyed.kdbx"))
    return folder


def with_vault(path: Path, password: str | None = "env://MASTER", key_file: Path | None = None) -> Config:
    return Config(keepass={"team": KeepassDatabase(path=path, password=password, key_file=key_file)})


MASTER = {"MASTER": "master-password"}


@pytest.mark.slow
def test_keepass(tmp_path: Path, vault: Path) -> None:
    """One database, opened once: deriving its key takes a while on purpose."""
    places = {
        "A": ("top", b"top-level-value"),
        "B": ("CI/a%2Fb/deploy%3A prod", VALUE.encode()),
        "C": ("CI/a%2Fb/deploy%3A prod:password", VALUE.encode()),
        "D": ("CI/a%2Fb/deploy%3A prod:UserName", b"deployer"),
        "E": ("CI/a%2Fb/deploy%3A prod:notes", b"one\ntwo"),
        "F": ("CI/a%2Fb/deploy%3A prod:api key", b"custom-value"),
    }
    found = lookup.resolve(
        [
            *(Secret(name=name, ref=f"keepass://team#{place}") for name, (place, _) in places.items()),
            Secret(name="Y", ref="keepass://team#nope", required=False),
            Secret(name="Z", ref="keepass://team#top:pin", required=False),
        ],
        environ=MASTER,
        root=tmp_path,
        config=with_vault(vault / "vault.kdbx"),
    )
    assert found.values == {name: value for name, (_, value) in places.items()}
    assert {why.code for why in found.missing.values()} == {"SECRETS_REF_NOT_FOUND"}
    assert [why.message for why in found.missing.values()] == [
        "the database 'team' has no entry nope",
        "the entry top has no field 'pin', or it is empty",
    ]


@pytest.mark.slow
def test_keepass_with_a_key_file_and_its_password_in_another_store(tmp_path: Path, vault: Path) -> None:
    (tmp_path / "master").write_text("master-password\n")
    config = with_vault(vault / "keyed.kdbx", "file://master", vault / "vault.key")
    assert read("keepass://team#top", tmp_path, config=config) == b"top-level-value"


@pytest.mark.slow
def test_keepass_from_the_configuration_file(tmp_path: Path, vault: Path) -> None:
    (tmp_path / ".config/loom").mkdir(parents=True)
    (tmp_path / ".config/loom/config.yml").write_text(
        f"keepass:\n  team:\n    path: {vault}/vault.kdbx\n    password: env://MASTER\n"
    )
    config = load(root=None, environ={"HOME": str(tmp_path)}, flags={})
    assert read("keepass://team#top", tmp_path, MASTER, config) == b"top-level-value"


@pytest.mark.slow
def test_keepass_that_can_not_be_had(tmp_path: Path, vault: Path) -> None:
    (tmp_path / "junk.kdbx").write_bytes(b"not a database at all" * 20)
    damaged = bytearray((vault / "vault.kdbx").read_bytes())
    damaged[-200] ^= 0xFF
    (tmp_path / "damaged.kdbx").write_bytes(damaged)
    good = vault / "vault.kdbx"
    cases = [
        ("other#top", MASTER, with_vault(good), "no KeePass database has the alias 'other' (configured: team)"),
        ("team#top", MASTER, with_vault(tmp_path / "gone"), "No such file"),
        ("team#top", {"MASTER": "wrong"}, with_vault(good), "the password or the key file is wrong"),
        ("team#top", {}, with_vault(good, None), "the configuration has no password"),
        ("team#top", {}, with_vault(good, "keepass://team#top"), "its password from a KeePass database"),
        ("team#top", MASTER, with_vault(tmp_path / "junk.kdbx"), "junk.kdbx"),
        ("team#top", MASTER, with_vault(tmp_path / "damaged.kdbx"), "damaged.kdbx"),
    ]
    for place, environ, config, said in cases:
        error = refusal(f"keepass://{place}", tmp_path, environ=environ, config=config)
        assert error.code == "SECRETS_PROVIDER_UNAVAILABLE", said
        assert said in error.message
        assert "master-password" not in str(error)


# op://: an executable of that name stands in for 1Password's, and behaves as its documentation says.

OP = """#!/bin/sh
[ "$1 $2" = "read --no-newline" ] || { echo "[ERROR] 2026/01/01 00:00:00 unknown flag" >&2; exit 1; }
[ -n "$OP_SESSION" ] || { echo "[ERROR] 2026/01/01 00:00:00 You are not currently signed in." >&2; exit 1; }
case $3 in
op://vault/item/password) printf %s correct-horse-battery ;;
op://vault/item/section/field) printf 'two\\nlines' ;;
*) echo "[ERROR] 2026/01/01 00:00:00 could not read secret '$3': \\"nope\\" isn't an item in the \\"vault\\" vault." >&2; exit 1 ;;
esac
"""


@pytest.fixture
def op(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "op").write_text(OP)
    (folder / "op").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "OP_SESSION": "yes"}


def test_onepassword_by_its_command(tmp_path: Path, op: dict[str, str]) -> None:
    assert read("op://vault/item/password", tmp_path, op) == VALUE.encode()
    assert read("op://vault/item/section/field", tmp_path, op) == b"two\nlines"


def test_onepassword_that_can_not_be_had(tmp_path: Path, op: dict[str, str]) -> None:
    error = refusal("op://vault/nope/password", tmp_path, environ=op)
    assert error.code == "SECRETS_REQUIRED_MISSING"
    assert """"nope" isn't an item""" in error.message
    error = refusal("op://vault/item/password", tmp_path, environ={"PATH": op["PATH"]})
    assert error.code == "SECRETS_PROVIDER_UNAVAILABLE"
    assert "You are not currently signed in." in error.message
    error = refusal("op://vault/item/password", tmp_path, environ={"PATH": "/nowhere"})
    assert error.code == "SECRETS_PROVIDER_UNAVAILABLE"
    assert "the `op` command is not installed" in error.message


# references


@pytest.mark.parametrize(
    "ref",
    [
        "hunter2-the-value",
        "",
        "://x",
        "env://",
        "env://A-B",
        "env://A B",
        "file://",
        "file://folder/",
        "file://~other/x",
        "keyring://service",
        "keyring:///user",
        "keepass://alias",
        "keepass://#entry",
        "keepass://alias#entry:",
        "op://vault/item",
        "op://vault//field",
        "op://a/b/c/d/e",
    ],
)
def test_a_malformed_reference_is_refused_also_where_not_required_and_never_repeated(tmp_path: Path, ref: str) -> None:
    assert lookup.check_reference(ref) is not None
    with pytest.raises(
        SecretError, match=r"secret TOKEN: its reference is malformed: (expected|only your own)"
    ) as refused:
        lookup.resolve([Secret(name="TOKEN", ref=ref, required=False)], environ={}, root=tmp_path, config=Config())
    assert refused.value.code == "SECRETS_REF_INVALID"
    assert "hunter2" not in str(refused.value)


def test_an_unknown_scheme(tmp_path: Path) -> None:
    error = refusal("vault://a", tmp_path)
    assert error.code == "SECRETS_PROVIDER_UNAVAILABLE"
    assert "no provider for vault:// is installed (installed: env, file, keepass, keyring, op)" in error.message
    assert lookup.check_reference("env://A") is None


def test_what_is_not_required_may_be_missing(tmp_path: Path) -> None:
    refs = [
        Secret(name="A", ref="env://A", required=False),
        Secret(name="B", ref="env://B"),
        Secret(name="C", ref="op://a/b/c", required=False),
    ]
    found = lookup.resolve(refs, environ={"B": VALUE}, root=tmp_path, config=Config())
    assert found.values == {"B": VALUE.encode()}
    assert [(name, why.code) for name, why in found.missing.items()] == [
        ("A", "SECRETS_REF_NOT_FOUND"),
        ("C", "SECRETS_PROVIDER_UNAVAILABLE"),
    ]
    assert VALUE not in repr(found)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    refs = [Secret(name="A", ref="env://A"), Secret(name="B", ref="file://gone"), Secret(name="C", ref="x://y")]
    with pytest.raises(SecretError) as refused:
        lookup.resolve(refs, environ={}, root=tmp_path, config=Config())
    assert [line.split(":")[0] for line in refused.value.message.splitlines()] == ["secret A", "secret B", "secret C"]


def test_no_value_in_log_records(tmp_path: Path, vault: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        read("keepass://team#CI/a%2Fb/deploy%3A prod", tmp_path, MASTER, with_vault(vault / "vault.kdbx"))
    assert VALUE not in caplog.text
    assert "master-password" not in caplog.text


# others' providers


@pytest.mark.slow
def test_a_provider_added_by_an_installed_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    meta = site / "acme_vault-1.0.dist-info"
    meta.mkdir(parents=True)
    (site / "acme_vault.py").write_text(
        "class Vault:\n"
        "    def check(self, reference): return None if reference else 'expected acme://name'\n"
        "    def read(self, reference, around): return (reference + around.environ['X']).encode()\n"
    )
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-vault\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[loom.secret_providers]\nacme = acme_vault:Vault\nbroken = acme_vault:Gone\n"
    )
    program = (
        "from loom.secrets import lookup; from loom.config import Config; from loom.plan.model import Secret; from pathlib import Path\n"
        "def get(ref): return lookup.resolve([Secret(name='T', ref=ref)], environ={'X': '-value'}, root=Path('/'),"
        " config=Config())\n"
        "print(get('acme://name').values)\n"
        "try: get('broken://x')\n"
        "except Exception as error: print(error.code, error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join([str(site), *(p for p in sys.path if p)])},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == "{'T': b'name-value'}"
    assert second.startswith("SECRETS_PROVIDER_UNAVAILABLE secret T: the provider for broken://")


def test_a_keyring_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlocked = threading.Event()
    monkeypatch.setattr("loom.secrets.stores._KEYRING_S", 0.1)
    monkeypatch.setattr(keyring, "get_password", lambda *_: unlocked.wait(60))
    try:
        assert "the keyring did not answer within" in str(refusal("keyring://service/user", tmp_path))
    finally:
        unlocked.set()
