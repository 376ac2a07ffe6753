"""The options of drills: ``[cluster.NAME.drill]``, a part of ``values``.

The one idea: what a drill asks is known before it, so an own check is a query together with its answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from pghaven.config.schema import (
    DIRECTORY,
    DURATION,
    SIZE,
    SWITCH,
    TEXTS,
    Invalid,
    Kind,
    one_of,
    option,
    render_value,
)
from pghaven.light import dataclass

DRILL_POLICIES: Final = ("random", "latest", "backup")
DRILL_QUESTIONS: Final = ("marker", "pages", "rows", "indexes", "extensions", "collations")

_CHECK_KEYS: Final = {"name": True, "database": True, "sql": True, "expect": False}
_DEFAULT_EXPECTED: Final = "t"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlCheck:
    """The first column of the query's first row must be ``expect``, as psql shows it."""

    name: str
    database: str
    sql: str
    expect: str


def _parse_checks(value: object) -> tuple[SqlCheck, ...]:
    if not isinstance(value, list):
        raise Invalid(f"must be a list of tables with name, database, sql and expect, not {render_value(value)}")
    checks = tuple(_parse_check(item) for item in value)
    names = [one.name for one in checks]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(f'has two checks of the name "{name}"')
    return checks


def _parse_check(item: object) -> SqlCheck:
    if not isinstance(item, Mapping):
        raise Invalid(f"must be a list of tables, but has {render_value(item)} in it")
    for key, value in item.items():
        if key not in _CHECK_KEYS:
            raise Invalid(f'has a check with an unknown key "{key}"; known are {", ".join(_CHECK_KEYS)}')
        if not isinstance(value, str) or "\0" in value:
            raise Invalid(f'has a check whose "{key}" is not text in quotes')
    for key, is_required in _CHECK_KEYS.items():
        if is_required and not item.get(key):
            raise Invalid(f'has a check without "{key}"')
    return SqlCheck(
        name=item["name"], database=item["database"], sql=item["sql"], expect=item.get("expect", _DEFAULT_EXPECTED)
    )


def _checks_from_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parse_questions(value: object) -> tuple[str, ...]:
    found: tuple[str, ...] = TEXTS.parse(value)
    for name in found:
        if name not in DRILL_QUESTIONS:
            raise Invalid(f'has "{name}", which is none of {", ".join(DRILL_QUESTIONS)}')
    return found


_CHECKS = Kind(written="list of tables", parse=_parse_checks, from_text=_checks_from_text)
_QUESTIONS = Kind(
    written=f"list of names, of {', '.join(DRILL_QUESTIONS)}", parse=_parse_questions, from_text=TEXTS.from_text
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillConfig:
    """How a cluster is drilled."""

    directory: str | None = option(
        DIRECTORY,
        default_words="$TMPDIR, else /var/tmp",
        doc="Where a drill restores to: it needs room for the whole cluster there, and removes everything afterwards.",
        example='"/srv/drills"',
    )
    target: str = option(
        one_of(DRILL_POLICIES),
        default="random",
        doc=(
            "To which point a drill restores unless its command says else: `random`, a moment drawn from all that can "
            "be restored; `latest`, the end of the archive; `backup`, the end of the newest backup."
        ),
        example='"latest"',
    )
    timeout_seconds: float = option(
        DURATION,
        default="24h",
        doc="How long a drill's server may take to recover, and then for each statement. After that the drill has "
        "failed.",
        example='"4h"',
    )
    skip: tuple[str, ...] = option(
        _QUESTIONS,
        unset=(),
        default_words="none",
        doc="Questions that a drill leaves out. Its result says so.",
        example='["indexes"]',
    )
    preload: tuple[str, ...] = option(
        TEXTS,
        unset=(),
        default_words="none",
        doc=(
            "Libraries that a drill's server loads at its start, because tables cannot be read without them. Every "
            "other one that the cluster's `shared_preload_libraries` names is left out, with its background workers."
        ),
        example='["timescaledb"]',
    )
    checks: tuple[SqlCheck, ...] = option(
        _CHECKS,
        unset=(),
        default_words="none",
        doc=(
            "Own questions to a restored server. Each has a `name`, a `database` and `sql`; the first column of the "
            'query\'s first row must be `expect`, as psql shows it, without it `"t"`. What a query changes is rolled '
            "back. In an environment variable they are JSON."
        ),
        example='[{name = "orders", database = "shop", sql = "SELECT count(*) > 0 FROM orders"}]',
    )
    every_seconds: float | None = option(
        DURATION,
        default_words="never by itself",
        doc=(
            "How often `pghaven agent` drills the cluster: it does when the last drill, passed or not, is older. It "
            "takes room and time on the host where the agent runs."
        ),
        example='"7d"',
    )
    markers: bool = option(
        SWITCH,
        default=False,
        doc=(
            "Consent to markers: `pghaven backup` writes one after each backup, and `pghaven agent` one whenever the "
            "last is older than `marker_every`. Each reads the tables once and finishes a WAL segment early."
        ),
        example="true",
    )
    marker_every_seconds: float = option(
        DURATION,
        default="1d",
        doc="How often `pghaven agent` writes a marker, with `markers`.",
        example='"6h"',
    )
    marker_table_limit: int = option(
        SIZE,
        default="1GiB",
        doc="A marker has the rows of tables up to this size; larger ones are passed over, and named.",
        example='"100GiB"',
    )


NO_DRILLS = DrillConfig()
