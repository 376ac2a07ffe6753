"""Patroni's REST interface.

The one idea: any member can be asked about the whole cluster, so questions go to each in turn until one answers; what
is asked of one member goes to that one.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from pghaven.errors import Refused, ServerUnsuitable
from pghaven.ha.spec import REST_USER, HaNode

ANSWER_SECONDS: Final = 5.0
_REFUSED_FROM: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``body`` is the JSON object, or the text where it is none."""

    status: int
    body: Any


class RestApi:
    """What is asked and told over REST; ``password`` goes with what changes something."""

    def __init__(self, password: str, timeout_seconds: float = ANSWER_SECONDS) -> None:
        self._password = password
        self._timeout_seconds = timeout_seconds

    def call(
        self, node: HaNode, method: str, path: str, body: object = None, *, timeout_seconds: float | None = None
    ) -> Answer:
        """Raises ServerUnsuitable when the member does not answer."""
        place = urlsplit(node.rest_url)
        assert place.hostname is not None
        limit = timeout_seconds or self._timeout_seconds
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=limit)
        headers = {"Content-Type": "application/json"}
        if method != "GET":
            token = base64.b64encode(f"{REST_USER}:{self._password}".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnsuitable(
                f'Patroni of node "{node.name}" does not answer at {node.rest_url}: {error}',
                hint=f"Does its service run, and can {node.rest_url} be reached from here?",
            ) from error
        finally:
            connection.close()
        try:
            return Answer(status=response.status, body=json.loads(text))
        except ValueError:
            return Answer(status=response.status, body=text.strip())

    def ask(self, nodes: Iterable[HaNode], path: str) -> dict[str, Any]:
        """What the first member that answers says. Raises ServerUnsuitable when none does."""
        failures = []
        for node in nodes:
            try:
                answer = self.call(node, "GET", path)
            except ServerUnsuitable as error:
                failures.append(error)
                continue
            if isinstance(answer.body, dict):
                return answer.body
        raise ServerUnsuitable(
            "no node of the cluster answers",
            detail="\n".join(failure.message for failure in failures) or None,
            hint="Does Patroni's service run on the nodes? See: pghaven ha check",
        )

    def tell(
        self, nodes: Iterable[HaNode], method: str, path: str, body: object, *, timeout_seconds: float | None = None
    ) -> Answer:
        """Have the first member that answers do something. Raises ServerUnsuitable, Refused with Patroni's reason."""
        failure: ServerUnsuitable | None = None
        for node in nodes:
            try:
                answer = self.call(node, method, path, body, timeout_seconds=timeout_seconds)
            except ServerUnsuitable as error:
                failure = error
                continue
            if answer.status >= _REFUSED_FROM:
                raise Refused(f"Patroni refuses: {_one_line(answer.body)}")
            return answer
        raise failure or ServerUnsuitable("there is no node to ask")


def _one_line(body: object) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return " ".join(text.split()) or "it gives no reason"
