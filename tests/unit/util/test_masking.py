import base64
import gc
import json
import re
import shlex
import subprocess
import threading
import time
from collections import deque
from functools import cache
from urllib.parse import quote, quote_plus
from weakref import WeakSet
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import SecretError
from loom.util import controls, masking
from loom.util.masking import Masker, known
from tests.support.effort import effort, fuzzed

PLAIN = "hunter2secret"
AWKWARD = """p@ss/w+rd "q" 'x' \\ $é☃𝄞&<>="""
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nab\nYWJjZGVmZ2hpamtsbW5vcA==\n-----END KEY-----\n"
TOKEN = "[REDACTED:SECRET_S]"


@cache
def forms_of(value: str) -> dict[str, str]:
    raw = value.encode()
    return {
        "value": value,
        "json": json.dumps(value),
        "json not ascii": json.dumps(value, ensure_ascii=False),
        "json in json": json.dumps(json.dumps(value)),
        "json in json in json": json.dumps(json.dumps(json.dumps(value))),
        "html-safe json": json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003E").replace("&", "\\u0026"),
        "json with escaped slashes": json.dumps(value).replace("/", "\\/"),
        "url": quote(value, safe=""),
        "url path": quote(value),
        "url lower": "".join(
            part.lower() if part.startswith("%") else part for part in _percents(quote(value, safe=""))
        ),
        "form": quote_plus(value),
        "python": repr(value),
        "python bytes": repr(raw),
        "shell": shlex.quote(value),
        "trace": _bash_trace(value),
        "printf %q": subprocess.run(
            ["bash", "-c", 'printf %q "$1"', "_", value], capture_output=True, text=True
        ).stdout,
        "xml": escape(value),
        "xml attribute": quoteattr(value),
        "base64": base64.b64encode(raw).decode(),
        "base64 with line end": base64.b64encode(raw + b"\n").decode(),
        "base64url": base64.urlsafe_b64encode(raw).decode(),
        "basic authentication": base64.b64encode(b"user:" + raw).decode(),
        "basic authentication, other": base64.b64encode(b"me:" + raw + b":more").decode(),
        "base64 in the middle": base64.b64encode(b"abc" + raw + b"defghijk").decode(),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "all percent": "".join(f"%{byte:02x}" for byte in raw),
        "percent twice": quote(quote(value, safe=""), safe=""),
        "all \\x": "".join(f"\\x{byte:02x}" for byte in raw),
        "all \\u": "".join(f"\\u{unit:04x}" for unit in memoryview(value.encode("utf-16-le")).cast("H")),
        "octal": "".join(f"\\{byte:03o}" for byte in raw),
        "all entities": "".join(f"&#{ord(character)};" for character in value),
        "all hexadecimal entities": "".join(f"&#x{ord(character):X};" for character in value),
        "xml in xml": escape(escape(value)),
        "colour in it": "\x1b[01;31m\x1b[K".join(value),
        "NUL in it": "\0".join(value),
        "C1 in it": "\x9b1m".join(value),
        "title in it": "\x1b]0;title\x07".join(value),
        "clipboard in it": "\x1b]52;c;aGk=\x1b\\".join(value),
        "bidi in it": "\u202e".join(value),
        "zero width in it": "\u200b".join(value),
    }


def _percents(text: str) -> list[str]:
    return re.split(r"(%[0-9A-F]{2})", text)


def _bash_trace(value: str) -> str:
    return subprocess.run(["sh", "-xc", 'true "$1"', "_", value], capture_output=True, text=True).stderr


@pytest.mark.parametrize("value", [PLAIN, AWKWARD, "a/b+", "wx\\\\\\\\yz\\1", "a\"\"b''c'd", "日本語の秘密"], ids=str)
@pytest.mark.parametrize("form", forms_of("x"))
def test_every_form_of_a_value_is_hidden(value: str, form: str) -> None:
    text = forms_of(value)[form]
    masked = Masker({"S": value}).mask(f"before {text} after")
    assert TOKEN in masked, masked
    assert value not in masked
    # At most quotes, separators and the base64 digits that the neighbours share may be left of the form.
    left = masked.replace(TOKEN, "").removeprefix("before ").removesuffix(" after").strip("\"'\\$b")
    assert left == "" or form.startswith(("base64", "basic", "trace")), masked
    if form.startswith(("base64", "basic")):
        assert len(left) <= 16, masked


