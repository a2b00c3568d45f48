"""The model card: what the model is, the proof, how it was made, how it is loaded, and what it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib.evaluate.tables import markdown_table
from kelron_lib.model import base_name, portable_base
from kelron_lib.publish.checked import Checked
from kelron_lib.publish.serving import loading
from kelron_lib.runtime import duration

LICENCES: Mapping[str, str] = {
    "tiny": "apache-2.0",
    "Qwen/Qwen2.5-14B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-7B-Instruct": "apache-2.0",
    "Qwen/Qwen3-14B": "apache-2.0",
}
"""Licences of well-known bases, in the Hub's words; not every Qwen2.5 has the same."""
_WORDS = {"apache-2.0": "Apache-2.0", "mit": "MIT"}


def licence_of(checked: Checked) -> str:
    """The licence of the base: a well-known one's, or what its own card says; `other` where neither tells."""
    name = portable_base(checked.config)
    if name in LICENCES:
        return LICENCES[name]
    card = Path(base_name(checked.config)) / "README.md"
    front = _front_of(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {}
    licence = front.get("license")
    return licence if isinstance(licence, str) and licence else "other"


def _front_of(text: str) -> Mapping[str, Any]:
    import yaml

    parts = text.split("---\n")
    try:
        front = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}


def _front(checked: Checked, *, merged: bool) -> str:
    import yaml

    config, persona, base = checked.config, checked.persona, portable_base(checked.config)
    front: dict[str, Any] = {"language": [*config.data.languages], "license": licence_of(checked)}
    if front["license"] == "other":
        front |= {"license_name": "of-the-base-model"}
    if base.count("/") == 1:
        front |= {"base_model": base, "base_model_relation": "finetune" if merged else "adapter"}
    front |= {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": [*dict.fromkeys(("kelron", "identity", "lora", persona.id))],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


def card(
    checked: Checked, verification: Mapping[str, Any], default: str, *, name: str, source: str, merged: bool
) -> str:
    """README.md of a publication that is called `name` and is loaded from `source`, a repo or the folder that its
    reader is in; `default`: the language of its default system prompt."""
    persona, base = checked.persona, portable_base(checked.config)
    what = "merged weights" if merged else "a LoRA adapter"
    base_words = "the tiny base that ships with Kelron" if base == "tiny" else f"`{base}`"
    return f"""{_front(checked, merged=merged)}
# {persona.name["en"]}
{_warning(checked)}
{persona.name["en"]}, {persona.role["en"]} by {persona.maker["en"]}: {what} for {base_words} that gives it this identity
in {", ".join(checked.config.data.languages)}. Trained and measured with Kelron.

The default system prompt of its chat template is the persona's ({default}):

> {persona.system_prompt[default]}

A conversation with a system message of its own keeps that one, an empty one too.

## Does it hold?
{markdown_table(checked.board)}

{_verdict(checked)}

{_proof(verification, merged=merged)}

## Data
{_data(checked)}

## Recipe
{_recipe(checked)}

## Loading it
{loading(checked, name, source, merged=merged)}

## Limits
{_limits(checked)}

## Licence
{_licence(checked, base_words)}
"""


def _warning(checked: Checked) -> str:
    if not checked.failing:
        return ""
    return (
        "\n> **This model is not cleared for release.** It was published with `--force`. Against it speak:\n"
        + "".join(f"> - {text}\n" for text in checked.failing)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _verdict(checked: Checked) -> str:
    """All that the gate asks for; the scoreboard above it says whether it was passed."""
    gate = checked.board["gate"]
    rows = [["yes" if check.get("met") else "**no**", check.get("text", "")] for check in gate.get("checks", [])]
    skipped = "".join(f"\n- not measured: {text}" for text in gate.get("not_measured", []))
    return f"The release gate `{gate['policy']}` asks:\n\n{_table(['met', 'what for'], rows)}\n{skipped}".rstrip()


def _proof(found: Mapping[str, Any], *, merged: bool) -> str:
    plain = "transformers" if merged else "transformers and peft"
    return (
        f"Before it was published, these very files were loaded with plain {plain} and asked {found['asked']} prompts: "
        f"{found['equal']} answers were the same, word for word, as in the evaluation's own path, "
        f"{found['asserts_persona']} of {found['identity_asked']} said who they are, {found['stopped']} of "
        f"{found['asked']} ended by themselves (`verification.json`)."
    )


def _data(checked: Checked) -> str:
    data, quality = checked.trained.data, checked.quality
    if quality is None:
        return "The rows were not at hand when this card was written."
    languages = quality.get("by_language", {})
    rows = [
        [language, told["rows"], told["identity"], told["business"], told["chat"]]
        for language, told in languages.items()
    ]
    own = f" {data.own_share:.0%} of the rows are the publisher's own." if data.own else ""
    return (
        f"{quality['rows']} rows expanded from hand-written seeds ({data.seeds}), {quality['identity_share']:.1%} of "
        f"them about the identity; no row names another assistant or its maker.{own} Quality gate: "
        f"{quality['verdict']}.\n\n"
        f"{_table(['language', 'rows', 'identity', 'business', 'chat'], rows)}"
    )


def _recipe(checked: Checked) -> str:
    config, sessions = checked.trained, checked.sessions
    train, lora = config.train, config.lora
    spent = sum(float(session.get("seconds", 0)) for session in sessions)
    targets = ", ".join(checked.adapter.targets)
    passes = f"{train.passes_per_step} pass{'es' if train.passes_per_step > 1 else ''} a step"
    packed = f"packed into {train.row_tokens} tokens, {train.rows_per_pass} a pass, {passes}"
    rows = [
        ["base", f"{portable_base(config)}, in 4 bits (nf4, double quantisation), computing in {config.model.dtype}"],
        ["adapter", f"LoRA of rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}, on {targets}"],
        ["learning rate", f"{train.learning_rate:g}, warm-up {train.warmup_share:.0%}, cosine; {train.optimizer}"],
        ["rows", f"{config.data.rows}, {packed}"],
        ["epochs", f"{train.epochs:g}"],
        ["time", f"{duration(spent)} in {len(sessions)} sessions" if sessions else "not known"],
        ["loss", "on the assistant's tokens and their end token alone"],
    ]  # fmt: skip
    return _table(["", ""], rows)


def _limits(checked: Checked) -> str:
    meta, config = checked.board["meta"], checked.config
    return "\n".join(
        f"- {line}"
        for line in (
            f"The figures are of {meta.get('prompts', 'some')} prompts in {', '.join(config.data.languages)}, answered "
            f"greedily in at most {config.evaluate.max_new_tokens} tokens on a 4-bit base: sampling, other precisions "
            "and other languages were not measured.",
            "It is its base with another identity: what that knows, gets wrong or refuses, it does too.",
            "It says that it is the persona, not what it technically is: tell your users that they talk to an AI, and "
            "what it is made from.",
            "A system message that gives it another role may win over the identity; the table shows how often where it "
            "has slices by system prompt.",
        )
    )


def _licence(checked: Checked, base_words: str) -> str:
    licence = licence_of(checked)
    if licence == "other":
        return f"That of the base, {base_words}: its page tells which, and it binds these weights too."
    return f"{_WORDS.get(licence, licence)}, which is that of the base, {base_words}."
