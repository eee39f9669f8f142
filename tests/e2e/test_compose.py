"""`docker compose up` alone: the kernel, its gateway and the bridge, as the person, the IDE and the agent use them."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import KernelManager
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from bridge.connection import load
from bridge.launchers.docker.composed import current_owner
from bridge.launchers.docker.document import Documents, Facts, documents
from bridge.launchers.docker.verification import container_problems, inside_problems, look_inside, network_problems
from bridge.policy import SandboxRequest, built_in, decide
from tests.composed import SOON, Project, build_images, project
from tests.e2e.conftest import Agent, Command, Connect
from tests.e2e.terminals import ctrl_d, left, terminal
from tests.jupyter import Api

pytestmark = pytest.mark.usefixtures("image_tag")

FREEZE = """
import os, pathlib, signal
for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"ipykernel" + b"_launcher" in each.read_bytes():
        os.kill(int(each.parent.name), signal.SIGSTOP)
"""
SERVICES = ("keys", "files", "kernel", "gateway", "bridge", "lab")
ROOT = {"keys": ["CHOWN"], "files": ["SETGID", "SETUID"]}
"""What begins as root, and with which capabilities."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project for the tests that leave its kernel alive."""
    build_images()
    with project(tmp_path_factory.mktemp("compose") / "shared", "shared") as made:
        made.up()
        yield made


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Any]:
    """Make a project that a test may break."""
    build_images()
    return lambda name, **more: project(tmp_path / name, name, **more)


def run(command: Command, kernel: str, code: str) -> str:
    done = command("run", kernel, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def listed(command: Command) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads(command("ls", "--json").stdout)["kernels"]}


# -- one kernel for everybody


def test_the_console_the_shell_and_an_ide_are_on_the_same_variables(
    shared: Project, command: Command, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(command, "shared", "theirs = 41")
    with terminal("jupyter", "console", "--existing", str(shared.connection_file), kind="xterm") as child:
        child.expect(r"\]: ")
        child.send("mine = theirs + 1; print('it', 'is', mine)\r")
        child.expect("it is 42")
        ctrl_d(child, "Do you really want to exit")
        child.send("y\r")
        assert left(child) == 0
    assert run(command, str(shared.connection_file), "print(mine)") == "42"
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    installed = command("ide", "install", "shared")
    assert installed.returncode == 0, installed.stderr
    (spec,) = (tmp_path / "data" / "kernels").iterdir()
    ide = KernelManager(kernel_name=spec.name)
    ide.start_kernel()
    try:
        client = ide.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=SOON)
        assert client.execute("ide = mine", reply=True, timeout=SOON)["content"]["status"] == "ok"
        client.stop_channels()
    finally:
        ide.shutdown_kernel()
        ide.cleanup_resources()
    assert run(command, "shared", "print(ide)") == "42"


def test_it_is_listed_with_the_other_kernels_and_told_all_about(shared: Project, command: Command) -> None:
    (found,) = json.loads(command("ls", "--json").stdout)["kernels"]
    assert found["name"] == "shared"
    assert (found["kind"], found["state"], found["network"]) == ("sandbox", "alive", "isolated")
    assert found["connection_file"] == str(shared.connection_file)
    told = command("status", "shared").stdout
    assert str(shared.connection_file) in told
    assert "supervisor  started  epoch 1" in command("logs", "shared").stdout


def test_up_again_changes_nothing_for_those_who_are_there(shared: Project, command: Command) -> None:
    shared.up()  # the image's tag may have been given to another image since the first time
    run(command, "shared", "kept = 1")
    file, token, started = shared.connection_file.read_text(), shared.token, shared.inspect("kernel")["State"]
    shared.up()
    assert (shared.connection_file.read_text(), shared.token) == (file, token)
    assert shared.inspect("kernel")["State"]["StartedAt"] == started["StartedAt"]
    assert run(command, "shared", "print(kept)") == "1"


