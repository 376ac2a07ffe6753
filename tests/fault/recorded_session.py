"""A backup by the real session, in this process alone, that leaves a record of its writes. Run by test_write_order."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

from pghaven.backup.session import BackupSettings, run_backup
from pghaven.events import ignore
from pghaven.repository.repository import open_repository
from pghaven.store.open import open_store
from pghaven.store.recording import RecordingStore


def main(arguments: dict[str, str]) -> None:
    store = RecordingStore(open_store(arguments["url"]))
    settings = BackupSettings(
        cluster=arguments["cluster"],
        data_directory=arguments["data_directory"],
        conninfo=arguments["conninfo"],
        level=1,
        processes=0,
        archive_timeout_seconds=120,
    )
    run_backup(open_repository(store), settings, ignore)
    Path(arguments["result"]).write_bytes(pickle.dumps(store.mutations))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
