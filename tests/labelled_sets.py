"""Answers with the right verdict of one detector each (tests/labelled/*.jsonl), and how well a detector does on them.

`python tests/labelled_sets.py [DETECTOR...]` prints the figures of today, with the answers that it gets wrong. For
termination a label of true is an answer that ends as it should.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from kelron_lib.evaluate import detectors
from kelron_lib.persona import load_persona, rival_names

FOLDER = Path(__file__).parent / "labelled"
TEXT = ("loop", "wrong_script", "broken_chars", "termination")


def load(detector):
    """The labelled answers of a detector: {"language", "kind", "prompt", "answer", "label", "why", "set"}."""
    return [json.loads(line) for line in (FOLDER / f"{detector}.jsonl").read_text(encoding="utf-8").split("\n") if line]


def verdict(detector, case, persona, rivals):
    """What the detector says of a labelled answer, by the way that the evaluation asks it."""
    if detector == "termination":
        return detectors.terminated(case["answer"], case["stopped"], case["prompt"])
    found = detectors.flags(
        case["answer"],
        language=case["language"],
        kind=case["kind"],
        persona=persona,
        rivals=rivals,
        prompt=case["prompt"],
    )
    return found[detector]


def judged(detector):
    """(case, verdict) of every labelled answer of a detector."""
    persona, rivals = load_persona("kelron"), rival_names()
    return [(case, verdict(detector, case, persona, rivals)) for case in load(detector)]


def precision_and_recall(pairs):
    """Of (case, verdict) pairs; 1.0 where nothing was found or nothing was there."""
    count = Counter((case["label"], found) for case, found in pairs)
    hits, missed, wrong = count[True, True], count[True, False], count[False, True]
    return (hits / (hits + wrong) if hits + wrong else 1.0), (hits / (hits + missed) if hits + missed else 1.0)


def mistakes(pairs):
    """One line for each answer that the detector gets wrong."""
    return [
        f"  {'found' if found else 'missed'} [{case['language']}, {case['set']}] {case['why']}: "
        f"{ascii(case['answer']) if not case['answer'].isprintable() else case['answer']}"[:200]
        for case, found in pairs
        if found != case["label"]
    ]


def print_figures(names):
    print(f"{'detector':13}{'set':8}{'language':10}{'n':>5}{'precision':>11}{'recall':>8}")
    for name in names:
        pairs = judged(name)
        for part in sorted({case["set"] for case, _ in pairs}):
            for language in ("all", "ko", "en", "ja"):
                of = [p for p in pairs if p[0]["set"] == part and language in ("all", p[0]["language"])]
                precision, recall = precision_and_recall(of)
                print(f"{name:13}{part:8}{language:10}{len(of):5}{precision:11.3f}{recall:8.3f}")
        print(*mistakes(pairs), sep="\n")


if __name__ == "__main__":
    print_figures(sys.argv[1:] or TEXT)
