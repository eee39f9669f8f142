"""What to paste for a client that reaches a server over HTTP.

The one rule: the token itself is never printed; what is pasted names its file, or where the client is to find it. So
it gets into no history and no scrollback. Where a client takes a header only on its command line, as `claude mcp add`
does, it stands there while that command runs, and in the client's own configuration after.
"""

from __future__ import annotations

import ipaddress
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from bridge.clients import configuration, text
from bridge.clients.known import TOKEN_INPUT, TOKEN_VARIABLE, Client
from bridge.errors import UsageError


def checked_url(url: str) -> str:
    """Return a URL that a client can be given; raises `UsageError` for what is none, or may hold a secret."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r} is no address of a server; it looks like http://127.0.0.1:8765/mcp.")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("The server's address has no user, query or fragment; the token is sent as a header.")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname or ""):
        raise UsageError(
            f"{url} would carry the token where others can read it; give an https address. `kernel-bridge serve` has "
            "TLS with --tls-cert and --tls-key."
        )
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def paste(client: Client, name: str, url: str, file: Path) -> tuple[str, str]:
    """Return what to paste for a client, and what to do with it; raises `UsageError` for one that cannot be told."""
    if client.name == "claude":
        # double quotes: the shell puts the token in, so it is in no history
        header = f'"Authorization: Bearer $(cat {shlex.quote(str(file))})"'
        line = f"claude mcp add --transport http {name} {shlex.quote(url)} --header {header}\n"
        return line, f"Paste it into a shell. {client.after}"
    if client.http is None:
        raise UsageError(
            f"{client.title} starts servers itself and has no way to be given a token for one that runs. Use it over "
            f"stdio: kernel-bridge client add {client.name}"
        )
    printed = configuration.snippet(client, name, client.http(url))
    if client.name == "vscode":
        return text.put_json(printed, ("inputs",), [TOKEN_INPUT]), f"VS Code asks once for the token; it is in {file}."
    export = f'export {TOKEN_VARIABLE}="$(cat {shlex.quote(str(file))})"'
    return printed, f"Start {client.title} from a shell in which this was done: {export}"
