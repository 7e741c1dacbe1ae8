"""Ports of the loopback for servers that a test starts, which nobody else is given meanwhile."""

from __future__ import annotations

import socket


def reserved() -> socket.socket:
    """Return a socket that keeps its port for a server of ours until it is closed.

    No other socket is given that port by the system, but one that asks for it may listen there:
    both have SO_REUSEADDR, and this one does not listen.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
