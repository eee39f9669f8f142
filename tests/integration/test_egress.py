"""Egress in real sandboxes, on an engine of the tests' own whose names a DNS server of theirs resolves.

Beside the index that may be reached there are other listeners on the same machine, and each of them writes down who
came. So that nothing else was reached is seen from both ends.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.certificates import certified
from tests.engines import SOON, OtherEngine, load_image, other_engine
from tests.images import python_image

BRIDGE = "172.17.0.1"

# In the engine's network: the names, the index, and what must not be reached.
OUTSIDE = """
import asyncio, http.server, json, os, socket, ssl, struct, sys, threading
address, directory, certificate, key, log = sys.argv[1:]
os.chdir(directory)
lines = open(log, "a", buffering=1)
NAMES = {
    "index.example": [address],
    "private.example": [address],
    "metadata.example": ["169.254.169.254"],
    "own.example": ["127.0.0.1"],
    "mixed.example": ["127.0.0.1", address],
}

def note(what, who):
    lines.write(json.dumps([what, who]) + "\\n")

def names(server):
    while True:
        data, client = server.recvfrom(2048)
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        question, (kind,) = data[12 : at + 5], struct.unpack(">H", data[at + 1 : at + 3])
        name = ".".join(labels).lower()
        note("dns", name)
        found = NAMES.get(name, []) if kind == 1 else []
        head = data[:2] + struct.pack(">HHHHH", 0x8180 if name in NAMES else 0x8183, 1, len(found), 0, 0)
        answers = [b"\\xc0\\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(each) for each in found]
        server.sendto(head + question + b"".join(answers), client)

class Index(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        note(self.server.kind, getattr(self, "path", "no request"))

def served(kind, context=None):
    server = http.server.ThreadingHTTPServer((address, 0), Index)
    server.kind = kind
    server.handle_error = lambda *_: None  # what is no TLS
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]

def passed_on(server):
    while True:
        end, _ = server.accept()
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            head += end.recv(1)
        note("upstream", head.decode())
        far = socket.create_connection((address, ports["index"]))
        end.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        for source, sink in ((end, far), (far, end)):
            threading.Thread(target=copied, args=(source, sink), daemon=True).start()

def copied(source, sink):
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def listened(kind, server):
    while True:
        if server.type == socket.SOCK_DGRAM:
            note(kind, str(server.recvfrom(99)[1]))
        else:
            end, client = server.accept()
            note(kind, str(client))
            end.close()

resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind((address, 53))
threading.Thread(target=names, args=(resolver,), daemon=True).start()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
ports = {"index": served("index", context), "plain": served("plain")}
for kind, type_ in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
    server = socket.socket(socket.AF_INET, type_)
    server.bind((address, 0))
    if type_ == socket.SOCK_STREAM:
        server.listen()
    ports[kind] = server.getsockname()[1]
    threading.Thread(target=listened, args=(kind, server), daemon=True).start()
server = socket.create_server((address, 0))
ports["upstream"] = server.getsockname()[1]
threading.Thread(target=passed_on, args=(server,), daemon=True).start()
print(json.dumps(ports), flush=True)
sys.stdin.read()
"""

# In a kernel: what every test there asks with.
ASK = """
import json, os, socket, time

def ask(data, port=3128, host="127.0.0.1", keep=False):
    end = socket.create_connection((host, port), 20)
    end.sendall(data if isinstance(data, bytes) else data.encode())
    if keep:
        return end
    told = b""
    with end:
        while chunk := end.recv(65536):
            told += chunk
    return told.decode()

def connect(target):
    told = ask(f"CONNECT {target} HTTP/1.1\\r\\n\\r\\nnonsense\\r\\n\\r\\n")
    return told.split(" ")[1] if told.startswith("HTTP/1.1 ") else told

def shown(value):
    print(json.dumps(value))

"""


@dataclass(frozen=True)
class World:
    """An engine with a sandbox that may reach one index, and all that is around it."""

    engine: OtherEngine
    ports: dict[str, int]
    policy: Path
    log: Path

    def run(self, code: str, name: str = "reaching") -> Any:
        """Run code in a sandbox's kernel; returns what it has `shown`."""
        done = self.engine.command("run", name, "-c", ASK + textwrap.dedent(code))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def noted(self, *kinds: str) -> set[str]:
        """What was seen outside: names that were asked for, and who came to a listener."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return {who for kind, who in lines if kind in kinds}

    def container(self, client: docker.DockerClient, role: str, name: str = "reaching") -> Any:
        labels = [f"io.kernel-bridge.role={role}", f"io.kernel-bridge.name={name}"]
        (found,) = client.containers.list(filters={"label": labels})
        return found


def wheel(directory: Path) -> None:
    """Make the simplest of packages, and an index with it."""
    (directory / "simple" / "thing").mkdir(parents=True)
    files = {
        "thing.py": "FOUND = 'through the gateway'\n",
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files["thing-1.0.dist-info/RECORD"] = record + "thing-1.0.dist-info/RECORD,,\n"
    file = "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(directory / "simple" / "thing" / file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    (directory / "simple" / "thing" / "index.html").write_text(f'<a href="{file}">{file}</a>')


def written(ports: dict[str, int], certificate: Path) -> str:
    """The policy: one index by its name, and names that lead elsewhere."""
    index = ports["index"]
    entries = [
        {"host": "index.example", "port": index, "allow_addresses": [f"{BRIDGE}/32"]},
        {"host": "mixed.example", "port": index, "allow_addresses": [f"{BRIDGE}/32"]},
        {"host": "private.example", "port": index},
        {"host": "metadata.example", "port": 80},
        {"host": "own.example", "port": 5001},
    ]
    return json.dumps({"version": 1, "sandbox": {"egress": entries, "ca_bundle": str(certificate)}})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    served, runtime, log = directory / "served", directory / "runtime", directory / "seen"
    wheel(served)
    runtime.mkdir(mode=0o700)
    log.touch()
    certificate, key = certified(directory, dns="index.example", address=BRIDGE)
    tag = python_image()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as held:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
        engine = held.enter_context(other_engine(directory, f"--bip={BRIDGE}/16", f"--dns={BRIDGE}"))
        load_image(engine, tag)
        arguments = [BRIDGE, served, certificate, key, log]
        outside = subprocess.Popen(
            [*engine.entering("net"), sys.executable, "-c", OUTSIDE, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        held.callback(outside.wait, SOON)
        held.callback(outside.kill)
        assert outside.stdout is not None
        assert outside.stdin is not None
        held.callback(outside.stdout.close)
        held.callback(outside.stdin.close)
        ports = json.loads(outside.stdout.readline())
        policy = directory / "policy.yaml"
        policy.write_text(written(ports, certificate))
        policy.chmod(0o600)
        made = World(engine, ports, policy, log)
        started = engine.command("up", "reaching", "--policy", str(policy))
        assert started.returncode == 0, started.stderr
        assert f"It reaches index.example:{ports['index']}, mixed.example" in started.stderr
        yield made
        assert engine.command("gc", "--all").returncode == 0


def test_pip_installs_from_the_index_that_is_listed_by_its_name_and_its_certificate_is_trusted(world: World) -> None:
    found = world.run(f"""
        import subprocess, sys
        index = "https://index.example:{world.ports["index"]}/simple"
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--user", "--no-input", "--disable-pip-version-check",
             "--retries", "0", "--timeout", "20", "--index-url", index, "thing"],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        import thing, urllib.request
        page = urllib.request.urlopen(f"{{index}}/thing/", timeout=20).read().decode()
        shown([thing.FOUND, page])
    """)
    assert found[0] == "through the gateway"
    assert "thing-1.0-py3-none-any.whl" in found[1]
    assert "/simple/thing/" in world.noted("index")


def test_pip_finds_nothing_on_another_index(world: World) -> None:
    told = world.run("""
        import subprocess, sys
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--user", "--no-input", "--disable-pip-version-check",
             "--retries", "0", "--timeout", "20", "--index-url", "https://elsewhere.example/simple", "other"],
            capture_output=True, text=True)
        shown([done.returncode, done.stdout + done.stderr])
    """)
    assert told[0] == 1
    assert "No matching distribution found" in told[1]
    assert not {name for name in world.noted("dns") if "elsewhere" in name}


def test_no_other_pair_of_host_and_port_is_reached_and_none_is_even_looked_up(world: World) -> None:
    index, tcp = world.ports["index"], world.ports["tcp"]
    targets = [
        *(f"index.example:{tcp}", f"{BRIDGE}:{index}", f"{BRIDGE}:{tcp}", f"elsewhere.example:{index}"),
        *(f"secret-of-the-kernel.example:{index}", f"sub.index.example:{index}", f"index.example.evil.example:{index}"),
        *("169.254.169.254:80", "127.0.0.1:5001", "localhost:5001", "0.0.0.0:5001", "[::1]:5001", "kernel:5001"),
        *("[::ffff:172.17.0.1]:443", "2886795265:80", "0xac110001:80", "172.17.1:80"),
    ]
    assert world.run(f"shown([connect(each) for each in {targets}])") == ["403"] * len(targets)
    assert not {name for name in world.noted("dns") if "secret" in name or "elsewhere" in name or "evil" in name}
    assert world.noted("tcp") == set()


@pytest.mark.parametrize(
    ("name", "port", "what"),
    [
        ("private.example", None, "another container"),
        ("metadata.example", 80, "link-local"),
        ("own.example", 5001, "loopback"),
    ],
)
def test_a_listed_name_that_resolves_to_what_is_not_public_is_refused(
    world: World, name: str, port: int | None, what: str
) -> None:
    target = f"{name}:{port or world.ports['index']}"
    told = world.run(f'shown(ask("CONNECT {target} HTTP/1.1\\r\\n\\r\\n"))')
    assert told.startswith("HTTP/1.1 403 ")
    assert what in told or "a private address" in told
    assert name in world.noted("dns")


def test_of_a_name_with_several_addresses_only_the_allowed_one_is_used(world: World) -> None:
    assert world.run(f'shown(connect("mixed.example:{world.ports["index"]}"))') == "200"


def test_there_is_no_way_around_the_proxy(world: World) -> None:
    tried = world.run(f"""
        def reached(kind, address, port):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.settimeout(3)
                try:
                    probe.connect((address, port))
                    probe.send(b"x")
                except OSError:
                    return False
                return True
        def resolved(name):
            try:
                return bool(socket.getaddrinfo(name, 80))
            except OSError:
                return False
        ports = {world.ports!r}
        shown({{
            "tcp": reached(socket.SOCK_STREAM, "{BRIDGE}", ports["tcp"]),
            "index": reached(socket.SOCK_STREAM, "{BRIDGE}", ports["index"]),
            "udp": reached(socket.SOCK_DGRAM, "{BRIDGE}", ports["udp"]),
            "dns": reached(socket.SOCK_DGRAM, "{BRIDGE}", 53),
            "name": resolved("index.example"),
            "plain http": ask(f"GET http://index.example:{{ports['plain']}}/simple/ HTTP/1.1\\r\\n\\r\\n").split()[1],
            "other methods": ask("POST index.example:1 HTTP/1.1\\r\\nContent-Length: 1\\r\\n\\r\\nx").split()[1],
            "devices": sorted(os.listdir("/sys/class/net")) if os.path.exists("/sys/class/net") else [],
        }})
    """)
    devices = tried.pop("devices")
    assert "eth0" not in devices
    assert tried == {
        **dict.fromkeys(("tcp", "index", "udp", "dns", "name"), False),
        "plain http": "405",
        "other methods": "405",
    }
    assert world.noted("tcp", "udp", "plain") == set()


def test_the_proxys_socket_can_be_used_and_neither_removed_nor_replaced(world: World) -> None:
    tried = world.run("""
        def attempt(work, *arguments):
            try:
                work(*arguments)
            except OSError as error:
                return error.strerror
            return "done"
        place = "/run/kernel-bridge-egress"
        shown([
            os.listdir(place),
            attempt(os.unlink, f"{place}/proxy"),
            attempt(os.rename, f"{place}/proxy", f"{place}/other"),
            attempt(os.mkdir, f"{place}/new"),
            attempt(os.chmod, f"{place}/proxy", 0),
            attempt(socket.socket(socket.AF_UNIX).bind, f"{place}/new"),
        ])
    """)
    assert tried == [["proxy"], *["Read-only file system"] * 5]


def test_who_ends_the_forwarder_gains_nothing_and_it_comes_back(world: World) -> None:
    told = world.run(f"""
        import errno, signal
        def forwarders():
            found = []
            for each in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if b"forwarder.py" in open(f"/proc/{{each}}/cmdline", "rb").read():
                        found.append(int(each))
                except OSError:
                    pass
            return found
        told = []
        for _ in range(3):
            before = forwarders()
            for each in before:
                os.kill(each, signal.SIGKILL)
            # the port is the supervisor's: what asks meanwhile waits and is served, and nobody else can have it
            try:
                socket.create_server(("127.0.0.1", 3128))
                told.append("taken")
            except OSError as error:
                told.append(error.errno == errno.EADDRINUSE)
            told.append(connect("index.example:{world.ports["index"]}"))
            told.append(connect("elsewhere.example:443"))
            assert forwarders() and not set(before) & set(forwarders())
        shown(told)
    """)
    assert told == [True, "200", "403"] * 3


# As root outside, where it has what code inside would have to take from the forwarder.
SHUT_DOWN = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
supervisor = os.pidfd_open(pid)
for number in map(int, os.listdir(f"/proc/{pid}/fd")):
    taken = libc.syscall(438, supervisor, number, 0)  # pidfd_getfd
    try:
        end = socket.socket(fileno=taken)
    except OSError:
        continue  # another kind of file
    if end.family == socket.AF_INET:
        print(*end.getsockname())
        end.shutdown(socket.SHUT_RDWR)
"""


