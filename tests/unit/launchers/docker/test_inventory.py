"""What the engine's listings say, and what of it may be touched."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.launchers.docker import composed as owner
from bridge.launchers.docker import inventory, removal
from bridge.launchers.docker.engine import Engine

WHO = "0123456789abcdef" * 2
NOW = 1_800_000_000.0
ids = iter(range(1000))


def container(
    name: str, role: str, start: str, state: str = "running", *, who: str = WHO, age: float = 5.0
) -> dict[str, Any]:
    return {
        "Id": f"{next(ids):064x}",
        "State": state,
        "Created": int(NOW - age),
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


def network(sandbox: str, start: str, who: str = WHO) -> dict[str, Any]:
    return {"Id": f"{next(ids):064x}", **volume("n", sandbox, start, who)}


class Starting:
    """An engine in which a start goes on between the answers of a look: first the claim, then what belongs to it."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    def there(self, made: dict[str, Any]) -> list[dict[str, Any]]:
        self.left -= 1
        return [made] if self.left < 0 else []

    async def containers(self, *_: str) -> list[dict[str, Any]]:
        return self.there(container("lab", "kernel", "1", "created"))

    async def volumes(self, *_: str) -> list[dict[str, Any]]:
        return self.there(volume("v", "lab", "1"))

    async def info(self) -> dict[str, Any]:
        return {"SystemTime": datetime.fromtimestamp(NOW, UTC).isoformat()}

    async def networks(self, *_: str) -> list[dict[str, Any]]:
        return self.there(network("lab", "1"))


@pytest.mark.anyio
@pytest.mark.parametrize("answers", range(4))
async def test_what_a_start_makes_while_there_is_a_look_is_never_taken_for_a_leftover(answers: int) -> None:
    there = await inventory.look(cast("Engine", Starting(answers)), WHO)
    left = there.leftovers()
    assert (left.containers, left.volumes, left.networks) == ((), (), ())


def test_a_network_goes_the_way_of_its_start_and_only_with_our_owner() -> None:
    there = inventory.read(
        WHO,
        [container("a", "kernel", "1"), container("b", "gateway", "3")],
        [],
        [
            network("a", "1"),
            network("a", "0"),
            network("b", "3"),
            network("a", "2", "f" * 32),
            {"Id": "x", "Name": "y"},
        ],
    )
    assert [each.start for each in there.networks] == ["1", "0", "3"]
    assert [each.start for each in there.of("a").networks] == ["1", "0"]
    assert [each.start for each in there.of_start("1").networks] == ["1"]
    assert [each.start for each in there.without("1").networks] == ["0", "3"]
    assert [each.start for each in there.leftovers().networks] == ["0", "3"]


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


def judged(there: inventory.Inventory, now: float = NOW, **held: bool) -> inventory.Inventory:
    """As where the locks of these starts are seen, and of others none."""
    return inventory.judged(there, {each.start: held.get(each.name) for each in there.kernels()}, now)


def test_sandboxes_that_are_being_started_count_as_running_but_ended_ones_and_those_cut_short_do_not() -> None:
    there = inventory.read(
        WHO,
        [
            container("a", "kernel", "1"),
            container("b", "kernel", "2", "created"),
            container("c", "kernel", "3", "exited"),
            container("d", "kernel", "4", "created", age=3600),
            container("e", "kernel", "5", "paused"),
            container("f", "gateway", "6"),
            container("g", "kernel", "7"),
        ],
        [],
    )
    assert [each.name for each in judged(there, g=False).running()] == ["a", "b", "e"]


@pytest.mark.parametrize("state", ["created", "running"])
@pytest.mark.parametrize("clock", [-3600.0, 0.0, 3600.0])
def test_a_start_whose_lock_is_seen_is_judged_by_that_and_by_no_clock(state: str, clock: float) -> None:
    there = inventory.read(WHO, [container(name, "kernel", name, state) for name in ("lives", "died")])
    lives, died = judged(there, NOW + clock, lives=True, died=False).kernels()
    assert (lives.under_way, lives.cut_short) == (True, False)
    assert (died.under_way, died.cut_short) == (False, True)


