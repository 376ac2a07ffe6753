"""A drill's result, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pghaven.cli.output import make_printable
from pghaven.cli.render import render_block
from pghaven.units import render_duration, render_rate, render_size, render_time

if TYPE_CHECKING:
    from pghaven.drill.result import DrillResult


def render_body(result: DrillResult) -> dict[str, object]:
    reached = result.reached
    return {
        "cluster": result.cluster,
        "repository": result.repository,
        "began_at": result.began_at,
        "passed": result.passed,
        "policy": result.policy,
        "target": result.target,
        "source": result.source,
        "as_standby": result.as_standby,
        "backup": result.backup,
        "server_version": result.server_version,
        "promised_lsn": result.promised_lsn,
        "reached": None
        if reached is None
        else {"timeline": reached.timeline, "lsn": reached.lsn, "time": reached.time},
        "marker": result.marker,
        "checks": result.checks,
        "tables": len(result.contents),
        "rows": sum(one.rows for one in result.contents),
        "seconds": result.seconds,
        "written_bytes": result.written_bytes,
        "fetched_bytes": result.fetched_bytes,
        "replayed_bytes": result.replayed_bytes,
        "evidence": result.evidence,
        "signed": result.is_signed,
    }


def render_text(result: DrillResult) -> str:
    """A heading with the verdict, a line for each answer, and what it took."""
    verdict = "PASSED" if result.passed else "FAILED"
    text = f"drill of cluster {result.cluster} from repository {result.repository}: {verdict}\n"
    pairs: list[tuple[str, object]] = [("target", result.target), (result.source, result.backup)]
    text += render_block(pairs, indent="  ")
    for one in result.checks:
        text += make_printable(f"  {one.name}: {one.text}: {one.verdict.value}") + "\n"
        if one.hint:
            text += make_printable(f"      HINT:  {one.hint}") + "\n"
    return text + render_block(_list_measured(result), indent="  ")


def _list_measured(result: DrillResult) -> list[tuple[str, object]]:
    seconds = result.seconds
    pairs: list[tuple[str, object]] = []
    if "fetch" in seconds and result.written_bytes:
        pairs.append(("files", _measure(seconds["fetch"], result.written_bytes)))
    if "replay" in seconds and result.replayed_bytes:
        pairs.append(("replay", _measure(seconds["replay"], result.replayed_bytes)))
    if "first_query" in seconds:
        pairs.append(("first query", f"answered after {render_duration(seconds['first_query'])}"))
    if result.evidence is not None:
        signed = ", signed with the repository's key" if result.is_signed else ""
        pairs.append(("kept as", f"{result.evidence}, at {render_time(result.began_at)}{signed}"))
    return pairs


def _measure(seconds: float, size_bytes: int) -> str:
    rate = f" ({render_rate(size_bytes / seconds)})" if seconds > 0 else ""
    return f"{render_size(size_bytes)} in {render_duration(seconds)}{rate}"
