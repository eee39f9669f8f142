"""The filter of the first process, run as an operating system would, also for machines that the tests are not on."""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.launchers.docker.build import images_directory

ALLOWED = 0


def judge(program: bytes, *, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter as the operating system does; returns the error that the call gets, 0 where it is allowed."""
    return run(program, architecture, number, arguments)[0]


def steps_of(program: bytes, *, architecture: int, number: int) -> int:
    """How many instructions it takes to let a call pass or not."""
    return run(program, architecture, number, ())[1]


def run(program: bytes, architecture: int, number: int, arguments: tuple[int, ...]) -> tuple[int, int]:
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at, steps = 0, 0, 0
    while True:
        code, if_so, if_not, value = instructions[at]
        at, steps = at + 1, steps + 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x15:
            at += if_so if accumulator == value else if_not
        elif code == 0x35:
            at += if_so if accumulator >= value else if_not
        elif code == 0x45:
            at += if_so if accumulator & value else if_not
        else:
            assert code == 0x06
            return ALLOWED if value == 0x7FFF0000 else value ^ 0x00050000, steps


MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


NUMBERS = {
    "prlimit64": (302, 261), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "fcntl": (72, 25), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "unshare": (272, 97), "setns": (308, 268), "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198),
    "socketpair": (53, 199), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "memfd_secret": (447, 447), "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None),
    "lookup_dcookie": (212, 18), "fanotify_init": (300, 262), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "vhangup": (153, 58), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "setsockopt": (54, 208), "io_setup": (206, 0),
}  # fmt: skip
"""Of x86-64 and of arm64: asm/unistd_64.h and asm-generic/unistd.h."""
OTHER = 4242
"""A process that is not the first, and nothing that any of these calls knows."""


def judged(seal: Any, machine: str, name: str, *arguments: int) -> int:
    number = NUMBERS[name][("x86_64", "aarch64").index(machine)]
    assert number is not None
    return judge(seal.program(machine), architecture=seal.ARCHITECTURES[machine], number=number, arguments=arguments)


@MACHINES
def test_what_names_the_first_process_is_refused_and_the_same_for_any_other_passes(seal: Any, machine: str) -> None:
    calls = {
        **dict.fromkeys(("prlimit64", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"), 0),
        **dict.fromkeys(("sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr"), 0),
        **dict.fromkeys(("setpriority", "ioprio_set"), 1),
    }
    for name, argument in calls.items():
        arguments = [OTHER] * 6
        assert judged(seal, machine, name, *arguments) == ALLOWED
        # the upper half of the register means nothing to a call that takes an int
        for upper in (0, 0xABCD << 32):
            arguments[argument] = 1 | upper
            assert judged(seal, machine, name, *arguments) == errno.EPERM


@MACHINES
def test_what_is_meant_for_everybody_in_here_is_refused(seal: Any, machine: str) -> None:
    assert judged(seal, machine, "setpriority", 2, OTHER) == errno.EPERM
    assert judged(seal, machine, "setpriority", 0, OTHER) == judged(seal, machine, "setpriority", 1, OTHER) == ALLOWED
    assert judged(seal, machine, "ioprio_set", 3, OTHER) == errno.EPERM
    assert judged(seal, machine, "ioprio_set", 1, OTHER) == ALLOWED
    assert judged(seal, machine, "fcntl", 5, 10) == errno.EPERM
    assert judged(seal, machine, "fcntl", 5, 1) == ALLOWED


UNIX, INET, INET6, NETLINK = 1, 2, 10, 16


@MACHINES
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *(((family, kind, 0), ALLOWED) for family in (UNIX, INET, INET6, NETLINK) for kind in (1, 2, 0x80801)),
        *(((family, 5, 0), ALLOWED) for family in (UNIX, INET)),  # in sequence
        *(((family, 3, 0), ALLOWED) for family in (UNIX, NETLINK)),  # raw
        *(((family, 3 | more, 6), errno.ESOCKTNOSUPPORT) for family in (INET, INET6) for more in (0, 0x80800)),
        # the system makes a packet socket of this type
        *(((family, 10 | more, 0), errno.ESOCKTNOSUPPORT) for family in (UNIX, INET, INET6) for more in (0, 0x80000)),
        *(((family, kind, protocol), ALLOWED) for family in (INET, INET6) for kind, protocol in ((1, 6), (2, 17))),
        # ICMP and its sixth version, SCTP, DCCP, UDP-Lite, L2TP, MPTCP, raw packets
        *(
            ((family, 2, protocol), errno.EPROTONOSUPPORT)
            for family in (INET, INET6)
            for protocol in (1, 58, 132, 33, 136, 115, 262, 255)
        ),
        # netfilter, audit, generic, RDMA, and TCP's number, which is another protocol there
        *(((NETLINK, 3, protocol), errno.EPROTONOSUPPORT) for protocol in (12, 9, 16, 20, 6)),
        # appletalk, keys, packets, TIPC, bluetooth, crypto, vsock, KCM, XDP, CAN
        *(((family, 2, 0), errno.EAFNOSUPPORT) for family in (0, 5, 15, 17, 30, 31, 38, 40, 41, 44, 29, 0xFFFFFFFF)),
    ],
)
def test_sockets_are_of_the_few_families_and_protocols_that_python_needs(
    seal: Any, machine: str, arguments: tuple[int, ...], error: int
) -> None:
    assert judged(seal, machine, "socket", *arguments) == error
    assert judged(seal, machine, "socket", *(each | 7 << 40 for each in arguments)) == error


@MACHINES
def test_a_pair_of_sockets_is_of_the_machine_s_own_family(seal: Any, machine: str) -> None:
    assert judged(seal, machine, "socketpair", UNIX, 1, 0) == ALLOWED
    assert judged(seal, machine, "socketpair", 30, 1, 0) == errno.EAFNOSUPPORT


@MACHINES
def test_no_socket_lingers_and_every_other_option_is_free(seal: Any, machine: str) -> None:
    for upper in (0, 7 << 40):
        assert judged(seal, machine, "setsockopt", 5, 1 | upper, 13 | upper) == errno.EPERM
    for level, option in ((1, 2), (1, 9), (6, 13), (0, 13), (6, 1)):
        assert judged(seal, machine, "setsockopt", 5, level, option) == ALLOWED


@MACHINES
def test_processes_and_threads_are_made_and_name_spaces_are_not(seal: Any, machine: str) -> None:
    fork, spawn, thread = 0x01200011, 0x4111, 0x003D0F00  # as the C library makes them
    for flags in (fork, spawn, thread, 0):
        assert judged(seal, machine, "clone", flags) == ALLOWED
    for bit in (17, 25, 26, 27, 28, 29, 30):  # mount, cgroup, uts, ipc, user, pid, net: linux/sched.h
        assert judged(seal, machine, "clone", fork | 1 << bit) == errno.EPERM
    assert judged(seal, machine, "clone3") == errno.ENOSYS


@MACHINES
def test_every_other_call_of_the_table_is_refused_whatever_it_is_asked(seal: Any, machine: str) -> None:
    judged_above = {"prlimit64", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "sched_setparam"}
    judged_above |= {"sched_setscheduler", "sched_setaffinity", "sched_setattr", "setpriority", "ioprio_set", "fcntl"}
    judged_above |= {"socket", "socketpair", "setsockopt", "clone"}
    not_there = {"clone3", "pidfd_send_signal", "memfd_secret", "io_setup"}
    for name, (_, aarch64) in NUMBERS.items():
        if name not in judged_above and (machine == "x86_64" or aarch64 is not None):
            for arguments in ((0,) * 6, (OTHER,) * 6):
                error = errno.ENOSYS if name in not_there else errno.EPERM
                assert judged(seal, machine, name, *arguments) == error, name


@MACHINES
def test_the_filter_lets_every_call_pass_that_is_not_in_its_table(seal: Any, machine: str) -> None:
    program = seal.program(machine)
    named = {numbers[("x86_64", "aarch64").index(machine)] for numbers in NUMBERS.values()}
    for number in set(range(512)) - named:
        assert judge(program, architecture=seal.ARCHITECTURES[machine], number=number, arguments=(1, 1)) == ALLOWED


@MACHINES
def test_what_every_call_costs_stays_small(seal: Any, machine: str) -> None:
    # the operating system takes 4096 instructions; one that remembers no answers runs them at every call
    program = seal.program(machine)
    assert len(program) // 8 < 400
    for number in range(512):
        steps = steps_of(program, architecture=seal.ARCHITECTURES[machine], number=number)
        assert steps < 50, number


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


def test_the_numbers_are_written_down_a_second_time_here(seal: Any) -> None:
    assert {each.name: (each.x86_64, each.aarch64) for each in seal.REFUSED} == NUMBERS


# This machine's own headers, where it has any; a call that is newer than they are is in none.
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@MACHINES
def test_the_numbers_are_those_of_the_systems_headers(seal: Any, machine: str) -> None:
    texts = [Path(each).read_text() for each in HEADERS[machine] if Path(each).exists()]
    # 3264: in the general table, of calls that have another name on 32-bit machines
    defined = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)\n", "".join(texts))
    found = {name: int(number) for name, number in defined}
    theirs = {each.name: getattr(each, machine) for each in seal.REFUSED if each.name in found}
    assert theirs == {name: found[name] for name in theirs}
    assert not texts or len(theirs) > len(NUMBERS) // 2


SET = """
import sys
sys.path.insert(0, sys.argv[1])
import seal
{change}
try:
    seal.set_filter()
except seal.NotSealedError as error:
    print(error)
lines = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(lines["NoNewPrivs"], lines["Seccomp"])
"""


def set_in_a_process(change: str) -> list[str]:
    code = SET.format(change=change)
    folder = str(images_directory() / "python")
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, folder], capture_output=True, text=True, timeout=30, check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_operating_system_takes_the_filter_and_nobody_gains_a_privilege_any_more() -> None:
    assert set_in_a_process("") == ["1 2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # as where a system takes filters and does not obey them
        ("seal.REFUSED = ()", "does not obey it"),
        # as where a processor is emulated
        ("seal.program = lambda machine: bytes(8)", "takes no seccomp filter"),
        ("seal.ARCHITECTURES = {}; seal.os.uname = lambda: type('', (), {'machine': 'riscv64'})", "riscv64"),
    ],
)
def test_a_filter_that_is_not_in_force_is_told_and_not_gone_on_without(change: str, said: str) -> None:
    assert said in set_in_a_process(change)[0]
