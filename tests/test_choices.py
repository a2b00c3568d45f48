"""The multiple-choice items, and how a model's choices among them are scored."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest

from kelron_lib.characters import broken_chars, wrong_script
from kelron_lib.config import PRESETS, resolve
from kelron_lib.errors import KelronError
from kelron_lib.evaluate import choices as module
from kelron_lib.evaluate.choices import (
    ASKS,
    LETTERS,
    TOPICS,
    Item,
    choices,
    chosen,
    compare,
    forgetting,
    letter_ids,
    load_items,
    messages,
    picks,
)
from kelron_lib.evaluate.detectors import flags
from kelron_lib.persona import load_persona, rival_names
from kelron_lib.settings import LANGUAGES

ITEMS = {language: load_items([language], 100) for language in LANGUAGES}
ITEM = Item("en-1", "en", "units", "How many?", ("none", "one", "two", "three"), 2)


def share_of(pick, items):
    """How many items a chooser that knows no answer gets right; `pick` gives its favourites, drawn from evenly."""
    favourites = [(pick(item), item.answer) for item in items]
    return sum((answer in options) / len(options) for options, answer in favourites) / len(items)


def extreme(item, most):
    lengths = [len(option) for option in item.options]
    return [i for i, length in enumerate(lengths) if length == most(lengths)]


# --- The items --------------------------------------------------------------------------------------------
def test_there_are_a_hundred_in_each_language_over_all_topics():
    for language, items in ITEMS.items():
        assert [item.id for item in items] == [f"{language}-{number:03d}" for number in range(1, 101)]
        topics = Counter(item.topic for item in items)
        assert set(topics) == set(TOPICS)
        assert min(topics.values()) >= 5
        assert len({item.question for item in items}) == 100


def test_neither_place_nor_length_gives_the_answer_away():
    for items in ITEMS.values():
        assert Counter(item.answer for item in items) == dict.fromkeys(range(4), 25)
        assert share_of(lambda item: extreme(item, max), items) < 0.35
        assert share_of(lambda item: extreme(item, min), items) < 0.35


def test_a_chooser_that_is_told_by_length_would_be_found():
    told = [Item(str(i), "en", "units", "?", ("a", "bb", "cc", "ddd" * 9), 3) for i in range(4)]
    assert share_of(lambda item: extreme(item, max), told) == 1


def test_items_are_written_in_their_language_and_name_nobody():
    persona, rivals = load_persona("kelron"), rival_names()
    for language, items in ITEMS.items():
        for item in items:
            text = "\n".join([item.question, *item.options])
            assert not wrong_script(text, language), item
            assert not broken_chars(text), item
            found = flags(text, language=language, kind="unrelated", persona=persona, rivals=rivals, prompt="")
            assert not found["rival_named"], item
            assert not found["over_identity"], item
            assert not found["asserts_persona"], item
            assert not re.search(r"\bAI\b|assistant|chatbot|인공지능|챗봇|人工知能", text), item
            if language != "en":
                letters = r"[가-힣]" if language == "ko" else r"[ぁ-んァ-ヶ一-龠]"
                assert re.search(letters, item.question), item


def test_items_of_two_languages_are_no_translations_of_each_other():
    # The same numbers in the same order give a translated sum away; none of two or more numbers may come twice.
    numbers = {
        language: {tuple(found) for item in items if len(found := re.findall(r"\d+", item.question)) > 1}
        for language, items in ITEMS.items()
    }
    shared = (numbers["ko"] & numbers["en"]) | (numbers["ko"] & numbers["ja"]) | (numbers["en"] & numbers["ja"])
    assert shared == set()


def test_few_items_are_spread_over_the_file_and_the_same_each_time():
    for count in (1, 7, 20, 99):
        some = load_items(["ko"], count)
        assert (len({item.id for item in some}), some) == (count, load_items(["ko"], count))
    assert len({item.topic for item in load_items(["ja"], 20)}) >= 9
    assert load_items(["ko", "en"], 0) == []
    assert load_items(["ko"], 1000) == ITEMS["ko"]
    with pytest.raises(KelronError, match=r"evaluate\.choice_items is -1: it has to be at least 0, which asks none"):
        resolve("tiny-cpu", ["evaluate.choice_items=-1"])
    assert [resolve(preset).evaluate.choice_items for preset in PRESETS] == [20, 100, 20]


GOOD = "- id: x-1\n  topic: units\n  question: How many?\n  options: ['1', '2', '3', '4']\n  answer: 0\n"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (GOOD, "", "have to be a list"),
        (GOOD, "items: 3\n", "have to be a list"),
        (GOOD, "- [\n", "cannot be read"),
        ("topic: units", "theme: units", "item 1 has to have id, topic, question, options, answer and nothing else"),
        ("topic: units", "topic: cars", "item 1 (x-1): topic is 'cars', it takes everyday, arithmetic"),
        ("question: How many?", "question: 3", "item 1 (x-1): question has to be a text"),
        ("'4'", "4", "options have to be four different texts (numbers in quotes)"),
        ("'4'", "'3'", "options have to be four different texts"),
        (", '4'", "", "options have to be four different texts"),
        ("answer: 0", "answer: 4", "answer is 4, it takes the index of an option, 0 to 3"),
        ("answer: 0", "answer: true", "answer is True"),
        (GOOD, GOOD + GOOD, "two items have the same id"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_it(tmp_path, old, new, told):
    (tmp_path / "en.yaml").write_text(GOOD, encoding="utf-8")
    assert load_items(["en"], 9, tmp_path)[0].options == ("1", "2", "3", "4")
    module.read_items.cache_clear()
    (tmp_path / "en.yaml").write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(KelronError) as caught:
        load_items(["en"], 9, tmp_path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "en.yaml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_utf_8_is_refused(tmp_path):
    with pytest.raises(KelronError, match=r"ko\.yaml: the multiple-choice items cannot be read"):
        load_items(["ko"], 9, tmp_path)
    (tmp_path / "ko.yaml").write_bytes("질문".encode("euc-kr"))
    with pytest.raises(KelronError, match=r"ko\.yaml: the multiple-choice items cannot be read"):
        load_items(["ko"], 9, tmp_path)


# --- Asking and choosing ----------------------------------------------------------------------------------
def test_an_item_is_asked_with_an_empty_system_text_and_each_option_behind_each_letter():
    behind = {option: set() for option in ITEM.options}
    for turn in range(4):
        system, user = messages(ITEM, turn)
        assert system == {"role": "system", "content": ""}
        lines = user["content"].split("\n")
        assert (lines[0], lines[-1]) == ("How many?", ASKS["en"])
        for line in lines[2:6]:
            letter, option = line.split(". ")
            behind[option].add(letter)
    assert all(letters == set(LETTERS) for letters in behind.values())
    assert messages(ITEM)[1]["content"].split("\n")[2] == "A. none"


def turns_of(liking, knows=None, strength=0.1):
    """A model's four turns: how it likes each letter, and, if it knows an option, how much that adds to its letter."""
    told = []
    for turn in range(4):
        scores = list(liking)
        if knows is not None:
            scores[(knows - turn) % 4] += strength
        told.append(scores)
    return told


