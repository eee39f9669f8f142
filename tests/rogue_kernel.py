"""A program that holds a kernel's ports and key and answers as no kernel should; a cell's code names what it does.

Run as `python rogue_kernel.py CONNECTION_FILE [DESCRIPTION]`: it writes the file and serves until it is killed.
`DESCRIPTION` is JSON, told as the kernel's own description of itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import DELIM, Session

KEY = b"rogue-key"
Parent = dict[str, Any]


class Rogue:
    def __init__(self, description: dict[str, Any]) -> None:
        self.session = Session(key=KEY, check_pid=False)
        # half surrogate pairs are sent as escapes, as any program may
        self.session.pack = lambda content: json.dumps(content, default=str).encode()
        self.description = description
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.sockets = {
            name: context.socket(kind)
            for name, kind in (
                ("shell", zmq.ROUTER),
                ("control", zmq.ROUTER),
                ("stdin", zmq.ROUTER),
                ("iopub", zmq.PUB),
                ("hb", zmq.REP),
            )
        }
        for each in self.sockets.values():
            each.sndhwm = 0  # it floods: nothing of that must get lost on its own side
        self.ports = {
            f"{name}_port": each.bind_to_random_port("tcp://127.0.0.1") for name, each in self.sockets.items()
        }
        self.identity: list[bytes] = []
        self.unanswered: list[Parent] = []

    def serve(self) -> None:
        poller = zmq.Poller()
        for each in ("shell", "control", "hb"):
            poller.register(self.sockets[each], zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                if socket is self.sockets["hb"]:
                    socket.send(socket.recv())
                    continue
                self.identity, frames = self.session.feed_identities(socket.recv_multipart())
                request = self.session.deserialize(frames)
                name = "shell" if socket is self.sockets["shell"] else "control"
                self.answer(name, request)

    def answer(self, channel: str, request: Parent) -> None:
        kind = request["msg_type"]
        if kind == "kernel_info_request":
            self.publish("status", {"execution_state": "busy"}, request)
            self.reply("kernel_info_reply", self.description, request, channel)
            self.publish("status", {"execution_state": "idle"}, request)
        elif kind == "execute_request":
            name = request["content"]["code"].split("(")[0]
            getattr(self, name, self.honest)(request)
        elif kind == "future_request":
            message = self.session.msg("future_reply", request["content"], parent=request)
            self.session.send(self.sockets[channel], message, ident=self.identity, buffers=request["buffers"])
        elif kind == "interrupt_request":
            self.reply("interrupt_reply", {"status": "ok"}, request, channel)
            for each in self.unanswered:
                self.reply("execute_reply", {"status": "error"}, each)
                self.publish("status", {"execution_state": "idle"}, each)
            self.unanswered.clear()

    # -- words

    def publish(self, kind: str, content: Any, parent: Parent) -> None:
        self.session.send(self.sockets["iopub"], kind, content, parent=parent, ident=kind.encode())

    def reply(self, kind: str, content: Any, parent: Parent, channel: str = "shell") -> None:
        self.session.send(self.sockets[channel], kind, content, parent=parent, ident=self.identity)

    def say(self, text: str, parent: Parent) -> None:
        self.publish("stream", {"name": "stdout", "text": text}, parent)

    def raw(self, channel: str, *frames: bytes) -> None:
        identity = self.identity if channel != "iopub" else []
        self.sockets[channel].send_multipart([*identity, *frames])

    def signed(self, channel: str, *parts: bytes) -> None:
        self.raw(channel, DELIM, self.session.sign(list(parts)), *parts)

    def begin(self, request: Parent) -> None:
        self.publish("status", {"execution_state": "busy"}, request)
        self.publish("execute_input", {"code": request["content"]["code"], "execution_count": 1}, request)

    def end(self, request: Parent) -> None:
        self.reply("execute_reply", {"status": "ok", "execution_count": 1}, request)
        self.publish("status", {"execution_state": "idle"}, request)

    # -- what a cell's code may name

    def honest(self, request: Parent) -> None:
        self.begin(request)
        self.say("honest", request)
        self.end(request)

    def garbage(self, request: Parent) -> None:
        """Everything that is not a message, on every channel, while the cell runs."""
        self.begin(request)
        header = json.dumps(request["header"] | {"session": "rogue"}, default=str).encode()
        deep = b"[" * 200_000
        for channel in ("shell", "iopub", "control"):
            for frames in (
                [b""],
                [DELIM],
                [DELIM, b""],
                [DELIM, b"x", b"y"],
                [b"\xff" * 1000],
                [DELIM, b"0" * 64, *[b"{}"] * 4],
            ):
                self.raw(channel, *frames)
            for place in range(4):
                parts = [header, header, b"{}", b"{}"]
                for odd in (b"", b"5", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b'{"a":' * 100_000, deep):
                    self.signed(channel, *parts[:place], odd, *parts[place + 1 :])
            self.raw(
                channel,
                DELIM,
                self.session.sign([header, header, b"{}", b"{}"]),
                header,
                header,
                b"{}",
                b"{}",
                b"\x00buffer",
            )
        self.say("after the garbage", request)
        self.end(request)

    def odd(self, request: Parent) -> None:
        """Contents that no specification knows, for every type, the reply among them."""
        self.begin(request)
        nested: Any = "x"
        for _ in range(400):
            nested = [nested]
        for value in (None, 5, -1.5, True, "x", "\ud800", [], [1, [2]], {}, {"data": 5}, {"text/plain": [5]}, nested):
            for kind in (
                "stream",
                "display_data",
                "update_display_data",
                "execute_result",
                "error",
                "clear_output",
                "status",
            ):
                fields = (
                    "name",
                    "data",
                    "metadata",
                    "transient",
                    "ename",
                    "evalue",
                    "traceback",
                    "wait",
                    "execution_state",
                )
                self.publish(kind, dict.fromkeys(fields, value), request)
                self.publish(kind, {"data": {"text/plain": value, "image/png": value}}, request)
        self.publish("clear_output", {"wait": False}, request)
        self.say("after the odd", request)
        self.reply(
            "execute_reply", {"status": "ok", "execution_count": {}, "payload": 5, "user_expressions": []}, request
        )
        self.publish("status", {"execution_state": "idle"}, request)

    def flood(self, request: Parent) -> None:
        """Far more than anybody reads: of the cell, of others, and of nobody."""
        self.begin(request)
        other = self.session.msg("execute_request")
        other["header"]["session"] = "another client"
        for number in range(1500):
            self.say(f"{number}\n", request)
            self.publish(
                "status", {"execution_state": "busy"}, {"header": other["header"] | {"msg_id": f"other-{number}"}}
            )
            for _ in range(20):
                self.raw("iopub", b"x" * 100)
        self.end(request)

    def twice(self, request: Parent) -> None:
        self.begin(request)
        self.say("once", request)
        self.end(request)
        self.end(request)
        self.reply("execute_reply", {"status": "error", "ename": "Again", "evalue": ""}, request)

    def astray(self, request: Parent) -> None:
        """Replies that belong to other requests, and to none."""
        self.begin(request)
        wrongs: list[Parent] = [{}, {"header": {}}, {"header": request["header"] | {"msg_id": "no such"}}]
        for wrong in wrongs:
            self.publish("stream", {"name": "stdout", "text": "not of this cell"}, wrong)
            self.reply("execute_reply", {"status": "error"}, wrong)
            self.publish("status", {"execution_state": "idle"}, wrong)
        self.say("of this cell", request)
        self.end(request)

    def idle_first(self, request: Parent) -> None:
        self.publish("status", {"execution_state": "idle"}, request)
        self.reply("execute_reply", {"status": "ok", "execution_count": 1}, request)
        self.begin(request)
        self.say("after its idle", request)
        self.publish("status", {"execution_state": "idle"}, request)

    def no_idle(self, request: Parent) -> None:
        self.begin(request)
        self.say("without idle", request)
        self.reply("execute_reply", {"status": "ok", "execution_count": 1}, request)

    def no_reply(self, request: Parent) -> None:
        self.begin(request)
        self.say("without a reply", request)
        self.publish("status", {"execution_state": "idle"}, request)

    def another(self, request: Parent) -> None:
        """From now on it signs as another process, on the same connections."""
        self.session.session = "another-process"
        self.honest(request)

    def slow(self, request: Parent) -> None:
        """A pause between any two messages."""
        steps: list[Callable[[], None]] = [
            lambda: self.publish("status", {"execution_state": "busy"}, request),
            lambda: self.say("slow", request),
            lambda: self.reply("execute_reply", {"status": "ok", "execution_count": 1}, request),
            lambda: self.publish("status", {"execution_state": "idle"}, request),
        ]
        for step in steps:
            time.sleep(0.15)
            step()

    def never(self, request: Parent) -> None:
        """No reply and no idle until it is interrupted."""
        self.begin(request)
        self.unanswered.append(request)

    def numbers(self, request: Parent) -> None:
        """As many numbered messages as a cell names, each so long, and so many in a second, or as fast as can be.

        What is the same in all of them is made once.
        """
        self.begin(request)
        header = json.dumps(self.session.msg_header("stream"), default=str).encode()
        parent = json.dumps(request["header"], default=str).encode()
        count, size, *rate = map(int, request["content"]["code"][len("numbers(") : -1].split(","))
        began = time.monotonic()
        for number in range(count):
            if rate and number % 100 == 0:
                time.sleep(max(0.0, began + number / rate[0] - time.monotonic()))
            text = str(number).rjust(size, ".").encode()
            self.signed("iopub", header, parent, b"{}", b'{"name": "stdout", "text": "' + text + b'"}')
        self.end(request)

    def last_words(self, request: Parent) -> None:
        """Much at once, and then the end of the process, with all of it on its way."""
        self.begin(request)
        content = [{"name": "stdout", "text": str(number) + "." * 3_000_000} for number in range(40)]
        messages = [self.session.msg("stream", each, parent=request) for each in content]
        for frames in [self.session.serialize(each) for each in messages]:
            self.raw("iopub", *frames)
        for each in self.sockets.values():
            each.close(linger=10_000)
        zmq.Context.instance().term()
        sys.exit()

    def silent(self, request: Parent) -> None:
        """Not even the sign that it began; it is answered when something is interrupted."""
        self.unanswered.append(request)


def main() -> None:
    description = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {"status": "ok"}
    rogue = Rogue(description)
    content = {"transport": "tcp", "ip": "127.0.0.1", "key": KEY.decode(), "signature_scheme": "hmac-sha256"}
    Path(sys.argv[1]).write_text(json.dumps(content | rogue.ports | {"kernel_name": "rogue"}))
    rogue.serve()


if __name__ == "__main__":
    main()
