"""Health check of a service's container: exit 0 if /readyz says so, else 1; prints what it says.

Only sockets: an HTTP library would cost more to import, every few seconds in every container, than the check itself.
"""

import os
import socket
import sys

TIMEOUT_S = 3.0


def check(port: int) -> tuple[bool, str]:
    """(ready, what the service says) of the service that listens on `port` of this container."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    except OSError as error:
        return False, f"no answer on port {port}: {error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b" ")[1:2] == [b"200"], body.decode(errors="replace")


if __name__ == "__main__":
    ready, said = check(int(os.environ.get("TIDEMILL_HTTP_PORT", "8080")))
    print(said)
    sys.exit(not ready)