def test_a_listener_of_the_forwarder_that_is_shut_down_is_replaced(world: World) -> None:
    target = f"index.example:{world.ports['index']}"
    with world.engine.asked() as client:
        supervisor = str(world.container(client, "kernel").attrs["State"]["Pid"])
    inside = [*world.engine.entering("pid", "mount"), sys.executable, "-c"]
    for _ in range(2):
        assert world.run(f"shown(connect('{target}'))") == "200"
        done = subprocess.run([*inside, SHUT_DOWN, supervisor], capture_output=True, text=True, check=True)
        assert done.stdout == "127.0.0.1 3128\n"
        told = world.run(f"""
            deadline, told = time.monotonic() + 20, ""
            while told != "200" and time.monotonic() < deadline:
                try:
                    told = connect("{target}")
                except OSError:
                    time.sleep(0.05)  # the new listener is not there yet
            shown(told)
        """)
        assert told == "200"


def test_the_forwarder_cannot_be_traced_so_nobody_has_its_listener(world: World) -> None:
    told = world.run("""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        (forwarder,) = (int(each) for each in os.listdir("/proc") if each.isdigit()
                        and b"forwarder.py" in open(f"/proc/{each}/cmdline", "rb").read())
        shown([libc.ptrace(16, forwarder, 0, 0), os.strerror(ctypes.get_errno())])
    """)
    assert told == [-1, "Operation not permitted"]


