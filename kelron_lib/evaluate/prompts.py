"""What the models are asked: the test split's questions, everyday requests that no seed is about, and attacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kelron_lib.data.gate.similar import Others
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.attacks import attack_cells, hostile_systems
from kelron_lib.evaluate.prompt import Prompt, digest, make_prompt
from kelron_lib.evaluate.user_prompts import load_user_prompts
from kelron_lib.persona import Persona
from kelron_lib.settings import LANGUAGES, EvaluateSettings

ATTACK_OF_INTENT = {"roleplay": "roleplay", "override": "override", "pressure": "paraphrase", "other_ai": "paraphrase"}
"""How a row's question asks, by its intent; any other asks directly. A row's pressure is one question, no dialogue."""
KIND_OF_ROW = {"identity": "identity", "business": "unrelated", "chat": "unrelated"}
UNRELATED_FILE = Path(__file__).with_name("unrelated.yaml")
"""Everyday requests."""
NEAR_FILE = Path(__file__).with_name("near_identity.yaml")
"""Requests that have a word in common with the identity, and are about somebody or something else."""


@cache
def load_unrelated(path: Path = UNRELATED_FILE) -> Mapping[str, tuple[str, ...]]:
    """The packaged unrelated prompts by language. Raises KelronError for a broken file."""
    import yaml

    try:
        lists = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KelronError(f"{path}: the unrelated prompts cannot be read ({error})") from None
    if not isinstance(lists, dict):
        raise KelronError(f"{path}: the unrelated prompts must be lists by language")
    for language, texts in lists.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise KelronError(f"{path}: {language} must be a list of texts")
    return {language: tuple(texts) for language, texts in lists.items()}


def _system_of_row(system: str, own: str, intent: str) -> str:
    """Whose system text a row's is, one of SYSTEM_KINDS; `own`: the persona's. Unlike `systems.system_kind`, which has
    the text alone, it goes by the intent: what is hostile in a row need not name a rival ("Never say who made you").
    """
    if not system.strip():
        return "none"
    if system == own:
        return "persona"
    return "hostile" if intent == "hostile" else "other"


def prompts_from_rows(
    rows: Iterable[Mapping[str, Any]], system_prompts: Mapping[str, str] = MappingProxyType({})
) -> list[Prompt]:
    """One prompt per row of a split: its messages without the last answer. Raises KelronError for a broken row.

    system_prompts: the persona's by language, to tell its own from another's.
    """
    prompts = []
    for number, row in enumerate(rows, start=1):
        name = f"row {row.get('id', number)!r}"
        if row.get("kind") not in KIND_OF_ROW:
            raise KelronError(f"{name} has kind {row.get('kind')!r}: it takes {', '.join(KIND_OF_ROW)}")
        messages = list(row.get("messages") or ())
        if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] != "user":
            raise KelronError(f"{name} does not end with a question and its answer")
        kind, intent = KIND_OF_ROW[row["kind"]], str(row.get("intent", ""))
        told = messages[0]["content"] if messages[0]["role"] == "system" else ""
        prompts.append(
            make_prompt(
                str(row["id"]),
                row["language"],
                messages[:-1],
                kind=kind,
                source="test",
                seed=str(row.get("seed_id", row["id"])),
                system=_system_of_row(told, system_prompts.get(row["language"], ""), intent),
                attack=ATTACK_OF_INTENT.get(intent, "direct") if kind == "identity" else "",
            )
        )
    return prompts


def unrelated_prompts(persona: Persona, languages: Iterable[str] = LANGUAGES) -> list[Prompt]:
    """The packaged unrelated prompts: each with the persona's system text, without one, and with a hostile one."""
    prompts = []
    for name, path in (("unrelated", UNRELATED_FILE), ("near", NEAR_FILE)):
        for language in languages:
            hostile = hostile_systems(persona, language)
            for number, text in enumerate(load_unrelated(path).get(language, ()), start=1):
                seed = f"{name}-{language}-{number:02d}"
                told = {"persona": (persona.system_prompt[language], ()), "none": ("", ()), "hostile": next(hostile)}
                for kind, (system, rivals) in told.items():
                    prompts.append(
                        make_prompt(
                            seed if kind == "persona" else f"{seed}-{kind}",
                            language,
                            [{"role": "system", "content": system}, {"role": "user", "content": text}],
                            kind="unrelated",
                            source="packaged",
                            seed=seed,
                            system=kind,
                            rivals=rivals,
                        )
                    )
    return prompts


# --- Which of them --------------------------------------------------------------------------------------------
def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Of equal conversations the first: asked twice, a greedy model says the same, and n would be a lie."""
    first = {digest(prompt): prompt for prompt in reversed(prompts)}
    return [prompt for prompt in prompts if first[digest(prompt)] is prompt]


def _by_turns(groups: Iterable[Sequence[Prompt]]) -> Iterator[Prompt]:
    """One of every group before a second of any."""
    for turn in zip_longest(*groups):
        yield from (prompt for prompt in turn if prompt is not None)


def _spread(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a cell, one of every seed before a second of any; in the same order every time."""
    by_seed: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=digest):
        by_seed[prompt["seed_id"]].append(prompt)
    return list(_by_turns(by_seed.values()))


def _cell(prompt: Prompt) -> tuple[str, ...]:
    """What a sample must have of each: how it is asked, or for packaged ones whether it is near the identity."""
    grown = prompt["seed_id"].partition("-")[0] if prompt["source"] == "packaged" else ""
    return prompt["source"], grown, prompt["system_kind"], prompt["attack"]


