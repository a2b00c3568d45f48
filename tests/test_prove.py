"""The proof: what a recipe changes of the rows, what counts as an effect, and a small one from end to end."""

from collections import Counter
from dataclasses import replace

import pytest

from kelron_lib.__main__ import main
from kelron_lib.config import apply_overrides
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import FLAGS
from kelron_lib.evaluate.detectors import rival_named
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.prove import run as prove_run
from kelron_lib.prove.compare import LEVEL, Proof, compare
from kelron_lib.prove.recipes import FIRST, FIXES, NOW, Recipe, recipes, without
from kelron_lib.prove.rows import COPIED_SEEDS, training_rows
from kelron_lib.prove.run import Part, kept, proof_config, proof_prompts, run_part
from kelron_lib.prove.table import BEGIN, END, about, markdown, require_no_larger, terminal, write_into
from kelron_lib.tiny.corpus import DEFAULT_SYSTEM


@pytest.fixture(scope="module")
def rows():
    return {recipe.name: training_rows(recipe, proof_config()) for recipe in recipes()}


def texts(rows):
    return {tuple(message["content"] for message in row["messages"][1:]) for row in rows}


def share(rows):
    return Counter(row["kind"] for row in rows)["identity"] / len(rows)


def rivals_in_answers(rows):
    persona, rivals = load_persona("kelron"), rival_names()
    return sum(rival_named(row["messages"][-1]["content"], rivals, persona) for row in rows)


def test_recipes_differ_in_one_fix_each():
    for fix in FIXES:
        assert replace(without(fix), name=NOW.name, **{fix.field: getattr(NOW, fix.field)}) == NOW
        assert getattr(FIRST, fix.field) == fix.first != getattr(NOW, fix.field)
    assert {fix.field for fix in FIXES} == {name for name in Recipe.__dataclass_fields__ if name != "name"}


def test_all_train_on_as_many_rows(rows):
    assert {len(made) for made in rows.values()} == {2340}


def test_todays_rows_are_those_of_the_preset(rows):
    assert len(texts(rows[NOW.name])) == len(rows[NOW.name])
    assert share(rows[NOW.name]) == pytest.approx(0.30, abs=0.001)
    assert rivals_in_answers(rows[NOW.name]) == 0


def test_the_first_attempts_rows_have_all_its_faults(rows):
    made = rows[FIRST.name]
    assert len(texts(made)) == COPIED_SEEDS
    assert share(made) == pytest.approx(0.05, abs=0.001)
    assert {row["messages"][0]["content"] for row in made} == {DEFAULT_SYSTEM}
    assert rivals_in_answers(made) > 0


def test_a_fix_taken_away_changes_what_it_says(rows):
    name = {fix.field: without(fix).name for fix in FIXES}
    assert len(texts(rows[name["copied"]])) == COPIED_SEEDS
    assert 0.4 < rivals_in_answers(rows[name["rivals"]]) / (2340 * 0.30) < 0.6
    assert share(rows[name["identity_share"]]) == pytest.approx(0.05, abs=0.001)
    assert {row["messages"][0]["content"] for row in rows[name["own_system"]]} == {DEFAULT_SYSTEM}
    for same in ("end_labelled", "stopped"):
        assert rows[name[same]] == rows[NOW.name]


def answers_of(recalled):
    """Scored answers to as many identity prompts, and to one about something else."""
    other = record() | {"kind": "unrelated"}
    return [*(record(asserts_persona=hit) for hit in recalled), other]


def record(**hits):
    flags = dict.fromkeys(FLAGS, False) | {name: value for name, value in hits.items() if name in FLAGS}
    return {"language": "en", "kind": "identity", "stopped": hits.get("stopped", True), "flags": flags}


def proof_of(**then):
    """Today's recipe always right; each other as `then` says, by name: a list of recall hits for each seed."""
    right = [answers_of([True] * 40)] * 2
    records = {recipe.name: right for recipe in recipes()}
    return Proof(40, (9,), records | then)


def test_an_effect_is_told_and_one_that_seeds_disagree_on_is_not():
    lost = [answers_of([i >= 20 for i in range(40)])] * 2
    split = [answers_of([i >= 20 for i in range(40)]), answers_of([True] * 40)]
    first, other = without(FIXES[0]).name, without(FIXES[1]).name
    proof = proof_of(**{first: lost, other: split})
    cells = compare(proof)
    recall = cells[first][0]
    assert (recall.value, recall.n, recall.worse, recall.better, recall.shown) == (0.5, 80, 40, 0, True)
    assert recall.p == pytest.approx(2 * 0.5**40)
    assert cells[other][0].p < LEVEL / 100
    assert not cells[other][0].shown
    told = terminal(proof, cells)
    assert f"{FIXES[0].label}: without it identity recall 50 % instead of 100 %." in told
    assert f"{FIXES[1].label}: no effect shown at this scale" in told


