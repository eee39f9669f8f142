"""What the engine's listings say, and what of it may be touched."""

from __future__ import annotations

import time
from typing import Any

from bridge.launchers.docker import inventory

WHO = "0123456789abcdef" * 2
ids = iter(range(1000))


def container(
    name: str, role: str, start: str, state: str = "running", *, who: str = WHO, age: float = 5.0
) -> dict[str, Any]:
    return {
        "Id": f"{next(ids):064x}",
        "State": state,
        "Created": int(time.time() - age),
        "Labels": {
            "io.kernel-bridge.owner": who,
            "io.kernel-bridge.name": name,
            "io.kernel-bridge.role": role,
            "io.kernel-bridge.start": start,
            "io.kernel-bridge.connection-file": f"/runtime/kernel-bridge-{name}.json",
        },
    }


def volume(name: str, sandbox: str, start: str, who: str = WHO) -> dict[str, Any]:
    labels = {"owner": who, "name": sandbox, "start": start}
    return {"Name": name, "Labels": {f"io.kernel-bridge.{key}": value for key, value in labels.items()}}


def test_only_what_carries_our_owner_is_ours_to_touch() -> None:
    there = inventory.read(
        WHO,
        [container("lab", "kernel", "s1"), container("lab", "kernel", "s2", who="f" * 32)],
        [volume("v1", "lab", "s1"), volume("v2", "lab", "s2", who="f" * 32), {"Name": "v3", "Labels": None}],
    )
    assert [each.start for each in there.kernels()] == ["s1"]
    assert [each.name for each in there.volumes] == ["v1"]
    assert [each.start for each in there.others] == ["s2"]
    for part in (there.of("lab"), there.of_start("s2"), there.leftovers()):
        assert all(each.labels["io.kernel-bridge.owner"] == WHO for each in part.containers)
        assert "v2" not in [each.name for each in part.volumes]


def test_a_gateway_belongs_to_the_kernel_of_the_same_start() -> None:
    there = inventory.read(
        WHO,
        [container("lab", "kernel", "new"), container("lab", "gateway", "old"), container("lab", "gateway", "new")],
        [],
    )
    kernel = there.kernel("lab")
    assert kernel
    gateway = there.gateway(kernel)
    assert gateway
    assert gateway.start == "new"


def test_sandboxes_that_are_being_started_count_as_running_but_ended_and_abandoned_ones_do_not() -> None:
    there = inventory.read(
        WHO,
        [
            container("a", "kernel", "1"),
            container("b", "kernel", "2", "created"),
            container("c", "kernel", "3", "exited"),
            container("d", "kernel", "4", "created", age=3600),
            container("e", "kernel", "5", "paused"),
            container("f", "gateway", "6"),
        ],
        [],
    )
    assert [each.name for each in there.running()] == ["a", "b", "e"]


def test_what_has_no_kernels_container_is_left_over_and_a_start_under_way_is_not() -> None:
    there = inventory.read(
        WHO,
        [
            container("a", "kernel", "1"),
            container("a", "gateway", "1", "exited"),
            container("b", "gateway", "2"),
            container("c", "kernel", "3", "created"),
            container("d", "kernel", "4", "created", age=3600),
        ],
        [
            volume("va", "a", "1"),
            volume("vb", "b", "2"),
            volume("vc", "c", "3"),
            volume("vd", "d", "4"),
            volume("ve", "e", "5"),
        ],
    )
    left = there.leftovers()
    assert [each.start for each in left.containers] == ["2", "4"]
    assert [each.name for each in left.volumes] == ["vb", "vd", "ve"]
