"""The last exception of a real kernel: whose it is, its frames, and the names in them, without calling anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import UsageError
from bridge.kernels.registry import Kernels
from bridge.looking import Variable
from bridge.outputs import Stream

pytestmark = pytest.mark.anyio

SOON = 30.0


async def fails(kernels: Kernels, code: str) -> None:
    result = (await kernels.execute(code, timeout=SOON)).result
    assert result
    assert result.status == "error", result


async def ran(kernels: Kernels, code: str) -> None:
    result = (await kernels.execute(code, timeout=SOON)).result
    assert result
    assert result.status == "ok", result


def named(variables: tuple[Variable, ...]) -> dict[str, Variable]:
    return {each.name: each for each in variables}


async def test_before_anything_has_failed_it_says_so(kernels: Kernels) -> None:
    with pytest.raises(UsageError, match="No cell of this kernel has raised"):
        await kernels.last_error()


NESTED = """def inner(n):
    table = [1, 2]
    return 1 / n
def outer(n):
    label = 'x'
    try:
        inner(n)
    except ZeroDivisionError as error:
        raise ValueError('bad', n) from error
"""


async def test_frames_source_and_the_variables_of_the_users_innermost_frame(kernels: Kernels) -> None:
    await ran(kernels, NESTED)
    await fails(kernels, "zero = 0; unused = 1\nouter(zero)")
    told = await kernels.last_error()
    assert (told.type, told.message, told.cell, told.cells_since) == ("ValueError", "('bad', 0)", 2, 0)
    assert told.causes == ("caused by: ZeroDivisionError: division by zero (cell In[1], line 3)",)
    assert [(each.function, each.file, each.line) for each in told.frames] == [
        ("<module>", "cell In[2]", 2),
        ("outer", "cell In[1]", 9),
    ]
    assert ">    9         raise ValueError('bad', n) from error" in told.frames[1].source
    assert told.frame == 1
    assert named(told.variables)["label"].value == "'x'"
    cell = await kernels.last_error(frame=-2)
    assert cell.frame == 0
    assert set(named(cell.variables)) == {"zero", "outer"}
    with pytest.raises(UsageError, match="they are 0 to 1"):
        await kernels.last_error(frame=2)


async def test_a_later_cell_that_succeeds_leaves_it_and_its_age_is_told(kernels: Kernels) -> None:
    await fails(kernels, "1 / 0")
    await ran(kernels, "x = 1")
    await ran(kernels, "y = 1")
    told = await kernels.last_error()
    assert (told.cell, told.cells_since) == (1, 2)


async def test_a_library_frame_is_not_the_chosen_one(kernels: Kernels, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import json\ndef load(text):\n    depth = 3\n    return json.loads(text)\n")
    await ran(kernels, f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import mine")
    await fails(kernels, "mine.load('{')")
    told = await kernels.last_error()
    assert told.type == "json.decoder.JSONDecodeError"
    assert told.frame == 1
    assert told.frames[1].file == str(tmp_path / "mine.py")
    assert ">    4     return json.loads(text)" in told.frames[1].source
    assert named(told.variables)["depth"].value == "3"
    assert told.total == 5


async def test_wrong_syntax_and_an_interrupt_are_told_with_their_cell(kernels: Kernels) -> None:
    await ran(kernels, "x = 1")
    await fails(kernels, "good = 1\nbad = = 2")
    told = await kernels.last_error()
    assert (told.type, told.message, told.cell) == ("SyntaxError", "invalid syntax", 2)
    assert ">    2 bad = = 2" in told.notes[-1]
    await kernels.execute("import time\ntime.sleep(60)", timeout=0.5)
    await kernels.interrupt()
    told = await kernels.last_error()
    assert (told.type, told.cell) == ("KeyboardInterrupt", 3)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("nowhere", "NameError"),
        ("''.nowhere", "AttributeError"),
        ("def f(): print(x); x = 1\nf()", "UnboundLocalError"),
        ("class Mine(AttributeError): pass\nraise Mine('of mine')", "__main__.Mine"),
        ("next(iter([]))", "StopIteration"),
        ("raise StopIteration(3)", "StopIteration"),
        ("{}['key']", "KeyError"),
        ("import nowhere", "ModuleNotFoundError"),
        ("b'ab\\xff'.decode()", "UnicodeDecodeError"),
        ("b'ab\\xe2\\x82'.decode()", "UnicodeDecodeError"),
        ("'a\\xe9'.encode('ascii')", "UnicodeEncodeError"),
        ("'\\u20ac'.encode('latin-1')", "UnicodeEncodeError"),
        ("'\\U0001f600\\U0001f600'.encode('ascii')", "UnicodeEncodeError"),
        ("raise UnicodeTranslateError('a\\xe9', 1, 2, 'why')", "UnicodeTranslateError"),
    ],
)
async def test_the_message_of_pythons_own_exceptions_is_as_python_says_it(
    kernels: Kernels, code: str, name: str
) -> None:
    await fails(kernels, code)
    told = await kernels.last_error()
    said = (await kernels.execute("import sys; print(sys.last_value, end='')", timeout=SOON)).result
    assert said
    [stream] = said.outputs or (Stream("stdout", ""),)
    assert isinstance(stream, Stream)
    assert (told.type, told.message) == (name, stream.text)
    assert not [each for each in told.notes if "code of its own" in each]


async def test_of_an_exception_of_no_cell_that_is_said(kernels: Kernels) -> None:
    await ran(kernels, "import sys; sys.last_value = ValueError('from elsewhere')")
    told = await kernels.last_error()
    assert (told.message, told.cell) == ("from elsewhere", None)
    assert "not known of which cell" in told.notes[0]
    await ran(kernels, "sys.last_value = 'no exception'")
    with pytest.raises(UsageError, match="No cell"):
        await kernels.last_error()


async def test_of_endless_recursion_the_first_and_the_last_frames_are_shown(kernels: Kernels) -> None:
    await ran(kernels, "import sys; sys.setrecursionlimit(3500)\ndef deeper(n): return deeper(n + 1)")
    await fails(kernels, "deeper(0)")
    told = await kernels.last_error()
    assert told.type == "RecursionError"
    assert told.total > 3000
    numbers = [each.number for each in told.frames]
    assert numbers[:2] == [0, 1]
    assert numbers[-1] == told.total - 1
    assert len(numbers) == 25
    middle = await kernels.last_error(frame=1500)
    assert named(middle.variables)["n"].value == "1499"
    assert 1500 in [each.number for each in middle.frames]


HOSTILE = """
calls = []
def note(what):
    calls.append(what)
    raise RuntimeError(what)
