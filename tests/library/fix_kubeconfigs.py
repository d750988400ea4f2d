"""What a kubeconfig may lead to: a TLS server that knows client certificates, and a bastion (SOCKS5 and CONNECT)."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any] | None, **more: Any) -> str:
    """A kubeconfig of one context; ``user`` None: the context names one that isn't there. Its path."""
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}] if user is not None else [],
        **more,
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.pem = self._signed("test authority", self.key, ca=True).public_bytes(serialization.Encoding.PEM)
        self.file = folder / "ca.crt"
        self.file.write_bytes(self.pem)

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        now = datetime.now(UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
        )
        return built.sign(self.key, hashes.SHA256())

    def pair(self, name: str) -> tuple[str, str]:
        """A certificate for the name and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(name, key).public_bytes(serialization.Encoding.PEM).decode()
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate, plain.decode()


class Stub:
    """A server that notes who asks: path, headers, and the client certificate's name; it takes only whom it is reported to."""

    def __init__(self, authority: Authority | None = None) -> None:
        self.asked: list[tuple[str, list[tuple[str, str]], str]] = []
        self.takes = lambda headers, name: True
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                certificate = self.connection.getpeercert() if authority is not None else None  # type: ignore[attr-defined]
                name = dict(pair[0] for pair in (certificate or {}).get("subject", ())).get("commonName", "")
                stub.asked.append((self.path, list(self.headers.items()), name))
                taken = stub.takes(self.headers, name)
                upgrade = self.headers.get("Upgrade", "") == "websocket"
                code = 401 if not taken else 403 if upgrade else 200
                said = (
                    {"gitVersion": "v1.99.0"}
                    if code == 200
                    else {"kind": "Status", "message": "no", "reason": "Forbidden"}
                )
                body = json.dumps(said).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.scheme = "http"
        if authority is not None:
            certificate, key = authority.pair("localhost")
            file = authority.folder / "server.pem"
            file.write_text(certificate + key)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(file)
            context.load_verify_locations(authority.file)
            context.verify_mode = ssl.CERT_OPTIONAL
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Bastion:
    """SOCKS5 and HTTP CONNECT to one port of this machine, whatever host is asked for; it notes what was asked."""

    def __init__(self, port: int) -> None:
        self.asked: list[tuple[str, str]] = []  # kind of proxy, and host (or the header that says who asks)
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, near)

    def _start(self, work: Any, *given: Any) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, near: socket.socket) -> None:
        self._open.append(near)
        file = near.makefile("rb")
        first = file.read(1)
        if first == b"\x05":
            file.read(file.read(1)[0])
            near.sendall(b"\x05\x00")
            _, _, _, kind = file.read(4)
            host = file.read(file.read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(file.read(4))
            file.read(2)
            self.asked.append(("socks5", host))
            near.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        else:
            lines = []
            while (line := file.readline().decode().strip()) != "":
                lines.append(line)
            self.asked.append(
                ("connect", "".join(line for line in lines if line.lower().startswith("proxy-authorization")))
            )
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        far = socket.create_connection(("127.0.0.1", self._port))
        self._open.append(far)
        self._start(self._relay, far, near)
        self._relay(near, far)

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(timeout=10)
        for one in self._open:
            one.close()


@contextmanager
def stub(authority: Authority | None = None) -> Iterator[Stub]:
    server = Stub(authority)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def bastion(port: int) -> Iterator[Bastion]:
    server = Bastion(port)
    try:
        yield server
    finally:
        server.close()
