"""A cell's result as a test's author has it."""

from __future__ import annotations

import base64
import pickle

import pytest

from bridge.kernels.listing import Outcome
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Result, Status, Stream
from bridge.testing.cells import LONGEST, Cell, dedented, made, timed_out

PNG = b"\x89PNG\r\n\x1a\nrest"
RAISED = Error("ZeroDivisionError", "division by zero", ("\x1b[31mZeroDivisionError\x1b[39m", "----> 1 1/0"))


def cell(*outputs: Output, status: Status = "ok", code: str = "1/0", notes: tuple[str, ...] = ()) -> Cell:
    return made(code, Outcome("k", (), Result(1, status, outputs, notes=notes)))


def test_what_was_printed_is_kept_as_it_is_and_apart() -> None:
    printed = cell(
        Stream("stdout", "one\n"), Stream("stderr", "\x1b[31mbad\x1b[0m\n"), Stream("stdout", "two"), code="go()"
    )
    assert (printed.stdout, printed.stderr) == ("one\ntwo", "\x1b[31mbad\x1b[0m\n")
    assert printed.printed == "one\nbad\ntwo"
    assert (printed.value, printed.displays, printed.error, printed.notes) == (None, (), None, ())


def test_the_last_expression_has_its_text_and_its_other_forms() -> None:
    shown = cell(DisplayData({"text/plain": "a"}), ExecuteResult({"text/plain": "42", "text/html": "<b>42</b>"}))
    assert shown.value == "42"
    assert shown.displays == ({"text/plain": "a"}, {"text/plain": "42", "text/html": "<b>42</b>"})


def test_an_image_is_its_bytes_and_an_svg_is_text() -> None:
    encoded = base64.encodebytes(PNG).decode()
    shown = cell(
        DisplayData({"image/png": encoded, "text/plain": "<Figure>"}),
        DisplayData({"image/svg+xml": "<svg/>"}),
        DisplayData({"application/json": {"a": 1}, "application/x": "abcd"}),
    )
    assert shown.images == (PNG,)
    assert shown.displays[0]["image/png"] == PNG
    assert shown.displays[1] == {"image/svg+xml": "<svg/>"}
    assert shown.displays[2] == {"application/json": {"a": 1}, "application/x": "abcd"}
    assert shown.printed == "<Figure>\n[image/svg+xml]\n[application/json, application/x]"


def test_what_only_says_that_it_is_an_image_stays_as_it_is() -> None:
    shown = cell(DisplayData({"image/png": "no base64!"}))
    assert shown.displays == ({"image/png": "no base64!"},)
    assert shown.images == ()


def test_an_error_holds_the_code_the_output_before_and_the_traceback_without_colours() -> None:
    error = cell(Stream("stdout", "so far\n"), RAISED, status="error", notes=("The kernel is new.",)).error
    assert error
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
    assert error.traceback == "ZeroDivisionError\n----> 1 1/0"
    assert str(error) == (
        "ZeroDivisionError: division by zero\nThe kernel is new.\n\nThe cell:\n    1/0\n\nIts output:\n    so far\n\n"
        "ZeroDivisionError\n----> 1 1/0"
    )


def test_an_interrupt_tells_first_why_it_was_made() -> None:
    error = cell(Error("KeyboardInterrupt", ""), status="error", notes=("The cell asks for input.",)).error
    assert str(error).startswith("The cell asks for input.\nKeyboardInterrupt\n\nThe cell:\n")


def test_an_error_that_the_cell_has_caught_and_shown_is_output() -> None:
    shown = cell(RAISED)
    assert shown.error is None
    assert shown.printed == "ZeroDivisionError\n----> 1 1/0"


def test_an_error_of_which_nothing_is_known_is_one_all_the_same() -> None:
    error = cell(status="error").error
    assert error
    assert error.ename == "Error"


def test_a_long_text_is_cut_in_its_middle_and_the_output_itself_is_not() -> None:
    long = cell(Stream("stdout", "line\n" * LONGEST), RAISED, status="error")
    assert "left out" in str(long.error)
    assert len(str(long.error)) < 3 * LONGEST
    assert long.stdout == "line\n" * LONGEST


def test_output_that_was_not_kept_is_told() -> None:
    result = Result(1, "ok", (Stream("stdout", "a"),), left_out=7)
    assert made("", Outcome("k", ("The kernel is new.",), result)).notes == (
        "The kernel is new.",
        "7 bytes of the output are missing in its middle: it was more than is kept.",
    )


def test_a_late_cell_shows_its_output_and_where_it_was() -> None:
    late = cell(Stream("stdout", "begun\n"), Error("KeyboardInterrupt", "", ("at line 3",)), status="error", code="a()")
    error = timed_out(late, "It was late.")
    assert str(error) == "It was late.\n\nThe cell:\n    a()\n\nIts output:\n    begun\n\nat line 3"
    assert error.cell is late
    assert isinstance(error, TimeoutError)


def test_errors_can_be_handed_to_another_process() -> None:
    error = cell(RAISED, status="error").error
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(again), again.ename, again.evalue) == (str(error), "ZeroDivisionError", "division by zero")


@pytest.mark.parametrize(
    ("code", "stands"),
    [
        ("x = 1", "x = 1"),
        ("\n    if x:\n        y\n    ", "if x:\n    y\n"),
        ("\n    %%time\n    x\n", "%%time\nx"),
        ("if x:\n    y", "if x:\n    y"),
        ('t = """\n   \n  a"""', 't = """\n   \n  a"""'),
    ],
)
def test_code_that_is_indented_with_its_test_moves_to_the_margin(code: str, stands: str) -> None:
    assert dedented(code) == stands