@pytest.mark.parametrize(
    ("age", "cut_short"), [(0.0, False), (119.0, False), (121.0, True), (-9.0, False), (-3600.0, True)]
)
def test_where_no_lock_is_to_be_seen_only_a_container_that_was_never_started_is_judged_by_its_age(
    age: float, *, cut_short: bool
) -> None:
    there = inventory.read(WHO, [container(state, "kernel", state, state, age=age) for state in ("created", "running")])
    created, running = judged(there).kernels()
    assert created.cut_short is cut_short
    assert not any((running.cut_short, running.under_way, created.under_way))


class Elsewhere:
    """An engine whose clock is hours away from ours, with a container of a start whose lock is not to be seen."""

    def __init__(self, age: float) -> None:
        self._container = container("lab", "kernel", "1", "created", age=age)

    async def containers(self, *_: str) -> list[dict[str, Any]]:
        return [self._container]

    async def info(self) -> dict[str, Any]:
        return {"SystemTime": datetime.fromtimestamp(NOW, UTC).isoformat()}


@pytest.mark.anyio
@pytest.mark.parametrize(("age", "cut_short"), [(5.0, False), (500.0, True)])
async def test_an_age_is_told_by_the_engines_clock_alone(age: float, *, cut_short: bool) -> None:
    there = await inventory.look(cast("Engine", Elsewhere(age)), WHO, volumes=False)
    assert [each.cut_short for each in there.kernels()] == [cut_short]


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
    assert [each.start for each in left.containers] == ["2"]
    assert [each.name for each in left.volumes] == ["vb", "ve"]


@pytest.mark.parametrize(
    ("label", "value"),
    [
        *(("start", each) for each in ("a/b", "..", "", "A" * 16, "0" * 15, "0" * 16 + "\n", "\0", "x" * 400)),
        *(("connection-file", each) for each in ("", "/", "a\0b/kernel-bridge-lab.json")),
        *(("uid", each) for each in ("x", "-1", "1" * 20)),
    ],
)
@pytest.mark.anyio
async def test_what_somebody_else_wrote_in_our_labels_breaks_nothing(label: str, value: str) -> None:
    made = container("lab", "kernel", "0" * 16, "created")
    made["Labels"][f"io.kernel-bridge.{label}"] = value

    class Forged(Elsewhere):
        async def containers(self, *_: str) -> list[dict[str, Any]]:
            return [made]

    there = await inventory.look(cast("Engine", Forged(0.0)), WHO, volumes=False)
    (kernel,) = there.kernels()
    assert (kernel.has_file, kernel.under_way, kernel.cut_short) == (label == "uid", False, False)
    assert kernel.uid == 0
    removal.remove_connection_file(kernel, there)


def composed(name: str, role: str, project: Path) -> dict[str, Any]:
    made = container(name, role, project.name, who=owner.current_owner())
    made["Labels"]["com.docker.compose.project.working_dir"] = str(project)
    return made


def test_a_compose_projects_kernel_is_ours_where_its_connection_file_is_and_only_to_be_found(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name / ".kernel-bridge").mkdir(parents=True)
    (tmp_path / "mine" / ".kernel-bridge" / "kernel-bridge-lab.json").touch()
    there = inventory.read(
        WHO,
        [composed("lab", role, tmp_path / name) for name in ("mine", "theirs") for role in ("kernel", "gateway")],
        [],
    )
    (kernel,) = there.all_kernels()
    assert kernel.connection_file == tmp_path / "mine" / ".kernel-bridge" / "kernel-bridge-lab.json"
    gateway = there.gateway(kernel)
    assert gateway
    assert gateway.start == "mine"
    assert [each.start for each in there.others] == ["theirs", "theirs"]
    for part in (there, there.of("lab"), there.of_start("mine"), there.leftovers()):
        assert part.containers == ()
    assert there.running() == []
