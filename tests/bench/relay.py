"""What the relay costs: the same requests to one kernel, by turns directly and through a relay; run as a program.

    python -m tests.bench.relay [ROUNDS]

Times are medians in milliseconds on this machine and mean something only beside each other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from bridge.connection import ConnectionInfo, load

SOON_MS = 30_000
CELL = {"code": "pass", "silent": True, "store_history": False, "user_expressions": {}, "allow_stdin": False}


class Client:
    """Raw sockets, so that the client itself costs little."""

    def __init__(self, info: ConnectionInfo) -> None:
        self._session = Session(key=info.key.encode(), check_pid=False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shell = self._dealer(info.url(info.shell_port))
        self._heart = self._dealer(info.url(info.hb_port))
        self.iopub = self._context.socket(zmq.SUB)
        self.iopub.subscribe(b"")
        self.iopub.rcvhwm = 0
        self.iopub.connect(info.url(info.iopub_port))
        self.asks("kernel_info_request", {})

    def _dealer(self, url: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.identity = uuid.uuid4().hex.encode()
        socket.connect(url)
        return socket

    def asks(self, msg_type: str, content: dict[str, object]) -> float:
        """Ask and wait for the reply; returns how long it took, in seconds."""
        frames = self._session.serialize(self._session.msg(msg_type, content))
        begin = time.perf_counter()
        self._shell.send_multipart(frames)
        assert self._shell.poll(SOON_MS), f"no reply to {msg_type}"
        took = time.perf_counter() - begin
        self._shell.recv_multipart()
        while self.iopub.poll(0):
            self.iopub.recv_multipart()
        return took

    def beats(self) -> float:
        """Send a heartbeat and wait for it; returns how long it took, in seconds."""
        begin = time.perf_counter()
        self._heart.send_multipart([b"", b"ping"])
        assert self._heart.poll(SOON_MS), "no heartbeat"
        took = time.perf_counter() - begin
        self._heart.recv_multipart()
        return took

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)


def main() -> None:
    """Measure and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory, name) for name in ("kernel.json", "ide.json")]
        for each in files:
            write_connection_file(str(each), key=uuid.uuid4().hex.encode())
        environment = os.environ | {"JUPYTER_RUNTIME_DIR": directory}  # from which the policy allows kernels
        programs = (
            ["ipykernel_launcher", "-f", str(files[0])],
            ["bridge", "relay", "--kernel", str(files[0]), str(files[1])],
        )
        running: list[subprocess.Popen[bytes]] = []
        try:
            clients: list[Client] = []
            for file, program in zip(files, programs, strict=True):
                command = [sys.executable, "-m", *program]
                null = subprocess.DEVNULL
                running.append(subprocess.Popen(command, env=environment, stdin=null, stdout=null, stderr=null))
                clients.append(Client(load(file)))
            compare(clients, rounds)
            for client in clients:
                client.close()
        finally:
            for process in reversed(running):
                process.kill()
                process.wait()


def compare(clients: list[Client], rounds: int) -> None:
    """Print a line for each kind of request."""
    kinds: dict[str, Callable[[Client], float]] = {
        "heartbeat": lambda client: client.beats(),
        "kernel_info": lambda client: client.asks("kernel_info_request", {}),
        "execute": lambda client: client.asks("execute_request", CELL),
    }
    sys.stdout.write(f"{'':12} {'kernel':>9} {'relay':>9} {'more':>9} {'ratio':>7}\n")
    for kind, ask in kinds.items():
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 20):
            for each, client in zip(times, clients, strict=True):
                took = ask(client)
                if number >= 20:  # the first ones warm up
                    each.append(took)
        direct, relayed = (statistics.median(each) * 1000 for each in times)
        more, ratio = relayed - direct, relayed / direct
        sys.stdout.write(f"{kind:12} {direct:6.2f} ms {relayed:6.2f} ms {more:+6.2f} ms {ratio:7.2f}\n")


if __name__ == "__main__":
    main()