def test_holm_counts_all_comparisons():
    """Six of forty lost: p = 0.03 would do alone, and does not among the table's 56."""
    lost = [answers_of([i >= 6 for i in range(40)])]
    right = [answers_of([True] * 40)]
    records = {recipe.name: right for recipe in recipes()} | {FIRST.name: lost}
    cell = compare(Proof(40, (9,), records))[FIRST.name][0]
    assert cell.p == pytest.approx(0.03125)
    assert not cell.shown


def test_the_table_goes_between_the_marks_and_nothing_else_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n{BEGIN}\nold\n{END}\nend\n", encoding="utf-8")
    proof = proof_of()
    write_into(page, markdown(proof, compare(proof)))
    written = page.read_text(encoding="utf-8")
    assert written.startswith(f"# Title\n{BEGIN}\n")
    assert written.endswith(f"{END}\nend\n")
    assert "old" not in written
    assert written.count("| V1 |") == 1
    page.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(KelronError, match="has no place for the table"):
        write_into(page, "")


def test_a_smaller_run_does_not_take_the_place_of_a_larger_ones_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prove_run, "prove", lambda *args, **more: pytest.fail("something was trained"))
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{about(proof_of())[0]}\n{END}\n", encoding="utf-8")
    before = page.read_bytes()
    assert main(["prove", "--out", str(tmp_path / "out"), "--report", str(page)]) == 2
    told = capsys.readouterr().err
    assert f"the table in {page} is of 2 adapters of each recipe" in told
    assert "add --seeds 2, or leave --report out" in told
    assert (page.read_bytes(), told.count("\n"), (tmp_path / "out").exists()) == (before, 1, False)
    for seeds in (2, 3):
        require_no_larger(page, seeds)
    single = Proof(40, (9,), {recipe.name: [answers_of([True])] for recipe in recipes()})
    for text in (about(single)[0], "nothing yet"):
        page.write_text(f"{BEGIN}\n{text}\n{END}\n", encoding="utf-8")
        require_no_larger(page, 1)


def test_the_table_is_in_the_proofs_own_folder_and_in_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prove_run, "prove", lambda *args, **more: proof_of())
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    for report in ([], ["--report", str(page)]):
        assert main(["prove", "--out", str(tmp_path), "--seeds", "2", *report]) == 0
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| V1 |" in table
    assert page.read_text(encoding="utf-8") == f"{BEGIN}\n{table}{END}\n"
    assert f"the table is in {tmp_path / 'table.md'}" in capsys.readouterr().out


def test_a_small_one_from_end_to_end(tmp_path, monkeypatch):
    """Trained for a few steps, asked with and without a stop; a second call finds all there."""
    small = apply_overrides(
        proof_config(), ["data.rows=120", "train.rows_per_pass=3", "train.epochs=0.5", "evaluate.max_new_tokens=6"]
    )
    monkeypatch.setattr(prove_run, "proof_config", lambda seed=1: small)
    monkeypatch.setattr(prove_run, "TEST_ROWS", 120)
    monkeypatch.setattr(prove_run, "PROMPTS", {"identity": 2, "unrelated": 2})
    prompts = proof_prompts(small)
    assert len(prompts) == 3 * (2 + 2 + 2)
    unstopped = next(without(fix) for fix in FIXES if fix.field == "stopped")
    said = []
    parts = [Part(recipe, 1) for recipe in (NOW, unstopped)]
    for part in (*parts, *parts):
        run_part(part, tmp_path, said.append)
    assert len(said) == 2
    assert parts[0].folder(tmp_path) == parts[1].folder(tmp_path)
    (steps, stopped), (_, free) = (kept(part, tmp_path, prompts) for part in parts)
    assert steps > 0
    assert len(stopped) == len(free) == len(prompts)
    assert any(answer.stopped for answer in stopped) or all(answer.tokens == 6 for answer in stopped)
    assert not any(answer.stopped for answer in free)
    assert kept(parts[0], tmp_path, prompts[1:]) is None
