"""Mixed load for an hour: nothing grows, nothing gets slower, nothing is left; run as a program.

    python -m tests.soak [MINUTES]

An agent over stdio and two over HTTP, a person at the shell and an IDE's relay use a host kernel and sandboxes at once;
beside them sandboxes come and go, kernels are killed and gateways lost. Every answer is looked at. After each trivial
cell the same one runs by a client without a bridge, so that a busy machine is not taken for a bridge that gets slower.
The figures are written to RESULT.md beside this file; the exit code is 1 where one of them is out of bounds.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import docker
from jupyter_client.asynchronous.client import AsyncKernelClient
from mcp import Client, StdioServerParameters

from bridge.launchers.docker.owner import OWNER, current_owner
from tests.e2e import serving
from tests.e2e.conftest import Agent

RESULT = Path(__file__).with_name("RESULT.md")
ROWS = 10
SAMPLE = 5.0
# What grows, grows on.
SLOWER, LARGER, SLACK = 1.5, 1.15, 8 * 2**20
LONGEST = 90.0
SEED = 8
PRINTED = 100_000


@dataclass(frozen=True)
class Sample:
    """The two servers at one moment, and how quick the last trivial cells were: through a bridge, and without one."""

    at: float
    calls: int
    cells: list[tuple[float, float]]
    """Seconds each."""
    memory: int
    """Bytes of both."""
    descriptors: int
    threads: int


@dataclass
class Load:
    """What all that run at once have in common."""

    until: float
    calls: int = 0
    cells: list[tuple[float, float]] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    def count(self, what: str) -> None:
        self.calls += 1
        self.done[what] = self.done.get(what, 0) + 1

    async def quick(self, agent: Agent, kernel: str, raw: AsyncKernelClient) -> None:
        """Run a trivial cell, again without a bridge, and note how long each took."""
        number = random.randrange(10**6)  # noqa: S311 - no secret
        begin = time.perf_counter()
        told = await agent.run(f"{number} + 1", kernel=kernel)
        middle = time.perf_counter()
        # IPython warns in front of it each time it forgets old results
        assert told.endswith(str(number + 1)), told
        code = f"{number} + 1"
        reply = await raw.execute_interactive(code, allow_stdin=False, output_hook=lambda _: None, timeout=LONGEST)
        assert reply["content"]["status"] == "ok", reply
        self.cells.append((middle - begin, time.perf_counter() - middle))
        self.count("trivial cell")


Operation = Callable[[Agent, str], Awaitable[None]]


async def prints(agent: Agent, kernel: str) -> None:
    told = await agent.run(f"print('x' * {PRINTED})", kernel=kernel)
    assert "xxx" in told
    assert "get_execution" in told, told[-300:]


async def shows(agent: Agent, kernel: str) -> None:
    png = base64.b64encode(serving_png()).decode()
    code = f"import base64; from IPython.display import Image, display; display(Image(base64.b64decode({png!r})))"
    result = await agent.client.call_tool("execute_code", {"code": code, "kernel": kernel})
    assert len(agent.images(result)) == 1


async def fails(agent: Agent, kernel: str) -> None:
    assert "ZeroDivisionError" in await agent.refused("execute_code", code="1 / 0", kernel=kernel)


async def is_read_on(agent: Agent, kernel: str) -> None:
    code = "import time\nprint('begun', flush=True); time.sleep(1.5); print('ended')"
    told = await agent.run(code, timeout=0.5, kernel=kernel)
    number = int(told.partition("execution=")[2].partition(",")[0].partition(")")[0])
    for _ in range(20):
        told = await agent.call("get_execution", execution=number, wait=5, kernel=kernel)
        if "ended" in told:
            return
    raise AssertionError(told)


async def looks(agent: Agent, kernel: str) -> None:
    await agent.run("here = [1, 2, 3]", kernel=kernel)
    assert '"here"' in await agent.call("list_variables", kernel=kernel)
    assert "list" in await agent.call("inspect_object", name="here", kernel=kernel)
    assert kernel in await agent.call("get_activity", kernel=kernel)


async def moves(agent: Agent, kernel: str) -> None:
    data = os.urandom(50_000)
    await agent.call("put_file", path="soak.bin", base64=base64.b64encode(data).decode(), overwrite=True, kernel=kernel)
    assert "soak.bin" in await agent.call("get_file", path="soak.bin", kernel=kernel)


def serving_png() -> bytes:
    """A picture of one pixel."""
    return base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )


async def work(load: Load, agent: Agent, kernel: str, operations: list[Operation]) -> None:
    """Call one thing after the other until the end, mostly trivial cells."""
    choose = random.Random(f"{SEED}{kernel}")  # noqa: S311 - no secret
    async with without_bridge(kernel) as raw:
        while not load.is_over:
            for _ in range(5):
                await load.quick(agent, kernel, raw)
            operation = choose.choice(operations)
            await operation(agent, kernel)
            load.count(operation.__name__)


@asynccontextmanager
async def without_bridge(kernel: str) -> AsyncIterator[AsyncKernelClient]:
    """Connect Jupyter's own client to a kernel."""
    names = [f"{kernel}.json", f"kernel-bridge-{kernel}.json"]
    (file,) = (each for name in names if (each := Path(os.environ["JUPYTER_RUNTIME_DIR"]) / name).exists())
    client = AsyncKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    try:
        await client.wait_for_ready(LONGEST)
        yield client
    finally:
        client.stop_channels()


