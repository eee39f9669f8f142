"""What nothing in a kernel's container gets done: a seccomp filter that the first process sets and all others inherit.

The one rule: the filter only takes away, and it is there before any foreign code is. The engine's own filter stays
below it: filters add up (seccomp(2)). To refuse more is one line in `REFUSED`, with the reason beside it.

It does two things. It keeps the first process out of reach: a filter sees numbers, not processes, but the first process
has the number 1 for everybody in its container, and nobody may make a name space where it has not; so what is meant for
it can be told from what is meant for any other process, the caller included. What needs the right to trace its target
(ptrace, process_vm_writev, kcmp, pidfd_getfd, move_pages, /proc/1/mem) needs no line: the first process is not
dumpable, and debuggers of the others go on working.

And it closes ways into the operating system that no kernel needs, whatever the engine makes of them: older engines let
some of it through, and an engine may have been told to filter nothing at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF: linux/bpf_common.h
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
REFUSE, ALLOW = 0x0005_0000, 0x7FFF_0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
X32 = 1 << 30
"""Of the numbers by which an x86-64 process may call a third table."""
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""By `os.uname().machine`: linux/audit.h."""
Instruction = tuple[int, int, int, int]
"""What it does, how many to skip where a comparison holds and where not, and a value: a `struct sock_filter`."""
ALLOWED: Instruction = (RETURN, 0, 0, ALLOW)
CHUNK = 8
"""So many system calls are looked at one by one, once it is known that the one asked for may be among them."""


@dataclass(frozen=True)
class Where:
    """Holds where an argument, counted from 0, is one of these values.

    It must be an int, or all that matters in its lower half: only that half of a register is compared.
    """

    argument: int
    values: tuple[int, ...]

    def code(self, passed: int) -> list[Instruction]:
        """Go on where it holds; skip what follows, and `passed` instructions, where it does not."""
        last = len(self.values) - 1
        found = [(EQUAL, last - at, 0 if at < last else passed, value) for at, value in enumerate(self.values)]
        return [_load(self.argument), *found]


class Unless(Where):
    """Holds where the argument is none of these values."""

    def code(self, passed: int) -> list[Instruction]:
        """As `Where.code`."""
        last = len(self.values) - 1
        found = [(EQUAL, last - at + passed, 0, value) for at, value in enumerate(self.values)]
        return [_load(self.argument), *found]


class Within(Where):
    """Holds where the argument has any bit of any of these values."""

    def code(self, passed: int) -> list[Instruction]:
        """As `Where.code`."""
        return [_load(self.argument), (ANY_BIT, 0, passed, sum(self.values))]


def _load(argument: int) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS + 8 * argument)  # the lower half: both machines are little-endian


@dataclass(frozen=True)
class Refused:
    """A system call that is refused, or is where all of this holds for its arguments."""

    name: str
    x86_64: int
    aarch64: int | None
    """None where that machine has no such call."""
    where: tuple[Where, ...] = ()
    error: int = errno.EPERM


def first(argument: int) -> tuple[Where]:
    """Where the argument names the first process."""
    return (Where(argument, (1,)),)


