"""What is pasted for a client that reaches a server over HTTP: its own form, and never the token itself."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from bridge.clients.known import CLIENTS
from bridge.clients.over_http import checked_url, paste
from bridge.errors import UsageError

URL = "http://127.0.0.1:8765/mcp"


def test_for_claude_code_the_shell_puts_the_token_in(tmp_path: Path) -> None:
    file = tmp_path / 'it\'s a $(file) "here"'
    file.write_text("s3cret-token\n")
    line, _ = paste(CLIENTS["claude"], "kernel", URL, file)
    assert line.startswith("claude mcp add --transport http kernel ")
    assert "s3cret" not in line
    # what a shell makes of it, with another program in the place of `claude`
    words = subprocess.run(
        ["/bin/sh", "-c", 'claude() { for each in "$@"; do printf \'%s\\n\' "$each"; done; }\n' + line],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.splitlines()
    assert words == [
        "mcp",
        "add",
        "--transport",
        "http",
        "kernel",
        URL,
        "--header",
        "Authorization: Bearer s3cret-token",
    ]


@pytest.mark.parametrize(
    ("client", "entry"),
    [
        ("cursor", {"url": URL, "headers": {"Authorization": "Bearer ${env:KERNEL_BRIDGE_TOKEN}"}}),
        ("gemini", {"httpUrl": URL, "headers": {"Authorization": "Bearer $KERNEL_BRIDGE_TOKEN"}}),
    ],
)
def test_for_a_client_with_a_json_file_the_variable_is_named(client: str, entry: object) -> None:
    text, told = paste(CLIENTS[client], "kernel", URL, Path("/s/my token"))
    assert json.loads(text) == {"mcpServers": {"kernel": entry}}
    assert "export KERNEL_BRIDGE_TOKEN=\"$(cat '/s/my token')\"" in told


def test_for_codex_it_is_toml() -> None:
    text, _ = paste(CLIENTS["codex"], "kernel", URL, Path("/s/token"))
    assert tomllib.loads(text) == {
        "mcp_servers": {"kernel": {"url": URL, "bearer_token_env_var": "KERNEL_BRIDGE_TOKEN"}}
    }


def test_vs_code_asks_for_the_token_itself() -> None:
    text, told = paste(CLIENTS["vscode"], "kernel", URL, Path("/s/token"))
    found = json.loads(text)
    [asked] = found["inputs"]
    assert (asked["type"], asked["password"]) == ("promptString", True)
    assert found["servers"]["kernel"] == {
        "type": "http",
        "url": URL,
        "headers": {"Authorization": f"Bearer ${{input:{asked['id']}}}"},
    }
    assert "/s/token" in told


def test_claude_desktop_has_no_way_and_is_told_another() -> None:
    with pytest.raises(UsageError, match="client add claude-desktop"):
        paste(CLIENTS["claude-desktop"], "kernel", URL, Path("/s/token"))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8765", "file:///x", "http://", "http://h:99999/", "http://a b/", "ftp://h/"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a server"):
        checked_url(url)


@pytest.mark.parametrize("url", ["http://me:secret@h/mcp", "http://h/mcp?token=secret", "https://h/mcp#secret"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError, match="sent as a header") as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)


def test_any_servers_address_is_taken() -> None:
    for url in (URL, "https://kernel.example/mcp", "http://[::1]:8765/mcp", "http://localhost:1/mcp"):
        assert checked_url(url) == url


@pytest.mark.parametrize("host", ["kernel.example", "192.168.0.2:8765", "0.0.0.0:8765", "localhost.example"])
def test_an_address_where_others_can_read_the_token_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="give an https address"):
        checked_url(f"http://{host}/mcp")
