"""`serve --transport http` at the shell: where it listens and where not, its token, TLS, and what is pasted."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests import certificates
from tests.e2e.serving import Served, status

SOON = 60.0


@pytest.fixture
def certified(tmp_path: Path) -> tuple[Path, Path]:
    """Return a certificate for this machine and `kernel.example`, and its key."""
    return certificates.certified(tmp_path)


def refused(command: Any, *arguments: str) -> tuple[int, str]:
    done = command("serve", "--transport", "http", "--port", "0", *arguments)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:0.0.0.0"])
def test_without_tls_no_address_is_listened_on_that_others_reach(command: Any, host: str) -> None:
    code, told = refused(command, "--host", host)
    assert code == 2
    assert "could read the token. Nothing was started." in told
    assert "--published-on-loopback" in told


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "x" * 300])
def test_what_is_no_address_is_told(command: Any, host: str) -> None:
    code, told = refused(command, "--host", host)
    assert code == 2
    assert "no address to listen on" in told


def test_an_address_of_another_machine_is_told(command: Any, certified: tuple[Path, Path]) -> None:
    code, told = refused(
        command, "--host", "192.0.2.1", "--tls-cert", str(certified[0]), "--tls-key", str(certified[1])
    )
    assert code == 3
    assert "192.0.2.1" in told
    assert "Nothing was started." in told


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_any_loopback_address_will_do(serve: Callable[..., Served], host: str) -> None:
    server = serve("--host", host)
    assert ("[::1]" if ":" in host else "127.0.0") in server.url or host == "localhost"
    with socket.create_connection((host, server.port), timeout=SOON) as connection:
        connection.sendall(server.head(method="GET", path="/health"))
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_taken_port_is_told(command: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("serve", "--transport", "http", "--port", str(port), "--token-file", str(tmp_path / "token"))
    assert done.returncode == 3
    assert f"Port {port} of 127.0.0.1 is taken by another program" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    "option",
    [
        ["--host", "127.0.0.1"],
        ["--port", "8765"],
        ["--token-file", "t"],
        ["--published-on-loopback", "8765"],
        ["--tls-cert", "c", "--tls-key", "k"],
    ],
)
def test_what_is_for_http_is_refused_over_stdio(command: Any, option: list[str]) -> None:
    done = command("serve", *option)
    assert done.returncode == 2
    assert "are for --transport http" in done.stderr


def test_a_token_file_that_others_can_read_stops_the_start(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret" * 10)
    file.chmod(0o644)
    code, told = refused(command, "--token-file", str(file))
    assert code == 2
    assert f"The token file {file} can be read by others" in told
    assert "secret" not in told


def test_by_itself_the_token_is_in_the_state_directory_and_stays(serve: Callable[..., Served], tmp_path: Path) -> None:
    file = tmp_path / "state" / "kernel-bridge" / "http-token"
    first = serve(token_file=file)
    token = first.token
    first.end()
    assert serve(token_file=file).token == token


def test_published_by_an_engine_any_address_is_listened_on_but_only_our_names_are_ours(
    serve: Callable[..., Served],
) -> None:
    server = serve("--host", "0.0.0.0", "--published-on-loopback", "9876")
    assert server.url == "http://127.0.0.1:9876/mcp"
    bound = listening(server.process.pid)
    for host, expected in {
        "127.0.0.1:9876": 200,
        "localhost:9876": 200,
        "[::1]:9876": 200,
        f"127.0.0.1:{bound}": 200,
        f"0.0.0.0:{bound}": 421,
        f"bridge:{bound}": 421,
        "bridge:9876": 421,
    }.items():
        with socket.create_connection(("127.0.0.1", bound), timeout=SOON) as connection:
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert status(connection.recv(1000)) == expected, host


def listening(pid: int) -> int:
    """Return the one TCP port that a process listens on."""
    own = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [port] = {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}
    return port


@pytest.mark.anyio
async def test_with_tls_it_is_reached_by_the_certificates_names(
    serve: Callable[..., Served], certified: tuple[Path, Path]
) -> None:
    certificate, key = certified
    server = serve("--host", "0.0.0.0", "--tls-cert", str(certificate), "--tls-key", str(key), ca=certificate)
    assert server.url.startswith("https://127.0.0.1:")
    async with asyncio.timeout(SOON), server.client() as agent:
        assert (await agent.client.list_tools()).tools
    for host, expected in {"kernel.example": 200, "127.0.0.1": 200, "evil.example": 421}.items():
        with server._trusted.wrap_socket(server.open(), server_hostname="kernel.example") as connection:  # type: ignore[union-attr]
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}:{server.port}\r\n\r\n".encode())
            assert status(connection.recv(1000)) == expected, host


def test_half_of_tls_or_none_that_can_be_used_is_told(
    command: Any, certified: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = map(str, certified)
    assert refused(command, "--tls-cert", certificate)[0] == 2
    assert "belong together" in refused(command, "--tls-key", key)[1]
    code, told = refused(command, "--tls-cert", certificate, "--tls-key", str(tmp_path / "none.pem"))
    assert (code, "No such file or directory" in told) == (2, True)
    code, told = refused(command, "--tls-cert", key, "--tls-key", certificate)
    assert (code, "cannot be used for TLS" in told) == (2, True)
    locked = tmp_path / "locked.pem"
    unlocked = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    locked.write_bytes(
        unlocked.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    code, told = refused(command, "--tls-cert", certificate, "--tls-key", str(locked))
    assert (code, "without a passphrase" in told) == (2, True)


def test_the_line_for_claude_code_holds_all_that_a_client_needs(
    serve: Callable[..., Served], command: Any, tmp_path: Path
) -> None:
    server = serve(token_file=tmp_path / "a token's file")
    done = command("client", "print", "claude", "--http", "--url", server.url, "--token-file", str(server.token_file))
    assert done.returncode == 0
    assert server.token not in done.stdout + done.stderr
    shell = 'claude() { for each in "$@"; do printf \'%s\\n\' "$each"; done; }\n' + done.stdout
    words = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True, timeout=SOON)
    *_, url, option, header = words.stdout.splitlines()
    assert (url, option, header) == (server.url, "--header", f"Authorization: Bearer {server.token}")


def test_a_client_is_not_told_to_start_what_it_cannot_talk_to(command: Any) -> None:
    done = command("client", "print", "cursor", "--", "--transport", "http")
    assert done.returncode == 2
    assert "client print CLIENT --http" in done.stderr
    for arguments in (["--url", "http://h/mcp"], ["--token-file", "t"]):
        assert "are for --http" in command("client", "print", "cursor", *arguments).stderr
    assert "leave out what follows" in command("client", "print", "cursor", "--http", "--", "--policy", "p").stderr


def test_a_token_file_below_the_home_may_be_written_short(command: Any, tmp_path: Path) -> None:
    home, file = {"HOME": str(tmp_path)}, tmp_path / "token"
    file.write_text("secret" * 10)
    file.chmod(0o644)
    printed = command("client", "print", "claude", "--http", "--token-file", "~/token", **home)
    assert f"$(cat {file})" in printed.stdout
    started = command("serve", "--transport", "http", "--port", "0", "--token-file", "~/token", **home)
    assert f"The token file {file} can be read by others" in started.stderr
