"""What one sandbox may use, in bytes, CPUs and processes.

The one rule: tmpfs counts as memory. Home, /tmp and shared memory are at most half of it together, because filling them
would otherwise kill the kernel (out of memory) where the user should read "no space left on device".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from bridge.policy.units import GiB, KiB, MiB, TiB, count, format_size, fraction, problem, size, written

PAGE = 4096
SMALLEST_TMPFS = MiB
"""Below this IPython's history alone does not fit; and a tmpfs of size 0 would be one without any limit."""

MEMORY = size(64 * MiB, TiB)
"""An idle kernel takes 63 MB, so less cannot start; more than 1 TiB is a slip of the pen on any one machine."""
CPUS = fraction(0.1, 1024)
"""With less than a tenth of a CPU a kernel needs longer to start than anyone waits; machines end below 1024."""
PIDS = count(32, 32768)
"""A kernel has 13 threads when idle and more with the first numpy import; 32768 is all of a usual machine's pids."""
TMPFS = size(SMALLEST_TMPFS, 512 * GiB)
"""Up to half of the largest memory."""
LOG = size(16 * KiB, GiB)
"""Enough for the lines that say how kernels ended; it lies on the engine's disk, which all containers share."""

SETTINGS = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, hide_input_in_errors=True)
"""Of every model here: defaults are checked too, so that rules between fields hold for what is not written."""


class Limits(BaseModel):
    """The most that one sandbox may use; also what it gets where nothing is asked for. Sizes in bytes."""

    model_config = SETTINGS

    memory: Annotated[int, MEMORY] = Field(
        default=written("2GiB"), title="memory, tmpfs included; no swap", description=MEMORY.allowed
    )
    cpus: Annotated[float, CPUS] = Field(default=2.0, title="processors", description=CPUS.allowed)
    pids: Annotated[int, PIDS] = Field(default=512, title="processes and threads", description=PIDS.allowed)
    home: Annotated[int, TMPFS] = Field(
        default=written("512MiB"), title="the kernel's home directory, a tmpfs", description=TMPFS.allowed
    )
    tmp: Annotated[int, TMPFS] = Field(default=written("256MiB"), title="`/tmp`, a tmpfs", description=TMPFS.allowed)
    shm: Annotated[int, TMPFS] = Field(
        default=written("256MiB"),
        title="`/dev/shm`; home + tmp + shm is at most half of memory",
        description=TMPFS.allowed,
    )
    log: Annotated[int, LOG] = Field(
        default=written("1MiB"), title="the container's log on the engine's disk, twice", description=LOG.allowed
    )

    @field_validator("shm")
    @classmethod
    def _tmpfs_is_at_most_half_of_memory(cls, shm: int, info: ValidationInfo) -> int:
        known = info.data
        if not {"memory", "home", "tmp"} <= known.keys():  # they are reported by themselves
            return shm
        memory, home, tmp = known["memory"], known["home"], known["tmp"]
        if home + tmp + shm > memory // 2:
            fitting = fitted(memory, (home, tmp, shm))
            raise problem(
                f"home + tmp + shm is {format_size(home + tmp + shm)}, and at most half of memory "
                f"({format_size(memory // 2)}) is allowed, because tmpfs counts as memory; write memory: "
                f"{format_size(2 * (home + tmp + shm))}, or home: {format_size(fitting[0])}, "
                f"tmp: {format_size(fitting[1])}, shm: {format_size(fitting[2])}",
                about_section=True,
            )
        return shm

    def within(self, memory: int, cpus: float) -> Limits:
        """These limits with less memory or CPU; home, tmp and shm shrink so that they stay below half of the memory."""
        home, tmp, shm = fitted(memory, (self.home, self.tmp, self.shm))
        return Limits(memory=memory, cpus=cpus, pids=self.pids, home=home, tmp=tmp, shm=shm, log=self.log)


def fitted(memory: int, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """The three sizes, unchanged where their sum is at most half of `memory`, else in proportion and in whole pages.

    None falls below the smallest tmpfs: where plain proportion would, only what each has above that is shared out.
    """
    room = memory // 2
    total = sum(sizes)
    if total <= room:
        return sizes
    floor = 0 if min(sizes) * room // total // PAGE * PAGE >= SMALLEST_TMPFS else SMALLEST_TMPFS
    spare, wanted = room - 3 * floor, total - 3 * floor
    home, tmp, shm = (floor + (size - floor) * spare // wanted // PAGE * PAGE for size in sizes)
    return home, tmp, shm
