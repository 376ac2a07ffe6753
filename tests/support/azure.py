"""What Azure's own tools do for a user, as far as tests need it: containers, connection strings, signatures.

Sources: the REST reference of Azure Storage, "Authorize with Shared Key" and "Create an account SAS". Account and
key are those that Azurite always has.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

from tests.support import places

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-08-06"


def _sign(text: str) -> str:
    return base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()


def make_container(port: int, name: str) -> bool:
    """Make a container on an Azurite; whether that is ready and has done it."""
    date = formatdate(usegmt=True)
    path = f"/{ACCOUNT}/{name}"
    lines = f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n/{ACCOUNT}{path}\nrestype:container"
    headers = {
        "x-ms-date": date,
        "x-ms-version": _VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{_sign('PUT' + chr(10) * 12 + lines)}",
        "Content-Length": "0",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("PUT", f"{path}?restype=container", headers=headers)
        return connection.getresponse().status == 201
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def sign_access(permissions: str, lifetime: timedelta = timedelta(hours=12)) -> str:
    """A shared access signature for all blobs of the account: ``r`` read, ``l`` list, ``w`` write, ``d`` delete …"""
    end = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = [ACCOUNT, permissions, "b", "sco", "", end, "", "", _VERSION, "", ""]
    query = {"sv": _VERSION, "ss": "b", "srt": "sco", "sp": permissions, "se": end, "sig": _sign("\n".join(fields))}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())


def render_connection(endpoint: str, signature: str | None = None, key: str = KEY) -> str:
    secret = f"AccountKey={key}" if signature is None else f"SharedAccessSignature={signature}"
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};{secret};BlobEndpoint={endpoint};"


def write_connection(path: Path, endpoint: str, signature: str | None = None) -> Path:
    """A file with a connection string, that only the servers' user reads."""
    path.write_text(render_connection(endpoint, signature) + "\n")
    path.chmod(0o600)
    places.own(path)
    return path
