"""The engine's own words, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.launchers import EngineFacts
from bridge.launchers.docker.checking import read
from bridge.launchers.docker.host import Endpoint

NOON = 1_767_268_800.0
INFO: dict[str, Any] = {
    "OperatingSystem": "Debian GNU/Linux 13 (trixie)",
    "DockerRootDir": "/",
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "Runtimes": {"runc": {}, "runsc": {}},
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "CgroupVersion": "2",
    "SystemTime": "2026-01-01T12:00:00.289257341Z",
    "Warnings": None,
}


def facts(before: float = NOON, after: float = NOON + 1, **changes: Any) -> EngineFacts:
    endpoint = Endpoint(Path("/d.sock"), "named by $DOCKER_HOST")
    return read(endpoint, {"Version": "29.1.0", "ApiVersion": "1.52"}, INFO | changes, before=before, after=after)


def test_an_engine_that_can_do_all() -> None:
    told = facts()
    assert (told.address, told.source) == ("unix:///d.sock", "named by $DOCKER_HOST")
    assert (told.version, told.api_version, told.system) == ("29.1.0", "1.52", INFO["OperatingSystem"])
    assert (told.missing_limits, told.warnings, told.maps_uids) == ((), (), None)
    assert told.runtimes == ("runc", "runsc")
    assert told.free is not None
    assert told.free > 0


def test_limits_that_it_cannot_enforce_or_does_not_speak_of_are_named() -> None:
    assert facts(SwapLimit=False, CpuCfsQuota=None).missing_limits == ("swap", "processor time")


def test_only_cgroup_v2_counts_what_waits_in_sockets() -> None:
    assert facts().counts_sockets
    assert not facts(CgroupVersion="1").counts_sockets
    assert not facts(CgroupVersion=None).counts_sockets


@pytest.mark.parametrize(("option", "told_as"), [("rootless", "rootless"), ("userns", "userns-remap")])
def test_an_engine_that_maps_uids_shares_no_sockets(option: str, told_as: str) -> None:
    told = facts(SecurityOptions=["name=seccomp,profile=builtin", f"name={option}"])
    assert (told.maps_uids, told.shares_sockets) == (told_as, False)


def test_the_storage_of_a_virtual_machine_is_not_looked_for_here() -> None:
    told = facts(OperatingSystem="Docker Desktop")
    assert (told.free, told.shares_sockets) == (None, False)
    assert facts(DockerRootDir="/nonexistent/of/another/machine").free is None


@pytest.mark.parametrize(
    ("before", "after", "ahead"),
    [(NOON, NOON + 1, 0.0), (NOON + 60.289257, NOON + 61, -60.0), (NOON - 61, NOON - 59.710743, 60.0)],
)
def test_its_clock_is_compared_with_the_time_of_the_request(before: float, after: float, ahead: float) -> None:
    assert facts(before, after).clock_ahead == pytest.approx(ahead, abs=0.001)


def test_a_clock_that_cannot_be_read_is_not_called_wrong() -> None:
    assert facts(SystemTime="noon").clock_ahead == 0.0
