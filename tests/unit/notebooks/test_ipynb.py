"""A notebook that every program opens, whatever code has printed."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.journal import Journal, Record
from bridge.journals import Journals
from bridge.notebooks.ipynb import notebook
from bridge.notebooks.parts import parts
from bridge.outputs import DisplayData, Error, ExecuteResult, Stream

MiB = 1 << 20
LANGUAGE = {"name": "python", "version": "3.13.1", "codemirror_mode": {"name": "ipython"}, "file_extension": 7}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, 256 * MiB)
    yield made
    made.close()


def begin(journal: Journal, code: str, *, by: str = "alice", kernel: str = "p1", language: Any = LANGUAGE) -> Record:
    book = journal.book("lab", fingerprint="f1", spec="python3")
    book.speaks(language)
    number = 1 + sum(1 for _ in journal.cells("1"))
    return book.begin(kernel=kernel, msg_id=f"m{number}", code=code, client="c", username=by)


def texts(directory: Path, **chosen: Any) -> Iterator[str]:
    journals = Journals(directory)
    [history] = journals.histories()
    yield from notebook(history, parts(history, journals.entries(history), **chosen))


def written(directory: Path, **chosen: Any) -> str:
    return "".join(texts(directory, **chosen))


def sources(found: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in found["cells"]]


def test_every_kind_of_output_is_written_as_the_format_has_it(
    journal: Journal, tmp_path: Path, notebook_of: Any
) -> None:
    record = begin(journal, "code\nmore")
    for output in (
        Stream("stdout", "one\ntwo"),
        Stream("stderr", "err\n"),
        DisplayData({"image/png": "aGk=\n", "text/html": "<b>\n</b>"}, {"image/png": {"width": 3}}),
        ExecuteResult({"text/plain": "41", "application/json": {"a": [1]}}, {}, 5),
        Error("E", "v", ("\x1b[31mt1", "t2")),
    ):
        record.add(output)
    record.end("error", 5)
    cell = notebook_of(written(tmp_path))["cells"][-1]
    assert cell["source"] == ["code\n", "more"]
    assert cell["execution_count"] == 5
    assert cell["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two"]},
        {"output_type": "stream", "name": "stderr", "text": ["err\n"]},
        {
            "output_type": "display_data",
            "data": {"image/png": "aGk=\n", "text/html": ["<b>\n", "</b>"]},
            "metadata": {"image/png": {"width": 3}},
        },
        {
            "output_type": "execute_result",
            "data": {"text/plain": ["41"], "application/json": {"a": [1]}},
            "metadata": {},
            "execution_count": 5,
        },
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[31mt1", "t2"]},
    ]


def test_it_says_who_ran_each_cell_in_the_data_and_where_the_author_changes_in_words(
    journal: Journal, tmp_path: Path, notebook_of: Any
) -> None:
    for code, by in (("1", "alice"), ("2", "alice"), ("3", "claude, code*"), ("4", "alice"), ("5", "")):
        begin(journal, code, by=by).end("ok", int(code))
    found = notebook_of(written(tmp_path))
    cells = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert [cell["metadata"]["kernel_bridge"]["by"] for cell in cells] == [
        *("alice", "alice", "claude, code*", "alice", "another client")
    ]
    assert [cell["metadata"]["tags"] for cell in cells[1:4]] == [["by-alice"], ["by-claude-code"], ["by-alice"]]
    shown = [each.partition(", 2")[0] for each in sources(found)[1:]]
    assert shown == ["*alice", "1", "2", r"*claude, code\*", "3", "*alice", "4", "*another client", "5"]
    about = cells[0]["metadata"]["kernel_bridge"]
    assert set(about) == {"by", "client", "began", "ended", "execution", "status"}


def test_a_restart_is_told_between_the_cells(journal: Journal, tmp_path: Path, notebook_of: Any) -> None:
    begin(journal, "x = 1").end("ok", 1)
    begin(journal, "x", kernel="p2").end("error", 1)
    _, _, before, restart, who, after = sources(notebook_of(written(tmp_path)))
    assert (before, after) == ("x = 1", "x")
    assert "restarted here. All variables from before are lost" in restart
    assert who.startswith("*alice")


def test_what_did_not_end_as_cells_do_is_told_below_it(journal: Journal, tmp_path: Path, notebook_of: Any) -> None:
    begin(journal, "a").end("aborted", None)
    begin(journal, "b").end("lost", 2)
    begin(journal, "c")
    _, _, _, aborted, _, lost, _, going_on = sources(notebook_of(written(tmp_path)))
    assert "never ran" in aborted
    assert "ended before this cell did" in lost
    assert "had not ended when this was written" in going_on
    journal.close()
    assert "The bridge that saw this cell ended before the cell did" in sources(notebook_of(written(tmp_path)))[-1]


def test_hostile_output_makes_no_invalid_notebook(journal: Journal, tmp_path: Path, notebook_of: Any) -> None:
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    record = begin(journal, "c\ud800\0\u2028", by="\n# evil\r\x1b[31m\u202e " * 50)
    for output in (
        Stream("stdout", "\ud800 \0 \x1b[0m \u2028 \r\n\x85"),
        Stream("stdout", ""),
        DisplayData({"text/plain": 3, "a/b": {"x": float("nan")}, "application/json": [float("inf"), "\udfff"]}),
        DisplayData({"application/x+json": {"\ud800": {1: None}}, "text/html": ["a", "b"], "": None}),
        DisplayData({"application/json": deep}),
        ExecuteResult({}, {"m": float("nan")}, -4),
        Error("\ud800", "\0", ()),
    ):
        record.add(output)
    record.end("error", -1)
    cell = notebook_of(written(tmp_path))["cells"][2]
    assert "".join(cell["outputs"][0]["text"]) == "\ufffd \0 \x1b[0m \u2028 \r\n\x85"
    assert cell["outputs"][1]["data"]["application/json"] == [None, "\ufffd"]
    assert "".join(cell["outputs"][1]["data"]["a/b"]) == '{"x": null}'
    assert "\n" not in cell["metadata"]["kernel_bridge"]["by"]


def test_the_kernels_own_words_about_its_language_are_taken_as_far_as_they_are_sound(
    journal: Journal, tmp_path: Path, notebook_of: Any
) -> None:
    begin(journal, "1")
    metadata = notebook_of(written(tmp_path))["metadata"]
    assert metadata["kernelspec"] == {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    assert metadata["language_info"] == {
        "name": "python",
        "version": "3.13.1",
        "codemirror_mode": {"name": "ipython"},
    }
    begin(journal, "2", language=["odd"])
    assert "language_info" not in notebook_of(written(tmp_path))["metadata"]


def test_it_is_laid_out_as_jupyter_lays_it_out(journal: Journal, tmp_path: Path) -> None:
    record = begin(journal, "print('é')\n1")
    record.add(Stream("stdout", "é\n"))
    record.add(ExecuteResult({"text/plain": "1"}, {}, 1))
    begin(journal, "")
    text = written(tmp_path)
    assert text == json.dumps(json.loads(text), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def test_what_was_too_much_is_said_where_it_is_missing_and_what_was_chosen_at_the_top(
    tmp_path: Path, notebook_of: Any
) -> None:
    journal = Journal(tmp_path, 2 * MiB)
    record = begin(journal, "flood")
    for _ in range(100):
        record.add(Stream("stdout", "x" * 65_535 + "\n"))
    found = notebook_of(written(tmp_path, forgotten=True, only="alice"))
    head, gap, tail = found["cells"][-2]["outputs"]
    assert head["name"] == tail["name"] == "stdout"
    missing = gap["metadata"]["kernel_bridge"]["missing"]
    assert missing + sum(len("".join(each["text"])) for each in (head, tail)) == 100 * 65_536
    assert f"{missing:,} bytes of output are missing here" in gap["data"]["text/plain"][0]
    first = sources(found)[0]
    assert "had to make room" in first
    assert "only the cells of alice" in first
    journal.close()


def test_a_long_history_is_never_in_memory_as_a_whole(journal: Journal, tmp_path: Path) -> None:
    for number in range(4):
        record = begin(journal, f"{number}")
        for _ in range(256):
            record.add(Stream("stdout", ("x" * 1023 + "\n") * 64))
        record.end("ok", number)
    tracemalloc.start()
    size = sum(len(text) for text in texts(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 64 * MiB
    assert peak < 8 * MiB


def test_a_cell_whose_begin_nobody_saw_says_so(journal: Journal, tmp_path: Path, notebook_of: Any) -> None:
    begin(journal, "").end("ok", None)
    begin(journal, "x = 1").end("ok", None)
    found = sources(notebook_of(written(tmp_path)))
    said = "*This cell began before a bridge was connected: its code and earlier output were not seen.*"
    assert found[-3:] == [said, "", "x = 1"]
