"""Whatever a policy says and whatever is asked, what reaches the engine is never more than the policy allows.

Policies are drawn as text and read as files are; the judge below knows the Engine API's documents and the policy's
values, and nothing of how one becomes the other.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from bridge.errors import PolicyError, PolicyNotEnforceable, PolicyRefused
from bridge.launchers.docker import connections
from bridge.launchers.docker.document import Document, Documents, Facts, documents
from bridge.policy import ImageRule, Policy, SandboxRequest, SandboxSpec, decide, find, load, parse, wider_than
from bridge.policy.units import GiB, KiB, MiB

PIN, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
EGRESS = [
    {"host": host, "port": port, "allow_addresses": ranges}
    for host, port in (("pypi.example.org", 443), ("pypi.example.org", 8443), ("10.1.2.3", 443))
    for ranges in ([], ["10.0.0.0/8"], ["10.1.0.0/16", "fd00::/8"])
]
UPSTREAM = "http://proxy.example.org:3128"
FULL = {
    "kernel-bridge/python": "docker.io/kernel-bridge/python",
    "python": "docker.io/library/python",
    "docker.io/python": "docker.io/library/python",
    "registry.example.org:5000/team/kernel": "registry.example.org:5000/team/kernel",
}
"""Names as policies and requests write them → as the engine has them."""
VARIABLES = ("TZ", "LANG", "API_TOKEN", "MY_PATH")
NAMES = ("lab", "lab-2")
VALUE = "hush-7f3a"

# What no policy and no request can change, in the kernel's document and in the gateway's.
NEVER = {
    "Privileged": False,
    "CapDrop": ["ALL"],
    "CapAdd": [],
    "SecurityOpt": ["no-new-privileges:true"],
    "ReadonlyRootfs": True,
    "Binds": [],
    "VolumesFrom": [],
    "Devices": [],
    "DeviceCgroupRules": [],
    "GroupAdd": [],
    "Sysctls": {},
    "ExtraHosts": [],
    "Links": [],
    "IpcMode": "private",
    "PidMode": "",
    "UTSMode": "",
    "UsernsMode": "",
    "CgroupnsMode": "private",
    "CgroupParent": "",
    "PublishAllPorts": False,
    "AutoRemove": False,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "OomKillDisable": False,
}
ICC_OFF = {"com.docker.network.bridge.enable_icc": "false"}
MASKED = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/kallsyms"}
READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some directories, with a symlink out of one into another."""
    root = tmp_path_factory.mktemp("host").resolve()
    for name in ("a/app", "ab", "b"):
        (root / name).mkdir(parents=True)
    (root / "a" / "out").symlink_to(root / "b")
    return root


# -- what is drawn

PLACES = ("a", "a/app", "ab", "b", "a/out", "a/../b", "gone")
TAGS = (":3.13", ":3.12", ":evil", f"@{PIN}", f"@{OTHER}", ":*", "")
IMAGES = [f"{name}{tag}" for name in (*FULL, "evil.io/python", "docker.io.evil.io/python") for tag in TAGS]
ASKED: dict[str, list[dict[str, Any]]] = {
    "mounts": [{"workspace": place, "workspace_mode": mode} for place in PLACES for mode in ("ro", "rw")],
    "images": [{"image": image} for image in IMAGES],
    "network": [{}, *({"network": network} for network in ("none", "isolated", "open", "host", "container:x"))],
    "environment": [{"environment": {name: VALUE, "TZ": VALUE}} for name in (*VARIABLES, "LD_PRELOAD")],
    "egress": [{}, {"network": "none"}, {"network": "open"}],
    "upstream_proxy": [{}, {"network": "none"}, {"network": "open"}],
    "limits": [
        *({"memory": memory} for memory in (0, 64 * MiB, GiB, GiB + 1, 4 * GiB, 2**62)),
        *({"cpus": cpus} for cpus in (0, 0.1, 1, 1.001, 4, 1e6)),
    ],
}
"""What can be asked for of a setting that has few values: all of it; and around the ends of limits."""


