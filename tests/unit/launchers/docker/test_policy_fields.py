"""Every field of a policy does something: each is changed alone, and the difference is looked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import bridge
from bridge.errors import PolicyError
from bridge.launchers.docker import connections
from bridge.launchers.docker.document import Facts, documents
from bridge.policy import Limits, Policy, SandboxRequest, decide, parse

# Changed alone, these change what the engine is asked for, what goes over stdin, or what is refused.
DECIDED: dict[str, Any] = {
    "sandbox.images": [{"repository": "kernel-bridge/other", "tags": ["*"]}],
    "sandbox.default_image": "kernel-bridge/python:3.14",
    "sandbox.network": "none",
    "sandbox.limits.memory": "4GiB",
    "sandbox.limits.cpus": 1,
    "sandbox.limits.pids": 64,
    "sandbox.limits.home": "100MiB",
    "sandbox.limits.tmp": "100MiB",
    "sandbox.limits.shm": "100MiB",
    "sandbox.limits.log": "100KiB",
    "sandbox.mounts": [],
    "sandbox.environment": [],
    "sandbox.runtime": "runsc",
    "version": 2,
}
# Not enforced yet, so any value but the empty one is refused.
REFUSED: dict[str, Any] = {
    "sandbox.egress": [{"host": "pypi.example.org", "port": 443}],
    "sandbox.ca_bundle": "/etc/hosts",
    "sandbox.gpus": 1,
    "sandbox.idle_timeout": "24h",
    "sandbox.max_lifetime": "24h",
    "calls.kept_output": "1GiB",
    "audit.file": "/var/log/audit.jsonl",
}
# Enforced by another module, which must at least name the field; its own tests look at what it does.
ELSEWHERE = {
    "attach.allowed": "kernels/files.py",
    "attach.directories": "kernels/files.py",
    "attach.addresses": "kernels/files.py",
    "sandbox.max_running": "launchers/docker/starting.py",
    "calls.timeout": "tools/__init__.py",
    "calls.max_timeout": "tools/__init__.py",
    "calls.max_output": "tools/__init__.py",
    "calls.max_result": "tools/__init__.py",
}
NOT_A_SETTING = {"origin"}


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The policy's settings, each by its full name; lists are one setting."""
    found = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def text(workspace: Path, changes: dict[str, Any]) -> str:
    content: dict[str, Any] = {
        "version": 1,
        "sandbox": {
            "images": [{"repository": "kernel-bridge/python", "tags": ["*"]}],
            "default_image": "kernel-bridge/python:3.13",
            "mounts": [{"source": str(workspace), "mode": "ro"}],
            "environment": ["DATABASE"],
        },
    }
    for setting, value in changes.items():
        *parents, last = setting.split(".")
        inner = content
        for each in parents:
            inner = inner.setdefault(each, {})
        inner[last] = value
    return json.dumps(content)


def outcome(workspace: Path, facts: Facts, changes: dict[str, Any]) -> str:
    """All that becomes of one and the same request under a policy."""
    request = SandboxRequest(name="lab", workspace=workspace, environment={"DATABASE": "test"})
    try:
        spec = decide(parse(text(workspace, changes), origin="the test's policy"), request)
    except PolicyError as error:
        return f"refused: {error}"
    if spec.network == "none":
        facts = dataclasses.replace(facts, socket_directory=Path("/run/user/7/kernel-bridge/0a1b2c3d"))
    # the image's id is another one for another reference
    made = documents(spec, dataclasses.replace(facts, image_id=spec.image))
    return json.dumps([dataclasses.asdict(made), connections.orders("k", spec.environment).decode()])


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.mark.parametrize("setting", DECIDED)
def test_each_setting_of_sandboxes_makes_a_difference(setting: str, workspace: Path, facts: Facts) -> None:
    before = outcome(workspace, facts, {})
    assert not before.startswith("refused")
    assert outcome(workspace, facts, {setting: DECIDED[setting]}) != before


@pytest.mark.parametrize("setting", REFUSED)
def test_each_setting_that_is_not_enforced_yet_is_refused_by_name(setting: str, workspace: Path, facts: Facts) -> None:
    refusal = outcome(workspace, facts, {setting: REFUSED[setting]})
    assert refusal.startswith("refused")
    assert setting.rpartition(".")[2] in refusal
    assert "not supported yet" in refusal


@pytest.mark.parametrize("setting", ELSEWHERE)
def test_each_other_setting_is_read_where_it_is_said_to_be(setting: str) -> None:
    module = Path(bridge.__file__).parent / ELSEWHERE[setting]
    assert f".{setting.rpartition('.')[2]}" in module.read_text(encoding="utf-8")


def test_no_setting_is_forgotten_in_the_tests_above() -> None:
    assert leaves(Policy) == {*DECIDED, *REFUSED, *ELSEWHERE, *NOT_A_SETTING}
    assert not (set(DECIDED) & set(REFUSED)) | (set(DECIDED) & set(ELSEWHERE)) | (set(REFUSED) & set(ELSEWHERE))
    assert {f"sandbox.limits.{name}" for name in Limits.model_fields} <= set(DECIDED)
