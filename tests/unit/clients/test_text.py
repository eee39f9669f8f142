"""A value put into somebody else's JSON or TOML: every other byte stays."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from bridge.clients.text import add_toml, put_json, read_json, toml

ENTRY: dict[str, Any] = {"command": "/opt/k b", "args": ["serve"], "env": {"A": "1"}}
KEYS = ("mcpServers", "kernel")

TEXTS = {
    "two spaces": '{\n  "a": 1,\n  "mcpServers": {\n    "x": {"command": "y"}\n  },\n  "z": [1, 2]\n}\n',
    "four spaces": '{\n    "mcpServers": {\n        "x": {\n            "command": "y"\n        }\n    }\n}',
    "tabs": '{\n\t"mcpServers": {\n\t\t"x": {}\n\t}\n}\n',
    "one line": '{"a": 1.10, "mcpServers": {"x": {}}}',
    "no servers": '{\n  "numStartups": 12345678901234567890.5,\n  "t": "\\ud83d\\u00e9 é"\n}\n',
    "an empty table": '{\n  "mcpServers": {},\n  "b": null\n}\n',
    "an empty table over two lines": '{\n  "mcpServers": {\n  }\n}\n',
    "windows lines": '{\r\n  "a": 1,\r\n  "mcpServers": {\r\n    "x": {}\r\n  }\r\n}\r\n',
    "a byte order mark": '\ufeff{\n  "a": 1\n}\n',
    "braces in strings": '{"a": "}{\\"mcpServers\\": {", "mcpServers": {"x}": {"y": "{"}}}',
    "members of one name": '{"mcpServers": {"old": 1}, "mcpServers": {"x": 1}}',
    "an object without members": "{}",
    "nothing": "",
    "only a line break": "\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_entry_is_added_and_every_other_byte_stays(text: str) -> None:
    made = put_json(text, KEYS, ENTRY)
    before, after = read_json(text), read_json(made)
    assert after == {**before, "mcpServers": {**before.get("mcpServers", {}), "kernel": ENTRY}}
    assert list(after) == list(before) if "mcpServers" in before else list(after) == [*before, "mcpServers"]
    _is_inserted(text, made)


def _is_inserted(text: str, made: str) -> None:
    """See that what was there is there in two pieces, around what is new; an empty object's own blanks may go."""
    start = next((i for i, (a, b) in enumerate(zip(text, made, strict=False)) if a != b), len(text))
    kept = len(text) - start
    rest = text[start:].lstrip() if "{}" in text or "{\n  }" in text else text[start:]
    assert made.endswith(rest), (text, made)
    assert kept >= len(rest)


def test_it_is_laid_out_like_its_neighbours() -> None:
    assert put_json(TEXTS["four spaces"], KEYS, {"command": "k"}) == (
        '{\n    "mcpServers": {\n        "x": {\n            "command": "y"\n        },\n'
        '        "kernel": {\n            "command": "k"\n        }\n    }\n}'
    )
    assert put_json(TEXTS["tabs"], KEYS, {"command": "k"}) == (
        '{\n\t"mcpServers": {\n\t\t"x": {},\n\t\t"kernel": {\n\t\t\t"command": "k"\n\t\t}\n\t}\n}\n'
    )
    assert put_json(TEXTS["an empty table"], KEYS, {"command": "k"}) == (
        '{\n  "mcpServers": {\n    "kernel": {\n      "command": "k"\n    }\n  },\n  "b": null\n}\n'
    )
    assert put_json('{"a": 1}', KEYS, {"command": "k"}) == '{"a": 1, "mcpServers": {"kernel": {"command": "k"}}}'
    windows = put_json(TEXTS["windows lines"], KEYS, ENTRY)
    assert windows.count("\n") == windows.count("\r\n")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_entry_that_is_replaced_stays_where_it_was(text: str) -> None:
    first = put_json(text, KEYS, {"command": "old", "args": [1, {"b": 2}]})
    assert put_json(first, KEYS, ENTRY) == put_json(text, KEYS, ENTRY)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('{"a": 1,}', "line 1, column"),
        ('{\n  // a comment\n  "a": 1\n}', "line 2, column 3"),
        ('{"a": 1', "not valid JSON"),
        ("[]", "not an object"),
        ("[" * 100_000, "nested"),
    ],
)
def test_what_is_not_a_json_object_is_told_with_its_place(text: str, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        read_json(text)


ODD = [
    '/a b/"q"/c',
    "C:\\new\\table",
    "/é/日本/🙂",
    "tab\there",
    "line\nbreak",
    "del\x7f",
    "'single'",
    "#hash = [x]",
    "",
]


@pytest.mark.parametrize("odd", ODD)
def test_toml_of_odd_paths_reads_back_as_it_was(odd: str) -> None:
    entry = {"command": odd, "args": ["serve", "--policy", odd], "env": {"XDG_CONFIG_HOME": odd}}
    assert tomllib.loads(toml("mcp_servers", "kernel", entry)) == {"mcp_servers": {"kernel": entry}}
    assert json.loads(put_json("", KEYS, entry)) == {"mcpServers": {"kernel": entry}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        'model = "x"\n',
        'model = "x"',
        '# mine\n[mcp_servers.other]\ncommand = "y"\n\n[mcp_servers.other.env]\nB = "2"\n',
        "[mcp_servers]\n",
        'a = 1\r\n[b]\r\nc = "d"\r\n',
    ],
)
def test_a_toml_table_is_added_at_the_end(text: str) -> None:
    made = add_toml(text, "mcp_servers", "kernel", ENTRY)
    before = tomllib.loads(text)
    servers = {**before.get("mcp_servers", {}), "kernel": ENTRY}
    assert tomllib.loads(made) == {**before, "mcp_servers": servers}
    assert made.startswith(text)


def test_toml_to_which_nothing_can_be_added_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing can be added"):
        add_toml('mcp_servers = {other = {command = "y"}}\n', "mcp_servers", "kernel", ENTRY)
