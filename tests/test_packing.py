import random
from itertools import pairwise

import pytest
import torch

from kelron_lib.engine.packing import (
    PackedCollator,
    PackedPasses,
    block_mask,
    pack,
    plan_passes,
    segment_bounds,
    supervised_tokens,
    utilisation,
)
from kelron_lib.errors import KelronError


def lognormal(count, seed=0, mean=110, longest=512):
    generator = random.Random(seed)
    return [min(longest, max(8, round(generator.lognormvariate(4.52, 0.6)))) for _ in range(count)]


def plan(lengths, row_tokens=512, rows_per_pass=8, seed=1, epoch=0):
    return plan_passes(lengths, row_tokens=row_tokens, rows_per_pass=rows_per_pass, seed=seed, epoch=epoch)


def test_every_sample_once_and_no_row_too_long():
    lengths = lognormal(3000)
    passes = plan(lengths)
    rows = [row for one in passes for row in one]
    assert sorted(sample for row in rows for sample in row) == list(range(3000))
    assert max(sum(lengths[sample] for sample in row) for row in rows) <= 512
    assert {len(one) for one in passes[:-1]} == {8}
    assert 1 <= len(passes[-1]) <= 8


@pytest.mark.parametrize(("count", "least"), [(4096, 0.985), (35000, 0.99), (600, 0.97)])
def test_rows_are_nearly_full(count, least):
    lengths = lognormal(count)
    assert utilisation(plan(lengths), lengths, 512) > least


def test_same_seed_and_epoch_same_plan_another_epoch_another_one():
    lengths = lognormal(2000)
    assert plan(lengths) == plan(lengths)
    assert plan(lengths) != plan(lengths, epoch=1)
    assert plan(lengths) != plan(lengths, seed=2)


def test_passes_are_not_sorted_by_length():
    lengths = lognormal(4096)
    means = [sum(lengths[s] for row in one for s in row) / sum(map(len, one)) for one in plan(lengths)[:-1]]
    rises = sum(later > earlier for earlier, later in pairwise(means))
    assert 0.3 < rises / len(means) < 0.7


def test_samples_that_cannot_share_a_row_still_plan_quickly():
    lengths = [300] * 2000
    assert len(plan(lengths)) == 250


def test_a_full_row_holds_exactly_its_budget():
    assert plan([512, 512], rows_per_pass=1) in ([[[0]], [[1]]], [[[1]], [[0]]])


@pytest.mark.parametrize(
    ("lengths", "row_tokens", "words"),
    [([5, 600, 7], 512, "sample 1 has 600 tokens"), ([5, 0], 512, "sample 1 has no tokens"), ([5], 0, "at least 1")],
)
def test_what_cannot_be_packed_is_named(lengths, row_tokens, words):
    with pytest.raises(KelronError, match=words):
        plan(lengths, row_tokens=row_tokens)


def test_no_samples_no_passes():
    assert plan([]) == []


ROWS = [
    [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}, {"input_ids": [4, 5], "labels": [-100, 5]}],
    [{"input_ids": [6, 7], "labels": [-100, 7]}],
]


def test_pack_lays_samples_side_by_side():
    batch = pack(ROWS, row_tokens=6, pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100], [-100, 7, -100, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]
    assert batch["segment_ids"].dtype == torch.int32
    assert supervised_tokens(batch) == 4


def test_pack_refuses_a_row_that_is_too_long():
    with pytest.raises(KelronError, match="row 0 of a pass has at least 5 tokens"):
        pack(ROWS, row_tokens=4, pad_id=0)


def test_dataset_and_collator_make_the_pass_of_the_plan():
    samples = [sample for row in ROWS for sample in row]
    dataset = PackedPasses(samples, [[[0, 1], [2]]])
    assert len(dataset) == 1
    batch = PackedCollator(row_tokens=6, pad_id=0)([dataset[0]])
    assert all(torch.equal(batch[name], value) for name, value in pack(ROWS, row_tokens=6, pad_id=0).items())


def test_mask_is_causal_inside_segments_and_never_empty():
    mask = block_mask(torch.tensor([[1, 1, 2, 2, 0, 0]]))
    assert mask.shape == (1, 1, 6, 6)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


def test_segment_bounds_follow_samples_padding_and_rows():
    bounds, longest = segment_bounds(torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]], dtype=torch.int32))
    assert bounds.tolist() == [0, 2, 3, 4, 8]
    assert bounds.dtype == torch.int32
    assert longest == 4
