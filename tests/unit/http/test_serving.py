"""Where the server is told to be, and what is said where it cannot be there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import LaunchError
from bridge.http import serving, taken
from bridge.http.serving import Place, listen
from tests.certificates import certified


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def told(port: int) -> str:
    with pytest.raises(LaunchError) as caught:
        listen(Place(port=port), Path("/s/token"))
    return str(caught.value)


def test_a_port_that_the_same_user_has_is_taken_maybe_by_a_server_of_theirs(taken_port: int) -> None:
    assert "maybe by a kernel-bridge" in told(taken_port)
    assert "/s/token" not in told(taken_port)


def test_a_port_that_another_user_has_may_have_been_sent_the_token(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)  # who may take another uid differs between machines
    assert f"which uid {uid} has started" in told(taken_port)
    assert "Clients may have sent it the token: remove /s/token for a new one." in told(taken_port)


def test_where_the_system_does_not_tell_whose_it_is_nothing_is_said_of_it(
    taken_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(taken, "TABLES", (tmp_path / "none",))
    assert "maybe by a kernel-bridge" in told(taken_port)


@pytest.mark.parametrize(
    ("dns", "address", "host"),
    [
        ("kernel.example", None, "kernel.example"),
        ("kernel.example", "127.0.0.1", "127.0.0.1"),
        ("*.example", None, "127.0.0.1"),
    ],
)
def test_on_all_addresses_the_one_that_is_told_is_in_the_certificate(
    tmp_path: Path, dns: str, address: str | None, host: str
) -> None:
    certificate, key = certified(tmp_path, dns=dns, address=address)
    listener = listen(Place(host="0.0.0.0", port=0, certificate=certificate, key=key))
    with contextlib.closing(listener.bound):
        assert listener.url == f"https://{host}:{listener.port}/mcp"


def test_a_container_is_known_by_its_engines_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CONTAINER_MARKS", (tmp_path / "mark",))
    assert not serving.in_container()
    (tmp_path / "mark").touch()
    assert serving.in_container()
