"""What is refused: every way in which an engine could have done something else than it was asked to."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import LaunchError
from bridge.launchers.docker import verification
from bridge.launchers.docker.document import Document, Documents, Facts, documents
from bridge.launchers.docker.verification import Directory
from bridge.policy import Egress, SandboxSpec, Workspace

WORKSPACE = Workspace(Path("/users/alice/project"), "ro", device=66, inode=1234)


@pytest.fixture
def asked(spec: SandboxSpec, facts: Facts) -> Document:
    return documents(dataclasses.replace(spec, workspace=WORKSPACE, runtime="runc"), facts).kernel


@pytest.fixture
def gateway(spec: SandboxSpec, facts: Facts) -> Document:
    return documents(spec, facts).gateway


@pytest.fixture
def reaching(spec: SandboxSpec, facts: Facts) -> Documents:
    """With a host that may be reached."""
    return documents(dataclasses.replace(spec, egress=(Egress(host="index.example", port=443),)), facts)


def other_than(value: Any) -> Any:
    """Something else of the same kind, and never "nothing" where "nothing" was asked for."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x" if value else "host"
        case list():
            return value[1:] if value else ["/dev/kvm"]
        case dict():
            return {"/else": "where"} if not value else {key: other_than(each) for key, each in value.items()}
    raise AssertionError(f"say here how {value!r} could be something else")


def test_an_engine_that_did_all_of_it_is_accepted(asked: Document, gateway: Document, engine: Any) -> None:
    for document in (asked, gateway):
        assert verification.container_problems(document, engine.inspect(document)) == []
        assert verification.network_problems(document, engine.inspect(document)) == []
    verification.refuse("lab", [])


def host_keys() -> list[str]:
    from bridge.launchers.docker.document import _sealed  # noqa: PLC0415

    made = _sealed(network="none", memory=1, cpus=1, pids=1, shm=1, log=1, mounts=[], tmpfs={})
    return [*made, "Runtime"]


@pytest.mark.parametrize("key", host_keys())
def test_each_setting_that_the_engine_changed_is_refused(key: str, asked: Document, engine: Any) -> None:
    assert set(host_keys()) == set(asked["HostConfig"])
    said = engine.inspect(asked)
    said["HostConfig"][key] = other_than(asked["HostConfig"][key])
    assert any(key in problem for problem in verification.container_problems(asked, said))


@pytest.mark.parametrize("key", [key for key in host_keys() if key not in ("Binds", "Tmpfs", "Mounts")])
def test_each_setting_that_the_engine_left_out_is_refused(key: str, asked: Document, engine: Any) -> None:
    said = engine.inspect(asked)
    del said["HostConfig"][key]
    problems = verification.container_problems(asked, said)
    # where nothing was asked for, an engine may say nothing
    assert bool(problems) is bool(asked["HostConfig"][key])


