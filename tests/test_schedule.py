"""The order of a run's passes: complete, in whole steps, and the same for any number of processes."""

import pytest

from kelron_lib.errors import KelronError
from kelron_lib.schedule import EMPTY, pass_seed, plan_run

SAMPLES = [{"input_ids": list(range(n)), "labels": [-100] * (n // 2) + [1] * (n - n // 2)} for n in range(5, 45)]
SIZES = {"row_tokens": 64, "rows_per_pass": 2, "seed": 7}


def plan(**changes):
    return plan_run(SAMPLES, **{**SIZES, "passes_per_step": 2, "epochs": 1.0, **changes})


def members(passes):
    return [sample for one in passes for row in one for sample in row]


def test_an_epoch_holds_every_sample_once_and_the_next_in_another_order():
    two = plan(epochs=2.0, passes_per_step=1)
    seen = members(two.passes)
    count = len(SAMPLES)
    assert sorted(seen[:count]) == sorted(seen[count:]) == list(range(count))
    assert seen[:count] != seen[count:]


def test_a_fraction_of_an_epoch_is_a_fraction_of_its_passes():
    whole, part = plan(epochs=1.0, passes_per_step=1), plan(epochs=1.5, passes_per_step=1)
    assert part.passes[: whole.steps] == whole.passes
    assert part.steps - whole.steps == pytest.approx(whole.steps / 2, abs=1)
    least = plan(epochs=0.001, passes_per_step=1)
    assert least.steps == 1


def test_steps_are_whole_and_count_their_tokens_and_samples():
    needed = len(plan(passes_per_step=1).passes)
    for per_step in (1, 2, needed - 1):
        made = plan(passes_per_step=per_step)
        assert len(made.passes) == made.steps * per_step
        assert made.passes.count(EMPTY) == len(made.passes) - needed
        assert sum(made.samples) == len(SAMPLES)
        supervised = sum(label != -100 for sample in SAMPLES for label in sample["labels"][1:])
        assert sum(made.tokens) == supervised
        assert min(made.tokens) > 0


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_each_step_in_the_global_order(processes):
    made = plan(passes_per_step=4, epochs=1.3)
    shares = [made.share(process, processes) for process in range(processes)]
    each = 4 // processes
    for step in range(made.steps):
        taken = {}
        for process, share in enumerate(shares):
            own = share[step * each : (step + 1) * each]
            taken |= dict(zip(made.numbers(step, process, processes), own, strict=True))
        first = step * 4
        assert [taken[number] for number in range(first, first + 4)] == made.passes[first : first + 4]


def test_a_number_of_processes_that_does_not_divide_a_step_is_refused():
    with pytest.raises(KelronError, match="3 processes cannot share the 4 passes"):
        plan(passes_per_step=4).share(0, 3)


def test_dropout_seeds_differ_by_run_and_pass():
    seeds = {pass_seed(seed, number) for seed in (1, 2) for number in range(100)}
    assert len(seeds) == 200
    assert max(seeds) < 2**63