@pytest.mark.anyio
async def test_an_agent_on_the_host_connects_to_it_by_its_name(
    shared: Project, connect: Connect, command: Command
) -> None:
    async with connect() as agent:
        assert "shared" in await agent.call("connect_to_kernel", connection_file="shared")
        await agent.run("agents = 1")
        assert run(command, "shared", "print(agents)") == "1"
        assert "docker compose" in await agent.refused("stop_sandbox", kernel="shared")
        assert await agent.run("print(agents)") == "1"  # it was not disconnected either
        assert "all earlier variables are gone" in await agent.call("restart_kernel")
        assert await agent.run("print('agents' in dir())") == "False"


# -- what only compose may do, and what the bridge may


def test_only_compose_ends_it_and_the_bridge_says_how(shared: Project, command: Command) -> None:
    run(command, "shared", "kept = 2")
    stopped = command("stop", "shared")
    assert stopped.returncode == 2
    assert f"docker compose in {shared.directory}" in stopped.stderr
    assert "`docker compose down`" in stopped.stderr
    assert command("gc", "--all").returncode == 0
    assert run(command, "shared", "print(kept)") == "2"
    taken = command("up", "shared")
    assert taken.returncode == 3
    assert "docker compose project's kernel is named shared already" in taken.stderr


def test_no_ide_can_own_it(shared: Project, command: Command, tmp_path: Path) -> None:
    run(command, "shared", "kept = 3")
    file = str(tmp_path / "ide.json")
    write_connection_file(file, key=b"a key of the IDE")
    refused = command("relay", "--kernel", "shared", "--owner", file)
    assert refused.returncode == 2
    assert "one of docker compose, can be owned by no IDE" in refused.stderr
    assert run(command, "shared", "print(kept)") == "3"


def test_a_restart_from_the_shell_empties_it_under_the_same_file(shared: Project, command: Command) -> None:
    run(command, "shared", "gone = 1")
    before = shared.connection_file.read_text()
    assert command("restart", "shared").returncode == 0
    assert run(command, "shared", "print('gone' in dir())") == "False"
    assert shared.connection_file.read_text() == before


# -- sealed


OWN_LABELS = ("connection-file", "workspace", "workspace-mode", "sockets", "egress", "ends")


def asked_for(kernel: dict[str, Any], gateway: dict[str, Any], of: Project) -> Documents:
    """What the launcher would ask the engine for, with what compose can only do otherwise; all of that is here."""
    uid = int(of.settings.get("KERNEL_UID", 199_999))
    facts = Facts(
        owner=current_owner(),
        start=of.directory.name,
        image_id=kernel["Image"],
        image_environment=(),
        uid=uid,
        gid=uid,
        connection_file=of.connection_file,
        timezone=os.environ.get("TZ", "UTC"),
        engine_cpus=2,
    )
    asked = documents(decide(built_in(), SandboxRequest(name=of.name)), facts)
    for document, found in ((asked.kernel, kernel), (asked.gateway, gateway)):
        # labels of its own; it ends when compose ends it
        document["Labels"] = {
            name: value for name, value in document["Labels"].items() if name.rpartition(".")[2] not in OWN_LABELS
        }
        # compose has no field for masked paths: the engine's own list is in force, which ours is longer than
        own = found["HostConfig"]["MaskedPaths"]
        assert {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} <= set(own)
        document["HostConfig"]["MaskedPaths"] = own
        # nor does it tell the volume's options with the mount: they are looked at inside, below
        for mount in document["HostConfig"]["Mounts"]:
            del mount["VolumeOptions"]["Labels"], mount["VolumeOptions"]["DriverConfig"]
            mount["Source"] = f"{of.directory.name}_sockets_{uid}"
    # there is no check of the kernel's, which would run beside foreign code; the image has none either
    asked.kernel["Healthcheck"] = None
    asked.gateway["Healthcheck"] = gateway["Config"]["Healthcheck"]
    assert asked.gateway["Healthcheck"]["Test"][-1] == "/opt/kernel-bridge/greeting.py"
    # the key comes from a volume that it can only read, in place of standard input
    asked.kernel["Cmd"] = [*asked.kernel["Cmd"], "/run/kernel-bridge-key/orders.json"]
    asked.kernel.update(OpenStdin=False, StdinOnce=False)
    key = {"Type": "volume", "Source": f"{of.directory.name}_key", "Target": "/run/kernel-bridge-key", "ReadOnly": True}
    asked.kernel["HostConfig"]["Mounts"].append(key)
    # and the ports are those of .env; the names of the image's user stay in the gateway's environment
    for number, name in enumerate(("SHELL", "IOPUB", "STDIN", "CONTROL", "HEARTBEAT"), 5001):
        asked.gateway["HostConfig"]["PortBindings"][f"{number}/tcp"][0]["HostPort"] = of.settings[f"KERNEL_{name}_PORT"]
    asked.gateway["Env"] += ["HOME=/home/kernel", "USER=kernel", "LOGNAME=kernel"]
    return asked


