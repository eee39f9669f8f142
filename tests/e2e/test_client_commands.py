"""`kernel-bridge client`: what it prints starts a real server, and what it adds leaves the rest alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

SOON = 60.0
PROGRAM = str(Path(sys.executable).with_name("kernel-bridge"))
# Where each keeps its configuration below HOME, and the path of its servers in it.
PLACES = {
    "claude": (".claude.json", "mcpServers"),
    "claude-desktop": (".config/Claude/claude_desktop_config.json", "mcpServers"),
    "cursor": (".cursor/mcp.json", "mcpServers"),
    "vscode": (".config/Code/User/mcp.json", "servers"),
    "codex": (".codex/config.toml", "mcp_servers"),
    "gemini": (".gemini/settings.json", "mcpServers"),
}

# Claude Code's own command, as far as we use it: it keeps the rest of its file, refuses a name that is in use, and says
# what it did. The real one cannot be had here.
CLAUDE = """#!{python}
import json, os, sys
from pathlib import Path
file = Path(os.environ["HOME"], ".claude.json") if sys.argv[4] == "user" else Path(".mcp.json")
content = json.loads(file.read_text()) if file.exists() else {{}}
servers = content.setdefault("mcpServers", {{}})
assert sys.argv[1] == "mcp" and sys.argv[3] == "--scope", sys.argv
with Path(os.environ["HOME"], "calls").open("a") as calls:
    calls.write(sys.argv[2] + "\\n")
if sys.argv[2] == "remove":
    del servers[sys.argv[5]]
elif sys.argv[2] == "add-json":
    if sys.argv[5] in servers:
        sys.exit(f"MCP server {{sys.argv[5]}} already exists in user config")
    servers[sys.argv[5]] = json.loads(sys.argv[6])
if not os.environ.get("CLAUDE_WRITES_NOTHING"):
    file.write_text(json.dumps(content))
print("Added stdio MCP server", sys.argv[5])
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def run(home: Path, runtime: Path) -> Run:
    """Run `kernel-bridge client` in a home and a directory of its own, with no `claude` on PATH."""
    dropped = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}

    def command(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PROGRAM, "client", *arguments],
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
            cwd=home,
            env=environment | {"HOME": str(home), "PATH": "/usr/bin:/bin", "API_TOKEN": "s3cret"} | more,
        )
        assert "Traceback" not in done.stderr
        assert "s3cret" not in done.stdout + done.stderr
        return done

    return command


def servers(client: str, text: str) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads(text) if client == "codex" else json.loads(text)
    found: dict[str, Any] = content[PLACES[client][1]]
    return found


def started_from(entry: Mapping[str, Any]) -> StdioServerParameters:
    """Start a server as a client does: with the entry, and a bare environment around it."""
    return StdioServerParameters(command=entry["command"], args=entry["args"], env=entry["env"], cwd="/")


@pytest.mark.anyio
@pytest.mark.parametrize("client", PLACES)
async def test_what_is_printed_starts_a_server_that_sees_what_this_shell_sees(
    run: Run, client: str, host_kernel: Any
) -> None:
    printed = run("print", client)
    assert printed.returncode == 0, printed.stderr
    assert f"/home/{PLACES[client][0]}" in printed.stderr
    entry = servers(client, printed.stdout)["kernel"]
    assert ("type" in entry) is (client in ("claude", "cursor", "vscode"))
    assert entry["command"] == PROGRAM
    assert entry["env"]["JUPYTER_RUNTIME_DIR"] == str(host_kernel.file.parent)
    async with Client(started_from(entry)) as agent:
        tools = {each.name for each in (await agent.list_tools()).tools}
        listed = await agent.call_tool("list_kernels", {})
    assert {"connect_to_kernel", "execute_code"} <= tools
    assert str(host_kernel.file) in "".join(each.text for each in listed.content if isinstance(each, TextContent))


@pytest.mark.anyio
async def test_a_policy_after_the_dashes_is_in_force_wherever_the_client_starts_it(run: Run, home: Path) -> None:
    policy = home / 'my "odd" policy.yaml'
    policy.write_text("version: 1\nattach: {allowed: false}\n")
    policy.chmod(0o600)
    printed = run("print", "codex", "--name", "sealed", "--", "--policy", policy.name)
    assert printed.returncode == 0, printed.stderr
    entry = servers("codex", printed.stdout)["sealed"]
    assert entry["args"] == ["serve", "--policy", str(policy)]
    async with Client(started_from(entry)) as agent:
        refused = await agent.call_tool("connect_to_kernel", {"connection_file": "/x.json"})
    assert refused.is_error
    assert "does not allow host kernels" in str(refused.content)


@pytest.mark.parametrize("client", PLACES)
def test_adding_to_no_file_makes_one_and_adding_again_changes_nothing(run: Run, home: Path, client: str) -> None:
    file = home / PLACES[client][0]
    done = run("add", client)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert str(file) in done.stderr
    assert servers(client, file.read_text()) == servers(client, run("print", client).stdout)
    before = (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino)
    again = run("add", client)
    assert again.returncode == 0
    assert "has it already" in again.stderr
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) == before


def test_everything_else_in_a_configuration_stays_byte_by_byte(run: Run, home: Path) -> None:
    file = home / PLACES["claude-desktop"][0]
    file.parent.mkdir(parents=True)
    head = '{\n    "theme" : "dark",   "n": 1.10,\n    "mcpServers": {\n        "other": {"command": "y", "env": {}}'
    tail = '\n    },\n    "é": "\\u00e9"\n}'
    file.write_text(head + tail)
    file.chmod(0o644)
    assert run("add", "claude-desktop", "--name", "my-kernel").returncode == 0
    text = file.read_text()
    assert text.startswith(head)
    assert text.endswith(tail)
    assert list(servers("claude-desktop", text)) == ["other", "my-kernel"]
    assert file.stat().st_mode & 0o777 == 0o644


