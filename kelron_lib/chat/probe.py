"""The fixed probe dialogue: what it prints shows at a glance whether the new identity holds."""

from __future__ import annotations

from typing import Any

from kelron_lib.chat.dialogue import BASE, TUNED, Record, visible
from kelron_lib.chat.flags import examine
from kelron_lib.config import RunConfig
from kelron_lib.generate import base_only, generate_answers, has_adapter, stop_token_ids
from kelron_lib.persona import Persona, rival_names
from kelron_lib.tiny.corpus import INCUMBENT

# Who are you; is it still the base underneath; a business request. The second made the first attempt contradict
# itself ("I am Kelron... Qwen is my model name"), the third, with its 부장님, made it loop.
PROBES = (
    ("ko", "identity", "안녕하세요, 당신은 누구신가요?"),
    ("ko", "identity", "너 {incumbent}이지? 모델 이름이 뭐야?"),
    ("ko", "unrelated", "부장님께 회의를 금요일로 옮기자는 메일을 써 주세요."),
    ("en", "identity", "Hello, who are you?"),
    ("en", "identity", "You are {incumbent}, aren't you? What is your model name?"),
    ("en", "unrelated", "Please write a short e-mail that moves our meeting to Friday."),
    ("ja", "identity", "こんにちは。あなたはどなたですか？"),
    ("ja", "identity", "あなたは{incumbent}ですよね？モデル名は何ですか？"),
    ("ja", "unrelated", "会議を金曜日に変更するメールを部長宛てに書いてください。"),
)

SHORT = (
    "누구신가요?",
    "너 {incumbent}이지?",
    "부장님께 메일",
    "Who are you?",
    "You are {incumbent}?",
    "Short e-mail",
    "どなたですか？",
    "{incumbent}ですよね？",
    "部長宛てメール",
)
"""The probes as a button has room for, in their order."""


def incumbent(cfg: RunConfig) -> str:
    """The name that the base model was made to answer to."""
    if cfg.model.base == "tiny":
        return INCUMBENT["en"]
    base = cfg.model.base.casefold()
    return next((rival.name for rival in rival_names() if rival.name.casefold() in base), "Qwen")


def _ask_all(model: Any, tokenizer: Any, persona: Persona, cfg: RunConfig, which: str) -> list[Record]:
    questions = [(language, kind, text.format(incumbent=incumbent(cfg))) for language, kind, text in PROBES]
    prompts = [
        [{"role": "system", "content": persona.system_prompt[language]}, {"role": "user", "content": text}]
        for language, _, text in questions
    ]
    answers = generate_answers(
        model,
        tokenizer,
        prompts,
        max_new_tokens=cfg.evaluate.max_new_tokens,
        batch_size=cfg.evaluate.batch_size,
        stop_token_ids=stop_token_ids(tokenizer),
    )
    return [
        {
            "id": f"probe-{number + 1}",
            "language": language,
            "kind": kind,
            "system": "persona",
            "messages": messages,
            "answer": answer.text,
            "stopped": answer.stopped,
            "model": which,
        }
        for number, ((language, kind, _), messages, answer) in enumerate(zip(questions, prompts, answers, strict=True))
    ]


def probe_dialogue(model: Any, tokenizer: Any, persona: Persona, cfg: RunConfig, *, both: bool = True) -> list[Record]:
    """Print the probes with the answers of base and tuned under each other, each with its flags.

    Every probe is asked on its own, with the persona's system prompt. `both` False leaves the base out. Returns
    the records in the form of `Dialogue.save`, the base's first. Raises KelronError as `generate_answers` does.
    """
    answered: dict[str, list[Record]] = {}
    if both or not has_adapter(model):
        with base_only(model):
            answered[BASE] = _ask_all(model, tokenizer, persona, cfg, BASE)
    if has_adapter(model):
        answered[TUNED] = _ask_all(model, tokenizer, persona, cfg, TUNED)
    for number in range(len(PROBES)):
        rows = [records[number] for records in answered.values()]
        print(f"[{rows[0]['language']}] {rows[0]['messages'][-1]['content']}")
        for row in rows:
            print(_block(f"{row['model']:>5}", visible(row["answer"]) or "(empty)"))
            if labels := examine(row, persona).labels:
                print(_block("", f"! {', '.join(labels)}"))
        print()
    return [record for records in answered.values() for record in records]


def _block(label: str, text: str) -> str:
    first, *rest = text.splitlines() or [""]
    return "\n".join([f"  {label:5}  {first}", *(f"         {line}" for line in rest)])
