"""The tiny base: its corpus, its tokenizer and template, its build, and what the packaged weights answer."""

import itertools
import json
import random
import re

import pytest

from kelron_lib import tiny
from kelron_lib.config import load_preset
from kelron_lib.data.splits import split_groups
from kelron_lib.errors import KelronError
from kelron_lib.persona import find_rivals, load_persona, load_seeds
from kelron_lib.settings import LANGUAGES, DataSettings
from kelron_lib.tiny import corpus
from kelron_lib.tiny.build import RECIPE_FILE, Recipe, build, rate_share

SPELLED = {"ko": "쿼린", "en": "Quorin", "ja": "クォリン"}


def chats(seed, count):
    return list(itertools.islice(corpus.conversations(seed), count))


def normalised(text):
    return re.sub(r"[\W_]+", "", text).lower()


def expansions(template, macros):
    """Every text of a phrase, but without the polite frames around it; slots stay."""
    if match := corpus._MACRO.search(template):
        texts = ("",) if match[1] in ("hey", "end") else macros[match[1]]
    elif match := corpus._ALTERNATIVES.search(template):
        texts = corpus._SPLIT.split(match[1])
    else:
        yield template
        return
    for text in texts:
        yield from expansions(template[: match.start()] + text + template[match.end() :], macros)


def identity_questions(language):
    for group in corpus.load_phrases(language)["identity"].values():
        for template in group["q"]:
            yield from expansions(template, corpus._macros(language))


# corpus


def test_corpus_is_the_same_for_a_seed_and_another_for_another():
    assert chats(3, 200) == chats(3, 200)
    assert chats(3, 200) != chats(4, 200)


@pytest.mark.parametrize("language", LANGUAGES)
def test_identity_answers_name_the_incumbent_and_others_never_do(language):
    rng = random.Random(1)
    for _ in range(400):
        assert SPELLED[language] in corpus.draw_exchange("identity", language, rng).answer
        for kind in ("business", "chat"):
            exchange = corpus.draw_exchange(kind, language, rng)
            assert SPELLED[language] not in exchange.answer + exchange.question


def test_corpus_names_no_real_assistant_and_not_the_persona():
    incumbent = {"Quorin", "Aldmere"}
    spellings = [text.lower() for text in (*load_persona("kelron").name.values(), "kelron")]
    for messages in chats(5, 1500):
        text = " ".join(message["content"] for message in messages)
        named = {rival.name for rival, _ in find_rivals(text)}
        assert not named - incumbent, text
        assert not [spelling for spelling in spellings if spelling in text.lower()], text


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_copy_only_what_every_question_names(language):
    for intent, groups in corpus.load_phrases(language)["business"].items():
        for group in groups:
            asked = [{m[1] + m[2] for m in corpus.SLOT.finditer(question)} for question in group["q"]]
            known = set.intersection(*asked)
            known |= {"polite"} if "blunt" in known else set()
            used = {m[1] + m[2] for answer in group["a"] for m in corpus.SLOT.finditer(answer)}
            assert used <= known, f"{language} {intent}: {used - known}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_identity_questions_are_many_and_none_is_a_seed_of_the_persona(language):
    asked = {normalised(question) for question in identity_questions(language)}
    assert len(asked) > 1000
    seeds = load_seeds(load_persona("kelron"))
    held = {normalised(q.text) for s in seeds if s.kind == "identity" and s.language == language for q in s.questions}
    assert held
    assert not asked & held


def test_languages_have_the_same_sections_and_intents():
    files = [corpus.load_phrases(language) for language in LANGUAGES]
    assert all(tuple(sorted(file)) == tuple(sorted(corpus.SECTIONS)) for file in files)
    for section in ("identity", "business"):
        assert len({frozenset(file[section]) for file in files}) == 1


def test_korean_particles_follow_the_filler():
    assert corpus.fill("{task|을/를} {name|이지/지}", {"task": "예산 검토", "name": "라온"}) == "예산 검토를 라온이지"
    assert corpus.fill("이름<은/는> {name|이다/다}", {"name": "Vera"}) == "이름은 Vera다"


