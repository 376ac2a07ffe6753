"""What ``pghaven wal refill`` shows.

The one idea: a line for each repository, since they fare differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pghaven.errors import EXIT_DONE, EXIT_WARNINGS, StoreUnreachable
from pghaven.repository.gaps import WalGap
from pghaven.wal.refill import Filled
from pghaven.wal.refilling import RefilledRepository


def render_refill(found: Sequence[RefilledRepository]) -> str:
    """For people."""
    return "".join(f"{one.repository}: {_tell(one)}\n" + "".join(_tell_gaps(one)) for one in found)


def describe_refill(cluster: str, found: Sequence[RefilledRepository]) -> dict[str, object]:
    """For programs."""
    return {
        "cluster": cluster,
        "repositories": [
            {
                "repository": one.repository,
                "filled": one.count,
                "from_pg_wal": one.filled.get(Filled.FROM_WAL_DIRECTORY, 0),
                "from_servers": one.gaps.filled,
                "lost": [{"first": str(gap.first), "last": str(gap.last)} for gap in one.gaps.lost],
                "open": [
                    {"first": str(gap.first), "last": str(gap.last), "asked": asked} for gap, asked in one.gaps.open
                ],
                "error": one.error,
                "hint": one.hint,
            }
            for one in found
        ],
    }


def end_refill(found: Sequence[RefilledRepository]) -> int:
    """The exit status: that of the gravest error by which a repository was left without its share, that of a warning
    when something is still missing.

    A store that cannot be reached may be back the next time; whatever else failed wants somebody, and goes before it.
    """
    failed = [one.exit_status for one in found if one.error is not None]
    lasting = [status for status in failed if status != StoreUnreachable.exit_status]
    if failed:
        return (lasting or failed)[0]
    return EXIT_WARNINGS if any(one.gaps.lost or one.gaps.open for one in found) else EXIT_DONE


def _tell_gaps(one: RefilledRepository) -> Iterator[str]:
    sources = Counter(one.gaps.filled.values())
    for source, count in sources.items():
        yield f"  {count} segment{'s' if count > 1 else ''} from {source}\n"
    for gap in one.gaps.lost:
        yield f"  {_span(gap)}: lost, no server has it; nothing after it can be restored without a newer backup\n"
        yield "    HINT:  Take one: pghaven backup\n"
    for gap, asked in one.gaps.open:
        told = "; ".join(f"{name}: {answer}" for name, answer in asked.items()) or "there was nobody to ask"
        yield f"  {_span(gap)}: still missing ({told})\n"


def _span(gap: WalGap) -> str:
    return f"{gap.first}" if gap.count == 1 else f"{gap.first} to {gap.last} ({gap.count} segments)"


def _tell(one: RefilledRepository) -> str:
    count = one.count
    gaps = one.gaps.lost or one.gaps.open or one.gaps.filled
    nothing = "the other repositories hold nothing that is missing" if gaps else "nothing is missing"
    told = nothing if count == 0 else f"{count} file{'s' if count > 1 else ''} filled in"
    if one.error is None:
        return told
    hint = "" if one.hint is None else f"\n  {one.hint}"
    return f"failed: {one.error}" + (f" ({told})" if count else "") + hint
