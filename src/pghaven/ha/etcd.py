"""The few things that are done in etcd itself, over its JSON gateway.

The one idea: what Patroni keeps there is Patroni's. It is removed whole when a cluster is taken back in time, because
what it remembers is of a future that is undone; and the leader's key is removed when its holder is known to be dead.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Sequence
from typing import Any, Final

from pghaven.errors import StoreUnreachable
from pghaven.ha.spec import NAMESPACE

_SECONDS: Final = 5.0


class Etcd:
    """``hosts`` are HOST:PORT of members; the first that answers is taken. Every call raises StoreUnreachable."""

    def __init__(self, hosts: Sequence[str], cluster: str) -> None:
        self._hosts = tuple(hosts)
        self._home = f"{NAMESPACE}{cluster}/"

    def get(self, name: str) -> str | None:
        """The value of one of the cluster's keys."""
        found = self._call("range", {"key": _encode(self._home + name)}).get("kvs")
        return None if not found else base64.b64decode(found[0].get("value", "")).decode()

    def put(self, name: str, value: str) -> None:
        self._call("put", {"key": _encode(self._home + name), "value": _encode(value)})

    def delete(self, name: str) -> bool:
        """Whether it was there."""
        return bool(self._call("deleterange", {"key": _encode(self._home + name)}).get("deleted"))

    def delete_all(self) -> int:
        """Remove all that is kept of the cluster; how many keys that were."""
        end = self._home[:-1] + chr(ord("/") + 1)
        answer = self._call("deleterange", {"key": _encode(self._home), "range_end": _encode(end)})
        return int(answer.get("deleted", 0))

    def find_silent(self) -> dict[str, str]:
        """The members that do not answer, or have no leader, and why."""
        found = {}
        for host in self._hosts:
            try:
                answer = self._request(host, "/v3/maintenance/status", {})
                if not answer.get("leader"):
                    found[host] = "it has no leader"
            except (OSError, http.client.HTTPException, ValueError) as error:
                found[host] = str(error)
        return found

    def _call(self, what: str, body: dict[str, str]) -> dict[str, Any]:
        failure: Exception | None = None
        for host in self._hosts:
            try:
                return self._request(host, f"/v3/kv/{what}", body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = error
        raise StoreUnreachable(f"etcd does not answer at {', '.join(self._hosts)}: {failure}")

    def _request(self, host: str, path: str, body: dict[str, str]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(host, timeout=_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ValueError(f"status {response.status}: {' '.join(text.split())[:200]}")
        answer = json.loads(text)
        return answer if isinstance(answer, dict) else {}


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
