"""Charts as their libraries publish them (plotly 6, Altair 6, Bokeh 3), told in a few lines."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from bridge import charts

FIGURE = {
    "data": [
        {"type": "scatter", "name": "price", "x": {"dtype": "i1", "bdata": "AAECAw=="}, "y": [1.5, 2, 3, 4]},
        {"type": "bar", "x": ["a", "b"], "y": [3, None]},
        {"z": {"dtype": "f8", "bdata": base64.b64encode(struct.pack("<6d", *range(6))).decode(), "shape": "2, 3"}},
        {"type": "heatmap", "z": [[1, 2], [3, 4]]},
    ],
    "layout": {"title": {"text": "Prices"}, "xaxis": {"title": {"text": "day"}}, "template": {"data": {"bar": []}}},
}
BARS = {
    "title": "Bars",
    "mark": {"type": "bar"},
    "encoding": {"x": {"field": "a", "type": "nominal"}, "y": {"aggregate": "sum", "field": "b"}},
}
ROWS = {"data": {"name": "data-1"}, "datasets": {"data-1": [{"a": "A", "b": 28}, {"a": "B", "b": 55}]}}
BOKEH = {
    "d4a9": {
        "roots": [
            {
                "name": "Figure",
                "attributes": {
                    "title": {"name": "Title", "attributes": {"text": "My plot"}},
                    "renderers": [
                        {
                            "name": "GlyphRenderer",
                            "attributes": {
                                "data_source": {
                                    "attributes": {"data": {"type": "map", "entries": [["x", [1, 2]], ["y", [4, 6]]]}}
                                },
                                "glyph": {"name": "Line"},
                            },
                        }
                    ],
                },
            }
        ]
    }
}
POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"name": "here"}}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(
            {"application/vnd.plotly.v1+json": FIGURE, "text/html": "<div><script>…"},
            '[plotly chart "Prices": drawn only in a notebook]\n- x is day\n'
            '- scatter "price": 4 points, x 0 … 3, y 1.5 … 4\n- bar: 2 points, x a … b, y 3 … 3\n'
            "- scatter: 6 points, z 0 … 5\n- heatmap: 4 points, z 1 … 4",
            id="plotly",
        ),
        pytest.param(
            {"application/vnd.vegalite.v5+json": BARS | ROWS, "text/plain": "<VegaLite 5 object>\n\nIf you see"},
            '[Vega-Lite chart "Bars": drawn only in a notebook]\n- bar: x = a, y = sum(b)\n- data: 2 rows of a, b',
            id="vega-lite",
        ),
        pytest.param(
            {"application/vnd.vegalite.v6.json": {"hconcat": [{"layer": [BARS, {"mark": "text"}]}, BARS]} | ROWS},
            "[Vega-Lite chart: drawn only in a notebook]\n- bar: x = a, y = sum(b)\n- text\n- bar: x = a, y = sum(b)\n"
            "- data: 2 rows of a, b",
            id="layered vega-lite",
        ),
        pytest.param(
            {
                "text/html": '<style></style><div id="altair-viz-94f9"></div>\n<script>(function(spec, embedOpt){\n  '
                f'}})({json.dumps(BARS)}, {{"mode": "vega-lite"}});</script>',
                "text/plain": "alt.Chart(...)",
            },
            '[Vega-Lite chart "Bars": drawn only in a notebook]\n- bar: x = a, y = sum(b)',
            id="Altair's HTML",
        ),
        pytest.param(
            {
                "application/vnd.vega.v5+json": {
                    "title": {"text": "V"},
                    "marks": [{"type": "rect"}],
                    "data": [{"name": "t", "values": [1, 2]}],
                }
            },
            '[Vega chart "V": drawn only in a notebook]\n- marks: rect\n- data t: 2 rows',
            id="vega",
        ),
        pytest.param(
            {
                "application/javascript": f"(function(root) {{ const docs_json = {json.dumps(BOKEH)};\n }})(window);",
                "application/vnd.bokehjs_exec.v0+json": "",
            },
            '[Bokeh chart "My plot": drawn only in a notebook]\n- Line: 2 points, x 1 … 2, y 4 … 6',
            id="bokeh",
        ),
        pytest.param(
            {"application/geo+json": {"type": "FeatureCollection", "features": [POINT, POINT]}},
            "[GeoJSON: drawn only in a notebook]\n- 2 Point\n- properties: name",
            id="GeoJSON",
        ),
        pytest.param({"text/html": "<p>no chart", "application/json": FIGURE}, "", id="no chart"),
    ],
)
def test_a_chart_is_told_by_what_it_holds(data: dict[str, Any], told: str) -> None:
    assert charts.told(data) == told


def test_of_a_chart_with_many_traces_the_first_are_told_and_that_there_are_more() -> None:
    figure = {"data": [{"type": "bar", "name": f"n{number}" + "x" * 1000, "y": [1]} for number in range(1000)]}
    lines = charts.told({"application/vnd.plotly.v1+json": figure}).split("\n")
    assert len(lines) == 22
    assert lines[-1] == "- …"
    assert max(map(len, lines)) < 150


NONSENSE: list[Any] = [
    *(None, 5, "", "text", [], [[]], {}, {"data": 5}, {"data": [5, None, {"x": 5, "y": {"dtype": 7, "bdata": 8}}]}),
    {"data": [{"type": [], "x": {"dtype": "f8", "bdata": "AAA="}, "y": {"dtype": "f8", "bdata": "!"}}], "layout": []},
    {"data": [{"x": [10**400, float("nan"), True, {}], "y": [[1], 2]}]},
    {"layer": [None, 7, {"layer": "x"}], "encoding": [], "mark": {"type": {}}, "datasets": {"a": [[], 5]}},
    {"features": [5], "properties": 7},
]


@pytest.mark.parametrize("content", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize(
    "mime_type",
    [
        "application/vnd.plotly.v1+json",
        "application/vnd.vegalite.v5+json",
        "application/vnd.vega.v5+json",
        "application/geo+json",
    ],
)
def test_a_chart_that_makes_no_sense_is_told_all_the_same(mime_type: str, content: Any) -> None:
    assert "drawn only in a notebook]" in charts.told({mime_type: content})


@pytest.mark.parametrize("script", [None, "", "docs_json = {", "docs_json = " + '{"a":' * 100_000, "docs_json = {}"])
def test_a_script_that_holds_no_chart_is_told_all_the_same(script: str | None) -> None:
    told = charts.told({"application/javascript": script, "application/vnd.bokehjs_exec.v0+json": ""})
    assert told == "[Bokeh chart: drawn only in a notebook]"
