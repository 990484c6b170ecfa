import json

import pytest

from loom.render.output import json_text, print_json, table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([["KEY", "SIZE", "USED"], ["a-long-key", "1 B", "now"], ["b", "120 MB", ""]]) == [
        "KEY         SIZE    USED",
        "a-long-key  1 B     now",
        "b           120 MB",
    ]


def test_a_document_keeps_its_text_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "Grüße", "bad": "\x1b[31m\x9b\u202e\udcff"}
    text = json_text(document)
    # As in records: U+FFFD stands for bytes that are not UTF-8.
    assert json.loads(text) == {**document, "bad": "\x1b[31m\x9b\u202e\ufffd"}
    assert "Grüße" in text
    assert not {"\x1b", "\x9b", "\u202e", "\udcff"} & set(text)
    print_json(document)
    assert capsys.readouterr().out == text