@pytest.mark.parametrize("knows", range(4))
@pytest.mark.parametrize("liking", [(0, 0, 0, 0), (5, 0, 0, 0), (0, -3, 0.5, 9)])
def test_a_liking_for_letters_cancels_and_faint_knowledge_decides(knows, liking):
    assert chosen(turns_of(liking, knows)) == knows
    assert chosen(turns_of(liking, knows, strength=-0.1)) != knows


class Knowing:
    """A model by hand: it likes B, and of every option it knows the one that it was told."""

    config = SimpleNamespace(max_position_embeddings=1024)

    def __init__(self, known):
        self.known = known
        self.seen = []

    def scores(self, text):
        told = dict(line.split(". ", 1) for line in text.split("\n") if re.match(r"[A-D]\. ", line))
        return [(3.0 if letter == "B" else 0.0) + 0.5 * (told[letter] in self.known) for letter in LETTERS]


class Tokenizer:
    """Characters as tokens."""

    def __call__(self, text, add_special_tokens=False, verbose=True):
        return {"input_ids": [ord(char) for char in text]}

    def decode(self, ids):
        return "".join(map(chr, ids))

    def apply_chat_template(self, told, tokenize, add_generation_prompt):
        return "".join(f"<{message['role']}>{message['content']}\n" for message in told) + "<assistant>\n"


@pytest.fixture
def by_hand(monkeypatch):
    """Batches whose logits come from `Knowing`; which batches there were is noted in it."""
    import torch

    def batch(model, prompts):
        model.seen.append(len(prompts))
        logits = torch.full((len(prompts), 200), 50.0)  # any other token is likelier than a letter
        for row, prompt in enumerate(prompts):
            logits[row, [ord(letter) for letter in LETTERS]] = torch.tensor(model.scores("".join(map(chr, prompt))))
        return SimpleNamespace(logits=logits)

    monkeypatch.setattr(module, "Batch", batch)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_what_the_model_knows_is_right_whatever_the_batch(by_hand, batch_size):
    items = load_items(LANGUAGES, 5)
    known = {item.options[item.answer] for item in items[::2]} | {item.options[item.answer - 1] for item in items[1::2]}
    measure = choices(items, batch_size)
    model = Knowing(known)
    found = picks(model, Tokenizer(), measure.items, **measure.arguments)
    assert found == [(item.answer - number % 2) % 4 for number, item in enumerate(items)]
    assert sum(model.seen) == 60
    assert max(model.seen) == min(batch_size, 16)


