import pytest

from loom.util import jsons


def test_lines_and_files() -> None:
    document = {"b": [1, 2.5, None], "a": "Grüße\n"}
    assert jsons.encode_line(document) == '{"b":[1,2.5,null],"a":"Grüße\\n"}\n'.encode()
    assert jsons.encode_file({"b": 1, "a": []}) == b'{\n  "b": 1,\n  "a": []\n}\n'
    assert jsons.encode_file({"b": 1, "a": 2}, sort=True) == b'{\n  "a": 2,\n  "b": 1\n}\n'
    assert jsons.decode(jsons.encode_file(document)) == document


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b"[1e999]", b"[" * 100_000, '"\udcff"'])
def test_what_is_no_json_is_a_value_error(data: bytes | str) -> None:
    with pytest.raises(ValueError):
        jsons.decode(data)
