"""`kernel-bridge serve`: the MCP server, as an MCP client starts it, or for many clients over HTTP."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli import engine_option, policy_option, say
from bridge.errors import UsageError

if TYPE_CHECKING:
    from bridge.policy import Policy

PORT = click.IntRange(1, 65535)


@click.command()
@policy_option
@engine_option
@click.option("--kernel", metavar="WHICH", help="Have this kernel connected without the agent asking for it.")
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http"]),
    default="stdio",
    show_default=True,
    help="For the one client that starts it, or for all that have the token.",
)
@click.option("--host", help="HTTP: the address to listen on; 127.0.0.1 if left out. Others need TLS.")
@click.option("--port", type=click.IntRange(0, 65535), help="HTTP: 8765 if left out; 0 for any that is free.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="HTTP: where the token is, and is made where it is missing; in your state directory if left out.",
)
@click.option(
    "--published-on-loopback",
    "published",
    type=PORT,
    metavar="PORT",
    help="HTTP, in a container: its engine publishes us on 127.0.0.1:PORT of the host, and nowhere else.",
)
@click.option("--tls-cert", "certificate", type=click.Path(path_type=Path), help="HTTP: a PEM file; with --tls-key.")
@click.option("--tls-key", "key", type=click.Path(path_type=Path), help="HTTP: its key, without a passphrase.")
def serve(
    *,
    policy_file: Path | None,
    engine: str | None,
    kernel: str | None,
    transport: str,
    token_file: Path | None,
    **place: Any,
) -> None:
    """Serve MCP on stdin and stdout; MCP clients start this. Or serve many of them over HTTP.

    Over HTTP each client needs the token, of which only the file is ever named:
    `kernel-bridge client print claude --http` prints what to paste.

    Example: claude mcp add kernel -- kernel-bridge serve
    """
    # before the imports below, which take most of the start
    gc.disable()
    logging.basicConfig(stream=sys.stderr, level=os.environ.get("KERNEL_BRIDGE_LOG", "WARNING").upper())
    given = {name: value for name, value in place.items() if value is not None}
    if transport == "http":
        _over_http(policy_file, engine, kernel, token_file, given)
        return
    if given or token_file:
        raise UsageError(
            "--host, --port, --token-file, --published-on-loopback, --tls-cert and --tls-key are for --transport http; "
            "over stdio nothing is listened on. Nothing was started."
        )
    import anyio  # noqa: PLC0415 - only what is asked for pays for it

    from bridge.server import serve_stdio  # noqa: PLC0415 - only what is asked for pays for it

    policy = _policy(policy_file)
    if sys.stdin.isatty():
        click.echo("kernel-bridge: waiting for an MCP client on stdin; `kernel-bridge --help` is for people.", err=True)
    anyio.run(lambda: serve_stdio(policy, engine=engine, home=kernel))


def _over_http(
    policy_file: Path | None, engine: str | None, kernel: str | None, token_file: Path | None, place: dict[str, Any]
) -> None:
    import anyio  # noqa: PLC0415 - only what is asked for pays for it

    from bridge.http import serving, token  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.policy.places import expanded  # noqa: PLC0415 - only what is asked for pays for it

    policy = _policy(policy_file)
    file = expanded(token_file or token.default_file()).absolute()
    for each in (file, *([place["key"].absolute()] if "key" in place else [])):
        token.refuse_mounted(each, policy)
    listener = serving.listen(serving.Place(**place), file)
    secret = token.token(file)

    if "published" in place and listener.tls is None and not serving.in_container():
        say(
            "kernel-bridge: --published-on-loopback is for a container, and this seems to be none: "
            f"{listener.place.host} is listened on without TLS, and who can reach it may read the token."
        )

    def tell() -> None:
        say(f"kernel-bridge: serving MCP at {listener.url} for all that have the token in {file}.")
        if "published" not in place:  # on the host, that is; there the file has another name
            arguments = shlex.join(["--url", listener.url, "--token-file", str(file)])
            say(f"What to paste for a client: kernel-bridge client print claude --http {arguments}")

    anyio.run(lambda: serving.serve_http(policy, listener, secret, engine=engine, home=kernel, on_ready=tell))


def _policy(file: Path | None) -> Policy:
    from bridge.policy import find  # noqa: PLC0415 - only what is asked for pays for it

    policy = find(file)
    gc.enable()
    gc.freeze()
    return policy
