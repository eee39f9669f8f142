"""The MCP clients that are known: where each keeps its configuration, and in which form.

The one rule: a client is one line of the table, from its own documentation; what clients differ in stands here only.

Claude Code       https://code.claude.com/docs/en/mcp
Claude Desktop    https://modelcontextprotocol.io/docs/develop/connect-local-servers
Cursor            https://cursor.com/docs/mcp
VS Code           https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
Codex             https://developers.openai.com/codex/mcp
Gemini CLI        https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bridge.entry import Program
from bridge.policy.places import config_home, user_home

Environ = Mapping[str, str]


@dataclass(frozen=True)
class Client:
    """One MCP client."""

    name: str
    """On our command line."""
    title: str
    place: Callable[[Environ], Path]
    """The user's own configuration file, which need not exist."""
    key: str
    """The table in it that holds the servers."""
    form: Literal["json", "toml"] = "json"
    typed: bool = False
    """Whether an entry says `"type": "stdio"`."""
    after: str = "It is read when the client starts next."
    http: Callable[[str], dict[str, Any]] | None = None
    """What stands under the server's name for one at a URL, where its file can say that without the token itself."""

    def entry(self, server: Program) -> dict[str, Any]:
        """Return what stands under the server's name."""
        kind = {"type": "stdio"} if self.typed else {}
        return {**kind, "command": server.command, "args": list(server.arguments), "env": dict(server.environment)}


def _application(environ: Environ, name: str) -> Path:
    """Return an Electron application's own directory."""
    if sys.platform == "darwin":
        return user_home(environ) / "Library" / "Application Support" / name
    if sys.platform == "win32":
        return Path(environ.get("APPDATA") or user_home(environ) / "AppData" / "Roaming") / name
    return config_home(environ) / name


def _own(environ: Environ, variable: str, default: str) -> Path:
    return Path(environ[variable]) if environ.get(variable) else user_home(environ) / default


TOKEN_VARIABLE = "KERNEL_BRIDGE_TOKEN"  # noqa: S105 - its name
"""Where a client started from a shell finds the token, whose file no client reads by itself."""
TOKEN_INPUT = {
    "type": "promptString",
    "id": "kernel-bridge-token",
    "description": "The token of kernel-bridge",
    "password": True,
}
"""How VS Code asks for it once and keeps it with its own secrets."""


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


CLIENTS = {
    each.name: each
    for each in (
        Client(
            "claude",
            "Claude Code",
            lambda environ: _own(environ, "CLAUDE_CONFIG_DIR", "") / ".claude.json",
            "mcpServers",
            typed=True,
            after="Every session of Claude Code that starts from now on has it; /mcp shows it.",
        ),
        Client(
            "claude-desktop",
            "Claude Desktop",
            lambda environ: _application(environ, "Claude") / "claude_desktop_config.json",
            "mcpServers",
            after="Quit Claude Desktop and start it again.",
        ),
        Client(
            "cursor",
            "Cursor",
            lambda environ: user_home(environ) / ".cursor" / "mcp.json",
            "mcpServers",
            typed=True,
            after="Cursor shows it in its settings, under MCP.",
            http=lambda url: {"url": url, "headers": _bearer(f"${{env:{TOKEN_VARIABLE}}}")},
        ),
        Client(
            "vscode",
            "VS Code",
            lambda environ: _application(environ, "Code") / "User" / "mcp.json",
            "servers",
            typed=True,
            after="VS Code starts it when it is asked for the first time, or with `MCP: List Servers`.",
            http=lambda url: {"type": "http", "url": url, "headers": _bearer(f"${{input:{TOKEN_INPUT['id']}}}")},
        ),
        Client(
            "codex",
            "Codex",
            lambda environ: _own(environ, "CODEX_HOME", ".codex") / "config.toml",
            "mcp_servers",
            form="toml",
            after="Every session of Codex that starts from now on has it; /mcp shows it.",
            http=lambda url: {"url": url, "bearer_token_env_var": TOKEN_VARIABLE},
        ),
        Client(
            "gemini",
            "Gemini CLI",
            lambda environ: _own(environ, "GEMINI_CLI_HOME", "") / ".gemini" / "settings.json",
            "mcpServers",
            after="Every session of Gemini CLI that starts from now on has it; /mcp shows it.",
            http=lambda url: {"httpUrl": url, "headers": _bearer(f"${TOKEN_VARIABLE}")},
        ),
    )
}


def project_file(directory: Path | None = None) -> Path:
    """Return Claude Code's configuration of a project, which a repository shares; by default of this directory's."""
    return Path(os.path.abspath(directory or ".")) / ".mcp.json"  # noqa: PTH100 - as it is written, symlinks and all
