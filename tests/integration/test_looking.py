"""Looking into a real kernel's variables: what is told, and that nothing of it can be noticed inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bridge.errors import KernelBusy, KernelError, UsageError
from bridge.kernels.registry import Kernels
from bridge.looking import Column, Variable

pytestmark = pytest.mark.anyio

SOON = 30.0


async def table(kernels: Kernels, code: str) -> dict[str, Variable]:
    result = (await kernels.execute(code, timeout=SOON)).result
    assert result
    assert result.status == "ok", result
    return {each.name: each for each in (await kernels.variables(limit=1000)).variables}


async def test_pythons_own_types_are_told_with_value_and_length(kernels: Kernels) -> None:
    seen = await table(
        kernels,
        "a = 42; b = 'text' * 100; c = [1, 'two', object()]; d = {'k': 1}; e = None; f = 10 ** 5000; g = (1.5,); "
        "h = b'x'; _private = 1; import math\ndef function(): pass",
    )
    assert (seen["a"].type, seen["a"].value) == ("int", "42")
    assert seen["b"].length == 400
    assert seen["b"].value
    assert seen["b"].value.endswith("...")
    assert (seen["c"].length, seen["c"].value) == (3, "1, 'two', object")
    assert seen["d"].value == "'k': 1"
    assert seen["e"].value == "None"
    assert seen["f"].value == "an integer of 16610 bits"
    assert seen["g"].bytes
    assert seen["math"].type == "module"
    assert seen["function"].type == "function"
    assert set(seen) == {*"abcdefgh", "math", "function"}


async def test_arrays_are_told_with_shape_and_dtype(kernels: Kernels) -> None:
    seen = await table(kernels, "import numpy as np; m = np.zeros((3, 4), 'float32'); s = np.float64(1.5)")
    assert (seen["m"].shape, seen["m"].dtype, seen["m"].bytes) == ((3, 4), "float32", 48)
    assert seen["s"].value == "1.5"


async def test_a_data_frame_is_told_with_its_columns(kernels: Kernels) -> None:
    seen = await table(
        kernels,
        "import pandas as pd; df = pd.DataFrame({'n': [1, 2], 's': ['a', 'b']}); col = df['n']\n"
        "class Mine(pd.DataFrame): pass\nmine = Mine()",
    )
    assert seen["df"].shape == (2, 2)
    assert seen["df"].columns
    assert seen["df"].columns[0] == Column("'n'", "int64")
    assert (seen["col"].shape, seen["col"].dtype) == ((2,), "int64")
    assert (seen["mine"].type, seen["mine"].shape) == ("__main__.Mine", None)


HOSTILE = """
calls = []
def note(what):
    calls.append(what)
    raise RuntimeError(what)
class Meta(type):
    __name__ = property(lambda s: note('meta name'))
    __module__ = property(lambda s: note('meta module'))
    def __getattribute__(cls, name): note('meta ' + name)
class Hostile(metaclass=Meta):
    __slots__ = ()
    def __repr__(self): note('repr')
    def __len__(self): note('len')
    def __hash__(self): return 1
    def __eq__(self, other): note('eq')
    def __sizeof__(self): note('sizeof')
    def __getattribute__(self, name): note('attribute ' + name)
    def __iter__(self): note('iter')
class Text(str):
    def __repr__(self): note('text repr')
    def __len__(self): note('text len')