def test_a_flood_of_idle_connections_takes_nothing_but_the_kernels_own_way_out(world: World) -> None:
    told = world.run(f"""
        import contextlib, resource
        held, answers = [], []
        for _ in range(1500):
            try:
                held.append(ask("CONNECT index.exa", keep=True))
            except OSError as error:
                answers.append(error.strerror)
                break
        # most of them are turned away: by the proxy in words, by the forwarder at once
        gone = 0
        for each in held:
            each.settimeout(0.001)
            try:
                gone += each.recv(99)[:12] in (b"", b"HTTP/1.1 503")
            except OSError as error:
                gone += isinstance(error, ConnectionError)
        for each in held:
            each.close()
        deadline, last = time.monotonic() + 20, ""
        while last != "200" and time.monotonic() < deadline:
            time.sleep(0.1)
            with contextlib.suppress(ConnectionError):  # the proxy may still be closing what was held
                last = connect("index.example:{world.ports["index"]}")
        shown([len(held), gone >= len(held) - 200, last])
    """)
    assert told[0] > 500
    assert told[1:] == [True, "200"]
    with world.engine.asked() as client:
        gateway = world.container(client, "gateway")
        assert gateway.stats(stream=False)["memory_stats"]["usage"] < 48 << 20
        assert gateway.attrs["State"]["OOMKilled"] is False


