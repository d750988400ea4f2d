"""A key that never leaves its KMS signs evidence; one that does not answer, or answers wrongly, costs no seal and leaves no signature."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from moto.server import ThreadedMotoServer
from securesystemslib.signer import SSlibKey

from drillbook.errors import PreconditionError
from drillbook.evidence import Ledger, verify
from drillbook.evidence.signatures import sign, signer_of
from drillbook.evidence.trust import Trust, TrustedKey
from drillbook.model import parse_instant

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

KEY = "11111111-2222-3333-4444-555555555555"


class Kms(BaseHTTPRequestHandler):
    """AWS KMS' own protocol for what signing asks of it: Sign of a digest. Its key is refused once ``disabled`` is set."""

    private = ec.generate_private_key(ec.SECP256R1())
    disabled = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["X-Amz-Target"] == "TrentService.Sign"
        assert (asked["KeyId"], asked["MessageType"], asked["SigningAlgorithm"]) == (KEY, "DIGEST", "ECDSA_SHA_256")
        if type(self).disabled:
            self.answer(400, {"__type": "DisabledException", "message": "the key is disabled"})
            return
        digest = base64.b64decode(asked["Message"])
        signature = self.private.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        self.answer(200, {"KeyId": KEY, "Signature": base64.b64encode(signature).decode()})

    def answer(self, code: int, body: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def clients_of(address: str) -> Iterator[None]:
    """Every client of AWS finds this KMS, and credentials for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL_KMS": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }.items():
            patch.setenv(name, value)
        yield


def trusted(made: str, public: ec.EllipticCurvePublicKey) -> Trust:
    """As somebody notes a key of a KMS: its public half, and its id there."""
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    begin = parse_instant("2020-01-01T00:00:00Z")
    keyid = SSlibKey.from_crypto(public).keyid
    return Trust(keys=(TrustedKey(keyid=keyid, public=pem, owner="kms", valid_from=begin, uri=f"awskms:{made}"),))


def run_in(outputs: Path, run_id: str) -> tuple[Path, Ledger]:
    from evidence_sample import RUNBOOK, SITE, make_run

    make_run(outputs, run_id)
    return outputs / RUNBOOK / run_id, Ledger.of(outputs, SITE)


def test_i16_a_key_of_a_kms_signs_and_openssl_verifies(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Kms)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    outputs = tmp_path / "outputs"
    try:
        with clients_of(f"http://127.0.0.1:{server.server_port}"):
            trust = trusted(KEY, Kms.private.public_key())
            folder, ledger = run_in(outputs, "20261101T100002Z-7f3a9c")
            assert sign(folder, ledger, signer_of(f"awskms:{KEY}", trust, tmp_path), trust)
            assert verify(outputs, trust=trust) == []
            if shutil.which("openssl"):
                (tmp_path / "key.pem").write_text(trust.keys[0].public)
                argv = ["openssl", "dgst", "-sha256", "-verify", str(tmp_path / "key.pem"), "-signature"]
                files = [str(folder / "attestation.sig"), str(folder / "attestation.pae")]
                assert subprocess.run([*argv, *files], capture_output=True).returncode == 0
            Kms.disabled = True
            later, ledger = run_in(outputs, "20261201T100000Z-000003")
            with pytest.raises(PreconditionError, match="the key did not sign") as caught:
                sign(later, ledger, signer_of(f"awskms:{KEY}", trust, tmp_path), trust)
    finally:
        server.shutdown()
        server.server_close()
    assert "drillbook seal" in caught.value.todo and "test-secret" not in str(caught.value)
    assert not list(later.glob("*.dsse.json"))


def test_i16_a_signature_that_is_not_the_keys_is_never_written(tmp_path: Path) -> None:
    """moto takes a digest for a message, and hashes it again: its signature is over something else."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with clients_of(f"http://{host}:{port}"):
            client = boto3.client("kms")
            made = client.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["KeyId"]
            public = load_der_public_key(client.get_public_key(KeyId=made)["PublicKey"])
            trust = trusted(made, public)
            folder, ledger = run_in(tmp_path / "outputs", "20261101T100002Z-7f3a9c")
            with pytest.raises(PreconditionError, match="the key did not sign"):
                sign(folder, ledger, signer_of(f"awskms:{made}", trust, tmp_path), trust)
    finally:
        server.stop()
    assert not list(folder.glob("*.dsse.json")) and not list(folder.glob("*.sig"))
