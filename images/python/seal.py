"""What nothing in a kernel's container gets done: a seccomp filter that the first process sets and all others inherit.

The one rule: the filter only takes away, and it is there before any foreign code is. The engine's own filter stays
below it: filters add up (seccomp(2)). To refuse more is one line in `REFUSED`, with the reason beside it.

A filter sees numbers, not processes. But the first process has the number 1 for everybody in its container, and nobody
may make a name space where it has not; so what is meant for it can be told from what is meant for any other process,
the caller included. What needs the right to trace its target (ptrace, process_vm_writev, kcmp, pidfd_getfd, move_pages,
/proc/1/mem) needs no line: the first process is not dumpable, and debuggers of the others go on working.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF: linux/bpf_common.h
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
REFUSE, ALLOW = 0x0005_0000, 0x7FFF_0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
X32 = 1 << 30
"""Of the numbers by which an x86-64 process may call a third table."""
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""By `os.uname().machine`: linux/audit.h."""


@dataclass(frozen=True)
class Refused:
    """A system call that is refused, or is with this value of one of its arguments."""

    name: str
    x86_64: int
    aarch64: int
    argument: int | None = None
    """Counted from 0; None refuses every call. It must be an int: only the lower half of a register is compared."""
    value: int = 1
    error: int = errno.EPERM


REFUSED = (
    # Resource limits of any process of the same uid may be set: with RLIMIT_CPU the first process would end, with
    # RLIMIT_AS it could start nothing any more.
    Refused("prlimit64", 302, 261, argument=0),
    # Signals. While one from inside waits, one from outside with the same number is lost. And one that is not sent by
    # kill loses its siginfo where the uid has no room for queued signals left, which anybody can see to: what arrives
    # then looks as if it came from outside.
    Refused("kill", 62, 129, argument=0),
    Refused("tkill", 200, 130, argument=0),
    Refused("tgkill", 234, 131, argument=0),
    Refused("rt_sigqueueinfo", 129, 138, argument=0),
    Refused("rt_tgsigqueueinfo", 297, 240, argument=0),
    # A descriptor does not tell whose it is. "Not there" is what programs know from older systems: they use kill then.
    Refused("pidfd_send_signal", 424, 424, error=errno.ENOSYS),
    # F_SETSIG chooses which signal the owner of a descriptor gets, and F_SETOWN makes the first process its owner.
    Refused("fcntl", 72, 25, argument=1, value=10),
    # Scheduling: a first process that runs only when nobody else wants to does not answer in time.
    Refused("setpriority", 141, 140, argument=1),  # the process, or the group of that number, which is its own
    Refused("setpriority", 141, 140, argument=0, value=2),  # PRIO_USER: everybody in here
    Refused("ioprio_set", 251, 30, argument=1),
    Refused("ioprio_set", 251, 30, argument=0, value=3),  # IOPRIO_WHO_USER
    Refused("sched_setparam", 142, 118, argument=0),
    Refused("sched_setscheduler", 144, 119, argument=0),
    Refused("sched_setaffinity", 203, 122, argument=0),
    Refused("sched_setattr", 314, 274, argument=0),
)


class NotSealedError(Exception):
    """The filter cannot be set; the text says why."""


def program(machine: str) -> bytes:
    """Return the filter for a machine; raises KeyError for one that the table has no numbers of.

    Each instruction is a `struct sock_filter`: what it does, how many to skip where a comparison holds and where not,
    and a value.
    """
    absent = (RETURN, 0, 0, REFUSE | errno.ENOSYS)
    # The same processor counts the calls of a 32-bit program by another table; none of ours is one.
    code = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[machine]), absent]
    code += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), absent]
    for each in REFUSED:
        check = [(RETURN, 0, 0, REFUSE | each.error)]
        if each.argument is not None:
            low = ARGUMENTS + 8 * each.argument  # both machines are little-endian
            check = [(LOAD, 0, 0, low), (EQUAL, 0, 1, each.value), *check, (LOAD, 0, 0, NUMBER)]
        code += [(EQUAL, 0, len(check), getattr(each, machine)), *check]
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def set_filter() -> None:
    """Set the filter for this process, which is the first, and all that it starts; raises `NotSealedError`."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise NotSealedError(f"the system calls of a processor like this one ({machine}) are not known here")
    code = program(machine)
    held = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
    prctl(PR_SET_NO_NEW_PRIVS, 1, None, 0, 0)  # without it a filter takes a privilege; our launcher asks for it anyway
    if prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0) != 0:
        raise NotSealedError(
            f"the engine's system takes no seccomp filter ({os.strerror(ctypes.get_errno())}), as where another "
            "processor is emulated: build the image for the engine's own, or use another engine"
        )
    with contextlib.suppress(PermissionError):  # tried, not believed
        os.kill(1, 0)
        raise NotSealedError("the engine's system takes a seccomp filter, but does not obey it; use another engine")