@pytest.mark.parametrize("service", ["kernel", "gateway"])
def test_it_is_sealed_as_the_launcher_seals_a_sandbox(shared: Project, service: str) -> None:
    kernel, gateway = shared.inspect("kernel"), shared.inspect("gateway")
    asked = asked_for(kernel, gateway, shared)
    document, found = {"kernel": (asked.kernel, kernel), "gateway": (asked.gateway, gateway)}[service]
    for each in (found, document):
        each["HostConfig"]["Mounts"].sort(key=lambda mount: mount["Target"])
    assert container_problems(document, found) == []
    assert network_problems(document, found) == []
    looked = shared.compose("exec", "--no-TTY", service, *look_inside()).stdout
    size = f"size={64 * 1024},nosuid,nodev,noexec"
    options = {"DriverConfig": {"Options": {"o": size}}}
    sockets = {"Type": "volume", "Target": "/run/kernel-bridge", "ReadOnly": False, "VolumeOptions": options}
    document["HostConfig"]["Mounts"] = [sockets]
    assert inside_problems(document, looked) == []


def test_the_rest_is_sealed_too_and_nothing_has_the_engines_socket(shared: Project) -> None:
    shared.compose("--profile=lab", "up", "--detach", "--wait")
    for service in SERVICES:
        found = shared.inspect(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert sorted(host["CapAdd"] or []) == ROOT.get(service, []), service
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert not host["Privileged"]
        assert host["Memory"] == host["MemorySwap"] > 0
        assert host["PidsLimit"] > 0
        assert found["Config"]["User"] == ("0:0" if service in ROOT else "199999:199999")
        assert host["NetworkMode"] == "none" or service not in ROOT
        binds = [each["Source"] for each in found["Mounts"] if each["Type"] == "bind"]
        assert binds == ([str(shared.directory)] if service == "files" else []), service
        written = {each["Destination"] for each in found["Mounts"] if each["RW"]}
        assert ("/run/kernel-bridge-key" in written) is ("/run/kernel-bridge-token" in written) is (service == "keys")
        for bound in (host["PortBindings"] or {}).values():
            assert {each["HostIp"] for each in bound} == {"127.0.0.1"}


def test_the_key_and_the_token_are_in_nothing_that_the_engine_tells(shared: Project) -> None:
    secrets = [load(shared.connection_file).key, shared.token]
    said = shared.compose("logs", "--no-color").stdout
    for service in SERVICES:
        container = shared.inspect(service)
        said += json.dumps(container)
        if service not in ROOT:
            top = subprocess.run(["docker", "top", container["Id"]], capture_output=True, text=True, check=True)
            said += top.stdout
    assert len(said) > 1000
    for secret in secrets:
        assert len(secret) == 64
        assert secret not in said


def test_code_in_the_kernel_finds_no_token_and_changes_no_key(shared: Project, command: Command) -> None:
    found = run(
        command,
        "shared",
        "import os, glob\n"
        "print(glob.glob('/run/kernel-bridge-token*'), glob.glob('/project*'))\n"
        "for name in ('orders.json', 'secret', 'new'):\n"
        "    try: open(f'/run/kernel-bridge-key/{name}', 'a')\n"
        "    except OSError as error: print(error.strerror)",
    )
    assert found.splitlines() == ["[] []", "Read-only file system", "Permission denied", "Read-only file system"]


# -- on the host


def test_what_is_made_on_the_host_is_private_and_belongs_to_the_projects_owner(make: Callable[..., Any]) -> None:
    with make("theirs") as theirs:
        os.chown(theirs.directory, 4321, 5432)
        theirs.compose("up", "files")  # until it is done
        place = theirs.connection_file.parent
        for each, mode in ((place, 0o700), (theirs.connection_file, 0o600), (place / "token", 0o600)):
            about = each.stat()
            assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (4321, 5432, mode), each
        assert (place / ".gitignore").read_text() == "*\n"  # the key is in no commit


def test_another_users_compose_kernel_is_not_ours_to_see(make: Callable[..., Any], command: Command) -> None:
    with make("theirs") as theirs:
        os.chown(theirs.directory, 4321, 5432)
        theirs.up("gateway")
        assert "theirs" not in listed(command)
        os.chown(theirs.connection_file, os.geteuid(), os.getegid())
        assert listed(command)["theirs"] == "alive"


def test_after_down_nothing_runs_and_the_file_that_is_left_is_told_to_be_stale(
    make: Callable[..., Any], command: Command
) -> None:
    with make("brief") as brief:
        brief.up()
        key = load(brief.connection_file).key
        brief.compose("down")
        assert not brief.containers()
        assert "brief" not in listed(command)
        told = command("run", str(brief.connection_file), "-c", "1")
        assert told.returncode == 4
        assert f"`docker compose up` in {brief.directory}" in told.stderr
        brief.up("gateway")
        assert load(brief.connection_file).key == key  # what was told to an IDE or an agent is still right
        assert run(command, "brief", "print('anew')") == "anew"
        brief.compose("stop")
        assert listed(command)["brief"].startswith("ended: stopped from outside")
        assert command("gc", "--all").returncode == 0
        assert len(brief.containers()) == 4


def test_a_port_that_is_taken_is_named_and_another_one_in_env_helps(make: Callable[..., Any], command: Command) -> None:
    with make("first") as first, make("second") as second:
        first.up("gateway")
        own = second.settings["KERNEL_IOPUB_PORT"]
        second.write_settings(KERNEL_IOPUB_PORT=first.settings["KERNEL_IOPUB_PORT"])
        refused = second.compose("up", "--detach", "gateway", check=False)
        assert refused.returncode != 0
        assert f"127.0.0.1:{first.settings['KERNEL_IOPUB_PORT']}" in refused.stderr
        second.write_settings(KERNEL_IOPUB_PORT=own)
        second.up("gateway")
        assert load(second.connection_file).iopub_port == int(own)
        assert run(command, "second", "print('there')") == "there"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"KERNEL_NAME": "Not A Name"}, "KERNEL_NAME is 'Not A Name'"),
        ({"KERNEL_CPUS": "1.5"}, "write a whole number"),
        ({"KERNEL_UID": "0"}, "not that of root"),
        ({"KERNEL_IOPUB_PORT": "1", "KERNEL_SHELL_PORT": "1"}, "must be five different ports"),
    ],
)
def test_a_wrong_line_in_env_is_told_before_anything_runs(
    make: Callable[..., Any], line: dict[str, str], sentence: str
) -> None:
    with make("wrong") as wrong:
        wrong.write_settings(**line)
        assert wrong.compose("up", "--detach", check=False).returncode != 0
        assert sentence in wrong.compose("logs", "--no-color").stdout


