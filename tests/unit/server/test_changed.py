"""What changed, joined from many summaries: nothing that any of them says is lost."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pghaven.server.changed import ChangedBlocks, ChangedBlocksBuilder, RelationChanges

TABLE = (1663, 5, 16384)
OTHER = (1663, 5, 16385)


def blocks(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(numbers, np.uint32)


def found(changes: ChangedBlocks, relation: tuple[int, int, int] = TABLE) -> RelationChanges:
    answer = changes.find(*relation)
    assert answer is not None
    return answer


def test_relation_nobody_mentions_has_not_changed() -> None:
    builder = ChangedBlocksBuilder()
    builder.add_blocks(TABLE, blocks(1))
    changes = builder.finish()
    assert changes.find(*OTHER) is None
    assert changes.find(1664, 5, 16384) is None
    assert changes.find(1663, 6, 16384) is None
    assert ChangedBlocksBuilder().finish().find(*TABLE) is None


def test_blocks_of_all_summaries_are_there_once_and_in_order() -> None:
    builder = ChangedBlocksBuilder()
    for relation, numbers in ((TABLE, (9, 3)), (OTHER, (7,)), (TABLE, (3, 0, 0xFFFFFFFE))):
        builder.add_blocks(relation, blocks(*numbers))
    changes = builder.finish()
    assert found(changes).blocks.tolist() == [0, 3, 9, 0xFFFFFFFE]
    assert found(changes).limit_block is None
    assert found(changes, OTHER).blocks.tolist() == [7]
    assert (changes.relation_count, changes.block_count) == (2, 5)


def test_shortest_length_counts_whichever_summary_says_it() -> None:
    builder = ChangedBlocksBuilder()
    for limit in (40, 10, 25):
        builder.add_limit(TABLE, limit)
    builder.add_blocks(TABLE, blocks(3, 12))
    assert found(builder.finish()).select(0, 15).tolist() == [3, 10, 11, 12, 13, 14]


def test_truncation_hides_no_change_that_came_before_or_after_it() -> None:
    for order in (("limit", "blocks"), ("blocks", "limit")):
        builder = ChangedBlocksBuilder()
        for step in order:
            if step == "limit":
                builder.add_limit(TABLE, 5)
            else:
                builder.add_blocks(TABLE, blocks(2, 9))
        assert found(builder.finish()).select(0, 12).tolist() == [2, *range(5, 12)]


@pytest.mark.parametrize("relation", [(1663, 5, 0), TABLE])
def test_relation_or_database_that_was_made_anew_has_changed_throughout(relation: tuple[int, int, int]) -> None:
    builder = ChangedBlocksBuilder()
    builder.add_blocks(TABLE, blocks(1))
    builder.add_limit(relation, 0)
    changes = builder.finish()
    assert found(changes).select(0, 4).tolist() == [0, 1, 2, 3]
    assert changes.find(1663, 6, 16384) is None
    assert (changes.find(*OTHER) is None) == (relation == TABLE)


@pytest.mark.parametrize(
    ("first", "end", "selected"),
    [(0, 4, [1]), (1, 2, [1]), (2, 6, [5]), (5, 9, [5, 7, 8]), (7, 7, []), (9, 12, [9, 10, 11]), (0, 0, [])],
)
def test_one_files_blocks_are_those_in_its_range(first: int, end: int, selected: list[int]) -> None:
    changes = RelationChanges(blocks=blocks(1, 5, 8, 11), limit_block=7)
    assert changes.select(first, end).tolist() == selected
    without_limit = RelationChanges(blocks=blocks(1, 5, 8, 11), limit_block=None)
    assert without_limit.select(first, end).tolist() == [n for n in (1, 5, 8, 11) if first <= n < end]


def test_many_blocks_of_many_relations_stay_with_their_relation() -> None:
    """More than fit into one sorting, with repetitions."""
    chance = random.Random(1)
    generator = np.random.default_rng(1)
    builder = ChangedBlocksBuilder()
    expected: dict[tuple[int, int, int], list[np.ndarray[tuple[int], np.dtype[np.uint32]]]] = {}
    for _ in range(60):
        relation = (1663, 5, 16384 + chance.randrange(8))
        some = generator.integers(0, 200_000, chance.choice([1, 1000, 90_000, 1_200_000]), dtype=np.uint32)
        expected.setdefault(relation, []).append(some)
        builder.add_blocks(relation, some)
    changes = builder.finish()
    for relation, parts in expected.items():
        every = np.concatenate(parts)
        blocks_of_it = found(changes, relation).blocks
        assert (np.diff(blocks_of_it.astype(np.int64)) > 0).all()
        assert np.isin(every, blocks_of_it, kind="table").all()
        assert np.isin(blocks_of_it, every, kind="table").all()
