"""What an engine's words mean for sandboxes; faults that no engine of a test can be given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bridge.checks.engine import judged
from bridge.launchers import EngineFacts
from bridge.policy import SandboxRequest, built_in, decide

FACTS = EngineFacts(
    address="unix:///d.sock",
    source="named by $DOCKER_HOST",
    version="29.1.0",
    api_version="1.52",
    system="Debian",
    maps_uids=None,
    shares_sockets=True,
    runtimes=("runc",),
    missing_limits=(),
    counts_sockets=True,
    warnings=(),
    clock_ahead=0.1,
    storage=Path("/var/lib/docker"),
    free=50 * 2**30,
)
SPEC = decide(built_in(), SandboxRequest(name="x"))


def test_an_engine_without_a_fault() -> None:
    found = list(judged(FACTS, SPEC))
    assert {each.level for each in found} == {"ok"}
    assert found[0].found == "29.1.0 at unix:///d.sock, named by $DOCKER_HOST (API 1.52, Debian)"


@pytest.mark.parametrize(
    ("changes", "check", "level", "said", "cure"),
    [
        ({"missing_limits": ("swap",)}, "limits", "fail", "cannot limit swap", "swapaccount=1"),
        ({"counts_sockets": False}, "limits", "warn", "what waits in TCP and UDP sockets is not in the", "cgroup v2"),
        ({"warnings": ("WARNING: API is open",)}, "engine warns", "warn", "API is open", "docker info"),
        ({"free": 2**20}, "image storage", "warn", "1MiB free", "docker system df"),
        ({"clock_ahead": 90.0}, "clock", "warn", "90 s ahead of", "NTP"),
        ({"clock_ahead": -90.0}, "clock", "warn", "90 s behind", "NTP"),
    ],
)
def test_each_fault_has_its_level_and_its_cure(
    changes: dict[str, Any], check: str, level: str, said: str, cure: str
) -> None:
    [fault] = [each for each in judged(dataclasses.replace(FACTS, **changes), SPEC) if each.level != "ok"]
    assert (fault.check, fault.level) == (check, level)
    assert said in fault.found
    assert cure in (fault.cure or "")


def test_gpus_that_no_look_can_find_are_a_warning_and_only_where_the_policy_gives_some() -> None:
    (found,) = [each for each in judged(FACTS, dataclasses.replace(SPEC, gpus=2)) if each.level != "ok"]
    assert (found.check, found.level) == ("gpus", "warn")
    assert "every sandbox 2 of them" in found.found


def test_a_runtime_that_containerd_finds_by_its_name_is_a_warning_until_a_start() -> None:
    [found] = [each for each in judged(FACTS, dataclasses.replace(SPEC, runtime="io.containerd.runsc.v1")) if each.cure]
    assert (found.check, found.level) == ("runtime", "warn")


@pytest.mark.parametrize(("changes", "check"), [({"runtime": "runsc"}, "runtime"), ({"network": "none"}, "network")])
def test_what_the_policy_asks_and_this_engine_cannot_do_fails(changes: dict[str, Any], check: str) -> None:
    rootless = dataclasses.replace(FACTS, shares_sockets=False, maps_uids="rootless")
    spec = dataclasses.replace(SPEC, **changes)
    assert [each.check for each in judged(rootless, spec) if each.level == "fail"] == [check]
    assert "rootless" in next(iter(judged(rootless, spec))).found
