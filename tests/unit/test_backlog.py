"""What waits to be read: in order, within its bound, and every output that goes is counted where it was."""

from __future__ import annotations

import json

import pytest
from jupyter_client.session import DELIM

from bridge.backlog import LONGEST, OVERHEAD, Backlog, Gap
from bridge.channels import _head, _request
from bridge.messages import Missed

LIMIT = 100_000


def frames(msg_type: str, content: str = "", request: str = "cell", **more: str) -> list[bytes]:
    """Make a message; what is named besides stands in its parent's header."""
    header: dict[str, str] = {"msg_id": request, "msg_type": msg_type}
    parent = header | {"msg_type": "execute_request"} | more
    return [b"topic", DELIM, b"", *(json.dumps(each).encode() for each in (header, parent, {})), content.encode()]


def filled(*messages: list[bytes]) -> Backlog:
    backlog = Backlog(_head, LIMIT)
    for each in messages:
        backlog.add(each)
        assert 0 < backlog.size <= LIMIT + sum(map(len, each)) + OVERHEAD
    return backlog


def taken(backlog: Backlog) -> list[str | Gap]:
    """Take all and return each one's content, or its type where it has none."""
    found: list[str | Gap] = []
    while (each := backlog.take()) is not None:
        found.append(each if isinstance(each, Gap) else each[-1].decode() or _type(each))
    assert backlog.size == 0
    return found


def _type(each: list[bytes]) -> str:
    return str(json.loads(each[3])["msg_type"]) if len(each) > 3 else ""


def test_what_is_within_the_bound_comes_whole_and_in_order() -> None:
    assert taken(filled(*(frames("stream", str(number)) for number in range(50)))) == list(map(str, range(50)))


def test_of_too_much_the_oldest_output_goes_and_begin_and_end_of_the_cell_stay() -> None:
    sizes = range(20_000, 20_020)
    found = taken(filled(frames("status"), *(frames("stream", "x" * size) for size in sizes), frames("status")))
    first, gap, *texts, last = found
    assert (first, last) == ("status", "status")
    assert isinstance(gap, Gap)
    kept = [len(str(each)) for each in texts]
    assert kept == list(sizes)[-len(kept) :]
    assert gap.missed == Missed(20 - len(kept), sum(sizes) - sum(kept))
    assert gap.parent["msg_id"] == "cell"


def test_each_requests_missing_output_is_counted_where_it_was() -> None:
    mixed = [frames("display_data", "x" * 10_000, f"cell-{number % 2}") for number in range(40)]
    gaps = [each for each in taken(filled(*mixed)) if isinstance(each, Gap)]
    assert sorted(each.parent["msg_id"] for each in gaps) == ["cell-0", "cell-1"]
    assert all(each.missed.size == 10_000 * each.missed.messages > 0 for each in gaps)


@pytest.mark.parametrize("odd", [[b""], [b"x" * 1000], [DELIM], frames("comm_msg", "y" * 1000)], ids=str)
def test_what_nobody_is_told_of_goes_without_a_word(odd: list[bytes]) -> None:
    assert set(taken(filled(*[odd] * 1000, frames("stream", "after")))) <= {odd[-1].decode() or "", "after"}


@pytest.mark.parametrize("request_of", [lambda _: "cell", str], ids=["of one request", "each of another"])
@pytest.mark.parametrize("msg_type", ["status", "stream", "execute_reply"])
def test_whatever_comes_in_whatever_number_the_bound_holds(msg_type: str, request_of: object) -> None:
    assert callable(request_of)
    backlog = filled(*(frames(msg_type, "", request_of(number)) for number in range(5000)), frames("stream", "last"))
    assert taken(backlog)[-1] == "last"


@pytest.mark.parametrize("size", [LIMIT * 6 // 10, LIMIT * 3 // 10, LIMIT * 11 // 10])
def test_large_output_is_counted_to_the_last_byte_and_no_begin_or_end_goes_with_it(size: int) -> None:
    marks = ["status", "execute_input", "execute_reply"]
    backlog = filled(*map(frames, marks), *[frames("stream", "x" * size)] * 6, *map(frames, marks))
    found = taken(backlog)
    assert found[:3] == found[-3:] == marks
    (gap,) = [each for each in found if isinstance(each, Gap)]
    assert gap.missed.messages + sum(str(each).startswith("x") for each in found) == 6
    assert gap.missed.size == size * gap.missed.messages > 0


def test_a_large_reply_costs_no_other_one() -> None:
    found = taken(filled(frames("execute_reply", "first"), frames("execute_reply", "x" * 2 * LIMIT)))
    assert found == ["first", "x" * 2 * LIMIT]


def test_where_even_begins_and_ends_are_too_much_the_largest_go_and_that_is_counted() -> None:
    many = [frames("execute_input", "x" * 10_000, "theirs") for _ in range(20)]
    found = taken(filled(frames("status"), *many, frames("execute_reply"), frames("status")))
    first, gap, *kept = found
    assert (first, kept[-2:]) == ("status", ["execute_reply", "status"])
    assert isinstance(gap, Gap)
    assert gap.missed == Missed(20 - len(kept[:-2]), 10_000 * (20 - len(kept[:-2])))


@pytest.mark.parametrize("msg_type", ["status", "stream"])
def test_of_requests_without_number_nothing_goes_uncounted(msg_type: str) -> None:
    sent = [frames(msg_type, "x" * 100, str(number)) for number in range(5000)]
    found = taken(filled(*sent))
    missed = sum((each.missed for each in found if isinstance(each, Gap)), Missed())
    kept = sum(not isinstance(each, Gap) for each in found)
    assert missed == Missed(5000 - kept, 100 * (5000 - kept))


def test_what_a_gap_keeps_of_its_request_is_short_whatever_the_request_is_called() -> None:
    long = "x" * LIMIT
    _request.cache_clear()
    found = taken(filled(*[frames("stream", "", long, username=long, more=long)] * 3))
    (gap,) = [each for each in found if isinstance(each, Gap)]
    assert gap.missed.messages > 0
    assert sum(map(len, (*gap.parent, *gap.parent.values()))) < 6 * LONGEST
    assert _request.cache_info().currsize == 0


def test_a_message_that_alone_is_more_than_the_bound_is_read_and_goes_for_the_next_one() -> None:
    backlog = Backlog(_head, LIMIT)
    backlog.add(frames("stream", "x" * 2 * LIMIT))
    assert backlog.size > 2 * LIMIT
    backlog.add(frames("stream", "next"))
    gap, last = taken(backlog)
    assert last == "next"
    assert isinstance(gap, Gap)
    assert gap.missed == Missed(1, 2 * LIMIT)
