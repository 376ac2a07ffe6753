"""WAL segments of up to 1 GiB go into every kind of store and come back, in little more memory than they take.

A process of its own is given so much memory for data and no more by its kernel (RLIMIT_DATA); working files do not
count. The contents cannot be compressed, so that an object is as large as its segment.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pghaven.store.api import Store
from pghaven.store.open import create_root, open_store
from tests.support.fixtures import ObjectServerFactory
from tests.support.places import PROJECT
from tests.support.sftpserver import SftpServer
from tests.support.synthetic import CLUSTER, SYSTEM_IDENTIFIER, make_repository

MIB = 1 << 20
ROOM = 240 * MIB
"""What Python, its libraries and their threads take, and parts that are on their way: less than one more of them."""
PLACES = ["posix", "sftp", "seaweedfs", "azurite", "gcs"]

# Stores a segment, has it told as there already, and gets it back; at each moment one segment is in memory, or two.
PROGRAM = """
import os, pickle, resource, sys
store, size, limit = pickle.loads(bytes.fromhex(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from blake3 import blake3
from pghaven.repository.repository import open_repository
from pghaven.repository.walstore import PutOutcome, WalArchive
archive = WalArchive(open_repository(store), {cluster!r}, {system}, size)
name = "000000010000000000000001"
content = os.urandom(size)
expected = blake3(content).digest()
assert archive.put(name, content, {{}}) is PutOutcome.STORED
assert archive.put(name, content, {{}}) is PutOutcome.ALREADY
del content
assert blake3(archive.get(name)).digest() == expected
"""


def make_store(request: pytest.FixtureRequest, place: str, root: Path) -> Store:
    if place == "posix":
        return open_store(f"file://{root}")
    if place == "sftp":
        server: SftpServer = request.getfixturevalue("sftp_server")
        return server.open_store(server.make_directory())
    object_server: ObjectServerFactory = request.getfixturevalue("object_server")
    return create_root(object_server(place).settings())


def run(store: Store, size: int, limit: int) -> subprocess.CompletedProcess[str]:
    make_repository(store)
    program = PROGRAM.format(cluster=CLUSTER, system=SYSTEM_IDENTIFIER)
    command = [sys.executable, "-c", program, pickle.dumps(store).hex(), str(size), str(limit)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", PLACES)
def test_a_large_segment_takes_little_more_memory_than_itself(
    request: pytest.FixtureRequest, place: str, tmp_path: Path
) -> None:
    """One of 256 MiB; with less than itself it would not go."""
    size = 256 * MIB
    done = run(make_store(request, place, tmp_path), size, size + ROOM)
    assert done.returncode == 0, done.stderr


def test_the_limit_is_one(tmp_path: Path) -> None:
    done = run(open_store(f"file://{tmp_path}"), 256 * MIB, 256 * MIB)
    assert "MemoryError" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", [place for place in PLACES if place != "gcs"])  # our fake of it takes five minutes
def test_the_largest_segment_there_is_takes_little_more_memory_than_itself(
    request: pytest.FixtureRequest, place: str, tmp_path: Path
) -> None:
    size = 1 << 30
    done = run(make_store(request, place, tmp_path), size, size + size // 8 + ROOM)
    assert done.returncode == 0, done.stderr