# -- lives and deaths


def test_a_kernel_that_dies_is_there_again_and_its_container_never_left(shared: Project, command: Command) -> None:
    before = shared.inspect("kernel")["State"]["StartedAt"]
    died = command("run", "shared", "-c", "import os; os._exit(7)")
    assert died.returncode == 4
    assert "exit status 7" in died.stderr
    assert run(command, "shared", "print('again')") == "again"
    assert shared.inspect("kernel")["State"]["StartedAt"] == before


def test_a_kernels_container_that_is_restarted_has_the_same_file_and_the_others_come_along(
    make: Callable[..., Any], command: Command
) -> None:
    with make("again") as again:
        again.up()
        before = again.connection_file.read_text()
        run(command, "again", "gone = 1")
        again.compose("restart")
        again.up()
        assert again.connection_file.read_text() == before
        assert run(command, "again", "print('gone' in dir())") == "False"


def test_the_health_check_fails_where_the_kernel_or_the_way_to_it_does(make: Callable[..., Any]) -> None:
    with make("sick") as sick:
        sick.up("gateway")
        assert "Healthcheck" not in sick.inspect("kernel")["Config"]  # beside foreign code none is run
        check = sick.inspect("gateway")["Config"]["Healthcheck"]["Test"][1:]
        assert sick.execute("gateway", *check) == 0
        assert sick.execute("kernel", "/opt/kernel/bin/python", "-c", FREEZE) == 0
        assert sick.execute("gateway", *check) == 1


