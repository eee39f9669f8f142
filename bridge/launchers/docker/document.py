"""What the engine is asked for: a decided spec becomes the Engine API's own documents for POST /containers/create.

The one rule: this is a pure function, the only way that a value of the policy takes to the engine, and the place where
everything stands that is never negotiable. Keys have the Engine API's names, and are written out also where "nothing"
is meant, because `verification.py` compares the engine's view with them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bridge.launchers.docker import lasting, owner
from bridge.policy import Limits, SandboxSpec, certificates

Document = dict[str, Any]

SUPERVISOR = ["/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/supervisor.py"]
GATEWAY = ["/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/gateway.py"]

READ = "/opt/kernel-bridge/dd"
"""What cannot be taken over by code inside, which any other program could be that is run there beside it."""

HOME = "/home/kernel"
PRIVATE = "/run/kernel"
"""The supervisor's own tmpfs, with the connection file as the kernel reads it."""
SOCKETS = "/run/kernel-bridge"
"""The volume that the kernel shares with its gateway: the kernel's own sockets."""
PROXY = "/run/kernel-bridge-egress"
"""The volume with the gateway's proxy, where the policy lists hosts that may be reached; the kernel only reads it."""
OUTSIDE = "/run/kernel-bridge-outside"
"""With network none: the host's directory in the gateway's container, for the sockets that clients connect to."""
GATEWAY_PORTS = (5001, 5002, 5003, 5004, 5005)
"""In the gateway's container, in the order of `bridge.connection.PORTS`: shell, iopub, stdin, control, heartbeat."""

KiB, MiB = 1 << 10, 1 << 20

# The engine's own list, which ours replaces, and what else tells a kernel about the machine that it runs on.
MASKED_PATHS = [
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
    *("/proc/config.gz", "/proc/cmdline", "/proc/kallsyms", "/proc/key-users", "/proc/interrupts", "/proc/partitions"),
    *("/proc/diskstats", "/proc/swaps", "/proc/version", "/sys/kernel", "/sys/devices/virtual/dmi", "/sys/class/dmi"),
]
# Giving the engine one list takes away its default for the other, so this is written out too.
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@dataclass(frozen=True)
class Facts:
    """What the launcher found out or drew for one start; nothing of it is the policy's or the agent's to say."""

    owner: str
    start: str
    """Drawn anew for each start; 16 hexadecimal digits."""
    image_id: str
    image_environment: tuple[str, ...]
    """The names that the image's ENV sets."""
    uid: int
    gid: int
    connection_file: Path
    timezone: str
    engine_cpus: int
    socket_directory: Path | None = None
    """On the host, with network none and only there."""
    volume_shift: tuple[int, int] = (0, 0)
    """What the engine's mapping of uids and gids adds to those inside: a volume is mounted from outside of it."""
    near: tuple[str, ...] = ()
    """The public networks that the engine's machine is in: nothing in them is reached, unless the policy says so."""
    hidden: tuple[Path, ...] = ()
    """Directories in the workspace that the kernel must not see: there it finds an empty one that cannot be written."""


@dataclass(frozen=True)
class Documents:
    """One sandbox, as it is asked for; volumes are part of the containers' mounts and are made with the first."""

    kernel_name: str
    kernel: Document
    gateway_name: str
    gateway: Document
    volume_name: str
    network: Document | None
    """With network open the kernel's own, for POST /networks/create."""


