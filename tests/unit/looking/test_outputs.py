"""What IPython keeps of a cell's output, read by what runs inside, run here."""

from __future__ import annotations

import json
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from bridge import looking
from bridge.errors import KernelError, UsageError
from bridge.looking.outputs import PutOut, read_outputs
from bridge.outputs import Error, ExecuteResult, Stream

inside: dict[str, Any] = {}
for module in looking._inside((*looking._COMMON, "outputs")):
    exec(compile(module, "<inside>", "exec"), inside)  # noqa: S102 - our own


class HistoryOutput:
    """As IPython's (`IPython.core.history`)."""

    def __init__(self, output_type: str, bundle: Any) -> None:
        self.output_type, self.bundle = output_type, bundle


def stream(text: Any, kind: str = "out_stream") -> HistoryOutput:
    return HistoryOutput(kind, {"stream": [text]})


def told(entries: Any, error: Any = None, count: int = 3) -> PutOut:
    kept: dict[int, Any] = defaultdict(list, {3: entries})
    shell = SimpleNamespace(history_manager=SimpleNamespace(outputs=kept, exceptions={3: error} if error else {}))
    answer = inside["answer"](lambda: inside["outputs"](shell, count))
    return read_outputs(repr(answer), count)


def test_texts_value_and_exception_come_in_their_order() -> None:
    error = {"ename": "E", "evalue": "v", "traceback": ["one", "two"]}
    entries = [
        HistoryOutput("out_stream", {"stream": ["a", "b"]}),
        stream("e", "err_stream"),
        HistoryOutput("execute_result", {"text/plain": "42", "image/png": b"bytes"}),
    ]
    assert told(entries, error).outputs == (
        Stream("stdout", "ab"),
        Stream("stderr", "e"),
        ExecuteResult({"text/plain": "42"}, {}, 3),
        Error("E", "v", ("one", "two")),
    )


def test_a_cell_of_which_nothing_is_kept_has_put_out_nothing() -> None:
    assert told([stream("a")], count=4) == PutOut((), 0)


def test_a_kernel_that_keeps_nothing_is_told() -> None:
    shell = SimpleNamespace(history_manager=None)
    answer = inside["answer"](lambda: inside["outputs"](shell, 1))
    with pytest.raises(UsageError, match="does not keep"):
        read_outputs(repr(answer), 1)


@pytest.mark.parametrize(
    "sizes",
    [[inside["MOST"] * 3], [inside["MOST"], inside["MOST"] + 1], [inside["MOST"] // 2] * 7, [1] * 5, []],
    ids=["one", "two", "many", "short", "none"],
)
def test_of_very_much_the_first_and_the_last_is_told_and_the_rest_counted(sizes: list[int]) -> None:
    texts = [chr(97 + number) * size for number, size in enumerate(sizes)]
    put_out = told([stream(each) for each in texts])
    shown = "".join(each.text for each in put_out.outputs if isinstance(each, Stream))
    whole, most = "".join(texts), inside["MOST"]
    assert len(shown) + put_out.left_out == len(whole)
    assert len(shown) == min(len(whole), 2 * most)
    assert (shown[:most], shown[-most:]) == (whole[:most], whole[-most:])


def test_what_is_not_ipythons_own_is_passed_over() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise AssertionError

    entries = [object(), stream(Text("x")), stream(7), HistoryOutput("out_stream", []), stream("real"), None]
    assert [each for each in told(entries).outputs if each != Stream("stdout", "")] == [Stream("stdout", "real")]
    assert told("no list").outputs == ()
    assert told([], error="no dictionary").outputs == ()


@pytest.mark.parametrize(
    "answer", ["{}", {"outputs": [["error", 1]], "left_out": 0}, {"outputs": [[]], "left_out": 0}, {"outputs": 7}]
)
def test_an_answer_that_is_none_is_told_as_such(answer: Any) -> None:
    with pytest.raises(KernelError, match="cannot be read"):
        read_outputs(repr(json.dumps(answer)), 1)
