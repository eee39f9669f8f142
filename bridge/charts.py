"""What charts hold that only a notebook can draw, in a few lines: plotly, Vega, Vega-Lite, Bokeh and GeoJSON.

The one rule: a chart's JSON is foreign. Nothing about its shape is believed, no more than so much of it is told, and a
chart that cannot be read is told by its type alone.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_LINES = 20
"""Traces, marks or glyphs told of one chart."""
_NODES = 200_000
"""JSON objects and lists that are looked at in search of marks and glyphs."""
_SHORT = 80
_PLOTLY_DATA = ("x", "y", "z", "lat", "lon", "r", "theta", "labels", "values", "locations")
# plotly's names of types and NumPy's, which Bokeh uses, to those of `struct`.
_TYPES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"} | {
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f", "float64": "d"
}  # fmt: skip
_VEGA_IN_HTML = re.compile(r"\}\)\((?=\{)")
_BOKEH_IN_SCRIPT = re.compile(r"\bdocs_json = (?=\{)")


def told(data: Mapping[str, Any]) -> str:
    """A line for the chart among an object's forms and one for each thing drawn in it; empty where there is none."""
    for kind, content, read in _charts(data):
        try:
            title, *lines = [*itertools.islice(read(content), _LINES + 2)]
        except (ValueError, TypeError, OverflowError, struct.error):
            title, lines = "", []
        more = ["- …"] if len(lines) > _LINES else []
        name = f'{kind} "{title}"' if title else kind
        return "\n".join([f"[{name}: drawn only in a notebook]", *(f"- {line}" for line in lines[:_LINES]), *more])
    return ""


def _charts(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Callable[[Any], Iterator[str]]]]:
    for mime_type, content in data.items():
        if mime_type.startswith("application/vnd.plotly."):
            yield "plotly chart", content, _plotly
        elif mime_type.startswith("application/vnd.vegalite."):
            yield "Vega-Lite chart", content, _vega_lite
        elif mime_type.startswith("application/vnd.vega."):
            yield "Vega chart", content, _vega
        elif mime_type.startswith("application/vnd.bokehjs_exec."):
            yield "Bokeh chart", _embedded(_BOKEH_IN_SCRIPT, data.get("application/javascript")), _bokeh
        elif mime_type == "application/geo+json":
            yield "GeoJSON", content, _geo
    # Altair's default form is a script; its JSON stands in its last line.
    page = data.get("text/html")
    if isinstance(page, str) and 'id="altair-viz-' in page[:1000]:
        yield "Vega-Lite chart", _embedded(_VEGA_IN_HTML, page), _vega_lite


def _embedded(before: re.Pattern[str], script: object) -> Any:
    """The JSON object in a script after `before`."""
    text = script if isinstance(script, str) else ""
    found = before.search(text)
    try:
        return json.JSONDecoder().raw_decode(text, found.end())[0] if found else None
    except (ValueError, RecursionError):
        return None


# Each of these yields the title first, then a line for each thing that is drawn.


def _plotly(figure: Any) -> Iterator[str]:
    yield _name(_at(figure, "layout", "title"))
    axes = [(axis, _name(_at(figure, "layout", f"{axis}axis", "title"))) for axis in "xy"]
    if any(title for _, title in axes):
        yield ", ".join(f"{axis} is {title}" for axis, title in axes if title)
    for trace in _list(_at(figure, "data")):
        spans = [(key, _values(_at(trace, key))) for key in _PLOTLY_DATA]
        yield _line(_name(_at(trace, "type")) or "scatter", _name(_at(trace, "name")), spans)


def _vega_lite(spec: Any) -> Iterator[str]:
    yield _name(_at(spec, "title"))
    for part in _walk(spec, _vega_lite_parts):
        mark = _name(_at(part, "mark")) or _name(_at(part, "mark", "type"))
        if mark:
            encoding = _at(part, "encoding")
            channels = encoding.items() if isinstance(encoding, dict) else ()
            told = [(_name(channel), _field(how)) for channel, how in itertools.islice(channels, 10)]
            yield f"{mark}: {', '.join(f'{channel} = {field}' for channel, field in told if field)}".rstrip(": ")
    datasets = _at(spec, "datasets")
    inline = [*(datasets.values() if isinstance(datasets, dict) else ()), _at(spec, "data", "values")]
    for rows in map(_list, inline):
        if rows:
            columns = ", ".join(map(_name, itertools.islice(rows[0], 20))) if isinstance(rows[0], dict) else ""
            yield f"data: {len(rows)} rows of {columns}" if columns else f"data: {len(rows)} values"