@pytest.mark.parametrize("width", [64, 76])
def test_base64_broken_into_lines(width: int) -> None:
    secret = "".join(chr(33 + i * 7 % 90) for i in range(200))
    text = base64.b64encode(secret.encode()).decode()
    rows = [text[at : at + width] for at in range(0, len(text), width)]
    assert Masker({"S": secret}).mask("\n".join(rows)) == "\n".join([TOKEN] * len(rows))


def test_lines_of_a_value_of_several_lines() -> None:
    masked = Masker({"S": PEM}).mask(f"key:\n{PEM}done")
    assert masked == f"key:\n{TOKEN}\n{TOKEN}\nab\n{TOKEN}\n{TOKEN}\ndone"


@pytest.mark.parametrize("form", ["json", "json in json", "url", "python", "base64", "hex", "printf %q"])
def test_a_value_of_several_lines_on_one(form: str) -> None:
    masked = Masker({"S": PEM.strip()}).mask(forms_of(PEM.strip())[form])
    assert masked.replace(TOKEN, "").strip("$'\"\\") == ""
    assert masked.count(TOKEN) == 1


def test_windows_line_ends_in_the_value_or_in_the_text() -> None:
    assert Masker({"S": PEM.replace("\n", "\r\n")}).mask("YWJjZGVmZ2hpamtsbW5vcA==\n") == f"{TOKEN}\n"
    assert Masker({"S": PEM}).mask("YWJjZGVmZ2hpamtsbW5vcA==\r\n") == f"{TOKEN}\r\n"


def test_a_value_that_is_no_text() -> None:
    value = bytes(range(128, 140)) + b"\x00/\xff"
    masker = Masker({"S": value})
    assert masker.mask_bytes(b"x" + value + b"y") == f"x{TOKEN}y".encode()
    assert masker.mask(value.hex()) == TOKEN
    assert TOKEN in masker.mask(base64.b64encode(value).decode())


def test_overlapping_secrets_leave_nothing() -> None:
    assert Masker({"A": "abcdef", "B": "defghi"}).mask("xabcdefghix") == "x[REDACTED:SECRET_A]x"
    assert Masker({"A": "abcd", "B": "abcdefgh"}).mask("abcdefgh abcd") == "[REDACTED:SECRET_B] [REDACTED:SECRET_A]"
    assert Masker({"A": "aaaa"}).mask("baaaaaab") == "b[REDACTED:SECRET_A]b"
    assert Masker({"A": "abcdabcd"}).mask("abcdabcdabcd abcdabcdabcdabcd") == "[REDACTED:SECRET_A] [REDACTED:SECRET_A]"


def test_a_secret_that_is_a_word_of_the_label_does_not_break_labels() -> None:
    assert Masker({"A": "SECRET", "B": "REDACTED"}).mask("SECRET REDACTED") == "[REDACTED:SECRET_A] [REDACTED:SECRET_B]"


@pytest.mark.parametrize(
    "value", ["", "abc", " abc\n", "abc\nx\ny\n", "äöü", b"\xff\xfe\xfd", "\"\"\"'''", "\0a\\\\b'c\x1b"]
)
def test_a_short_value_is_refused_with_the_reason(value: str | bytes) -> None:
    with pytest.raises(SecretError, match="TOKEN: the value is shorter than 4 characters") as refused:
        Masker().add("TOKEN", value)
    assert refused.value.code == "SECRETS_VALUE_TOO_SHORT"


def test_an_endless_value_is_refused() -> None:
    with pytest.raises(SecretError, match="70000 bytes"):
        Masker({"S": "x" * 70000})


