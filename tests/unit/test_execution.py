"""The fold of one execution: the same result for every order of messages."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from bridge.execution import Execution
from bridge.journal import Journal
from bridge.messages import Channel, Message
from bridge.outputs import DisplayData, Error, ExecuteResult, Question, Stream


def message(msg_type: str, content: dict[str, Any], channel: Channel = "iopub") -> Message:
    return Message(channel, msg_type, "kernel", content, {}, "id", "execute_request", "us", "agent", in_subshell=False)


def status(state: str) -> Message:
    return message("status", {"execution_state": state})


def reply(status: str = "ok", **more: Any) -> Message:
    return message("execute_reply", {"status": status, "execution_count": 3, **more}, "shell")


def stream(text: str, name: str = "stdout") -> Message:
    return message("stream", {"name": name, "text": text})


def display(text: str, display_id: str | None = None, kind: str = "display_data") -> Message:
    transient = {"display_id": display_id} if display_id else {}
    return message(kind, {"data": {"text/plain": text}, "metadata": {}, "transient": transient})


def fold(*messages: Message, keep: int = 1000) -> Execution:
    execution = Execution(1, "id", "code", keep=keep)
    for each in messages:
        execution.feed(each)
    return execution


IOPUB = [status("busy"), message("execute_input", {"execution_count": 3}), stream("a"), stream("b"), status("idle")]


@pytest.mark.parametrize("place", range(len(IOPUB) + 1))
def test_the_reply_may_come_at_any_point_between_the_outputs(place: int) -> None:
    execution = fold(*IOPUB[:place], reply(), *IOPUB[place:])
    assert execution.done
    result = execution.result()
    assert (result.status, result.outputs, result.execution_count) == ("ok", (Stream("stdout", "ab"),), 3)


def test_nothing_is_done_before_both_reply_and_idle() -> None:
    assert not fold(*IOPUB).done
    assert not fold(*IOPUB[:-1], reply()).done


def test_it_is_queued_until_the_kernel_is_busy_with_it_and_running_after() -> None:
    assert fold().result().status == "queued"
    assert fold(status("busy")).result().status == "running"


def test_an_aborted_request_is_done_with_its_reply_and_was_not_run() -> None:
    execution = fold(reply("aborted"))
    assert execution.done
    assert execution.result().status == "aborted"


def test_what_the_code_raised_is_a_result() -> None:
    raised = message("error", {"ename": "E", "evalue": "v", "traceback": ["t1", "t2"]})
    result = fold(status("busy"), raised, reply("error"), status("idle")).result()
    assert (result.status, result.outputs) == ("error", (Error("E", "v", ("t1", "t2")),))


def test_an_error_that_is_in_the_reply_alone_is_told_too() -> None:
    replied = reply("error", ename="UsageError", evalue="no such magic")
    raised = message("error", {"ename": "UsageError", "evalue": "no such magic", "traceback": ["t"]})
    assert fold(stream("a"), replied).result().outputs == (Stream("stdout", "a"), Error("UsageError", "no such magic"))
    assert fold(replied, raised).result().outputs == (Error("UsageError", "no such magic", ("t",)),)


@pytest.mark.parametrize("written", ["UsageError: no such magic\n", "  | UsageError: no such magic\n  +--- 1 ---\n"])
def test_an_error_that_was_written_to_stderr_is_not_told_again_from_the_reply(written: str) -> None:
    replied = reply("error", ename="UsageError", evalue="no such magic")
    result = fold(stream(written, "stderr"), replied).result()
    assert (result.status, result.outputs) == ("error", (Stream("stderr", written),))
    printed = fold(stream(written), replied).result().outputs
    assert printed == (Stream("stdout", written), Error("UsageError", "no such magic"))


def test_a_cell_that_called_exit_is_marked() -> None:
    asks = reply(payload=[{"source": "ask_exit", "keepkernel": False}])
    assert fold(asks).result().ended_kernel
    assert not fold(reply(payload=[{"source": "set_next_input"}])).result().ended_kernel


def test_the_help_in_a_reply_is_shown_behind_what_the_cell_has_printed() -> None:
    page = {"source": "page", "data": {"text/plain": "Docstring"}, "start": 0}
    wrong = [{"source": "page"}, {"source": "page", "data": ["x"]}, {"source": "page", "data": {}}]
    execution = fold(status("busy"), reply(payload=[page, *wrong]), stream("a"), status("idle"))
    assert execution.result().outputs == (Stream("stdout", "a"), DisplayData({"text/plain": "Docstring"}))
    huge = {"source": "page", "data": {"text/plain": "x" * 1_000_000}}
    result = fold(status("busy"), reply(payload=[huge]), status("idle"), keep=200_000).result()
    [shown] = result.outputs
    assert isinstance(shown, DisplayData)
    assert len(shown.data["text/plain"]) <= 100_000
    assert "too large" in result.notes[0]


def test_streams_are_merged_only_where_they_touch() -> None:
    outputs = (
        fold(stream("a"), stream("b", "stderr"), stream("c"), display("d"), stream("e"), stream("f")).result().outputs
    )
    assert outputs == (
        Stream("stdout", "a"),
        Stream("stderr", "b"),
        Stream("stdout", "c"),
        DisplayData({"text/plain": "d"}),
        Stream("stdout", "ef"),
    )


def test_a_display_is_updated_in_place() -> None:
    outputs = fold(display("old", "x"), stream("a"), display("new", "x", "update_display_data")).result().outputs
    assert outputs == (DisplayData({"text/plain": "new"}), Stream("stdout", "a"))


def test_an_update_of_another_cells_display_is_told_with_its_last_state_and_outlives_a_clear() -> None:
    clear = message("clear_output", {"wait": False})
    updates = [display(text, name, "update_display_data") for text in ("1", "2") for name in ("x", "y")]
    outputs = fold(*updates, stream("a"), clear, stream("b")).result().outputs
    assert outputs == (
        Stream("stdout", "b"),
        DisplayData({"text/plain": "2"}, elsewhere=True),
        DisplayData({"text/plain": "2"}, elsewhere=True),
    )


def test_updates_of_other_cells_displays_stay_within_what_is_kept_and_the_loss_is_counted() -> None:
    updates = [display("u" * 100, str(number), "update_display_data") for number in range(100)]
    result = fold(*updates, keep=8000).result()
    assert len(result.outputs) * 100 + result.left_out == 10_000
    assert len(result.outputs) <= 10


def test_clear_output_clears_at_once_or_with_the_next_output() -> None:
    clear = message("clear_output", {"wait": False})
    later = message("clear_output", {"wait": True})
    assert fold(stream("a"), clear).result().outputs == ()
    assert fold(stream("a"), later).result().outputs == (Stream("stdout", "a"),)
    assert fold(stream("a"), later, stream("b")).result().outputs == (Stream("stdout", "b"),)


def asks(prompt: str, number: int = 1, **content: Any) -> Message:
    asked = message("input_request", {"prompt": prompt, "password": False} | content, "stdin")
    return dataclasses.replace(asked, header={"msg_id": f"q{number}"})


def test_it_asks_until_the_question_is_answered_also_where_stdin_is_ahead_of_all_else() -> None:
    execution = fold(asks("Name: "))
    assert (execution.result().status, execution.result().question) == ("asking", Question("q1", "Name: "))
    execution.close_question()
    assert (execution.result().status, execution.result().question) == ("running", None)
    execution.feed(asks("Age: ", 2))
    assert execution.result().question == Question("q2", "Age: ")


@pytest.mark.parametrize("end", [reply("error"), status("idle")])
def test_a_cell_that_has_ended_asks_nothing_in_whichever_order_it_is_told(end: Message) -> None:
    for order in ([asks("?"), end], [end, asks("?")]):
        result = fold(status("busy"), *order).result()
        assert result.status != "asking"
        assert result.question is None


def test_a_password_is_no_question() -> None:
    result = fold(status("busy"), asks("Token: ", password=True)).result()
    assert (result.status, result.question) == ("running", None)


def test_a_question_that_is_given_up_leaves_its_reason() -> None:
    execution = fold(asks("?"))
    execution.close_question("Nobody answered.")
    assert execution.result().notes == ("Nobody answered.",)


def test_an_endless_prompt_is_cut() -> None:
    question = fold(asks("?" * 1_000_000)).result().question
    assert question
    assert len(question.prompt) == 4000


def test_a_value_comes_with_its_number() -> None:
    value = message("execute_result", {"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3})
    assert fold(value).result().outputs == (ExecuteResult({"text/plain": "1"}, {}, 3),)


def test_output_beyond_what_is_kept_loses_its_middle_and_the_loss_is_counted() -> None:
    pieces = [f"{number:04d}" for number in range(1000)]
    result = fold(*map(stream, pieces), keep=400).result()
    text = "".join(each.text for each in result.outputs if isinstance(each, Stream))
    assert text.startswith("00000001")
    assert text.endswith("09980999")
    assert len(text) + result.left_out == 4000
    assert len(text) <= 400


def test_one_huge_message_keeps_its_head_and_its_tail() -> None:
    text = "".join(map(str, itertools.islice(itertools.cycle(range(10)), 1_000_000)))
    result = fold(stream(text), keep=400_000).result()
    kept = "".join(each.text for each in result.outputs if isinstance(each, Stream))
    assert (kept[:10], kept[-10:]) == (text[:10], text[-10:])
    assert len(kept) + result.left_out == len(text)


def test_clearing_forgets_what_was_left_out() -> None:
    execution = fold(stream("x" * 3000), message("clear_output", {"wait": False}), keep=400)
    assert execution.result().left_out == 0


def test_a_lost_kernel_ends_it_with_a_sentence_and_the_output_so_far() -> None:
    execution = fold(status("busy"), stream("a"))
    execution.lose("It died.")
    assert execution.done
    assert (execution.result().status, execution.result().notes) == ("lost", ("It died.",))
    assert execution.result().outputs == (Stream("stdout", "a"),)


def test_a_reply_that_was_read_before_the_loss_counts() -> None:
    execution = fold(*IOPUB[:-1], reply())
    execution.lose("It died.")
    assert (execution.result().status, execution.result().notes) == ("ok", ("It died.",))


def test_a_finished_execution_changes_no_more() -> None:
    execution = fold(*IOPUB, reply())
    execution.feed(stream("late"))
    execution.lose("It died.")
    assert execution.result().outputs == (Stream("stdout", "ab"),)
    assert execution.result().notes == ()


def test_nonsense_content_harms_nothing() -> None:
    execution = fold(message("stream", {}), message("display_data", {}), message("error", {}), message("no_such", {}))
    execution.feed(message("execute_reply", {}, "shell"))
    assert execution.replied


def test_it_runs_until_reply_or_idle_whichever_is_first() -> None:
    assert not fold().running
    assert fold(status("busy")).running
    assert not fold(status("busy"), status("idle")).running
    assert not fold(status("busy"), reply()).running


def test_of_a_display_that_is_too_large_the_smaller_forms_are_kept_and_the_rest_is_told() -> None:
    large = {"text/html": "h" * 5000, "image/png": "p" * 600, "text/plain": "<Figure>"}
    result = fold(status("busy"), message("display_data", {"data": large, "metadata": {}}), keep=2000).result()
    assert result.outputs == (DisplayData({"image/png": "p" * 600, "text/plain": "<Figure>"}, {}),)
    assert "text/html (5,000 characters)" in result.notes[0]
    assert result.left_out == 0
    assert isinstance(result.outputs[0], DisplayData)
    assert result.outputs[0].dropped == ("text/html",)


def test_outputs_know_their_place_in_the_journal_also_after_they_were_updated() -> None:
    journal = Journal(None)
    record = journal.book("lab").begin(kernel="k", msg_id="id", code="", client="c", username="a", number=1)
    execution = Execution(1, "id", "", record=record)
    updated = display("updated", "d", "update_display_data")
    raised = message("error", {"ename": "E", "evalue": "", "traceback": []})
    for each in (stream("text"), display("first", "d"), stream("more"), display("second"), updated, raised):
        execution.feed(each)
    page = record.page(0, text=1000, size=1000)
    assert page
    for outputs in (execution.result().outputs, page.outputs):
        assert [each.place for each in outputs if not isinstance(each, Stream)] == [1, 3, 4]
        assert outputs[1] == DisplayData({"text/plain": "updated"})
    assert journal.output(record.cell, 1, most=1000)[0] == DisplayData({"text/plain": "updated"})
    journal.close()
    journal.close()


def test_a_plain_text_that_is_too_large_is_kept_in_part() -> None:
    content = {"data": {"text/plain": "t" * 500_000}, "metadata": {}, "execution_count": 1}
    result = fold(status("busy"), message("execute_result", content), keep=400_000).result()
    assert isinstance(result.outputs[0], ExecuteResult)
    assert len(result.outputs[0].data["text/plain"]) == 64 * 1024
    assert "text/plain (500,000 characters)" in result.notes[0]


def test_an_error_is_never_lost_however_long_its_traceback() -> None:
    lines = [f"line {number} " + "x" * 1000 for number in range(3000)]
    raised = message("error", {"ename": "E", "evalue": "v", "traceback": lines})
    result = fold(status("busy"), raised, keep=1_000_000).result()
    assert result.outputs == (Error("E", "v", tuple(lines[-20:])),)
    assert "traceback was too large" in result.notes[0]


def test_a_display_that_grows_too_large_by_an_update_is_cut_too_and_told_once() -> None:
    updates = [display("u" * 100_000, "one", "update_display_data") for _ in range(5)]
    result = fold(status("busy"), display("a", "one"), *updates).result()
    assert isinstance(result.outputs[0], DisplayData)
    assert len(result.notes) == 1


def test_many_displays_that_grow_by_updates_stay_within_what_is_kept() -> None:
    displays = [display("a", str(number)) for number in range(100)]
    updates = [
        message("update_display_data", {"data": {"text/html": "h" * 400_000}, "transient": {"display_id": str(number)}})
        for number in range(100)
    ]
    result = fold(status("busy"), *displays, *updates, keep=1_000_000).result()
    kept = [each.data.get("text/html", "") for each in result.outputs if isinstance(each, DisplayData)]
    assert len(kept) == 100
    assert 400_000 <= sum(map(len, kept)) <= 1_000_000


@pytest.mark.parametrize("count", [2**63, -(2**63) - 1, 10**4000, "3", None])
def test_a_count_that_is_no_usual_number_is_none(count: Any) -> None:
    assert fold(message("execute_input", {"execution_count": count})).count is None
