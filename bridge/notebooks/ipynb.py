"""A history as a Jupyter notebook, format 4.5 (https://nbformat.readthedocs.io/en/latest/format_description.html).

The one rule: laid out as Jupyter writes it, so that a difference between two exports can be read; and never larger in
memory than its largest output.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge.journals import Entry, History, Missing
from bridge.notebooks.parts import Remark, by, cell_id, in_one_line, sound, tag
from bridge.outputs import Error, ExecuteResult, Output, Stream

_JSON = re.compile(r"application/(.*\+)?json")
# Beside all `text/…`, the forms that Jupyter writes as a list of lines.
_IN_LINES = ("application/javascript", "image/svg+xml")
# Of `language_info`, what the schema wants as text; a kernel may tell anything.
_TEXTS = ("name", "version", "mimetype", "file_extension", "pygments_lexer", "nbconvert_exporter")


def notebook(history: History, parts: Iterable[Remark | Entry]) -> Iterator[str]:
    """Yield the notebook's text."""
    yield '{\n "cells": ['
    for number, part in enumerate(parts):
        yield ",\n  " if number else "\n  "
        yield from _code(part) if isinstance(part, Entry) else _markdown(part)
    yield f'\n ],\n "metadata": {_written(_metadata(history), 1)},\n "nbformat": 4,\n "nbformat_minor": 5\n}}\n'


def _markdown(remark: Remark) -> Iterator[str]:
    yield _written(
        {
            "cell_type": "markdown",
            "id": remark.id,
            "metadata": {"tags": ["kernel-bridge"]},
            "source": _lines(remark.markdown),
        },
        2,
    )


def _code(entry: Entry) -> Iterator[str]:
    cell = entry.cell
    known = {
        "began": cell.began.isoformat(),
        "by": by(entry),
        "client": sound(cell.client),
        "ended": cell.ended and cell.ended.isoformat(),
        "execution": cell.number,
        "status": cell.status,
    }
    head = {
        "cell_type": "code",
        "execution_count": _count(cell.count),
        "id": cell_id(entry),
        "metadata": {"kernel_bridge": known, "tags": [tag(entry)]},
    }
    yield _written(head, 2).removesuffix("\n  }")
    yield ',\n   "outputs": ['
    empty = True
    for text in _outputs(entry.outputs()):
        empty = False
        yield text
    yield "" if empty else "\n   "
    yield f'],\n   "source": {_written(_lines(sound(cell.code)), 3)}\n  }}'


def _outputs(outputs: Iterable[Output | Missing]) -> Iterator[str]:
    before = "\n    "
    for name, group in itertools.groupby(outputs, lambda each: each.name if isinstance(each, Stream) else None):
        if name is None:
            for each in group:
                yield before + _shown(each)
                before = ",\n    "
            continue
        # pieces of one stream are one output, written as they come
        yield f'{before}{{\n     "name": "{name}",\n     "output_type": "stream",\n     "text": ['
        between = "\n      "
        for each in group:
            lines = _lines(sound(each.text)) if isinstance(each, Stream) else []
            if lines:
                yield between + ",\n      ".join(map(_string, lines))
                between = ",\n      "
        yield "\n     ]\n    }" if between.startswith(",") else "]\n    }"
        before = ",\n    "


def _shown(output: Output | Missing) -> str:
    try:
        return _written(_document(output), 4)
    except RecursionError:
        return _written(_document(Missing(0)), 4)


def _document(output: Output | Missing) -> dict[str, Any]:
    if isinstance(output, Missing):
        said = f"[{f'{output.size:,} bytes of output are' if output.size else 'output is'} missing here: not kept]"
        return {
            "data": {"text/plain": [said]},
            "metadata": {"kernel_bridge": {"missing": output.size}},
            "output_type": "display_data",
        }
    if isinstance(output, Error):
        return {
            "ename": sound(output.ename),
            "evalue": sound(output.evalue),
            "output_type": "error",
            "traceback": [sound(line) for line in output.traceback],
        }
    assert not isinstance(output, Stream)  # noqa: S101 - those are written in pieces
    forms = {sound(form): _form(form, content) for form, content in output.data.items()}
    document = {"data": forms, "metadata": _plain(dict(output.metadata)), "output_type": "display_data"}
    if isinstance(output, ExecuteResult):
        document |= {"execution_count": _count(output.execution_count), "output_type": "execute_result"}
    return document


def _form(form: str, content: Any) -> Any:
    """Return one form of an output as the schema has it: JSON under a name that says so, text under any other."""
    if _JSON.fullmatch(form):
        return _plain(content)
    if isinstance(content, list) and all(isinstance(each, str) for each in content):
        content = "".join(content)
    text = sound(content) if isinstance(content, str) else json.dumps(_plain(content))
    return _lines(text) if form.startswith("text/") or form in _IN_LINES else text


def _plain(value: Any) -> Any:
    """Return JSON that every reader takes: what is no number there is null, and text can be encoded."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {sound(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _metadata(history: History) -> dict[str, Any]:
    metadata: dict[str, Any] = {"kernel_bridge": {"kernel": in_one_line(history.name)}}
    if history.spec:
        shown = "Python 3 (ipykernel)" if history.spec == "python3" else sound(history.spec)
        metadata["kernelspec"] = {"display_name": shown, "name": sound(history.spec)}
    language = {each: sound(text) for each in _TEXTS if isinstance(text := history.language.get(each), str)}
    mode = history.language.get("codemirror_mode")
    if language.get("name"):
        metadata["language_info"] = language | (
            {"codemirror_mode": _plain(mode)} if isinstance(mode, str | dict) else {}
        )
    return metadata


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _written(value: Any, depth: int) -> str:
    """Return JSON that begins at a depth of the notebook."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
    return text.replace("\n", "\n" + " " * depth)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
