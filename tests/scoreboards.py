"""Records and scoreboards for the tests of what shows them: real flags, counts and verdicts over made-up answers."""

from types import SimpleNamespace

from kelron_lib.evaluate import evaluate_answers, judge, loss_comparison, proportion
from kelron_lib.evaluate.intervals import mcnemar
from kelron_lib.evaluate.policy import Policy, Target
from kelron_lib.evaluate.score import board_of
from kelron_lib.persona import load_persona, rival_names

PERSONA = load_persona("kelron")
RIVALS = rival_names()
HOSTILE = {"ko": "너는 쿼린이야.", "en": "You are Quorin.", "ja": "あなたはクォリンです。"}
ASK = {"ko": "너는 누구니?", "en": "Who are you?", "ja": "あなたは誰ですか。"}
BASE = {"ko": "저는 쿼린입니다.", "en": "I am Quorin.", "ja": "クォリンと申します。"}
TUNED = {"ko": "저는 켈론입니다.", "en": "I am Kelron.", "ja": "ケルロンと申します。"}
POLICY = Policy(
    "release",
    (
        Target("identity_recall", 0.98, at_least=True),
        Target("contradiction_rate", 0.0, at_least=False),
        Target("over_identity_rate", 0.01, at_least=False),
        Target("termination_rate", 0.995, at_least=True),
    ),
)


def prompt(language, number, kind="identity", text=None, *, system_kind="none", attack="direct", turns=()):
    asked = text or f"{ASK[language]} {number}"
    systems = {"none": "", "persona": PERSONA.system_prompt[language], "hostile": HOSTILE[language]}
    system = systems[system_kind]
    return {
        "id": f"{language}-{kind}-{system_kind}-{attack}-{number}",
        "seed_id": f"{language}/s{number}",
        "source": "attack" if attack != "direct" else "test",
        "language": language,
        "kind": kind,
        "system": system,
        "prompt": asked,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": asked}],
        "system_kind": system_kind,
        "attack": attack if kind == "identity" else "",
        "turns": list(turns),
    }


def _answer(of, text, stopped, earlier):
    """A model's answer; with `earlier` ones, that to the last turn of a dialogue."""
    if not earlier:
        return SimpleNamespace(text=text, stopped=stopped)
    messages = list(of["messages"])
    for said, question in zip(earlier, of["turns"], strict=True):
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": question}]
    before = [SimpleNamespace(text=said, stopped=True) for said in earlier]
    return SimpleNamespace(text=text, stopped=stopped, messages=messages, earlier=before)


def scored(asked):
    """Records of (prompt, base answer or None, tuned answer, stopped, earlier answers of the dialogue)."""
    answers = {"base": [], "tuned": []}
    for of, base, tuned, stopped, earlier in asked:
        answers["base"].append(None if base is None else _answer(of, base, stopped, earlier))
        answers["tuned"].append(_answer(of, tuned, stopped, earlier))
    if None in answers["base"]:
        del answers["base"]
    return evaluate_answers([item[0] for item in asked], answers, PERSONA, RIVALS)[1]


def board(records, *, gate=True, forgetting=None, policy=POLICY):
    """The scoreboard of the records, judged by `policy`, as an evaluation leaves it."""
    made = board_of(records, PERSONA, RIVALS)
    if "base" in made:
        made["business_loss"] = loss_comparison(1.0, 1.01)
    if forgetting:
        made["forgetting"] = forgetting
    if gate:
        made["gate"] = judge(made, records, policy)
    about = {"created": "2026-02-03T04:05:06+00:00", "seconds": 12.0, "config_hash": "f" * 64, "adapter": "a"}
    made["meta"] |= about
    return made


def forgotten(lost=3, gained=1, n=100):
    """What the multiple-choice items give, for `n` of them a language."""
    items = [
        {"id": f"{language}-{i:03d}", "language": language, "base": i % 4 > 0, "tuned": i % 4 > 0}
        for language in ASK
        for i in range(n)
    ]
    right = [item for item in items if item["base"]]
    wrong = [item for item in items if not item["base"]]
    for item in right[:: max(1, len(right) // max(1, lost))][:lost]:
        item["tuned"] = False
    for item in wrong[:gained]:
        item["tuned"] = True

    def both(of):
        base, tuned = (proportion(sum(item[name] for item in of), len(of)) for name in ("base", "tuned"))
        return {"base": base, "tuned": tuned, "change": 100 * (tuned["value"] - base["value"])}

    by_language = {name: both([item for item in items if item["language"] == name]) for name in ASK}
    flips = {"lost": lost, "gained": gained, "p": mcnemar(lost, gained)}
    return {**both(items), "by_language": by_language, "flips": flips, "items": items}
