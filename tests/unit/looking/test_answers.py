"""What a look sends, and what it makes of any answer, also of one that nobody honest would give."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from bridge.errors import KernelError, UsageError
from bridge.looking import object_expression, read_error, read_object, read_variables


def told(content: Any) -> str:
    return repr(json.dumps(content))


ODD = [
    "",
    "1",
    "__import__('os')",
    "'not json'",
    told([]),
    told(None),
    told({}),
    told({"object": None, "notes": []}),
    told({"object": {"name": "x"}, "notes": []}),
    told({"object": {"name": "x", "type": "int", "length": "many"}, "notes": []}),
    told({"object": {"name": "x", "type": "int", "columns": 3}, "notes": []}),
    told({"object": {"name": "x", "type": "int", "bytes": float("inf")}, "notes": []}),
    told({"object": [], "total": 1, "variables": [1], "notes": 1}),
    told(
        {"total": 1, "variables": 3, "type": "E", "message": "", "cell": "x", "causes": [], "frames": [], "notes": []}
    ),
    told({"missing": 1}),
    "'" + "[" * 100_000 + "'",
]


@pytest.mark.parametrize("read", [read_variables, read_object, read_error])
@pytest.mark.parametrize("answer", ODD, ids=range(len(ODD)))
def test_an_answer_that_is_none_is_one_sentence(read: Callable[[str], Any], answer: str) -> None:
    with pytest.raises(KernelError, match="cannot be read"):
        read(answer)


@pytest.mark.parametrize("read", [read_variables, read_object, read_error])
def test_a_refusal_is_told_word_for_word(read: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError, match="It is a property"):
        read(told({"refused": "It is a property"}))


def test_a_missing_name_is_told_with_those_near_it() -> None:
    with pytest.raises(UsageError, match=r"There is no a\.prise in the kernel\. Near it: price\."):
        read_object(told({"missing": "a.prise", "wanted": "prise", "names": ["price", 3, "other"]}))
    with pytest.raises(UsageError, match="list_variables shows what there is"):
        read_object(told({"missing": "x", "wanted": "x", "names": []}))


def test_a_missing_name_is_looked_for_in_no_time_whatever_names_are_told() -> None:
    letters = [chr(0xA1 + number) for number in range(100)] * 10
    shuffled = random.Random(1)  # noqa: S311 - for sequences with which difflib takes long
    wanted, *names = ["".join(shuffled.sample(letters, len(letters))) for _ in range(1001)]
    answer = told({"missing": "x", "wanted": wanted, "names": names})
    before = time.process_time()
    with pytest.raises(UsageError, match=r"There is no x in the kernel\."):
        read_object(answer)
    assert time.process_time() - before < 1


@pytest.mark.parametrize("name", ["x", " df ", "np.linalg.norm", "d['k']", 'd["k"][0].x', "xs[-1]", "d[None]", "größe"])
def test_a_name_and_a_way_from_one_can_be_asked_for(name: str) -> None:
    compile(object_expression(name), "<look>", "eval")


NO_WAYS = ["", "1", "x + 1", "f()", "xs[1:2]", "d[(1, 2)]", "d[k]", "d[f'{x}']", "x; y", "x\ny", "x\0", "*x", "\ud800"]
ENDLESS = ["(" * 5000, "a" + ".b" * 50_000]


@pytest.mark.parametrize("name", [*NO_WAYS, *ENDLESS], ids=range(len(NO_WAYS) + len(ENDLESS)))
def test_anything_else_is_refused_before_it_is_sent(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        object_expression(name)
