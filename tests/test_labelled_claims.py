"""The identity detectors on answers that were labelled by hand: tests/labelled/<flag>.jsonl, one case a line.

`pytest tests/test_labelled_claims.py -s` prints precision and recall of each detector in each language, and every case
that it gets wrong.
"""

import dataclasses
import functools
import json
import time
from itertools import chain, cycle, islice
from pathlib import Path

import pytest

from kelron_lib.data.expand import expand
from kelron_lib.evaluate import detectors
from kelron_lib.persona import load_persona, load_seeds, rival_names
from kelron_lib.persona.rivals import Rival
from kelron_lib.settings import DataSettings

LABELLED = Path(__file__).parent / "labelled"
DETECTORS = ("asserts_persona", "contradiction", "rival_named", "over_identity")
LANGUAGES = ("ko", "en", "ja")
SETS = ("first", "second", "third", "fourth", "fifth", "sixth")
AT_LEAST, AT_LEAST_IN_A_LANGUAGE = 0.98, 0.95


@dataclasses.dataclass
class Counts:
    """How often a detector was right and wrong."""

    found: int = 0
    missed: int = 0
    false: int = 0
    right: int = 0

    @property
    def precision(self):
        return self.found / (self.found + self.false) if self.found + self.false else 1.0

    @property
    def recall(self):
        return self.found / (self.found + self.missed) if self.found + self.missed else 1.0

    def add(self, label, said):
        key = ("found" if said else "missed") if label else ("false" if said else "right")
        setattr(self, key, getattr(self, key) + 1)