async def person(load: Load, kernel: str) -> None:
    """Run cells from the shell, as another client."""
    for number in itertools.count():
        if load.is_over:
            return
        assert await shell("run", kernel, "-c", f"hers = {number}; print(hers)") == f"{number}\n"
        load.count("cell from the shell")


async def refused(agent: Agent, code: str) -> str:
    """Run code that fails in the sandbox that comes and goes."""
    return await agent.refused("execute_code", code=code, kernel="passing")


async def come_and_go(load: Load, agent: Agent) -> None:
    """Start sandboxes, use them hard, stop them."""
    while not load.is_over:
        await agent.call("start_sandbox", name="passing")
        await agent.run("x = 1", kernel="passing")
        sleeping = asyncio.create_task(refused(agent, "import time; time.sleep(60)"))
        while not (await asyncio.wait({sleeping}, timeout=0.1))[0]:  # a cell that has not begun is not interrupted
            await agent.client.call_tool("interrupt_kernel", {"kernel": "passing"})
        assert "KeyboardInterrupt" in sleeping.result()
        await agent.call("restart_kernel", kernel="passing")
        assert "NameError" in await refused(agent, "x")
        await refused(agent, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert "are gone" in await agent.run("'again'", kernel="passing")
        await agent.call("stop_sandbox", kernel="passing")
        load.count("sandbox's whole life")


async def lose_gateways(load: Load, agent: Agent, engine: docker.DockerClient) -> None:
    """Kill the gateway of a sandbox from time to time; the next call brings it back."""
    labels = [f"{OWNER}={current_owner(os.environ)}", "io.kernel-bridge.name=lossy", "io.kernel-bridge.role=gateway"]
    await agent.call("start_sandbox", name="lossy")
    await agent.run("kept = 7", kernel="lossy")
    while not load.is_over:
        for each in await asyncio.to_thread(engine.containers.list, filters={"label": labels}):
            await asyncio.to_thread(each.kill)
        while True:
            result = await agent.client.call_tool("execute_code", {"code": "kept", "kernel": "lossy"})
            if not result.is_error:
                break
        assert "7" in agent.text(result)
        load.count("lost gateway")
        await asyncio.sleep(min(20.0, max(0.0, load.until - time.monotonic())))


async def shell(*arguments: str) -> str:
    """Run a command as a person does, and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(LONGEST):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


# -- what is counted


def of_process(pid: int) -> tuple[int, int, int]:
    """Return a process's bytes of memory, open descriptors and threads."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return int(status["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])  # noqa: PTH208


def children() -> list[int]:
    """Return our own child processes."""
    return [int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def left(engine: docker.DockerClient, world: Path) -> dict[str, int]:
    """Count all that sandboxes, kernels and bridges may leave behind."""
    label = f"{OWNER}={current_owner(os.environ)}"
    return {
        "containers": len(engine.containers.list(all=True, filters={"label": label})),
        "volumes": len(engine.volumes.list(filters={"label": label})),
        "networks": len(engine.networks.list(filters={"label": label})),
        "files in the runtime directory": len(list((world / "runtime").iterdir())),
        "processes": len(children()),
    }


async def sample(load: Load, servers: list[int], begin: float) -> list[Sample]:
    """Look at the servers every few seconds until the end."""
    samples: list[Sample] = []
    while not load.is_over:
        await asyncio.sleep(SAMPLE)
        cells, load.cells = load.cells, []
        calls, load.calls = load.calls, 0
        memory, descriptors, threads = map(sum, zip(*map(of_process, servers), strict=True))
        samples.append(Sample(time.monotonic() - begin, calls, cells, memory, descriptors, threads))
    return samples


# -- the run


@asynccontextmanager
async def stdio(name: str) -> AsyncIterator[tuple[Agent, int]]:
    """Start a server over stdio; yields its client and its process."""
    before = set(children())
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "bridge", "serve"], env=dict(os.environ))
    async with Client(parameters) as client:
        (pid,) = set(children()) - before
        yield Agent(client), pid


