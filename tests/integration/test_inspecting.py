"""One object of a real kernel in full: what is told of it, and that none of the user's code is called for it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import KernelBusy, UsageError
from bridge.kernels.registry import Kernels

pytestmark = pytest.mark.anyio

SOON = 30.0


async def ran(kernels: Kernels, code: str) -> None:
    result = (await kernels.execute(code, timeout=SOON)).result
    assert result
    assert result.status == "ok", result


async def refused(kernels: Kernels, name: str) -> str:
    with pytest.raises(UsageError) as caught:
        await kernels.inspection(name)
    return str(caught.value)


CLASS = '''
import functools
class Account:
    """What it is."""
    __slots__ = ("open", "never")
    rate: float = 0.5
    def __init__(self, owner: str, /, *more, limit=10, **rest) -> None:
        self.open = True
    @property
    def balance(self):
        """How much."""
        1/0
    @staticmethod
    def parse(text): return text
    @staticmethod
    @functools.lru_cache
    def counted(number, *, step=1): return number
    @functools.cached_property
    def cached(self): 1/0
class Kept:
    def __init__(self): self.inner = {"rows": [10, {"deep": "x"}]}
    def __getattr__(self, name): 1/0
    guarded = property(lambda self: 1/0)
account = Account("me"); kept = Kept()
vars(kept)["guarded"] = 5
kinds = {1: "one", True and 2.5: "half", b"k": "bytes"}
'''


async def test_a_class_is_told_with_signature_source_bases_and_members(kernels: Kernels) -> None:
    await ran(kernels, CLASS)
    told = await kernels.inspection("Account")
    assert told.signature == "(owner: str, /, *more, limit=10, **rest) -> None"
    assert told.documentation == "What it is."
    assert told.bases == ("object",)
    assert {"balance: property", "parse: staticmethod", "rate: float"} <= set(told.members)
    assert told.source.startswith("class Account:\n")
    assert told.source.endswith("def cached(self): 1/0")
    assert told.line == 2
    assert "cell In[1]" in told.notes[0]


async def test_a_way_leads_through_modules_classes_instances_and_items(kernels: Kernels) -> None:
    await ran(kernels, CLASS + "import numpy as np, json")
    assert (await kernels.inspection("kept.inner['rows'][1]['deep']")).object.value == "'x'"
    assert (await kernels.inspection("kept.inner['rows'][-2]")).object.value == "10"
    assert (await kernels.inspection("kinds[2.5]")).object.value == "'half'"
    assert (await kernels.inspection("kinds[b'k']")).object.value == "'bytes'"
    assert (await kernels.inspection("account.open")).object.value == "True"
    assert (await kernels.inspection("Account.parse")).signature == "(text)"
    assert (await kernels.inspection("Account.counted")).signature == "(number, *, step=1)"
    assert (await kernels.inspection("np.linalg.norm")).signature == "(x, ord=None, axis=None, keepdims=False)"
    assert (await kernels.inspection("len")).signature == "(obj, /)"
    decoder = await kernels.inspection("json.JSONDecoder.decode")
    assert Path(decoder.file).name == "decoder.py"
    assert "def decode" in decoder.source


async def test_what_would_take_running_code_is_refused_with_the_reason(kernels: Kernels) -> None:
    await ran(kernels, CLASS + "import pandas as pd; df = pd.DataFrame({'a': [1]})")
    told = await kernels.inspection("account.balance")
    assert told.object.type == "property"
    assert told.documentation == "How much."
    assert "reading it runs code" in told.notes[0]
    assert "is a property" in await refused(kernels, "account.balance.real")
    assert (await kernels.inspection("kept.guarded")).object.type == "property"
    assert "a slot in which nothing lies" in await refused(kernels, "account.never")
    assert "`__getattr__`" in await refused(kernels, "kept.other")
    assert "item of a pandas.DataFrame" in await refused(kernels, "df['a']")
    assert "computed when it is read" in await refused(kernels, "account.parse.__dict__")
    assert "has 2 elements" in await refused(kernels, "kept.inner['rows'][7]")


async def test_a_missing_name_is_told_with_those_that_are_near(kernels: Kernels) -> None:
    await ran(kernels, CLASS + "import json\nglobals().update({f'name{n:05}': n for n in range(10_000)})")
    assert "There is no acount in the kernel. Near it: account" in await refused(kernels, "acount")
    assert "Near it: balance" in await refused(kernels, "account.balnce")
    assert "Near it: dump, dumps." in await refused(kernels, "json.dumsp")
    assert "Near it: rows" in await refused(kernels, "kept.inner['row']")
    for wrong in ("1 + 1", "f(x)", "df[0:3]", "x y", "", "(" * 10_000, "a[b]", "lambda: 0"):
        assert "is not a name" in await refused(kernels, wrong)


HOSTILE = """
import numpy as np, pandas as pd
calls, armed = [], []
def note(what):
    if armed:
        calls.append(what)
        raise RuntimeError(what)
