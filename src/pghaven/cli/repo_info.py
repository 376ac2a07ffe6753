"""``pghaven repo info``: what lies in a repository, what it costs, and why each pack is kept."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pghaven.config.repository_values import RepositoryConfig
    from pghaven.repository.bill import Charge, Demand, Prices
    from pghaven.repository.census import Census
    from pghaven.repository.pack import PackRef
    from pghaven.repository.packuse import PackUse
    from pghaven.repository.repository import Repository


@click.command("info")
@click.option("--repository", metavar="NAME", help="Only this repository, as it is called in the configuration.")
@click.option("--packs", is_flag=True, help="Also each pack: how much of it is in use, and why it is kept.")
@click.pass_obj
def command(invocation: Invocation, repository: str | None, packs: bool) -> int:
    """Show what lies in each configured repository, and what it costs in a month.

    Everything is listed once; beside it stands how many requests operations take. What it costs follows from the prices
    in [repository.NAME.prices], and is shown as the arithmetic that it is. --packs reads all manifests. Of several
    repositories each is shown, and one that cannot be reached is warned of. Needs the repository alone, no server.
    """
    from pghaven.cli.opening import each_place

    names = tuple(invocation.config.repositories) if repository is None else (repository,)
    prices = invocation.config.repositories

    def look(name: str, opened: Repository) -> tuple[dict[str, object], str]:
        return _look_into(name, opened, prices[name], packs=packs)

    shown = each_place(invocation.config, names, invocation.reporter, look)
    bodies = [body for _, (body, _) in shown]
    return invocation.show("repo-info", {"repositories": bodies}, "\n".join(text for _, (_, text) in shown))


def _look_into(
    name: str, opened: Repository, config: RepositoryConfig, *, packs: bool
) -> tuple[dict[str, object], str]:
    """What is shown of one repository, as JSON and as text."""
    from pghaven.repository.backups import BackupCatalog
    from pghaven.repository.bill import list_demands
    from pghaven.repository.census import take_census
    from pghaven.repository.packuse import explain_packs

    census = take_census(opened)
    newest = list(_find_newest(opened))
    charges, currency = _estimate(newest, census, config)
    demands = list_demands(census, newest)
    uses = {one: explain_packs(BackupCatalog(opened, one)) for one in opened.list_clusters()} if packs else {}
    body = _body(name, opened, census, charges, currency) | {"operations": demands}
    text = _text(name, opened, census, demands) + _cost_text(name, charges, currency)
    return body | ({"packs": uses} if packs else {}), text + "".join(map(_pack_text, uses, uses.values()))


def _find_newest(repository: Repository) -> Iterator[tuple[str, str, Iterable[PackRef]]]:
    """The newest backup of each cluster, and the packs it needs; not where these cannot be read."""
    from pghaven.errors import Damaged, NotPermitted, ObjectMissing
    from pghaven.repository.backups import BackupCatalog

    for cluster in repository.list_clusters():
        catalog = BackupCatalog(repository, cluster)
        for entry in catalog.list_committed()[-1:]:
            with suppress(Damaged, ObjectMissing, NotPermitted):
                table = catalog.load_pack_table(entry, next(catalog.iter_manifests(entry)))
                yield cluster, entry.label, table


def _estimate(
    newest: Sequence[tuple[str, str, Iterable[PackRef]]], census: Census, config: RepositoryConfig
) -> tuple[list[Charge], str]:
    """Per month, and for restoring the newest backup of each cluster; empty without any price."""
    from pghaven.repository.bill import Prices, estimate_month, estimate_restore

    given = config.prices
    prices: Prices = Prices(
        currency=given.currency,
        storage_gb_month=given.storage_gb_month,
        put_1000=given.put_1000,
        get_1000=given.get_1000,
        egress_gb=given.egress_gb,
    )
    charges = list(estimate_month(census, prices))
    for cluster, label, packs in newest:
        charges += estimate_restore(packs, prices, f"backup {label} of {cluster}")
    return charges, prices.currency


def _body(
    name: str, repository: Repository, census: Census, charges: Sequence[Charge], currency: str
) -> dict[str, object]:
    return {
        "repository": name,
        "url": repository.store.url,
        "repository_id": repository.id,
        "format_version": repository.descriptor.version,
        "objects": census.objects,
        "bytes": census.bytes,
        "counts": census.counts,
        "recent_objects": census.recent_objects,
        "recent_days": census.recent_days,
        "currency": currency if charges else None,
        "charges": [_charge_body(one) for one in charges],
        "month_amount": sum(one.amount for one in charges if one.per == "month") if charges else None,
    }


def _charge_body(charge: Charge) -> dict[str, object]:
    return {
        "what": charge.what,
        "quantity": charge.quantity,
        "unit": charge.unit,
        "price": charge.price,
        "amount": charge.amount,
        "per": charge.per,
    }


def _text(name: str, repository: Repository, census: Census, demands: Sequence[Demand]) -> str:
    from pghaven.cli.render import Column, render_table
    from pghaven.units import render_size

    def right(*titles: str) -> list[Column]:
        return [Column(title=title, align="right") for title in titles]

    rows: list[tuple[object, ...]] = [
        (one.cluster or None, one.kind, one.objects, render_size(one.bytes)) for one in census.counts
    ]
    rows.append(("all", None, census.objects, render_size(census.bytes)))
    text = f"repository {name}: {repository.store.url}\n"
    text += render_table(["cluster", "kind", *right("objects", "size")], rows)
    if demands:
        asked = [(one.operation, one.put or None, one.get or None) for one in demands]
        text += render_table(["requests for", *right("put", "get")], asked)
    return text


def _cost_text(name: str, charges: Sequence[Charge], currency: str) -> str:
    if not charges:
        return f"what it costs: not known, [repository.{name}.prices] is empty\n"
    return "".join(_charge_text(charges, per, currency) for per in dict.fromkeys(one.per for one in charges))


def _charge_text(charges: Sequence[Charge], per: str, currency: str) -> str:
    """The arithmetic of one sum."""
    from pghaven.cli.render import render_block

    rows = [
        (one.what, f"{one.quantity:,.3f} {one.unit} × {one.price:g} = {_amount(one.amount)} {currency}")
        for one in charges
        if one.per == per
    ]
    total = sum(one.amount for one in charges if one.per == per)
    title = "each month" if per == "month" else f"restoring {per} once"
    return f"{title}: about {_amount(total)} {currency}\n" + render_block(rows, indent="  ")


def _amount(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.6f}"


def _pack_text(cluster: str, uses: Sequence[PackUse]) -> str:
    from pghaven.cli.render import Column, render_table
    from pghaven.units import render_size

    if not uses:
        return f"cluster {cluster} has no packs\n"
    right = [Column(title=title, align="right") for title in ("size", "in use")]
    rows = [(one.label, one.id[:12], render_size(one.size_bytes), _share(one), one.reason) for one in uses]
    return f"packs of cluster {cluster}\n" + render_table(["written by", "pack", *right, "why"], rows)


def _share(use: PackUse) -> str | None:
    if use.live_bytes is None or not use.plain_bytes:
        return None
    return f"{100 * use.live_bytes / use.plain_bytes:.0f} %"
