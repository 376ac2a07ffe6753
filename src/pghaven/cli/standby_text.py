"""How ``pghaven standby create`` shows its plan and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pghaven.cli.render import render_block
from pghaven.standby.access import Refusal
from pghaven.units import render_duration, render_size

if TYPE_CHECKING:
    from pghaven.cli.standby_making import CreateOptions
    from pghaven.restore.sources import SourcedPlan
    from pghaven.standby.build import BuildPlan, Built
    from pghaven.standby.view import StandbyState


def render_build_plan(plan: BuildPlan, options: CreateOptions, sourced: SourcedPlan | None) -> str:
    """What will be done, ending in an empty line."""
    request = plan.request
    pairs: list[tuple[str, object]] = [
        ("from", _describe_source(sourced)),
        ("follows", _describe_upstream(plan)),
        ("slot", None if plan.slot is None else f"{plan.slot.name} ({plan.slot.action})"),
        ("delay", render_duration(request.delay_seconds) if request.delay_seconds else None),
        ("into", options.data_directory),
        ("port", options.port),
    ]
    text = f"standby of cluster {request.cluster}\n" + render_block(pairs, indent="  ")
    return text + _render_needs(plan) + "\n"


def _describe_source(sourced: SourcedPlan | None) -> str:
    if sourced is None:
        return "the server it follows, by pg_basebackup"
    found = sourced.plan
    most = "" if found.existing is None else "at most "
    return (
        f"repository {sourced.name}, backup {found.backup.label}: {most}{render_size(found.fetch_bytes)} to fetch, "
        f"{most}{render_size(found.manifest.facts.total_bytes)} to write"
    )


def _describe_upstream(plan: BuildPlan) -> str:
    if plan.upstream is None:
        return "the archive alone"
    server = plan.upstream.server
    what = "standby" if server.in_recovery else "primary"
    return f"{what} at {plan.upstream.host} port {plan.upstream.port}, timeline {server.timeline}, as role {plan.role}"


def _render_needs(plan: BuildPlan) -> str:
    text = ""
    for one in plan.settings:
        restart = " (in force after a restart)" if one.needs_restart else ""
        pairs: list[tuple[str, object]] = [
            ("now", one.current or "(empty)"),
            ("must be" if one.required else "better", one.wanted + restart),
            ("because", one.reason),
        ]
        text += f"  {one.name} of the server it follows\n" + render_block(pairs, indent="    ")
    if plan.role_statement is not None:
        text += f"  needed there: {plan.role_statement}\n"
    elif isinstance(plan.login, Refusal):
        text += f"  it is not let in yet: {plan.login.reason}\n"
        if plan.login.hba_line is not None:
            text += f"  needed in pg_hba.conf there: {plan.login.hba_line}\n"
    return text


def render_created(options: CreateOptions, built: Built, seconds: float, start: str | None) -> str:
    pairs: list[tuple[str, object]] = [("start it with", start)]
    if built.state is not None:
        pairs += [("it", describe_state(built.state)), ("replayed", f"up to {built.state.replayed_lsn}")]
    return f"made a standby in {options.data_directory} in {render_duration(seconds)}\n" + render_block(
        pairs, indent="  "
    )


def describe_state(state: StandbyState) -> str:
    """From where it gets its WAL, in words."""
    if state.receiver is not None and state.is_streaming:
        return f"streams from {state.receiver.host} port {state.receiver.port}, on timeline {state.timeline}"
    return f"replays what is in the archive, on timeline {state.timeline}"


def describe_plan(plan: BuildPlan, options: CreateOptions, sourced: SourcedPlan | None) -> dict[str, object]:
    """For programs."""
    upstream, login = plan.upstream, plan.login
    return {
        "cluster": plan.request.cluster,
        "data_directory": options.data_directory,
        "source": options.source,
        "repository": None if sourced is None else sourced.name,
        "backup": None if sourced is None else sourced.plan.backup.label,
        "upstream": None
        if upstream is None
        else {
            "host": upstream.host,
            "port": upstream.port,
            "is_standby": upstream.server.in_recovery,
            "timeline": upstream.server.timeline,
            "lsn": upstream.server.lsn,
        },
        "role": plan.role,
        "slot": None if plan.slot is None else plan.slot.name,
        "delay_seconds": plan.request.delay_seconds,
        "settings_to_change": plan.settings,
        "role_statement": plan.role_statement,
        "login_refused": login.reason if isinstance(login, Refusal) else None,
        "hba_line": login.hba_line if isinstance(login, Refusal) else None,
    }


def describe_created(built: Built, seconds: float) -> dict[str, object]:
    return {
        "total_seconds": seconds,
        "raised": dict(built.raised),
        "started": built.state is not None,
        "streaming": None if built.state is None else built.state.is_streaming,
        "replayed_lsn": None if built.state is None else built.state.replayed_lsn,
    }