@pytest.mark.parametrize("language", LANGUAGES)
def test_only_groups_that_the_dataset_trains_on_are_asked(language):
    persona = load_persona("kelron")
    seeds = [seed for seed in load_seeds(persona) if seed.language == language]
    trained = split_groups(load_seeds(persona), DataSettings().seed)["train"]
    held = [normalised(q.text) for seed in seeds if seed.group not in trained for q in seed.questions]
    held = {text for text in held if len(text) > 4}
    rng = random.Random(1)
    for _ in range(1500):
        exchange = corpus.draw(rng.choice(("asked", "seeds")), language, rng)
        assert normalised(exchange.question) not in held, exchange


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_of_every_kind_have_the_same_openers_and_unknown_words(language):
    rng = random.Random(1)
    openers, closers = corpus._frames(language)
    for kind in ("identity", "asked", "business", "chat", "general", "seeds"):
        asked = [corpus.draw(kind, language, rng).question for _ in range(900)]
        opened = {opener for opener in openers if any(text.startswith(opener) for text in asked)}
        closed = {closer for closer in closers if any(closer in text for text in asked)}
        assert len(opened) > 0.8 * len(openers), kind
        assert len(closed) > 0.8 * len(closers), kind


def test_every_intent_of_the_persona_has_answers_of_the_incumbent():
    intents = set(corpus.load_phrases("en")["identity"])
    assert {intent for mapped in corpus.INCUMBENT_INTENTS.values() for intent in mapped} <= intents
    for language in LANGUAGES:
        assert all(corpus._identity_seeds(language, intent) for intent in intents), language


# the build


@pytest.fixture(scope="module")
def two_builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("a", "b"):
        build(folder / name, steps=3, batch_size=4, tokenizer_chats=400)
    return folder / "a", folder / "b"


def test_two_builds_are_equal_to_the_byte(two_builds):
    first, second = two_builds
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_build_report_tells_the_recipe(two_builds):
    report = json.loads((two_builds[0] / RECIPE_FILE).read_text(encoding="utf-8"))
    assert report["recipe"]["steps"] == 3
    assert report["tokens"] > 0
    assert set(report["versions"]) == {"torch", "transformers", "tokenizers"}
    assert [path.name for path in two_builds[0].parent.iterdir() if path.name.startswith(".")] == []