@pytest.mark.parametrize(
    "key",
    [
        *("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Hostname", "Healthcheck", "StopSignal", "Tty"),
        *("OpenStdin", "StdinOnce"),
    ],
)
def test_each_part_of_the_command_that_the_engine_changed_is_refused(key: str, asked: Document, engine: Any) -> None:
    said = engine.inspect(asked)
    said["Config"][key] = other_than(asked[key])
    assert any(key in problem for problem in verification.container_problems(asked, said))


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(said: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for each in parents:
            said = said[each]
        said[last] = value

    return apply


@pytest.mark.parametrize(
    ("tampered", "word"),
    [
        (change("Image", "sha256:" + "cd" * 32), "image"),
        (change("State", {"Running": False, "ExitCode": 2, "Status": "exited"}), "does not run"),
        (change("Config/Volumes", {"/data": {}}), "Volumes"),
        (change("Config/Labels", {}), "Labels"),
        (change("HostConfig/Binds", ["/:/host"]), "Binds"),
        (change("Mounts", []), "mounts"),
        (
            lambda said: said["Mounts"].append({"Type": "volume", "Name": "v", "Destination": "/data", "RW": True}),
            "/data",
        ),
        (lambda said: said["Mounts"][1].update(RW=True), "mounts"),
        (lambda said: said["Mounts"][1].update(Source="/etc"), "mounts"),
        (lambda said: said["HostConfig"]["Mounts"][0]["VolumeOptions"].pop("DriverConfig"), "Mounts"),
    ],
)
def test_another_container_than_the_one_asked_for_is_refused(
    tampered: Callable[[dict[str, Any]], None], word: str, asked: Document, engine: Any
) -> None:
    said = engine.inspect(asked)
    tampered(said)
    assert any(word in problem for problem in verification.container_problems(asked, said))


def test_limits_that_the_daemon_adds_of_its_own_are_fine(asked: Document, engine: Any) -> None:
    said = engine.inspect(asked)
    said["HostConfig"]["Ulimits"].append({"Name": "nproc", "Soft": 1, "Hard": 1})
    assert verification.container_problems(asked, said) == []


@pytest.mark.parametrize(
    "bound",
    [
        [{"HostIp": "0.0.0.0", "HostPort": "3277"}],
        [{"HostIp": "", "HostPort": "3277"}],
        [{"HostIp": "127.0.0.1", "HostPort": "3277"}, {"HostIp": "::", "HostPort": "3277"}],
        [],
        None,
    ],
)
def test_a_port_published_anywhere_but_on_loopback_is_refused(bound: Any, gateway: Document, engine: Any) -> None:
    said = engine.inspect(gateway)
    said["NetworkSettings"]["Ports"]["5002/tcp"] = bound
    assert verification.network_problems(gateway, said)


def test_a_sixth_port_is_refused(gateway: Document, engine: Any) -> None:
    said = engine.inspect(gateway)
    said["NetworkSettings"]["Ports"]["22/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": "22"}]
    assert verification.network_problems(gateway, said)


def test_a_gateway_that_came_back_on_another_port_is_refused(gateway: Document, engine: Any) -> None:
    gateway["HostConfig"]["PortBindings"]["5001/tcp"][0]["HostPort"] = "4000"
    assert verification.network_problems(gateway, engine.inspect(gateway))


@pytest.mark.parametrize("networks", [{"bridge": {}}, {"none": {}, "bridge": {}}, {}])
def test_a_kernel_in_any_network_is_refused(networks: Any, asked: Document, engine: Any) -> None:
    said = engine.inspect(asked)
    said["NetworkSettings"]["Networks"] = networks
    assert verification.network_problems(asked, said)


def test_the_ports_are_read_back_in_the_channels_order(gateway: Document, engine: Any) -> None:
    said = engine.inspect(gateway)
    for number, bound in enumerate(said["NetworkSettings"]["Ports"].values()):
        bound[0]["HostPort"] = str(4000 + number)
    assert verification.published_ports(said) == (4000, 4001, 4002, 4003, 4004)


def test_ports_that_are_not_all_there_are_an_error_and_not_a_guess() -> None:
    with pytest.raises(LaunchError, match="ports"):
        verification.published_ports({"NetworkSettings": {"Ports": {"5001/tcp": [{"HostPort": "1"}]}}})


@pytest.fixture
def opened(spec: SandboxSpec, facts: Facts) -> Documents:
    return documents(dataclasses.replace(spec, network="open"), facts)


def own_network(opened: Documents, engine: Any) -> tuple[Document, dict[str, Any], dict[str, Any]]:
    """The network that is asked for, and what a faithful engine says of it and of the kernel in it."""
    assert opened.network is not None
    kernel = {**engine.inspect(opened.kernel), "Id": "k" * 64}
    kernel["NetworkSettings"]["Networks"] = {opened.network["Name"]: {"NetworkID": "n" * 64}}
    network = copy.deepcopy(opened.network)
    return opened.network, network | {"Id": "n" * 64, "Containers": {"k" * 64: {}}, "Scope": "local"}, kernel


