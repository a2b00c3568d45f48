"""What was forgotten: multiple-choice items that Kelron's authors wrote, answered by base and tuned model.

Every item is asked four times, its options moved on by one each time, so that each stands once behind every letter.
An option's score is the sum of the four log-probabilities (renormalised over A to D) of the letters that it stood
behind; the highest is the model's choice. A liking for a letter, a term added to that letter's logit, is then the same
for all four options and cancels: a training that only moved such a liking does not look like one that cost knowledge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kelron_lib.answers import BASE, TUNED, Measure
from kelron_lib.decoding import Batch
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.intervals import mcnemar, proportion
from kelron_lib.generate import window
from kelron_lib.prompts import encode_prompt

CHOICES = "choices"
"""The measure's name."""
ITEMS_A_PART = 20
"""Items whose choices are kept as one: a cut loses the work on so many at most."""
MOST_AT_ONCE = 16
"""Prompts in a batch: nothing is generated after them, so that more would only add padding."""
FOLDER = Path(__file__).with_name("choices")
LETTERS = "ABCD"
TOPICS = (
    "everyday",
    "arithmetic",
    "units",
    "science",
    "geography",
    "history",
    "language",
    "etiquette",
    "reading",
    "logic",
    "calendar",
    "sense",
)
ASKS = {
    "ko": "정답의 기호(A, B, C, D) 한 글자만 답하세요.",
    "en": "Answer with the letter of the correct option only (A, B, C or D).",
    "ja": "正解の記号(A、B、C、D)を一文字だけで答えてください。",
}
"""What follows the options, by language."""
NONE_ASKED = "ask none with --set evaluate.choice_items=0"


@dataclass(frozen=True)
class Item:
    """A question with one right answer."""

    id: str
    language: str
    topic: str
    """One of TOPICS."""
    question: str
    options: tuple[str, str, str, str]
    answer: int
    """Index of the right option, 0 to 3."""


def _item(found: Any, language: str, where: str) -> Item:
    """An item of the file; raises KelronError naming `where` for anything that is not one."""
    keys = ("id", "topic", "question", "options", "answer")
    if not isinstance(found, dict) or sorted(found) != sorted(keys):
        raise KelronError(f"{where} has to have {', '.join(keys)} and nothing else")
    where = f"{where} ({found['id']})"
    for key in ("id", "question"):
        if not isinstance(found[key], str) or not found[key].strip():
            raise KelronError(f"{where}: {key} has to be a text")
    if found["topic"] not in TOPICS:
        raise KelronError(f"{where}: topic is {found['topic']!r}, it takes {', '.join(TOPICS)}")
    options = found["options"]
    texts = isinstance(options, list) and all(isinstance(option, str) and option.strip() for option in options)
    if not texts or len(options) != len(LETTERS) or len(set(options)) != len(options):
        raise KelronError(f"{where}: options have to be four different texts (numbers in quotes)")
    if type(found["answer"]) is not int or not 0 <= found["answer"] < len(LETTERS):
        raise KelronError(f"{where}: answer is {found['answer']!r}, it takes the index of an option, 0 to 3")
    return Item(found["id"], language, found["topic"], found["question"], tuple(options), found["answer"])


@cache
def read_items(file: Path, language: str) -> tuple[Item, ...]:
    """All items of a file, a YAML list. Raises KelronError with the item's number for one that cannot be asked."""
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise KelronError(f"{file}: the multiple-choice items cannot be read ({reason})") from None
    if not isinstance(found, list) or not found:
        raise KelronError(f"{file}: the multiple-choice items have to be a list")
    items = tuple(_item(item, language, f"{file}: item {number}") for number, item in enumerate(found, start=1))
    if len({item.id for item in items}) != len(items):
        raise KelronError(f"{file}: two items have the same id")
    return items


