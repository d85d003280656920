"""The keys of an authorization server, on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


def ec_key(key: ec.EllipticCurvePrivateKey, name: str) -> dict[str, Any]:
    """Return the public half as it stands in a key set."""
    return json.loads(ECAlgorithm.to_jwk(key.public_key())) | {"kid": name, "use": "sig"}


class KeySet:
    """Serves keys; counts how often it was asked. `body` goes out in their place."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.asked = 0
        self.status = 200
        self.keys = list(keys)
        self.body: bytes | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.body or json.dumps({"keys": issuer.keys}).encode()
                self.send_response(issuer.status)
                self.send_header("location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@contextmanager
def served(*keys: dict[str, Any]) -> Iterator[KeySet]:
    """Serve keys for a while."""
    begun = KeySet(*keys)
    try:
        yield begun
    finally:
        begun.server.shutdown()
        begun.server.server_close()
