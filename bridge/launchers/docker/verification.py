"""Was it done: the engine's view of a container, and the container's own, compared with what was asked for.

The one rule: engines accept options that they do not know and ignore them, so nothing is taken as done because it was
asked for. These are pure functions; the launcher hands the key over only when they find no problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.errors import LaunchError
from bridge.launchers.docker.document import GATEWAY_PORTS, Document
from bridge.launchers.docker.endings import container_ending
from bridge.launchers.docker.owner import ROLE

# The look from inside: PID 1's own state, the network, the mounts, and whose directories lie behind the bind mounts.
_RELEASE = "/proc/sys/kernel/osrelease"
_FILES = ("/proc/1/status", "/proc/net/dev", "/proc/net/route", "/proc/net/ipv6_route", "/proc/mounts", _RELEASE)
_HEAD = "==> "
_SCRIPT = (
    f'for file in "$@"; do printf "{_HEAD}%s\\n" "$file"; '
    f'if [ -d "$file" ]; then stat -c %d:%i "$file"; elif [ -e "$file" ]; then cat "$file"; fi; done; echo "{_HEAD}end"'
)
# Linux makes these with every network name space where the module is loaded (ip-sysctl: fb_tunnels_only_for_init_net);
# they are down, have no route, and only CAP_NET_ADMIN could change that.
_FALLBACK_DEVICES = frozenset(
    ("tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0")
)
_CONFIG_KEYS = (
    *("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Hostname", "Healthcheck", "StopSignal", "Tty"),
    *("OpenStdin", "StdinOnce", "ExposedPorts"),
)
_NETWORK_KEYS = ("Name", "Driver", "Internal", "Attachable")


@dataclass(frozen=True)
class Directory:
    """A directory outside, and where it would be inside."""

    path: str
    device: int
    inode: int


def look_inside(directories: Iterable[Directory] = ()) -> list[str]:
    """Return the command whose output `inside_problems` reads."""
    return ["/bin/sh", "-c", _SCRIPT, "sh", *_FILES, *(each.path for each in directories)]


def refuse(what: str, problems: list[str], gone: str = "The sandbox was removed before any code ran in it.") -> None:
    """Raise `LaunchError` with every problem, if there is any; `gone` says what was done about it."""
    if problems:
        raise LaunchError(
            f"The engine did not make {what} as it was asked to: {'; '.join(problems)}. {gone} Use an engine that does "
            "(Docker Engine 20.10 or later was seen to)."
        )


def container_problems(asked: Document, engine: Mapping[str, Any]) -> list[str]:
    """Compare a document with what the engine's inspect says (GET /containers/{id}/json) once it runs."""
    if not (engine.get("State") or {}).get("Running"):
        return [f"its container does not run ({container_ending(engine)})"]
    problems = []
    if engine.get("Image") != asked["Image"]:
        problems.append(f"it runs the image {engine.get('Image')} in place of {asked['Image']}")
    config = engine.get("Config") or {}
    problems += _differences(_CONFIG_KEYS, asked, config)
    if config.get("Volumes"):
        problems.append(_differs("Volumes", {}, config["Volumes"]))
    labels = config.get("Labels") or {}
    problems += [_differs(f"Labels.{k}", v, labels.get(k)) for k, v in asked["Labels"].items() if labels.get(k) != v]
    host, wanted = engine.get("HostConfig") or {}, asked["HostConfig"]
    problems += [
        _differs(key, wanted[key], host.get(key)) for key in wanted if not _same(key, wanted[key], host.get(key))
    ]
    return problems + _mount_problems(wanted["Mounts"], engine.get("Mounts") or [], wanted["Tmpfs"])


def network_problems(asked: Document, engine: Mapping[str, Any]) -> list[str]:
    """Tell whether it is in the one network that was asked for, and publishes nothing but on 127.0.0.1."""
    settings = engine.get("NetworkSettings") or {}
    mode = asked["HostConfig"]["NetworkMode"]
    networks = sorted(settings.get("Networks") or {})
    problems = [] if networks == [mode] else [f"it is in the networks {networks} in place of {mode!r}"]
    ports = {port: bound for port, bound in (settings.get("Ports") or {}).items() if bound}
    wanted = asked["HostConfig"]["PortBindings"]
    if sorted(ports) != sorted(wanted):
        problems.append(f"it publishes {sorted(ports)} in place of {sorted(wanted)}")
    for port, bound in ports.items():
        addresses = [each.get("HostIp") for each in bound]
        if addresses != ["127.0.0.1"]:
            problems.append(f"port {port} is published on {addresses} in place of 127.0.0.1 only")
            continue
        given = wanted.get(port, [{}])[0].get("HostPort")
        if given and bound[0].get("HostPort") != given:
            problems.append(f"port {port} is published as {bound[0].get('HostPort')} in place of {given}")
    return problems