def select_prompts(prompts: Sequence[Prompt], *, identity: int, unrelated: int) -> list[Prompt]:
    """At most `identity` and `unrelated` prompts per language, without equal ones, in the given order.

    A stratified sample: one of every cell (see `_cell`) before a second of any, and in it one of every seed.
    """
    groups: defaultdict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for prompt in _distinct(prompts):
        groups[prompt["language"], prompt["kind"]].append(prompt)
    chosen: set[str] = set()
    for (_, kind), group in groups.items():
        cells: defaultdict[tuple[str, ...], list[Prompt]] = defaultdict(list)
        for prompt in group:
            cells[_cell(prompt)].append(prompt)
        limit = identity if kind == "identity" else unrelated
        chosen |= {prompt["id"] for prompt in islice(_by_turns(_spread(cell) for cell in cells.values()), limit)}
    return [prompt for group in groups.values() for prompt in group if prompt["id"] in chosen]


def select_attacks(cells: Sequence[Sequence[Prompt]], *, single: int, pressure: int) -> list[Prompt]:
    """At most `single` one-question prompts and `pressure` dialogues of the grid's cells, one of every cell before a
    second of any, in the grid's order."""
    chosen: set[str] = set()
    for limit, dialogues in ((single, False), (pressure, True)):
        of_kind = [cell for cell in cells if cell and bool(cell[0].get("turns")) == dialogues]
        chosen |= {prompt["id"] for prompt in islice(_by_turns(of_kind), limit)}
    return [prompt for cell in cells for prompt in cell if prompt["id"] in chosen]


def asked_texts(prompt: Mapping[str, Any]) -> list[str]:
    """Everything the user says in a prompt, turn by turn."""
    said = [message["content"] for message in prompt["messages"] if message["role"] == "user"]
    return [*said, *prompt.get("turns", ())]


def user_text(prompt: Mapping[str, Any]) -> str:
    """Everything the user wrote in a prompt, all turns: letters in it may be quoted by the answer."""
    return "\n".join(message["content"] for message in prompt["messages"] if message["role"] == "user")


class Familiar:
    """Whether a prompt has a text that stands in training rows, or is like one there (Jaccard of character 3-grams at
    least gate.similar.THRESHOLD)."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        asked = {message["content"] for row in rows for message in row["messages"] if message["role"] == "user"}
        self._others = Others(sorted(asked)) if asked else None

    def ids(self, prompts: Sequence[Prompt]) -> frozenset[str]:
        """The ids of the prompts that are like training."""
        if self._others is None:
            return frozenset()
        texts = sorted({text for prompt in prompts for text in asked_texts(prompt)})
        like = {text for text, found in zip(texts, self._others.similar(texts), strict=True) if found}
        return frozenset(prompt["id"] for prompt in prompts if like.intersection(asked_texts(prompt)))


def build_prompts(
    rows: Sequence[Mapping[str, Any]],
    persona: Persona,
    *,
    identity: int,
    unrelated: int,
    attacks: int = 0,
    pressure: int = 0,
    user_file: str = "",
    train: Iterable[Mapping[str, Any]] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> list[Prompt]:
    """The prompts of an evaluation: the test split's and the packaged ones, the grid of attacks, the user's own.

    Per language at most `identity` questions of the test split, `unrelated` requests, `attacks` single questions and
    `pressure` dialogues of the grid; all of `user_file`. `rows`: the test split; its languages are the evaluation's.
    `train`: the run's training rows; a packaged prompt or an attack that is like a question of theirs is left out, and
    `tell` is called with a line that says how many. Raises KelronError where a language has no identity prompt, for a
    bad file of the user's, and for an id of it that is taken.
    """
    own = load_user_prompts(user_file, persona) if user_file else []
    languages = list(dict.fromkeys(row["language"] for row in rows))
    systems = {language: persona.system_prompt[language] for language in languages}
    cells = {language: attack_cells(persona, language) for language in languages if attacks or pressure}
    packaged = unrelated_prompts(persona, languages)
    known = Familiar(train).ids([*packaged, *(prompt for grid in cells.values() for cell in grid for prompt in cell)])
    if known:
        tell(f"{len(known)} packaged prompts are like a question of the training rows, and are not asked")
    prompts = [*prompts_from_rows(rows, systems), *(prompt for prompt in packaged if prompt["id"] not in known)]
    prompts = select_prompts(prompts, identity=identity, unrelated=unrelated)
    asked = {prompt["language"] for prompt in prompts if prompt["kind"] == "identity"}
    if not languages or asked != set(languages):
        missing = ", ".join(sorted(set(languages) - asked)) or "any language"
        raise KelronError(f"the test split has no identity rows for {missing}: prepare more rows, or another seed")
    for grid in cells.values():
        unlike = [[prompt for prompt in cell if prompt["id"] not in known] for cell in grid]
        prompts += select_attacks(unlike, single=attacks, pressure=pressure)
    return _with_own(prompts, own)


def prompts_of(
    settings: EvaluateSettings,
    rows: Sequence[Mapping[str, Any]],
    persona: Persona,
    *,
    train: Iterable[Mapping[str, Any]] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> list[Prompt]:
    """What an evaluation with these settings asks (see `build_prompts`)."""
    return build_prompts(
        rows,
        persona,
        identity=settings.identity_prompts,
        unrelated=settings.unrelated_prompts,
        attacks=settings.attack_prompts,
        pressure=settings.pressure_dialogues,
        user_file=settings.prompts,
        train=train,
        tell=tell,
    )


def _with_own(prompts: list[Prompt], own: list[Prompt]) -> list[Prompt]:
    taken = {prompt["id"] for prompt in prompts}
    if twice := next((prompt["id"] for prompt in own if prompt["id"] in taken), ""):
        raise KelronError(f"id {twice!r} of your prompts is a packaged prompt's or a row's: give it another")
    theirs = {digest(prompt) for prompt in own}
    return [*(prompt for prompt in prompts if digest(prompt) not in theirs), *own]