def _vega_lite_parts(spec: Any) -> list[Any]:
    """A layer's or a row's charts are specifications of the same kind."""
    inner = [_list(_at(spec, name)) for name in ("layer", "hconcat", "vconcat", "concat")]
    return [part for part in (*itertools.chain(*inner), _at(spec, "spec")) if isinstance(part, dict)]


def _field(channel: Any) -> str:
    field = _name(_at(channel, "field"))
    aggregate = _name(_at(channel, "aggregate"))
    return f"{aggregate}({field})" if aggregate else field


def _vega(spec: Any) -> Iterator[str]:
    yield _name(_at(spec, "title")) or _name(_at(spec, "title", "text"))
    marks = Counter(_name(_at(mark, "type")) for mark in _list(_at(spec, "marks")))
    if marks:
        yield f"marks: {', '.join(marks)}"
    for table in _list(_at(spec, "data")):
        rows = _list(_at(table, "values"))
        yield f"data {_name(_at(table, 'name'))}: {len(rows)} rows" if rows else f"data {_name(_at(table, 'name'))}"


def _bokeh(documents: Any) -> Iterator[str]:
    models = [(_name(_at(node, "name")), _at(node, "attributes")) for node in _walk(documents, _bokeh_parts)]
    yield next((_name(_at(title, "text")) for name, title in models if name == "Title"), "")
    for glyph in [attributes for name, attributes in models if name == "GlyphRenderer"]:
        entries = _list(_at(glyph, "data_source", "attributes", "data", "entries"))
        spans = [(_name(each[0]), _values(each[1])) for each in entries if isinstance(each, list) and len(each) == 2]
        yield _line(_name(_at(glyph, "glyph", "name")), "", spans)


def _bokeh_parts(node: Any) -> list[Any]:
    return [
        each for each in (node.values() if isinstance(node, dict) else _list(node)) if isinstance(each, dict | list)
    ]


def _geo(tree: Any) -> Iterator[str]:
    yield ""
    features = _list(_at(tree, "features")) or [tree]
    kinds = Counter(_name(_at(feature, "geometry", "type")) for feature in features)
    if any(kinds):
        yield ", ".join(f"{count} {kind}" for kind, count in kinds.items() if kind)
    properties = _at(features[0], "properties")
    if isinstance(properties, dict):
        yield f"properties: {', '.join(map(_name, itertools.islice(properties, 20)))}"


def _walk(root: Any, parts: Callable[[Any], list[Any]]) -> Iterator[Any]:
    nodes = [root]
    for _ in range(_NODES):
        if not nodes:
            return
        node = nodes.pop()
        yield node
        nodes += reversed(parts(node))


def _line(kind: str, name: str, spans: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """One trace: what it is, how many points it has, and from where to where each of its columns goes."""
    spans = [(key, values) for key, values in spans[:10] if len(values)]
    points = [f"{max(len(values) for _, values in spans)} points"] if spans else []
    head = f'{kind} "{name}"' if name else kind
    return f"{head}: {', '.join([*points, *(f'{key} {_span(values)}' for key, values in spans)])}".rstrip(": ")


def _span(values: Sequence[Any]) -> str:
    """The least and the greatest number; of anything else the first and the last."""
    numbers = [value for value in values if type(value) in {int, float} and value == value]  # noqa: PLR0124  # no NaN
    first, last = (min(numbers), max(numbers)) if numbers else (values[0], values[-1])
    return _name(first) if len(values) == 1 else f"{_name(first)} … {_name(last)}"


def _values(content: Any) -> Sequence[Any]:
    """One column's values: a list, or bytes of one type in base64 as plotly and Bokeh write them."""
    if isinstance(content, dict):
        code = _TYPES.get(_name(content.get("dtype")))
        encoded = content.get("bdata") or _at(content, "array", "data")
        if code is None or not isinstance(encoded, str):
            return ()
        raw = base64.b64decode(encoded)
        return [value for (value,) in struct.iter_unpack(f"<{code}", raw)]
    rows = _list(content)
    # A heat map's values are a list of rows.
    return [*itertools.chain(*filter(_list, rows))] if rows and isinstance(rows[0], list) else rows


def _at(tree: Any, *names: str) -> Any:
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _name(content: Any) -> str:
    """A short text or number; titles may be wrapped as `{"text": …}`; anything else is empty."""
    content = content.get("text") if isinstance(content, dict) else content
    if isinstance(content, float):
        return f"{content:.6g}"
    if isinstance(content, int):
        return str(content) if abs(content) < 10**15 else f"{content:.6g}"
    return " ".join(content[: 2 * _SHORT].split())[:_SHORT] if isinstance(content, str) else ""