async def run(minutes: float, world: Path) -> tuple[Load, list[Sample], dict[str, tuple[int, int]]]:
    """Have it all run; returns what was done, the samples, and each count before and after."""
    engine = docker.from_env(timeout=30)
    before = left(engine, world)
    host = subprocess.Popen(
        [sys.executable, "-m", "ipykernel_launcher", "-f", str(world / "runtime" / "kernel-soak.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    served = serving.start(world / "token")
    try:
        async with AsyncExitStack() as stack:
            first, pid = await stack.enter_async_context(stdio("first"))
            second = await stack.enter_async_context(served.client("second"))
            third = await stack.enter_async_context(served.client("third", "legacy"))
            fourth, _ = await stack.enter_async_context(stdio("fourth"))
            await first.call("start_sandbox", name="shared")
            await third.call("connect_to_kernel", connection_file="shared")
            while (await second.client.call_tool("connect_to_kernel", {"connection_file": "kernel-soak"})).is_error:
                await asyncio.sleep(0.2)
            begin = time.monotonic()
            load = Load(begin + minutes * 60)
            everything: list[Operation] = [prints, shows, fails, is_read_on, looks]
            async with asyncio.TaskGroup() as group:
                group.create_task(work(load, first, "shared", [*everything, moves]))
                group.create_task(work(load, second, "kernel-soak", everything))
                group.create_task(work(load, third, "shared", [fails, looks]))
                group.create_task(person(load, "shared"))
                group.create_task(come_and_go(load, fourth))
                group.create_task(lose_gateways(load, first, engine))
                sampling = group.create_task(sample(load, [pid, served.process.pid], begin))
            for name in ("shared", "lossy"):
                await first.call("stop_sandbox", kernel=name)
    finally:
        served.stop()
        host.kill()
        host.wait()
        (world / "runtime" / "kernel-soak.json").unlink(missing_ok=True)
    after = left(engine, world)
    engine.close()
    return load, sampling.result(), {name: (before[name], after[name]) for name in before}


def rows(samples: list[Sample]) -> list[list[Sample]]:
    """Divide the run into parts of the same length."""
    end = samples[-1].at
    return [[each for each in samples if end * n / ROWS < each.at <= end * (n + 1) / ROWS] for n in range(ROWS)]


def seconds(part: list[Sample]) -> tuple[list[float], list[float]]:
    """Return what the trivial cells took, sorted: through a bridge, and without one."""
    ours, raw = zip(*itertools.chain.from_iterable(each.cells for each in part), strict=True)
    return sorted(ours), sorted(raw)


def ratio(part: list[Sample]) -> float:
    """Return how many times as long a trivial cell takes through a bridge, at the median."""
    ours, raw = map(statistics.median, seconds(part))
    return ours / raw


def problems(parts: list[list[Sample]], counts: dict[str, tuple[int, int]]) -> list[str]:
    """Return what is out of bounds: the last part is held against the second, since the first one warms up."""
    early, late = parts[1], parts[-1]
    found = [f"{name}: {before} before, {after} after" for name, (before, after) in counts.items() if before != after]
    if ratio(late) > SLOWER * ratio(early):
        times = f"{ratio(late):.1f} times as long as without a bridge"
        found.append(f"a trivial cell takes {times} at the end, and {ratio(early):.1f} times at the beginning")
    memory = [statistics.median(each.memory for each in part) for part in (early, late)]
    if memory[1] > LARGER * memory[0] + SLACK:
        found.append(f"the servers' memory has grown from {memory[0] / 2**20:.0f} to {memory[1] / 2**20:.0f} MiB")
    for what in ("descriptors", "threads"):
        least = [min(getattr(each, what) for each in part) for part in (early, late)]
        if least[1] > least[0] + 5:
            found.append(f"the servers' {what} have grown from {least[0]} to {least[1]}")
    return found


def table(load: Load, parts: list[list[Sample]], counts: dict[str, tuple[int, int]], found: list[str]) -> str:
    """Return the result as Markdown."""
    run = f"`make soak`, {datetime.now(UTC):%Y-%m-%d}, {parts[-1][-1].at / 60:.0f} minutes"
    lines = [
        "# The last long run",
        "",
        f"{run}, Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
        "Memory, open files and threads are those of both servers together. A trivial cell's time is held against the",
        "same cell's by Jupyter's own client on the same kernel just after it: raw. Other programs share the machine.",
        "",
        "| until minute | calls/s | cell, median ms | 99th | raw, median ms | times raw | MiB | files | threads |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    begin = 0.0
    for part in parts:
        ours, raw = seconds(part)
        last = part[-1]
        calls = sum(each.calls for each in part) / (last.at - begin)
        begin = last.at
        lines.append(
            f"| {last.at / 60:.1f} | {calls:.1f} | {1000 * statistics.median(ours):.1f} | "
            f"{1000 * ours[int(len(ours) * 0.99)]:.1f} | {1000 * statistics.median(raw):.1f} | {ratio(part):.2f} | "
            f"{statistics.median(e.memory for e in part) / 2**20:.0f} | "
            f"{min(e.descriptors for e in part)}-{max(e.descriptors for e in part)} | "
            f"{min(e.threads for e in part)}-{max(e.threads for e in part)} |"
        )
    lines += ["", "| done | times |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {times} |" for name, times in sorted(load.done.items())]
    lines += ["", "| left | before | after |", "|---|---|---|"]
    lines += [f"| {name} | {before} | {after} |" for name, (before, after) in counts.items()]
    lines += ["", "Out of bounds: " + ("; ".join(found) or "nothing") + "."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, write the table; returns the exit code."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        world = Path(directory)
        (world / "runtime").mkdir(mode=0o700)
        os.environ |= {
            "JUPYTER_RUNTIME_DIR": str(world / "runtime"),
            "IPYTHONDIR": str(world / "ipython"),
            "XDG_CONFIG_HOME": str(world / "config"),
            "XDG_STATE_HOME": str(world / "state"),
            "KERNEL_BRIDGE_OWNER": f"soak-{uuid.uuid4().hex[:8]}",
        }
        try:
            load, samples, counts = asyncio.run(run(minutes, world))
        finally:
            subprocess.run([sys.executable, "-m", "bridge", "gc", "--all"], check=False)
    parts = rows(samples)
    found = problems(parts, counts)
    RESULT.write_text(table(load, parts, counts, found), encoding="utf-8")
    sys.stdout.write(RESULT.read_text(encoding="utf-8"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