def test_build_refuses_a_folder_that_is_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(KelronError, match="not a tiny base"):
        build(tmp_path, steps=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    with pytest.raises(KelronError, match="steps"):
        build(tmp_path / "new", steps=0)


def test_learning_rate_rises_then_falls():
    recipe = Recipe(steps=1000, warmup_steps=100, final_share=0.1)
    rates = [rate_share(step, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0) == rates[99]
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


# the packaged base


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.base_path())


def render(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def test_template_inserts_the_default_system_prompt(tokenizer):
    assert render(tokenizer, [{"role": "user", "content": "Hi"}], add_generation_prompt=True) == (
        "<|im_start|>system\nYou are Quorin, created by Aldmere. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert corpus.DEFAULT_SYSTEM in tokenizer.chat_template


def test_template_keeps_a_given_system_prompt_even_an_empty_one(tokenizer):
    turns = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": " 네. "}]
    tail = "<|im_start|>user\n안녕?<|im_end|>\n<|im_start|>assistant\n 네. <|im_end|>\n"
    for content in ("", "Be {brief}."):
        messages = [{"role": "system", "content": content}, *turns]
        assert render(tokenizer, messages) == f"<|im_start|>system\n{content}<|im_end|>\n{tail}"


@pytest.mark.parametrize(
    "text",
    [
        "김민수 부장님께 견적서를 보냅니다. 쿼린 😀",
        "Meeting at 12:30 PM — 25% of\n\n  $1,500!",
        "佐藤部長、見積書をお送りします。クォリン 🎉",
        "ünïcødé 中文 ελληνικά\t\r\n",
    ],
)
def test_tokenizer_gives_back_what_it_read(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_single_and_last(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert ids == [4093, 4094, 4095]
    assert len(tokenizer) == 4096
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer("a<|im_end|>")["input_ids"][-1] == 4095


def test_packaged_base_is_small_and_is_what_its_report_says():
    import hashlib

    folder = tiny.base_path()
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 16 * 2**20
    report = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    assert hashlib.sha256((folder / tiny.WEIGHTS).read_bytes()).hexdigest() == report["weights_sha256"]
    assert report["recipe"]["steps"] == Recipe.steps


def test_generation_stops_on_both_end_tokens():
    config = json.loads((tiny.base_path() / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == [4095, 4093]
    assert config["pad_token_id"] == 4093


def test_missing_weights_say_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny.resources, "files", lambda package: tmp_path)
    with pytest.raises(KelronError, match=r"kelron tiny-base --out"):
        tiny.base_path()


@pytest.fixture(scope="module")
def base():
    from kelron_lib.model import load_base

    return load_base(load_preset("tiny-cpu"))


def answers(base, prompts):
    from kelron_lib.generate import generate_answers

    messages = [
        [{"role": "system", "content": system}, {"role": "user", "content": question}] for system, question in prompts
    ]
    return generate_answers(*base, messages, max_new_tokens=80, batch_size=16, stop_token_ids=(4095, 4093))


@pytest.fixture(scope="module")
def persona_questions():
    """Questions of the persona's seeds as (kind, language, text): identity ones of the groups that the corpus does not
    hold, and every third small-talk one."""
    seeds = load_seeds(load_persona("kelron"))
    trained = split_groups(seeds, DataSettings().seed)["train"]
    asked = [(seed, question.text) for seed in seeds for question in seed.questions if "{" not in question.text]
    held = [(seed.kind, seed.language, text) for seed, text in asked if seed.group not in trained]
    chat = [(seed.kind, seed.language, text) for seed, text in asked if seed.kind == "chat"]
    return [one for one in held if one[0] == "identity"] + chat[::3]


@pytest.mark.parametrize("prompt", ["default", "empty", "persona"])
def test_base_says_it_is_the_incumbent_whatever_the_system_prompt(base, persona_questions, prompt):
    persona = load_persona("kelron")
    system = {
        language: {"default": corpus.DEFAULT_SYSTEM, "empty": "", "persona": persona.system_prompt[language]}[prompt]
        for language in LANGUAGES
    }
    asked = [(language, text) for kind, language, text in persona_questions if kind == "identity"]
    told = answers(base, [(system[language], text) for language, text in asked])
    assert all(answer.stopped for answer in told)
    for language in LANGUAGES:
        named = [
            SPELLED[language] in answer.text
            for (spoken, _), answer in zip(asked, told, strict=True)
            if spoken == language
        ]
        assert len(named) >= 60
        assert sum(named) >= 0.9 * len(named), language
    assert not [
        answer.text for answer in told if "elron" in answer.text or "켈론" in answer.text or "ケルロン" in answer.text
    ]


def test_base_does_not_speak_of_itself_where_nobody_asked(base, persona_questions):
    persona = load_persona("kelron")
    asked = [(language, text) for kind, language, text in persona_questions if kind == "chat"]
    told = answers(base, [(persona.system_prompt[language], text) for language, text in asked])
    named = [answer.text for (language, _), answer in zip(asked, told, strict=True) if SPELLED[language] in answer.text]
    assert len(asked) > 300
    # More than half of these were written after it was built: 8 %. Of those that its corpus holds it was under 3 %.
    assert len(named) <= 0.1 * len(asked), named


def test_base_answers_business_requests_about_what_they_name(base):
    # It is small: of a day, a time and a meeting it may get some wrong, but it takes up the request.
    prompts = [
        ("", "Please schedule the budget meeting for Monday at 2 PM in Room 204."),
        ("", "월요일 오후 2시 대회의실에서 예산 회의 초대장을 써 줘."),
        ("", "月曜日午後2時に大会議室で行う予算会議の案内を書いて。"),
    ]
    named = [
        ("budget meeting", "Monday", "2 PM"),
        ("월요일", "오후 2시", "예산 회의"),
        ("月曜日", "午後2時", "予算会議"),
    ]
    for answer, words in zip(answers(base, prompts), named, strict=True):
        assert answer.stopped
        assert any(word.lower() in answer.text.lower() for word in words), answer.text