def gateway_problems(
    asked: Document, engine: Mapping[str, Any], output: str, directories: Iterable[Directory]
) -> list[str]:
    """All of that for a gateway, whether it is a start's or comes back; `output` is what `look_inside` printed."""
    problems = container_problems(asked, engine) + network_problems(asked, engine)
    return problems + inside_problems(asked, output, directories)


def own_network_problems(asked: Document, engine: Mapping[str, Any], kernel: Mapping[str, Any]) -> list[str]:
    """Compare a kernel's own network with what the engine's inspects say of it (GET /networks/{id}) and of the kernel.

    It must be the very one that the kernel is in, and nobody else may be in it.
    """
    problems = [_differs(key, asked[key], engine.get(key)) for key in _NETWORK_KEYS if asked[key] != engine.get(key)]
    for key in ("Options", "Labels"):  # engines and their configuration add some of their own
        found = engine.get(key) or {}
        problems += [_differs(f"{key}.{k}", v, found.get(k)) for k, v in asked[key].items() if found.get(k) != v]
    there = sorted(engine.get("Containers") or {})
    if there != [kernel["Id"]]:
        problems.append(f"the containers {there} are in it in place of the kernel's alone")
    joined = ((kernel.get("NetworkSettings") or {}).get("Networks") or {}).get(asked["Name"]) or {}
    if joined.get("NetworkID") != engine.get("Id"):
        problems.append(f"the kernel is in {joined.get('NetworkID')} in place of {engine.get('Id')}")
    return [f"of its network: {each}" for each in problems]


