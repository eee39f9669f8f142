"""Whether one policy allows more than another, setting by setting.

The one rule: each setting has its own order, written in one table. A setting of the schema that is not in the table is
an error of the program, so none can be added and forgotten.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bridge.policy import images
from bridge.policy.limits import CPUS, LOG, MEMORY, PIDS, TMPFS
from bridge.policy.model import Egress, ImageRule, Mount, Policy
from bridge.policy.values import (
    ENDING,
    GPUS,
    KEPT,
    MAX_RUNNING,
    NETWORKS,
    OUTPUT,
    RESULT,
    RUNTIME_DIRECTORY,
    TIMEOUT,
    Network,
)

Order = Callable[[Any, Any], Iterable[str]]
"""The setting's value in the policy and in the system's → a sentence for each thing that the former adds."""

STRONGER_RUNTIMES = frozenset({"runsc"})
"""Known to isolate more than the engine's own; of any other a name says nothing."""


def wider_than(policy: Policy, system: Policy) -> list[str]:
    """Each way in which `policy` allows more than `system`; empty where none.

    As `setting: what; what is allowed`, with the setting's place in both.
    """
    return [
        f"{setting}: {text} ({policy.line(setting)}; the system's: {system.line(setting)})"
        for setting, text in _compare(policy, system, "")
    ]


def _compare(mine: BaseModel, theirs: BaseModel, prefix: str) -> Iterable[tuple[str, str]]:
    for name in type(mine).model_fields:
        setting = f"{prefix}{name}"
        value, ceiling = getattr(mine, name), getattr(theirs, name)
        if isinstance(value, BaseModel):
            yield from _compare(value, ceiling, f"{setting}.")
        else:
            yield from ((setting, text) for text in ORDERS[setting](value, ceiling))


def _at_most(show: Callable[[float], str]) -> Order:
    def order(mine: float, theirs: float) -> Iterable[str]:
        if mine > theirs:
            yield f"{show(mine)} is more than the system's {show(theirs)}; write at most that"

    return order


def _at_most_or_null(show: Callable[[float], str], *, null_is_most: bool) -> Order:
    def order(mine: float | None, theirs: float | None) -> Iterable[str]:
        null = math.inf if null_is_most else -math.inf
        if (null if mine is None else mine) > (null if theirs is None else theirs):
            yield (
                f"{'null' if mine is None else show(mine)} is more than the system's "
                f"{'null' if theirs is None else show(theirs)}; write that or less"
            )

    return order


def _same(mine: object, theirs: object) -> Iterable[str]:
    if mine != theirs:
        yield f"{_plain(mine)} is not the system's {_plain(theirs)}; write that"


def _same_unless_unset(mine: object, theirs: object) -> Iterable[str]:
    if mine is not None and theirs is not None and mine != theirs:
        yield f"{mine} is not the system's {theirs}, which holds in any case; write that, or leave audit out"


def _not_turned_on(mine: bool, theirs: bool) -> Iterable[str]:  # noqa: FBT001 - values of a setting
    if mine and not theirs:
        yield "true, but false in the system's; write false"


def _among(mine: tuple[object, ...], theirs: tuple[object, ...]) -> Iterable[str]:
    for item in mine:
        if item not in theirs:
            yield f"{item} is not among the system's; allowed are {', '.join(map(str, theirs)) or 'none'}"


def _directories(mine: tuple[str, ...], theirs: tuple[str, ...]) -> Iterable[str]:
    for item in mine:
        below = item != RUNTIME_DIRECTORY and any(
            Path(item).is_relative_to(other) for other in theirs if other != RUNTIME_DIRECTORY
        )
        if item not in theirs and not below:
            yield f"{item} is not among the system's or below them; allowed are {', '.join(theirs) or 'none'}"


def _images(mine: tuple[ImageRule, ...], theirs: tuple[ImageRule, ...]) -> Iterable[str]:
    for rule in mine:
        same = [other for other in theirs if images.full_name(other.repository) == images.full_name(rule.repository)]
        allowed = f"allowed are {images.describe(theirs)}"
        tags = {tag for other in same for tag in other.tags}
        digests = {digest for other in same for digest in other.digests}
        for tag in rule.tags:
            if tag not in tags and images.ANY_TAG not in tags:
                asked = "any tag" if tag == images.ANY_TAG else f"tag {tag}"
                yield f"{rule.repository} with {asked} is not among the system's; {allowed}"
        for digest in rule.digests:
            if digest not in digests:
                yield f"{rule.repository}@{digest} is not among the system's; {allowed}"


