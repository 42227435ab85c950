"""Shows a token to the application of `examples/orders`: prints whether it accepts it, and its claims, if the keys that the
application fetches have signed them for it. It accepts no token that is bound to a certificate, which it could not see.

Usage: orders.py ADDRESS TOKEN, where ADDRESS is that of the Service whose name JWKS_URL has: this machine does not know it.
"""

import json
import socket
import sys

import jwt
from fastapi import HTTPException
from fastapi.security import HTTPAuthorizationCredentials

_, address, token = sys.argv
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda _name, *rest, **more: look_up(address, *rest, **more)

import app  # noqa: E402  the application as it is

try:
    key = app.keys.get_signing_key_from_jwt(token)
    signed = jwt.decode(token, key, algorithms=["RS256"], audience=app.AUDIENCE)
except jwt.PyJWTError:
    signed = None
try:
    app.claims(HTTPAuthorizationCredentials(scheme="Bearer", credentials=token))
    accepted = True
except HTTPException as refused:
    assert (refused.status_code, refused.detail) == (401, "Invalid token")
    accepted = False
print(json.dumps([accepted, signed]))
