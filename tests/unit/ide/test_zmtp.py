"""A subscriber's side of ZMTP, byte by byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.ide.zmtp import GREETING, MOST_TOPICS, READY, NotZmtp, Peer, command, message

BEGIN = GREETING + READY


def subscribed(*topics: bytes) -> bytes:
    return BEGIN + b"".join(message([b"\x01" + each]) for each in topics)


def test_a_subscriber_is_answered_once_it_has_greeted_and_its_topics_are_known() -> None:
    peer = Peer()
    assert peer.hears(GREETING[:63]) == (b"", [])
    assert peer.hears(GREETING[63:]) == (READY, [])
    assert peer.hears(subscribed(b"", b"stream")[64:]) == (b"", [b"", b"stream"])


@given(st.lists(st.integers(1, 20), max_size=30))
def test_what_comes_in_any_pieces_is_the_same(cuts: list[int]) -> None:
    peer, said = Peer(), subscribed(b"a", b"b" * 300) + message([b"\x00a"]) + command(b"PING", b"\0\0context")
    answers, topics = b"", list[bytes]()
    for size in [*cuts, len(said)]:
        answer, new = peer.hears(said[:size])
        said, answers, topics = said[size:], answers + answer, topics + new
    assert (answers, topics) == (READY + command(b"PONG", b"context"), [b"a", b"b" * 300])
    assert peer.topics == [b"b" * 300]


def test_subscriptions_as_commands_of_a_newer_version_are_understood() -> None:
    newer = GREETING[:11] + b"\x01" + GREETING[12:] + READY
    peer = Peer()
    assert peer.hears(newer + command(b"SUBSCRIBE", b"topic")) == (READY, [b"topic"])
    peer.hears(command(b"CANCEL", b"topic") + command(b"CANCEL", b"never"))
    assert peer.topics == []


def test_a_topic_is_the_beginning_of_the_first_frame_and_is_left_as_often_as_it_was_wanted() -> None:
    peer = Peer()
    assert not peer.wants(b"stream.stdout")
    peer.hears(subscribed(b"stream", b"stream"))
    assert (peer.wants(b"stream.stdout"), peer.wants(b"status")) == (True, False)
    peer.hears(message([b"\x00stream"]))
    assert peer.wants(b"stream")
    peer.hears(message([b"\x00stream"]))
    assert not peer.wants(b"stream")


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n",
        GREETING[:10] + b"\x01",
        GREETING.replace(b"NULL\0", b"PLAIN"),
        GREETING + message([b"\x01"]),
        BEGIN + message([b"\x01", b""]),
        BEGIN + b"\x08\x00",
        BEGIN + struct.pack(">BQ", 2, 2**63),
        subscribed(*[b"x"] * (MOST_TOPICS + 1)),
    ],
)
def test_who_is_no_subscriber_is_told_from_one(said: bytes) -> None:
    with pytest.raises(NotZmtp):
        Peer().hears(said)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_whatever_comes_is_understood_or_refused(pieces: list[bytes]) -> None:
    peer = Peer()
    try:
        peer.hears(BEGIN)
        for each in pieces:
            peer.hears(each)
    except NotZmtp:
        pass
    assert len(peer._received) <= 5000


@given(st.lists(st.one_of(st.binary(max_size=10), st.binary(min_size=250, max_size=260)), min_size=1, max_size=6))
def test_a_message_is_its_frames_each_with_its_size_and_whether_more_follow(frames: list[bytes]) -> None:
    left, read = message(frames), list[bytes]()
    more = True
    while more:
        more, long = bool(left[0] & 1), left[0] & 2
        at = 9 if long else 2
        end = at + int.from_bytes(left[1:at], "big")
        read.append(left[at:end])
        left = left[end:]
    assert (read, left) == (frames, b"")
