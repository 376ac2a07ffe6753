"""``pghaven repo info``: what lies in a repository, what it costs, and why it is kept."""

from __future__ import annotations

import pytest

from tests.cli.site import Site
from tests.support.moving import list_files

PRICES = {
    "PGHAVEN_REPOSITORY__MAIN__PRICES__CURRENCY": "EUR",
    "PGHAVEN_REPOSITORY__MAIN__PRICES__STORAGE_GB_MONTH": "23.5",
    "PGHAVEN_REPOSITORY__MAIN__PRICES__PUT_1000": "5",
    "PGHAVEN_REPOSITORY__MAIN__PRICES__EGRESS_GB": "0.09",
}


def test_it_counts_what_lies_there(protected: Site) -> None:
    protected.archive_all()  # what the backup's end has left to be archived comes while this counts
    (found,) = protected.json("repo", "info")["repositories"]
    there = [path for path in list_files(protected.repository) if not path.name.startswith(".")]
    assert (found["objects"], found["bytes"]) == (len(there), sum(path.stat().st_size for path in there))
    assert {one["kind"] for one in found["counts"]} >= {"packs", "manifests", "records", "wal", "repository"}
    assert (found["charges"], found["month_amount"], found["currency"]) == ([], None, None)
    assert "[repository.main.prices] is empty" in protected.ok("repo", "info")


def test_the_requests_of_operations_are_those_that_are_made(protected: Site) -> None:
    (found,) = protected.json("repo", "info")["repositories"]
    wrote, restores, wal, verifies = found["operations"]
    newest = protected.json("list")["clusters"][0]["backups"][-1]
    assert newest["label"] in wrote["operation"]
    assert wrote["put"] > 3
    assert wal["put"] == 1
    asked = protected.json("verify")["requests"][0]
    assert restores["get"] < verifies["get"]
    assert asked["get"] <= verifies["get"] + 20, "what is read twice, such as keys and the list of what there is"
    assert "requests for" in protected.ok("repo", "info")


def test_its_estimate_is_shown_as_arithmetic(protected: Site) -> None:
    shown = protected.json("repo", "info", environment=PRICES)
    (found,) = shown["repositories"]
    for charge in found["charges"]:
        assert charge["amount"] == pytest.approx(charge["quantity"] * charge["price"], abs=1e-3)
    month = [one for one in found["charges"] if one["per"] == "month"]
    assert [one["unit"] for one in month] == ["GB", "1,000 PUT"]
    assert found["month_amount"] == pytest.approx(sum(one["amount"] for one in month), abs=1e-3)
    assert month[0]["quantity"] == pytest.approx(found["bytes"] / 10**9, abs=1e-5)
    assert [one["unit"] for one in found["charges"] if one["per"] != "month"] == ["GB"], "GET has no price"
    assert shown["requests"][0]["list"] >= 1
    text = protected.run("repo", "info", environment=PRICES).out
    assert "each month: about" in text
    assert " GB × 23.5 = " in text


def test_each_pack_is_told_with_the_reason(protected: Site) -> None:
    (found,) = protected.json("repo", "info", "--packs")["repositories"]
    packs = found["packs"]["main"]
    assert packs
    assert all(one["reason"].startswith("backup ") and one["backups"] for one in packs)
    assert all(0 < one["live_bytes"] <= one["plain_bytes"] for one in packs)
    assert "in use" in protected.ok("repo", "info", "--packs")


def test_a_repository_that_is_not_configured_is_not_found(protected: Site) -> None:
    assert protected.error("repo", "info", "--repository", "nobody", status=10)["code"] == "not_found"
