"""What the gate lets through: only the right token, in the right place, for a Host and an Origin of ours."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.http.gate import Gate, Site

pytestmark = pytest.mark.anyio

TOKEN = "t0ken-" * 8
RIGHT = ("authorization", f"Bearer {TOKEN}")
HOST = ("host", "127.0.0.1:8765")
SITE = Site("http", {"127.0.0.1:8765", "localhost:8765", "[::1]:8765"})


async def ask(
    *headers: tuple[str, str], path: str = "/mcp", query: str = "", method: str = "POST", site: Site = SITE
) -> tuple[int, dict[str, str], str]:
    """Ask the gate; 299 is the answer of what is behind it."""
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"behind"})

    async def receive() -> Any:
        raise AssertionError("the body was asked for before the gate had answered")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    await Gate(behind, token=TOKEN, site=site)(scope, receive, send)
    start, body = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    text = body["body"].decode()
    assert TOKEN not in text + str(told)
    return start["status"], told, text


async def test_the_right_token_at_our_address_is_let_through() -> None:
    assert (await ask(RIGHT, HOST))[0] == 299
    assert (await ask(("authorization", f"bearer  {TOKEN}"), HOST))[0] == 299


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", TOKEN)],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN.upper()}")],
        [("authorization", f"Bearer {TOKEN}, Bearer {TOKEN}")],
        [("authorization", "Bearer \xe9\xff")],
        [RIGHT, RIGHT],
        [RIGHT, ("authorization", "Bearer other")],
        [("x-authorization", f"Bearer {TOKEN}")],
        [("cookie", f"authorization=Bearer {TOKEN}")],
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/", "/health/", "/.well-known/oauth-protected-resource"])
async def test_without_exactly_the_right_token_nothing_else_is_looked_at(
    headers: list[tuple[str, str]], path: str
) -> None:
    for host in ([HOST], [("host", "evil.example")], []):
        status, told, _ = await ask(*headers, *host, path=path)
        assert (status, told["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "query", [f"token={TOKEN}", f"access_token={TOKEN}", f"Access_Token={TOKEN}", "api_key=x", "a=1&token="]
)
async def test_a_token_in_the_address_is_refused_with_a_hint(query: str) -> None:
    status, told, text = await ask(HOST, query=query)
    assert (status, told["www-authenticate"]) == (401, "Bearer")
    assert "does not belong into the address" in text
    status, _, text = await ask(RIGHT, HOST, query=query)
    assert status == 400
    assert "remove its token file" in text


async def test_the_token_under_any_name_in_the_address_is_refused() -> None:
    assert (await ask(RIGHT, HOST, query=f"session={TOKEN}"))[0] == 400
    assert (await ask(RIGHT, HOST, query="session=1"))[0] == 299


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1",
        "127.0.0.1:8766",
        "127.0.0.1:8765.evil.example",
        "127.0.0.1.evil.example:8765",
        "evil.example#127.0.0.1:8765",
        "0.0.0.0:8765",
        "127.1:8765",
        "",
    ],
)
async def test_another_host_is_refused(host: str) -> None:
    assert (await ask(RIGHT, ("host", host)))[0] == 421
    assert (await ask(("host", host), path="/health", method="GET"))[0] == 421


async def test_no_host_or_a_second_one_is_refused() -> None:
    assert (await ask(RIGHT))[0] == 421
    assert (await ask(RIGHT, HOST, ("host", "evil.example")))[0] == 421
    assert (await ask(RIGHT, ("host", "LOCALHOST:8765")))[0] == 299


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://localhost:3000",
        "https://127.0.0.1:8765",
        "file://",
    ],
)
async def test_a_page_of_another_site_is_refused(origin: str) -> None:
    assert (await ask(RIGHT, HOST, ("origin", origin)))[0] == 403
    assert (await ask(RIGHT, HOST, ("origin", "http://127.0.0.1:8765"), ("origin", origin)))[0] == 403
    assert (await ask(HOST, ("origin", origin), path="/health", method="GET"))[0] == 403


async def test_our_own_origin_is_let_through() -> None:
    assert (await ask(RIGHT, HOST, ("origin", "http://localhost:8765")))[0] == 299


async def test_health_tells_nothing_and_needs_no_token() -> None:
    assert (await ask(HOST, path="/health", method="GET")) == (200, {"content-length": "0"}, "")
    assert (await ask(HOST, path="/health", method="HEAD"))[0] == 200
    assert (await ask(HOST, path="/health", method="POST"))[0] == 401


async def test_the_usual_port_may_be_left_out_and_a_certificates_star_stands_for_one_name() -> None:
    site = Site("https", {"kernel.example:443", "*.kernel.example:443"})
    for host in ("kernel.example", "kernel.example:443", "a.kernel.example"):
        assert (await ask(RIGHT, ("host", host), site=site))[0] == 299
        assert (await ask(RIGHT, ("host", host), ("origin", f"https://{host}"), site=site))[0] == 299
    for host in ("a.b.kernel.example", "kernel.example:80", "example", "*.example", "xkernel.example"):
        assert (await ask(RIGHT, ("host", host), site=site))[0] == 421


async def test_no_other_protocol_gets_behind_it() -> None:
    async def behind(*_: Any) -> None:
        raise AssertionError

    with pytest.raises(RuntimeError, match="only HTTP"):
        await Gate(behind, token=TOKEN, site=SITE)({"type": "websocket"}, behind, behind)  # type: ignore[arg-type]
