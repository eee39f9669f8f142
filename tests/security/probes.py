"""What code inside a sandbox tries, what stops it, what it sees, and what it would see with exactly that relaxed.

The one rule: a probe is bounded in processes, bytes and seconds, so that it does no harm where nothing stops it, and
what it prints is one short verdict. `images/README.md` shows this table; `test_probes.py` holds it against the runs.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from typing import Literal

from tests.images import program
from tests.security import relaxed
from tests.security.relaxed import (
    NO_APPARMOR,
    OTHERS_UID,
    ROOT,
    UNCONFINED,
    Outside,
    Setting,
    capability,
    config,
    supervisor,
    tmpfs,
    unlimited,
    unsealed,
)

MiB = 1 << 20
LIMITS = {"memory": "256MiB", "cpus": 1, "pids": 100, "home": "32MiB", "tmp": "16MiB", "shm": "16MiB", "log": "64KiB"}
"""Of the sandbox that is probed."""

PRELUDE = """
import ctypes, errno, fcntl, json, os, pathlib, resource, shutil, signal, socket, stat, subprocess, sys, time
OUTSIDE, NUMBERS = json.loads({outside!r}), json.loads({numbers!r})
HOME, SOCKETS, PRIVATE = "/home/kernel", "/run/kernel-bridge", "/run/kernel"
libc = ctypes.CDLL(None, use_errno=True)

def attempt(call, *arguments):
    "Call something of Python's, a system call by its number, or a function of the C library; say what came of it."
    try:
        if callable(call):
            call(*arguments)
        else:
            long = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
            function = (libc.syscall, ctypes.c_long(NUMBERS[call])) if call in NUMBERS else (getattr(libc, call),)
            if function[0](*function[1:], *long) < 0:
                raise OSError(ctypes.get_errno(), "")
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return "done"

def stopped(result):
    "Of what cannot succeed, because there is no such thing: whether it was looked for."
    return result if result == "EPERM" else "it is looked for"

def fill(place, most):
    "Write so many MiB; a file that is gone takes its room along."
    file = pathlib.Path(place, "filler")
    with file.open("wb", buffering=0) as out:
        file.unlink()
        for _ in range(most * 16):
            if out.write(bytes(1 << 16)) < 1 << 16:
                raise OSError(errno.ENOSPC, "only a part of it has room")

def litter(place, most):
    "Make so many empty files."
    directory = pathlib.Path(place, "litter")
    try:
        directory.mkdir()
        for number in range(most):
            (directory / str(number)).touch()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
"""


def prelude(outside: Outside) -> str:
    """What every probe's code begins with."""
    machine = platform.machine()
    numbers = {each.name: getattr(each, machine) for each in program("seal").REFUSED}
    return PRELUDE.format(outside=json.dumps(asdict(outside)), numbers=json.dumps(numbers))


@dataclass(frozen=True)
class Probe:
    """One row of the table. Verdicts are errors by their names, or what was got."""

    tries: str
    code: str
    stops: str
    sees: str
    relaxed: tuple[Setting, ...]
    """All that has to be relaxed for the attempt to get through: where it is several, each stops it alone."""
    then: str
    verdict: Literal["its own", "of the next kernel", "of the log", "of the supervisor's log"] = "its own"
    """It is what the code prints; what `after` prints in the kernel that comes next; or what the engine has kept."""
    after: str = ""
    in_the_kernel: bool = False
    """Runs in the kernel's own process, else in one that the kernel starts."""

    @property
    def name(self) -> str:
        return self.tries.replace("`", "").replace("/", "_").replace(" ", "-")


