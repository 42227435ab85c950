"""An authenticator in software, by the types of Yubico's `fido2`: options as JSON in, what a browser would send out.

    passkey.py create|get ORIGIN KEYFILE COUNTER [unverified]
"""

import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fido2.cose import ES256
from fido2.utils import sha256, websafe_encode
from fido2.webauthn import (
    AttestationObject,
    AttestedCredentialData,
    AuthenticatorData,
    CollectedClientData,
    PublicKeyCredentialCreationOptions,
    PublicKeyCredentialRequestOptions,
)

ID = bytes(range(32))


def main(act, origin, keyfile, counter, *more):
    flags = AuthenticatorData.FLAG.UP
    if "unverified" not in more:
        flags |= AuthenticatorData.FLAG.UV
    given = json.load(sys.stdin)["publicKey"]
    path = Path(keyfile)
    if act == "create":
        options = PublicKeyCredentialCreationOptions.from_dict(given)
        key, rp_id = ec.generate_private_key(ec.SECP256R1()), options.rp.id
        assert ES256.ALGORITHM in [parameter.alg for parameter in options.pub_key_cred_params]
        assert options.authenticator_selection.user_verification == "required"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    else:
        options = PublicKeyCredentialRequestOptions.from_dict(given)
        key, rp_id = serialization.load_pem_private_key(path.read_bytes(), None), options.rp_id
        assert ID in [credential.id for credential in options.allow_credentials]
    client_data = CollectedClientData.create("webauthn." + act, options.challenge, origin)
    response = {"clientDataJSON": websafe_encode(client_data)}
    if act == "create":
        credential = AttestedCredentialData.create(bytes(16), ID, ES256.from_cryptography_key(key.public_key()))
        flags |= AuthenticatorData.FLAG.AT
        data = AuthenticatorData.create(sha256(rp_id.encode()), flags, int(counter), credential)
        response["attestationObject"] = websafe_encode(AttestationObject.create("none", data, {}))
    else:
        data = AuthenticatorData.create(sha256(rp_id.encode()), flags, int(counter))
        signature = key.sign(data + sha256(client_data), ec.ECDSA(hashes.SHA256()))
        response |= {"authenticatorData": websafe_encode(data), "signature": websafe_encode(signature)}
    name = websafe_encode(ID)
    json.dump({"id": name, "rawId": name, "type": "public-key", "response": response}, sys.stdout)


main(*sys.argv[1:])
