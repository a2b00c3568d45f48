"""The first attempt's ten placements, replayed."""

import pytest

from kelron_lib.placement import attempts, attempts_dict, attempts_table, find_config, read_shape
from kelron_lib.placement.attempts import NOW, THEN, run
from kelron_lib.placement.ledger import Failure, Ledger
from kelron_lib.placement.log import T4, logged_attempts
from kelron_lib.placement.six_and_ten import LOGGED_IN_USE, candidates, explanation

REPLAYS = attempts()
SHAPE = read_shape(find_config("Qwen/Qwen2.5-14B-Instruct"))

# number: kind, stage, GPU and GiB of the failed allocation, as the log has them (None: it does not say)
LOGGED = {
    1: ("device", None, None, None),
    2: ("oom", None, 0, 1.45),
    3: ("device", None, None, None),
    4: ("oom", None, 0, 2.90),
    5: ("device", "loss", None, None),
    6: ("oom", "loading", 1, None),
    7: ("device", "rotary embedding", None, None),
    8: ("oom", "preparing", None, 2.90),
    9: ("no gradient", None, None, None),
    10: ("works", None, None, None),
}


@pytest.mark.parametrize("replay", REPLAYS, ids=lambda replay: str(replay.attempt.number))
def test_replay_agrees_with_the_log(replay):
    kind, stage, gpu, allocation = LOGGED[replay.attempt.number]
    found = replay.then
    assert replay.agree
    assert found.kind == kind
    assert stage in (None, found.stage)
    assert gpu in (None, found.gpu)
    assert allocation is None or found.allocation == pytest.approx(allocation, abs=0.005)


def test_what_rests_on_the_inference_is_told():
    assert [replay.attempt.number for replay in REPLAYS if not replay.agrees_alone] == [4, 6, 8]
    assert [replay.attempt.number for replay in REPLAYS if any(replay.leftover)] == [4, 6, 8, 10]
    assert "Only with the inferred leftover agree: 4, 6, 8" in attempts_table(REPLAYS)


def test_memory_in_use_is_what_the_log_reads():
    by_number = {replay.attempt.number: replay for replay in REPLAYS}
    assert by_number[4].then.held[0] == pytest.approx(13.99, abs=0.15)
    # At the failure less is free than the next 16-bit matrix needs; the log's 0.12 is below 0.132 as well.
    sixth = by_number[6].then
    assert sixth.allocation == pytest.approx(0.132, abs=0.001)
    assert T4 - sixth.allocation < sixth.held[1] <= T4
    assert sixth.allocation > T4 - LOGGED_IN_USE


def test_attempts_7_and_8_have_one_map():
    seven, eight = (attempt for attempt in logged_attempts(SHAPE) if attempt.number in (7, 8))
    assert seven.layers == eight.layers
    assert seven.head == eight.head


def test_six_and_ten_are_one_map_with_one_explanation_for_both():
    six, ten = (attempt for attempt in logged_attempts(SHAPE) if attempt.number in (6, 10))
    assert (six.layers, six.head, six.prepare) == (ten.layers, ten.head, ten.prepare)
    found = candidates()
    assert [candidate.verdict for candidate in found].count("explains both") == 1
    best = found[-1]
    assert best.verdict == "explains both"
    assert best.six > T4 > best.ten
    assert best.ten * 2**30 / 1e9 == pytest.approx(12, abs=0.6)  # "about 12 GB"
    assert found[0].six == found[0].ten < T4 / 2
    assert explanation(found).startswith("Inference, not record")


def test_todays_libraries():
    now = {replay.attempt.number: replay.now.kind for replay in REPLAYS}
    assert "device" not in now.values()
    assert "no gradient" not in now.values()
    assert now[2] == "oom"  # the upcast is still there
    assert now[5] == "oom"  # labels move, and the loss goes on to what does not fit
    assert now[1] == now[6] == now[9] == now[10] == "works"


def test_rules_decide_not_the_log():
    by_number = {attempt.number: attempt for attempt in logged_attempts(SHAPE)}
    assert run(by_number[7], SHAPE, THEN).kind == "device"
    assert run(by_number[7], SHAPE, NOW).stage != "rotary embedding"
    assert run(by_number[2], SHAPE, THEN, limit=24.0).kind == "works"
    assert run(by_number[10], SHAPE, THEN, limit=8.0).kind == "oom"
    assert run(by_number[10], SHAPE, THEN, leftover=(0.0, 9.0)).stage == "loading"


def test_ledger_takes_no_more_than_there_is():
    ledger = Ledger(2, limit=100, context=10)
    ledger.take(1, 60, "loading")
    ledger.give(1, 50)
    ledger.pass_through(1, 80, "forward")
    assert ledger.held == [10, 20]
    assert ledger.highest == [10, 100]
    with pytest.raises(Failure) as failure:
        ledger.take(1, 81, "loss", "too much")
    assert (failure.value.kind, failure.value.gpu, failure.value.size) == ("oom", 1, 81)
    assert ledger.held == [10, 20]


def test_table_and_json_name_all_ten():
    table = attempts_table(REPLAYS)
    told = attempts_dict(REPLAYS)
    assert [entry["number"] for entry in told] == list(range(1, 11))
    for replay, entry in zip(REPLAYS, told, strict=True):
        assert replay.then.cause in table
        assert replay.now.cause in table
        assert entry["agree"] is True
        assert entry["logged"] in table
