"""The last exception that a cell raised: message, causes, frames, and the names in one of them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import (
        GETSET,
        MEMBER,
        Refused,
        bound,
        describe,
        exact,
        heap,
        is_a,
        is_one_of,
        known,
        mro,
        name_of,
        own,
        part,
        plain,
        state,
    )
    from bridge.looking.inside.sources import around, cells_of, is_library, place_of

HEAD, TAIL = 10, 15  # frames that are shown where there are more
FRAMES = 100_000  # that are walked through
CAUSES = 10
LOCALS = 60
MESSAGE = 2000  # characters
# C code gives the latter two a slot of their own, with the same function in it.
OF_ARGUMENTS = (BaseException, NameError, AttributeError)


def raised(shell: Any, chosen: int | None) -> dict[str, Any]:
    """All that can be told of the last exception that IPython has shown."""
    kept = dict(bound(vars(sys)))
    error = kept.get("last_value")
    if error is None or not is_a(error, BaseException):
        raise Refused("No cell of this kernel has raised since it was started.")
    cells = cells_of(shell)
    frames = frames_of(error, home_of_ipython())
    told: dict[str, Any] = {"notes": [], "causes": causes_of(error, cells), "frames": [], "total": len(frames)}
    told["type"], told["message"] = name_of(type(error)), message_of(error)
    if told["message"] is None:
        told["notes"].append(
            "Its class makes its message by code of its own, which was not called. Its arguments: "
            + ", ".join(map(part_of_message, of(error, "args")[:CAUSES]))
        )
    told["notes"] += notes_of(error)
    told["cell"] = cell_of(error, frames, cells)
    count = shell.execution_count
    if told["cell"] is None:
        told["notes"].append("It is not known of which cell it was.")
    elif type(count) is int:
        told["cells_since"] = max(0, count - told["cell"] - 1)
    if is_a(error, SyntaxError):
        told["notes"] += wrong_line(error, cells)
    if not frames:
        return told
    number = selected(frames, [of_the_user(shell, each, cells) for each in frames], chosen)
    told["frame"] = number
    told["frames"] = [
        frame_row(frames[each], each, cells, wide=each == number) for each in shown_frames(len(frames), number)
    ]
    told["variables"] = names_in(frames[number].tb_frame, told["notes"])
    return told


def of(error: Any, name: str) -> Any:
    """One of the attributes that every exception has, past what its class may have put in its place."""
    return BaseException.__dict__[name].__get__(error)


def home_of_ipython() -> str:
    """The directory of IPython, whose frames stand before every cell's."""
    file = known("IPython", "__file__")
    return os.path.dirname(file) + os.sep if type(file) is str else "?"


# -- what was raised


def message_of(error: Any) -> str | None:
    """The message, where no code but Python's own makes it of values that are Python's own."""
    kind = type(error)
    maker = next((base for base in mro(kind) for name, _ in list(own(base).items()) if same(name, "__str__")), object)
    if heap(maker):
        return None
    if is_a(error, SyntaxError):
        return field(error, SyntaxError, "msg")
    if is_a(error, OSError):
        number, why, file = (field(error, OSError, each) for each in ("errno", "strerror", "filename"))
        if number is not None and why is not None:
            return "[Errno %s] %s" % (number, why) + (": %r" % file if file is not None else "")
    args = of(error, "args")
    if not is_one_of(maker, OF_ARGUMENTS) and maker is not KeyError and not is_a(error, OSError):
        return made_by_python(error, maker.__name__, args)
    if len(args) == 1:
        text = args[0] if type(args[0]) is str and maker is not KeyError else part_of_message(args[0])
        return text[:MESSAGE]
    return ("(" + ", ".join(map(part_of_message, args)) + ")" if args else "")[:MESSAGE]


def same(name: Any, other: str) -> bool:
    """Whether a name is this text, without asking it."""
    return type(name) is str and name == other


def part_of_message(value: Any) -> str:
    """One argument of an exception, long enough to be read."""
    return repr(value[:MESSAGE]) if type(value) is str else part(value)


def made_by_python(error: Any, maker: str, args: tuple[Any, ...]) -> str | None:
    """The message of the few types of Python's that make it of attributes of their own."""
    if maker in ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError"):
        return coding(error, next(each for each in mro(type(error)) if each.__name__ == maker and not heap(each)))
    if maker in ("BaseExceptionGroup", "ImportError"):
        return args[0][:MESSAGE] if args and type(args[0]) is str else None
    return None


def coding(error: Any, kind: type) -> str | None:
    """What could not be decoded or encoded, and where; as Python says it."""
    start, end, held = (slot(error, kind, each) for each in ("start", "end", "object"))
    reason, codec = field(error, kind, "reason"), field(error, kind, "encoding")
    if type(start) is not int or type(end) is not int or reason is None:
        return None
    does = {UnicodeDecodeError: "decode byte", UnicodeEncodeError: "encode character"}
    what = next((text for each, text in does.items() if each is kind), "translate character")
    place = "position %d" % start
    if end != start + 1:
        what, place = what + "s", place + "-%d" % (end - 1)
    elif type(held) is bytes and 0 <= start < len(held):
        what += " 0x%02x" % held[start]
    elif type(held) is str and 0 <= start < len(held):
        what += " " + ascii(held[start])
    return "%scan't %s in %s: %s" % ("'%s' codec " % codec if codec else "", what, place, reason)


def slot(error: Any, kind: type, name: str) -> Any:
    """An attribute of C code's; None where it is not."""
    holder: Any = next((value for key, value in own(kind).items() if same(key, name)), None)
    return holder.__get__(error) if type(holder) is MEMBER or type(holder) is GETSET else None


