"""``wal audit`` reads everything again, goes on where it stopped, and finds what a hash alone cannot."""

from __future__ import annotations

from pghaven.postgres.segment import SegmentName
from pghaven.repository.repository import open_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import open_store
from tests.cli.site import Site
from tests.support.moving import give_to_plain

DAMAGED = 16
SIZE = 1 << 20


def test_an_audit_in_parts_finds_what_does_not_follow(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.cluster.sql("CREATE TABLE t (a int)")
    names = [site.archive_all() for _ in range(5)]
    (audit,) = site.json("wal", "audit")["audits"]
    assert audit["complete"]
    assert audit["flaws"] == []
    count = audit["segments"]
    assert count >= 5

    # In parts it comes to the same.
    (part,) = site.json("wal", "audit", "--restart", "--segments", "2")["audits"]
    assert not part["complete"]
    assert part["segments"] == 2
    (part,) = site.json("wal", "audit", "--segments", "1")["audits"]
    assert part["segments"] == 3
    (whole,) = site.json("wal", "audit", "--limit", "200MiB/s")["audits"]
    assert whole["complete"]
    assert (whole["segments"], whole["flaws"]) == (count, [])
    assert "WAL audited" in site.run("status").out

    # A segment that is whole, of this cluster and under its own name, but has a record changed in it.
    path = site.find_segment(names[2])
    repository = open_repository(open_store(site.url))
    (lineage,) = repository.list_lineages("main")
    archive = WalArchive(repository, "main", lineage.system_identifier, SIZE)
    content = bytearray(archive.get(names[2]))
    content[60] ^= 1  # in the first record
    path.unlink()
    archive.put(names[2], bytes(content), {})
    give_to_plain(site.repository)
    (audit,) = site.json("wal", "audit", status=DAMAGED)["audits"]
    ((flaw),) = audit["flaws"]
    assert flaw["file"] in (names[2], str(SegmentName.parse(names[1], SIZE)))
    problems = site.json("status", status=3)["clusters"][0]["problems"]
    assert any("found damaged WAL" in one["text"] and one["level"] == "critical" for one in problems)

    # And one whose object is damaged.
    other = site.find_segment(names[0])
    other.chmod(0o600)
    stored = bytearray(other.read_bytes())
    stored[len(stored) // 2] ^= 1
    other.write_bytes(bytes(stored))
    (audit,) = site.json("wal", "audit", status=DAMAGED)["audits"]
    assert names[0] in [one["file"] for one in audit["flaws"]]
    assert len(audit["flaws"]) == 2