def test_a_network_of_the_kernels_own_is_accepted_with_what_an_engine_adds(opened: Documents, engine: Any) -> None:
    asked, network, kernel = own_network(opened, engine)
    network["Options"]["com.docker.network.driver.mtu"] = "1400"
    assert verification.own_network_problems(asked, network, kernel) == []
    assert verification.network_problems(opened.kernel, kernel) == []


@pytest.mark.parametrize(
    ("tampered", "word"),
    [
        (change("Driver", "host"), "Driver"),
        (lambda said: said.update(Internal=True), "Internal"),
        (lambda said: said.update(Attachable=True), "Attachable"),
        (change("Name", "bridge"), "Name"),
        (change("Options", {}), "enable_icc"),
        (change("Options/com.docker.network.bridge.enable_icc", "true"), "enable_icc"),
        (change("Labels", None), "Labels"),
        (change("Containers", {}), "in place of the kernel's alone"),
        (change(f"Containers/{'x' * 64}", {}), "in place of the kernel's alone"),
        (change("Id", "m" * 64), "the kernel is in"),
    ],
)
def test_another_network_than_the_kernels_own_is_refused(
    tampered: Callable[[dict[str, Any]], None], word: str, opened: Documents, engine: Any
) -> None:
    asked, network, kernel = own_network(opened, engine)
    tampered(network)
    assert any(word in problem for problem in verification.own_network_problems(asked, network, kernel))


@pytest.mark.parametrize("networks", [{"bridge": {}}, {"none": {}}, {}])
def test_an_open_kernel_in_another_network_than_its_own_is_refused(
    networks: Any, opened: Documents, engine: Any
) -> None:
    asked, network, kernel = own_network(opened, engine)
    kernel["NetworkSettings"]["Networks"] = networks
    assert verification.network_problems(opened.kernel, kernel)
    assert verification.own_network_problems(asked, network, kernel)


ETH0 = "    lo:       0\n  eth0:       0"
ROUTE = "Gateway\neth0\t00000000\t010012AC\n"


def test_an_open_kernel_has_loopback_and_one_other_device_inside(opened: Documents, engine: Any) -> None:
    output = engine.inside(opened.kernel).replace("Gateway\n", ROUTE)
    assert verification.inside_problems(opened.kernel, output.replace("    lo:       0", ETH0)) == []
    with_tunnel = f"{ETH0}\n tunl0:       0"
    assert verification.inside_problems(opened.kernel, output.replace("    lo:       0", with_tunnel)) == []
    for wrong in ("    lo:       0", "  eth0:       0", f"{ETH0}\n  eth1:       0"):
        assert verification.inside_problems(opened.kernel, output.replace("    lo:       0", wrong))
    elsewhere = output.replace("    lo:       0", ETH0).replace("\neth0\t0", "\neth1\t0")
    assert any("eth1" in each for each in verification.inside_problems(opened.kernel, elsewhere))


