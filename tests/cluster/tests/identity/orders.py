"""Shows a token to the application of `examples/orders`, and prints the claims that it takes from it.

Usage: orders.py ADDRESS TOKEN, where ADDRESS is that of the Service whose name JWKS_URL has: this machine does not know it.
"""

import json
import socket
import sys

from fastapi.security import HTTPAuthorizationCredentials

_, address, token = sys.argv
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda _name, *rest, **more: look_up(address, *rest, **more)

import app  # noqa: E402  the application as it is

print(json.dumps(app.claims(HTTPAuthorizationCredentials(scheme="Bearer", credentials=token))))
