"""A proxy in front of a real object store that does to requests and answers what networks and stores do to them.

The one idea: a fault is put in a queue with the requests it is for, and strikes the next of them; everything else
passes. What was asked is counted, so that a test can tell how often.
"""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from tests.support.waiting import PATIENCE_SECONDS

Kind = Literal[
    "lost",  # done, and the connection ends without an answer
    "failed-late",  # done, and the answer is 500
    "refused",  # not done; the answer is ``status`` with ``code``
    "truncated",  # the answer ends in the middle
    "reset",  # not done; the connection is reset
    "hanging",  # not done, not answered until the proxy ends
]

_LINK_PART_BYTES = 1 << 18
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``status`` 200 with a ``code`` is an error under the colours of success."""

    kind: Kind
    status: int = 503
    code: str = "SlowDown"
    method: str = ""
    contains: str = ""

    def is_for(self, method: str, path: str) -> bool:
        return self.method in ("", method) and self.contains in path


@dataclass
class _Queue:
    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)


class FaultyProxy(ThreadingHTTPServer):
    """Stands before a server on a port of loopback. ``delay_seconds`` is added to every request; with ``link_rate`` all
    bodies together pass at so many bytes per second each way, as over one line.

    With ``ignores_conditions`` a create replaces what is there, as some stores do; only for servers that look at no
    signature, since conditions are signed.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target_port: int, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target_port = target_port
        self.delay_seconds = 0.0
        self.link_rate: float | None = None
        self._link_free_at = {"there": 0.0, "back": 0.0}
        # Of which object, the way, when all had passed, bytes.
        self.link_log: list[tuple[str, Literal["there", "back"], float, int]] = []
        self.ignores_conditions = False
        self.choose: Callable[[int], Fault | None] = lambda _number: None
        self.is_hanging = threading.Event()
        self.ends = threading.Event()
        self._queue = _Queue()
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def strike(self, kind: Kind, times: int = 1, **which: object) -> None:
        """Have the next ``times`` requests of this kind meet a fault."""
        with self._queue.lock:
            self._queue.waiting += [Fault(kind=kind, **which)] * times  # type: ignore[arg-type]

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Method and path of every request so far."""
        with self._queue.lock:
            return list(self._queue.asked)

    @property
    def unspent(self) -> int:
        """How many faults have met no request."""
        return len(self._queue.waiting)

    def calm(self) -> None:
        """Faults that have met no request are forgotten, and so is what was asked."""
        with self._queue.lock:
            self._queue.waiting.clear()
            self._queue.asked.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Note a request; the fault it meets."""
        with self._queue.lock:
            self._queue.asked.append((method, path))
            for number, fault in enumerate(self._queue.waiting):
                if fault.is_for(method, path):
                    return self._queue.waiting.pop(number)
            return self.choose(len(self._queue.asked))

    def pass_link(self, path: str, way: Literal["there", "back"], size_bytes: int) -> None:
        """Take as long as so many bytes take, behind those that are on the line already."""
        if self.link_rate is None or not size_bytes:
            return
        with self._queue.lock:
            now = time.monotonic()
            free_at = max(now, self._link_free_at[way]) + size_bytes / self.link_rate
            self._link_free_at[way] = free_at
            self.link_log.append((path, way, free_at, size_bytes))
        self.ends.wait(free_at - now)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what tests do here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server: FaultyProxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _pass(self) -> None:
        fault = self.server.take(self.command, self.path)
        if fault is not None and fault.kind == "reset":
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.pass_link(self.path, "there", len(body))
        if self.server.delay_seconds:
            self.server.ends.wait(self.server.delay_seconds)
        if fault is not None and fault.kind == "hanging":
            self.server.is_hanging.set()
            self.server.ends.wait()
            self.close_connection = True
        elif fault is not None and fault.kind == "refused":
            self._answer(fault.status, [], _error(fault.code))
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target_port, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if not (self.server.ignores_conditions and name.lower() == "if-none-match"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            length = answer.getheader("Content-Length") or str(len(content))
        finally:
            connection.close()
        if fault is None:
            self._answer(answer.status, headers, content, length)
        elif fault.kind == "lost":
            self.close_connection = True
        elif fault.kind == "failed-late":
            self._answer(500, [], _error("InternalError"))
        else:
            self._answer(answer.status, headers, content[: len(content) // 2], length)
            self.close_connection = True

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(content), _LINK_PART_BYTES):
                part = content[start : start + _LINK_PART_BYTES]
                self.server.pass_link(self.path, "back", len(part))
                self.wfile.write(part)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode() if code else b""


@contextmanager
def proxying(target_port: int, *, tls: tuple[Path, Path] | None = None) -> Iterator[FaultyProxy]:
    """A proxy, for as long as the block lasts."""
    proxy = FaultyProxy(target_port, tls=tls)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ends.set()
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def make_certificates(directory: Path, host: str = "127.0.0.1") -> tuple[Path, tuple[Path, Path]]:
    """A certificate authority of one's own, and a server's certificate and key by it: (CA, (certificate, key))."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def certify(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey) -> bytes:
        is_ca = name == issuer
        alternative: x509.GeneralName = (
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_file, certificate, key_file = (directory / name for name in ("ca.pem", "server.pem", "server.key"))
    ca_file.write_bytes(certify("test authority", authority, "test authority", authority))
    certificate.write_bytes(certify("test server", server, "test authority", authority))
    key_file.write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca_file, (certificate, key_file)