def documents(spec: SandboxSpec, facts: Facts) -> Documents:
    """Translate a spec. What the spec's environment holds goes over the kernel's stdin, never into a document."""
    stem = owner.stem(spec.name, facts.owner)
    labels = _labels(spec, facts)
    cpus = min(spec.limits.cpus, float(facts.engine_cpus))  # the engine refuses more than it has
    if (spec.network == "none") is (facts.socket_directory is None):
        raise ValueError("with network none, and only with it, the sockets need a directory on the host")
    volume = f"{stem}.{facts.start}"
    workspace = spec.workspace
    ours = _Volumes(volume, facts.uid, facts.gid, facts.volume_shift, labels)
    mounts = [ours.sockets(), *([ours.egress(read_only=True)] if spec.egress else [])]
    if workspace:
        mounts.append(_bind(str(workspace.path), str(workspace.path), read_only=workspace.mode == "ro"))
    network = _network(volume, labels) if spec.network == "open" else None
    host = _sealed(
        # But with open, none: what else differs is where the gateway listens. The sockets are on no network ever.
        network=network["Name"] if network else "none",
        memory=spec.limits.memory,
        cpus=cpus,
        pids=spec.limits.pids,
        shm=spec.limits.shm,
        log=spec.limits.log,
        mounts=mounts,
        tmpfs=_tmpfs(spec, facts.uid, facts.gid),
    )
    # Newer engines' own list has these too; one that is not there does no harm.
    throttles = (f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(facts.engine_cpus))
    host["MaskedPaths"] = [*MASKED_PATHS, *throttles, *map(str, facts.hidden)]
    if spec.gpus:
        # which driver is the engine's to say, as with the docker CLI's --gpus
        request = {"Driver": "", "Count": spec.gpus, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
        host["DeviceRequests"] = [request]
    if spec.runtime:
        host["Runtime"] = spec.runtime
    kernel = _container(
        command=SUPERVISOR,
        image=facts.image_id,
        user=f"{facts.uid}:{facts.gid}",
        directory=str(workspace.path) if workspace else HOME,
        environment=_without(facts.image_environment, _environment(cpus, facts.timezone)),
        labels={**labels, owner.ROLE: "kernel"},
        host=host,
    )
    # The line with the key comes on stdin: it is in no inspect, no argument, no environment, no log and no image layer.
    # With StdinOnce the supervisor reads the end when we are gone, so that a start cut short ends by itself.
    kernel |= {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
    gateway = gateway_document(
        image_id=facts.image_id,
        image_environment=facts.image_environment,
        uid=facts.uid,
        gid=facts.gid,
        volume=volume,
        volume_shift=facts.volume_shift,
        labels=labels,
        ports=None,
        directory=facts.socket_directory,
    )
    return Documents(stem, kernel, f"{stem}.gateway", gateway, volume, network)


def gateway_document(
    *,
    image_id: str,
    image_environment: tuple[str, ...],
    uid: int,
    gid: int,
    volume: str,
    volume_shift: tuple[int, int],
    labels: Mapping[str, str],
    ports: tuple[int, ...] | None,
    directory: Path | None,
) -> Document:
    """Return the gateway's document.

    `ports` on the host where it is to come back on them, else the engine chooses; or a `directory` there for sockets,
    then it has no network. What may be reached through it is the kernel's container's label: so one that comes back has
    exactly the list of the start, whatever the policy says by then. It runs our own code only, but what a kernel puts
    on the volume may be hostile: so it is sealed like the kernel.
    """
    egress = labels.get(owner.EGRESS, "")
    ours = _Volumes(volume, uid, gid, volume_shift, labels)
    mounts = [ours.sockets(), *([ours.egress(read_only=False)] if egress else [])]
    if directory:
        mounts.append(_bind(str(directory), OUTSIDE, read_only=False))
    host = _sealed(
        network="none" if directory else "bridge",
        memory=(96 if egress else 64) * MiB,  # takes 11 to 15 MB, and 128 KiB for a connection or a tunnel
        cpus=1.0,
        pids=32,
        shm=MiB,
        log=64 * KiB,
        mounts=mounts,
        tmpfs={},
    )
    if not directory:
        # "" lets the engine choose; 0, null or an empty address would publish on every interface of the host
        chosen = [str(port) for port in ports] if ports else [""] * len(GATEWAY_PORTS)
        host["PortBindings"] = {
            f"{inside}/tcp": [{"HostIp": "127.0.0.1", "HostPort": outside}]
            for inside, outside in zip(GATEWAY_PORTS, chosen, strict=True)
        }
    arguments = [OUTSIDE] if directory else ["--egress", egress] if egress else []
    document = _container(
        command=[*GATEWAY, *arguments],
        image=image_id,
        user=f"{uid}:{gid}",
        directory="/",
        environment=_without(image_environment, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}),
        labels={**labels, owner.ROLE: "gateway"},
        host=host,
    )
    document["ExposedPorts"] = {port: {} for port in host["PortBindings"]}
    return document


def _container(
    *,
    command: list[str],
    image: str,
    user: str,
    directory: str,
    environment: list[str],
    labels: dict[str, str],
    host: Document,
) -> Document:
    return {
        "Image": image,  # the id that was resolved once: what was checked is what is started
        # All that an image could say about how it is run is said here, so that it has no say.
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "User": user,
        "WorkingDir": directory,
        "Env": environment,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Hostname": "kernel",  # the default would be the container's id
        "Tty": False,  # would mix stdout with stderr, and turn bytes on stdin into signals
        "Labels": labels,
        "HostConfig": host,
    }


def _sealed(
    *,
    network: str,
    memory: int,
    cpus: float,
    pids: int,
    shm: int,
    log: int,
    mounts: list[Document],
    tmpfs: dict[str, str],
) -> Document:
    """Return the HostConfig that no policy can weaken, with the limits that it sets."""
    return {
        "NetworkMode": network,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": [],
        "SecurityOpt": ["no-new-privileges:true"],  # setuid programs gain nothing; the engine's seccomp profile stays
        "ReadonlyRootfs": True,  # what is writable is a tmpfs below, and bounded
        "MaskedPaths": MASKED_PATHS,
        "ReadonlyPaths": READONLY_PATHS,
        "Binds": [],  # its text form creates missing host directories as root; `Mounts` refuses them
        "VolumesFrom": [],
        "Devices": [],
        "DeviceRequests": [],
        "DeviceCgroupRules": [],
        "GroupAdd": [],
        "Sysctls": {},
        "ExtraHosts": [],
        "Links": [],
        # No name space is shared with the host or with another container.
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",  # "host" would undo the daemon's userns-remap
        "CgroupnsMode": "private",  # else /proc/self/cgroup shows the host's hierarchy
        "CgroupParent": "",
        "PublishAllPorts": False,
        "PortBindings": {},
        "Init": False,  # PID 1 is our own supervisor
        "AutoRemove": False,  # how it ended is read from the engine afterwards
        # A restarted container has lost its tmpfs, its key and its ports; the supervisor restarts the kernel inside.
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        # Every tmpfs, /dev/shm and most of what the operating system keeps for it are in it; what waits in TCP and UDP
        # sockets only with cgroup v2. With v1 nothing here bounds that: engines take KernelMemoryTCP and do not set it;
        # small net.ipv4.tcp_rmem and tcp_wmem slow asyncio down, and give way to whoever sets SO_RCVBUF and SO_SNDBUF.
        "Memory": memory,
        "MemorySwap": memory,  # the sum of both: no swap. Left out it would be twice the memory
        "OomKillDisable": False,  # else a sandbox without memory left would hang, and could not be told as ended
        "OomScoreAdj": 500,  # when the host itself runs out, sandboxes go first
        "NanoCpus": round(cpus * 10**9),  # a bound, also where nobody else wants the processors
        "CpuShares": 256,  # a quarter of what the person's own programs get when all want more than there is
        "PidsLimit": pids,  # not RLIMIT_NPROC, which counts a uid's processes across all containers
        "ShmSize": shm,  # /dev/shm, for multiprocessing; the engine's 64 MiB are few, and would be beside the policy
        "Tmpfs": tmpfs,
        "Mounts": mounts,
        "Ulimits": [
            {"Name": "nofile", "Soft": 4096, "Hard": 4096},  # engines give a million; the host's own table is shared
            {"Name": "core", "Soft": 0, "Hard": 0},  # a core file holds every variable, and goes where the host says
            {"Name": "memlock", "Soft": 64 * KiB, "Hard": 64 * KiB},  # what is locked the host cannot take back
            # Counted by uid, across containers, and with a workspace the uid may be a person's.
            {"Name": "msgqueue", "Soft": 0, "Hard": 0},
            {"Name": "sigpending", "Soft": 4096, "Hard": 4096},
        ],
        # On the host's disk, so bounded: in bytes, twice. `none` could not be read back, and the supervisor's lines are
        # in it.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": str(log), "max-file": "2"}},
    }


def _tmpfs(spec: SandboxSpec, uid: int, gid: int) -> dict[str, str]:
    limits: Limits = spec.limits
    ours = f"uid={uid},gid={gid},mode=0700"
    private = 64 * KiB + (certificates.MAX_BYTES if spec.certificates else 0)
    # Inodes are bounded too: empty files take memory that no size counts.
    places = {
        "/tmp": f"rw,nosuid,nodev,noexec,size={limits.tmp},nr_inodes=16384,mode=1777",  # noqa: S108 - in the container
        # exec: `pip install --user`, virtual environments and their compiled modules
        HOME: f"rw,nosuid,nodev,exec,size={limits.home},nr_inodes=65536,{ours}",
        PRIVATE: f"rw,nosuid,nodev,noexec,size={private},nr_inodes=16,{ours}",
    }
    if spec.workspace and spec.workspace.path.is_relative_to("/root"):
        # The image's own /root is closed to anyone but root; this one only holds the way to the workspace.
        places["/root"] = f"rw,nosuid,nodev,noexec,size={16 * KiB},nr_inodes=32,mode=0755"
    return places


@dataclass(frozen=True)
class _Volumes:
    """What kernel and gateway share: made by the engine together with the container that claims the name.

    The names hold the start's own number, so they can never be older volumes with other options.
    """

    name: str
    uid: int
    gid: int
    shift: tuple[int, int]
    labels: Mapping[str, str]

    def sockets(self) -> Document:
        """Return how the kernel's own sockets are mounted."""
        return self._mount(self.name, SOCKETS, "sockets", read_only=False)

    def egress(self, *, read_only: bool) -> Document:
        """Return how the proxy's socket is mounted: who can only read can connect, but put nothing in its place."""
        return self._mount(f"{self.name}.egress", PROXY, "egress", read_only=read_only)

    def _mount(self, name: str, target: str, role: str, *, read_only: bool) -> Document:
        ours = f"uid={self.uid + self.shift[0]},gid={self.gid + self.shift[1]},mode=0700"
        options = f"size={64 * KiB},nr_inodes=32,{ours},nosuid,nodev,noexec"
        return {
            "Type": "volume",
            "Source": name,
            "Target": target,
            "ReadOnly": read_only,
            "VolumeOptions": {
                "NoCopy": True,  # else the engine copies what the image has there, with its owner and mode
                "Labels": {**self.labels, owner.ROLE: role},
                "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": options}},
            },
        }