h = Hostile(); t = Text('x'); inside = [h, t]; keyed = {h: t}; pair = (h,)
"""


async def test_nothing_of_the_users_is_called(kernels: Kernels) -> None:
    seen = await table(kernels, HOSTILE)
    assert seen["h"].type == "__main__.Hostile"
    assert seen["inside"].value == "__main__.Hostile, __main__.Text"
    assert seen["keyed"].value == "__main__.Hostile: __main__.Text"
    assert seen["calls"].length == 0


async def test_a_look_leaves_no_trace(kernels: Kernels) -> None:
    async def told(code: str) -> str:
        result = (await kernels.execute(code, timeout=SOON)).result
        assert result
        return str(result.outputs[-1].data["text/plain"])  # type: ignore[union-attr]

    await kernels.execute("'the last value'", timeout=SOON)
    for _ in range(5):
        await kernels.variables(limit=10)
    assert await told("_") == "'the last value'"
    numbered = await told("len(In)")
    for _ in range(5):
        await kernels.variables(limit=10)
    assert int(await told("len(In)")) == int(numbered) + 1
    assert await told("sorted(name for name in globals() if not name.startswith('_'))") == (
        "['In', 'Out', 'exit', 'get_ipython', 'open', 'quit']"
    )


async def test_it_works_while_a_long_cell_runs_and_that_cell_goes_on(kernels: Kernels) -> None:
    await kernels.execute("early = 1", timeout=SOON)
    running = (await kernels.execute("import time; during = 2; time.sleep(4); late = 3", timeout=0.5)).result
    assert running
    assert running.status == "running"
    names = {each.name for each in (await kernels.variables(limit=100)).variables}
    assert {"early", "during"} <= names
    assert "late" not in names
    ended = (await kernels.read(running.execution, wait=SOON)).result
    assert ended
    assert ended.status == "ok"


async def test_where_the_kernel_has_no_subshells_a_busy_one_says_so(kernels: Kernels) -> None:
    session = next(iter(kernels._connected.values())).session
    session._channels.kernel_info = {**session._channels.kernel_info, "supported_features": []}
    assert (await kernels.variables(limit=10)).total == 0
    await kernels.execute("import time; time.sleep(60)", timeout=0.5)
    with pytest.raises(KernelBusy, match="no subshells"):
        await kernels.variables(limit=10)
    await kernels.interrupt()


async def test_ten_thousand_variables_are_paged(kernels: Kernels) -> None:
    await kernels.execute("globals().update({f'v{n:05}': n for n in range(10_000)})", timeout=SOON)
    page = await kernels.variables(limit=100, start=9_950)
    assert page.total == 10_000
    assert [each.name for each in page.variables][:1] == ["v09950"]
    assert len(page.variables) == 50


async def test_a_kernel_that_shows_text_in_its_own_way_is_told_so(kernels: Kernels) -> None:
    await kernels.execute(
        "get_ipython().display_formatter.formatters['text/plain'].for_type(str, lambda s, p, c: p.text('mine'))",
        timeout=SOON,
    )
    with pytest.raises(KernelError, match="execute_code can look instead"):
        await kernels.variables(limit=10)


async def test_a_session_that_ends_leaves_no_subshell_behind(
    kernels: Kernels, start_host_kernel: Callable[..., Any]
) -> None:
    await kernels.variables(limit=1)
    count = "import threading; print(len([t for t in threading.enumerate() if 'ubshell' in t.name]))"
    with_one = (await kernels.execute(count, timeout=SOON)).result
    path = kernels.statuses()[0].connection_file
    await kernels.disconnect()
    await kernels.connect(path)
    without = (await kernels.execute(count, timeout=SOON)).result
    assert with_one
    assert without
    assert int(str(with_one.outputs[0].text)) == int(str(without.outputs[0].text)) + 1  # type: ignore[union-attr]


LYING = """
calls = []
def note(what):
    calls.append(what)
    raise RuntimeError(what)
class Name(str):
    __hash__ = str.__hash__
    def __eq__(self, other): note('name eq')
    def startswith(self, *a): note('name startswith')
    def __radd__(self, other): note('name radd')
class Liar:
    __class__ = property(lambda self: note('class'))
class Typed(metaclass=type('M', (type,), {'__eq__': lambda a, b: note('meta eq'), '__hash__': type.__hash__})):
    __qualname__ = Name('Typed')