def test_nothing_to_hide_costs_nothing() -> None:
    masker = Masker()
    data = b"line\n" * 1000
    assert not masker.active
    assert masker.mask_bytes(data) is data
    assert masker.stream().feed(data) is data
    masker.add("S", PLAIN)
    assert masker.active
    assert masker.mask_bytes(data) is data
    assert masker.stream().feed(data) == data


@pytest.mark.slow
def test_secrets_can_be_added_while_others_mask() -> None:
    masker = Masker({"S0": "secret-number-0"})
    failed: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            if masker.mask("secret-number-0") != "[REDACTED:SECRET_S0]":
                failed.append("lost")

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for number in range(1, 40):
        masker.add(f"S{number}", f"secret-number-{number:02d}x")
        assert masker.mask(f"secret-number-{number:02d}x") == f"[REDACTED:SECRET_S{number}]"
    stop.set()
    for worker in workers:
        worker.join()
    assert failed == []


def streamed(masker: Masker, data: bytes, cuts: list[int]) -> bytes:
    stream = masker.stream()
    out, at = b"", 0
    for cut in sorted(cuts):
        out += stream.feed(data[at : max(at, cut)])
        at = max(at, cut)
    return out + stream.feed(data[at:]) + stream.flush()


SECRETS = {"P": PLAIN, "A": AWKWARD, "K": PEM, "B": "\\\\\"'xyz/", "O": "abcabcabc", "N": b"\xff\xfe/\x00\x01\\\xf0!"}
PIECES = [
    *(text for value in (PLAIN, AWKWARD, PEM, "\\\\\"'xyz/", "abcabcabc") for text in forms_of(value).values()),
    "abc", "\\", "\\\\\\", "%", "hunter2", "secret", "\n", "\r\n", "=", "&", "\\u00",
]  # fmt: skip


@fuzzed(150)
@given(
    pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=8),
    broken=st.integers(0, 60),
    data=st.data(),
)
@pytest.mark.slow
def test_however_a_stream_is_cut_the_outcome_is_that_of_the_whole(pieces: list[str], broken: int, data) -> None:
    text = "".join(pieces).encode("utf-8", "surrogatepass")[broken:]
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    masker = Masker(SECRETS)
    assert streamed(masker, text, cuts) == masker.mask_bytes(text)


@pytest.mark.slow
def test_byte_by_byte() -> None:
    masker = Masker(SECRETS)
    text = "".join(PIECES).encode()
    assert streamed(masker, text, list(range(len(text)))) == masker.mask_bytes(text)


def test_a_line_is_held_back_until_its_end() -> None:
    stream = Masker({"S": PLAIN}).stream()
    assert stream.feed(b"one\ntwo hunter2se") == b"one\n"
    assert stream.pending
    assert stream.feed(b"cret\nthree") == f"two {TOKEN}\n".encode()
    assert stream.flush() == b"three"
    assert not stream.pending


@pytest.mark.parametrize("chunk", [1000, 65536, 10**7])
@pytest.mark.slow
def test_an_endless_line_is_passed_on_in_parts(chunk: int) -> None:
    parts = effort(3_000, 20_000)
    masker = Masker({"S": PLAIN, "R": "abcdabcd"})
    text = b"".join(b"%d hunter2secret \x1b[1mhunter2\x1b[0msecret " % number for number in range(parts))
    text += b"abcd" * effort(25_000, 100_000)
    stream = masker.stream()
    passed = [stream.feed(text[at : at + chunk]) for at in range(0, len(text), chunk)]
    assert sum(map(len, passed)) > 40 * parts
    out = b"".join(passed) + stream.flush()
    assert out == b"".join(f"{n} {TOKEN} \x1b[1m{TOKEN} ".encode() for n in range(parts)) + b"[REDACTED:SECRET_R]"
    assert masker.mask_bytes(text) == out


