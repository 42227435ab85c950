"""Runs the orders service in a pod, with the certificate that the pod was given, for workloads that show one of theirs.

kubelet renews the files in place. What is read anew counts for new connections; a root that is gone counts until the pod
ends, since Python's contexts forget none.
"""

import asyncio
import os
import ssl

import uvicorn

import app

CREDENTIALS, TRUST = os.environ["DURWARD_CREDENTIAL_BUNDLE"], os.environ["DURWARD_TRUST_BUNDLE"]


async def renew(context: ssl.SSLContext):
    while True:
        await asyncio.sleep(60)
        try:
            context.load_cert_chain(CREDENTIALS)
            context.load_verify_locations(TRUST)
            app.trust.load_verify_locations(TRUST)
        except OSError as error:  # replaced while it was read: the next time will do
            print("certificate not read:", error)


async def main():
    config = uvicorn.Config(
        app.app,
        host="0.0.0.0",
        port=8443,
        ssl_certfile=CREDENTIALS,
        ssl_keyfile=CREDENTIALS,
        ssl_ca_certs=TRUST,
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )
    config.load()
    renewal = asyncio.create_task(renew(config.ssl))
    await uvicorn.Server(config).serve()
    renewal.cancel()


if __name__ == "__main__":
    asyncio.run(main())
