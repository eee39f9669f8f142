"""Exit status 0 if a kernel's heartbeat socket greets behind the gateway's port: the health check in compose.yaml.

The one rule: it runs beside the gateway, never beside foreign code, which could take it over; and of what a kernel
sends it looks at one byte. ZMQ greets whoever connects, before anything else (https://rfc.zeromq.org/spec/23/): so the
whole way is there, and a process behind it that is not stopped.
"""

import socket

HEARTBEAT = ("127.0.0.1", 5005)
PATIENCE = 3.0

with socket.create_connection(HEARTBEAT, PATIENCE) as end:
    end.settimeout(PATIENCE)
    greets = end.recv(1) == b"\xff"
raise SystemExit(0 if greets else 1)