def test_a_request_that_never_ends_is_ended(world: World) -> None:
    told = world.run("""
        started = time.monotonic()
        end = ask("CONNECT index.example:443 HTTP/1.1\\r\\nX: ", keep=True)
        end.settimeout(30)
        told = end.recv(999).decode().split()[1]
        shown([told, time.monotonic() - started < 20])
    """)
    assert told == ["408", True]


def test_what_follows_a_head_goes_to_the_far_end_and_is_no_second_request(world: World) -> None:
    index = world.ports["index"]
    told = world.run(f"""
        smuggled = "CONNECT {BRIDGE}:{world.ports["tcp"]} HTTP/1.1\\r\\n\\r\\n"
        refused = ask(f"CONNECT elsewhere.example:443 HTTP/1.1\\r\\n\\r\\n{{smuggled}}")
        body = ask(f"CONNECT index.example:{index} HTTP/1.1\\r\\nContent-Length: 5\\r\\n\\r\\n{{smuggled}}")
        opened = ask(f"CONNECT index.example:{index} HTTP/1.1\\r\\n\\r\\n{{smuggled}}")
        shown([refused.count("HTTP/1.1 "), refused.split()[1], body.split()[1], opened.count("HTTP/1.1 200")])
    """)
    assert told == [1, "403", "400", 1]
    assert world.noted("tcp") == set()


