"""Code that would end a kernel."""

from __future__ import annotations

import pytest

from bridge.ide import exits


@pytest.mark.parametrize("code", ["exit", " quit\n", "exit()", "quit ();", "%exit", "exit(0)", "exit; "])
def test_a_call_alone_is_seen_in_every_way_in_which_people_type_it(code: str) -> None:
    assert exits.of(code) == "alone"


@pytest.mark.parametrize(
    "code",
    [
        "x = 1\nexit()",
        "if x:\n    quit(2)",
        "for a in b: exit()",
        "print(exit())",
        "class A:\n    exit()",
        "exit()\nexit()",
    ],
)
def test_a_call_that_runs_with_the_cell_is_seen_among_other_code(code: str) -> None:
    assert exits.of(code) == "among other code"


@pytest.mark.parametrize(
    "code",
    [
        "",
        "exited",
        "sys.exit()",
        "'exit()'",
        "# exit()",
        "def f():\n    exit()",
        "f = lambda: quit()",
        "exit = 1",
        "!exit",
    ],
)
def test_other_code_is_none(code: str) -> None:
    assert exits.of(code) == ""


def test_code_that_nests_without_end_is_left_to_the_kernel() -> None:
    assert exits.of("exit()" + "+(" * 100_000) == ""