def test_a_gpu_that_is_too_full_gets_half_the_batch_and_one_question_is_the_least(monkeypatch, by_hand):
    import torch

    batch, rooms = module.Batch, 5

    def small(model, prompts):
        if len(prompts) > rooms:
            raise torch.OutOfMemoryError
        return batch(model, prompts)

    monkeypatch.setattr(module, "Batch", small)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    items, model = load_items(["en"], 4), Knowing(set())
    plain = choices(items, 16).items
    assert len(picks(model, Tokenizer(), plain, batch_size=16)) == 4
    assert model.seen == [4, 4, 4, 4]
    rooms = 0
    with pytest.raises(KelronError, match="too small for a single question"):
        picks(model, Tokenizer(), plain, batch_size=16)


def test_letters_that_are_no_single_tokens_and_a_window_too_small_are_refused(by_hand):
    class Split(Tokenizer):
        def __call__(self, text, add_special_tokens=False, verbose=True):
            return {"input_ids": [ord(char) for char in text.replace("C", "<C")]}

    with pytest.raises(KelronError, match=r"no single token for the answer 'C': .*evaluate\.choice_items=0"):
        letter_ids(Split())
    model = Knowing(set())
    model.config = SimpleNamespace(max_position_embeddings=50)
    with pytest.raises(KelronError, match=r"the model's window is 50: .*evaluate\.choice_items=0"):
        picks(model, Tokenizer(), choices([ITEM], 4).items, batch_size=4)


# --- Counting ---------------------------------------------------------------------------------------------
def test_base_and_tuned_are_compared_with_intervals_flips_and_languages():
    items = [*load_items(["ko"], 10), *load_items(["ja"], 10)]
    right = [item.answer for item in items]
    wrong = [(item.answer + 1) % 4 for item in items]
    base = right[:8] + wrong[8:10] + right[10:15] + wrong[15:]
    tuned = right[:8] + wrong[8:14] + right[14:16] + wrong[16:]
    found = compare(base, tuned, items)
    assert (found["base"]["hits"], found["tuned"]["hits"], found["base"]["n"]) == (13, 10, 20)
    assert found["base"]["low"] < 0.65 < found["base"]["high"]
    assert found["change"] == pytest.approx(-15)
    assert found["flips"] == {"lost": 4, "gained": 1, "p": pytest.approx(2 * (1 + 5) / 32)}
    assert found["by_language"]["ko"]["change"] == 0
    assert found["by_language"]["ja"]["change"] == pytest.approx(-30)
    assert found["by_language"]["ja"]["tuned"]["n"] == 10
    assert found["items"][13] == {"id": items[13].id, "language": "ja", "base": True, "tuned": False}
    assert [item["id"] for item in found["lost"]] == [item.id for item in items[10:14]]
    assert found["lost"][3] == {
        "id": items[13].id,
        "language": "ja",
        "question": items[13].question,
        "right": items[13].options[right[13]],
        "base": items[13].options[right[13]],
        "tuned": items[13].options[wrong[13]],
    }
    assert forgetting({"base": [base[:15], base[15:]], "tuned": [tuned[:15], tuned[15:]]}, items) == found
    with pytest.raises(KelronError, match="the tuned model answered 19 of 20"):
        compare(base, tuned[:-1], items)


# --- A real model -----------------------------------------------------------------------------------------
def test_the_tiny_base_chooses_the_same_in_any_batch_and_its_scores_are_its_own():
    import torch

    from kelron_lib.model import load_base
    from kelron_lib.prompts import encode_prompt

    model, tokenizer = load_base(resolve("tiny-cpu"))
    letters = letter_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(letters) == list(LETTERS)
    items = load_items(LANGUAGES, 2)
    prompts = [encode_prompt(tokenizer, messages(item)) for item in items]
    assert len(set(map(len, prompts))) > 1, "padding is needed"
    together = module._all_scores(model, prompts, letters, 4)
    for prompt, scores in zip(prompts, together, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1, letters]
        assert scores == pytest.approx(logits.log_softmax(-1).tolist(), abs=1e-3)
    plain = choices(items, 1).items
    right = picks(model, tokenizer, plain, batch_size=5)
    assert right == picks(model, tokenizer, plain, batch_size=24)
    longest = max(len(encode_prompt(tokenizer, messages(item))) for own in ITEMS.values() for item in own)
    assert longest <= model.config.max_position_embeddings
