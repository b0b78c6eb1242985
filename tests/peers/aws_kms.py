"""A server that answers as AWS KMS does by its documented API, with real keys: GetPublicKey, Sign.

https://docs.aws.amazon.com/kms/latest/APIReference/ says what is asked and answered. Moto, which
plays AWS's services, hashes a digest once more before it signs it, so that nothing would verify.
"""

from __future__ import annotations

import json
import re
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DIGEST_BYTES = 32
MAX_MESSAGE = 4096  # bytes, of one that is not hashed yet
ECDSA = {"secp256r1": ["ECDSA_SHA_256"], "secp384r1": ["ECDSA_SHA_384"]}
RSA = [
    *("RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512"),
    *("RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512"),
]


class RefusedError(Exception):
    """An error of the API, by its name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass
class Kms:
    """An account's keys in one region."""

    access_key: str
    keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # "alias/..." to a key's id
    disabled: set[str] = field(default_factory=set)

    def answer(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        named = request["KeyId"]
        key_id = self.aliases.get(named, named)
        if key_id not in self.keys:
            raise RefusedError("NotFoundException", f"Key '{named}' does not exist")
        if key_id in self.disabled:
            raise RefusedError("DisabledException", f"{named} is disabled.")
        key = self.keys[key_id]
        algorithms = ECDSA[key.curve.name] if isinstance(key, ec.EllipticCurvePrivateKey) else RSA
        if action == "TrentService.GetPublicKey":
            public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return {"PublicKey": b64encode(public).decode(), "SigningAlgorithms": algorithms}
        if action == "TrentService.Sign":
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            if request["SigningAlgorithm"] not in algorithms:
                raise RefusedError("InvalidKeyUsageException", "The algorithm is not the key's.")
            signature = _sign(key, b64decode(request["Message"]), request.get("MessageType", "RAW"))
            return {"Signature": b64encode(signature).decode()}
        raise RefusedError("UnknownOperationException", action)


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes, kind: str) -> bytes:
    if kind == "DIGEST":
        if len(message) != DIGEST_BYTES:
            raise RefusedError("ValidationException", "Digest is of an invalid length for SHA_256.")
        return key.sign(message, ec.ECDSA(utils.Prehashed(SHA256())))
    if len(message) > MAX_MESSAGE:
        raise RefusedError("ValidationException", f"Message has more than {MAX_MESSAGE} bytes.")
    return key.sign(message, ec.ECDSA(SHA256()))


@contextmanager
def served(kms: Kms) -> Iterator[str]:
    """Serve an account's keys; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            signed = self.headers.get("Authorization", "")
            scope = re.compile(rf"AWS4-HMAC-SHA256 Credential={kms.access_key}/\d+/[^/]+/kms/")
            try:
                if not scope.match(signed):
                    raise RefusedError(
                        "UnrecognizedClientException",
                        "The security token included in the request is invalid.",
                    )
                answer = kms.answer(self.headers["X-Amz-Target"], json.loads(body))
                self._send(200, answer)
            except RefusedError as error:
                self._send(400, {"__type": error.name, "message": str(error)})

        def _send(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