def test_each_refusal_and_each_tunnel_is_one_line_in_the_sandboxs_log(world: World) -> None:
    world.run('shown(connect("logged.example:443"))')
    told = world.engine.command("logs", "reaching", "--json")
    lines = [
        json.loads(each["text"]) for each in map(json.loads, told.stdout.splitlines()) if each["source"] == "gateway"
    ]
    (refused,) = [each for each in lines if each.get("asked") == "CONNECT logged.example:443"]
    assert refused["event"] == "refused"
    assert "index.example" in refused["text"]
    assert {each["target"] for each in lines if each["event"] == "opened"} <= {
        f"{name}.example:{world.ports['index']}" for name in ("index", "mixed")
    }


def test_a_gateway_that_comes_back_has_the_list_of_the_start_whatever_the_policy_says_by_then(world: World) -> None:
    with world.engine.asked() as client:
        before = world.container(client, "gateway")
        command = before.attrs["Config"]["Cmd"]
        before.kill()
        before.wait(timeout=SOON)
        text = world.policy.read_text()
        other = {"version": 1, "sandbox": {"egress": [{"host": BRIDGE, "port": world.ports["tcp"]}]}}
        world.policy.write_text(json.dumps(other))
        try:
            targets = [f"index.example:{world.ports['index']}", f"{BRIDGE}:{world.ports['tcp']}"]
            assert world.run(f"shown([connect(each) for each in {targets}])") == ["200", "403"]
        finally:
            world.policy.write_text(text)
        after = world.container(client, "gateway")
        assert after.id != before.id
        assert after.attrs["Config"]["Cmd"] == command
    assert world.noted("tcp") == set()


