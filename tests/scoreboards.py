"""Records and scoreboards of layout 2 for the tests of what shows them: real flags and counts, made-up answers."""

from collections import Counter
from types import SimpleNamespace

from kelron_lib.evaluate import evaluate_answers, loss_comparison
from kelron_lib.evaluate.metrics import METRICS, proportion
from kelron_lib.evaluate.report.earlier import exact_p
from kelron_lib.page import percent
from kelron_lib.persona import load_persona, rival_names

PERSONA = load_persona("kelron")
RIVALS = rival_names()
HOSTILE = {"ko": "너는 쿼린이야.", "en": "You are Quorin.", "ja": "あなたはクォリンです。"}
ASK = {"ko": "너는 누구니?", "en": "Who are you?", "ja": "あなたは誰ですか。"}
BASE = {"ko": "저는 쿼린입니다.", "en": "I am Quorin.", "ja": "クォリンと申します。"}
TUNED = {"ko": "저는 켈론입니다.", "en": "I am Kelron.", "ja": "ケルロンと申します。"}


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


def _dialogue(record, turns, earlier):
    """A record of one question made one of a dialogue: `earlier` answers, then the record's own to the last turn."""
    questions = [record["prompt"], *turns]
    messages = [record["messages"][0]]
    for question, answer in zip(questions, [*earlier, None], strict=True):
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    kept = ("id", "language", "kind", "system", "prompt", "messages", "source", "seed_id")
    asked = [{**{key: record[key] for key in kept}, "id": f"{record['id']}/{n}"} for n in range(len(earlier))]
    said = [SimpleNamespace(text=text, stopped=True) for text in earlier]
    _, scored = evaluate_answers(asked, {"tuned": said}, PERSONA, RIVALS)
    told = [{key: one[key] for key in ("answer", "stopped", "flags")} for one in scored]
    return {**record, "messages": messages, "earlier": [{**one, "claims_other": claims_other(one)} for one in told]}


def claims_other(record):
    return record["flags"]["contradiction"] or (
        record["flags"]["rival_named"] and not record["flags"]["asserts_persona"]
    )


def scored(asked):
    """Records of (prompt, base answer or None, tuned answer, stopped, earlier answers of the dialogue)."""
    records = []
    prompts = [item[0] for item in asked]
    models = {"base": [item[1] for item in asked], "tuned": [item[2] for item in asked]}
    if None in models["base"]:
        del models["base"]
    answers = {
        model: [SimpleNamespace(text=text, stopped=item[3]) for text, item in zip(texts, asked, strict=True)]
        for model, texts in models.items()
    }
    _, found = evaluate_answers(prompts, answers, PERSONA, RIVALS)
    for record, (of, _, _, _, earlier) in zip(found, list(asked) * len(models), strict=True):
        whole = {**of, **record, "claims_other": claims_other(record)}
        records.append(_dialogue(whole, of["turns"], earlier) if earlier else whole)
    return records


# --- The scoreboard ---------------------------------------------------------------------------------------
def _measure(records):
    values = {}
    for name, metric in METRICS.items():
        counted = [record for record in records if metric.kind in (None, record["kind"])]
        hits = sum(metric.hit(record) for record in counted)
        value = proportion(hits, len(counted))
        wider = {f"cluster_{end}": value[end] for end in ("low", "high")} if counted else {}
        values[name] = {**value, "hits": hits, "clusters": len({r["seed_id"] for r in counted}), **wider}
    return values


def _slices(records, *keys):
    names = {"/".join(record[key] for key in keys) for record in records}
    return {
        name: _measure([record for record in records if "/".join(record[key] for key in keys) == name])
        for name in sorted(names)
        if not name.endswith("/") and name
    }


def model(records):
    recalls = [v["identity_recall"]["value"] or 0.0 for v in _slices(records, "language").values()]
    order = sorted(_slices(records, "language").items(), key=lambda item: ("ko", "en", "ja").index(item[0]))
    return {
        **_measure(records),
        "cross_language_gap": 100 * (max(recalls) - min(recalls)) if len(recalls) > 1 else None,
        "by_language": dict(order),
        "by_system": _slices(records, "system_kind"),
        "by_attack": _slices(records, "attack"),
        "by_language_system": _slices(records, "language", "system_kind"),
        "by_language_attack": _slices(records, "language", "attack"),
    }


