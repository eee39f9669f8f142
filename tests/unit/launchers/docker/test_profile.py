"""The profile, setting by setting: each is written down a second time here, so that none can go, or grow, unseen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bridge.launchers.docker.document import Document, Facts, documents
from bridge.policy import SandboxSpec, Workspace

KiB, MiB = 1 << 10, 1 << 20

# Masked by engines themselves, and what an engine leaves readable that tells about the machine.
MASKED = {
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
    *("/proc/cmdline", "/proc/config.gz", "/proc/diskstats", "/proc/interrupts", "/proc/kallsyms", "/proc/key-users"),
    *("/proc/partitions", "/proc/swaps", "/proc/version", "/sys/class/dmi", "/sys/devices/virtual/dmi", "/sys/kernel"),
}
READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
SEALED: dict[str, Any] = {
    "AutoRemove": False,
    "Binds": [],
    "CapAdd": [],
    "CapDrop": ["ALL"],
    "CgroupParent": "",
    "CgroupnsMode": "private",
    "CpuShares": 256,
    "DeviceCgroupRules": [],
    "DeviceRequests": [],
    "Devices": [],
    "ExtraHosts": [],
    "GroupAdd": [],
    "Init": False,
    "IpcMode": "private",
    "Links": [],
    "OomKillDisable": False,
    "OomScoreAdj": 500,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": True,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "SecurityOpt": ["no-new-privileges:true"],
    "Sysctls": {},
    "UTSMode": "",
    "Ulimits": [
        {"Name": "nofile", "Soft": 4096, "Hard": 4096},
        {"Name": "core", "Soft": 0, "Hard": 0},
        {"Name": "memlock", "Soft": 64 * KiB, "Hard": 64 * KiB},
        {"Name": "msgqueue", "Soft": 0, "Hard": 0},
        {"Name": "sigpending", "Soft": 4096, "Hard": 4096},
    ],
    "UsernsMode": "",
    "VolumesFrom": [],
}


@pytest.fixture
def kernel(spec: SandboxSpec, facts: Facts) -> Document:
    return documents(spec, facts).kernel


@pytest.fixture
def gateway(spec: SandboxSpec, facts: Facts) -> Document:
    return documents(spec, facts).gateway


@pytest.mark.parametrize("role", ["kernel", "gateway"])
def test_what_no_policy_weakens_is_all_there_in_both_containers(role: str, request: pytest.FixtureRequest) -> None:
    host = request.getfixturevalue(role)["HostConfig"]
    assert {name: host.get(name, "left out") for name in SEALED} == SEALED
    # newer engines' own list has these, one for each processor; only in the kernel's container is code that is not ours
    throttles = {f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(8)}
    assert set(host["MaskedPaths"]) == (MASKED | throttles if role == "kernel" else MASKED)
    assert set(host["ReadonlyPaths"]) == READ_ONLY


@pytest.mark.parametrize("role", ["kernel", "gateway"])
def test_an_image_is_left_no_setting_to_choose(role: str, request: pytest.FixtureRequest) -> None:
    document = request.getfixturevalue(role)
    said = {name: document.get(name) for name in ("Image", "Healthcheck", "StopSignal", "Hostname", "Tty", "User")}
    assert said == {
        "Image": "sha256:" + "ab" * 32,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Hostname": "kernel",
        "Tty": False,
        "User": "234567:234567",
    }
    assert document["WorkingDir"] == ("/home/kernel" if role == "kernel" else "/")
    assert document["Entrypoint"] == ["/opt/kernel/bin/python"]
    assert document["Cmd"] == ["-I", "-S", f"/opt/kernel-bridge/{'supervisor' if role == 'kernel' else role}.py"]


def test_only_the_kernel_reads_a_line_and_only_once(kernel: Document, gateway: Document) -> None:
    assert [kernel.get(name) for name in ("OpenStdin", "StdinOnce", "AttachStdin")] == [True] * 3
    assert [gateway.get(name) for name in ("OpenStdin", "StdinOnce", "AttachStdin")] == [None] * 3


def test_each_place_in_memory_has_every_option(kernel: Document, gateway: Document) -> None:
    ours = {"uid=234567", "gid=234567", "mode=0700"}
    options = {place: set(each.split(",")) for place, each in kernel["HostConfig"]["Tmpfs"].items()}
    assert options == {
        "/tmp": {"rw", "nosuid", "nodev", "noexec", f"size={256 * MiB}", "nr_inodes=16384", "mode=1777"},
        "/home/kernel": {"rw", "nosuid", "nodev", "exec", f"size={512 * MiB}", "nr_inodes=65536", *ours},
        "/run/kernel": {"rw", "nosuid", "nodev", "noexec", f"size={64 * KiB}", "nr_inodes=16", *ours},
    }
    assert gateway["HostConfig"]["Tmpfs"] == {}


def test_the_way_to_a_workspace_below_root_s_home_has_no_room(spec: SandboxSpec, facts: Facts) -> None:
    workspace = Workspace(Path("/root/project"), "ro", device=1, inode=2)
    host = documents(dataclasses.replace(spec, workspace=workspace), facts).kernel["HostConfig"]
    assert set(host["Tmpfs"]["/root"].split(",")) == {
        *("rw", "nosuid", "nodev", "noexec", f"size={16 * KiB}", "nr_inodes=32", "mode=0755")
    }


@pytest.mark.parametrize("role", ["kernel", "gateway"])
def test_the_volume_with_the_sockets_is_small_and_nothing_of_the_image_gets_in(
    role: str, request: pytest.FixtureRequest
) -> None:
    volume = request.getfixturevalue(role)["HostConfig"]["Mounts"][0]
    labels = volume["VolumeOptions"].pop("Labels")
    driver = volume["VolumeOptions"]["DriverConfig"]
    options = driver["Options"].pop("o").split(",")
    assert volume == {
        "Type": "volume",
        "Source": "kernel-bridge.lab.01234567.fedcba9876543210",
        "Target": "/run/kernel-bridge",
        "ReadOnly": False,
        "VolumeOptions": {
            "NoCopy": True,
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}},
        },
    }
    assert set(options) == {
        *("uid=234567", "gid=234567", "mode=0700", f"size={64 * KiB}", "nr_inodes=32", "nosuid", "nodev", "noexec")
    }
    assert labels["io.kernel-bridge.role"] == "sockets"


def test_the_gateway_has_limits_of_its_own_and_the_smallest(gateway: Document) -> None:
    host = gateway["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 64 * MiB
    assert host["NanoCpus"] == 1_000_000_000
    assert host["PidsLimit"] == 32
    assert host["ShmSize"] == MiB
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": str(64 * KiB), "max-file": "2"}}