def test_after_a_restart_of_the_kernel_all_of_it_is_there_again(world: World) -> None:
    world.run('os.unlink("/run/kernel/certificates.pem"); shown(1)')
    assert world.engine.command("restart", "reaching").returncode == 0
    told = world.run(f"""
        import urllib.request
        page = urllib.request.urlopen("https://index.example:{world.ports["index"]}/simple/thing/", timeout=20)
        shown([page.status, os.environ["PIP_CERT"], oct(os.stat("/run/kernel/certificates.pem").st_mode)])
    """)
    assert told == [200, "/run/kernel/certificates.pem", "0o100600"]


def test_what_it_reaches_is_told_wherever_a_sandbox_is(world: World) -> None:
    status = world.engine.command("status", "reaching")
    assert f"reaches          index.example:{world.ports['index']}" in status.stdout
    told = subprocess.run(  # it asks no engine
        [sys.executable, "-m", "bridge", "policy", "explain", str(world.policy)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"reaches      index.example {world.ports['index']}, mixed.example" in told.stdout
    assert "(sandbox.egress, line 1)" in told.stdout


def test_behind_an_upstream_proxy_the_names_are_its_to_resolve_and_the_list_holds_all_the_same(
    world: World, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    entry = {"host": "inland.example", "port": 443}
    proxy = f"http://{BRIDGE}:{world.ports['upstream']}"
    policy.write_text(json.dumps({"version": 1, "sandbox": {"egress": [entry], "upstream_proxy": proxy}}))
    policy.chmod(0o600)
    started = world.engine.command("up", "through", "--policy", str(policy))
    assert started.returncode == 0, started.stderr
    try:
        targets = ["inland.example:443", "elsewhere.example:443", f"{BRIDGE}:{world.ports['upstream']}"]
        told = world.run(f"shown([connect(each) for each in {targets}])", "through")
    finally:
        assert world.engine.command("stop", "through").returncode == 0
    assert told == ["200", "403", "403"]
    assert world.noted("upstream") == {"CONNECT inland.example:443 HTTP/1.1\r\nHost: inland.example:443\r\n\r\n"}
    assert not {name for name in world.noted("dns") if "inland" in name}


def test_a_sandbox_without_egress_has_no_proxy_no_volume_and_no_variable(world: World) -> None:
    started = world.engine.command("up", "without")
    assert started.returncode == 0, started.stderr
    try:
        assert world.run(
            """
            def listens():
                try:
                    socket.create_connection(("127.0.0.1", 3128), 3).close()
                except OSError as error:
                    return error.strerror
            names = [name for name in os.environ if "proxy" in name.lower() or "CERT" in name or "BUNDLE" in name]
            shown([listens(), os.path.exists("/run/kernel-bridge-egress"), names])
            """,
            "without",
        ) == ["Connection refused", False, []]
        with world.engine.asked() as client:
            for role in ("kernel", "gateway"):
                mounts = world.container(client, role, "without").attrs["Mounts"]
                assert [each["Destination"] for each in mounts] == ["/run/kernel-bridge"]
    finally:
        assert world.engine.command("stop", "without").returncode == 0


def test_nothing_of_a_sandbox_with_egress_is_left(world: World) -> None:
    assert world.engine.command("stop", "reaching").returncode == 0
    with world.engine.asked() as client:
        assert client.containers.list(all=True) == []
        assert client.volumes.list() == []
