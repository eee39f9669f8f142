"""The documents that the engine gets: what is in them, and that every field of a spec ends up in them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.launchers.docker import connections, owner
from bridge.launchers.docker.document import (
    Document,
    Facts,
    documents,
    egress_argument,
    gateway_document,
    reachable,
)
from bridge.policy import Egress, Limits, SandboxSpec, Workspace

WORKSPACE = Workspace(Path("/users/alice/project"), "ro", device=66, inode=1234)


def host(document: Document | None) -> dict[str, Any]:
    assert document is not None
    return dict(document["HostConfig"])


@pytest.fixture(params=["kernel", "gateway"])
def sealed(request: pytest.FixtureRequest, spec: SandboxSpec, facts: Facts) -> Document:
    made = documents(spec, facts)
    chosen = made.kernel if request.param == "kernel" else made.gateway
    assert chosen is not None
    return chosen


def test_what_is_never_negotiable_holds_for_the_kernel_and_for_the_gateway(sealed: Document) -> None:
    wanted = {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": [],
        "SecurityOpt": ["no-new-privileges:true"],
        "ReadonlyRootfs": True,
        "Binds": [],
        "Devices": [],
        "DeviceRequests": [],
        "GroupAdd": [],
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupnsMode": "private",
        "PublishAllPorts": False,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    }
    assert {key: sealed["HostConfig"][key] for key in wanted} == wanted
    assert sealed["HostConfig"]["MemorySwap"] == sealed["HostConfig"]["Memory"] > 0
    assert sealed["User"] == "234567:234567"


def test_the_image_has_no_say_in_how_it_is_run(sealed: Document) -> None:
    assert sealed["Entrypoint"] == ["/opt/kernel/bin/python"]
    assert sealed["Cmd"][:2] == ["-I", "-S"]
    assert sealed["Healthcheck"] == {"Test": ["NONE"]}
    assert sealed["StopSignal"] == "SIGTERM"
    assert sealed["WorkingDir"]
    # a bare name takes a variable of the image away; one that is set here is not named twice
    assert "PYTHONSTARTUP" in sealed["Env"]
    assert [each for each in sealed["Env"] if each.partition("=")[0] == "PATH"] != ["PATH"]


def test_the_limits_become_the_engine_s_numbers(spec: SandboxSpec, facts: Facts) -> None:
    made = host(documents(spec, facts).kernel)
    assert made["Memory"] == made["MemorySwap"] == 2 << 30
    assert made["NanoCpus"] == 2_000_000_000
    assert made["PidsLimit"] == 512
    assert made["ShmSize"] == 256 << 20
    assert f"size={512 << 20}" in made["Tmpfs"]["/home/kernel"]
    assert f"size={256 << 20}" in made["Tmpfs"]["/tmp"]
    assert made["LogConfig"] == {"Type": "json-file", "Config": {"max-size": str(1 << 20), "max-file": "2"}}


def test_every_writable_place_is_bounded_in_bytes_and_in_files(spec: SandboxSpec, facts: Facts) -> None:
    made = host(documents(spec, facts).kernel)
    volume = made["Mounts"][0]["VolumeOptions"]["DriverConfig"]["Options"]["o"]
    for place in [*made["Tmpfs"].values(), volume]:
        assert "size=" in place
        assert "nr_inodes=" in place
        assert {"nosuid", "nodev"} <= set(place.split(","))


def test_the_kernel_has_no_network_and_only_the_gateway_publishes_and_only_on_loopback(
    spec: SandboxSpec, facts: Facts
) -> None:
    made = documents(spec, facts)
    assert made.kernel["HostConfig"]["NetworkMode"] == "none"
    assert made.kernel["HostConfig"]["PortBindings"] == {}
    bindings = host(made.gateway)["PortBindings"]
    assert sorted(bindings) == [f"{port}/tcp" for port in range(5001, 5006)]
    assert all(each == [{"HostIp": "127.0.0.1", "HostPort": ""}] for each in bindings.values())


def test_kernel_and_gateway_share_one_volume_that_no_earlier_start_can_have_made(
    spec: SandboxSpec, facts: Facts
) -> None:
    made = documents(spec, facts)
    kernel, gateway = host(made.kernel)["Mounts"], host(made.gateway)["Mounts"]
    assert kernel == gateway
    assert kernel[0]["Source"] == made.volume_name == "kernel-bridge.lab.01234567.fedcba9876543210"
    options = kernel[0]["VolumeOptions"]
    assert options["NoCopy"] is True
    assert "uid=234567,gid=234567,mode=0700" in options["DriverConfig"]["Options"]["o"]


def test_where_the_engine_maps_uids_the_volume_belongs_to_what_the_kernels_uid_is_outside(
    spec: SandboxSpec, facts: Facts
) -> None:
    made = documents(spec, dataclasses.replace(facts, uid=20_007, gid=20_008, volume_shift=(100_000, 300_000)))
    assert made.kernel["User"] == "20007:20008"
    for each in (made.kernel, made.gateway):
        options = host(each)["Mounts"][0]["VolumeOptions"]["DriverConfig"]["Options"]["o"]
        assert "uid=120007,gid=320008," in options
    assert "uid=20007,gid=20008," in host(made.kernel)["Tmpfs"]["/home/kernel"]


def test_with_network_none_the_gateway_has_no_network_either_and_only_it_sees_the_hosts_directory(
    spec: SandboxSpec, facts: Facts
) -> None:
    directory = "/run/user/7/kernel-bridge/0a1b2c3d"
    isolated = documents(spec, facts)
    made = documents(
        dataclasses.replace(spec, network="none"), dataclasses.replace(facts, socket_directory=Path(directory))
    )
    assert [each["Source"] for each in host(made.kernel)["Mounts"]] == [made.volume_name]
    assert host(made.kernel)["Mounts"][0]["Target"] == host(isolated.kernel)["Mounts"][0]["Target"]
    volume, outside = host(made.gateway)["Mounts"]
    assert volume == host(made.kernel)["Mounts"][0]
    assert (outside["Type"], outside["Source"], outside["ReadOnly"]) == ("bind", directory, False)
    assert made.gateway["Cmd"][-1] == outside["Target"]
    assert host(made.gateway)["NetworkMode"] == "none"
    assert host(made.gateway)["PortBindings"] == made.gateway["ExposedPorts"] == {}


def test_with_network_open_the_kernel_has_a_network_of_its_own_and_all_else_is_as_in_isolated(
    spec: SandboxSpec, facts: Facts
) -> None:
    isolated, made = documents(spec, facts), documents(dataclasses.replace(spec, network="open"), facts)
    assert isolated.network is None
    assert made.network is not None
    assert {key: value for key, value in made.network.items() if key != "Labels"} == {
        "Name": "kernel-bridge.lab.01234567.fedcba9876543210",
        "Driver": "bridge",
        "Internal": False,
        "Attachable": False,
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
    }
    assert made.network["Labels"]["io.kernel-bridge.role"] == "network"
    assert made.network["Labels"]["io.kernel-bridge.start"] == facts.start
    assert host(made.kernel)["NetworkMode"] == made.network["Name"]
    for now, before in ((made.kernel, isolated.kernel), (made.gateway, isolated.gateway)):
        told = json.dumps(now).replace('"io.kernel-bridge.network": "open"', '"io.kernel-bridge.network": "isolated"')
        told = told.replace(f'"NetworkMode": "{made.network["Name"]}"', '"NetworkMode": "none"')
        assert json.loads(told) == before
    assert host(made.kernel)["PortBindings"] == {}, "the sockets are on the volume, and on no network"


def test_gpus_are_asked_for_by_their_number_and_only_where_the_policy_gives_some(
    spec: SandboxSpec, facts: Facts
) -> None:
    made = documents(dataclasses.replace(spec, gpus=2), facts)
    (request,) = host(made.kernel)["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (2, [["gpu"]])
    assert not request["Driver"]
    assert not request["DeviceIDs"]
    assert host(made.gateway)["DeviceRequests"] == host(documents(spec, facts).kernel)["DeviceRequests"] == []


def test_a_directory_for_sockets_belongs_to_network_none_and_anything_else_is_a_mistake(
    spec: SandboxSpec, facts: Facts
) -> None:
    with pytest.raises(ValueError, match="directory"):
        documents(dataclasses.replace(spec, network="none"), facts)
    with pytest.raises(ValueError, match="directory"):
        documents(spec, dataclasses.replace(facts, socket_directory=Path("/run/user/7/kernel-bridge/0a1b2c3d")))


def test_a_workspace_is_mounted_at_its_own_path_and_is_the_working_directory(spec: SandboxSpec, facts: Facts) -> None:
    made = documents(dataclasses.replace(spec, workspace=WORKSPACE), facts)
    mount = host(made.kernel)["Mounts"][1]
    assert mount["Source"] == mount["Target"] == made.kernel["WorkingDir"] == "/users/alice/project"
    assert mount["ReadOnly"] is True
    assert mount["BindOptions"] == {"Propagation": "rprivate", "NonRecursive": True}
    assert len(host(made.gateway)["Mounts"]) == 1, "the gateway has no business with the workspace"


def test_what_is_to_be_hidden_in_the_workspace_is_masked_for_the_kernel(spec: SandboxSpec, facts: Facts) -> None:
    keys = WORKSPACE.path / ".kernel-bridge"
    shown = documents(dataclasses.replace(spec, workspace=WORKSPACE), facts)
    hidden = documents(dataclasses.replace(spec, workspace=WORKSPACE), dataclasses.replace(facts, hidden=(keys,)))
    assert host(hidden.kernel)["MaskedPaths"] == [*host(shown.kernel)["MaskedPaths"], str(keys)]
    assert "/proc/kcore" in host(hidden.kernel)["MaskedPaths"]
    assert hidden.gateway == shown.gateway


def test_the_way_to_a_workspace_below_root_s_home_is_open(spec: SandboxSpec, facts: Facts) -> None:
    below = dataclasses.replace(WORKSPACE, path=Path("/root/project"))
    made = host(documents(dataclasses.replace(spec, workspace=below), facts).kernel)
    assert "mode=0755" in made["Tmpfs"]["/root"]
    assert "uid=" not in made["Tmpfs"]["/root"], "the kernel must not write there"


def test_no_more_processors_are_asked_for_than_the_engine_has(spec: SandboxSpec, facts: Facts) -> None:
    made = documents(spec, dataclasses.replace(facts, engine_cpus=1)).kernel
    assert made["HostConfig"]["NanoCpus"] == 1_000_000_000
    assert "OMP_NUM_THREADS=1" in made["Env"]


def test_less_than_one_processor_is_still_one_thread(spec: SandboxSpec, facts: Facts) -> None:
    slow = dataclasses.replace(spec, limits=Limits(cpus=0.5))
    assert "PYTHON_CPU_COUNT=1" in documents(slow, facts).kernel["Env"]


def test_every_object_carries_its_owner_its_name_and_its_part(spec: SandboxSpec, facts: Facts) -> None:
    made = documents(spec, facts)
    volume = made.kernel["HostConfig"]["Mounts"][0]["VolumeOptions"]["Labels"]
    for labels, role in (
        (made.kernel["Labels"], "kernel"),
        (made.gateway["Labels"], "gateway"),
        (volume, "sockets"),
    ):
        assert labels["io.kernel-bridge.owner"] == facts.owner
        assert labels["io.kernel-bridge.name"] == "lab"
        assert labels["io.kernel-bridge.start"] == facts.start
        assert labels["io.kernel-bridge.role"] == role
    assert made.kernel_name == "kernel-bridge.lab.01234567"
    assert made.gateway_name == "kernel-bridge.lab.01234567.gateway"


def test_what_is_passed_to_the_kernel_goes_over_stdin_and_into_no_document(spec: SandboxSpec, facts: Facts) -> None:
    secret = dataclasses.replace(spec, environment=(("TOKEN", "s3cret-value"),))
    made = documents(secret, facts)
    assert "s3cret-value" not in json.dumps([made.kernel, made.gateway])
    assert made == documents(spec, facts)
    line = connections.orders("k" * 64, secret.environment)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["environment"] == {"TOKEN": "s3cret-value"}


def test_documents_are_the_same_each_time_and_are_plain_json(spec: SandboxSpec, facts: Facts) -> None:
    made = documents(spec, facts)
    assert made == documents(spec, facts)
    assert json.loads(json.dumps(made.kernel)) == made.kernel


def with_egress(spec: SandboxSpec, **changes: Any) -> SandboxSpec:
    inland = Egress(host="index.example.org", port=8443, allow_addresses=("10.1.2.0/24",))
    return dataclasses.replace(spec, **({"egress": (HOST, inland)} | changes))


def test_only_where_something_may_be_reached_there_is_a_second_volume_that_the_kernel_can_only_read(
    spec: SandboxSpec, facts: Facts
) -> None:
    made = documents(with_egress(spec), facts)
    for document, read_only in ((made.kernel, True), (made.gateway, False)):
        (mount,) = [each for each in host(document)["Mounts"] if each["Target"] == "/run/kernel-bridge-egress"]
        assert (mount["Type"], mount["Source"], mount["ReadOnly"]) == (
            "volume",
            f"{made.volume_name}.egress",
            read_only,
        )
        options = mount["VolumeOptions"]["DriverConfig"]["Options"]["o"]
        assert {"mode=0700", "uid=234567", "nr_inodes=32", f"size={64 << 10}"} <= set(options.split(","))
        assert mount["VolumeOptions"]["Labels"]["io.kernel-bridge.role"] == "egress"
    none = documents(spec, facts)
    assert all(len(host(each)["Mounts"]) == 1 for each in (none.kernel, none.gateway))
    assert host(made.kernel)["NetworkMode"] == "none", "it still has no network"


def test_the_gateway_gets_exactly_the_policys_list_and_only_where_there_is_one(spec: SandboxSpec, facts: Facts) -> None:
    *_, option, rules = documents(with_egress(spec), facts).gateway["Cmd"]
    assert option == "--egress"
    assert json.loads(rules) == {
        "allow": [["pypi.example.org", 443, []], ["index.example.org", 8443, ["10.1.2.0/24"]]],
        "upstream": None,
        "refuse": [],
    }
    here = dataclasses.replace(facts, near=("51.15.7.0/24", "2a01:4f8::/64"))
    assert json.loads(documents(with_egress(spec), here).gateway["Cmd"][-1])["refuse"] == list(here.near)
    through = documents(with_egress(spec, upstream_proxy="http://proxy.example.org:3128"), facts).gateway
    assert json.loads(through["Cmd"][-1])["upstream"] == ["proxy.example.org", 3128]
    assert documents(spec, facts).gateway["Cmd"] == ["-I", "-S", "/opt/kernel-bridge/gateway.py"]


def test_a_gateway_that_comes_back_has_the_list_that_the_kernels_container_is_labelled_with(
    spec: SandboxSpec, facts: Facts
) -> None:
    made = documents(with_egress(spec), facts)
    again = gateway_document(
        image_id=facts.image_id,
        image_environment=facts.image_environment,
        uid=facts.uid,
        gid=facts.gid,
        volume=made.volume_name,
        volume_shift=facts.volume_shift,
        labels={key: value for key, value in made.kernel["Labels"].items() if key in owner.ALL - {owner.ROLE}},
        ports=None,
        directory=None,
    )
    assert again == made.gateway


def test_the_longest_list_that_a_policy_takes_is_no_longer_than_an_argument_may_be(spec: SandboxSpec) -> None:
    names = [f"{number:03}.{'.'.join(['x' * 60] * 4)}.example" for number in range(128)]
    ranges = tuple(f"255.255.{number}.255/32" for number in range(16))
    longest = tuple(Egress(host=name[:253], port=65535, allow_addresses=ranges) for name in names)
    assert len(egress_argument(dataclasses.replace(spec, egress=longest))) < 1 << 17


def test_what_can_be_reached_is_read_back_as_a_person_writes_it(spec: SandboxSpec) -> None:
    six = Egress(host="fd00::1", port=443, allow_addresses=("fd00::/8",))
    assert reachable(egress_argument(dataclasses.replace(spec, egress=(HOST, six)))) == (
        "pypi.example.org:443",
        "[fd00::1]:443",
    )
    assert reachable(egress_argument(spec)) == ()


@pytest.mark.parametrize(
    "label", ["{", "[]", "7", "{}", '{"allow": 1}', '{"allow": [1]}', "[" * 100_000], ids=lambda text: text[:20]
)
def test_an_argument_that_is_none_of_ours_reaches_nothing(label: str) -> None:
    assert reachable(label) == ()


def test_certificates_go_over_stdin_and_have_room_in_the_kernels_own_tmpfs(spec: SandboxSpec, facts: Facts) -> None:
    trusting = dataclasses.replace(spec, certificates="-----BEGIN CERTIFICATE-----")
    made = documents(trusting, facts)
    assert "CERTIFICATE" not in json.dumps([made.kernel, made.gateway])
    assert f"size={(64 + 512) << 10}," in host(made.kernel)["Tmpfs"]["/run/kernel"]
    line = json.loads(connections.orders("k", (), proxy=True, certificates=trusting.certificates))
    assert (line["proxy"], line["certificates"]) == (True, trusting.certificates)
    assert not {"proxy", "certificates"} & set(json.loads(connections.orders("k", ())))


# Each field alone, with another value; what is not a document says where it goes.
HOST = Egress(host="pypi.example.org", port=443)
SPEC_CHANGES: dict[str, Any] = {
    "name": "other",
    "image": "docker.io/kernel-bridge/python:3.14",
    "network": "none",
    "limits": Limits(pids=64),
    "workspace": WORKSPACE,
    "environment": (("TOKEN", "x"),),
    "gpus": 1,
    "runtime": "runsc",
    "max_running": 1,
    "egress": (HOST, Egress(host="10.1.2.3", port=8443)),
    "upstream_proxy": "http://proxy.example.org:3128",
    "certificates": "-----BEGIN CERTIFICATE-----",
    "idle_timeout": 60.0,
    "idle_timeout_of_agents": 60.0,
    "max_lifetime": 60.0,
}
LIMIT_CHANGES: dict[str, Any] = {
    "memory": 3 << 30,
    "cpus": 1.0,
    "pids": 64,
    "home": 100 << 20,
    "tmp": 100 << 20,
    "shm": 100 << 20,
    "log": 100 << 10,
}
WORKSPACE_CHANGES: dict[str, Any] = {"path": Path("/users/alice/other"), "mode": "rw"}
ELSEWHERE = {"environment": "the stdin", "max_running": "starting.py, before and after the claim"}
COMPARED_INSIDE = {"device", "inode"}  # verification.py


def changed(spec: SandboxSpec, facts: Facts) -> Callable[[SandboxSpec], bool]:
    before = documents(spec, facts)
    with_directory = dataclasses.replace(facts, socket_directory=Path("/run/user/7/kernel-bridge/0a1b2c3d"))
    return lambda other: documents(other, with_directory if other.network == "none" else facts) != before


@pytest.mark.parametrize("field", SPEC_CHANGES)
def test_each_field_of_a_spec_changes_what_the_engine_is_asked_for(field: str, spec: SandboxSpec, facts: Facts) -> None:
    spec = dataclasses.replace(spec, egress=(HOST,))
    other = dataclasses.replace(spec, **{field: SPEC_CHANGES[field]})
    assert changed(spec, facts)(other) is (field not in ELSEWHERE)


@pytest.mark.parametrize("field", LIMIT_CHANGES)
def test_each_limit_changes_what_the_engine_is_asked_for(field: str, spec: SandboxSpec, facts: Facts) -> None:
    other = dataclasses.replace(spec, limits=Limits(**{field: LIMIT_CHANGES[field]}))
    assert other.limits != spec.limits
    assert changed(spec, facts)(other)


@pytest.mark.parametrize("field", WORKSPACE_CHANGES)
def test_each_field_of_a_workspace_changes_what_the_engine_is_asked_for(
    field: str, spec: SandboxSpec, facts: Facts
) -> None:
    spec = dataclasses.replace(spec, workspace=WORKSPACE)
    other = dataclasses.replace(WORKSPACE, **{field: WORKSPACE_CHANGES[field]})
    assert changed(spec, facts)(dataclasses.replace(spec, workspace=other))


def test_no_field_is_forgotten_in_the_tests_above() -> None:
    assert {each.name for each in dataclasses.fields(SandboxSpec)} == set(SPEC_CHANGES)
    assert set(Limits.model_fields) == set(LIMIT_CHANGES)
    assert {each.name for each in dataclasses.fields(Workspace)} == set(WORKSPACE_CHANGES) | COMPARED_INSIDE