class Meta(type):
    __signature__ = property(lambda s: note('meta signature'))
    def __getattribute__(cls, name): note('meta ' + name); return type.__getattribute__(cls, name)
    def __eq__(cls, other): note('meta eq'); return cls is other
    def __hash__(cls): note('meta hash'); return 1
    def __instancecheck__(cls, other): note('meta instance'); return False
class Key(str):
    __hash__ = str.__hash__
    def __eq__(self, other): note('key eq'); return self is other
class Descriptor:
    def __get__(self, *a): note('get')
    def __set__(self, *a): note('set')
class Hostile(metaclass=Meta):
    attribute = Descriptor()
    __doc__ = Descriptor()
    __wrapped__ = property(lambda s: note('wrapped'))
    __signature__ = property(lambda s: note('signature'))
    __text_signature__ = property(lambda s: note('text signature'))
    __dict__ = property(lambda s: note('dict'))
    def __init__(self, default=Key('d')): pass
    def __getattribute__(self, name): note('attribute ' + name); return object.__getattribute__(self, name)
    def __getattr__(self, name): note('getattr ' + name); raise AttributeError(name)
    def __call__(self): note('call')
    def __repr__(self): note('repr'); return ''
    def __eq__(self, other): note('eq'); return self is other
    def __hash__(self): note('hash'); return hash('k')
    def __bool__(self): note('bool'); return True
