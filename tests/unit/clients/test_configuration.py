"""A configuration file is read in full or not at all, and replaced at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.clients import text
from bridge.clients.configuration import Entry, entries, existing, write
from bridge.clients.known import CLIENTS
from bridge.errors import UsageError

CLAUDE, CODEX = CLIENTS["claude"], CLIENTS["codex"]
ENTRY: dict[str, Any] = {"type": "stdio", "command": "/k/kernel-bridge", "args": ["serve"], "env": {}}


def test_a_new_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "new" / "c.json"
    write(CLAUDE, file, "kernel", ENTRY)
    assert json.loads(file.read_text()) == {"mcpServers": {"kernel": ENTRY}}
    assert file.stat().st_mode & 0o777 == 0o600


def test_mode_and_owner_stay_and_a_symlink_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("{}")
    real.chmod(0o640)
    os.chown(real, 12345, 12345)
    link.symlink_to(real.name)
    write(CLAUDE, link, "kernel", ENTRY)
    about = real.stat()
    assert link.is_symlink()
    assert (about.st_mode & 0o777, about.st_uid, about.st_gid) == (0o640, 12345, 12345)
    assert existing(CLAUDE, link, "kernel") == Entry("kernel", ENTRY)
    assert [each.name for each in tmp_path.iterdir() if each.name not in (real.name, link.name)] == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"mcpServers": {', "not valid JSON"),
        (b'{"mcpServers": []}', "not a table"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "not an object"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_written(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        write(CLAUDE, file, "kernel", ENTRY)
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_symlink_that_leads_nowhere_is_no_place_to_write(tmp_path: Path) -> None:
    link = tmp_path / "c.json"
    link.symlink_to("gone.json")
    with pytest.raises(UsageError, match="leads nowhere"):
        write(CLAUDE, link, "kernel", ENTRY)
    assert not (tmp_path / "gone.json").exists()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        write(CLAUDE, tmp_path / "file" / "c.json", "kernel", ENTRY)


def test_what_another_program_wrote_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the other program writes between our reading and our replacing, which no real one can be made to do on time
    file = tmp_path / "c.json"
    file.write_text("{}")
    put = text.put_json

    def slow(old: str, keys: Sequence[str], value: Any) -> str:
        file.write_text('{"theirs": 1}')
        return put(old, keys, value)

    monkeypatch.setattr(text, "put_json", slow)
    with pytest.raises(UsageError, match="changed by another program"):
        write(CLAUDE, file, "kernel", ENTRY)
    assert file.read_text() == '{"theirs": 1}'
    assert list(tmp_path.iterdir()) == [file]


def test_a_toml_entry_is_added_but_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('model = "m"\n')
    asked = {"command": "/k", "args": [], "env": {}}
    write(CODEX, file, "kernel", asked)
    assert entries(CODEX, file) == [Entry("kernel", asked)]
    with pytest.raises(UsageError, match=r"Remove \[mcp_servers.kernel\]"):
        write(CODEX, file, "kernel", {**asked, "command": "/other"})


def test_servers_of_single_projects_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    content = {"mcpServers": {"a": ENTRY}, "projects": {"/p": {"mcpServers": {"b": ENTRY}}, "/q": {}, "/r": None}}
    file.write_text(json.dumps(content))
    assert [(each.name, each.project) for each in entries(CLAUDE, file)] == [("a", None), ("b", "/p")]
    assert existing(CLAUDE, file, "b") is None


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ({"command": "/x/bin/kernel-bridge", "args": ["serve"]}, True),
        ({"command": "C:\\x\\kernel-bridge.exe"}, True),
        ({"command": "uvx", "args": ["kernel-bridge", "serve"]}, True),
        ({"command": "/py", "args": ["-m", "bridge", "serve"]}, True),
        ({"command": "npx", "args": ["other"]}, False),
        ({"command": "/x/kernel-bridge-other"}, False),
        ({"type": "http", "url": "https://example.org/kernel-bridge"}, False),
        ({"command": 1, "args": {"a": 1}}, False),
    ],
)
def test_a_bridge_is_recognised_however_it_is_started(value: dict[str, Any], *, ours: bool) -> None:
    assert Entry("x", value).is_ours is ours


def test_an_entry_with_settings_of_the_clients_own_is_the_same_one() -> None:
    assert Entry("x", {"command": "/k", "args": ["serve"], "timeout": 5}).starts(
        {"type": "stdio", "command": "/k", "args": ["serve"], "env": {}}
    )
    assert not Entry("x", {**ENTRY, "env": {"A": "1"}}).starts(ENTRY)
