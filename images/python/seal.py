"""Runs a program that cannot change how PID 1 runs: `seal.py PROGRAM [ARGUMENT...]` sets a filter and becomes it.

The one rule: the filter only takes away, for the program and all that it starts, and where it cannot be set the program
does not run. The engine's own filter stays below it: filters add up (seccomp(2)).

The kernel has the supervisor's uid, and Linux lets a process of the same uid set another one's limits, priority and
scheduling (prlimit(2) and its like do not ask whether the target is dumpable). A limit of one second of processor time
on PID 1, or of too little memory to start a process, would end the sandbox or keep its kernel from ever starting again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF: bpf_common.h
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; of each argument the lower half is meant
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
X32 = 0x40000000
"""Bit of the system calls of an x86-64 process that are told by another table (the x32 ABI)."""
EVERYBODY = None
"""Stands for any value of the argument that names a process."""


class Call(NamedTuple):
    """One system call and what is refused of it: which kinds of target, each with whom."""

    numbers: dict[str, int]
    """By the machine's architecture."""
    kind: int | None
    """The argument that says what the next one names: a process, a group, a user; None where it is always a process."""
    whom: int
    refused: tuple[tuple[int, int | None], ...]
    """Kind and number of the target; kind 0 where there is none."""


PROCESS = ((0, 1),)
CALLS = (
    Call({"x86_64": 302, "aarch64": 261}, None, 0, PROCESS),  # prlimit64: limits of PID 1 end it, or all that it starts
    Call({"x86_64": 142, "aarch64": 118}, None, 0, PROCESS),  # sched_setparam: below here, PID 1 would hardly ever run
    Call({"x86_64": 144, "aarch64": 119}, None, 0, PROCESS),  # sched_setscheduler
    Call({"x86_64": 203, "aarch64": 122}, None, 0, PROCESS),  # sched_setaffinity
    Call({"x86_64": 314, "aarch64": 274}, None, 0, PROCESS),  # sched_setattr
    # a group of that number is PID 1's own, and a user is everybody here, PID 1 too
    Call({"x86_64": 141, "aarch64": 140}, 0, 1, ((0, 1), (1, 1), (2, EVERYBODY))),  # setpriority
    Call({"x86_64": 251, "aarch64": 30}, 0, 1, ((1, 1), (2, 1), (3, EVERYBODY))),  # ioprio_set
)
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # audit.h


def program(machine: str) -> bytes:
    """Return the filter for a machine: `struct sock_filter` after `struct sock_filter`."""
    return b"".join(struct.pack("=HBBI", *each) for each in _instructions(machine))


def _instructions(machine: str) -> Iterator[tuple[int, int, int, int]]:
    # a 32-bit program counts its calls by another table; none of ours is one
    yield LOAD, 0, 0, ARCHITECTURE
    yield JUMP_EQUAL, 1, 0, ARCHITECTURES[machine]
    yield RETURN, 0, 0, REFUSE | errno.ENOSYS
    yield LOAD, 0, 0, NUMBER
    if machine == "x86_64":
        yield JUMP_AT_LEAST, 0, 1, X32
        yield RETURN, 0, 0, REFUSE | errno.ENOSYS
    for call in CALLS:
        check = list(_check(call))
        yield JUMP_EQUAL, 0, len(check), call.numbers[machine]
        yield from check
    yield RETURN, 0, 0, ALLOW


def _check(call: Call) -> Iterator[tuple[int, int, int, int]]:
    """What is done with one call; it always returns, so that the next one finds the number loaded."""
    for kind, who in call.refused:
        steps = []
        if call.kind is not None:
            steps += [(LOAD, 0, 0, ARGUMENTS + 8 * call.kind), (JUMP_EQUAL, 0, None, kind)]
        if who is not EVERYBODY:
            steps += [(LOAD, 0, 0, ARGUMENTS + 8 * call.whom), (JUMP_EQUAL, 0, None, who)]
        steps.append((RETURN, 0, 0, REFUSE | errno.EPERM))
        for place, (code, yes, no, value) in enumerate(steps):
            yield code, yes, len(steps) - place - 1 if no is None else no, value
    yield RETURN, 0, 0, ALLOW


def set_filter(machine: str) -> None:
    """Set the filter for this process and all that it becomes and starts; raises `OSError`."""
    code = ctypes.create_string_buffer(program(machine))

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    made = Program((len(code) - 1) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(made), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> NoReturn:
    """Seal this process and become the program."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise SystemExit(f"the kernel cannot be sealed on {machine}: its system calls are not known here")
    try:
        set_filter(machine)
    except OSError as error:
        raise SystemExit(
            f"the kernel could not be sealed (seccomp filter: {error.strerror}), so it was not started"
        ) from None
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - a shell is what it must not be


if __name__ == "__main__":
    main()
