"""What a cell has put out, as far as IPython itself keeps it (9.0 and later): its texts, its value and its exception.

Displays are not kept there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import Refused, bound, is_a, state

MOST = 256 * 1024  # characters of each half: an answer is a megabyte or two at the most
STREAMS = {"out_stream": "stdout", "err_stream": "stderr"}


def outputs(shell: Any, count: int) -> dict[str, Any]:
    """Of the cell `In [count]`: pairs of kind and content in their order, and how many characters are left out."""
    manager = shell.history_manager
    everything, raised = getattr(manager, "outputs", None), getattr(manager, "exceptions", None)
    if not is_a(everything, dict) or not is_a(raised, dict):
        raise Refused("This kernel does not keep what its cells have put out.")
    told = [each for entry in listed(under(everything, count)) for each in readable(entry)]
    error = under(raised, count)
    if is_a(error, dict):
        fields = dict(bound(error))
        lines = [line for line in listed(fields.get("traceback")) if type(line) is str]
        told.append(("error", [text_of(fields.get("ename")), text_of(fields.get("evalue")), lines]))
    kept, left_out = within(told)
    return {"outputs": kept, "left_out": left_out}


def under(table: Any, count: int) -> Any:
    """What stands under a number, without asking a key of the user's."""
    return next((value for key, value in dict.items(table) if type(key) is int and key == count), None)


def listed(value: Any) -> list[Any]:
    """A list's elements; of anything else none."""
    return list(value) if type(value) is list else []


def text_of(value: Any) -> str:
    """A text; of anything else none."""
    return value if type(value) is str else ""


def readable(entry: Any) -> list[tuple[str, Any]]:
    """One thing that was put out, as kind and content; none where it is not of IPython's own making."""
    fields = state(entry)
    kind, bundle = fields.get("output_type"), fields.get("bundle")
    if type(kind) is not str or not is_a(bundle, dict):
        return []
    contents = dict(bound(bundle))
    if kind in STREAMS:
        return [(STREAMS[kind], "".join(map(text_of, listed(contents.get("stream")))))]
    if kind == "execute_result":
        return [("result", {form: each for form, each in contents.items() if type(each) is str})]
    return []


def size(content: Any) -> int:
    """Its characters."""
    if type(content) is str:
        return len(content)
    return sum(map(size, content.values() if type(content) is dict else content))


def within(told: list[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], int]:
    """The first and the last of it, within the bound; what is in between is counted."""
    head: list[tuple[str, Any]] = []
    room = MOST
    while told and room:
        kind, content = told[0]
        if size(content) <= room:
            head.append(told.pop(0))
            room -= size(content)
            continue
        if type(content) is str:
            head.append((kind, content[:room]))
            told[0] = (kind, content[room:])
        break
    tail: list[tuple[str, Any]] = []
    left_out, room = 0, MOST
    for kind, content in reversed(told):
        if size(content) <= room:
            tail.append((kind, content))
            room -= size(content)
            continue
        left_out += size(content)
        if type(content) is str and room:
            tail.append((kind, content[-room:]))
            left_out -= room
        room = 0
    return head + tail[::-1], left_out