def load_items(languages: Iterable[str], most: int, folder: Path = FOLDER) -> list[Item]:
    """At most `most` items of each language, spread evenly over its file, which is in the order of topics; the same
    ones every time."""
    chosen = []
    for language in languages:
        items = read_items(folder / f"{language}.yaml", language)
        count = min(most, len(items))
        chosen += [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
    return chosen


def messages(item: Item, turn: int = 0) -> list[dict[str, str]]:
    """The conversation that asks an item, its options moved on by `turn`: option (i + turn) mod 4 behind letter i.

    The system text is empty, so that neither the base's template nor the persona's text takes part.
    """
    count = len(LETTERS)
    options = [f"{LETTERS[i]}. {item.options[(i + turn) % count]}" for i in range(count)]
    text = "\n".join([item.question.strip(), "", *options, "", ASKS[item.language]])
    return [{"role": "system", "content": ""}, {"role": "user", "content": text}]


def letter_ids(tokenizer: Any) -> list[int]:
    """The token of each letter where an answer begins. Raises KelronError where one is not a token of its own."""
    header = "assistant\n"
    before = tokenizer(header, add_special_tokens=False)["input_ids"]
    ids = []
    for letter in LETTERS:
        told = tokenizer(header + letter, add_special_tokens=False)["input_ids"]
        if told[:-1] != before or tokenizer.decode(told[-1:]) != letter:
            raise KelronError(f"the tokenizer has no single token for the answer {letter!r}: {NONE_ASKED}")
        ids.append(int(told[-1]))
    return ids


def _letter_scores(model: Any, prompts: Sequence[Sequence[int]], letters: Sequence[int]) -> list[list[float]] | None:
    """(prompts, 4) log-probabilities of the letters as first token of the answer, renormalised over the four; None
    where the GPU's memory was too small for the batch."""
    import torch

    try:
        logits = Batch(model, prompts).logits[:, list(letters)]
    except torch.OutOfMemoryError:
        return None  # returning drops the traceback, whose frames hold the batch
    scores: list[list[float]] = logits.float().log_softmax(-1).tolist()
    return scores


def _all_scores(
    model: Any, prompts: Sequence[Sequence[int]], letters: Sequence[int], batch_size: int
) -> list[list[float]]:
    """`_letter_scores` of all prompts in their order; prompts of like length share a batch, the longest come first."""
    import torch

    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    scores: dict[int, list[float]] = {}
    while len(scores) < len(order):
        rows = order[len(scores) : len(scores) + batch_size]
        found = _letter_scores(model, [prompts[i] for i in rows], letters)
        if found is None:
            if len(rows) == 1:
                raise KelronError("the GPU's memory is too small for a single question: free what else is loaded")
            torch.cuda.empty_cache()
            batch_size = len(rows) // 2
            continue
        scores.update(zip(rows, found, strict=True))
    return [scores[i] for i in range(len(order))]


def chosen(turns: Sequence[Sequence[float]]) -> int:
    """The option that a model chooses, from the letters' log-probabilities (4) in each of the four turns (4)."""
    count = len(LETTERS)
    totals = [sum(turns[turn][(option - turn) % count] for turn in range(count)) for option in range(count)]
    return totals.index(max(totals))


def picks(model: Any, tokenizer: Any, items: Sequence[Mapping[str, Any]], *, batch_size: int) -> list[int]:
    """For each item (as `choices` puts it into a Measure) the option, 0 to 3, that the model, as it is, chooses.

    Nothing is drawn at random; like an answer, a score may differ in its last bits with the prompts that share its
    batch. Raises KelronError for a tokenizer without single-token letters, a question longer than the model's window,
    or a GPU too small for one question.
    """
    letters, count = letter_ids(tokenizer), len(LETTERS)
    asked = [Item(**{**item, "options": tuple(item["options"])}) for item in items]
    prompts = [encode_prompt(tokenizer, messages(item, turn)) for item in asked for turn in range(count)]
    if (longest := max(map(len, prompts), default=0)) > window(model):
        raise KelronError(
            f"a multiple-choice question has {longest} tokens and the model's window is {window(model)}: {NONE_ASKED}"
        )
    scores = _all_scores(model, prompts, letters, batch_size)
    return [chosen(scores[count * i : count * (i + 1)]) for i in range(len(asked))]


def choices(items: Sequence[Item], batch_size: int) -> Measure:
    """The measure by which base and tuned model answer the items."""
    plain = tuple({**asdict(item), "options": list(item.options)} for item in items)
    where = f"{__name__}:{picks.__name__}"
    return Measure(CHOICES, where, plain, ITEMS_A_PART, {"batch_size": min(batch_size, MOST_AT_ONCE)})


def _points(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> float | None:
    """By how many points of accuracy the tuned model is above the base; None where nothing was asked."""
    return 100 * (tuned["hits"] - base["hits"]) / base["n"] if base["n"] else None


def _side_by_side(base_right: Sequence[bool], tuned_right: Sequence[bool]) -> dict[str, Any]:
    base, tuned = (proportion(sum(right), len(right)) for right in (base_right, tuned_right))
    return {"base": base, "tuned": tuned, "change": _points(base, tuned)}


def _lost(item: Item, base: int, tuned: int) -> dict[str, str]:
    """An item that only the base has right, with what each of the two chose."""
    told = {"id": item.id, "language": item.language, "question": item.question}
    return told | {"right": item.options[item.answer], "base": item.options[base], "tuned": item.options[tuned]}


def compare(base_picks: Sequence[int], tuned_picks: Sequence[int], items: Sequence[Item]) -> dict[str, Any]:
    """The scoreboard's "forgetting": accuracies with intervals, change in points, flips with McNemar's p, the items,
    and those that were lost with their texts.

    base_picks, tuned_picks: the option that each chose, 0 to 3, by item. Raises KelronError unless both models answered
    every item.
    """
    for model, of_model in ((BASE, base_picks), (TUNED, tuned_picks)):
        if len(of_model) != len(items):
            raise KelronError(f"the {model} model answered {len(of_model)} of {len(items)} multiple-choice items")
    picked = list(zip(items, base_picks, tuned_picks, strict=True))
    base_right = [base == item.answer for item, base, _ in picked]
    tuned_right = [tuned == item.answer for item, _, tuned in picked]
    told = list(zip(items, base_right, tuned_right, strict=True))
    lost = sum(base and not tuned for _, base, tuned in told)
    gained = sum(tuned and not base for _, base, tuned in told)
    by_language = {}
    for language in dict.fromkeys(item.language for item in items):
        own = [(base, tuned) for item, base, tuned in told if item.language == language]
        by_language[language] = _side_by_side([base for base, _ in own], [tuned for _, tuned in own])
    return {
        **_side_by_side(base_right, tuned_right),
        "by_language": by_language,
        "flips": {"lost": lost, "gained": gained, "p": mcnemar(lost, gained)},
        "items": [
            {"id": item.id, "language": item.language, "base": base, "tuned": tuned} for item, base, tuned in told
        ],
        "lost": [_lost(item, *both) for item, *both in picked if both[0] == item.answer != both[1]],
    }


def forgetting(parts: Mapping[str, Sequence[Sequence[int]]], items: Sequence[Item]) -> dict[str, Any]:
    """`compare` on what `measured` has of the choices, part by part."""
    base, tuned = ([pick for part in parts[model] for pick in part] for model in (BASE, TUNED))
    return compare(base, tuned, items)
