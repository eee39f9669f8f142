"""Names compared by the objects that they are bound to; what runs inside, run here."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from bridge import looking
from bridge.errors import KernelError
from bridge.looking.names import Names, changes, read_names


def look(namespace: dict[Any, Any], hidden: dict[str, Any] | None = None) -> Names:
    shell = SimpleNamespace(user_ns=namespace, user_ns_hidden=hidden or {})
    inside: dict[str, Any] = {}
    for text in looking._inside((*looking._COMMON, "names")):
        exec(text, inside)  # noqa: S102 - as in the kernel
    return read_names(repr(inside["answer"](lambda: inside["names"](shell))))


def test_bound_rebound_and_deleted_names_are_told_apart() -> None:
    kept, old, new = object(), object(), object()
    before = look({"kept": kept, "again": old, "gone": 1, "number": 1.5})
    told = changes(before, look({"kept": kept, "again": new, "number": 2.5, "new": kept}))
    assert (told.bound, told.rebound, told.deleted, told.left_out) == (("new",), ("again", "number"), ("gone",), 0)


def test_an_object_that_was_changed_in_place_is_the_same() -> None:
    values: list[int] = []
    before = look({"values": values})
    values.append(1)
    told = changes(before, look({"values": values}))
    assert (told.bound, told.rebound, told.deleted) == ((), (), ())


def test_what_ipython_put_there_and_private_names_are_left_out() -> None:
    quit_ = object()
    assert set(look({"quit": quit_, "_": 1, "__name__": 2, "x": 3, 4: 5}, {"quit": quit_}).marks) == {"x"}
    assert set(look({"quit": 1}, {"quit": quit_}).marks) == {"quit"}


def test_nothing_of_the_users_is_called() -> None:
    class Hostile(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return hash("x")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        def __repr__(self) -> str:
            raise AssertionError("shown")

    namespace: dict[Any, Any] = {Hostile("x"): 1, "y": Hostile("z")}
    assert set(look(namespace, {}).marks) == {"y"}


def test_very_many_names_are_bounded_and_counted() -> None:
    many = look({f"name_{number:05}": number for number in range(12_000)})
    assert (len(many.marks), many.left_out) == (10_000, 2_000)
    told = changes(Names({}, 0), many)
    assert len(told.bound) == 50
    assert told.left_out == 12_000 - 50


@pytest.mark.parametrize(
    "answer", ["", "17", repr("no JSON"), repr("[]"), repr(json.dumps({"names": 1, "left_out": 0}))]
)
def test_an_answer_that_is_none_is_an_error_in_words(answer: str) -> None:
    with pytest.raises(KernelError, match="cannot be read"):
        read_names(answer)
