"""What GitHub runs for us: with few rights, in bounded time, and only commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> dict[Any, Any]:
    return dict(yaml.safe_load(request.param.read_text()))


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def made(workflow: dict[Any, Any]) -> list[str]:
    """Return the targets that are made, in order; every command there is one of make's."""
    commands = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    found = [re.fullmatch(r'(?:sudo )?make ([a-z]+)(?: PYTHON="\$\(command -v python\)")?', line) for line in commands]
    assert all(found), commands
    return [each[1] for each in found if each]


def test_there_is_one_for_ci_and_it_runs_the_two_commands() -> None:
    (ci,) = [path for path in WORKFLOWS if path.name == "ci.yml"]
    content = yaml.safe_load(ci.read_text())
    assert made(content) == ["demo", "test"]
    # YAML 1.1 reads the key `on` as a truth value
    assert set(content[True]) == {"push", "pull_request"}


def test_it_runs_only_commands_that_the_makefile_has(workflow: dict[Any, Any]) -> None:
    assert {"demo", "test"} <= TARGETS
    assert set(made(workflow)) <= TARGETS


def test_it_may_only_read_and_is_bounded(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 60
        assert job["runs-on"] == "ubuntu-latest"


def test_it_uses_only_githubs_own_actions_by_their_major_version(workflow: dict[Any, Any]) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert any(each.startswith("actions/checkout@") for each in used)
    for each in used:
        assert re.fullmatch(r"actions/[a-z-]+@v[1-9][0-9]*", each), each


def test_nothing_from_outside_becomes_part_of_a_command(workflow: dict[Any, Any]) -> None:
    assert not [step for step in steps(workflow) if "${{" in step.get("run", "")]
