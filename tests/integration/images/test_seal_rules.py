"""The filter in front of the kernel, run as an operating system would, also for machines that the tests are not on."""

from __future__ import annotations

import errno
import importlib.util
import struct
from types import ModuleType

import pytest

from bridge.launchers.docker import build as building

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = 0x00050000 | errno.EPERM
UNKNOWN = 0x00050000 | errno.ENOSYS
ALLOWED = 0x7FFF0000


@pytest.fixture(scope="module")
def seal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seal", building.images_directory() / "python" / "seal.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decide(seal: ModuleType, machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Interpret the filter: classic BPF, with the four instructions that it uses."""
    data = struct.pack("=iIQ6Q", number, architecture or MACHINES[machine], 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    code = [struct.unpack_from("=HBBI", seal.program(machine), at) for at in range(0, len(seal.program(machine)), 8)]
    accumulator, at = 0, 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x15:
            at += yes if accumulator == value else no
        elif operation == 0x35:
            at += yes if accumulator >= value else no
        else:
            assert operation == 0x06
            return int(value)


def numbers(seal: ModuleType, machine: str) -> list[int]:
    return [call.numbers[machine] for call in seal.CALLS]


@pytest.mark.parametrize("machine", MACHINES)
def test_limits_and_scheduling_of_pid_one_are_refused_and_ones_own_are_free(seal: ModuleType, machine: str) -> None:
    for number in numbers(seal, machine)[:5]:
        assert decide(seal, machine, number, 1) == REFUSED
        assert decide(seal, machine, number, 0) == ALLOWED
        assert decide(seal, machine, number, 4321) == ALLOWED
        # a pid is 32 bits wide: what stands above them does not make another one of it
        assert decide(seal, machine, number, (7 << 32) | 1) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_a_priority_is_refused_for_pid_one_its_group_and_everybody(seal: ModuleType, machine: str) -> None:
    priority, io_priority = numbers(seal, machine)[5:]
    for number, first in ((priority, 0), (io_priority, 1)):
        assert decide(seal, machine, number, first, 1) == REFUSED
        assert decide(seal, machine, number, first + 1, 1) == REFUSED
        assert decide(seal, machine, number, first + 2, 1000) == REFUSED
        assert decide(seal, machine, number, first, 0) == ALLOWED
        assert decide(seal, machine, number, first + 1, 4321) == ALLOWED


@pytest.mark.parametrize("machine", MACHINES)
def test_every_other_call_is_left_to_the_engines_filter(seal: ModuleType, machine: str) -> None:
    named = set(numbers(seal, machine))
    assert {decide(seal, machine, number, 1, 1) for number in range(500) if number not in named} == {ALLOWED}


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_by_another_table_do_not_exist(seal: ModuleType, machine: str) -> None:
    assert decide(seal, machine, 340, 1, architecture=0x40000003) == UNKNOWN
    if machine == "x86_64":
        assert decide(seal, machine, 0x40000000 | 302, 1) == UNKNOWN


def test_the_numbers_are_the_systems_own(seal: ModuleType) -> None:
    # asm/unistd_64.h and asm-generic/unistd.h
    assert numbers(seal, "x86_64") == [302, 142, 144, 203, 314, 141, 251]
    assert numbers(seal, "aarch64") == [261, 118, 119, 122, 274, 140, 30]
