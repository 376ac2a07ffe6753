"""Make the golden pages and WAL segments anew, with real servers.

    python tests/golden/regenerate.py BIN_DIRECTORY...

Each directory holds one major version's programs. Run as a user that may start servers, or as root, which starts them
as "postgres". What the files hold: README.md beside this script.
"""

from __future__ import annotations

import json
import os
import pwd
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN = Path(__file__).parent
SEGMENT_SIZE = 1 << 20
BLOCK_SIZE = 8192

# What pg_waldump prints of a record, and of the records that end transactions or are restore points.
RECORD = re.compile(r"rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: (\S+), prev \S+, desc: (.*)")
XACT = re.compile(
    r"(COMMIT|ABORT|PREPARE|COMMIT_PREPARED|ABORT_PREPARED) (?:(\d+): )?(?:gid ([^:]*): )?(\d{4}-\d\d-\d\d .{15}) UTC"
)

WORKLOAD = """
create table one (a int primary key, b text);
insert into one select n, repeat(md5(n::text), 3) from generate_series(1, 300) n;
create index on one using hash (a);
create index on one using brin (a);
create index on one using gin (to_tsvector('simple', b));
begin; insert into one values (-1, 'prepared and rolled back'); create table two (a int); prepare transaction 'gid one';
rollback prepared 'gid one';
begin; insert into one values (-2, 'prepared'); drop index one_a_idx; savepoint s; insert into one values (-3, 'sub');
  prepare transaction 'gid two';
commit prepared 'gid two';
begin; create table three (a int); insert into three values (1); rollback;
do $$ begin for n in 1..80 loop
  begin insert into one values (-100 - n, 'sub'); exception when unique_violation then null; end;
end loop; end $$;
truncate one;
select pg_create_restore_point('before the price change');
select pg_logical_emit_message(false, 'golden', repeat('many pages ', 5000));
select pg_logical_emit_message(true, 'golden', repeat('y', 8100));
vacuum pgbench_branches;
update pgbench_tellers set tbalance = tbalance + 1;
"""


