"""Whatever a kernel sends: nothing raises, everything encodes to UTF-8, and all of it stays within the budgets."""

from __future__ import annotations

import base64
import re
import struct
from typing import Any

import mcp.types as T  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import render, terminal
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Result, Stream

# Every kind of character and piece that means something to a terminal, a browser, a chart or the wire.
PIECES = [
    *"\0\a\b\t\n\r\x1b\x7f\x85\x90\x9b\x9c\x9d\ud800\udfff\u2028é日😀 ax09;:[]()<>&|\\\"'/=-_",
    *("\x1b[", "\x1b[2K", "\x1b[9A", "\x1b]8;;", "\x1b\\", "<!--", "-->", "&#xd800;", "&lt;", "<table>", "</table>"),
    *(
        "<tr>",
        "<td>",
        "</td>",
        "<td colspan=9 rowspan=9>",
        "<th>",
        "<pre>",
        "<script>",
        "</script>",
        "<img src='",
        "<li>",
    ),
    *(
        "<video>",
        '="data:image/png;base64,',
        "\n----> 1 ",
        "  Cell In[1], line 1\n    ",
        "docs_json = {",
        "})({",
        "$x$",
    ),
]
text = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["data", "layout", "title", "text", "type", "x", "y", "z", "dtype", "bdata", "mark", "layer"]
            )
            | st.sampled_from(
                ["encoding", "datasets", "features", "geometry", "properties", "attributes", "name", "spec"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
images = st.builds(
    lambda width, height, rest: base64.b64encode(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + rest
    ).decode(),
    st.integers(0, 9000),
    st.integers(0, 9000),
    st.binary(max_size=900),
)
bundles = st.dictionaries(
    st.sampled_from(
        [
            *(
                "text/plain",
                "text/html",
                "text/markdown",
                "text/latex",
                "text/csv",
                "image/png",
                "image/gif",
                "image/x",
            ),
            *("application/json", "application/geo+json", "application/javascript", "application/vnd.plotly.v1+json"),
            *(
                "application/vnd.vegalite.v5+json",
                "application/vnd.vega.v5+json",
                "application/vnd.bokehjs_exec.v0+json",
            ),
            "application/vnd.jupyter.widget-view+json",
        ]
    )
    | text,
    text | json | images | st.lists(text, max_size=3),
    max_size=5,
)
produced: st.SearchStrategy[Output] = st.one_of(
    st.builds(Stream, st.sampled_from(["stdout", "stderr"]), text),
    st.builds(DisplayData, bundles, elsewhere=st.booleans()),
    st.builds(ExecuteResult, bundles),
    st.builds(Error, text, text, st.lists(text, max_size=6).map(tuple)),
)


@given(text)
def test_shown_text_holds_nothing_that_a_terminal_or_the_wire_would_trip_over(written: str) -> None:
    shown = terminal.shown(written)
    shown.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert terminal.shown(shown) == shown


@given(text)
def test_html_becomes_text_that_encodes_and_is_at_most_a_few_times_as_long(source: str) -> None:
    # A row of one empty cell is seven characters of HTML and two lines of Markdown.
    assert len(terminal.read_html(source).encode()) <= 8 * len(source.encode("utf-8", "replace")) + 8


@given(st.lists(text.map(terminal.shown), max_size=5), st.integers(0, 300))
def test_a_cut_stays_within_its_limit_and_its_number_of_texts(texts: list[str], limit: int) -> None:
    kept = terminal.cut(texts, limit)
    assert len(kept) == len(texts)
    assert len("".join(kept).encode()) <= limit


@settings(max_examples=300, deadline=None)
@given(
    st.lists(produced, max_size=6),
    st.lists(text, max_size=2),
    st.sampled_from(["ok", "error", "running", "queued", "aborted", "lost"]),
    st.integers(0, 3000),
    st.integers(0, 6000),
)
def test_a_result_is_sendable_and_within_its_budgets_whatever_the_cell_produced(
    found: list[Output], notes: list[str], status: Any, max_output: int, max_result: int
) -> None:
    result = render.to_tool_result(
        Result(1, status, tuple(found), notes=tuple(notes)),
        kernel="alpha",
        max_output=max_output,
        max_result=max_result,
        notices=notes,
    )
    result.model_dump_json().encode()
    texts = [block.text for block in result.content if isinstance(block, T.TextContent)]
    images = [block.data for block in result.content if isinstance(block, T.ImageContent)]
    assert len(texts) + len(images) == len(result.content)
    assert sum(len(each.encode()) for each in texts) <= max_output
    assert sum(len(each.encode()) for each in texts + images) <= max_result
