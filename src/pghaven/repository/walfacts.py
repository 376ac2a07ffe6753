"""What is kept beside a segment of what it covers: its records and the times of its commits.

The one idea: whoever stores a segment has it in memory and looks once; everybody else reads these few facts from the
end of its object. They are a help: a fact that is missing is unknown, and older segments have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.walspan import WalSpan
from pghaven.units import parse_time_utc, render_time_utc


def render_span(span: WalSpan) -> dict[str, Any]:
    """The facts that tell this; unknown ones are left out."""
    facts: dict[str, Any] = {}
    if span.first_record is not None:
        facts["first_record"] = str(span.first_record)
    if span.last_record is not None:
        facts["last_record"] = str(span.last_record)
    if span.first_commit is not None:
        facts["first_commit"] = render_time_utc(span.first_commit)
    if span.last_commit is not None:
        facts["last_commit"] = render_time_utc(span.last_commit)
    if span.has_commits is not None:
        facts["has_commits"] = span.has_commits
    return facts


def parse_span(facts: Mapping[str, Any]) -> WalSpan:
    """The inverse; what cannot be read is unknown."""
    try:
        return WalSpan(
            first_record=_read(facts, "first_record", Lsn.parse),
            last_record=_read(facts, "last_record", Lsn.parse),
            first_commit=_read(facts, "first_commit", parse_time_utc),
            last_commit=_read(facts, "last_commit", parse_time_utc),
            has_commits=facts["has_commits"] is True if "has_commits" in facts else None,
        )
    except (TypeError, ValueError):
        return WalSpan()


def _read(facts: Mapping[str, Any], key: str, parse: Any) -> Any:
    return parse(facts[key]) if key in facts else None