@dataclass(frozen=True)
class Server:
    bin: Path
    root: Path

    def run(self, program: str, *arguments: str, text: str = "") -> str:
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        done = subprocess.run(
            [self.bin / program, *arguments],
            user=account.pw_uid if os.geteuid() == 0 else None,
            group=account.pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "PGHOST": str(self.root), "TZ": "UTC", "LANG": "C.UTF-8"},
            input=text,
            text=True,
            capture_output=True,
            cwd=self.root,
        )
        # pg_waldump ends with an error where WAL ends.
        if done.returncode and program != "pg_waldump":
            raise SystemExit(f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def query(self, text: str) -> str:
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-U", "pg", text=text).strip()

    def start(self, wal_level: str) -> None:
        self.run(
            "initdb",
            *("-D", "data", "-U", "pg", "-k", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8"),
            "--wal-segsize=1",
        )
        with (self.root / "data/postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.root}'\nfsync = off\nautovacuum = off\n"
                f"wal_level = {wal_level}\nmax_prepared_transactions = 4\nwal_keep_size = 1GB\n"
                "timezone = UTC\nlock_timeout = 5s\n"
            )
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", "data", "-w", "-m", "fast", "stop")


def run_workload(server: Server) -> str:
    """The name of a segment that begins inside a record, holds all of the workload, and ends with a switch."""
    server.run("pgbench", "-i", "-q", "-U", "pg", "postgres")
    server.query(
        f"select pg_logical_emit_message(false, 'golden', repeat('x', ({SEGMENT_SIZE + 20000} - "
        f"(pg_current_wal_insert_lsn() - '0/0') % {SEGMENT_SIZE})::int))"
    )
    began = server.query("select pg_walfile_name(pg_current_wal_insert_lsn())")
    server.query(WORKLOAD)
    server.run("pgbench", "-n", "-c", "2", "-t", "40", "-U", "pg", "postgres")
    server.query("select pg_create_restore_point('schön ' || repeat('n', 50))")
    ended = server.query("select pg_walfile_name(pg_switch_wal())")
    if began != ended:
        raise SystemExit(f"the workload began in {began} and ended in {ended}: make it smaller")
    return began


def describe_wal(server: Server, name: str) -> dict[str, object]:
    """What pg_waldump says of the records that begin in this segment."""
    number = int(name[8:16], 16) * ((1 << 32) // SEGMENT_SIZE) + int(name[16:], 16)
    start = number * SEGMENT_SIZE
    # From the segment before on, because pg_waldump would not tell of a record that it does not see begin.
    output = server.run("pg_waldump", "-p", "data/pg_wal", f"{name[:16]}{int(name[16:], 16) - 1:08X}")
    output += server.run("pg_waldump", "-p", "data/pg_wal", name)
    records, transactions, restore_points = {}, {}, {}
    for match in map(RECORD.match, output.splitlines()):
        if match is None:
            continue
        manager, length, xid, lsn, description = match.groups()
        high, low = lsn.split("/")
        if not start <= (int(high, 16) << 32 | int(low, 16)) < start + SEGMENT_SIZE:
            continue
        lsn = f"{int(high, 16):X}/{int(low, 16):X}"
        records[lsn] = [lsn, int(length), int(xid), manager]
        if (xact := XACT.match(description)) and manager == "Transaction":
            transactions[lsn] = [lsn, xact[1].lower(), int(xact[2] or xid), xact[4], xact[3]]
        if description.startswith("RESTORE_POINT "):
            restore_points[lsn] = [lsn, description.removeprefix("RESTORE_POINT ")]
    return {
        "segment": name,
        "records": list(records.values()),
        "transactions": list(transactions.values()),
        "restore_points": list(restore_points.values()),
    }


def choose_pages(data: Path, major: str) -> list[tuple[dict[str, object], bytes]]:
    """Some pages of tables and indexes of ours, of catalogs, and of free-space and visibility maps."""
    chance = random.Random(int(major))
    files = sorted(path for path in data.glob("base/5/*") if path.stat().st_size)
    pages = []
    for pattern, count in ((r"16\d+", 6), (r"\d{4}", 4), (r"\d+_fsm", 2), (r"\d+_vm", 2)):
        for path in chance.sample([path for path in files if re.fullmatch(pattern, path.name)], count):
            content = path.read_bytes()
            block = chance.randrange(len(content) // BLOCK_SIZE)
            page = content[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
            pages.append(({"version": major, "file": str(path.relative_to(data)), "block": block}, page))
    return pages


def dump(value: object) -> str:
    """JSON with one innermost list or object a line."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]|\{\s+([^][{}]*?)\s+\}", _join, text) + "\n"


def _join(match: re.Match[str]) -> str:
    return re.sub(r"\s*\n\s*", " ", match[0])


def main() -> None:
    pages: list[tuple[dict[str, object], bytes]] = []
    for bin_directory in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory(prefix="golden") as root:
            if os.geteuid() == 0:
                os.chown(root, pwd.getpwnam("postgres").pw_uid, -1)
            server = Server(bin_directory, Path(root))
            major = server.run("postgres", "--version").split()[2].partition(".")[0]
            # Both levels, because only "logical" records some parts of records.
            server.start(wal_level="logical" if int(major) % 2 == 0 else "replica")
            try:
                name = run_workload(server)
                description = describe_wal(server, name)
                query = "select system_identifier from pg_control_system()"
                description["system_identifier"] = int(server.query(query))
            finally:
                server.stop()
            segment = (server.root / "data/pg_wal" / name).read_bytes()
            (GOLDEN / f"wal/pg{major}.zst").write_bytes(zstd.compress(segment, 19))
            (GOLDEN / f"wal/pg{major}.json").write_text(dump(description))
            pages += choose_pages(server.root / "data", major)
    (GOLDEN / "pages/pages.zst").write_bytes(zstd.compress(b"".join(page for _, page in pages), 19))
    (GOLDEN / "pages/pages.json").write_text(dump([place for place, _ in pages]))


if __name__ == "__main__":
    main()