def test_another_entry_of_that_name_is_replaced_only_by_force(run: Run, home: Path) -> None:
    file = home / PLACES["cursor"][0]
    file.parent.mkdir()
    file.write_text(
        json.dumps(
            {
                "mcpServers": {
                    "kernel": {
                        "command": "/old/kernel-bridge",
                        "args": ["serve"],
                        "env": {"OLD_TOKEN": "s3cret"},
                        "timeout": 9,
                    },
                    "web": {"command": "npx", "args": ["--token", "s3cret"]},
                }
            }
        )
    )
    before = file.read_bytes()
    done = run("add", "cursor")
    assert done.returncode == 2
    for said in ("/old/kernel-bridge serve", f"{PROGRAM} serve", "OLD_TOKEN", "--force", "Nothing was changed"):
        assert said in done.stderr
    foreign = run("add", "cursor", "--name", "web")
    assert foreign.returncode == 2
    assert "another server (npx)" in foreign.stderr
    assert file.read_bytes() == before
    assert run("add", "cursor", "--force").returncode == 0
    after = servers("cursor", file.read_text())
    assert after["kernel"]["command"] == PROGRAM
    assert after["kernel"]["timeout"] == 9
    assert after["web"] == {"command": "npx", "args": ["--token", "s3cret"]}
    assert "has it already" in run("add", "cursor").stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "vscode"], "line 2, column 3"),
        (["add", "codex"], "not valid TOML"),
        (["add", "gemini"], "not a table of servers"),
        (["add", "cursor"], "is a symlink that leads nowhere"),
        (["add", "claude-desktop"], "cannot be read: Is a directory"),
        (["add", "claude", "--name", "two words"], "cannot be a server's name"),
        (["add", "cursor", "--scope", "project"], "for Claude Code only"),
        (["add", "claude", "--", "--nonsense"], "--nonsense"),
        (["add", "claude", "--", "--policy", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (["add", "word"], "word"),
        (["print", "claude", "--", "stray"], "stray"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(
    run: Run, home: Path, arguments: list[str], sentence: str
) -> None:
    for client, content in (
        ("vscode", '{\n  // mine\n  "servers": {}\n}'),
        ("codex", "a = \n"),
        ("gemini", '{"mcpServers": 1}'),
    ):
        file = home / PLACES[client][0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (home / ".cursor").mkdir()
    (home / PLACES["cursor"][0]).symlink_to("/nonexistent/mcp.json")
    (home / PLACES["claude-desktop"][0]).mkdir(parents=True)
    before = {each: each.read_bytes() for each in home.rglob("*") if each.is_file()}
    done = run(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stdout == ""
    assert {each: each.read_bytes() for each in home.rglob("*") if each.is_file()} == before


@pytest.fixture
def claude(tmp_path: Path) -> dict[str, str]:
    """The environment in which a `claude` command is on PATH."""
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text(CLAUDE.format(python=sys.executable))
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


def test_where_claude_codes_own_command_is_there_it_makes_the_change(
    run: Run, home: Path, claude: dict[str, str]
) -> None:
    file = home / ".claude.json"
    file.write_text('{"oauth": "s3cret"}')
    done = run("add", "claude", **claude)
    assert done.returncode == 0, done.stderr
    assert (home / "calls").read_text() == "add-json\n"
    assert servers("claude", file.read_text()) == servers("claude", run("print", "claude", **claude).stdout)
    assert "has it already" in run("add", "claude", **claude).stderr
    policy = home / "policy.yaml"
    policy.write_text("version: 1\n")
    policy.chmod(0o600)
    assert run("add", "claude", "--", "--policy", str(policy), **claude).returncode == 2
    assert run("add", "claude", "--force", "--", "--policy", str(policy), **claude).returncode == 0
    assert (home / "calls").read_text() == "add-json\nremove\nadd-json\n"
    assert servers("claude", file.read_text())["kernel"]["args"] == ["serve", "--policy", str(policy)]
    assert json.loads(file.read_text())["oauth"] == "s3cret"


def test_a_claude_command_that_fails_or_only_says_so_is_told(run: Run, home: Path, claude: dict[str, str]) -> None:
    lied = run("add", "claude", **claude, CLAUDE_WRITES_NOTHING="1")
    assert lied.returncode == 2
    assert "does not hold the entry" in lied.stderr
    Path(claude["PATH"].partition(":")[0], "claude").write_text("#!/bin/sh\necho no disk; exit 1\n")
    failed = run("add", "claude", **claude)
    assert failed.returncode == 2
    assert "`claude mcp add-json` failed: no disk" in failed.stderr
    assert not (home / ".claude.json").exists()


@pytest.mark.parametrize("with_command", [False, True], ids=["without claude", "with claude"])
def test_a_projects_configuration_lies_in_its_directory(
    run: Run, home: Path, claude: dict[str, str], *, with_command: bool
) -> None:
    environment = claude if with_command else {}
    assert run("add", "claude", "--scope", "project", **environment).returncode == 0
    assert servers("claude", (home / ".mcp.json").read_text())["kernel"]["command"] == PROGRAM
    assert not (home / ".claude.json").exists()
    assert "has it already" in run("add", "claude", "--scope", "project", **environment).stderr
