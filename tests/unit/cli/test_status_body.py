"""What ``status --json`` shows of states that a test with a server seldom meets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pghaven.cli.render import to_json
from pghaven.cli.status_body import render_body
from pghaven.proof.states import ClusterStatus
from pghaven.repository.evidence import Evidence, Scope
from tests.unit.proof.test_problems import NOW, REPOSITORY, SERVER

DOUBTFUL = Evidence(
    name="clusters/main/evidence/E",
    scope=Scope.QUICK,
    only=None,
    began_at=NOW,
    backups=(),
    archive_ends=(),
    damage_count=0,
    doubt="it is not signed",
)


def show(doubtful: Evidence | None) -> object:
    status = ClusterStatus(
        cluster="main",
        server=SERVER,
        repositories=(replace(REPOSITORY, doubtful=doubtful),),
        overall=None,
        problems=(),
        looked_at=NOW,
    )
    body: Any = to_json(render_body(status))
    return body["repositories"][0]["doubtful_verification"]


def test_a_verification_that_does_not_count_is_shown_with_its_reason() -> None:
    shown = {"evidence": "clusters/main/evidence/E", "at": "2026-11-23T00:00:00.000000Z", "doubt": "it is not signed"}
    assert show(DOUBTFUL) == shown
    assert show(None) is None
