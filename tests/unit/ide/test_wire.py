"""Messages as frames, held against Jupyter's own session."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from bridge.connection import ConnectionInfo
from bridge.ide.wire import DELIMITER, Frames, Signer, Speaker

INFO = ConnectionInfo("tcp", "127.0.0.1", 1, 2, 3, 4, 5, "a key")
OTHER = dataclasses.replace(INFO, key="another key")
PARTS = [b'{"msg_id": "1", "msg_type": "status"}', b'{"msg_id": "0"}', b"{}", b'{"execution_state": "idle"}']

frames = st.lists(st.one_of(st.binary(max_size=30), st.just(DELIMITER), st.sampled_from(PARTS)), max_size=12)
texts = st.binary(max_size=40)


def test_a_message_of_jupyters_own_session_is_read_and_signed_as_it_signs() -> None:
    session = Session(key=b"a key")
    sent = session.serialize(session.msg("execute_request", {"code": "é"}), ident=[b"to", b"whom"])
    opened = Signer(INFO).opened([*sent, b"buffer", b""])
    assert opened is not None
    assert (opened.route, opened.buffers) == ([b"to", b"whom"], [b"buffer", b""])
    assert (opened.msg_type, opened.content()["code"]) == ("execute_request", "é")
    assert Signer(INFO).sealed(opened) == [*sent, b"buffer", b""]


def test_what_is_said_here_is_read_by_jupyters_own_session() -> None:
    said = Speaker("session").says("stream", {"text": "\ud800 é"}, {"msg_id": "parent"}, [b"topic"])
    session = Session(key=b"a key")
    identities, rest = session.feed_identities(Signer(INFO).sealed(said))
    read = session.deserialize(rest)
    assert identities == [b"topic"]
    assert (read["msg_type"], read["content"]) == ("stream", {"text": "\ud800 é"})
    assert (read["parent_header"], read["header"]["session"]) == ({"msg_id": "parent"}, "session")


@pytest.mark.parametrize("scheme", ["hmac-sha256", "hmac-sha512", "hmac-md5"])
def test_the_other_side_gets_the_same_message_with_its_own_signature(scheme: str) -> None:
    here, there = Signer(INFO), Signer(dataclasses.replace(OTHER, signature_scheme=scheme))
    sealed = there.sealed(Frames([b"id"], PARTS, [b"\x00"]))
    assert here.opened(sealed) is None
    opened = there.opened(sealed)
    assert opened == Frames([b"id"], PARTS, [b"\x00"])


@given(frames)
def test_frames_that_nobody_signed_are_no_message(received: list[bytes]) -> None:
    assert Signer(INFO).opened(received) is None


@given(st.lists(texts, min_size=4, max_size=4), st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_whatever_is_signed_goes_through_as_it_is_and_can_be_asked_anything(
    parts: list[bytes], route: list[bytes], buffers: list[bytes]
) -> None:
    message = Frames([each for each in route if each != DELIMITER], parts, buffers)
    opened = Signer(INFO).opened(Signer(INFO).sealed(message))
    assert opened == message
    assert isinstance(opened.header, dict)
    assert isinstance(opened.content() | opened.parent(), dict)
    assert isinstance(opened.msg_type + opened.msg_id, str)


@given(st.integers(0, 3), st.integers(0, 200), st.integers(1, 255))
def test_a_byte_that_was_changed_is_seen(part: int, at: int, change: int) -> None:
    sealed = Signer(INFO).sealed(Frames([], PARTS))
    frame = bytearray(sealed[2 + part])
    frame[at % len(frame)] ^= change
    assert Signer(INFO).opened([*sealed[: 2 + part], bytes(frame), *sealed[3 + part :]]) is None


@pytest.mark.parametrize("odd", [b"", b"5", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"msg_type": 5}'])
def test_a_header_that_is_none_is_an_empty_one(odd: bytes) -> None:
    message = Frames([], [odd, odd, odd, odd])
    assert (message.msg_type, message.msg_id) == ("", "")


def test_a_message_may_be_what_its_header_names() -> None:
    message = Frames([], PARTS)
    assert message.may_be(b"execute_input", b"status")
    assert not message.may_be(b"stream")


def test_only_answers_to_what_was_said_here_have_it_for_their_parent() -> None:
    speaker = Speaker("relay-1")
    asked = speaker.says("kernel_info_request", {})
    assert speaker.is_parent_of(Frames([], [b"{}", json.dumps(asked.header).encode(), b"{}", b"{}"]))
    assert not speaker.is_parent_of(Frames([], PARTS))