UNIX, INTERNET, NETLINK = (1,), (2, 10), (16,)
"""Families of addresses: linux/socket.h."""
TCP, UDP = 6, 17
NAME_SPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: linux/sched.h."""

REFUSED = (
    # -- The first process.
    # Resource limits of any process of the same uid may be set: with RLIMIT_CPU the first process would end, with
    # RLIMIT_AS it could start nothing any more.
    Refused("prlimit64", 302, 261, first(0)),
    # Signals. While one from inside waits, one from outside with the same number is lost. And one that is not sent by
    # kill loses its siginfo where the uid has no room for queued signals left, which anybody can see to: what arrives
    # then looks as if it came from outside.
    Refused("kill", 62, 129, first(0)),
    Refused("tkill", 200, 130, first(0)),
    Refused("tgkill", 234, 131, first(0)),
    Refused("rt_sigqueueinfo", 129, 138, first(0)),
    Refused("rt_tgsigqueueinfo", 297, 240, first(0)),
    # A descriptor does not tell whose it is. "Not there" is what programs know from older systems: they use kill then.
    Refused("pidfd_send_signal", 424, 424, error=errno.ENOSYS),
    # F_SETSIG chooses which signal the owner of a descriptor gets, and F_SETOWN makes the first process its owner.
    Refused("fcntl", 72, 25, (Where(1, (10,)),)),
    # Scheduling: a first process that runs only when nobody else wants to does not answer in time.
    Refused("setpriority", 141, 140, first(1)),  # the process, or the group of that number, which is its own
    Refused("setpriority", 141, 140, (Where(0, (2,)),)),  # PRIO_USER: everybody in here
    Refused("ioprio_set", 251, 30, first(1)),
    Refused("ioprio_set", 251, 30, (Where(0, (3,)),)),  # IOPRIO_WHO_USER
    Refused("sched_setparam", 142, 118, first(0)),
    Refused("sched_setscheduler", 144, 119, first(0)),
    Refused("sched_setaffinity", 203, 122, first(0)),
    Refused("sched_setattr", 314, 274, first(0)),
    # -- Name spaces: with one of a user's own, code is root in it, and meets most of the system's defects.
    Refused("unshare", 272, 97),
    Refused("setns", 308, 268),
    Refused("clone", 56, 220, (Within(0, NAME_SPACES),)),
    # Its flags lie in memory, where no filter sees them; the C library uses clone where it is not there.
    Refused("clone3", 435, 435, error=errno.ENOSYS),
    # -- Sockets: each family and each protocol is a parser of its own. Machine sockets (vsock) reach the host of a
    # virtual machine. libzmq asks netlink for the addresses of this machine, and aborts the process where it may not.
    Refused("socket", 41, 198, (Unless(0, UNIX + INTERNET + NETLINK),), errno.EAFNOSUPPORT),
    # Netlink's first protocol only: not netfilter, audit, RDMA.
    Refused("socket", 41, 198, (Where(0, NETLINK), Unless(2, (0,))), errno.EPROTONOSUPPORT),
    # Ping, which an engine may leave open to every group; SCTP, DCCP, MPTCP, L2TP.
    Refused("socket", 41, 198, (Where(0, INTERNET), Unless(2, (0, TCP, UDP))), errno.EPROTONOSUPPORT),
    # Types stand in the lower four bits. Only SOCK_PACKET (10) has the highest of them: the system makes a packet
    # socket of it, whatever the family. Only SOCK_RAW (3) has the two lowest.
    Refused("socket", 41, 198, (Within(1, (8,)),), errno.ESOCKTNOSUPPORT),
    Refused("socket", 41, 198, (Where(0, INTERNET), Within(1, (1,)), Within(1, (2,))), errno.ESOCKTNOSUPPORT),
    # SO_LINGER of SOL_SOCKET: whoever is sent such a socket is held by it when it lets go, as the gateway would be.
    Refused("setsockopt", 54, 208, (Where(1, (1,)), Where(2, (13,)))),
    Refused("socketpair", 53, 199, (Unless(0, UNIX),), errno.EAFNOSUPPORT),
    # -- Large interfaces, again and again the way out of a container; Python's packages know how to do without.
    Refused("io_uring_setup", 425, 425),  # it does other system calls, past every filter
    Refused("io_uring_enter", 426, 426),
    Refused("io_uring_register", 427, 427),
    Refused("io_setup", 206, 0, error=errno.ENOSYS),  # what one asks for is taken from all of the machine's
    Refused("bpf", 321, 280),  # programs inside the operating system
    Refused("perf_event_open", 298, 241),  # it watches the machine
    Refused("userfaultfd", 323, 282),  # it stops the operating system in the middle of a copy: a tool of exploits
    Refused("memfd_secret", 447, 447, error=errno.ENOSYS),  # memory that no debugger and no memory dump sees
    Refused("modify_ldt", 154, None),  # segments of 16-bit programs
    Refused("iopl", 172, None),  # the processor's ports
    Refused("ioperm", 173, None),
    Refused("lookup_dcookie", 212, 18),  # an old profiler
    Refused("fanotify_init", 300, 262),  # it watches whole file systems
    # -- Keys of the operating system are no container's own: they are the uid's, on all of the machine.
    Refused("add_key", 248, 217),
    Refused("request_key", 249, 218),
    Refused("keyctl", 250, 219),
    # -- Mounts: what is read-only, masked or bounded is so by a mount.
    Refused("mount", 165, 40),
    Refused("umount2", 166, 39),
    Refused("pivot_root", 155, 41),
    Refused("chroot", 161, 51),
    Refused("open_tree", 428, 428),
    Refused("open_tree_attr", 467, 467),
    Refused("move_mount", 429, 429),
    Refused("fsopen", 430, 430),
    Refused("fsconfig", 431, 431),
    Refused("fsmount", 432, 432),
    Refused("fspick", 433, 433),
    Refused("mount_setattr", 442, 442),
    Refused("name_to_handle_at", 303, 264),  # a handle says nothing of a mount ...
    Refused("open_by_handle_at", 304, 265),  # ... and opens any file of its file system, also outside of the container
    Refused("quotactl", 179, 60),
    Refused("quotactl_fd", 443, 443),
    # -- The machine itself: each needs a capability that nobody in here has; this holds where an engine gave it.
    Refused("init_module", 175, 105),
    Refused("finit_module", 313, 273),
    Refused("delete_module", 176, 106),
    Refused("kexec_load", 246, 104),
    Refused("kexec_file_load", 320, 294),
    Refused("reboot", 169, 142),
    Refused("syslog", 103, 116),  # the system's messages hold addresses and other containers' affairs
    Refused("swapon", 167, 224),
    Refused("swapoff", 168, 225),
    Refused("acct", 163, 89),
    Refused("vhangup", 153, 58),
    Refused("sethostname", 170, 161),
    Refused("setdomainname", 171, 162),
    Refused("settimeofday", 164, 170),
    Refused("clock_settime", 227, 112),
    Refused("adjtimex", 159, 171),
    Refused("clock_adjtime", 305, 266),
)


class NotSealedError(Exception):
    """The filter cannot be set; the text says why."""


def program(machine: str) -> bytes:
    """Return the filter for a machine; raises KeyError for one that the table has no numbers of.

    What is refused stands in the order of the numbers, and whole chunks of it are skipped by one comparison: an older
    operating system runs all of this at every call.
    """
    absent = (RETURN, 0, 0, REFUSE | errno.ENOSYS)
    # The same processor counts the calls of a 32-bit program by another table; none of ours is one.
    code: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[machine]), absent]
    code += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), absent]
    calls: dict[int, list[Refused]] = {}
    for each in REFUSED:
        if (number := getattr(each, machine)) is not None:
            calls.setdefault(number, []).append(each)
    numbers = sorted(calls)
    for begin in range(0, len(numbers), CHUNK):
        chunk = numbers[begin : begin + CHUNK]
        checks = [check for number in chunk for check in _checks(number, calls[number])] + [ALLOWED]
        code += [(AT_LEAST, len(checks), 0, chunk[-1] + 1), *checks]
    code.append(ALLOWED)
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _checks(number: int, refused: list[Refused]) -> list[Instruction]:
    """One system call: another goes on behind it, and this one is either refused or allowed here."""
    code = [ALLOWED]
    for each in reversed(refused):
        refusal: list[Instruction] = [(RETURN, 0, 0, REFUSE | each.error)]
        for condition in reversed(each.where):
            refusal = [*condition.code(len(refusal)), *refusal]
        code = refusal + code if each.where else refusal
    return [(EQUAL, 0, len(code), number), *code]


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
