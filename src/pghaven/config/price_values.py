"""The options of what a store charges: ``[repository.NAME.prices]``, a part of ``values``.

The one idea: no price is built in, since it would be wrong somewhere and out of date everywhere.
"""

from __future__ import annotations

from pghaven.config.schema import PRICE, TEXT, option
from pghaven.light import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceConfig:
    """Prices in ``currency``; None for what is not charged for."""

    currency: str = option(TEXT, default="USD", doc="What the prices are in.", example='"EUR"')
    storage_gb_month: float | None = option(
        PRICE, default_words="not counted", doc="For keeping 10⁹ bytes for a month.", example="0.023"
    )
    put_1000: float | None = option(
        PRICE, default_words="not counted", doc="For a thousand objects that are written.", example="0.005"
    )
    get_1000: float | None = option(
        PRICE, default_words="not counted", doc="For a thousand requests that read.", example="0.0004"
    )
    egress_gb: float | None = option(
        PRICE, default_words="not counted", doc="For 10⁹ bytes that leave the store.", example="0.09"
    )


NO_PRICES = PriceConfig()
