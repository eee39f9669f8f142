"""The tables in the documentation are made from the code; the first success comes early."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from bridge.cli import cli
from bridge.policy import settings
from bridge.tools import all_tools
from tests.security.probes import rows

ROOT = Path(__file__).parents[2]


def table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "".join(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |\n" for line in lines)


def policy_table() -> str:
    lines = [
        (
            f"`{each.name}`",
            each.meaning,
            f"`{each.built_in}`" if each.built_in else "",
            each.allowed,
        )
        for each in settings()
    ]
    return table(("setting", "what it says", "built in", "may be"), *lines)


def tool_table() -> str:
    lines = []
    for tool in all_tools():
        assert tool.description
        does = " ".join(tool.description.split("\n\n")[0].split())
        required = set(tool.parameters.get("required", ()))
        names = (each if each in required else f"{each}?" for each in tool.parameters["properties"])
        lines.append((f"`{tool.name}`", ", ".join(names), does))
    return table(("tool", "arguments", "does"), *lines)


def probe_table() -> str:
    return table(("what code inside tries", "what stops it", "what it sees", "with exactly that relaxed"), *rows())


GENERATED = {
    "README.md": ("tools", tool_table),
    "bridge/policy/README.md": ("policy", policy_table),
    "images/README.md": ("probes", probe_table),
}


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


def test_the_readmes_workflow_for_other_projects_is_one_and_asks_for_no_rights() -> None:
    (text,) = re.findall(
        r"^```yaml\n(name: tests\n.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 30
    run = [each["run"] for each in job["steps"] if "run" in each]
    assert run[-1] == "pytest"
    for line in (each for each in run if each.startswith("kernel-bridge")):
        arguments = line.split()[1:]
        assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0, line
