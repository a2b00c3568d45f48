"""The identity detectors on answers that were labelled by hand: tests/labelled/<flag>.jsonl, one case a line.

`pytest tests/test_labelled_claims.py -s` prints precision and recall of each detector in each language, and every case
that it gets wrong.
"""

import dataclasses
import functools
import json
from pathlib import Path

import pytest

from kelron_lib.evaluate import detectors
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.persona.rivals import Rival

LABELLED = Path(__file__).parent / "labelled"
DETECTORS = ("asserts_persona", "contradiction", "claims_other", "rival_named", "over_identity")
LANGUAGES = ("ko", "en", "ja")
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
    if detector == "claims_other":
        return detectors.claims_other(case["answer"], persona, rivals, case["prompt"])
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
    assert len({(c["prompt"], c["answer"], c.get("persona")) for c in labelled}) == len(labelled)
    for language in LANGUAGES:
        labels = [case["label"] for case in labelled if case["language"] == language]
        assert len(labels) >= 30
        assert len(labels) / 4 <= sum(labels) <= len(labels) * 3 / 4