def _network(name: str, labels: Mapping[str, str]) -> Document:
    """Return the network of one kernel, which no other container is ever in: engines keep their networks apart.

    With none but the kernel in it there is nobody to talk to; that containers in it may not, is for those that somebody
    would put there later.
    """
    return {
        "Name": name,  # with the start's own number, like the volume
        "Driver": "bridge",
        "Internal": False,
        "Attachable": False,
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
        "Labels": {**labels, owner.ROLE: "network"},
    }


def _bind(source: str, target: str, *, read_only: bool) -> Document:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {
            "Propagation": "rprivate",
            # What else is mounted below was not looked at, and older engines leave it writable in a read-only mount.
            "NonRecursive": True,
        },
    }


def _environment(cpus: float, timezone: str) -> dict[str, str]:
    threads = str(max(1, int(cpus)))
    return {
        "HOME": HOME,
        "USER": "kernel",  # getpass.getuser() fails for a uid that /etc/passwd does not know
        "LOGNAME": "kernel",
        "LANG": "C.UTF-8",
        "TZ": timezone,
        "PATH": f"/opt/kernel/bin:{HOME}/.local/bin:/usr/local/bin:/usr/bin:/bin",
        # Pools that take the host's number of processors for theirs are slower under a limit, and take more memory.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHON_CPU_COUNT": threads,
    }


