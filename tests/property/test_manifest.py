"""Manifests with anything in them: believed or Damaged, never another failure."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import Damaged
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.container import Container, Kind
from pghaven.repository.manifest import Manifest, parse_manifest, render_manifest
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.memory import MemoryStore
from tests.support.manifests import BLOBS, WIDTHS, ManifestParts, take_apart
from tests.support.synthetic import CLUSTER, BackupOrder, make_repository, make_source, store_files

CONTEXT = b"x"
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
numbers = st.integers(0, 70) | st.integers(0, (1 << 64) - 1) | st.integers(0, 63).map(lambda bits: 1 << bits)
place_numbers = st.integers(-5, 5000) | st.integers()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ManifestParts:
    return make_parts(tmp_path_factory.mktemp("source"))


def make_parts(root: Path) -> ManifestParts:
    catalog = BackupCatalog(make_repository(MemoryStore()), CLUSTER)
    manifest = store_files(catalog, make_source(root), BackupOrder())
    finished = render_manifest(manifest, context=CONTEXT, keyring=OPEN_KEYRING)
    return take_apart(Container(finished.to_bytes(), kind=Kind.MANIFEST, context=CONTEXT, keyring=OPEN_KEYRING))


def parse(parts: ManifestParts) -> Manifest | None:
    container = Container(parts.render(CONTEXT), kind=Kind.MANIFEST, context=CONTEXT, keyring=OPEN_KEYRING)
    try:
        return parse_manifest(container)
    except Damaged:
        return None


def test_the_one_that_is_changed_here_is_good(parts: ManifestParts) -> None:
    assert parse(parts) is not None


@given(name=st.sampled_from(sorted(WIDTHS)), value=numbers, how=st.integers(0, 99), at=st.integers(0, 10_000))
def test_any_number_in_any_column(parts: ManifestParts, name: str, value: int, how: int, at: int) -> None:
    changed = copy.deepcopy(parts)
    column = changed.columns[name]
    place = at % (len(column) + 1)
    if how < 60 and column:
        column[place % len(column)] = value
    elif how < 80:
        column.insert(place, value)
    else:
        del column[place : place + 1]
    found = parse(changed)
    if found is not None:
        assert len(found.files.names) == found.facts.file_count
        assert int(found.files.size.sum()) == found.facts.total_bytes


@given(path=st.sampled_from(["facts", "tablespaces", "owners", "bad_pages"]), name=st.text(max_size=3), value=anything)
def test_any_fact(parts: ManifestParts, path: str, name: str, value: Any) -> None:
    for key in (*parts.facts, name):
        changed = copy.deepcopy(parts)
        if path == "facts":
            changed.facts[key] = value
        else:
            changed.facts[path] = [value]
        parse(changed)
        if path != "facts":
            break


@given(field=st.sampled_from(["oid", "name", "path"]), value=anything)
def test_any_tablespace(parts: ManifestParts, field: str, value: Any) -> None:
    changed = copy.deepcopy(parts)
    changed.facts["tablespaces"][0][field] = value
    found = parse(changed)
    if found is not None:
        assert [type(one.oid) for one in found.facts.tablespaces] == [int]
        assert "\0" not in found.facts.tablespaces[0].path


@given(name=st.sampled_from([*WIDTHS, *BLOBS]), place=st.tuples(place_numbers, place_numbers) | anything)
def test_any_place_of_a_column(parts: ManifestParts, name: str, place: Any) -> None:
    changed = copy.deepcopy(parts)
    changed.places[name] = place
    parse(changed)


@given(rows=st.lists(st.tuples(anything, anything, anything, place_numbers | anything), max_size=3) | anything)
def test_any_configuration_files(parts: ManifestParts, rows: Any) -> None:
    changed = copy.deepcopy(parts)
    changed.config_files = rows
    parse(changed)


@given(name=st.sampled_from(["facts", "columns", "config_files"]), value=anything)
def test_any_part_of_the_description(parts: ManifestParts, name: str, value: Any) -> None:
    changed = copy.deepcopy(parts)
    changed.more_meta[name] = value
    parse(changed)


@given(
    kind=st.sampled_from(["directories", "names"]),
    name=st.lists(
        st.sampled_from([b"..", b".", b"", b"a", b"pg_tblspc", b"16400", b"global", b"pg_control"]), max_size=5
    ),
    at=st.integers(0, 100),
)
def test_any_name(parts: ManifestParts, kind: str, name: list[bytes], at: int) -> None:
    """Whatever is believed stays below the root, part by part."""
    changed = copy.deepcopy(parts)
    names: list[bytes] = getattr(changed, kind)
    names[at % len(names)] = b"/".join(name)
    found = parse(changed)
    if found is not None:
        paths = [found.files.path(number) for number in range(len(found.files.names))]
        assert len({*paths, *found.files.directories}) == len(paths) + len(found.files.directories)
        for path in [*paths, *(path for path in found.files.directories if path)]:
            assert not {b"", b".", b".."} & set(path.split(b"/"))
