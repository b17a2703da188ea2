"""Free TCP ports on the loopback interface."""

import random
import socket

from tokvigil_site.embedded.errors import StackError

HOST = "127.0.0.1"
# Below the range from which systems give ports to outgoing connections (Linux: 32768, macOS: 49152). Inside
# it a client that retries while its server is down can be given the server's own port and connect to itself.
CANDIDATES = range(20_000, 32_000)
ATTEMPTS_MAX = 200


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do it: connections of a server that just stopped do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def pick_free() -> int:
    """A free port, at random so that checkouts starting at the same time choose different ones."""
    for _ in range(ATTEMPTS_MAX):
        port = random.choice(CANDIDATES)  # noqa: S311
        if is_free(port):
            return port
    raise StackError(
        f"No free port found on {HOST} between {CANDIDATES.start} and {CANDIDATES.stop}: end some of the "
        "programs that listen there."
    )