def test_gpus_that_the_engine_did_not_ask_for_are_found_missing(spec: SandboxSpec, facts: Facts, engine: Any) -> None:
    asked = documents(dataclasses.replace(spec, gpus=2), facts).kernel
    said = engine.inspect(asked)
    said["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] = []  # as some engines have it
    assert verification.container_problems(asked, said) == []
    for wrong in (None, [], [{**said["HostConfig"]["DeviceRequests"][0], "Count": 1}]):
        said["HostConfig"]["DeviceRequests"] = wrong
        assert any("DeviceRequests" in each for each in verification.container_problems(asked, said))


DIRECTORY = Directory("/users/alice/project", device=66, inode=1234)
INSIDE = ("/users/alice/project", "66:1234")


def test_an_inside_as_it_should_be_is_accepted(asked: Document, engine: Any) -> None:
    assert verification.inside_problems(asked, engine.inside(asked, INSIDE), [DIRECTORY]) == []


@pytest.mark.parametrize(
    ("was", "now", "word"),
    [
        ("CapBnd:\t0000000000000000", "CapBnd:\t00000000a80425fb", "CapBnd"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000000001", "CapEff"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
        ("NoNewPrivs:\t1\n", "", "NoNewPrivs"),
        ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
        ("Uid:\t234567\t234567", "Uid:\t0\t234567", "Uid"),
        ("    lo:       0", "    lo:       0\n  eth0:       0", "eth0"),
        ("    lo:       0", "  eth0:       0", "eth0"),
        ("Gateway\n", "Gateway\neth0\t00000000\t010011AC\n", "routes"),
        ("overlay / overlay ro", "overlay / overlay rw", "read-only"),
        ("tmpfs /home/kernel tmpfs", "overlay /home/kernel overlay", "/home/kernel"),
        ("size=262144k", "size=9999999k", "/tmp"),
        ("tmpfs /run/kernel-bridge tmpfs", "ext4 /run/kernel-bridge ext4", "/run/kernel-bridge"),
        ("noexec", "exec", "/tmp"),
        ("66:1234", "66:1235", "/users/alice/project"),
        ("66:1234\n", "", "/users/alice/project"),
        ("==> /proc/1/status", "==> elsewhere", "CapBnd"),
    ],
)
def test_an_inside_that_is_not_sealed_is_refused(was: str, now: str, word: str, asked: Document, engine: Any) -> None:
    output = engine.inside(asked, INSIDE)
    assert was in output
    problems = verification.inside_problems(asked, output.replace(was, now), [DIRECTORY])
    assert any(word in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("", "the engine told nothing of what was run in it"),
        (
            "OCI runtime exec failed: no such file or directory: unknown\r\n",
            r"could run nothing in it \(OCI runtime exec failed: no such file or directory: unknown\)\. See",
        ),
        ("==> /proc/1/status\n", r"cut off, as no further process could be started \(limits\.pids is 512\)"),
        ("all but the end", "cut off"),
    ],
)
def test_an_inside_that_was_not_told_is_not_taken_for_a_wrong_one(
    told: str, why: str, asked: Document, gateway: Document, engine: Any
) -> None:
    if told == "all but the end":
        told = engine.inside(asked).removesuffix("==> end\n")
    with pytest.raises(
        LaunchError, match=f"^The kernel's container could not be looked into, so it was removed .*{why}"
    ):
        verification.inside_problems(asked, told)
    with pytest.raises(LaunchError, match=r"^The gateway's container"):
        verification.inside_problems(gateway, told)


@pytest.mark.parametrize(("found", "right"), [("99:1", True), ("66:77", False), ("", False)])
def test_what_is_to_be_hidden_in_the_workspace_must_not_be_seen_inside(
    found: str,
    right: bool,  # noqa: FBT001
    asked: Document,
    engine: Any,
) -> None:
    keys = Directory("/users/alice/project/.kernel-bridge", device=66, inode=77)
    output = engine.inside(asked, INSIDE, (keys.path, found))
    problems = verification.inside_problems(asked, output, [DIRECTORY], [keys])
    wrong = "/users/alice/project/.kernel-bridge, with the keys of a docker compose kernel, is not hidden inside"
    assert problems == ([] if right else [wrong])


def test_the_gateway_has_its_network_and_is_as_sealed_as_the_kernel_otherwise(gateway: Document, engine: Any) -> None:
    output = engine.inside(gateway).replace("    lo:       0", "    lo:       0\n  eth0:       0")
    assert verification.inside_problems(gateway, output) == []
    for was, now in (("CapBnd:\t0", "CapBnd:\tf"), ("overlay ro", "overlay rw"), ("size=64k", "size=640k")):
        assert verification.inside_problems(gateway, output.replace(was, now))


def test_the_volume_with_the_proxy_must_be_one_that_the_kernel_can_only_read(reaching: Documents, engine: Any) -> None:
    assert verification.inside_problems(reaching.kernel, engine.inside(reaching.kernel)) == []
    output = engine.inside(reaching.kernel)
    writable = output.replace("tmpfs /run/kernel-bridge-egress tmpfs ro,", "tmpfs /run/kernel-bridge-egress tmpfs rw,")
    assert writable != output
    (problem,) = verification.inside_problems(reaching.kernel, writable)
    assert "/run/kernel-bridge-egress is tmpfs with ['size=64k'] in place of tmpfs with ['ro', 'size=64k']" in problem
    said = engine.inspect(reaching.kernel)
    said["Mounts"][1]["RW"] = True
    assert any("mounts" in each for each in verification.container_problems(reaching.kernel, said))


def test_a_gateway_with_another_list_than_the_one_asked_for_is_refused(reaching: Documents, engine: Any) -> None:
    said = engine.inspect(reaching.gateway)
    said["Config"]["Cmd"][-1] = said["Config"]["Cmd"][-1].replace("index.example", "evil.example")
    assert any("Cmd" in each for each in verification.container_problems(reaching.gateway, said))
    kernel = engine.inspect(reaching.kernel)
    kernel["Config"]["Labels"]["io.kernel-bridge.egress"] = ""
    assert any("egress" in each for each in verification.container_problems(reaching.kernel, kernel))


def test_tunnel_devices_that_linux_makes_in_every_name_space_are_no_network(asked: Document, engine: Any) -> None:
    output = engine.inside(asked, INSIDE).replace("    lo:       0", "    lo:       0\n  tunl0:       0\n  sit0:  0")
    assert verification.inside_problems(asked, output, [DIRECTORY]) == []


@pytest.mark.parametrize(
    ("runtime", "inside", "own"),
    [
        ("runsc", "4.4.0", True),
        ("sealed-vm", "6.1.2", True),
        ("runsc", "", True),  # Linux always tells it
        ("kata", "6.12.1-host", False),
        ("io.containerd.runsc.v1", "6.12.1-host", False),
        (None, "4.4.0", False),
    ],
)
def test_what_has_an_operating_system_of_its_own_is_not_asked_about_seccomp_but_about_capabilities_whatever_its_name(
    *, runtime: str | None, inside: str, own: bool, spec: SandboxSpec, facts: Facts, engine: Any
) -> None:
    asked = documents(dataclasses.replace(spec, runtime=runtime), facts).kernel
    system = f"==> /proc/sys/kernel/osrelease\n{inside}\n==> end" if inside else "==> end"
    output = engine.inside(asked).replace("==> end", system)
    assert verification.inside_problems(asked, output, release="6.12.1-host") == []
    output = output.replace("NoNewPrivs:\t1\n", "").replace("Seccomp:\t2", "Seccomp:\t0")
    output = output.replace("overlay / overlay ro", "overlay / overlay rw")
    problems = verification.inside_problems(asked, output, release="6.12.1-host")
    assert (problems == []) is own
    assert verification.inside_problems(asked, output), "an engine that does not tell its own is no reason to trust it"
    assert verification.inside_problems(asked, output.replace("CapBnd:\t0", "CapBnd:\tf"), release="6.12.1-host")


def test_the_refusal_lists_every_problem() -> None:
    with pytest.raises(LaunchError, match=r"lab.*first; second"):
        verification.refuse("lab", ["first", "second"])


def test_the_look_inside_names_each_directory_as_an_argument_and_not_in_the_script() -> None:
    command = verification.look_inside([Directory("/a b/$(id)", 1, 2)])
    assert command[:2] == ["/bin/sh", "-c"]
    assert "$(id)" not in command[2]
    assert command[-1] == "/a b/$(id)"
