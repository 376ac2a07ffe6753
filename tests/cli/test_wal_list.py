"""What ``wal list`` shows of an archive that a real server filled and that lost some of it."""

from __future__ import annotations

from datetime import datetime

from pghaven.units import parse_time_utc
from tests.cli.site import Site


def commit_at(site: Site, value: int) -> datetime:
    """A row, and a moment after its commit and before the next one's."""
    site.cluster.sql(f"INSERT INTO t VALUES ({value})")
    return site.cluster.pass_moment()


def test_times_gaps_and_moments(protected: Site) -> None:
    site = protected
    site.cluster.sql("CREATE TABLE t (a int)")
    site.ok("backup")
    moments = []
    names = []
    for value in range(5):
        moments.append(commit_at(site, value))
        names.append(site.archive_all())

    (archive,) = site.json("wal", "list", "main")["archives"]
    (timeline,) = archive["timelines"]
    (held,) = timeline["ranges"]
    assert archive["gaps"] == []
    assert parse_time_utc(held["first_commit"]) < moments[0]
    assert moments[-2] < parse_time_utc(held["last_commit"]) <= moments[-1]

    # A moment has a position, and it is that of the first commit after it.
    found = site.json("wal", "list", "--at", moments[1].isoformat())["answers"][0]
    assert found["is_reachable"]
    assert found["segment"] == names[2]

    site.find_segment(names[2]).unlink()
    (archive,) = site.json("wal", "list", "main")["archives"]
    (gap,) = archive["gaps"]
    assert (gap["first_segment"], gap["last_segment"]) == (names[2], names[2])
    assert gap["cause"] in {"unstored", "removed", "unknown"}
    (timeline,) = archive["timelines"]
    assert [one["last_segment"] for one in timeline["ranges"]] == [names[1], names[4]]
    text = site.run("wal", "list").out
    assert "(gap)" in text
    assert f"missing:  {names[2]}: " in text

    # No window reaches over the gap, and neither does the answer.
    status = site.json("status", status=3)["clusters"][0]["repositories"][0]
    assert status["gaps"][0]["first"] == names[2]
    assert status["gaps"][0]["reason"] == gap["reason"]
    assert site.json("wal", "list", "--at", moments[0].isoformat())["answers"][0]["is_reachable"]
    beyond = site.json("wal", "list", "--at", moments[3].isoformat(), status=10)["answers"][0]
    assert not beyond["is_reachable"]
    assert "Reachable on timeline 1" in beyond["reachable"]
    assert "cannot be restored to" in site.run("wal", "list", "--at", moments[3].isoformat()).out
