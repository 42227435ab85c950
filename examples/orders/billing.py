"""Billing, which asks orders for its list every ten seconds: by mTLS, with an access token for its service account."""

import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

CREDENTIALS, TRUST = os.environ["DURWARD_CREDENTIAL_BUNDLE"], os.environ["DURWARD_TRUST_BUNDLE"]
ORDERS = os.environ["ORDERS_URL"]
TOKENS = os.environ["TOKENS_URL"]


def access_token() -> str:
    """What policies grant us at orders: scopes in a token, for the one of our service account (RFC 8693)."""
    with open("/var/run/secrets/durward/token") as file:
        subject = file.read()
    request = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "subject_token": subject,
        "audience": "orders-api",
    }
    # without our certificate, to which the token would be bound then: uvicorn tells applications nothing of certificates
    context = ssl.create_default_context(cafile=TRUST)
    with urllib.request.urlopen(TOKENS, urllib.parse.urlencode(request).encode(), timeout=5, context=context) as reply:
        return json.load(reply)["access_token"]


def orders(headers: dict[str, str]) -> str:
    """Status and body of the answer. The files are read anew each time: kubelet renews them."""
    context = ssl.create_default_context(cafile=TRUST)
    context.load_cert_chain(CREDENTIALS)
    request = urllib.request.Request(ORDERS, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as reply:
            return f"{reply.status} {reply.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


if __name__ == "__main__":
    while True:
        try:
            print(orders({"Authorization": f"Bearer {access_token()}"}))
        except OSError as error:
            print("no answer:", error)
        time.sleep(10)
