"""What becomes of the frames that a socket delivers, whatever they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import DELIM, Session

from bridge.channels import Channels
from bridge.messages import Message

KEY = b"secret"
HEADER = {"msg_id": "1", "msg_type": "status", "session": "kernel", "version": "5.3", "username": "k", "date": ""}


class Wire:
    """The receiving half of a channel, without its sockets."""

    def __init__(self) -> None:
        self.channels = Channels.__new__(Channels)
        self.channels._session = Session(key=KEY, signature_scheme="hmac-sha256", check_pid=False)
        self.channels.refused_signature = False

    def parse(self, frames: list[bytes]) -> Message | None:
        return self.channels._parse("iopub", frames)


def signed(*parts: bytes, buffers: tuple[bytes, ...] = ()) -> list[bytes]:
    signature = Session(key=KEY, signature_scheme="hmac-sha256", check_pid=False).sign(list(parts[:4]))
    return [b"topic", DELIM, signature, *parts, *buffers]


def parts(header: Any = HEADER, parent: Any = HEADER, metadata: Any = {}, content: Any = {}) -> list[bytes]:  # noqa: B006
    return [json.dumps(each).encode() for each in (header, parent, metadata, content)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*HEADER, "x"]), inner, max_size=3),
    max_leaves=6,
)
pieces = st.binary(max_size=20) | json_values.map(lambda value: json.dumps(value).encode())


@given(parts=st.lists(pieces, max_size=7), delimiter=st.booleans(), own_signature=st.booleans())
def test_no_frames_are_more_than_a_message_or_nothing(
    parts: list[bytes], *, delimiter: bool, own_signature: bool
) -> None:
    frames = signed(*parts) if own_signature else [*([b"topic", DELIM] if delimiter else []), *parts]
    assert isinstance(Wire().parse(frames or [b""]), Message | None)


@given(header=json_values, parent=json_values, metadata=json_values, content=json_values, sound=st.integers(0, 15))
def test_no_json_of_our_key_is_more_than_a_message_or_nothing(
    header: Any, parent: Any, metadata: Any, content: Any, sound: int
) -> None:
    odd = (header, parent, metadata, content)
    mixed = [good if sound >> place & 1 else odd[place] for place, good in enumerate((HEADER, HEADER, {}, {}))]
    assert isinstance(Wire().parse(signed(*parts(*mixed))), Message | None)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("opening", [b"[", b'{"msg_id":'])
def test_json_nested_without_end_is_nothing_and_the_next_message_is_one(place: int, opening: bytes) -> None:
    wire = Wire()
    nested = parts()
    nested[place] = opening * 100_000
    assert wire.parse(signed(*nested)) is None
    assert wire.parse(signed(*parts())) is not None


@pytest.mark.parametrize("version", ["4.1", "x", "", 5, None, "99", "-1"])
def test_a_message_of_any_version_is_a_message_or_nothing(version: Any) -> None:
    for kind in ("pyout", "pyerr", "display_data", "execute_reply", "kernel_info_reply", "complete_reply"):
        header = HEADER | {"version": version, "msg_type": kind}
        contents: list[Any] = [{}, {"data": 5}, {"traceback": 5}, {"payload": 5}, []]
        for content in contents:
            assert isinstance(Wire().parse(signed(*parts(header, content=content))), Message | None)


def test_buffers_of_any_bytes_do_not_spoil_their_message() -> None:
    frames = signed(*parts(content={"execution_state": "idle"}), buffers=(b"\xff\x00", b""))
    message = Wire().parse(frames)
    assert message
    assert message.content == {"execution_state": "idle"}


def test_a_message_that_is_cut_short_is_nothing() -> None:
    whole = signed(*parts())
    for end in range(1, len(whole)):
        assert Wire().parse(whole[:end]) is None


def test_only_another_keys_signature_is_told_as_one() -> None:
    wire = Wire()
    whole = signed(*parts())
    for odd in ([b"topic", DELIM], [*whole[:2], b"", *whole[3:]], [b"no delimiter"], whole, whole):
        wire.parse(odd)
    assert not wire.channels.refused_signature
    assert wire.parse([*whole[:2], b"0" * 64, *whole[3:]]) is None
    assert wire.channels.refused_signature