BOMBS = (
    Probe(
        "start 200 processes",
        """
children, verdict = [], "200 processes"
try:
    while len(children) < 200:
        if not (pid := os.fork()):
            signal.pause()
        children.append(pid)
except OSError as error:
    verdict = errno.errorcode[error.errno]
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(verdict)
""",
        "`PidsLimit`, from the policy",
        "EAGAIN",
        (config("`PidsLimit` 300", PidsLimit=300),),
        "200 processes",
    ),
    Probe(
        "take 320 MiB of memory",
        "held = [b'x' * (32 << 20) for _ in range(10)]; print('320 MiB')",
        "`Memory` and `MemorySwap`, from the policy; the kernel lives on",
        "killed",
        (config("512 MiB", Memory=512 * MiB, MemorySwap=512 * MiB),),
        "320 MiB",
    ),
    Probe(
        "write 48 MiB in the home directory",
        "print(attempt(fill, HOME, 48))",
        "the size of the tmpfs there, from the policy",
        "ENOSPC",
        (tmpfs("/home/kernel", "size", f"size={64 * MiB}"),),
        "done",
    ),
    Probe(
        "write 24 MiB in `/tmp`",
        "print(attempt(fill, '/tmp', 24))",
        "the size of the tmpfs there, from the policy",
        "ENOSPC",
        (tmpfs("/tmp", "size", f"size={32 * MiB}"),),
        "done",
    ),
    Probe(
        "write 24 MiB in `/dev/shm`",
        "print(attempt(fill, '/dev/shm', 24))",
        "`ShmSize`, from the policy",
        "ENOSPC",
        (config("`ShmSize` 64 MiB", ShmSize=64 * MiB),),
        "done",
    ),
    Probe(
        "write 1 MiB beside the connection file",
        "print(attempt(fill, PRIVATE, 1))",
        "the size of the tmpfs there",
        "ENOSPC",
        (tmpfs("/run/kernel", "size", f"size={4 * MiB}"),),
        "done",
    ),
    Probe(
        "write 1 MiB among the sockets",
        "print(attempt(fill, SOCKETS, 1))",
        "the size of the volume, a tmpfs",
        "ENOSPC",
        (relaxed.volume("size", f"size={4 * MiB}"),),
        "done",
    ),
    Probe(
        "write 1 MiB in `/var/tmp`, which everybody may write to",
        "print(attempt(fill, '/var/tmp', 1))",
        "`ReadonlyRootfs`",
        "EROFS",
        (config("`ReadonlyRootfs` off", ReadonlyRootfs=False),),
        "done",
    ),
    Probe(
        "make 17000 empty files in `/tmp`",
        "print(attempt(litter, '/tmp', 17000))",
        "`nr_inodes` of the tmpfs there",
        "ENOSPC",
        (tmpfs("/tmp", "nr_inodes", "nr_inodes=20000"),),
        "done",
    ),
    Probe(
        "make 40 empty files among the sockets",
        "print(attempt(litter, SOCKETS, 40))",
        "`nr_inodes` of the volume",
        "ENOSPC",
        (relaxed.volume("nr_inodes", "nr_inodes=100"),),
        "done",
    ),
    Probe(
        "write 2 MiB into the container's log",
        """
line = b"x" * 1023 + b"\\n"
for _ in range(2048):
    os.write(sys.stderr._original_stdstream_copy, line)
os.write(sys.stderr._original_stdstream_copy, b"that is all\\n")
""",
        "`LogConfig`: two files of the policy's size",
        "at most 128 KiB are kept",
        (config("`max-size` 8 MiB", LogConfig={"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}}),),
        "all is kept",
        verdict="of the log",
        in_the_kernel=True,
    ),
    Probe(
        "open 5000 files",
        "print(attempt(lambda: [open('/dev/null') for _ in range(5000)]))",
        "the ulimit `nofile`",
        "EMFILE",
        (unlimited("nofile", 8192),),
        "done",
    ),
    Probe(
        "lock 1 MiB of memory",
        "print(attempt('mlock', ctypes.create_string_buffer(1 << 20), 1 << 20))",
        "the ulimit `memlock`",
        "ENOMEM",
        (unlimited("memlock", 4 * MiB),),
        "done",
    ),
    Probe(
        "make a message queue, which counts for the uid on the whole machine",
        "print(attempt('mq_open', b'/probe', os.O_CREAT | os.O_RDWR, 0o600, None))",
        "the ulimit `msgqueue`",
        "EMFILE",
        (unlimited("msgqueue", 819200),),
        "done",
    ),
    Probe(
        "leave 5000 signals waiting, which count for the uid on the whole machine",
        """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
results = (attempt("sigqueue", os.getpid(), int(signal.SIGRTMIN), None) for _ in range(5000))
print(next((each for each in results if each != "done"), "done"))
""",
        "the ulimit `sigpending`",
        "EAGAIN",
        (unlimited("sigpending", 8192),),
        "done",
    ),
    Probe(
        "have core files written",
        """
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    print("done")
except ValueError:
    print("EPERM")
""",
        "the ulimit `core`",
        "EPERM",
        (unlimited("core", MiB),),
        "done",
    ),
    Probe(
        "be given the time of all processors",
        """
place = pathlib.Path("/sys/fs/cgroup")
if (file := place / "cpu.max").exists():
    quota, period = file.read_text().split()
else:
    quota, period = ((place / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
print("all of it" if quota in ("max", "-1\\n") else f"that of {int(quota) / int(period):g}")
""",
        "`NanoCpus`, from the policy",
        "that of 1",
        (config("`NanoCpus` 0", NanoCpus=0),),
        "all of it",
    ),
)

PRIVILEGES = (
    Probe(
        "have a capability, for when it becomes root",
        """
(line,) = [each for each in open("/proc/self/status") if each.startswith("CapBnd")]
print("none" if int(line.split()[1], 16) == 0 else "some")
""",
        "`CapDrop` ALL",
        "none",
        (config("`CapDrop` empty", CapDrop=[]),),
        "some",
    ),
    Probe(
        "become root by a program that is setuid (`su`)",
        """
su = subprocess.Popen(["/usr/bin/su"], stdin=-1, stdout=-3, stderr=-3)
status = open(f"/proc/{su.pid}/status").read()
print("root" if status.partition("Uid:")[2].split()[1] == "0" else "its own uid")
su.kill()
""",
        "`no-new-privileges`; the supervisor's filter asks for it too",
        "its own uid",
        (
            config("`no-new-privileges` off", SecurityOpt=[]),
            supervisor("its filter", "    become_untouchable()\n    os.umask", "    os.umask"),
        ),
        "root",
    ),
    Probe(
        "run a program of its own in `/tmp`",
        """
file = pathlib.Path("/tmp/program")
file.write_text("#!/bin/sh\\n")
file.chmod(0o700)
print(attempt(subprocess.run, [str(file)]))
""",
        "`noexec`; in the home directory it may, as `pip install --user` must",
        "EACCES",
        (tmpfs("/tmp", "noexec", "exec"),),
        "done",
    ),
    Probe(
        "make a device node",
        "print(attempt(os.mknod, HOME + '/null', stat.S_IFCHR | 0o600, os.makedev(1, 3)))",
        "the uid; `CapDrop`",
        "EPERM",
        (ROOT, capability("MKNOD")),
        "done",
    ),
    Probe(
        "open a device of the host's",
        "print(attempt(open, '/dev/probe', 'rb'))",
        "`Devices` empty",
        "ENOENT",
        (
            config(
                "one device given",
                Devices=[{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/probe", "CgroupPermissions": "r"}],
            ),
        ),
        "done",
    ),
)

SYSTEM = (
    Probe(
        "`io_uring_setup`",
        "print(attempt('io_uring_setup', 1, ctypes.create_string_buffer(256)))",
        "`seal.py`; newer engines' own filter",
        "EPERM",
        (unsealed("io_uring_setup"), UNCONFINED),
        "done",
    ),
    Probe(
        "`add_key`",
        "print(attempt('add_key', b'user', b'probe', b'x', 1, -2))",
        "`seal.py`; the engine's own filter",
        "EPERM",
        (unsealed("add_key"), UNCONFINED),
        "done",
    ),
    Probe(
        "`userfaultfd`",
        "print(attempt('userfaultfd', 1))",
        "`seal.py`; the engine's own filter",
        "EPERM",
        (unsealed("userfaultfd"), UNCONFINED),
        "done",
    ),
    Probe(
        "`unshare` of a user name space",
        "print(attempt('unshare', 0x10000000))",
        "`seal.py`; the engine's own filter",
        "EPERM",
        (unsealed("unshare"), UNCONFINED),
        "done",
    ),
    Probe(
        "`io_setup`, with 1000 events of those that all of the machine has",
        "print(attempt('io_setup', 1000, (ctypes.c_ulong * 1)()))",
        "`seal.py`",
        "ENOSYS",
        (unsealed("io_setup"),),
        "done",
    ),
    Probe(
        "`bpf`: make a map",
        "print(attempt('bpf', 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128))",
        "the uid; `CapDrop`; `seal.py`",
        "EPERM",
        (ROOT, capability("SYS_ADMIN"), unsealed("bpf")),
        "done",
    ),
    Probe(
        "`perf_event_open`: watch a process",
        "print(attempt('perf_event_open', (ctypes.c_uint32 * 32)(1, 64, 0), 0, -1, -1, 0))",
        "the uid; `CapDrop`; `seal.py`",
        "EPERM",
        (ROOT, capability("SYS_ADMIN"), unsealed("perf_event_open")),
        "done",
    ),
    Probe(
        "remove a module of the operating system, one that is not there",
        "print(stopped(attempt('delete_module', b'kernel_bridge_probe', 0)))",
        "`CapDrop`, by which the engine's own filter goes; `seal.py`",
        "EPERM",
        (capability("SYS_MODULE"), unsealed("delete_module")),
        "it is looked for",
    ),
    Probe(
        "`open_by_handle_at`, with a handle of no length",
        "print(stopped(attempt('open_by_handle_at', -100, (ctypes.c_uint32 * 8)(0, 1), 0)))",
        "`CapDrop`, by which the engine's own filter goes; `seal.py`",
        "EPERM",
        (capability("DAC_READ_SEARCH"), unsealed("open_by_handle_at")),
        "it is looked for",
    ),
    Probe(
        "mount a tmpfs",
        "os.makedirs(HOME + '/mounted'); print(attempt('mount', b'none', b'/home/kernel/mounted', b'tmpfs', 0, None))",
        "the uid; `CapDrop`; `seal.py`",
        "EPERM",
        (ROOT, capability("SYS_ADMIN"), unsealed("mount"), NO_APPARMOR),
        "done",
    ),
    Probe(
        "take the mask from `/proc/version`",
        "print(attempt('umount2', b'/proc/version', 0))",
        "the uid; `CapDrop`; `seal.py`",
        "EPERM",
        (ROOT, capability("SYS_ADMIN"), unsealed("umount2"), NO_APPARMOR),
        "done",
    ),
    Probe(
        "join a name space (`setns`)",
        "print(attempt('setns', os.open('/proc/self/ns/net', os.O_RDONLY), 0))",
        "the uid; `CapDrop`; `seal.py`",
        "EPERM",
        (ROOT, capability("SYS_ADMIN"), unsealed("setns"), NO_APPARMOR),
        "done",
    ),
    Probe(
        "make `/sys` writable, and open a file there",
        """
attempt("mount", b"none", b"/sys", b"sysfs", 32, None)  # MS_REMOUNT
print(attempt(os.open, "/sys/class/net/lo/mtu", os.O_WRONLY))
""",
        "the engine's read-only mount of it; what stops a mount",
        "EROFS",
        (ROOT, capability("SYS_ADMIN"), unsealed("mount"), NO_APPARMOR),
        "done",
    ),
    Probe(
        "open `/proc/sys/kernel/core_pattern` for writing",
        "print(attempt(os.open, '/proc/sys/kernel/core_pattern', os.O_WRONLY))",
        "the uid; `ReadonlyPaths`",
        "EACCES",
        (ROOT, config("`ReadonlyPaths` empty", ReadonlyPaths=[])),
        "done",
    ),
    Probe(
        "open `/proc/irq/default_smp_affinity` for writing",
        "print(attempt(os.open, '/proc/irq/default_smp_affinity', os.O_WRONLY))",
        "the uid; `ReadonlyPaths`",
        "EACCES",
        (ROOT, config("`ReadonlyPaths` empty", ReadonlyPaths=[])),
        "done",
    ),
    Probe(
        "read about the machine: `/proc/version`, `cmdline`, `interrupts`, `kallsyms`",
        """
found = [name for name in ("version", "cmdline", "interrupts", "kallsyms") if open(f"/proc/{name}").read(1)]
print(*found or ["nothing"])
""",
        "`MaskedPaths`",
        "nothing",
        (config("`MaskedPaths` empty", MaskedPaths=[]),),
        "version cmdline interrupts kallsyms",
    ),
    Probe(
        "read where in the machine's control groups it is",
        """
names = {line.rstrip().rpartition(":")[2] for line in open("/proc/self/cgroup")}
print("nothing" if names == {"/"} else "the container's id")
""",
        "`CgroupnsMode` private",
        "nothing",
        (config("`CgroupnsMode` host", CgroupnsMode="host"),),
        "the container's id",
    ),
)

NETWORK = (
    Probe(
        "connect to a service on the host's address",
        "print(attempt(socket.create_connection, (OUTSIDE['host'], OUTSIDE['tcp']), 5))",
        "`NetworkMode` none",
        "ENETUNREACH",
        (config("`NetworkMode` bridge", NetworkMode="bridge"),),
        "done",
    ),
    Probe(
        "send it a datagram, as one does to ask for a name",
        """
out = socket.socket(type=socket.SOCK_DGRAM)
print(attempt(out.sendto, b"?", (OUTSIDE["host"], OUTSIDE["udp"])))
""",
        "`NetworkMode` none",
        "ENETUNREACH",
        (config("`NetworkMode` bridge", NetworkMode="bridge"),),
        "done",
    ),
    Probe(
        "connect to another sandbox's gateway",
        "print(attempt(socket.create_connection, (OUTSIDE['other'], 5001), 5))",
        "`NetworkMode` none",
        "ENETUNREACH",
        (config("`NetworkMode` bridge", NetworkMode="bridge"),),
        "done",
    ),
    Probe(
        "connect to a service on the host's 127.0.0.1",
        "print(attempt(socket.create_connection, ('127.0.0.1', OUTSIDE['loopback']), 5))",
        "`NetworkMode` none",
        "ECONNREFUSED",
        (config("`NetworkMode` host", NetworkMode="host"),),
        "done",
    ),
    Probe(
        "make a raw socket",
        "print(attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))",
        "the uid; `CapDrop`; `seal.py`",
        "ESOCKTNOSUPPORT",
        (ROOT, capability("NET_RAW"), unsealed("socket")),
        "done",
    ),
    Probe(
        "make a packet socket under the name of the internet's family (`SOCK_PACKET`)",
        "print(attempt(socket.socket, socket.AF_INET, 10, 0))",
        "the uid; `CapDrop`; `seal.py`",
        "ESOCKTNOSUPPORT",
        (ROOT, capability("NET_RAW"), unsealed("socket")),
        "done",
    ),
    Probe(
        "make a packet socket",
        "print(attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0))",
        "the uid; `CapDrop`; `seal.py`",
        "EAFNOSUPPORT",
        (ROOT, capability("NET_RAW"), unsealed("socket")),
        "done",
    ),
    Probe(
        "make a ping socket",
        "print(attempt(socket.socket, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))",
        "`seal.py`",
        "EPROTONOSUPPORT",
        (unsealed("socket"),),
        "done",
    ),
    Probe(
        "make a socket that hears of the machine's devices (netlink)",
        "print(attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 15))",
        "`seal.py`",
        "EPROTONOSUPPORT",
        (unsealed("socket"),),
        "done",
    ),
    Probe(
        "have a socket linger: whoever is sent it waits when it closes it",
        """
linger = (socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\1\\0\\0\\0")
print(attempt(socket.socket().setsockopt, *linger))
""",
        "`seal.py`",
        "EPERM",
        (unsealed("setsockopt"),),
        "done",
    ),
    Probe(
        "make a machine socket (vsock)",
        "print(attempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM, 0))",
        "`seal.py`; newer engines' own filter",
        "EAFNOSUPPORT",
        (unsealed("socket"), UNCONFINED),
        "done",
    ),
)

SUPERVISOR = (
    Probe(
        "read the memory of the supervisor, which has the key",
        "print(attempt(open, '/proc/1/mem', 'rb'))",
        "it is not dumpable",
        "EACCES",
        (
            supervisor(
                "that",  # and, where Yama stands before it, with the leave that Yama asks for
                "    become_unreadable()\n    become_untouchable()",
                "    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)\n    become_untouchable()",
            ),
        ),
        "done",
    ),
    Probe(
        "trace the supervisor",
        "print(attempt('ptrace', 0x4206, 1, 0, 0))",
        "it is not dumpable",
        "EPERM",
        (
            supervisor(
                "that",
                "    become_unreadable()\n    become_untouchable()",
                "    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)\n    become_untouchable()",
            ),
        ),
        "done",
    ),
    Probe(
        "send the supervisor a signal, which would keep the place of one from outside",
        "print(attempt('tgkill', 1, 1, signal.SIGTERM))",
        "`seal.py`; it obeys none from inside even so",
        "EPERM",
        (unsealed("tgkill"),),
        "done",
    ),
    Probe(
        "limit the supervisor's processor time",
        "print(attempt(resource.prlimit, 1, resource.RLIMIT_CPU, (1 << 20, 1 << 20)))",
        "`seal.py`",
        "EPERM",
        (unsealed("prlimit64"),),
        "done",
    ),
    Probe(
        "slow the supervisor down",
        "print(attempt(os.setpriority, os.PRIO_PROCESS, 1, 19))",
        "`seal.py`",
        "EPERM",
        (unsealed("setpriority"),),
        "done",
    ),
    Probe(
        "write a line that passes for the supervisor's",
        """
line = b'{"event": "ended", "epoch": 1, "text": "forged", "time": "2000-01-01T00:00:00+00:00"}'
os.write(sys.stdout._original_stdstream_copy, line + b"\\n")
""",
        "the kernel's output is the container's standard error",
        "not among its lines",
        (supervisor("that", ", (os.POSIX_SPAWN_DUP2, 2, 1)]", "]"),),
        "among its lines",
        verdict="of the supervisor's log",
        in_the_kernel=True,
    ),
    Probe(
        "run out of memory by accident, with the supervisor as large as the kernel",
        """
own, first = (int(open(f"/proc/{each}/oom_score_adj").read()) for each in ("self", 1))
print("the kernel goes first" if own > first else "whichever is larger goes")
""",
        "the supervisor raises the kernel's `oom_score_adj`; code may lower it again, and end its own sandbox",
        "the kernel goes first",
        (supervisor("that", "        self._prefer_as_victim(self._pid)\n", ""),),
        "whichever is larger goes",
    ),
    Probe(
        "outlive a restart: in a session of its own, deaf to signals",
        """
stray = "import os, signal, time\\nos.fork() and os._exit(0)\\nos.setsid()\\n"
stray += "for each in signal.valid_signals() - {9, 19}: signal.signal(each, signal.SIG_IGN)\\nprint(flush=True)\\n"
stray += "time.sleep(600)"
subprocess.Popen([sys.executable, "-c", stray, "stray"], start_new_session=True, stdout=-1).stdout.readline()
os.kill(os.getpid(), signal.SIGKILL)
""",
        "the supervisor kills all others after each end",
        "gone",
        (supervisor("that", "        self._end_strays()\n        self._ended(", "        self._ended("),),
        "still there",
        verdict="of the next kernel",
        after="""
lines = [file.read_bytes().split(b"\\0") for file in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
print("still there" if any(b"stray" in line for line in lines) else "gone")
""",
        in_the_kernel=True,
    ),
    Probe(
        "put deep directories in the place of the key's file and of all sockets, and end the kernel",
        """
for place in map(pathlib.Path, (PRIVATE, SOCKETS)):
    for name in ("connection.json", "k-1", "life"):
        (place / name).unlink(missing_ok=True)
        (place / name / "deep").mkdir(parents=True)
        (place / name).chmod(0)
os.chdir(SOCKETS)
for _ in range(17):  # more than a path can hold
    os.mkdir("x" * 255)
    os.chdir("x" * 255)
os.kill(os.getpid(), signal.SIGKILL)
""",
        "the supervisor empties both places before each start",
        "another kernel starts",
        (
            supervisor(
                "that",
                "            empty(CONNECTION_FILE.parent)\n            empty(LIFE.parent)\n",
                "",
            ),
        ),
        "no kernel starts any more",
        verdict="of the next kernel",
        after="print('another kernel starts')",
        in_the_kernel=True,
    ),
    Probe(
        "put a link in the place of the key's file, to have it written elsewhere",
        """
file = pathlib.Path(PRIVATE, "connection.json")
file.unlink()
file.symlink_to(HOME + "/key")
os.kill(os.getpid(), signal.SIGKILL)
""",
        "the supervisor empties the place, and makes the file itself (`O_EXCL`)",
        "no key there",
        (
            supervisor("the first", "            empty(CONNECTION_FILE.parent)\n", ""),
            supervisor("the second", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600", "os.O_CREAT, 0o600"),
        ),
        "the key is there",
        verdict="of the next kernel",
        after="print('the key is there' if os.path.exists(HOME + '/key') else 'no key there')",
        in_the_kernel=True,
    ),
)

OTHERS = (
    Probe(
        "read another sandbox's connection file, which has its key",
        "print(attempt(open, OUTSIDE['other_file']))",
        "no such mount; the uid",
        "ENOENT",
        (ROOT, relaxed.mounted("that file mounted", lambda _, there: relaxed.bind(there.other_file, there.other_file))),
        "done",
    ),
    Probe(
        "list another sandbox's sockets",
        "print(attempt(os.listdir, '/other'))",
        "no such mount; each sandbox has a uid of its own",
        "ENOENT",
        (
            OTHERS_UID,
            relaxed.mounted(
                "its volume mounted",
                lambda host, there: {**host["Mounts"][0], "Source": there.other_volume, "Target": "/other"},
            ),
        ),
        "done",
    ),
    Probe(
        "write into a workspace that is given read-only",
        "print(attempt(open, OUTSIDE['workspace'] + '/new', 'w'))",
        "the mount is read-only",
        "EROFS",
        (relaxed.workspace("`ReadOnly` off", lambda mount: mount.update(ReadOnly=False)),),
        "done",
    ),
    Probe(
        "read what is mounted on a directory in the workspace",
        "print(attempt(open, OUTSIDE['workspace'] + '/below/word'))",
        "`NonRecursive`: it was not looked at",
        "ENOENT",
        (relaxed.workspace("`NonRecursive` off", lambda mount: mount.update(BindOptions={"Propagation": "rprivate"})),),
        "done",
    ),
    Probe(
        "follow a link in the workspace to another directory of the host's",
        "print(attempt(open, OUTSIDE['workspace'] + '/link/word'))",
        "no such mount: a link leads where it leads inside",
        "ENOENT",
        (relaxed.mounted("that directory mounted", lambda _, there: relaxed.bind(there.secret, there.secret)),),
        "done",
    ),
)

PROBES = (*BOMBS, *PRIVILEGES, *SYSTEM, *NETWORK, *SUPERVISOR, *OTHERS)


def rows() -> list[tuple[str, str, str, str]]:
    """The table as it stands in `images/README.md`."""
    return [
        (each.tries, each.stops, each.sees, f"{' and '.join(setting.words for setting in each.relaxed)}: {each.then}")
        for each in PROBES
    ]
