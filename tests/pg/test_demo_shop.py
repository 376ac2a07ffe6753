"""The demonstration's comparison: whatever differs between two states of the shop is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pghaven.clock import SYSTEM_CLOCK
from pghaven.demo.shop import TABLES, Customers, ShopSize, TableState, fill_shop, plan_shop, read_tables
from pghaven.errors import ServerUnsuitable
from pghaven.events import ignore
from pghaven.server.connection import connect
from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until

SIZE = ShopSize(customers=200, orders=1000)


@pytest.fixture
def shop(pg_cluster: TestCluster) -> Iterator[TestCluster]:
    with connect(pg_cluster.conninfo) as connection:
        fill_shop(connection, SIZE, ignore)
    yield pg_cluster


def read(cluster: TestCluster) -> dict[str, TableState]:
    with connect(cluster.conninfo) as connection:
        return {one.name: one for one in read_tables(connection)}


def test_every_table_is_filled_and_compared(shop: TestCluster) -> None:
    found = read(shop)
    assert tuple(found) == TABLES
    assert {name: state.rows for name, state in found.items()} == {
        "customer": 200,
        "product": 2000,
        "orders": 1000,
        "order_line": 3000,
        "release": 1,
    }


def test_reading_twice_finds_the_same(shop: TestCluster) -> None:
    before = read(shop)
    shop.sql("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'")
    shop.sql("VACUUM FULL")
    assert read(shop) == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE customer SET balance = balance + 0.01 WHERE id = 7",
        "UPDATE product SET stock = stock - 1 WHERE id = 2000",
        "UPDATE orders SET placed_at = placed_at + interval '1 microsecond' WHERE id = 1",
        "DELETE FROM order_line WHERE order_id = 1000 AND line = 3",
        "INSERT INTO release VALUES ('4.2')",
    ],
)
def test_the_smallest_change_is_found(shop: TestCluster, change: str) -> None:
    before = read(shop)
    shop.sql(change)
    assert read(shop) != before


def test_rows_that_exchange_their_contents_are_found(shop: TestCluster) -> None:
    before = read(shop)
    shop.sql("UPDATE customer AS c SET name = o.name FROM customer AS o WHERE (c.id, o.id) IN ((7, 8), (8, 7))")
    after = read(shop)
    assert after["customer"].rows == before["customer"].rows
    assert after["customer"] != before["customer"]


def test_a_table_that_is_gone_is_missing(shop: TestCluster) -> None:
    shop.sql("DROP TABLE order_line")
    assert "order_line" not in read(shop)


def test_customers_order_until_they_are_told_to_leave(shop: TestCluster) -> None:
    customers = Customers(shop.conninfo, SIZE.customers, 0.0, SYSTEM_CLOCK)
    with customers.ordering():
        wait_until(lambda: customers.placed >= 20, "20 orders")
    assert shop.value("SELECT count(*) FROM orders") == SIZE.orders + customers.placed
    assert shop.value("SELECT count(*) FROM order_line") == 3 * (SIZE.orders + customers.placed)
    assert customers.slowest_seconds > 0


def test_an_order_that_fails_is_told(shop: TestCluster) -> None:
    shop.sql("DROP TABLE order_line")
    customers = Customers(shop.conninfo, SIZE.customers, 0.0, SYSTEM_CLOCK)
    with pytest.raises(ServerUnsuitable, match="order_line"), customers.ordering():
        wait_until(lambda: 'relation "order_line" does not exist' in shop.log(), "the failure")


def test_more_data_is_more_orders() -> None:
    assert plan_shop(0) == ShopSize(customers=200, orders=1000)
    assert plan_shop(1 << 30).orders > plan_shop(1 << 20).orders
