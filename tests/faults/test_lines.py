"""What comes in on stdin and is no message as it should be: it is answered, by its id where that can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Bridge, Serve

MEGABYTE = 1024 * 1024
PARSE_ERROR, INVALID_REQUEST = -32700, -32600


@pytest.fixture
def server(bridge: Serve) -> Bridge:
    return bridge().greet()


@pytest.mark.parametrize("half", [rb"\ud800", b"\xed\xa0\x80"], ids=["escaped", "raw"])
def test_half_a_surrogate_pair_in_an_argument_is_told_in_words(server: Bridge, host_kernel: Any, half: bytes) -> None:
    server.connect(host_kernel)
    params = b'{"name":"execute_code","arguments":{"code":"x = 1 #' + half + b'"}}'
    server.send(b'{"jsonrpc":"2.0","id":"half","method":"tools/call","params":' + params + b"}")
    told = server.text("half", failed=True)
    assert r"The code holds half a surrogate pair (\ud800), which no message can carry. Nothing was executed" in told
    assert server.call("execute_code", code="'x' in globals()") == "False"


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (rb'{"jsonrpc":"2.0","id":"\ud800","method":"ping"}', "\ud800"),
        (rb'{"jsonrpc":"2.0","id":7000,"method":"no\ud800"}', 7000),
        (rb'{"jsonrpc":"2.0","id":7000,"method":"tools/call","params":{"name":"no\ud800"}}', 7000),
        (rb'{"jsonrpc":"2.0","id":7000,"method":"tools/call","params":{"name":"x","arguments":{"\ud800":1}}}', 7000),
        (rb'{"jsonrpc":"2.0","id":7000,"method":"resources/read","params":{"uri":"x:\ud800"}}', 7000),
    ],
)
def test_half_a_surrogate_pair_anywhere_is_answered(server: Bridge, line: bytes, number: Any) -> None:
    server.send(line)
    server.answer(number)
    server.ask("ping")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"jsonrpc":"2.0","id":7000,"method":"ping","params":{"x":"\xff"}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7000,"method":"ping","params":{"x":', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7000,"method":"ping","params":' + b"[" * 100_000, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7000,"method":"ping","params":' + b"9" * 10_000 + b"}", PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7000,"method":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":7000,"method":"ping"}', INVALID_REQUEST),
    ],
)
def test_a_request_that_cannot_be_read_is_answered_by_its_id(server: Bridge, line: bytes, code: int) -> None:
    server.send(line)
    assert server.answer(7000)["error"]["code"] == code
    server.ask("ping")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nonsense", PARSE_ERROR),
        (b"\xff\xfe{\x00}\x00", PARSE_ERROR),
        (b"\x00" * 1000, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","method":"ping","params":{"id":7000}', PARSE_ERROR),
        (b'{"method":"ping","params":{"x":[1},"jsonrpc":"2.0","id":7000}', PARSE_ERROR),
        (b"[]", INVALID_REQUEST),
        (b"null", INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","id":7000,"method":"ping"}]', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{"x":1},"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7000,"result":7}', INVALID_REQUEST),
    ],
)
def test_what_has_no_id_of_a_request_is_answered_without_one(server: Bridge, line: bytes, code: int) -> None:
    server.send(line)
    [told] = server.until_unasked(1)
    assert told["id"] is None
    assert told["error"]["code"] == code
    server.send(b" \r")  # and an empty one is none
    server.ask("ping")
    assert len(server.unasked) == 1


@pytest.mark.parametrize("order", ["id first", "id last"])
def test_a_line_of_a_hundred_megabytes_is_refused_by_its_id_and_not_kept(server: Bridge, order: str) -> None:
    server.ask("ping")
    before = memory(server)
    end, params = b'"jsonrpc":"2.0","id":7000', b'"params":{"code":"' + b"x" * (100 * MEGABYTE) + b'"}'
    parts = [end, b'"method":"ping"', params]
    server.send(b"{" + b",".join(parts if order == "id first" else parts[::-1]) + b"}")
    told = server.answer(7000)["error"]
    assert "more than the 4194304 bytes" in told["message"]
    assert memory(server) - before < 40 * MEGABYTE
    server.ask("ping")


def test_a_line_of_the_largest_size_is_served(server: Bridge, host_kernel: Any) -> None:
    server.connect(host_kernel)
    code = "len('" + "x" * (4 * MEGABYTE - 300) + "')"
    assert server.call("execute_code", code=code) == str(4 * MEGABYTE - 300)


def test_a_line_without_an_end_keeps_nothing_from_ending(server: Bridge) -> None:
    server.stdin.write(b'{"jsonrpc":"2.0","id":7000,"method":"ping","params":{"x":"' + b"x" * MEGABYTE)
    server.stdin.close()
    assert server.until_ended() == 0
    assert server.answer(7000)["error"]["code"] == PARSE_ERROR


def memory(server: Bridge) -> int:
    """Return the most that the process has had in memory, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