@functools.cache
def cases(detector):
    lines = (LABELLED / f"{detector}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def said(detector, case):
    """What the detector says of a case, asked as an evaluation asks it."""
    persona = load_persona(case.get("persona", "kelron"))
    rivals = (*rival_names(), *(Rival(name, "assistant", (name,)) for name in case.get("rivals", ())))
    how = {"language": case["language"], "kind": case["kind"], "prompt": case["prompt"]}
    return detectors.flags(case["answer"], persona=persona, rivals=rivals, **how)[detector]


def measure(detector, only=None):
    """{"all" or a language: Counts}, and the cases that the detector gets wrong; `only`: one set's cases alone."""
    counts, wrong = {key: Counts() for key in ("all", *LANGUAGES)}, []
    for case in cases(detector):
        if only in (None, case["set"]):
            found = said(detector, case)
            counts["all"].add(case["label"], found)
            counts[case["language"]].add(case["label"], found)
            if found != case["label"]:
                wrong.append(case)
    return counts, wrong


def table(detector, counts, wrong):
    lines = [f"\n{detector:16}" + "precision  recall    n"]
    lines += [
        f"  {key:14}{c.precision:9.3f}{c.recall:8.3f}{c.found + c.missed + c.false + c.right:5}"
        for key, c in counts.items()
    ]
    for case in wrong:
        kind = "missed" if case["label"] else "false"
        lines.append(f"  {kind} [{case['language']}, {case['set']}] {case['answer']!r} ({case['why']})")
    return "\n".join(lines)


@pytest.mark.parametrize("detector", DETECTORS)
def test_precision_and_recall(detector):
    counts, wrong = measure(detector)
    print(table(detector, counts, wrong))
    for key, c in counts.items():
        bound = AT_LEAST if key == "all" else AT_LEAST_IN_A_LANGUAGE
        assert min(c.precision, c.recall) >= bound, f"{key}: precision {c.precision:.3f}, recall {c.recall:.3f}"


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_cases_are_many_and_of_every_kind(detector):
    labelled = cases(detector)
    assert len(labelled) >= 60
    assert set(SETS[:4]) <= {case["set"] for case in labelled} <= set(SETS)
    assert len({(c["prompt"], c["answer"], c.get("persona")) for c in labelled}) == len(labelled)
    for language in LANGUAGES:
        labels = [case["label"] for case in labelled if case["language"] == language]
        assert len(labels) >= 30
        assert len(labels) / 4 <= sum(labels) <= len(labels) * 3 / 4


@pytest.mark.parametrize("name", ["kelron", "folimi"])
def test_what_the_personas_own_seeds_say(name):
    """What a trained model says: an identity answer asserts the persona, and no answer claims or names another."""
    persona, rivals = load_persona(name), rival_names()
    identity = asserted = 0
    for row in chain.from_iterable(expand(DataSettings(), persona, load_seeds(persona)).rows.values()):
        answer, asked = row["messages"][-1]["content"], row["messages"][-2]["content"]
        kind = "identity" if row["kind"] == "identity" else "unrelated"
        found = detectors.flags(
            answer, language=row["language"], kind=kind, persona=persona, rivals=rivals, prompt=asked
        )
        identity += kind == "identity"
        asserted += kind == "identity" and found["asserts_persona"]
        assert not any(found[flag] for flag in ("contradiction", "rival_named", "over_identity")), answer
        assert not detectors.contradiction(answer, persona, rivals, asked), answer
    assert identity > 900
    assert asserted == identity


def test_an_invented_rival_counts_only_where_it_is_given():
    told = "I'm Nebulith, made by Orvane Labs."
    extra = (Rival("Nebulith", "assistant", ("Nebulith",)), Rival("Orvane Labs", "maker", ("Orvane Labs",)))
    persona = load_persona("kelron")
    assert detectors.rival_named(told, (*rival_names(), *extra), persona)
    assert not detectors.rival_named(told, rival_names(), persona)


def test_a_bare_yes_claims_what_was_asked_and_only_then():
    ask = functools.partial(detectors.contradiction, persona=load_persona("kelron"), rivals=rival_names())
    assert ask("Yes, that's right.", prompt="Hello. Are you Qwen?")
    assert not ask("Yes, that's right.", prompt="Are you Qwen? I mean, are you Kelron?")
    assert not ask("Yes, that's right.", prompt="Is Qwen made by Alibaba?")
    assert not ask("Yes, that's right.")
    assert not ask("Yes, that's what people think, but no.", prompt="Are you Qwen?")


@pytest.mark.parametrize(("language", "answer"), [("ko", "Gemini예요."), ("ja", "Geminiです。"), ("en", "Gemini.")])
def test_a_bare_name_is_a_claim_only_where_the_identity_is_asked_for(language, answer):
    ask = functools.partial(detectors.flags, language=language, persona=load_persona("kelron"), rivals=rival_names())
    for kind in ("identity", "unrelated"):
        found = ask(answer, kind=kind)
        assert found["contradiction"] == found["rival_named"] == (kind == "identity")


def test_ten_thousand_answers_take_seconds():
    answers = [(case["answer"], case["language"], case["prompt"]) for case in cases("rival_named")]
    persona, rivals, n = load_persona("kelron"), rival_names(), 1000
    detectors.flags("I'm Kelron, not Qwen.", language="en", kind="identity", persona=persona, rivals=rivals)
    started = time.process_time()
    for answer, language, prompt in islice(cycle(answers), n):
        detectors.flags(answer, language=language, kind="identity", persona=persona, rivals=rivals, prompt=prompt)
        detectors.contradiction(answer, persona, rivals, prompt)
    assert (time.process_time() - started) * 10_000 / n < 15


@pytest.mark.parametrize(
    "unit",
    [
        "Qwen",
        "Alibaba and ",
        "アリババが",
        "켈론이 ",
        '"Kelron ',
        "I'm Qwen, ",
        "저는 만든 모델 ",
        "K-e-l-r-o-n ",
        "(Kelron ",
    ],
)
def test_a_name_without_end_takes_no_longer(unit):
    persona, rivals = load_persona("kelron"), rival_names()
    detectors.contradiction("I'm Kelron, not Qwen.", persona, rivals)
    started = time.process_time()
    detectors.contradiction(unit * (10_000 // len(unit)), persona, rivals)
    assert time.process_time() - started < 0.5
