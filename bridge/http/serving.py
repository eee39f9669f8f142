"""Where the server listens, and for how long: the addresses, TLS, the gate in front of MCP, and the end.

The one rule: what is not encrypted is not offered to other machines. So without TLS only the loopback is listened on,
or any address where a container's engine publishes us on the host's loopback alone.

An answer is always a stream: a call whose answer is one JSON text could not be cancelled. Clients before 2026 have
sessions; without them their cancelled calls would run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp

from bridge.agents import IDLE, Agents
from bridge.ending import Ending
from bridge.errors import LaunchError, UsageError
from bridge.http.connections import KEEP_ALIVE, Connection
from bridge.http.descriptors import most_agents, raise_limit
from bridge.http.door import Door
from bridge.http.gate import Gate, Site
from bridge.http.sessions import AT_ONCE, MOST, Sessions
from bridge.http.taken import by_another_user
from bridge.policy import Policy
from bridge.server import build_server, leave, make_app
from bridge.stdio import LAST_ANSWERS

PATH = "/mcp"
LARGEST_BODY = 4 * 1024 * 1024
"""Bytes. The largest that is sent is a cell's code."""
# Connections that the system keeps until we take them.
BACKLOG = 128
_OWN = ("127.0.0.1", "localhost", "[::1]")
# Docker's and Podman's own marks in each container.
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


@dataclass(frozen=True)
class Place:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 8765
    """0: any that is free."""
    published: int | None = None
    """The port of the host's 127.0.0.1 on which a container's engine publishes us, and nowhere else."""
    certificate: Path | None = None
    key: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return what encrypts, if anything does; raises `UsageError` where the files cannot be used."""
        if self.certificate is None and self.key is None:
            return None
        if self.certificate is None or self.key is None:
            raise UsageError("--tls-cert and --tls-key belong together. Nothing was started.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # a key under a passphrase would be asked for on the terminal
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else error
            raise UsageError(
                f"{self.certificate} and {self.key} cannot be used for TLS: {why}. Nothing was started; both must be "
                "PEM files that can be read, the key without a passphrase."
            ) from None
        return context


@dataclass
class Listener:
    """A bound socket, and what clients call it."""

    place: Place
    tls: ssl.SSLContext | None
    bound: socket.socket
    site: Site = field(init=False)

    def __post_init__(self) -> None:
        ports = [each for each in (self.port, self.place.published) if each is not None]
        names = [*_OWN, *self._certified(), *([] if self._is_anywhere else [self._address])]
        scheme = "https" if self.tls else "http"
        self.site = Site(scheme, frozenset(f"{name}:{port}" for name in names for port in ports))

    @property
    def port(self) -> int:
        """The one that it is bound to."""
        return int(self.bound.getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients on this machine find it."""
        host = self._local_name() if self.place.published is not None or self._is_anywhere else self._address
        return f"{self.site.scheme}://{host}:{self.place.published or self.port}{PATH}"

    @property
    def _address(self) -> str:
        return _bracketed(self.bound.getsockname()[0])

    @property
    def _is_anywhere(self) -> bool:
        # browsers take 0.0.0.0 for this machine, so as a Host it is one that a page can have sent
        return ipaddress.ip_address(self.bound.getsockname()[0]).is_unspecified

    def _local_name(self) -> str:
        """Return what of our names leads to this machine; with TLS clients take only one that the certificate has."""
        names = [each for each in self._certified() if not each.startswith("*")]
        return _OWN[0] if _OWN[0] in names or not names else names[0]

    def _certified(self) -> Iterator[str]:
        """Yield the names in our certificate: another site's page cannot be shown under one of them."""
        if self.place.certificate is None:
            return
        from cryptography import x509  # noqa: PLC0415 - comes with the SDK, and only TLS needs it

        found = x509.load_pem_x509_certificate(self.place.certificate.read_bytes())
        with contextlib.suppress(x509.ExtensionNotFound):
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            yield from names.get_values_for_type(x509.DNSName)
            yield from (_bracketed(str(each)) for each in names.get_values_for_type(x509.IPAddress))


