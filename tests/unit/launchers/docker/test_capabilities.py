"""What is refused because of what an engine says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import PolicyNotEnforceable
from bridge.launchers.docker import capabilities
from bridge.policy import SandboxSpec, Workspace

ORDINARY: dict[str, Any] = {
    "NCPU": 8,
    "Runtimes": {"runc": {"path": "runc"}, "io.containerd.runc.v2": {"path": "runc"}},
    "SecurityOptions": ["name=seccomp,profile=default"],
    "DockerRootDir": "/var/lib/docker",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
}
REMAPPED = {"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}
REMAPPED_ROOT = {**REMAPPED, "DockerRootDir": "/var/lib/docker/100000.300000"}
ROOTLESS = {
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless", "name=cgroupns"],
    "DockerRootDir": "/home/alice/.local/share/docker",
}


@pytest.fixture(autouse=True)
def _linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")


def refuse(spec: SandboxSpec, **info: Any) -> None:
    capabilities.refuse(spec, capabilities.read(ORDINARY | info))


def with_workspace(spec: SandboxSpec, mode: str) -> SandboxSpec:
    workspace = Workspace(Path("/home/alice/project"), "rw" if mode == "rw" else "ro", device=1, inode=2)
    return dataclasses.replace(spec, workspace=workspace)


@pytest.mark.parametrize("network", ["isolated", "none", "open"])
def test_an_ordinary_local_engine_can_do_all_of_it(spec: SandboxSpec, network: Any) -> None:
    refuse(dataclasses.replace(with_workspace(spec, "rw"), network=network))


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("MemoryLimit", "memory"),
        ("SwapLimit", "swap"),
        ("CpuCfsQuota", "processor time"),
        ("PidsLimit", "the number of processes"),
    ],
)
@pytest.mark.parametrize("said", [{}, False], ids=["nothing", "no"])
def test_an_engine_that_cannot_limit_something_is_refused_by_its_name(
    spec: SandboxSpec, field: str, what: str, said: object
) -> None:
    with pytest.raises(PolicyNotEnforceable, match=f"cannot limit {what} of a container"):
        refuse(spec, **{field: said or None})


def test_a_rootless_engine_without_delegation_is_told_all_that_is_missing_and_what_to_do(spec: SandboxSpec) -> None:
    without = dict.fromkeys(("MemoryLimit", "SwapLimit", "CpuCfsQuota", "PidsLimit"), False)
    with pytest.raises(PolicyNotEnforceable, match=r"memory, swap, processor time and the number.*Delegate="):
        refuse(spec, **ROOTLESS, **without)


def test_a_machine_that_counts_no_swap_is_told_the_boot_parameter(spec: SandboxSpec) -> None:
    with pytest.raises(PolicyNotEnforceable, match="swapaccount=1"):
        refuse(spec, SwapLimit=False)


@pytest.mark.parametrize("engine", [REMAPPED_ROOT, ROOTLESS], ids=["userns-remap", "rootless"])
def test_where_uids_are_mapped_files_are_not_shared_and_isolated_is_all_there_is(
    spec: SandboxSpec, engine: dict[str, Any]
) -> None:
    refuse(with_workspace(spec, "ro"), **engine)
    with pytest.raises(PolicyNotEnforceable, match=r"maps the uids.*Use network isolated"):
        refuse(dataclasses.replace(spec, network="none"), **engine)
    with pytest.raises(PolicyNotEnforceable, match=r"cannot be given for writing.*read-only"):
        refuse(with_workspace(spec, "rw"), **engine)


def test_a_desktop_engines_sockets_cannot_be_shared_with_the_host(spec: SandboxSpec) -> None:
    none = dataclasses.replace(spec, network="none")
    with pytest.raises(PolicyNotEnforceable, match="virtual machine"):
        refuse(none, OperatingSystem="Docker Desktop")
    refuse(spec, OperatingSystem="Docker Desktop")


def test_a_runtime_that_the_engine_does_not_have_is_refused_with_those_that_it_has(spec: SandboxSpec) -> None:
    with pytest.raises(PolicyNotEnforceable, match=r"'runsc' is not known.*io\.containerd\.runc\.v2, runc"):
        refuse(dataclasses.replace(spec, runtime="runsc"))


def test_a_runtime_that_containerd_finds_by_its_name_is_in_no_list_and_left_to_the_engines_own_answer(
    spec: SandboxSpec,
) -> None:
    refuse(dataclasses.replace(spec, runtime="io.containerd.runsc.v1"))


def test_an_engine_without_gpus_is_told_by_its_own_words_and_only_where_some_were_asked_for(spec: SandboxSpec) -> None:
    said = 'could not select device driver "" with capabilities: [[gpu]]'
    error = capabilities.without_gpus(dataclasses.replace(spec, gpus=2), said)
    assert error
    assert "2 GPUs (sandbox.gpus), and this engine has none to give" in str(error)
    assert said in str(error)
    assert capabilities.without_gpus(spec, said) is None
    assert capabilities.without_gpus(dataclasses.replace(spec, gpus=2), "no space left on device") is None


def test_how_uids_are_mapped_is_read_from_the_data_directory_of_a_remapping_engine(spec: SandboxSpec) -> None:
    assert capabilities.read(ORDINARY).shift == (0, 0)
    assert capabilities.read(ORDINARY | ROOTLESS).shift == (0, 0)
    assert capabilities.read(ORDINARY | REMAPPED_ROOT).shift == (100_000, 300_000)
    for network in ("isolated", "open"):
        with pytest.raises(PolicyNotEnforceable, match="does not tell how"):
            refuse(dataclasses.replace(spec, network=network), **REMAPPED)