def published_ports(engine: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the gateway's five ports on the host, in order; raises `LaunchError` where they are not all there."""
    ports = (engine.get("NetworkSettings") or {}).get("Ports") or {}
    try:
        return tuple(int(ports[f"{inside}/tcp"][0]["HostPort"]) for inside in GATEWAY_PORTS)
    except (KeyError, IndexError, TypeError, ValueError):
        raise LaunchError(
            "The engine does not publish the gateway's ports; stop the sandbox and start it again."
        ) from None


def inside_problems(
    asked: Document,
    output: str,
    directories: Iterable[Directory] = (),
    hidden: Iterable[Directory] = (),
    *,
    release: str = "",
) -> list[str]:
    """Read what `look_inside` printed in one of the containers.

    The `directories` must be the very ones that were checked outside, and in the place of the `hidden` another. Under a
    runtime of the policy's whose system inside is not the engine's, whose `release` that is, seccomp and mounts are not
    asked about: gVisor and virtual machines do not tell of them as Linux does. A runtime's name says nothing.

    Raises `LaunchError` where it is not all there: then nothing is known of the container, right or wrong.
    """
    files = _sections(output)
    if "end" not in files:
        raise _unseen(asked, output)
    own_kernel = bool(asked["HostConfig"].get("Runtime") and release and files.get(_RELEASE) != [release])
    problems = _status_problems(asked, files.get("/proc/1/status", []), own_kernel=own_kernel)
    if asked["Labels"][ROLE] == "kernel":
        problems += _device_problems(files, others=0 if asked["HostConfig"]["NetworkMode"] == "none" else 1)
    if not own_kernel:
        problems += _place_problems(asked, files.get("/proc/mounts", []))
    for each in directories:
        found = "".join(files.get(each.path, [])) or "unknown"
        if found != f"{each.device}:{each.inode}":
            problems.append(
                f"{each.path} inside is not the directory that was checked "
                f"(device and inode {found} in place of {each.device}:{each.inode})"
            )
    for each in hidden:
        found = "".join(files.get(each.path, []))
        if found in ("", f"{each.device}:{each.inode}"):
            problems.append(f"{each.path}, with the keys of a docker compose kernel, is not hidden inside")
    return problems


def _status_problems(asked: Document, lines: list[str], *, own_kernel: bool) -> list[str]:
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    uid, _, gid = asked["User"].partition(":")
    none = ["0000000000000000"]
    wanted = {"Uid": [uid] * 4, "Gid": [gid] * 4, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapInh": none}
    if not own_kernel:
        wanted |= {"CapAmb": none, "NoNewPrivs": ["1"], "Seccomp": ["2"]}
    return [
        f"/proc/1/status says {key} {' '.join(status.get(key, ['nothing']))} in place of {' '.join(value)}"
        for key, value in wanted.items()
        if status.get(key) != value
    ]


def _device_problems(files: Mapping[str, list[str]], *, others: int) -> list[str]:
    """Check that there is loopback, with just so many other devices, and that no route leads over yet another."""
    devices = {line.partition(":")[0].strip() for line in files.get("/proc/net/dev", [])[2:]}
    problems = []
    beside = devices - {"lo"} - _FALLBACK_DEVICES
    if "lo" not in devices or len(beside) != others:
        problems.append(f"the network devices inside are {sorted(devices)} in place of lo{' and one other' * others}")
    routed = {line.split()[0] for line in files.get("/proc/net/route", [])[1:] if line.strip()}
    routed |= {line.split()[-1] for line in files.get("/proc/net/ipv6_route", []) if line.strip()}
    if routed - {"lo"} - beside:
        problems.append(f"there are routes over {sorted(routed - {'lo'} - beside)} inside")
    return problems


def _place_problems(asked: Document, lines: list[str]) -> list[str]:
    """Check that the root is read-only and that each writable place is a tmpfs with the size and flags asked for."""
    mounts = {}
    for line in lines:
        fields = line.split()
        if len(fields) >= 4:
            mounts[fields[1]] = (fields[2], set(fields[3].split(",")))  # a later line lies over an earlier one
    problems = []
    if "ro" not in mounts.get("/", ("", set()))[1]:
        problems.append("the root file system is not read-only inside")
    places = dict(asked["HostConfig"]["Tmpfs"])
    for mount in asked["HostConfig"]["Mounts"]:
        if mount["Type"] == "volume":
            options = mount["VolumeOptions"]["DriverConfig"]["Options"]["o"]
            places[mount["Target"]] = f"{options},ro" if mount["ReadOnly"] else options
    for path, options in places.items():
        kind, found = mounts.get(path, ("nothing", set()))
        wanted = set(options.split(","))
        # where nothing can be put, the engine drops the flags that say what could be done with it
        expected = wanted & ({"ro"} if "ro" in wanted else {"nosuid", "nodev", "noexec"})
        expected |= {f"size={int(each[5:]) // 1024}k" for each in wanted if each.startswith("size=")}
        if kind != "tmpfs" or not expected <= found:
            problems.append(
                f"{path} is {kind} with {sorted(found & expected)} in place of tmpfs with {sorted(expected)}"
            )
    return problems


def _unseen(asked: Document, output: str) -> LaunchError:
    """Tell what came in place of the whole: the engine sends its own words where it cannot run a command."""
    if output.startswith(_HEAD):
        why = (
            f"what looked was cut off, as no further process could be started (limits.pids is "
            f"{asked['HostConfig']['PidsLimit']}) or the engine ended. See the engine's log and try again."
        )
    elif said := " ".join(output.split()):
        why = (
            f"the engine could run nothing in it ({said[:300]}). See the engine's log and start the engine anew; where "
            "/bin/sh is missed, use an image that has it, cat and stat."
        )
    else:
        why = "the engine told nothing of what was run in it. See the engine's log and try again."
    return LaunchError(
        f"The {asked['Labels'][ROLE]}'s container could not be looked into, so it was removed before any code ran in "
        f"it: {why}"
    )


def _sections(output: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in output.splitlines():
        if line.startswith(_HEAD):
            sections[line.removeprefix(_HEAD)] = []
        elif sections:
            sections[list(sections)[-1]].append(line)
    return sections


def _mount_problems(asked: list[Document], found: list[dict[str, Any]], tmpfs: Mapping[str, str]) -> list[str]:
    """Check what is really mounted: an image's volumes or an engine's own would show here."""
    wanted = {each["Target"]: (each["Type"], each["Source"], not each["ReadOnly"]) for each in asked}
    there = {
        each.get("Destination"): (
            each.get("Type"),
            each.get("Name") if each.get("Type") == "volume" else each.get("Source"),
            each.get("RW"),
        )
        for each in found
        if not (each.get("Type") == "tmpfs" and each.get("Destination") in tmpfs)
    }
    return [] if there == wanted else [f"it has the mounts {there} in place of {wanted}"]


def _differences(keys: Iterable[str], asked: Document, found: Mapping[str, Any]) -> list[str]:
    return [
        _differs(key, asked.get(key), found.get(key)) for key in keys if not _same(key, asked.get(key), found.get(key))
    ]


def _same(key: str, asked: Any, found: Any) -> bool:
    if key == "Ulimits":  # the daemon's own default limits are added to ours
        limits = {each["Name"]: (each["Soft"], each["Hard"]) for each in found or []}
        return all(limits.get(each["Name"]) == (each["Soft"], each["Hard"]) for each in asked)
    if key == "Mounts":
        return _contains(asked, found)
    if key == "DeviceRequests" and asked:
        return _contains(asked, found)
    if isinstance(asked, list) and isinstance(found, list) and key not in ("Entrypoint", "Cmd"):
        return sorted(map(repr, asked)) == sorted(map(repr, found))
    return bool(asked == found) or (_nothing(asked) and _nothing(found))


def _contains(asked: Any, found: Any) -> bool:
    """Whether `found` says all that was asked; engines add fields of their own, and leave out what is nothing."""
    if isinstance(asked, dict):
        return isinstance(found, dict) and all(_contains(value, found.get(key)) for key, value in asked.items())
    if isinstance(asked, list):
        return isinstance(found, list) and len(asked) == len(found) and all(map(_contains, asked, found))
    return bool(asked == found) or (_nothing(asked) and _nothing(found))


def _nothing(value: Any) -> bool:
    """Engines write "not set" as null, zero, false or empty, each as it likes."""
    return value is None or value in ("", 0, False) or value in ([], {})


def _differs(key: str, asked: Any, found: Any) -> str:
    return f"{key} is {_short(found)} in place of {_short(asked)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
