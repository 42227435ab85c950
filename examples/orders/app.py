"""The orders service, verifying Bearer tokens on its own.

Any JWT library does: the keys come from Durward's JWKS, the audience and the scopes from the token.
Run it with `uvicorn app:app`, or in a pod with `python serve.py`; JWKS_URL says where the keys are.
"""

import os
import ssl

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

AUDIENCE = "orders-api"

app = FastAPI()
bearer = HTTPBearer(auto_error=False)
trust = ssl.create_default_context(cafile=os.environ.get("DURWARD_TRUST_BUNDLE"))
keys = jwt.PyJWKClient(os.environ.get("JWKS_URL", "http://127.0.0.1:8182/.well-known/jwks.json"), ssl_context=trust)


def claims(credentials: HTTPAuthorizationCredentials | None = Depends(bearer)) -> dict:
    """Who is asking: the claims of a valid token, or 401 without a word about why not."""
    invalid = HTTPException(401, "Invalid token", {"WWW-Authenticate": f'Bearer realm="{AUDIENCE}"'})
    if credentials is None:
        raise invalid
    try:
        key = keys.get_signing_key_from_jwt(credentials.credentials)
        token = jwt.decode(
            credentials.credentials,
            key,
            algorithms=["RS256"],
            audience=AUDIENCE,
            options={"require": ["exp", "aud", "sub"]},
        )
    except jwt.PyJWTError:
        raise invalid from None
    if "cnf" in token:  # bound to a certificate, and nothing tells us whether the caller has shown that one
        raise invalid
    return token


def scope(required: str):
    """May they: 403 unless the token carries the scope of the operation."""

    def check(token: dict = Depends(claims)) -> dict:
        if required not in token.get("scope", "").split():
            raise HTTPException(403, "Insufficient scope")
        return token

    return check


@app.get("/orders")
def list_orders(token: dict = Depends(scope("orders.read"))):
    return {"orders": [{"id": 42, "total": "19.90"}], "for": token["sub"]}