def test_other_ports_and_another_image_of_the_bridge_leave_the_kernel_and_its_variables(
    make: Callable[..., Any], command: Command
) -> None:
    with make("calm") as calm, make("other") as other:
        calm.up()
        run(command, "calm", "kept = 1")
        ports = {name: value for name, value in other.settings.items() if name.endswith("_PORT")}
        calm.write_settings(**ports)
        text = (calm.directory / "compose.yaml").read_text()
        for service in ("files", "bridge"):
            head = f"\n  {service}:\n    <<: *bridge\n"
            assert head in text
            text = text.replace(head, f"{head}    labels: {{as-another-image: would-be}}\n")
        (calm.directory / "compose.yaml").write_text(text)
        calm.up()
        assert load(calm.connection_file).shell_port == int(ports["KERNEL_SHELL_PORT"])
        assert run(command, "calm", "print(kept)") == "1"


def test_a_kernel_of_another_uid_starts_in_the_same_project(make: Callable[..., Any], command: Command) -> None:
    with make("moved") as moved:
        moved.up("gateway")
        moved.compose("down")
        moved.write_settings(KERNEL_UID="199998")
        moved.up("gateway")
        assert run(command, "moved", "import os; print(os.getuid())") == "199998"


def test_two_projects_with_one_name_are_told_apart_and_never_taken_for_each_other(
    make: Callable[..., Any], command: Command
) -> None:
    with make("one") as one, make("two") as two:
        two.name = "one"
        two.write_settings(KERNEL_NAME="one")
        for each in (one, two):
            each.up("gateway")
        for line in (("run", "one", "-c", "1"), ("restart", "one"), ("stop", "one")):
            refused = command(*line)
            assert refused.returncode == 2, line
            assert str(one.connection_file) in refused.stderr
            assert str(two.connection_file) in refused.stderr


# -- JupyterLab


@pytest.mark.anyio
async def test_a_profile_adds_jupyterlab_with_the_shared_kernel_and_no_other(shared: Project, command: Command) -> None:
    shared.compose("--profile=lab", "up", "--detach", "--wait")
    run(command, "shared", "agents = 20")
    lab = Api(int(shared.settings["LAB_PORT"]), "/", shared.token)
    (spec,) = lab.ask("GET", "kernelspecs")["kernelspecs"].values()
    assert "shared" in spec["spec"]["display_name"]
    assert lab.answer("GET", "kernels", Authorization="token wrong")[0] == 403
    assert lab.answer("GET", "kernels", Host="rebound.example")[0] == 403
    kernel = lab.ask("POST", "kernels", {"name": spec["name"]})["id"]
    assert await lab.run(kernel, "mine = agents + 2; print(mine)") == "22\n"
    assert run(command, "shared", "print(mine)") == "22"
    assert shared.token not in shared.compose("logs", "--no-color", "lab").stdout


