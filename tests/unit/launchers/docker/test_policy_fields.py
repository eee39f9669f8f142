"""Every field of a policy does something: each is changed alone, and the difference is looked for."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from mcp.types import ImageContent, TextContent
from pydantic import BaseModel

import bridge
from bridge.errors import PolicyError, UsageError
from bridge.kernels.listing import Outcome
from bridge.launchers.docker import connections, lasting
from bridge.launchers.docker.document import Facts, documents
from bridge.outputs import DisplayData, Result, Stream
from bridge.policy import Limits, Policy, SandboxRequest, decide, parse
from bridge.tools import App, shown
from tests.certificates import certified

# Changed alone, these change what the engine is asked for, what goes over stdin, or what is refused.
DECIDED: dict[str, Any] = {
    "sandbox.images": [{"repository": "kernel-bridge/other", "tags": ["*"]}],
    "sandbox.default_image": "kernel-bridge/python:3.14",
    "sandbox.network": "none",
    "sandbox.egress": [{"host": "pypi.example.org", "port": 8443}],
    "sandbox.upstream_proxy": "http://proxy.example.org:3128",
    "sandbox.ca_bundle": "BUNDLE",
    "sandbox.limits.memory": "4GiB",
    "sandbox.limits.cpus": 1,
    "sandbox.limits.pids": 64,
    "sandbox.limits.home": "100MiB",
    "sandbox.limits.tmp": "100MiB",
    "sandbox.limits.shm": "100MiB",
    "sandbox.limits.log": "100KiB",
    "sandbox.mounts": [],
    "sandbox.environment": [],
    "sandbox.gpus": 1,
    "sandbox.runtime": "runsc",
    "sandbox.idle_timeout": "1h",
    "sandbox.max_lifetime": "24h",
    "version": 2,
}
# Enforced by another module, which must at least name the field; its own tests look at what it does.
ELSEWHERE = {
    "attach.allowed": "kernels/files.py",
    "attach.directories": "kernels/files.py",
    "attach.addresses": "kernels/files.py",
    "sandbox.max_running": "launchers/docker/starting.py",
    "calls.kept_output": "kernels/registry.py",
    "audit.file": "audit/__init__.py",
    "audit.code": "audit/__init__.py",
    "audit.max_size": "audit/__init__.py",
    "audit.keep": "audit/__init__.py",
}
# Changed alone, these change what a tool call does.
CALLS: dict[str, Any] = {
    "calls.timeout": "7s",
    "calls.max_timeout": "2h",
    "calls.max_output": "2KiB",
    "calls.max_result": "64KiB",
}
NOT_A_SETTING = {"origin", "lines"}


def png(side: int) -> str:
    """A picture that cannot be made smaller without being drawn anew: noise, some hundred KiB."""
    rows = b"".join(b"\0" + hashlib.shake_128(bytes([row])).digest(3 * side) for row in range(side))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


PICTURE = png(200)


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
            "egress": [{"host": "pypi.example.org", "port": 443}],
        },
    }
    for setting, value in changes.items():
        *parents, last = setting.split(".")
        inner = content
        for each in parents:
            inner = inner.setdefault(each, {})
        inner[last] = value
    return json.dumps(content).replace("BUNDLE", str(workspace / "cert.pem"))


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
    orders = connections.orders(
        "k", spec.environment, certificates=spec.certificates, limits=lasting.limits(spec)
    ).decode()
    return json.dumps([dataclasses.asdict(made), orders])


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("workspace")
    certified(workspace)
    return workspace


@pytest.mark.parametrize("setting", DECIDED)
def test_each_setting_of_sandboxes_makes_a_difference(setting: str, workspace: Path, facts: Facts) -> None:
    before = outcome(workspace, facts, {})
    assert not before.startswith("refused")
    assert outcome(workspace, facts, {setting: DECIDED[setting]}) != before


async def call(changes: dict[str, Any], workspace: Path) -> dict[str, Any]:
    """What one and the same calls come to: how long they would wait, and how much they show."""
    app = App(parse(text(workspace, changes), origin="the test's policy"), lambda _: pytest.fail("no kernel is needed"))
    outputs = (Stream("stdout", "~" * 100_000), DisplayData({"image/png": PICTURE}))
    shown_result = await shown(app, Outcome("lab", (), Result(1, "ok", outputs)))
    try:
        longest: float | str = app.timeout(2 * 3600.0)
    except UsageError as error:
        longest = str(error)
    return {
        "timeout": app.timeout(None),
        "max_timeout": longest,
        "max_output": sum(each.text.count("~") for each in shown_result.content if isinstance(each, TextContent)),
        "max_result": sum(len(each.data) for each in shown_result.content if isinstance(each, ImageContent)),
    }


@pytest.mark.anyio
@pytest.mark.parametrize("setting", CALLS)
async def test_each_setting_of_calls_changes_what_it_names_and_nothing_else(setting: str, workspace: Path) -> None:
    before, after = await call({}, workspace), await call({setting: CALLS[setting]}, workspace)
    name = setting.rpartition(".")[2]
    changed = {each for each in before if before[each] != after[each]}
    # the text is a part of the whole result
    assert changed == {name} or (name, changed) == ("max_result", {"max_result", "max_output"})
    if name == "timeout":
        assert after[name] == 7
    if name == "max_output":
        assert after[name] <= 2 * 1024 < before[name] <= 48 * 1024
    if name == "max_result":
        assert after[name] < 64 * 1024 < before[name]


@pytest.mark.parametrize("setting", ELSEWHERE)
def test_each_other_setting_is_read_where_it_is_said_to_be(setting: str) -> None:
    module = Path(bridge.__file__).parent / ELSEWHERE[setting]
    assert f".{setting.rpartition('.')[2]}" in module.read_text(encoding="utf-8")


def test_no_setting_is_forgotten_in_the_tests_above() -> None:
    tables = (DECIDED, ELSEWHERE, CALLS, NOT_A_SETTING)
    named = [name for table in tables for name in table]
    assert sorted(named) == sorted(leaves(Policy)), "each is in one table, and only in one"
    assert {f"sandbox.limits.{name}" for name in Limits.model_fields} <= set(DECIDED)
