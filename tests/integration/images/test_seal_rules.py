"""The filter of the first process, run as an operating system would, also for machines that the tests are not on."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

ALLOWED = 0


def judge(program: bytes, *, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter as the operating system does; returns the error that the call gets, 0 where it is allowed."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_so, if_not, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x15:
            at += if_so if accumulator == value else if_not
        elif code == 0x35:
            at += if_so if accumulator >= value else if_not
        else:
            assert code == 0x06
            return ALLOWED if value == 0x7FFF0000 else value ^ 0x00050000


MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@MACHINES
def test_the_filter_refuses_what_its_table_says_and_the_same_call_for_any_other_process_passes(
    seal: Any, machine: str
) -> None:
    program = seal.program(machine)
    architecture = seal.ARCHITECTURES[machine]
    for each in seal.REFUSED:
        arguments = [4242] * 6  # a process that is neither the first nor a constant of one of these calls
        number = getattr(each, machine)
        if each.argument is not None:
            assert judge(program, architecture=architecture, number=number, arguments=tuple(arguments)) == ALLOWED
            # the upper half of the register means nothing to a call that takes an int
            arguments[each.argument] = each.value | 0xABCD << 32
        assert judge(program, architecture=architecture, number=number, arguments=tuple(arguments)) == each.error


@MACHINES
def test_the_filter_lets_every_call_pass_that_is_not_in_its_table(seal: Any, machine: str) -> None:
    program = seal.program(machine)
    named = {getattr(each, machine) for each in seal.REFUSED}
    for number in set(range(512)) - named:
        assert judge(program, architecture=seal.ARCHITECTURES[machine], number=number, arguments=(1, 1)) == 0


@MACHINES
def test_the_numbers_of_other_modes_of_the_processor_are_no_way_around_the_filter(seal: Any, machine: str) -> None:
    program = seal.program(machine)
    own = seal.ARCHITECTURES[machine]
    i386, arm = 0x40000003, 0x40000028
    for architecture, number in ((i386, 20), (arm, 20), (own, 1 << 30 | 39), (own, 0xFFFFFFFF)):
        assert judge(program, architecture=architecture, number=number) == errno.ENOSYS


def test_a_processor_that_the_filter_has_no_numbers_of_is_not_guessed(seal: Any) -> None:
    with pytest.raises(KeyError):
        seal.program("riscv64")


@MACHINES
def test_the_numbers_are_the_systems_own(seal: Any, machine: str) -> None:
    # asm/unistd_64.h and asm-generic/unistd.h
    own = {
        "x86_64": [302, 62, 200, 234, 129, 297, 424, 72, 141, 141, 251, 251, 142, 144, 203, 314],
        "aarch64": [261, 129, 130, 131, 138, 240, 424, 25, 140, 140, 30, 30, 118, 119, 122, 274],
    }
    assert [getattr(each, machine) for each in seal.REFUSED] == own[machine]