class Meta(type):
    def __getattribute__(cls, name): note('meta ' + name)
    def __eq__(cls, other): note('meta eq')
    def __hash__(cls): note('meta hash')
class Hostile(metaclass=Meta):
    def __getattribute__(self, name): note('attribute ' + name)
    def __repr__(self): note('repr')
    def __len__(self): note('len')
    def __eq__(self, other): note('eq')
class Silent(Exception): pass
class Loud(Silent, metaclass=Meta):
    def __str__(self): note('str')
    def __repr__(self): note('error repr')
    def __eq__(self, other): note('error eq')
    args = property(lambda s: note('args'))
    __cause__ = property(lambda s: note('cause'))
    __traceback__ = property(lambda s: note('traceback'))
    __notes__ = property(lambda s: note('notes'))
class Mapping(dict):
    def __getitem__(self, key): return dict.__getitem__(self, key)
    def items(self): note('items')
    def copy(self): note('copy')
h = object.__new__(Hostile)
def raising(error):
    local = [h]; other = h
    raise error
def kept(act):
    import sys
    try: act()
    except BaseException as error: sys.last_value = error
"""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("lambda: raising(Loud('text', h))", ""),
        ("lambda: raising(Silent('text'))", "text"),
        ("lambda: raising(Silent(h))", "__main__.Hostile"),
        ("lambda: raising(KeyError(h))", "__main__.Hostile"),
        ("lambda: raising(OSError(2, h))", "(2, __main__.Hostile)"),
        ("lambda: raising(SyntaxError(h))", ""),
        ("lambda: exec('raise Silent(1)', globals(), Mapping())", "1"),
    ],
)
async def test_nothing_of_the_exceptions_or_the_frames_is_called(kernels: Kernels, act: str, message: str) -> None:
    await ran(kernels, HOSTILE)
    # kept as IPython keeps it, but without IPython showing it, which does call all of that
    await ran(kernels, f"kept({act}); calls.clear()")
    told = await kernels.last_error()
    assert told.message == message
    assert (await kernels.inspection("calls")).total == 0
    if "raising" in act:
        assert named(told.variables)["other"].type == "__main__.Hostile"
        assert named(told.variables)["local"].value == "__main__.Hostile"
    if "Loud" in act:
        assert "'text', __main__.Hostile" in told.notes[0]
    if "Mapping" in act:
        assert "not Python's own dictionary" in " ".join(told.notes)


async def test_groups_notes_and_a_ring_of_causes_end(kernels: Kernels) -> None:
    await ran(
        kernels,
        "import sys\na, b = ValueError('a'), ValueError('b'); a.__cause__ = b; b.__cause__ = a\n"
        "a.add_note('look here'); sys.last_value = a",
    )
    told = await kernels.last_error()
    assert told.causes == ("caused by: ValueError: b",)
    assert "look here" in told.notes
    await ran(kernels, "sys.last_value = ExceptionGroup('several', [a, KeyError('k')])")
    told = await kernels.last_error()
    assert told.message == "several"
    assert told.causes == ("in the group: ValueError: a", "in the group: KeyError: 'k'")


async def test_a_pipe_in_a_files_place_does_not_hold_the_look_up(kernels: Kernels, tmp_path: Path) -> None:
    await ran(kernels, f"import os; os.mkfifo({str(tmp_path / 'pipe')!r})")
    # IPython itself would hang on the pipe, so it does not get to show this one
    await ran(
        kernels,
        f"import sys\ntry: exec(compile('1/0', {str(tmp_path / 'pipe')!r}, 'exec'))\n"
        "except ZeroDivisionError as error: sys.last_value = error",
    )
    told = await kernels.last_error()
    assert (told.frames[-1].file, told.frames[-1].source) == (str(tmp_path / "pipe"), "")


async def test_it_is_told_while_another_cell_runs(kernels: Kernels) -> None:
    await ran(kernels, NESTED)
    await fails(kernels, "outer(0)")
    await kernels.execute("import time; time.sleep(60)", timeout=0.5)
    told = await kernels.last_error()
    assert (told.type, told.cell) == ("ValueError", 2)
    await kernels.interrupt()