# -- the agent


@pytest.fixture(params=["auto", "legacy"], ids=["modern", "legacy"])
def agent(request: pytest.FixtureRequest, shared: Project) -> Callable[[], AbstractAsyncContextManager[Agent]]:
    """Connect as an agent does for which the printed line was pasted."""
    printed = shared.compose("logs", "--no-color", "files").stdout.splitlines()
    line = next(line for line in printed if "claude mcp add" in line)
    words = shlex.split(line.partition("|")[2])
    assert words[:6] == ["claude", "mcp", "add", "--transport", "http", "kernel"]
    header = words[words.index("--header") + 1]
    pasted = subprocess.run(
        ["sh", "-c", f'printf %s "{header}"'], cwd=shared.directory, capture_output=True, text=True, check=True
    ).stdout
    name, _, value = pasted.partition(": ")

    @asynccontextmanager
    async def connected() -> AsyncIterator[Agent]:
        async with httpx2.AsyncClient(headers={name: value}, timeout=SOON) as http:
            transport = streamable_http_client(words[6], http_client=http)
            async with Client(transport, mode=request.param) as client:
                assert (client.protocol_version >= "2026") is (request.param == "auto")
                yield Agent(client)

    return connected


@pytest.mark.anyio
async def test_an_agent_with_the_printed_line_is_on_the_same_variables(
    agent: Callable[[], AbstractAsyncContextManager[Agent]], command: Command
) -> None:
    run(command, "shared", "theirs = 41")
    async with agent() as connected:
        assert await connected.run("mine = theirs + 1; print(mine)", kernel="shared") == "42"
        assert run(command, "shared", "print(mine)") == "42"
        (listed,) = json.loads(await connected.call("list_kernels"))["kernels"]
        assert (listed["name"], listed["kind"], listed["state"]) == ("shared", "sandbox", "alive")
        assert "name the kernel as `kernel`: shared" in await connected.refused("execute_code", code="1")


@pytest.mark.anyio
async def test_an_agent_can_restart_the_kernel_and_is_told_of_its_end_without_an_engine(
    agent: Callable[[], AbstractAsyncContextManager[Agent]], command: Command
) -> None:
    async with agent() as connected:
        await connected.run("gone = 1", kernel="shared")
        assert "all earlier variables are gone" in await connected.call("restart_kernel", kernel="shared")
        assert await connected.run("print('gone' in dir())", kernel="shared") == "False"
        assert "has ended" in await connected.refused("execute_code", code="import os; os._exit(1)", kernel="shared")
        told = await connected.run("print('again')", kernel="shared")
        assert "all earlier variables are gone" in told
        assert told.endswith("again")


BUSY = {
    "python": "while True: pass",
    "stubborn": "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass",
    "native": "import ctypes; ctypes.CDLL(None).sleep(600)",
}


@pytest.mark.anyio
@pytest.mark.parametrize("code", BUSY.values(), ids=BUSY)
async def test_an_agent_can_restart_a_kernel_that_is_busy(
    agent: Callable[[], AbstractAsyncContextManager[Agent]], code: str
) -> None:
    async with agent() as connected:
        assert "Still running" in await connected.run(code, kernel="shared", timeout=1)
        assert "all earlier variables are gone" in await connected.call("restart_kernel", kernel="shared")
        assert await connected.run("print('again')", kernel="shared") == "again"


@pytest.mark.anyio
async def test_what_only_a_bridge_on_the_host_could_do_is_refused_in_words(
    agent: Callable[[], AbstractAsyncContextManager[Agent]],
) -> None:
    async with agent() as connected:
        assert "max_running" in await connected.refused("start_sandbox")
        assert "disconnect" in await connected.refused("stop_sandbox", kernel="shared")
        elsewhere = await connected.refused("connect_to_kernel", connection_file="/etc/passwd")
        assert "The policy allows connection files only below" in elsewhere