def listen(place: Place, token_file: Path | None = None) -> Listener:
    """Bind the place; raises `UsageError` where it may not be listened on, `LaunchError` where it cannot."""
    tls = place.tls()
    try:
        family, _, _, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{place.host!r} is no address to listen on: {error}. Nothing was started.") from None
    if tls is None and place.published is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(
            f"{place.host} can be reached from other machines, and without TLS they could read the token. Nothing was "
            "started. Leave --host out to listen for this machine only, or give --tls-cert and --tls-key. In a "
            "container whose engine publishes the port on 127.0.0.1 alone, say so with --published-on-loopback PORT."
        )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            uid = by_another_user(place.port)
            whose = "maybe by a kernel-bridge that serves already" if uid is None else f"which uid {uid} has started"
            known = f" Clients may have sent it the token: remove {token_file} for a new one." if token_file else ""
            raise LaunchError(
                f"Port {place.port} of {place.host} is taken by another program, {whose}. Nothing was started; stop "
                f"that one, or choose another port with --port.{'' if uid is None else known}"
            ) from None
        raise LaunchError(
            f"{place.host}:{place.port} cannot be listened on: {error.strerror}. Nothing was started."
        ) from None
    return Listener(place, tls, bound)


def in_container() -> bool:
    """Tell whether an engine has started us in a container."""
    return any(each.exists() for each in CONTAINER_MARKS)


def http_app(server: MCPServer[Any], agents: Agents, *, token: str, site: Site) -> ASGIApp:
    """Return a server as an ASGI application behind the gate, with the options that every server of ours has."""
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=False,
        stateless_http=False,
        max_request_body_size=LARGEST_BODY,
        max_sessions=MOST + AT_ONCE,
        session_idle_timeout=IDLE,
        # the gate checks them, for all paths
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return Gate(Sessions(app, server.session_manager, agents), token=token, site=site)


async def serve_http(
    policy: Policy,
    listener: Listener,
    token: str,
    *,
    engine: str | None = None,
    home: str | None = None,
    on_ready: Callable[[], None],
) -> None:
    """Serve all clients until a signal comes; kernels live on. `on_ready` is called once it listens."""
    app = make_app(policy, engine=engine, home=home, shared=True)
    app.agents.most = most_agents(raise_limit())
    server = _Server(http_app(build_server(app), app.agents, token=token, site=listener.site), listener, on_ready)

    async def end() -> None:
        # First, while nothing is cancelled yet, for that would interrupt cells: who waits for one is told that its
        # kernel was left, and it goes on.
        if await leave(app):
            server.should_exit = True  # which cancels a start, so that what it has made is removed
            await server.ended.wait()

    Ending(end)
    await server.serve(sockets=[listener.bound])
    await anyio.sleep_forever()


class _Server(uvicorn.Server):
    """uvicorn's server, without its own idea of signals and of what to log: a request's address may hold a token."""

    def __init__(self, app: ASGIApp, listener: Listener, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                # below that anybody who reaches the port can fill a log
                log_level="error",
                backlog=BACKLOG,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self._listener = listener
        self._on_ready = on_ready
        self._door: Door | None = None
        self._lost = asyncio.Event()
        """Set when a connection has ended."""
        self.ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to `Ending`, which ends us on them as over stdio."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Listen, and tell so; what comes in is taken by a door of ours and not by asyncio's server."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the MCP server did not start")
        self.servers = []
        self._door = Door(self._listener.bound, self._connection, self._listener.tls)
        self._door.open()
        self.started = True
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - as above
        """End once all answers are complete; what is not answered in a moment is cancelled, and waited for.

        Not as uvicorn does, which has time: all clean-ups begin at once.
        """
        if self._door is not None:
            await self._door.close()
        self._listener.bound.close()
        state = self.server_state
        for each in list(state.connections):
            each.shutdown()
        with anyio.move_on_after(LAST_ANSWERS):
            while state.connections:
                self._lost.clear()
                await self._lost.wait()
        for each in cast("set[Connection]", state.connections):
            each.abort()
        await self.lifespan.shutdown()  # which ends the sessions of clients before 2026, and with those their calls
        if state.tasks:
            await asyncio.wait(state.tasks)
        self.ended.set()

    def _connection(self) -> Connection:
        return Connection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            on_lost=self._lost.set,
        )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