def field(error: Any, kind: type, name: str) -> str | None:
    """An attribute of C code's, as text where it is a scalar."""
    value = slot(error, kind, name)
    if value is None:
        return None
    return value[:MESSAGE] if type(value) is str else exact(value)


def wrong_line(error: Any, cells: dict[str, int]) -> list[str]:
    """Where the syntax is wrong, with the lines there."""
    file, line = (SyntaxError.__dict__[each].__get__(error) for each in ("filename", "lineno"))
    if type(line) is not int:
        return []
    return ["The syntax is wrong in %s, line %d:\n%s" % (place_of(cells, file), line, around(file, line, 2, 2))]


def notes_of(error: Any) -> list[str]:
    """What `add_note` has added."""
    notes = state(error).get("__notes__")
    return [each[:MESSAGE] for each in notes[:CAUSES] if type(each) is str] if type(notes) is list else []


def causes_of(error: Any, cells: dict[str, int]) -> list[str]:
    """What led to it, a line each: the cause, or what was being handled; and what a group holds."""
    told: list[str] = []
    seen = [error]
    grouped = known("builtins", "BaseExceptionGroup")
    if grouped is not None and is_a(error, grouped):
        inner = grouped.__dict__["exceptions"].__get__(error)
        told += ["in the group: " + short(each, cells) for each in inner[:CAUSES]]
    while len(told) < CAUSES:
        cause, context = of(error, "__cause__"), of(error, "__context__")
        how = "caused by: "
        if cause is None:
            cause, how = (None if of(error, "__suppress_context__") else context), "while handling: "
        if cause is None or any(cause is each for each in seen):
            break
        told.append(how + short(cause, cells))
        seen.append(cause)
        error = cause
    return told


def short(error: Any, cells: dict[str, int]) -> str:
    """An exception in one line: type, message, and the place where it was raised."""
    message = message_of(error)
    frames = frames_of(error, home_of_ipython())
    text = name_of(type(error)) + (": " + message if message else "")
    return text + (
        " (%s, line %d)" % (place_of(cells, code_of(frames[-1]).co_filename), frames[-1].tb_lineno) if frames else ""
    )


# -- where


def frames_of(error: Any, ipython: str) -> list[Any]:
    """The traceback's steps from the cell inwards, without those of IPython that lead to it."""
    step = of(error, "__traceback__")
    found: list[Any] = []
    while step is not None and len(found) < FRAMES:
        file = code_of(step).co_filename
        if found or type(file) is not str or not file.startswith(ipython):
            found.append(step)
        step = step.tb_next
    return found


def code_of(step: Any) -> Any:
    """The code of a traceback's step."""
    return step.tb_frame.f_code


def cell_of(error: Any, frames: list[Any], cells: dict[str, int]) -> int | None:
    """The number of the cell: of the outermost frame that is in one, or where the syntax was wrong."""
    files = [code_of(each).co_filename for each in frames]
    if is_a(error, SyntaxError):
        holder = SyntaxError.__dict__["filename"]
        files.append(holder.__get__(error))
    return next((cells[each] for each in files if type(each) is str and each in cells), None)


def of_the_user(shell: Any, step: Any, cells: dict[str, int]) -> bool:
    """Whether its code is in a cell, in what a magic made of one, or in a file that is no library's."""
    file = code_of(step).co_filename
    return step.tb_frame.f_globals is shell.user_ns or type(file) is not str or file in cells or not is_library(file)


def selected(frames: list[Any], users: list[bool], chosen: int | None) -> int:
    """The frame that was asked for, else the innermost one of the user's code, else the innermost."""
    last = len(frames) - 1
    if chosen is None:
        return next((number for number in range(last, -1, -1) if users[number]), last)
    if not -len(frames) <= chosen <= last:
        raise Refused("There is no frame %d: they are 0 to %d, or -1 for the innermost." % (chosen, last))
    return chosen % len(frames)


def shown_frames(total: int, number: int) -> list[int]:
    """The first and the last ones, and the chosen one."""
    if total <= HEAD + TAIL:
        return list(range(total))
    return sorted({*range(HEAD), *range(total - TAIL, total), number})


def frame_row(step: Any, number: int, cells: dict[str, int], *, wide: bool) -> dict[str, Any]:
    """One frame: where it is, and its lines."""
    code = code_of(step)
    lines = around(code.co_filename, step.tb_lineno, 4, 2) if wide else around(code.co_filename, step.tb_lineno, 0, 0)
    return {
        "number": number,
        "function": plain(getattr(code, "co_qualname", code.co_name)),
        "file": place_of(cells, code.co_filename),
        "line": step.tb_lineno,
        "source": lines,
    }


def names_in(frame: Any, notes: list[str]) -> list[dict[str, Any]]:
    """The frame's names; of a cell, whose names are all there are, those that its own lines use."""
    names = frame.f_locals
    if type(names) is not dict and type(names) is not type(sys._getframe().f_locals):
        notes.append("The frame's names are not told: its namespace is not Python's own dictionary.")
        return []
    pairs = [(name, value) for name, value in list(names.items()) if type(name) is str]
    if names is frame.f_globals:
        used = {each for each in frame.f_code.co_names if type(each) is str}
        pairs = [(name, value) for name, value in pairs if name in used]
    if len(pairs) > LOCALS:
        notes.append("The frame has %d names, of which %d are shown." % (len(pairs), LOCALS))
    return [describe(*pair) for pair in pairs[:LOCALS]]
