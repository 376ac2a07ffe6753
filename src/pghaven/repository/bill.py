"""What a repository costs in a month, from a table of prices, and what its operations ask for: the arithmetic.

The one idea: every amount is shown as the product that it is, so that it can be checked against a real bill and the
part that is a guess is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pghaven.repository.census import Census
from pghaven.repository.pack import PackRef, count_reads

GB = 10**9  # what stores charge by
MONTH_DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In one currency; None is not charged for, or not known."""

    currency: str
    storage_gb_month: float | None
    put_1000: float | None
    get_1000: float | None
    egress_gb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """``quantity`` times ``price`` is ``amount``. ``per`` is "month", or what is restored once."""

    what: str
    quantity: float
    unit: str
    price: float
    per: str

    @property
    def amount(self) -> float:
        return self.quantity * self.price


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one operation asks of the store, without what it lists and what it looks up."""

    operation: str
    put: int
    get: int


def list_demands(census: Census, restored: Iterable[tuple[str, str, Iterable[PackRef]]]) -> tuple[Demand, ...]:
    """Of the operations that move most. ``restored``: clusters, the newest backup of each, and the packs it needs.

    What a backup wrote is counted, not estimated: each object was one request, if none had to be made again.
    """
    found = []
    for cluster, label, packs in restored:
        written = census.written.get((cluster, label), 0)
        found.append(Demand(operation=f"backup {label} of {cluster}, as it was", put=written, get=0))
        reads = sum(count_reads(pack.size_bytes) for pack in packs)
        found.append(Demand(operation="restoring it, without WAL", put=0, get=reads))
    if found:
        found.append(Demand(operation="each file of WAL", put=1, get=1))
        found.append(Demand(operation="verifying all", put=0, get=census.reads))
    return tuple(found)


def estimate_month(census: Census, prices: Prices) -> tuple[Charge, ...]:
    """What storing, and writing as in the last days, costs each month; reading is apart."""
    writes = census.recent_objects * MONTH_DAYS / census.recent_days
    rows = (
        ("storage", census.bytes / GB, "GB", prices.storage_gb_month),
        (f"writing, as in the last {census.recent_days:.0f} days", writes / 1000, "1,000 PUT", prices.put_1000),
    )
    return _charge(rows, "month")


def estimate_restore(packs: Iterable[PackRef], prices: Prices, what: str) -> tuple[Charge, ...]:
    """What fetching the packs of one backup costs each time, without WAL; ``what`` names it."""
    packs = tuple(packs)
    requests = sum(count_reads(pack.size_bytes) for pack in packs)
    size = sum(pack.size_bytes for pack in packs)
    rows = (
        ("reading all packs", requests / 1000, "1,000 GET", prices.get_1000),
        ("sending them out of the store", size / GB, "GB", prices.egress_gb),
    )
    return _charge(rows, what)


def _charge(rows: Iterable[tuple[str, float, str, float | None]], per: str) -> tuple[Charge, ...]:
    return tuple(
        Charge(what=what, quantity=quantity, unit=unit, price=price, per=per)
        for what, quantity, unit, price in rows
        if price is not None
    )