def _network(mine: Network, theirs: Network) -> Iterable[str]:
    allowed = NETWORKS[: NETWORKS.index(theirs) + 1]
    if mine not in allowed:
        yield f"{mine} is more than the system's {theirs}; write {' or '.join(allowed)}"


def _egress(mine: tuple[Egress, ...], theirs: tuple[Egress, ...]) -> Iterable[str]:
    for entry in mine:
        same = [other for other in theirs if (other.host, other.port) == (entry.host, entry.port)]
        if not same:
            allowed = ", ".join(f"{other.host} {other.port}" for other in theirs) or "none"
            yield f"{entry.host} {entry.port} is not among the system's; allowed are {allowed}"
            continue
        ranges = [each for other in same for each in other.allow_addresses]
        for mine_range in entry.allow_addresses:
            if not any(_lies_in(mine_range, other) for other in ranges):
                allowed = ", ".join(ranges) or "none"
                yield f"{entry.host} {entry.port} with the addresses {mine_range} is more; allowed are {allowed}"


def _lies_in(inner: str, outer: str) -> bool:
    within, around = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
    return within[0] in around and within[-1] in around  # never of another version


def _mounts(mine: tuple[Mount, ...], theirs: tuple[Mount, ...]) -> Iterable[str]:
    for mount in mine:
        modes = {other.mode for other in theirs if mount.source.is_relative_to(other.source)}
        if "rw" in modes or mount.mode in modes:
            continue
        allowed = ", ".join(f"{other.source} {other.mode}" for other in theirs) or "none"
        yield f"{mount.source} {mount.mode} is not among the system's; allowed are {allowed}"


def _runtime(mine: str | None, theirs: str | None) -> Iterable[str]:
    if theirs is None and mine in STRONGER_RUNTIMES:
        return
    yield from _same(mine, theirs)


def _bounded_elsewhere(mine: object, theirs: object) -> Iterable[str]:  # noqa: ARG001 - one signature for all of them
    """Of no order of its own: held within a setting that is compared (`images`, `max_timeout`, `audit.file`)."""
    return ()


def _plain(value: object) -> str:
    return "null" if value is None else str(value)


ORDERS: dict[str, Order] = {
    "version": _same,
    "origin": _bounded_elsewhere,
    "lines": _bounded_elsewhere,
    "attach.allowed": _not_turned_on,
    "attach.directories": _directories,
    "attach.addresses": _among,
    "sandbox.images": _images,
    "sandbox.default_image": _bounded_elsewhere,
    "sandbox.network": _network,
    "sandbox.egress": _egress,
    "sandbox.upstream_proxy": _same,
    "sandbox.ca_bundle": _same,
    "sandbox.limits.memory": _at_most(MEMORY.show),
    "sandbox.limits.cpus": _at_most(CPUS.show),
    "sandbox.limits.pids": _at_most(PIDS.show),
    "sandbox.limits.home": _at_most(TMPFS.show),
    "sandbox.limits.tmp": _at_most(TMPFS.show),
    "sandbox.limits.shm": _at_most(TMPFS.show),
    "sandbox.limits.log": _at_most(LOG.show),
    "sandbox.mounts": _mounts,
    "sandbox.environment": _among,
    "sandbox.gpus": _at_most(GPUS.show),
    "sandbox.runtime": _runtime,
    "sandbox.max_running": _at_most(MAX_RUNNING.show),
    "sandbox.idle_timeout": _at_most_or_null(ENDING.show, null_is_most=True),
    "sandbox.max_lifetime": _at_most_or_null(ENDING.show, null_is_most=True),
    "calls.timeout": _bounded_elsewhere,
    "calls.max_timeout": _at_most(TIMEOUT.show),
    "calls.max_output": _at_most(OUTPUT.show),
    "calls.max_result": _at_most(RESULT.show),
    "calls.kept_output": _at_most_or_null(KEPT.show, null_is_most=False),
    "audit.file": _same_unless_unset,
    "audit.code": _bounded_elsewhere,
    "audit.max_size": _bounded_elsewhere,
    "audit.keep": _bounded_elsewhere,
}