Odd = type('Odd', (), {Key(each): 1 for each in ('__module__', '__dict__', '__init__', '__doc__', '__get__', 'y')})
odd = Odd()
def wrapped(x=None): pass
h = Hostile()
wrapped.__wrapped__ = wrapped.__signature__ = h
wrapped.__defaults__ = (h,)
d = {h: 1}
xs = [h, {'k': h, Key('z'): 1}]
arr = np.empty((2, 2), dtype=object); arr[:] = h
df = pd.DataFrame({'o': pd.Series(arr[0]), 'n': [1.0, 2.0]})
module = type(np)('module'); module.__getattr__ = lambda name: note('module getattr'); module.inner = h
vars(module)[Key('inner')] = 1
armed.append(1)
"""
TOLD = "h Hostile Hostile.attribute h.attribute h.__init__ h.__dict__ d xs Odd odd xs[1]['k'] arr module module.inner"
REFUSED = "h.nothing Hostile.nothing h['k'] d['k'] Odd.y odd.y module.nothing"


async def test_nothing_of_the_users_is_called_on_the_way_nor_at_its_end(kernels: Kernels) -> None:
    await ran(kernels, HOSTILE)
    for name in TOLD.split():
        await kernels.inspection(name)
    for name in REFUSED.split():
        assert "It changed while" not in await refused(kernels, name)
    assert (await kernels.inspection("wrapped")).signature == "(x=__main__.Hostile)"
    assert "__main__.Hostile | 1.0" in (await kernels.inspection("df")).rows
    assert (await kernels.inspection("calls")).members == ()


async def test_a_data_frame_is_told_with_rows_and_what_describes_its_numbers(kernels: Kernels) -> None:
    await ran(
        kernels,
        "import numpy as np, pandas as pd\n"
        "df = pd.DataFrame({'n': range(100), 'f': [None, *map(float, range(99))], 's': 'text', "
        "'when': pd.to_datetime('2020-01-02'), 'c': pd.Categorical(['u'] * 100), "
        "'i': pd.array([None, *range(99)], dtype='Int64')}, index=pd.Index([f'r{n}' for n in range(100)]))\n"
        "described = {k: v for k, v in df['f'].describe().items()}\n"
        "multi = pd.DataFrame({'a': [1, 2]}, index=pd.MultiIndex.from_tuples([('x', 1), ('y', 2)]))\n"
        "large = pd.DataFrame(np.zeros((300_000, 1))); wide = pd.DataFrame(np.zeros((2, 5_000))); none = df.iloc[:0]\n"
        "series = df['s']; odd = pd.DataFrame({'p': pd.period_range('2020', periods=1)})",
    )
    told = await kernels.inspection("df")
    rows = told.rows.split("\n")
    assert rows[0] == " | 'n' | 'f' | 's' | 'when' | 'c' | 'i'"
    assert rows[1].startswith("'r0' | 0 | nan | 'text' | 2020-01-02T00:00:00")
    assert rows[1].endswith("'u' | <NA>")
    assert (len(rows), told.total) == (11, 100)
    expected = (await kernels.inspection("described")).members
    for line in expected:
        label, number = line.split(": ")
        # ours are rounded to six digits
        assert f"{label.strip(chr(39))} {float(number):.6g}" in told.numbers.split("\n")[1]
    later = (await kernels.inspection("df", start=95)).rows.split("\n")
    assert [each.split(" | ")[0] for each in later[1:]] == [f"'r{n}'" for n in range(95, 100)]
    assert "('y', 2) | 2" in (await kernels.inspection("multi")).rows
    assert "Too large" in (await kernels.inspection("large")).numbers
    assert len((await kernels.inspection("wide")).rows.split("\n")[1].split(" | ")) == 21
    assert (await kernels.inspection("none")).total == 0
    assert "'r9' | 'text'" in (await kernels.inspection("series")).rows
    assert "<PeriodArray>" in (await kernels.inspection("odd")).rows


async def test_an_array_is_told_with_its_extent_and_a_corner(kernels: Kernels) -> None:
    await ran(
        kernels,
        "import numpy as np\narr = np.arange(24.0).reshape(2, 3, 4); large = np.zeros(2_000_000); "
        "none = np.zeros((0, 3)); text = np.array(['a', 'b']); zero = np.array(7); flags = np.array([True, False])",
    )
    told = await kernels.inspection("arr")
    assert told.numbers == "min 0, max 23, mean 11.5"
    assert told.rows == "[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]"
    assert "Too large" in (await kernels.inspection("large")).numbers
    assert (await kernels.inspection("none")).numbers == ""
    assert (await kernels.inspection("text")).rows == "['a', 'b']"
    assert (await kernels.inspection("zero")).rows == "7"
    assert (await kernels.inspection("flags")).numbers == "min 0, max 1, mean 0.5"


async def test_long_source_long_texts_and_containers_are_read_in_pages(kernels: Kernels) -> None:
    body = "\n".join(f"    x{n} = {n}" for n in range(200))
    await ran(kernels, f"def long():\n{body}\nxs = list(range(1000)); text = 'a' * 5000 + 'b'\n")
    first = await kernels.inspection("long")
    assert first.total == 201
    assert first.source.endswith("x78 = 78")
    assert (await kernels.inspection("long", start=80)).source.startswith("    x79 = 79")
    page = await kernels.inspection("xs", start=990)
    assert (page.total, page.members) == (1000, tuple(map(str, range(990, 1000))))
    assert (await kernels.inspection("text", start=4999)).rows == "'ab'"


async def test_a_look_at_one_object_leaves_no_trace(kernels: Kernels) -> None:
    async def told(code: str) -> str:
        result = (await kernels.execute(code, timeout=SOON)).result
        assert result
        return str(result.outputs[-1].data["text/plain"])  # type: ignore[union-attr]

    await ran(kernels, CLASS + "import linecache, sys, pandas.core.frame; 'the last value'")
    seen = "(len(In), len(sys.modules), len(linecache.cache), hasattr(sys, 'last_value'), sorted(vars(kept)))"
    before = await told(seen)
    for name in ("Account", "pandas.DataFrame", "kept", "kept.other", "nothing", "account.balance"):
        try:
            await kernels.inspection(name)
        except UsageError:
            continue
    last, after = ast.literal_eval(await told(f"_, {seen}"))
    cells, modules, sources, failed, names = ast.literal_eval(before)
    assert last == (cells, modules, sources, failed, names)
    assert after == (cells + 1, modules, sources + 1, failed, names)  # by the cell that asks


async def test_an_object_can_be_inspected_while_a_long_cell_runs_or_the_kernel_says_busy(kernels: Kernels) -> None:
    await ran(kernels, CLASS)
    running = (await kernels.execute("during = 2\nimport time; time.sleep(60)", timeout=0.5)).result
    assert running
    assert running.status == "running"
    assert (await kernels.inspection("during")).object.value == "2"
    assert (await kernels.inspection("Account")).line == 2
    session: Any = next(iter(kernels._connected.values())).session
    session._channels.kernel_info = {**session._channels.kernel_info, "supported_features": []}
    session._subshell._id = None
    with pytest.raises(KernelBusy, match="no subshells"):
        await kernels.inspection("during")
    await kernels.interrupt()