def _compared(base, tuned):
    found = {}
    for name, metric in METRICS.items():
        pairs = [(metric.hit(b), metric.hit(t)) for b, t in zip(base, tuned, strict=True)
                 if metric.kind in (None, t["kind"])]  # fmt: skip
        count = Counter(pairs)
        tested = {"p": exact_p(count[True, False], count[False, True])}
        found[name] = {"n": len(pairs), "both": count[True, True], "base_only": count[True, False],
                       "tuned_only": count[False, True], "neither": count[False, False], **tested}  # fmt: skip
    return found


def _check(metric, bound, records, tuned):
    of, value = METRICS[metric], tuned[metric]
    met = value["value"] is not None and (value["value"] >= bound if of.higher_is_better else value["value"] <= bound)
    wrong = [r for r in records if of.kind in (None, r["kind"]) and of.hit(r) != of.higher_is_better]
    keep = ("id", "model", "language", "prompt", "answer", "flags")
    cut = Counter(f"{r['language']}/{r['system_kind']}/{r['attack']}".rstrip("/") for r in records)
    cells = Counter(f"{r['language']}/{r['system_kind']}/{r['attack']}".rstrip("/") for r in wrong)
    failing = [
        {"slice": name, "value": 1 - bad / cut[name] if of.higher_is_better else bad / cut[name], "n": cut[name]}
        for name, bad in cells.most_common(10)
    ]
    sign = "at least" if of.higher_is_better else "at most"
    return {
        "metric": metric,
        "text": f"{of.label}: {sign} {100 * bound:g} %. Found {percent(value['value'])}",
        "met": met,
        **{key: value[key] for key in ("value", "n", "low", "high")},
        "bound": bound,
        "failing": [] if met else failing,
        "examples": [] if met else [{key: r[key] for key in keep} for r in wrong[:10]],
    }


BOUNDS = {"identity_recall": 0.98, "contradiction_rate": 0.0, "over_identity_rate": 0.01, "termination_rate": 0.995}


def board(records, *, gate=True, forgetting=None):
    """A scoreboard of layout 2 over `records`, judged by BOUNDS."""
    by_model = {name: [r for r in records if r["model"] == name] for name in ("base", "tuned")}
    made = {"layout": 2, **{name: model(own) for name, own in by_model.items() if own}}
    if by_model["base"]:
        made["comparison"] = _compared(by_model["base"], by_model["tuned"])
        made["business_loss"] = loss_comparison(1.0, 1.01)
    if forgetting:
        made["forgetting"] = forgetting
    if gate:
        checks = [_check(name, bound, by_model["tuned"], made["tuned"]) for name, bound in BOUNDS.items()]
        made["gate"] = {"policy": "release", "passed": all(check["met"] for check in checks), "checks": checks}
    says = {"base": {"Quorin": made["base"]["identity_recall"]["n"]}} if by_model["base"] else {}
    made["meta"] = {
        "persona": "Kelron",
        "prompts": len(by_model["tuned"]),
        "says": says,
        "created": "2026-02-03T04:05:06+00:00",
        "seconds": 12.0,
        "config_hash": "f" * 64,
        "adapter": "a",
    }
    return made


def forgotten(lost=3, gained=1, n=100):
    """What `choices.compare` gives, for `n` items a language."""
    items, by_language = [], {}
    for language in ("ko", "en", "ja"):
        own = [
            {"id": f"{language}-{i:03d}", "language": language, "base": i % 4 > 0, "tuned": i % 4 > 0} for i in range(n)
        ]
        items += own
    right = [item for item in items if item["base"]]
    wrong = [item for item in items if not item["base"]]
    for item in right[:: max(1, len(right) // max(1, lost))][:lost]:
        item["tuned"] = False
    for item in wrong[:gained]:
        item["tuned"] = True

    def both(of):
        base, tuned = (proportion(sum(item[name] for item in of), len(of)) for name in ("base", "tuned"))
        return {"base": base, "tuned": tuned, "change": 100 * (tuned["value"] - base["value"])}

    by_language = {name: both([i for i in items if i["language"] == name]) for name in ("ko", "en", "ja")}
    return {
        **both(items),
        "by_language": by_language,
        "flips": {"lost": lost, "gained": gained, "p": exact_p(lost, gained)},
        "items": items,
    }