globals()[Name('hostile_name')] = 1
liar = Liar(); typed = Typed()
deep = []
for _ in range(100_000): deep = [deep]
calls.clear()
"""


async def test_names_and_types_that_lie_are_seen_through(kernels: Kernels) -> None:
    seen = await table(kernels, LYING)
    assert "hostile_name" not in seen
    assert seen["liar"].type == "__main__.Liar"
    assert seen["typed"].type == "__main__.Typed"
    assert seen["deep"].value == "list"
    assert seen["calls"].length == 0


async def test_arrays_of_any_dtype_are_told_without_what_they_hold(kernels: Kernels) -> None:
    seen = await table(
        kernels,
        "import numpy as np\n" + HOSTILE + "objects = np.empty(2, dtype=object); objects[:] = t\n"
        "records = np.zeros(2, [(('title', 'n'), 'i4'), ('o', 'O')]); records['o'] = t; record = records[0]\n"
        "none = np.float64('nan'); text = np.str_('x' * 200)\n"
        "strings = np.array(['a'], dtype=np.dtypes.StringDType())\ncalls.clear()",
    )
    assert seen["records"].dtype == "{n: int32, o: object}"
    assert seen["record"].type == "numpy.void"
    assert seen["record"].value is None
    assert (seen["objects"].dtype, seen["objects"].shape) == ("object", (2,))
    assert seen["none"].value == "nan"
    assert seen["text"].value == repr("x" * 80) + "..."
    assert seen["strings"].dtype == "numpy.dtypes.StringDType"
    assert seen["calls"].length == 0


async def test_frames_of_pandas_own_types_are_told_and_others_are_not(kernels: Kernels) -> None:
    seen = await table(
        kernels,
        "import pandas as pd; pieces = pd.Series([None, None], dtype=object)\n"
        + HOSTILE
        + "pieces.array._ndarray[0] = h\n"
        "class Index(pd.Index):\n    def __len__(self): note('index len')\n"
        "own = pd.DataFrame({'c': pd.Categorical(['u', 'v']), 'i': pd.array([1, None], dtype='Int64'), 'o': pieces,"
        " 'd': pd.to_datetime(['2020', '2021'], utc=True)})\n"
        "foreign = pd.DataFrame({'a': [1]}); foreign._mgr.axes[1] = object.__new__(Index)\n"
        "noted = pd.DataFrame({'a': [1]}); object.__setattr__(noted, 'memory_usage', lambda **k: note('method'))\n"
        "calls.clear()",
    )
    assert seen["own"].columns
    assert [each.dtype for each in seen["own"].columns[:3]] == ["category", "Int64", "object"]
    assert "time zone" in seen["own"].columns[3].dtype
    assert (seen["foreign"].type, seen["foreign"].shape) == ("pandas.DataFrame", None)
    assert seen["noted"].shape == (1, 1)
    assert seen["calls"].length == 0


async def test_builtins_that_the_user_has_hidden_are_not_used(kernels: Kernels) -> None:
    seen = await table(
        kernels, "calls = []; __import__ = len = type = sorted = dict = print = lambda *a, **k: calls.append(a); x = 1"
    )
    assert seen["x"].value == "1"
    assert seen["calls"].length == 0


async def test_a_look_leaves_nothing_alive_and_the_last_exception_as_it_was(kernels: Kernels) -> None:
    await kernels.execute(
        "import gc, weakref, sys\nclass Big: pass\nbig = Big(); gone = weakref.ref(big); gc.disable()\n"
        "def fails(held): 1/0\ntry: fails(big)\nexcept ZeroDivisionError as error: sys.last_value = kept = error",
        timeout=SOON,
    )
    for look in (kernels.variables(limit=100), kernels.inspection("big"), kernels.last_error()):
        await look
    with pytest.raises(UsageError):
        await kernels.inspection("nothing.of.the.kind")
    told = (
        await kernels.execute(
            "print(sys.last_value is kept); del kept, big, sys.last_value; print(gone() is None)\n"
            "ours = [each for each in gc.get_objects() if type(each) is type(fails)"
            " and each.__code__.co_filename == '<kernel-bridge>']\nprint(len(ours))",
            timeout=SOON,
        )
    ).result
    assert told
    assert str(told.outputs[0].text).split() == ["True", "True", "0"]  # type: ignore[union-attr]
