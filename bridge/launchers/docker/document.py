"""What the engine is asked for: a decided spec becomes the Engine API's own documents for POST /containers/create.

The one rule: this is a pure function, the only way that a value of the policy takes to the engine, and the place where
everything stands that is never negotiable. Keys have the Engine API's names, and are written out also where "nothing"
is meant, because `verification.py` compares the engine's view with them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.launchers.docker import owner
from bridge.policy import Limits, SandboxSpec

Document = dict[str, Any]

SUPERVISOR = ["/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/supervisor.py"]
GATEWAY = ["/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/gateway.py"]

HOME = "/home/kernel"
PRIVATE = "/run/kernel"
"""The supervisor's own tmpfs, with the connection file as the kernel reads it."""
SOCKETS = "/run/kernel-bridge"
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
    """On the host, with network none."""
    volume_shift: tuple[int, int] = (0, 0)
    """What the engine's mapping of uids and gids adds to those inside: a volume is mounted from outside of it."""


@dataclass(frozen=True)
class Documents:
    """One sandbox, as it is asked for; the volume is part of the containers' mounts and is made with the first."""

    kernel_name: str
    kernel: Document
    gateway_name: str
    gateway: Document | None
    volume_name: str | None


def documents(spec: SandboxSpec, facts: Facts) -> Documents:
    """Translate a spec. What the spec's environment holds goes over the kernel's stdin, never into a document."""
    stem = owner.stem(spec.name, facts.owner)
    labels = _labels(spec, facts)
    cpus = min(spec.limits.cpus, float(facts.engine_cpus))  # the engine refuses more than it has
    isolated = spec.network == "isolated"
    volume = f"{stem}.{facts.start}" if isolated else None
    if volume:
        sockets = _volume_mount(volume, facts.uid, facts.gid, facts.volume_shift, labels)
    else:
        sockets = _bind_mount(facts.socket_directory)
    workspace = spec.workspace
    mounts = [sockets]
    if workspace:
        mounts.append(_bind(str(workspace.path), str(workspace.path), read_only=workspace.mode == "ro"))
    host = _sealed(
        network="none",  # in both modes: what differs is how the sockets are reached from outside
        memory=spec.limits.memory,
        cpus=cpus,
        pids=spec.limits.pids,
        shm=spec.limits.shm,
        log=spec.limits.log,
        mounts=mounts,
        tmpfs=_tmpfs(spec, facts.uid, facts.gid),
    )
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
    made_gateway = None
    if volume:
        made_gateway = gateway_document(
            image_id=facts.image_id,
            image_environment=facts.image_environment,
            uid=facts.uid,
            gid=facts.gid,
            volume=volume,
            volume_shift=facts.volume_shift,
            labels=labels,
            ports=None,
        )
    return Documents(stem, kernel, f"{stem}.gateway", made_gateway, volume)


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
) -> Document:
    """Return the gateway's document; `ports` on the host where it is to come back on them, else the engine chooses.

    It runs our own code only, but what a kernel puts on the volume may be hostile: so it is sealed like the kernel.
    """
    host = _sealed(
        network="bridge",
        memory=64 * MiB,  # takes 11 to 15 MB, and 128 KiB for a connection
        cpus=1.0,
        pids=32,
        shm=MiB,
        log=64 * KiB,
        mounts=[_volume_mount(volume, uid, gid, volume_shift, labels)],
        tmpfs={},
    )
    # "" lets the engine choose; 0, null or an empty address would publish on every interface of the host
    chosen = [str(port) for port in ports] if ports else [""] * len(GATEWAY_PORTS)
    host["PortBindings"] = {
        f"{inside}/tcp": [{"HostIp": "127.0.0.1", "HostPort": outside}]
        for inside, outside in zip(GATEWAY_PORTS, chosen, strict=True)
    }
    document = _container(
        command=GATEWAY,
        image=image_id,
        user=f"{uid}:{gid}",
        directory="/",
        environment=_without(image_environment, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}),
        labels={**labels, owner.ROLE: "gateway"},
        host=host,
    )
    document["ExposedPorts"] = {f"{inside}/tcp": {} for inside in GATEWAY_PORTS}
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
        "Memory": memory,
        "MemorySwap": memory,  # the sum of both: no swap. Left out it would be twice the memory
        "OomKillDisable": False,
        "OomScoreAdj": 500,  # when the host itself runs out, sandboxes go first
        "NanoCpus": round(cpus * 10**9),
        "CpuShares": 256,  # a quarter of what the person's own programs get when all want more than there is
        "PidsLimit": pids,  # not RLIMIT_NPROC, which counts a uid's processes across all containers
        "ShmSize": shm,
        "Tmpfs": tmpfs,
        "Mounts": mounts,
        "Ulimits": [
            {"Name": "nofile", "Soft": 4096, "Hard": 4096},
            {"Name": "core", "Soft": 0, "Hard": 0},  # a core file holds every variable, and goes where the host says
            {"Name": "memlock", "Soft": 64 * KiB, "Hard": 64 * KiB},
            {"Name": "msgqueue", "Soft": 0, "Hard": 0},  # counted by uid, across containers
        ],
        # `none` could not be read back, and the supervisor's lines are in it.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": str(log), "max-file": "2"}},
    }


def _tmpfs(spec: SandboxSpec, uid: int, gid: int) -> dict[str, str]:
    limits: Limits = spec.limits
    ours = f"uid={uid},gid={gid},mode=0700"
    # Inodes are bounded too: empty files take memory that no size counts.
    places = {
        "/tmp": f"rw,nosuid,nodev,noexec,size={limits.tmp},nr_inodes=16384,mode=1777",  # noqa: S108 - in the container
        # exec: `pip install --user`, virtual environments and their compiled modules
        HOME: f"rw,nosuid,nodev,exec,size={limits.home},nr_inodes=65536,{ours}",
        PRIVATE: f"rw,nosuid,nodev,noexec,size={64 * KiB},nr_inodes=16,{ours}",
    }
    if spec.workspace and spec.workspace.path.is_relative_to("/root"):
        # The image's own /root is closed to anyone but root; this one only holds the way to the workspace.
        places["/root"] = f"rw,nosuid,nodev,noexec,size={16 * KiB},nr_inodes=32,mode=0755"
    return places


def _volume_mount(name: str, uid: int, gid: int, shift: tuple[int, int], labels: Mapping[str, str]) -> Document:
    """Return the volume and how it is mounted: made by the engine together with the container that claims the name.

    The name holds the start's own number, so it can never be an older volume with other options.
    """
    ours = f"uid={uid + shift[0]},gid={gid + shift[1]},mode=0700"
    options = f"size={64 * KiB},nr_inodes=32,{ours},nosuid,nodev,noexec"
    return {
        "Type": "volume",
        "Source": name,
        "Target": SOCKETS,
        "ReadOnly": False,
        "VolumeOptions": {
            "NoCopy": True,  # else the engine copies what the image has there, with its owner and mode
            "Labels": {**labels, owner.ROLE: "sockets"},
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": options}},
        },
    }


def _bind_mount(directory: Path | None) -> Document:
    if directory is None:
        raise ValueError("with network none the sockets need a directory on the host")
    return _bind(str(directory), SOCKETS, read_only=False)


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
        owner.UID: str(facts.uid),
    }
