"""The tables in the documentation are made from the code; the first success comes early."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.policy import settings
from bridge.policy.model import NOT_YET
from bridge.tools import all_tools

ROOT = Path(__file__).parents[2]


def table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "".join(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |\n" for line in lines)


def policy_table() -> str:
    shown = [each for each in settings() if each.name.partition("[]")[0] not in NOT_YET or each.name in NOT_YET]
    rows = [
        (
            f"`{each.name}`",
            each.meaning,
            f"`{each.built_in}`" if each.built_in else "",
            "not supported yet" if each.name in NOT_YET else each.allowed,
        )
        for each in shown
    ]
    return table(("setting", "what it says", "built in", "may be"), *rows)


def tool_table() -> str:
    rows = []
    for tool in all_tools():
        assert tool.description
        does = " ".join(tool.description.split("\n\n")[0].split())
        required = set(tool.parameters.get("required", ()))
        names = (each if each in required else f"{each}?" for each in tool.parameters["properties"])
        rows.append((f"`{tool.name}`", ", ".join(names), does))
    return table(("tool", "arguments", "does"), *rows)


GENERATED = {"README.md": ("tools", tool_table), "bridge/policy/README.md": ("policy", policy_table)}


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_table_is_what_the_code_says(page: str) -> None:
    """`make generated` writes it."""
    name, made = GENERATED[page]
    head, mark, rest = (ROOT / page).read_text().partition(f"<!-- generated: {name} -->\n")
    written, end, foot = rest.partition("<!-- end -->")
    assert mark
    assert end
    if os.environ.get("WRITE_GOLDEN"):
        written = made()
        (ROOT / page).write_text(head + mark + written + end + foot)
    assert written == made()


def test_the_first_success_comes_before_line_thirty() -> None:
    before = (ROOT / "README.md").read_text().splitlines()[:30]
    assert any(line.startswith("make demo") for line in before)
