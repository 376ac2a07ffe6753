"""``pghaven verify``: what it says of a repository, what its exit status means, and who knows of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.site import NAME, Site

WARNINGS, NOT_FOUND, DAMAGED = 3, 10, 16


def verify(site: Site, *words: str, status: int = 0) -> dict[str, Any]:
    (result,) = site.json("verify", *words, status=status)["results"]
    assert isinstance(result, dict)
    return result


def find_status(site: Site, *, status: int) -> dict[str, Any]:
    (cluster,) = site.json("status", status=status)["clusters"]
    assert isinstance(cluster, dict)
    return cluster


def list_verdicts(site: Site) -> list[str]:
    (cluster,) = site.json("list")["clusters"]
    return [one["verified"]["verdict"] for one in cluster["backups"]]


def largest_pack(site: Site) -> Path:
    return max((site.repository / "clusters" / NAME / "packs").rglob("*"), key=lambda path: path.stat().st_size)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def saved(site: Site) -> Iterator[Site]:
    """A cluster with a backup and WAL behind it."""
    site.set_up()
    site.ok("backup")
    site.archive_all()
    yield site


def test_a_whole_repository_is_whole_and_known_to_be_so(saved: Site) -> None:
    assert list_verdicts(saved) == ["never"]
    assert "verified:         no backup" in saved.ok("status")
    result = verify(saved)
    (backup,) = result["backups"]
    counts = result["counts"]
    assert backup["is_whole"] is True
    assert result["findings"] == []
    assert counts["packs"] > 0
    assert counts["frames"] > 0
    assert counts["wal_files"] >= 3
    assert counts["proven_bytes"] > 20 << 20 > counts["read_bytes"] > 1 << 20
    assert (saved.repository / result["evidence"]).is_file()
    assert list_verdicts(saved) == ["whole"]
    assert "1 of 1 backups found whole" in saved.ok("status")


def test_what_it_says_to_people(saved: Site) -> None:
    text = saved.ok("verify")
    assert text.startswith(f"cluster {NAME}, repository main, is whole\n")
    assert "1 of 1 without damage" in text
    assert saved.ok("verify", "--quick").startswith(
        f"cluster {NAME}, repository main, misses nothing; what is in it was not read\n"
    )


def test_a_changed_byte_in_a_pack_is_damage_that_everybody_learns_of(saved: Site) -> None:
    verify(saved)
    pack = largest_pack(saved)
    flip(pack, pack.stat().st_size // 3)
    result = verify(saved, status=DAMAGED)
    (finding,) = result["findings"]
    (backup,) = result["backups"]
    assert finding["object"] == str(pack.relative_to(saved.repository))
    assert finding["gravity"] == "damage"
    assert finding["backups"] == [backup["label"]]
    assert finding["file_count"] >= len(finding["files"]) > 0
    assert backup["is_whole"] is False
    assert list_verdicts(saved) == ["damaged"]
    problem = find_status(saved, status=WARNINGS)["problems"][0]
    assert (problem["level"], problem["text"]) == ("critical", f"backup {backup['label']} was found damaged")
    ended = saved.run("verify")
    assert ended.status == DAMAGED
    assert f'DAMAGED: "{finding["object"]}": frame ' in ended.out
    assert f"backup {backup['label']} cannot be restored: " in ended.out


def test_damage_stays_known_until_all_was_read_again(saved: Site) -> None:
    """A quick look that sees nothing takes nothing back."""
    pack = largest_pack(saved)
    flip(pack, 100)
    verify(saved, status=DAMAGED)
    flip(pack, 100)
    verify(saved, "--quick")
    assert list_verdicts(saved) == ["damaged"]
    verify(saved)
    assert list_verdicts(saved) == ["whole"]
    assert find_status(saved, status=0)["problems"] == []


def test_a_quick_verification_proves_no_backup(saved: Site) -> None:
    flip(largest_pack(saved), 100)
    result = verify(saved, "--quick")
    assert (result["scope"], result["counts"]["proven_bytes"]) == ("quick", 0)
    assert list_verdicts(saved) == ["never"]
    largest_pack(saved).unlink()
    assert verify(saved, "--quick", status=DAMAGED)["findings"][0]["reason"].endswith(f"does not exist in {saved.url}")
    assert list_verdicts(saved) == ["damaged"]


def test_a_missing_segment_is_named_with_what_it_costs(saved: Site) -> None:
    lost = saved.archive_all()
    saved.archive_all()
    path = saved.find_segment(lost)
    path.unlink()
    (finding,) = verify(saved, status=DAMAGED)["findings"]
    assert finding["object"] == str(path.relative_to(saved.repository))
    assert finding["reason"] == "it is missing"
    assert finding["meaning"].startswith("recovery on timeline 1 cannot go beyond ")
    assert finding["backups"] == []
    assert list_verdicts(saved) == ["whole"]
    problems = [one["text"] for one in find_status(saved, status=WARNINGS)["problems"]]
    assert any("a damaged or missing object was found in repository" in text for text in problems)


def test_the_end_of_the_archive_is_missed_when_it_was_known(saved: Site) -> None:
    lost = saved.archive_all()
    verify(saved)
    saved.find_segment(lost).unlink()
    for _ in range(2):  # it is not forgotten either
        (finding,) = verify(saved, status=DAMAGED)["findings"]
        assert finding["object"].endswith(lost)
        assert "reached" in finding["reason"]


def test_one_backup_alone_is_verified_with_the_wal_it_needs(saved: Site) -> None:
    second = saved.json("backup", "--full")["label"]
    first = saved.json("list")["clusters"][0]["backups"][0]["label"]
    result = verify(saved, "--backup", second)
    assert [one["label"] for one in result["backups"]] == [second] == [result["only"]]
    assert list_verdicts(saved) == ["never", "whole"]
    theirs = next((saved.repository / "clusters" / NAME / "packs" / first).iterdir())
    theirs.unlink()
    verify(saved, "--backup", second)
    verify(saved, "--backup", first, status=DAMAGED)
    assert list_verdicts(saved) == ["damaged", "whole"]


def test_a_backup_that_is_not_there_is_not_found(saved: Site) -> None:
    error = saved.error("verify", "--backup", "2001", status=NOT_FOUND)
    assert error["message"] == 'there is no backup "2001" of cluster "main"'


def test_it_needs_no_server(saved: Site) -> None:
    saved.cluster.stop()
    verify(saved)


def test_something_odd_that_no_restore_needs_is_a_warning(saved: Site) -> None:
    with largest_pack(saved).open("ab") as file:
        file.write(b"x")
    result = verify(saved, status=WARNINGS)
    assert [one["gravity"] for one in result["findings"]] == ["warning"]
    assert list_verdicts(saved) == ["whole"]


def test_a_cluster_nobody_has_registered_is_not_found(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    site.write_config()
    before = site.config.read_text()
    site.config.write_text(before + '\n[cluster.other]\ndata_directory = "/nowhere"\n')
    error = site.error("verify", "other", status=NOT_FOUND)
    assert error["message"].startswith('there is no cluster "other" in repository')
