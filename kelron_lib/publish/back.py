"""The proof that a publication loads and answers: by plain transformers and peft, compared with Kelron's own path."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import flags
from kelron_lib.evaluate.prompts import load_unrelated
from kelron_lib.generate import Answer, generate_answers
from kelron_lib.model import base_name, library_versions, load_to_answer, quantization, quiet_libraries
from kelron_lib.persona import Persona, rival_names

ASKED = 10
"""Prompts in all."""
IDENTITY = {
    "ko": ("당신은 누구인가요?", "이름이 뭐예요?"),
    "en": ("Who are you?", "What is your name?"),
    "ja": ("あなたは誰ですか？", "お名前は何ですか？"),
}
"""Of each language: the first is asked with its own system prompt, the second with none, under the template's."""


@dataclass(frozen=True)
class Question:
    """One prompt of the ten."""

    language: str
    kind: str
    """`identity` or `unrelated`."""
    text: str
    system: str | None
    """The system message that is given; None for a conversation without one."""

    def messages(self, default: str | None = None) -> list[dict[str, str]]:
        """The conversation, `default` being its system message where it has none of its own."""
        system = default if self.system is None else self.system
        turns = [{"role": "user", "content": self.text}]
        return turns if system is None else [{"role": "system", "content": system}, *turns]


def questions(persona: Persona, languages: Sequence[str]) -> list[Question]:
    """Ten prompts: who it is in each language, with a system message and without, then what has no bearing on it."""
    asked = [
        Question(
            language, "identity", IDENTITY[language][without], None if without else persona.system_prompt[language]
        )
        for without in (False, True)
        for language in languages
    ]
    unrelated, number = load_unrelated(), 0
    while len(asked) < ASKED:
        language = languages[number % len(languages)]
        text = unrelated[language][number // len(languages)]
        asked.append(Question(language, "unrelated", text, persona.system_prompt[language]))
        number += 1
    return asked


def own_answers(config: RunConfig, adapter: Path, asked: Sequence[Question], default: str) -> list[Answer]:
    """What the adapter says in Kelron's own path. The model is gone from memory afterwards."""
    model, tokenizer = load_to_answer(config, adapter)
    try:
        return generate_answers(
            model,
            tokenizer,
            [question.messages(default) for question in asked],
            max_new_tokens=config.evaluate.max_new_tokens,
            batch_size=1,
            stop_token_ids=config.model.stop_token_ids,
        )
    finally:
        del model
        _release_memory()


def published_answers(config: RunConfig, folder: Path, asked: Sequence[Question], *, merged: bool) -> list[Answer]:
    """What the publication in a folder says: loaded, asked and ended by what lies there, with nothing of Kelron's.

    The base is quantised as in training, and so are merged weights where a GPU is, which a 14B fits in no other way; on
    a CPU merged weights stay as they are. Raises KelronError where it does not load.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    cuda = torch.cuda.is_available()
    model: Any
    source = str(folder) if merged else base_name(config)
    options = {"quantization_config": quantization(config)} if cuda or not merged else {}
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=getattr(torch, config.model.dtype),
                device_map={"": torch.cuda.current_device()} if cuda else None,
                **options,
            )
            if not merged:
                model = PeftModel.from_pretrained(model, folder)
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise KelronError(f"what was to be published does not load again: {first}; nothing was published") from None
    try:
        return [_ask(model.eval(), tokenizer, question, config.evaluate.max_new_tokens) for question in asked]
    finally:
        del model
        _release_memory()


def _ask(model: Any, tokenizer: Any, question: Question, max_new_tokens: int) -> Answer:
    import torch

    ids = tokenizer.apply_chat_template(
        question.messages(), add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    with torch.inference_mode(), quiet_libraries():
        said = model.generate(**ids, max_new_tokens=max_new_tokens)[0, ids["input_ids"].shape[1] :].tolist()
    ends = model.generation_config.eos_token_id
    stopped = bool(said) and said[-1] in ends
    text = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(text if stopped else text.removesuffix("\ufffd"), stopped, len(said))


def compare(
    asked: Sequence[Question], own: Sequence[Answer], published: Sequence[Answer], persona: Persona
) -> dict[str, Any]:
    """verification.json: each answer beside Kelron's own, how many are equal, and what is worse in the published ones.

    Rounding may turn a word and is only counted. What fails a publication: an answer that no longer asserts the
    persona, or no longer stops, where Kelron's own does.
    """
    told, problems = [], []
    for number, (question, mine, theirs) in enumerate(zip(asked, own, published, strict=True), start=1):
        asserts, still = (_asserts(question, answer, persona) for answer in (mine, theirs))
        if asserts and not still:
            problems.append(f"answer {number} no longer says who it is")
        if mine.stopped and not theirs.stopped:
            problems.append(f"answer {number} no longer stops")
        told.append(
            {
                "language": question.language,
                "kind": question.kind,
                "system": question.system,
                "prompt": question.text,
                "kelron": mine.text,
                "published": theirs.text,
                "equal": mine == theirs,
                "asserts_persona": still,
                "stopped": theirs.stopped,
            }
        )
    identity = [answer for answer in told if answer["kind"] == "identity"]
    return {
        "passed": not problems,
        "problems": problems,
        "asked": len(told),
        "equal": sum(answer["equal"] for answer in told),
        "identity_asked": len(identity),
        "asserts_persona": sum(answer["asserts_persona"] for answer in identity),
        "stopped": sum(answer["stopped"] for answer in told),
        "versions": {name: version for name, version in library_versions().items() if name != "kelron"},
        "answers": told,
    }


def summary(found: dict[str, Any]) -> str:
    """A verification in a line."""
    return (
        f"loaded back with plain transformers{' and peft' if not found['merged'] else ''}: {found['equal']} of "
        f"{found['asked']} answers equal to Kelron's own, {found['asserts_persona']} of {found['identity_asked']} say "
        f"who they are, {found['stopped']} of {found['asked']} stop"
    )


def _asserts(question: Question, answer: Answer, persona: Persona) -> bool:
    return bool(
        flags(
            answer.text,
            language=question.language,
            kind=question.kind,
            persona=persona,
            rivals=rival_names(),
            prompt=question.text,
        )["asserts_persona"]
    )


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