def sizes(low: int, high: int) -> st.SearchStrategy[int]:
    """In bytes; round ones more often, and around the ends."""
    return st.one_of(st.sampled_from([low, high, high - 1]), st.integers(low // MiB or 1, high // MiB).map(MiB.__mul__))


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any]:
    memory = draw(sizes(64 * MiB, 8 * GiB))
    room = memory // 2
    home = draw(st.integers(MiB, room - 2 * MiB))
    tmp = draw(st.integers(MiB, room - home - MiB))
    shm = draw(st.integers(MiB, room - home - tmp))
    written = {"memory": memory, "home": home, "tmp": tmp, "shm": shm, "log": draw(sizes(16 * KiB, 8 * MiB))}
    return {name: f"{size}B" for name, size in written.items()} | {
        "cpus": draw(st.one_of(st.integers(1, 64), st.integers(1, 160).map(lambda tenths: tenths / 10))),
        "pids": draw(st.integers(32, 4096)),
    }


RULES = [
    {"repository": repository, "tags": tags, "digests": digests}
    for repository in FULL
    for tags in ([], ["*"], ["3.13"], ["3.12", "3.13"])
    for digests in ([], [PIN])
    if tags or digests
]
MOUNTS = [
    [
        {"source": f"ROOT/{source}", "mode": mode}
        for source, mode in zip(("a", "a/app", "ab"), modes, strict=True)
        if mode
    ]
    for modes in itertools.product((None, "ro", "rw"), repeat=3)
    if modes[:2] != ("rw", "ro")  # which a policy refuses
]
CHOICES: dict[str, list[Any]] = {
    "mounts": MOUNTS,
    "images": [[rule] for rule in RULES],
    "network": ["none", "isolated", "open"],
    "environment": [list(names) for count in range(4) for names in itertools.combinations(VARIABLES, count)],
    "egress": [[], *([each] for each in EGRESS)],
    "upstream_proxy": [None, UPSTREAM],
    "limits": [
        {"memory": memory, "home": "16MiB", "tmp": "8MiB", "shm": "8MiB", "cpus": cpus}
        for memory in ("64MiB", "1GiB", "4GiB")
        for cpus in (0.1, 1, 4)
    ],
}
"""The values of those settings."""

SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "images": st.lists(st.sampled_from(RULES), min_size=1, max_size=2),
    "network": st.sampled_from(CHOICES["network"]),
    "limits": limits(),
    "mounts": st.sampled_from(MOUNTS),
    "environment": st.sampled_from(CHOICES["environment"]),
    "gpus": st.sampled_from((0, 0, 1, 64)),
    "egress": st.lists(st.sampled_from(EGRESS), max_size=3, unique_by=lambda each: (each["host"], each["port"])),
    "upstream_proxy": st.none(),
    "runtime": st.sampled_from((None, "runsc", "kata")),
    "max_running": st.integers(1, 8),
}
"""Of a policy's `sandbox`, with `ROOT` where the test's directory is meant."""


def with_default(sandbox: dict[str, Any]) -> dict[str, Any]:
    first = sandbox["images"][0]
    part = ":3.13" if first["tags"] else f"@{PIN}"
    return sandbox | {"default_image": first["repository"] + part}


policies = st.fixed_dictionaries(SETTINGS).map(with_default)


@st.composite
def users(draw: st.DrawFn, system: dict[str, Any]) -> dict[str, Any]:
    """A user's policy below a system's: its values, but for one or two, or single limits."""
    own = {name: draw(SETTINGS[name]) for name in draw(st.sets(st.sampled_from(sorted(SETTINGS)), max_size=2))}
    if "limits" in own:
        names = draw(st.sampled_from((("cpus",), ("pids",), ("log",), tuple(own["limits"]))))
        own["limits"] = system["limits"] | {name: own["limits"][name] for name in names}
    return with_default(system | own)