def _without(image_names: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
    """Return the environment as the engine takes it; a bare name takes away what the image's ENV sets."""
    return [
        *(f"{name}={value}" for name, value in environment.items()),
        *(name for name in image_names if name not in environment),
    ]


def _labels(spec: SandboxSpec, facts: Facts) -> dict[str, str]:
    return {
        owner.OWNER: facts.owner,
        owner.NAME: spec.name,
        owner.START: facts.start,
        owner.NETWORK: spec.network,
        owner.IMAGE: spec.image,
        owner.WORKSPACE: str(spec.workspace.path) if spec.workspace else "",
        owner.WORKSPACE_MODE: spec.workspace.mode if spec.workspace else "",
        owner.CONNECTION_FILE: str(facts.connection_file),
        owner.SOCKETS: str(facts.socket_directory or ""),
        owner.EGRESS: egress_argument(spec, facts.near),
        owner.ENDS: lasting.written(lasting.limits(spec)),
        owner.UID: str(facts.uid),
    }


def egress_argument(spec: SandboxSpec, near: tuple[str, ...] = ()) -> str:
    """Write down what may be reached, for the gateway's `--egress`; empty where nothing may. It is no secret."""
    if not spec.egress:
        return ""
    upstream = urlsplit(spec.upstream_proxy) if spec.upstream_proxy else None
    said = {
        "allow": [[each.host, each.port, list(each.allow_addresses)] for each in spec.egress],
        "upstream": [upstream.hostname, upstream.port] if upstream else None,
        "refuse": list(near),
    }
    return json.dumps(said, separators=(",", ":"))


def reachable(egress: str) -> tuple[str, ...]:
    """Return the `host:port` pairs of such an argument, as a person reads them; none where it is not of ours."""
    try:
        pairs = [(str(host), port) for host, port, _ in json.loads(egress)["allow"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()
    return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in pairs)
