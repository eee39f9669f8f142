"""What the IDE is owed, and what it holds in the kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.ide.ledger import Ledger, is_cell
from bridge.ide.wire import Frames
from bridge.messages import Channel


def made(msg_type: str, content: Any = None, msg_id: str = "1", parent: Any = None) -> Frames:
    header = {"msg_type": msg_type, "msg_id": msg_id}
    return Frames([b"client"], [json.dumps(each).encode() for each in (header, parent or {}, {}, content or {})])


def ask(ledger: Ledger, msg_type: str, content: Any = None, msg_id: str = "1", channel: Channel = "shell") -> None:
    ledger.asked(made(msg_type, content, msg_id), channel, content or {})


def answer(ledger: Ledger, msg_type: str, content: Any = None, parent_id: str = "1") -> Any:
    return ledger.answered(made(msg_type, content, "9", {"msg_id": parent_id}))


def run(ledger: Ledger, state: str, msg_id: str = "1", msg_type: str = "execute_request") -> None:
    parent = {"msg_id": msg_id, "msg_type": msg_type}
    ledger.status(made("status", {"execution_state": state}, "9", parent))


def test_a_request_is_open_until_its_reply_and_answered_where_it_came_from() -> None:
    ledger = Ledger()
    ask(ledger, "kernel_info_request", channel="shell")
    assert ledger.open() == ["1"]
    request = answer(ledger, "kernel_info_reply")
    assert (request.channel, request.route, request.reply_type) == ("shell", [b"client"], "kernel_info_reply")
    assert ledger.open() == []
    assert answer(ledger, "kernel_info_reply") is None


def test_what_is_no_request_is_not_waited_for() -> None:
    ledger = Ledger()
    ask(ledger, "comm_msg")
    assert ledger.open() == []


def test_requests_that_are_answered_otherwise_are_answered_once() -> None:
    ledger = Ledger()
    for number in "123":
        ask(ledger, "execute_request", msg_id=number)
    answer(ledger, "execute_reply", parent_id="2")
    assert [each.header["msg_id"] for each in ledger.taken(["1", "2"])] == ["1"]
    assert ledger.open() == ["3"]
    assert list(ledger.taken(["1"])) == []


@pytest.mark.parametrize(
    ("content", "seen"),
    [({}, True), ({"silent": True}, False), ({"store_history": False}, False), ({"store_history": True}, True)],
)
def test_a_cell_is_what_a_person_sees_until_it_ends(content: dict[str, Any], *, seen: bool) -> None:
    ledger = Ledger()
    ask(ledger, "execute_request", content)
    assert (is_cell(content), ledger.is_cell("1")) == (seen, seen)
    run(ledger, "idle")
    assert not ledger.is_cell("1")


def test_what_runs_is_the_ides_own_where_it_asked_for_it() -> None:
    ledger = Ledger()
    ask(ledger, "execute_request")
    run(ledger, "busy", "another's")
    assert not ledger.own_runs
    run(ledger, "busy")
    assert ledger.own_runs
    answer(ledger, "execute_reply")
    assert ledger.own_runs
    run(ledger, "idle")
    assert not ledger.own_runs


def test_a_completion_of_the_ides_is_no_code_that_runs() -> None:
    ledger = Ledger()
    ask(ledger, "complete_request")
    run(ledger, "busy", msg_type="complete_request")
    assert not ledger.own_runs


@pytest.mark.parametrize("ends", ["input_reply", "execute_reply"])
def test_a_question_stands_until_it_is_answered_or_its_cell_ends(ends: str) -> None:
    ledger = Ledger()
    ask(ledger, "execute_request")
    ledger.questioned(made("input_request", parent={"msg_id": "1"}))
    assert list(ledger.farewell()) == [("interrupt_request", {})]
    if ends == "input_reply":
        ask(ledger, "input_reply", msg_id="2", channel="stdin")
    else:
        answer(ledger, "execute_reply")
    assert list(ledger.farewell()) == []


def test_subshells_and_a_debugger_are_given_back() -> None:
    ledger = Ledger()
    ask(ledger, "create_subshell_request", channel="control")
    answer(ledger, "create_subshell_reply", {"subshell_id": "s"})
    ask(ledger, "debug_request", {"command": "attach"}, "2", "control")
    ask(ledger, "debug_request", {"command": "setBreakpoints"}, "3", "control")
    assert [(kind, content.get("command")) for kind, content in ledger.farewell()] == [
        ("debug_request", "disconnect"),
        ("delete_subshell_request", None),
    ]
    ask(ledger, "debug_request", {"command": "disconnect"}, "4", "control")
    assert [kind for kind, _ in ledger.farewell()] == ["delete_subshell_request"]
    ask(ledger, "delete_subshell_request", {"subshell_id": "s"}, "5", "control")
    assert list(ledger.farewell()) == []


def test_a_new_process_holds_nothing_and_what_waits_is_still_for_it() -> None:
    ledger = Ledger()
    for number in "12":
        ask(ledger, "execute_request", msg_id=number)
    run(ledger, "busy")
    ledger.questioned(made("input_request", parent={"msg_id": "1"}))
    list(ledger.taken(["1"]))
    ledger.restarted()
    assert (list(ledger.farewell()), ledger.own_runs, ledger.open()) == ([], False, ["2"])
    assert (ledger.is_cell("1"), ledger.is_cell("2")) == (False, True)


@pytest.mark.parametrize(("told", "count"), [(7, 7), (None, 0), ("7", 0), ({}, 0)])
def test_the_execution_number_is_the_last_that_was_told(told: Any, count: int) -> None:
    ledger = Ledger()
    answer(ledger, "execute_reply", {"execution_count": told})
    assert ledger.count == count