@st.composite
def requests(draw: st.DrawFn, sandbox: dict[str, Any]) -> dict[str, Any]:
    """A request that is often within the policy, often at its ends, and often not."""
    memory, cpus = int(sandbox["limits"]["memory"].rstrip("B")), sandbox["limits"]["cpus"]
    asked = {
        "name": draw(st.sampled_from((*NAMES, *NAMES, "../x", "Lab"))),
        "image": draw(st.none() | st.sampled_from(IMAGES)),
        "network": draw(st.sampled_from((None, None, "none", "isolated", "open", "host", "container:x"))),
        "workspace": draw(st.none() | st.sampled_from((*PLACES, "..", ""))),
        "workspace_mode": draw(st.sampled_from(("ro", "rw"))),
        "memory": draw(
            st.none()
            | st.integers(min(64 * MiB, memory), memory)
            | st.sampled_from((memory, memory + 1, 64 * MiB, 2**62, 0, -1, True, float("inf")))
        ),
        "cpus": draw(
            st.none()
            | st.floats(0.1, max(0.1, cpus))
            | st.sampled_from((cpus, cpus + 0.001, 0.1, 1e9, 0, -1, True, float("nan"), float("inf")))
        ),
        "environment": draw(st.dictionaries(st.sampled_from((*VARIABLES, "LD_PRELOAD")), st.just(VALUE), max_size=2)),
    }
    # with eight values, of which some are wrong, hardly any request would be granted
    kept = draw(st.sets(st.sampled_from(sorted(asked)), min_size=1, max_size=3))
    return {"name": "lab"} | {name: value for name, value in asked.items() if name in kept}


def text(sandbox: dict[str, Any], root: Path) -> str:
    return json.dumps({"version": 1, "sandbox": sandbox}).replace("ROOT", str(root))


def request(asked: dict[str, Any], root: Path) -> SandboxRequest:
    paths = {"workspace": root / asked["workspace"]} if asked.get("workspace") is not None else {}
    return SandboxRequest(**(asked | paths))


def made(spec: SandboxSpec, facts: Facts) -> Documents:
    directory = Path("/run/user/7/kernel-bridge/0a1b2c3d") if spec.network == "none" else None
    return documents(spec, dataclasses.replace(facts, socket_directory=directory, engine_cpus=1024))


# -- the judge


def size_of(options: str) -> int:
    (size,) = [each.removeprefix("size=") for each in options.split(",") if each.startswith("size=")]
    return int(size)