def test_a_line_is_never_held_back() -> None:
    stream = Masker({"S": PEM}).stream()
    assert stream.feed(b"-----BEGIN KEY-----\n") == f"{TOKEN}\n".encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("\\" * 16 + "wxyz", "\\" * 500000),
        ("aaaaaaaaaaaaaaab", "a" * 200000),
        ("aaaa", "a" * 200000),
        ("a" * 30000 + "b", "a" * 200000),
        ('a"' * 2000, 'a"' * 50000),
        ("\"'\"'\"'\"'wxyz", "\"'" * 250000),
        ("%%%%%%%%%%", "%25" * 100000),
        ("wxyz", "\x1b]" * 100000),
        ("wxyz", "\u009d" * 100000),
        ("wxyz", "\x1b[" * 100000),
        ("wxyz", "&amp;" * 100000),
    ],
)
def test_hostile_text_takes_no_time(value: str, text: str) -> None:
    started = time.thread_time()
    Masker({"S": value}).mask(text)
    assert time.thread_time() - started < 5


def test_rows_of_long_values() -> None:
    secret = bytes(33 + i * 7 % 90 for i in range(200))
    masker = Masker({"S": secret})
    rows = [secret.hex()[at : at + 60] for at in range(0, 400, 60)]  # xxd -p
    assert masker.mask("\n".join(rows)) == "\n".join([TOKEN] * len(rows))
    assert masker.mask(secret.hex()) == TOKEN
    for before in (b"", b"a", b"ab", b"abc"):
        masked = masker.mask(base64.b64encode(before + secret + b"xyz").decode())
        assert masked.count(TOKEN) == 1
        assert len(masked) <= len(TOKEN) + 12


def test_what_stands_in_a_hyperlink_is_hidden_too() -> None:
    value = "p@ss/word x"
    text = f"\x1b]8;;https://host/{quote(value, safe='')}\x1b\\click\x1b]8;;\x1b\\"
    assert Masker({"S": value}).mask(text) == f"\x1b]8;;https://host/{TOKEN}\x1b\\click\x1b]8;;\x1b\\"


def test_colours_around_a_secret_stay() -> None:
    masker = Masker({"S": PLAIN})
    assert masker.mask("\x1b[31mkey: \x1b[1mhun\x1b[0mter2secret\x1b[0m!") == f"\x1b[31mkey: \x1b[1m{TOKEN}\x1b[0m!"


@fuzzed(300)
@given(
    values=st.lists(st.text("abc", min_size=4, max_size=7), min_size=1, max_size=4, unique=True),
    text=st.text("abc \n", max_size=200),
    data=st.data(),
)
@pytest.mark.slow
def test_a_model_that_looks_everywhere_hides_the_same(values: list[str], text: str, data) -> None:
    hidden = [False] * len(text)
    for value in values:
        for at in range(len(text)):
            if text.startswith(value, at):
                hidden[at : at + len(value)] = [True] * len(value)
    masker = Masker({str(number): value for number, value in enumerate(values)})
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5))
    masked = streamed(masker, text.encode(), cuts).decode()
    assert re.sub(r"\[REDACTED:SECRET_\d\]", "", masked) == "".join(
        character for character, gone in zip(text, hidden, strict=True) if not gone
    )
    assert masker.mask(text) == masked


@pytest.mark.slow
@fuzzed(100)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_without_a_secret_stay_as_they_are(data: bytes, cuts: list[int]) -> None:
    masker = Masker({"S": "no-such-thing-in-there"})
    assert masker.mask_bytes(data) is data
    assert streamed(masker, data, [min(cut, len(data)) for cut in cuts]) == data


@pytest.mark.slow
def test_a_process_goes_on_without_the_secrets_of_runs_that_are_long_over(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Masker()
    monkeypatch.setattr(masking, "_known", WeakSet([own]))
    monkeypatch.setattr(masking, "_latest", deque(maxlen=1))
    monkeypatch.setattr(controls, "hide", controls.hide)
    known(Masker({"A": "a-long-secret"}))
    assert own.mask("a-long-secret") == "[REDACTED:SECRET_A]"
    known(Masker())
    gc.collect()
    known(Masker())
    assert own.mask("a-long-secret") == "a-long-secret"
    assert not own.active
