"""The fold of one execution under every order, repetition and content of messages that hypothesis thinks of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.execution import Execution
from bridge.messages import Channel, Message
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Result, Stream
from bridge.render import to_tool_result


def message(msg_type: str, content: dict[str, Any], channel: Channel = "iopub") -> Message:
    return Message(channel, msg_type, "kernel", content, {}, "id", "execute_request", "us", "agent", in_subshell=False)


def status(state: str) -> Message:
    return message("status", {"execution_state": state})


def reply(word: str = "ok") -> Message:
    return message("execute_reply", {"status": word, "execution_count": 3}, "shell")


def fold(messages: Iterable[Message]) -> Execution:
    execution = Execution(1, "id", "code")
    for each in messages:
        execution.feed(each)
    return execution


BEGINNING = [status("busy"), message("execute_input", {"execution_count": 3, "code": "code"})]

texts = st.text(alphabet="ab\n\r\x1b😀\x00\ud800", max_size=6)
names = st.sampled_from(["stdout", "stderr"])
display_ids = st.sampled_from(["x", "y"])


def shown(kind: str, text: str, display_id: str | None) -> Message:
    transient = {"display_id": display_id} if display_id else {}
    content = {"data": {"text/plain": text}, "metadata": {}, "transient": transient}
    return message(kind, content | ({"execution_count": 3} if kind == "execute_result" else {}))


outputs = st.one_of(
    st.builds(lambda text, name: message("stream", {"name": name, "text": text}), texts, names),
    st.builds(shown, st.sampled_from(["display_data", "execute_result"]), texts, st.none() | display_ids),
    st.builds(shown, st.just("update_display_data"), texts, display_ids),
    st.builds(lambda wait: message("clear_output", {"wait": wait}), st.booleans()),
    st.builds(lambda text: message("error", {"ename": "E", "evalue": text, "traceback": [text]}), texts),
)
several = st.lists(outputs, max_size=12)
replied = st.lists(st.sampled_from(["ok", "error"]), min_size=1, max_size=3)


@given(iopub=several, late=several, place=st.integers(0, 40), words=replied)
def test_every_merge_of_the_two_sockets_gives_the_same_result(
    iopub: list[Message], late: list[Message], place: int, words: list[str]
) -> None:
    """Shell and iopub may be ahead of each other by any number of messages, and a reply may be sent again.

    What a thread of the cell writes after its idle is not the cell's, whether or not the reply has come by then.
    """
    published = [*BEGINNING, *iopub, status("idle"), *late, status("idle")]
    replies = [reply(word) for word in words]
    merged = fold([*published[:place], *replies, *published[place:]])
    assert merged.done
    assert merged.result() == fold([*BEGINNING, *iopub, status("idle"), replies[0]]).result()


@given(iopub=several, place=st.integers(0, 20))
def test_where_the_idle_never_comes_all_that_was_published_is_in_the_result_with_a_note(
    iopub: list[Message], place: int
) -> None:
    published = [*BEGINNING, *iopub]
    execution = fold([*published[:place], reply(), *published[place:]])
    assert not execution.done
    execution.close("missing")
    whole = fold([*published, status("idle"), reply()]).result()
    assert (execution.result().outputs, execution.result().notes) == (whole.outputs, ("missing",))


def test_an_idle_from_before_the_cell_began_is_not_its_end() -> None:
    execution = fold([status("idle"), reply(), *BEGINNING, message("stream", {"name": "stdout", "text": "a"})])
    assert not execution.done
    execution.feed(status("idle"))
    assert execution.result().outputs == (Stream("stdout", "a"),)
    assert execution.done


def as_a_notebook_would(messages: Sequence[Message]) -> tuple[Output, ...]:
    """The naive model: a list of outputs that is cleared and updated, and whose touching streams are joined."""
    cells: list[tuple[Output, str | None]] = []
    clear_next = False
    for each in messages:
        content = each.content
        if each.msg_type == "clear_output":
            clear_next = content["wait"]
            cells = cells if content["wait"] else []
            continue
        display_id = content.get("transient", {}).get("display_id")
        if each.msg_type == "update_display_data":
            new = DisplayData(content["data"], {})
            cells = [(new if display_id == known else old, known) for old, known in cells]
            continue
        cells = [] if clear_next else cells
        clear_next = False
        if each.msg_type == "stream":
            output: Output = Stream(content["name"], content["text"])
        elif each.msg_type == "error":
            output = Error("E", content["evalue"], tuple(content["traceback"]))
        elif each.msg_type == "execute_result":
            output = ExecuteResult(content["data"], {}, 3)
        else:
            output = DisplayData(content["data"], {})
        cells.append((output, display_id))
    joined: list[Output] = []
    written = [each for each, _ in cells if not isinstance(each, Stream) or each.text]
    for name, group in itertools.groupby(written, lambda each: each.name if isinstance(each, Stream) else None):
        if name is None:
            joined.extend(group)
        else:
            joined.append(Stream(name, "".join(each.text for each in group if isinstance(each, Stream))))
    return tuple(joined)


@given(several)
def test_clearing_and_updating_leave_what_a_notebook_would_show(messages: list[Message]) -> None:
    # what is told of other cells' displays is no output of this one
    outputs = tuple(each for each in fold(messages).result().outputs if not getattr(each, "elsewhere", False))
    assert outputs == as_a_notebook_would(messages)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
FORMS = ("text/plain", "text/html", "text/latex", "image/png", "application/json")
FIELDS = {
    "execute_reply": ("status", "execution_count", "payload"),
    "status": ("execution_state",),
    "execute_input": ("execution_count", "code"),
    "stream": ("name", "text"),
    "display_data": ("data", "metadata", "transient"),
    "update_display_data": ("data", "metadata", "transient"),
    "execute_result": ("data", "metadata", "transient", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
    "clear_output": ("wait",),
    "input_request": ("prompt", "password"),
    "no_such_type": ("x",),
}


def odd(kind: str) -> st.SearchStrategy[Message]:
    bundles = st.dictionaries(st.sampled_from((*FORMS, "display_id", "source")), json_values, max_size=3)
    content = st.dictionaries(st.sampled_from(FIELDS[kind]), json_values | bundles | st.lists(bundles, max_size=2))
    channels: st.SearchStrategy[Channel] = st.sampled_from(["shell", "iopub", "stdin", "control"])
    return st.builds(message, st.just(kind), content, channels)


def as_sent(result: Result) -> str:
    return to_tool_result(result, kernel="k", max_output=2000, max_result=5000).model_dump_json()


def ends(execution: Execution) -> None:
    for each in (*BEGINNING, status("idle"), reply()):
        execution.feed(each)
    assert execution.done


@given(st.lists(st.sampled_from(sorted(FIELDS)).flatmap(odd), max_size=8))
def test_no_content_of_a_message_raises_or_keeps_the_cell_from_its_end(messages: list[Message]) -> None:
    execution = fold(messages)
    assert isinstance(execution.result().execution_count, int | None)
    assert as_sent(execution.result())
    ends(execution)
    assert as_sent(execution.result())


@pytest.mark.parametrize("kind", FIELDS)
def test_no_depth_of_nesting_in_a_message_raises_or_keeps_the_cell_from_its_end(kind: str) -> None:
    in_lists: Any = "x"
    in_mappings: Any = "x"
    for _ in range(3000):
        in_lists, in_mappings = [in_lists], {"data": in_mappings}
    for nested, field in itertools.product((in_lists, in_mappings), FIELDS[kind]):
        execution = fold([message(kind, {field: nested})])
        for form in FORMS:
            execution.feed(message(kind, {field: {form: nested, "display_id": nested}}))
        assert as_sent(execution.result())
        ends(execution)
