"""What every request must pass before MCP sees it: the token, then the addresses that a browser says it is meant for.

The one rule: these checks have one owner, for each path alike and whatever address is listened on; the SDK's own are
off. A page of another site can have a browser send anything here, but not our token, and not with a Host and an Origin
of ours (DNS rebinding).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

HEALTH = "/health"
# How people have been seen to put tokens into addresses.
_IN_URL = frozenset({"token", "access_token", "auth", "authorization", "bearer", "key", "api_key", "apikey"})
_HOW = "Send it as the header `Authorization: Bearer TOKEN`; `kernel-bridge client print CLIENT --http` shows how."
_NOT_IN_URL = (
    f"The token does not belong into the address, which is kept in histories and logs. {_HOW} If it was the right one, "
    "it may be known now: stop the server, remove its token file (in compose: its volume) and start it again."
)


@dataclass(frozen=True)
class Site:
    """Where the server is, as its clients write it: `http` or `https`, and each `HOST:PORT`.

    `*.` at a host's start stands for one more name, as in a certificate.
    """

    scheme: str
    hosts: Collection[str]

    def has_host(self, host: str) -> bool:
        """Tell whether a Host header means us; its letters' case does not count."""
        ours = {_without_default(self.scheme, each) for each in self.hosts}
        meant = _without_default(self.scheme, host)
        return meant in ours or f"*.{meant.partition('.')[2]}" in ours

    def has_origin(self, origin: str) -> bool:
        """Tell whether a page is of ours, by its Origin header."""
        scheme, _, host = origin.partition("://")
        return scheme.lower() == self.scheme and self.has_host(host)


class Gate:
    """An ASGI application in front of another one."""

    def __init__(self, app: ASGIApp, *, token: str, site: Site) -> None:
        self._app = app
        self._token = token.encode()
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served here")
        answer = self._answer(scope)
        await (answer or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """Return what a request is answered at once; None for one that is passed on."""
        headers = Headers(scope=scope)
        is_health = scope["path"] == HEALTH and scope["method"] in ("GET", "HEAD")
        if not is_health:
            refused = self._without_token(headers, scope["query_string"])
            if refused:
                return refused
        # each of them, for what reads another one of two would be led astray
        if not all(self._site.has_host(each) for each in headers.getlist("host") or [""]):
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "This server is not meant by that Host.")
        if not all(self._site.has_origin(each) for each in headers.getlist("origin")):
            return _refusal(HTTPStatus.FORBIDDEN, "Pages of other sites may not use this server.")
        return Response() if is_health else None

    def _without_token(self, headers: Headers, query: bytes) -> Response | None:
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # latin-1 is what a header's bytes were read by
        is_right = hmac.compare_digest(token.strip().encode("latin-1"), self._token) and scheme.lower() == "bearer"
        in_url = any(name.lower() in _IN_URL for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        if is_right:
            return _refusal(HTTPStatus.BAD_REQUEST, _NOT_IN_URL) if in_url or self._token in query else None
        told = _NOT_IN_URL if in_url else f"The token is {'wrong' if given else 'missing'}. {_HOW}"
        return _refusal(HTTPStatus.UNAUTHORIZED, told, {"WWW-Authenticate": "Bearer"})


def _refusal(status: HTTPStatus, told: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(told + "\n", status, headers)


def _without_default(scheme: str, host: str) -> str:
    return host.lower().removesuffix(":443" if scheme == "https" else ":80")
