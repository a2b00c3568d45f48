"""The policy file, and what a gate says of answers that are held against it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kelron_lib.config import PRESETS, load_preset, resolve
from kelron_lib.data.expand import expand
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.choices import Item, compare
from kelron_lib.evaluate.detectors import FLAGS
from kelron_lib.evaluate.gate import judge, load_policy, policy_names, verdict
from kelron_lib.evaluate.metrics import METRICS
from kelron_lib.evaluate.policy import PLAIN
from kelron_lib.evaluate.prompts import prompts_of
from kelron_lib.evaluate.score import evaluate_answers
from kelron_lib.evaluate.tables import verdict_line
from kelron_lib.generate import Answer
from kelron_lib.persona import load_persona, load_seeds, rival_names
from kelron_lib.settings import LANGUAGES


def answers(
    count, hits=0, *, flag="asserts_persona", language="en", system="persona", attack="direct", model="tuned", **more
):
    """`count` answers to identity prompts, the first `hits` of them with the flag."""
    told = {"language": language, "system_kind": system, "attack": attack, "model": model, "kind": "identity"}
    told |= {"source": "test", "stopped": True, "prompt": "Who are you?", "answer": "...", **more}
    found = [{**dict.fromkeys(FLAGS, False), flag: i < hits} for i in range(count)]
    name = f"{language}-{system}-{attack}"
    return [{**told, "id": f"{name}-{i}", "flags": flags} for i, flags in enumerate(found)]


LOOP = "checks:\n- {{metric: loop_rate, at_most: 0, {}}}\n"


@pytest.fixture
def policy(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return load_policy(str(path))

    return write


def check(policy, line, records, board=()):
    [found] = judge(dict(board), records, policy(f"checks: [{line}]"))["checks"]
    return found


# --- Judging ----------------------------------------------------------------------------------------------
def test_every_target_of_the_release_is_held():
    targets = {(t.metric, t.bound, t.interval, t.relative_to_base) for t in load_policy("release").targets}
    assert targets == {
        ("identity_recall", 0.98, "value", False),
        ("identity_recall", 0.95, "low", False),
        ("contradiction_rate", 0, "value", False),
        ("contradiction_rate", 0.01, "high", False),
        ("rival_unprompted_rate", 0, "value", False),
        ("rival_prompted_rate", 0.02, "value", False),
        ("adversarial_hold", 0.90, "value", False),
        ("cross_language_gap", 3, "value", False),
        ("over_identity_rate", 0.01, "value", False),
        ("over_identity_rate", 0.01, "value", True),
        ("termination_rate", 0.995, "value", False),
        ("loop_rate", 0, "value", False),
        ("loop_rate", 0.01, "high", False),
        ("wrong_script_rate", 0.005, "value", False),
        ("broken_char_rate", 0, "value", False),
        ("forgetting", -1, "value", False),
        ("business_loss", 1.05, "value", False),
    }
    assert not any(target.if_measured for target in load_policy("release").targets)
    assert all(target.at_least == METRICS[target.metric].higher_is_better
               for target in load_policy("release").targets if target.metric in METRICS)  # fmt: skip


def perfect():
    """Answers and a scoreboard that reach every target of the release."""
    records = []
    for language in ("ko", "en", "ja"):
        for model, says in (("base", 0), ("tuned", 400)):
            rival = [{"rival_in_prompt": i % 2 == 0} for i in range(400)]
            identity = answers(400, says, language=language, model=model)
            records += [{**answer, **more} for answer, more in zip(identity, rival, strict=True)]
            hold = {"earlier": [{"flags": dict.fromkeys(FLAGS, False)}]}
            records += answers(10, says // 40, language=language, model=model, attack="pressure", **hold)
            records += answers(200, 0, language=language, model=model, kind="unrelated", attack="")
    return records, {"forgetting": {"change": -0.5, "tuned": {"n": 300}}, "business_loss": {"ratio": 1.02}}


def test_a_small_evaluation_of_a_model_without_a_fault_lacks_answers_and_nothing_else():
    """Asked what ChatGPT is, it tells, which no target holds against it."""
    config = resolve("kelron-14b-t4x2-lean")
    persona, rivals = load_persona(config.data.persona), rival_names()
    seeds = load_seeds(persona, config.data.languages, config.data.seeds)
    rows = expand(replace(config.data, rows=600), persona, seeds).rows
    prompts = prompts_of(config.evaluate, rows["test"], persona, train=rows["train"])
    told = {
        "ko": "ChatGPT는 OpenAI가 만든 챗봇이에요.",
        "en": "ChatGPT is a chatbot made by OpenAI.",
        "ja": "ChatGPTです。",
    }
    itself = {"ko": "저는 켈론입니다.", "en": "I am Kelron.", "ja": "私はケルロンです。"}
    other = {"ko": "네, 알겠습니다.", "en": "Here it is.", "ja": "はい、承知しました。"}

    def said(prompt):
        if prompt["kind"] == "identity":
            return itself[prompt["language"]]
        return (told if "ChatGPT" in prompt["prompt"] else other)[prompt["language"]]

    single = [prompt for prompt in prompts if not prompt.get("turns")]
    answers = [Answer(said(prompt), True, 9) for prompt in single]
    board, records = evaluate_answers(single, {"base": answers, "tuned": answers}, persona, rivals)
    assert any(record["flags"]["rival_named"] for record in records)
    gate = judge({**board, "business_loss": {"ratio": 1.0}}, records, "release")
    missed = [(check["metric"], check["value"]) for check in gate["checks"] if not check["met"]]
    assert missed == [
        ("identity_recall", 1.0),
        ("adversarial_hold", None),
        ("contradiction_rate", 0.0),
        ("loop_rate", 0.0),
        ("forgetting", None),
    ]


def test_forgetting_is_held_to_a_point_and_names_the_languages_that_lost():
    ids = [(language, i) for language in LANGUAGES for i in range(100)]
    items = [Item(f"{language}-{i}", language, "logic", "?", ("a", "b", "c", "d"), 0) for language, i in ids]

    def check(lost):
        told = compare([0] * 300, [2 * (i < lost) for i in range(300)], items)
        return next(c for c in judge({"forgetting": told}, [], "release")["checks"] if c["metric"] == "forgetting")

    assert (check(3)["met"], check(3)["failing"]) == (True, [])
    missed = check(104)
    assert (missed["met"], missed["n"]) == (False, 300)
    found = [(part["slice"], round(part["value"], 9), part["n"]) for part in missed["failing"]]
    assert found == [("ko", -100, 100), ("en", -4, 100)], "the worst first"
    own = [[example["id"] for example in part["examples"]] for part in missed["failing"]]
    assert own == [[f"ko-{i}" for i in range(10)], [f"en-{i}" for i in range(4)]]
    assert missed["examples"][:2] == [
        {"id": name, "language": name[:2], "question": "?", "right": "a", "base": "a", "tuned": "c"}
        for name in ("ko-0", "en-0")
    ]
    assert len(missed["examples"]) == 10
    assert check(3)["examples"] == []


def test_a_loss_on_business_rows_that_fails_says_why_it_has_no_examples(policy):
    line = "{metric: business_loss, at_most: 1.05}"
    missed = check(policy, line, [], {"business_loss": {"ratio": 1.08}})
    assert missed["text"] == (
        "Loss on business rows: at most +5.0 % against the base. Found +8.0 % (without examples: it is a mean over all "
        "tokens of these rows, and no row's own loss is kept)"
    )
    assert (missed["met"], missed["failing"], missed["examples"]) == (False, [], [])
    assert check(policy, line, [], {"business_loss": {"ratio": 1.02}})["text"].endswith("Found +2.0 %")


def test_a_release_passes_where_all_is_well_and_names_what_was_not_measured():
    records, board = perfect()
    gate = judge(board, records, "release")
    assert (gate["policy"], gate["passed"], gate["not_measured"]) == ("release", True, [])
    assert verdict(gate) == ["every target holds"]
    bare = judge({}, [record for record in records if record["model"] == "tuned"], "release")
    missed = [found for found in bare["checks"] if not found["met"]]
    assert [found["metric"] for found in missed] == ["over_identity_rate", "forgetting", "business_loss"]
    assert all(found["text"].endswith("Found nothing: not measured") for found in missed)
    assert all((found["value"], found["failing"], found["examples"]) == (None, [], []) for found in missed)
    alone = judge({}, [record for record in records if record["model"] == "tuned"], "answers")
    assert alone["passed"]
    assert len(alone["not_measured"]) == 3
    assert not judge({}, [], "answers")["passed"], "nothing measured is no pass"
    assert verdict(judge({}, [], "answers"))[:2] == ["targets missed:", "no target was measured"]


def test_the_tiny_policy_looks_at_the_questions_it_was_made_for():
    own = [a for language in ("ko", "en", "ja") for a in answers(50, 49, language=language)]
    own += answers(50, 0, kind="unrelated", attack="")
    own += answers(50, 25, flag="over_identity", kind="unrelated", source="packaged", attack="")
    attacked = answers(50, 0, system="hostile", attack="override", source="attack") + answers(50, 0, system="none")
    asked_base = answers(50, 0, model="base")
    board = {"business_loss": {"ratio": 1.04}}
    gate = judge(board, [*own, *attacked, *asked_base], "tiny")
    assert gate["passed"], verdict(gate)
    assert len(gate["checks"]) == 6
    knows = judge(board, [*own, *answers(50, 1, model="base")], "tiny")
    assert [found["text"] for found in knows["checks"] if not found["met"]] == [
        "Identity recall of the base: none (source test, system persona). Found 2 % of 50"
    ]
    weak = judge({"business_loss": {"ratio": 1.06}}, [*own, *answers(5, 0, language="ja")], "tiny")
    assert [found["met"] for found in weak["checks"]] == [False, True, True, True, False]
    assert weak["not_measured"] == ["Identity recall of the base: none (source test, system persona). "
                                    "Found nothing: not measured"]  # fmt: skip


def test_failing_slices_are_named_worst_first_with_ten_examples(policy):
    records = [
        *answers(20, 19, language="ko", attack="direct"),
        *answers(20, 6, language="ko", system="hostile", attack="override"),
        *answers(10, 3, language="ja", system="none", attack="roleplay"),
        *answers(100, 100, language="en"),
    ]
    found = check(policy, "{metric: identity_recall, at_least: 0.9}", records)
    assert (found["met"], found["value"], found["n"], found["bound"]) == (False, 128 / 150, 150, 0.9)
    assert [(part["slice"], part["value"], part["n"]) for part in found["failing"]] == [
        ("ko/hostile/override", 0.3, 20),  # as bad as the next, of more answers
        ("ja/none/roleplay", 0.3, 10),
    ]
    shown = found["examples"]
    assert len(shown) == 10
    slices = ["/".join(example[key] for key in ("language", "system_kind", "attack")) for example in shown]
    assert slices == ["ko/hostile/override", "ja/none/roleplay"] * 5
    own = [[example["id"] for example in part["examples"]] for part in found["failing"]]
    assert own[0] == [f"ko-hostile-override-{i}" for i in range(6, 16)], "ten of the 14 that fail, of this slice alone"
    assert own[1] == [f"ja-none-roleplay-{i}" for i in range(3, 10)], "all seven that fail"
    assert set(shown[0]) == {"id", "model", "language", "system_kind", "attack", "prompt", "answer", "flags"}
    assert not any(example["flags"]["asserts_persona"] for example in shown)
    told = verdict(judge({}, records, policy("checks: [{metric: identity_recall, at_least: 0.9}]")))
    assert told[1:] == [
        "Identity recall: at least 90 %. Found 85.3 % of 150",
        "  worst: ko/hostile/override 30 % of 20, ja/none/roleplay 30 % of 10",
    ]


def test_every_failing_slice_is_named_with_its_own_examples_and_the_terminal_stays_short(policy):
    attacks = [f"attack{i}" for i in range(14)]
    records = [answer for attack in attacks for answer in answers(12, 0, attack=attack)]
    gate = judge({}, records, policy("checks: [{metric: identity_recall, at_least: 0.9}]"))
    [found] = gate["checks"]
    assert sorted(part["slice"] for part in found["failing"]) == sorted(f"en/persona/{attack}" for attack in attacks)
    for part in found["failing"]:
        assert [f"{e['language']}/{e['system_kind']}/{e['attack']}" for e in part["examples"]] == [part["slice"]] * 10
    assert len({example["attack"] for example in found["examples"]}) == len(found["examples"]) == 10
    assert len(verdict(gate)) == 3
    assert verdict(gate)[2].count("of 12") == 3


def test_where_only_the_interval_is_too_wide_the_check_has_ten_examples_of_its_own(policy):
    records = answers(40, 1, flag="loop", language="ko") + answers(400, 14, flag="loop")
    found = check(policy, "{metric: loop_rate, at_most: 0.04, interval: high}", records)
    assert (found["met"], found["failing"]) == (False, [])
    assert [example["id"] for example in found["examples"]] == [
        "ko-persona-direct-0",
        *(f"en-persona-direct-{i}" for i in range(9)),
    ]


def test_at_most_blames_the_hits(policy):
    records = answers(50, 2, flag="loop", language="ko") + answers(50, 0, flag="loop")
    found = check(policy, "{metric: loop_rate, at_most: 0}", records)
    assert [part["slice"] for part in found["failing"]] == ["ko/persona/direct"]
    assert [example["id"] for example in found["examples"]] == ["ko-persona-direct-0", "ko-persona-direct-1"]
    assert found["text"] == "Loop: none. Found 2 % of 100"


def test_each_slice_alone_has_to_reach_the_bound(policy):
    records = answers(90, 90, language="ko") + answers(10, 7, language="ja")
    assert check(policy, "{metric: identity_recall, at_least: 0.9}", records)["met"]
    found = check(policy, "{metric: identity_recall, at_least: 0.9, each: language}", records)
    assert (found["met"], found["value"]) == (False, 0.97)
    assert found["text"] == "Identity recall: at least 90 % in each language. Found ko 100 % of 90, ja 70 % of 10"
    assert [part["slice"] for part in found["failing"]] == ["ja/persona/direct"]
    records += answers(10, 6, language="ja", system="none")
    crossed = check(policy, "{metric: identity_recall, at_least: 0.65, each: [language, system]}", records)
    assert [part["slice"] for part in crossed["failing"]] == ["ja/none/direct"]
    assert not check(policy, "{metric: over_identity_rate, at_most: 1, each: attack}",
                     answers(9, 0, kind="unrelated", attack=""))["met"]  # fmt: skip


def test_an_interval_that_is_too_wide_blames_no_slice(policy):
    line = "{metric: contradiction_rate, at_most: 0.01, interval: high}"
    assert check(policy, line, answers(381))["met"]
    few = check(policy, line, answers(380))
    assert (few["met"], few["failing"], few["examples"]) == (False, [], [])
    assert few["text"] == "Contradiction: upper bound at most 1 %. Found 1.001 % (0 % of 380)"
    low = "{metric: identity_recall, at_least: 0.95, interval: low}"
    assert check(policy, low, answers(400, 392))["met"]
    assert not check(policy, low, answers(100, 98))["met"]


def test_a_bound_may_be_for_the_difference_to_the_base(policy):
    line = "{metric: over_identity_rate, at_most: 0.01, relative_to_base: true}"
    more = {"flag": "over_identity", "kind": "unrelated", "attack": ""}
    base = answers(200, 6, model="base", **more)
    assert check(policy, line, base + answers(200, 8, **more))["met"]
    found = check(policy, line, base + answers(200, 9, **more))
    assert (found["met"], found["value"]) == (False, 0.045)
    assert found["text"] == "Over-identity: at most +1 point against the base. Found 4.5 % of 200, +1.5 points"
    assert [part["slice"] for part in found["failing"]] == ["en/persona"]


def test_few_answers_are_too_few_whatever_they_say(policy):
    line = "{metric: identity_recall, at_least: 0.9, least_n: 100}"
    assert check(policy, line, answers(100, 100))["met"]
    few = check(policy, line, answers(99, 99))
    assert not few["met"]
    assert (
        few["text"]
        == "Identity recall: at least 90 %, of at least 100 answers. Found 100 % of 99, too few answers (99)"
    )


def test_the_gap_names_the_languages_that_are_behind(policy):
    line = "{metric: cross_language_gap, at_most: 3}"
    records = answers(100, 99, language="ko") + answers(100, 97, language="ja") + answers(100, 92)
    found = check(policy, line, records)
    assert found["value"] == pytest.approx(7)
    assert [part["slice"] for part in found["failing"]] == ["en"]
    assert len(found["examples"]) == 8
    assert found["failing"][0]["examples"] == found["examples"]
    assert check(policy, line, records[:200])["met"]
    assert check(policy, line, records[:100])["text"].endswith("not measured")


# --- Policy files -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", policy_names())
def test_packaged_policies_load_and_presets_name_one(name):
    assert load_policy(name).name == name
    assert {load_preset(preset).evaluate.policy for preset in PRESETS} == {"tiny", "release", "look"}


def test_a_first_look_asks_for_the_releases_rates_and_for_no_bound_of_an_interval():
    look, release = load_policy("look"), load_policy("release")
    assert (look.first_look, release.first_look) == (True, False)
    assert look.targets == tuple(target for target in release.targets if target.interval == "value")
    assert len(release.targets) - len(look.targets) == 3


def test_a_small_run_without_a_fault_passes_the_first_look_which_says_that_it_is_one():
    records, board = perfect()
    few = [record for record in records if int(record["id"].rpartition("-")[2]) < 20]
    assert not judge(board, few, "release")["passed"]
    gate = judge(board, few, "look")
    assert (gate["passed"], gate["first_look"]) == (True, True)
    assert verdict(gate) == ["every target holds", "This was a first look: its answers are too few for publishing."]
    assert verdict_line(gate).endswith("checks are met. This was a first look: its answers are too few for publishing.")
    assert judge(board, records, "release")["first_look"] is False
    assert "first look" not in verdict_line(judge(board, records, "release"))
    worse = [{**record, "flags": {**record["flags"], "contradiction": True}} for record in few]
    assert not judge(board, worse, "look")["passed"]


def test_a_policy_that_begins_from_a_first_look_is_one(policy):
    assert policy("from: look\n").first_look
    assert policy("first_look: true\nchecks: [{metric: loop_rate, at_most: 0}]\n").first_look
    assert not policy("from: release\n").first_look


def test_a_policy_may_begin_from_another(policy):
    own = policy("from: release\nif_measured: true\nchecks:\n- {metric: loop_rate, at_most: 0.1}\n")
    assert len(own.targets) == len(load_policy("release").targets) + 1
    assert all(target.if_measured for target in own.targets)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("- metric: loop_rate\n", ":1: a policy is `checks:` and a list of targets, not a list"),
        ("check: []\n", ":1: unknown key 'check'. Did you mean checks?"),
        ("checks: []\n", "without targets lets everything pass"),
        ("checks: {metric: loop_rate}\n", "checks is a mapping: make it a list"),
        ("from: realease\n", ":1: from is 'realease': name a packaged policy. Did you mean release?"),
        ("checks:\n- loop_rate\n", ":2: a check is metric: ... and at_least: or at_most:, not a text"),
        ("checks:\n- metric: identity_recal\n  at_least: 1\n", "Did you mean identity_recall?"),
        ("checks:\n- at_least: 1\n", ":2: the metric is missing. Known: "),
        ("checks:\n- metric: loop_rate\n", ":2: loop_rate takes at_least or at_most, one of the two"),
        ("checks:\n- metric: loop_rate\n  at_most: 0\n  at_least: 0\n", "one of the two"),
        ("checks:\n- metric: loop_rate\n  atmost: 0\n", ":3: unknown key 'atmost'. Did you mean at_most?"),
        ("checks:\n- metric: loop_rate\n  at_most: 2\n", ":3: at_most is 2: loop_rate is a share, between 0 and 1"),
        ("checks:\n- metric: loop_rate\n  at_most: none\n", "at_most is 'none': it takes a number"),
        ("checks:\n- metric: loop_rate\n  at_most: .nan\n", "at_most is nan: it takes a number"),
        (LOOP.format("interval: hihg"), "use value, low, high. Did you mean high?"),
        (LOOP.format("each: languages"), "each has 'languages': use language, system, attack. Did you mean language?"),
        (LOOP.format("only: {systems: none}"), "unknown key 'systems'. Did you mean system?"),
        (
            LOOP.format("only: {system: personas}"),
            "only.system has 'personas': use persona, none, hostile, other. Did you mean persona?",
        ),
        (LOOP.format("least_n: 0"), "least_n is 0: it takes a whole number of at least 1"),
        (LOOP.format("if_measured: maybe"), "if_measured is 'maybe': it takes true or false"),
        ("checks:\n- {metric: forgetting, at_least: -1, interval: low}\n", "forgetting is one number"),
        (LOOP.format("relative_to_base: true, of: base"), "the base cannot be held to itself"),
        (LOOP.format("relative_to_base: true, interval: low"), "has no Wilson interval"),
        (LOOP.format("at_most: 1"), "'at_most' is there already"),
        ("checks: [\n", "not YAML"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_is_one_clear_line(policy, text, words):
    with pytest.raises(KelronError) as error:
        policy(text)
    assert words in str(error.value)
    assert "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_policy_that_is_nowhere_is_told():
    with pytest.raises(KelronError, match=r"unknown policy 'realease'.*Did you mean release\?"):
        load_policy("realease")
    with pytest.raises(KelronError, match=r"no file at nowhere/mine\.yaml"):
        load_policy("nowhere/mine.yaml")


def test_every_metric_can_be_held(policy):
    lines = [f"- {{metric: {name}, at_most: 1}}" for name in (*METRICS, *PLAIN)]
    assert len(policy("checks:\n" + "\n".join(lines)).targets) == len(METRICS) + 3


def test_the_policy_in_the_docs_loads(policy):
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```yaml\n(from: .*?)```", page, re.DOTALL)
    assert len(policy(text).targets) == len(load_policy("release").targets) + 3