def beyond_the_policy(policy: Policy, made: Documents, variables: set[str]) -> Iterator[str]:
    """Each way in which the documents are more than a policy allows."""
    kernel, gateway = made.kernel, made.gateway
    allowed, host = policy.sandbox, kernel["HostConfig"]
    home, tmp, shm = size_of(host["Tmpfs"]["/home/kernel"]), size_of(host["Tmpfs"]["/tmp"]), host["ShmSize"]
    amounts = {
        "memory": (host["Memory"], allowed.limits.memory),
        "swap": (host["MemorySwap"], host["Memory"]),  # the sum of both
        "cpus": (host["NanoCpus"], allowed.limits.cpus * 10**9),
        "pids": (host["PidsLimit"], allowed.limits.pids),
        "home": (home, allowed.limits.home),
        "tmp": (tmp, allowed.limits.tmp),
        "shm": (shm, allowed.limits.shm),
        "tmpfs together": (home + tmp + shm, host["Memory"] // 2),
        "log": (int(host["LogConfig"]["Config"]["max-size"]), allowed.limits.log),
        "other tmpfs": (
            sum(size_of(host["Tmpfs"][each]) for each in host["Tmpfs"].keys() - {"/home/kernel", "/tmp"}),
            MiB,
        ),
        "sockets": (sum(map(size_of, volumes(kernel))), MiB),
        "log files": (int(host["LogConfig"]["Config"]["max-file"]), 2),
    }
    # 0 and less mean "without any limit" to the engine
    yield from (name for name, (amount, most) in amounts.items() if not 0 < amount <= most)
    yield from _beyond_the_mounts(policy, kernel, gateway)
    yield from _beyond_the_network(policy, made)
    beside = gateway["HostConfig"]
    published = [each for bound in beside["PortBindings"].values() for each in bound]
    if any(each["HostIp"] != "127.0.0.1" for each in published) or len(published) > 5 or host["PortBindings"]:
        yield "ports"
    if published and beside["NetworkMode"] == "none":
        yield "ports without a network"
    yield from _beyond_the_egress(policy, kernel, gateway)
    if not variables <= set(allowed.environment):
        yield "variables"
    if host.get("Runtime") != allowed.runtime:
        yield "runtime"
    image = kernel["Labels"]["io.kernel-bridge.image"]
    if not any(_names(rule, image) for rule in allowed.images):
        yield f"image {image}"


def _beyond_the_network(policy: Policy, made: Documents) -> Iterator[str]:
    """And beyond the GPUs."""
    allowed, network = policy.sandbox, made.network
    host, beside = made.kernel["HostConfig"], made.gateway["HostConfig"]
    if host["NetworkMode"] != "none" and (allowed.network != "open" or network is None):
        yield "the kernel's network"
    if network and (host["NetworkMode"], network["Driver"], network["Options"]) != (network["Name"], "bridge", ICC_OFF):
        yield "the kernel's own network"
    if beside["NetworkMode"] != "none" and (allowed.network == "none" or beside["NetworkMode"] != "bridge"):
        yield "the gateway's network"
    if sum(each["Count"] for each in host["DeviceRequests"]) > allowed.gpus or beside["DeviceRequests"]:
        yield "GPUs"
    if any(each["Capabilities"] != [["gpu"]] or each["Count"] < 1 for each in host["DeviceRequests"]):
        yield "devices"


def _beyond_the_egress(policy: Policy, kernel: Document, gateway: Document) -> Iterator[str]:
    """What the gateway is told, and nobody else; a range within a listed one is not more than that."""
    options = gateway["Cmd"][3:]
    networked = gateway["HostConfig"]["NetworkMode"] == "bridge"
    told = json.loads(options[1]) if networked and options else {"allow": [], "upstream": None}
    if networked and options and options[0] != "--egress":
        yield "the gateway's arguments"
    listed = {(each.host, each.port): each.allow_addresses for each in policy.sandbox.egress}
    for host, port, ranges in told["allow"]:
        around = [ipaddress.ip_network(each) for each in listed.get((host, port), ())]
        within = [ipaddress.ip_network(each) for each in ranges]
        if (host, port) not in listed or not all(
            any(one[0] in two and one[-1] in two for two in around) for one in within
        ):
            yield f"egress to {host} {port}"
    upstream = policy.sandbox.upstream_proxy
    if told["allow"] and told["upstream"] != (["proxy.example.org", 3128] if upstream else None):
        yield "upstream proxy"
    if len(kernel["Cmd"]) != 3:
        yield "the kernel's arguments"


def _names(rule: ImageRule, image: str) -> bool:
    name = FULL[rule.repository]
    exactly = [*(f"{name}:{tag}" for tag in rule.tags), *(f"{name}@{digest}" for digest in rule.digests)]
    return image in exactly or ("*" in rule.tags and image.startswith(f"{name}:"))


def volumes(document: Document) -> list[str]:
    mounts = [each for each in document["HostConfig"]["Mounts"] if each["Type"] == "volume"]
    return [each["VolumeOptions"]["DriverConfig"]["Options"]["o"] for each in mounts]


def binds(document: Document) -> list[Document]:
    return [each for each in document["HostConfig"]["Mounts"] if each["Type"] != "volume"]


def _beyond_the_mounts(policy: Policy, kernel: Document, gateway: Document) -> Iterator[str]:
    for each in binds(kernel):
        above = [
            mount
            for mount in policy.sandbox.mounts
            if mount.source in (Path(each["Source"]), *Path(each["Source"]).parents)
        ]
        if not above or each["Source"] != each["Target"] or Path(each["Source"]).resolve() != Path(each["Source"]):
            yield f"mount {each['Source']}"
        if not each["ReadOnly"] and "rw" not in {mount.mode for mount in above}:
            yield f"mode of {each['Source']}"
    for each in [*binds(kernel), *binds(gateway)]:
        if each["Type"] != "bind" or each["BindOptions"] != {"Propagation": "rprivate", "NonRecursive": True}:
            yield f"how {each['Source']} is mounted"
    ways_out = 1 if "--egress" in gateway["Cmd"] else 0
    if len(volumes(kernel)) != 1 + ways_out or volumes(kernel) != volumes(gateway):
        yield "volumes"
    written = [
        each["Target"] for each in kernel["HostConfig"]["Mounts"] if each["Type"] == "volume" and not each["ReadOnly"]
    ]
    if written != ["/run/kernel-bridge"]:
        yield "volumes that the kernel can write"


def beyond_the_request(asked: dict[str, Any], root: Path, kernel: Document, gateway: Document) -> Iterator[str]:
    """Each way in which the documents are more than was asked for, or something else."""
    host = kernel["HostConfig"]
    if kernel["Labels"]["io.kernel-bridge.name"] != asked["name"] or asked["name"] not in NAMES:
        yield "name"
    if asked.get("memory") is not None and host["Memory"] != asked["memory"]:
        yield "memory"
    if asked.get("cpus") is not None and host["NanoCpus"] > asked["cpus"] * 10**9 + 0.5:
        yield "cpus"
    if asked.get("network") == "none" and gateway["HostConfig"]["NetworkMode"] != "none":
        yield "network"
    if asked.get("network") in ("none", "isolated") and host["NetworkMode"] != "none":
        yield "the kernel's network"
    workspace = asked.get("workspace")
    if [each["Source"] for each in binds(kernel)] != ([] if workspace is None else [str((root / workspace).resolve())]):
        yield "workspace"
    if asked.get("workspace_mode", "ro") != "rw" and not all(each["ReadOnly"] for each in binds(kernel)):
        yield "workspace's mode"
    name, _, rest = (asked.get("image") or "").partition("@")
    repository, _, tag = name.rpartition(":")
    wanted = f"{FULL.get(name)}@{rest}" if rest else f"{FULL.get(repository)}:{tag}"
    if name and kernel["Labels"]["io.kernel-bridge.image"] != wanted:
        yield "image"


def unsealed(document: Document, facts: Facts) -> Iterator[str]:
    """What is never negotiable and is not there."""
    host = document["HostConfig"]
    yield from (key for key, value in NEVER.items() if host[key] != value or type(host[key]) is not type(value))
    if not set(host["MaskedPaths"]) >= MASKED or not set(host["ReadonlyPaths"]) >= READ_ONLY:
        yield "masked and read-only paths"
    if not (0 < host["Memory"] == host["MemorySwap"]) or min(host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) <= 0:
        yield "limits"
    hard = {each["Name"]: each["Hard"] for each in host["Ulimits"]}
    if any(each["Soft"] > each["Hard"] for each in host["Ulimits"]) or (hard["core"], hard["msgqueue"]) != (0, 0):
        yield "ulimits"
    for options in [*host["Tmpfs"].values(), *volumes(document)]:
        if not {"nosuid", "nodev"} <= set(options.split(",")) or "nr_inodes=" not in options:
            yield f"tmpfs {options}"
    if document["Image"] != facts.image_id or document["User"] != f"{facts.uid}:{facts.gid}" or not facts.uid:
        yield "image or user"
    if document["Entrypoint"] + document["Cmd"][:2] != ["/opt/kernel/bin/python", "-I", "-S"]:
        yield "command"
    if document["Healthcheck"] != {"Test": ["NONE"]} or document["Tty"]:
        yield "what the image says"
    named = [each.partition("=")[0] for each in document["Env"]]
    if not set(facts.image_environment) <= set(named) or len(named) != len(set(named)):
        yield "the image's variables"


def judged(policy: Policy, asked: dict[str, Any], root: Path, facts: Facts) -> Documents | None:
    """Decide, translate and judge; None where the request was refused, which is never more than the policy."""
    try:
        spec = decide(policy, request(asked, root))
    except (PolicyRefused, PolicyNotEnforceable):
        return None
    result = made(spec, facts)
    orders = json.loads(connections.orders("key", spec.environment))
    assert {name: value for name, value in orders["environment"].items() if name in VARIABLES} == asked.get(
        "environment", {}
    )
    problems = [
        *beyond_the_policy(policy, result, {name for name, _ in spec.environment}),
        *beyond_the_request(asked, root, result.kernel, result.gateway),
        *unsealed(result.kernel, facts),
        *unsealed(result.gateway, facts),
    ]
    assert problems == []
    assert VALUE not in json.dumps(dataclasses.asdict(result))
    return result


# -- the properties


@given(data=st.data())
def test_nothing_beyond_the_policy_reaches_the_engine_whatever_is_asked(root: Path, facts: Facts, data: Any) -> None:
    sandbox = data.draw(policies)
    policy = parse(text(sandbox, root), origin="a drawn policy")
    granted = judged(policy, data.draw(requests(sandbox)), root, facts)
    event("granted" if granted else "refused")


@given(data=st.data())
def test_below_a_systems_policy_nothing_beyond_that_reaches_the_engine_either(
    root: Path, facts: Facts, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    ceiling = data.draw(policies)
    sandbox = data.draw(users(ceiling))
    machine, mine = root.parent / "system.yaml", root.parent / "mine.yaml"
    machine.write_text(text(ceiling, root))
    mine.write_text(text(sandbox, root))
    try:
        policy = find(mine, {}, system=machine)
    except PolicyError:
        event("not a policy below the system's")
        return
    asked = data.draw(requests(sandbox))
    result = judged(policy, asked, root, facts)
    event("granted" if result else "refused")
    if result:
        _hold_below(load(machine), policy, asked, result)


def beside(setting: str) -> dict[str, Any]:
    """The other settings: with nothing to reach a proxy would make no difference."""
    return {"images": RULES[2:3]} | ({"egress": EGRESS[:1]} if setting == "upstream_proxy" else {})


@pytest.mark.parametrize("setting", CHOICES)
def test_of_a_setting_with_few_values_each_is_tried_with_each_request_and_below_each_other(
    setting: str, root: Path, facts: Facts
) -> None:
    each = [
        parse(text(with_default(beside(setting) | {setting: value}), root), origin="one") for value in CHOICES[setting]
    ]
    results = {
        (policy, number): judged(policy, {"name": "lab"} | asked, root, facts)
        for policy in each
        for number, asked in enumerate(ASKED[setting])
    }
    assert None in results.values()
    assert any(results.values())
    for system, policy in itertools.product(each, each):
        if not wider_than(policy, system):
            for number, asked in enumerate(ASKED[setting]):
                if result := results[policy, number]:
                    _hold_below(system, policy, asked, result)


def _hold_below(system: Policy, policy: Policy, asked: dict[str, Any], result: Documents) -> None:
    """What a user's policy granted is not more than the system's policy either."""
    problems = [*beyond_the_policy(system, result, set(asked.get("environment", {})))]
    if system.sandbox.runtime is None and policy.sandbox.runtime == "runsc":
        problems.remove("runtime")  # which isolates more
    assert problems == []
    assert policy.sandbox.max_running <= system.sandbox.max_running
