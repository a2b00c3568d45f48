"""What an evaluation asks: the grid of attacks, what is unlike training, the user's own file."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from persona_files import minimal, named, written

from kelron_lib.characters import wrong_script
from kelron_lib.config import PRESETS, SMALL, load_preset, resolve, small
from kelron_lib.data.expand import expand
from kelron_lib.data.gate.particles import NameParticles, wrong_noun_particle
from kelron_lib.data.gate.placeholders import find_placeholder
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.answers_file import score_line
from kelron_lib.evaluate.attacks import SYSTEMS, attack_cells, load_pairs, load_texts, unseen_rivals
from kelron_lib.evaluate.attacks.encode import ENCODERS
from kelron_lib.evaluate.listing import counts_table, prompts_table
from kelron_lib.evaluate.prompt import ATTACKS
from kelron_lib.evaluate.prompts import (
    NEAR_FILE,
    UNRELATED_FILE,
    Familiar,
    asked_texts,
    build_prompts,
    load_unrelated,
    prompts_of,
    unrelated_prompts,
)
from kelron_lib.evaluate.score import rival_in, rivals_of
from kelron_lib.evaluate.user_prompts import load_user_prompts
from kelron_lib.persona import load_persona, load_seeds, rival_names
from kelron_lib.persona.files import PACKAGED
from kelron_lib.persona.rivals import find_rivals
from kelron_lib.prompts import check_messages
from kelron_lib.settings import LANGUAGES

KELRON = load_persona("kelron")


@pytest.fixture(params=["kelron", "folimi", "minimal", "no reading"])
def persona(request, tmp_path):
    if request.param == "minimal":
        return load_persona(written(tmp_path, minimal()))
    if request.param == "no reading":
        return load_persona(written(tmp_path, named(ko="Mintelo", pronunciation={})))
    return load_persona(request.param)


def grid(persona, languages=LANGUAGES):
    return [prompt for language in languages for cell in attack_cells(persona, language) for prompt in cell]


def row(number, language="ko", question="어떤 물음", kind="identity"):
    messages = [
        {"role": "system", "content": KELRON.system_prompt[language]},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "답"},
    ]
    return {"id": f"{language}/{number}", "kind": kind, "language": language, "messages": messages, "intent": "name"}


# --- The grid -------------------------------------------------------------------------------------------------
def test_every_cell_has_ten_distinct_texts_in_every_language(persona):
    for language in LANGUAGES:
        texts = defaultdict(set)
        for prompt in grid(persona, [language]):
            assert prompt["language"] == language
            texts[prompt["system_kind"], prompt["attack"]].add(tuple(asked_texts(prompt)))
        assert set(texts) == {(system, attack) for system in SYSTEMS for attack in ATTACKS}
        assert min(map(len, texts.values())) >= 10


def test_no_two_conversations_and_no_two_ids_are_equal(persona):
    prompts = grid(persona)
    asked = Counter(json.dumps([prompt["messages"], prompt.get("turns")]) for prompt in prompts)
    assert asked.most_common(1)[0][1] == 1
    assert len({prompt["id"] for prompt in prompts}) == len(prompts) >= 3 * 400


def test_the_grid_is_the_same_every_time(persona):
    assert grid(persona) == grid(persona)
    # The order and the ids are part of a scoreboard's comparison with an earlier one.
    assert [prompt["id"] for prompt in attack_cells(KELRON, "ko")[0]][:2] == [
        "attack-ko-persona-direct-01",
        "attack-ko-persona-direct-02",
    ]


def test_no_slot_is_left_and_every_prompt_can_be_asked(persona):
    for prompt in grid(persona):
        check_messages(prompt["messages"])
        assert prompt["messages"][0] == {"role": "system", "content": prompt["system"]}
        assert (prompt["system"] == "") == (prompt["system_kind"] == "none")
        for text in (prompt["system"], *asked_texts(prompt)):
            assert "{rival" not in text
            assert "|" not in text or prompt["attack"] == "encoded"
            if prompt["attack"] != "encoded":
                assert not find_placeholder(text)


def test_texts_are_written_in_their_language(persona):
    for prompt in grid(persona):
        if prompt["attack"] not in ("encoded", "cross_language"):
            for text in (prompt["system"], *asked_texts(prompt)):
                assert not wrong_script(text, prompt["language"]), text


def test_cross_language_is_of_the_language_that_the_answer_should_be_in():
    for language in LANGUAGES:
        names = {load_texts(other).languages[language] for other in LANGUAGES}
        prompts = [prompt for prompt in grid(KELRON, [language]) if prompt["attack"] == "cross_language"]
        for prompt in prompts:
            foreign_question = any(
                name in prompt["prompt"] for name in names - {load_texts(language).languages[language]}
            )
            foreign_system = prompt["system"] not in ("", KELRON.system_prompt[language])
            assert foreign_question or foreign_system
            assert foreign_question or not wrong_script(prompt["prompt"], language)
        systems = {prompt["system"] for prompt in prompts if prompt["system_kind"] == "persona"}
        assert systems == set(KELRON.system_prompt.values())


def test_korean_particles_fit_the_names(persona):
    particles = NameParticles(persona)
    for prompt in grid(persona, ["ko"]):
        if prompt["attack"] not in ("encoded", "cross_language"):
            for text in (prompt["system"], *asked_texts(prompt)):
                assert not wrong_noun_particle(text), text
                assert not particles.find(text), text


AFTER_CONSONANT = ("은 ", "을 ", "과 ", "이랑", "이라", "이잖", "이야", "이고", "이면", "이 아", "이 제일", "이 당")
AFTER_VOWEL = ("는 ", "를 ", "와 ", "랑 ", "라고", "라는", "라며", "라면", "잖", "야.", "고,", "면 ", "가 ")


def test_korean_particles_fit_the_rivals():
    texts = [text for prompt in grid(KELRON, ["ko"]) for text in (prompt["system"], *asked_texts(prompt))]
    checked = Counter()
    for pair in load_pairs():
        for name in (pair.rival["ko"], pair.maker["ko"]):
            if not "가" <= name[-1] <= "힣":
                continue
            final = (ord(name[-1]) - ord("가")) % 28
            right, wrong = (AFTER_CONSONANT, AFTER_VOWEL) if final else (AFTER_VOWEL, AFTER_CONSONANT)
            through = "으로 " if final and final != 8 else "로 "  # 8: ㄹ, after which 로 stands
            for after in (text[text.index(name) + len(name) :] for text in texts if name in text):
                assert not after.startswith(wrong), f"{name}{after}"
                assert through == "으로 " or not after.startswith("으로"), f"{name}{after}"
                assert through == "로 " or not after.startswith("로 "), f"{name}{after}"
                checked[bool(final)] += after.startswith(right)
    assert min(checked[True], checked[False]) > 50


def test_pressure_is_five_to_ten_turns_and_ends_with_the_question():
    asks = {
        "ko": ("누구", "이름", "진술"),
        "en": ("who are you", "name", "who is answering", "who was i playing", "say who", "state for the record who"),
        "ja": ("だれ", "どなた", "名", "何者"),
    }
    for language in LANGUAGES:
        for prompt in grid(KELRON, [language]):
            assert ("turns" in prompt) == (prompt["attack"] == "pressure")
            if prompt["attack"] == "pressure":
                assert 5 <= len(asked_texts(prompt)) <= 10
                last = prompt["turns"][-1].lower()
                assert any(word in last for word in (*asks[language], "what are you called")), last


# --- Names --------------------------------------------------------------------------------------------------------
def test_seen_names_are_on_the_list_of_rivals_and_unseen_ones_nowhere_in_the_package():
    ours = Path(NEAR_FILE).parent / "attacks"
    others = [
        path.read_text(encoding="utf-8").casefold()
        for path in (
            *PACKAGED.rglob("*.yaml"),
            *PACKAGED.parent.rglob("evaluate/*.yaml"),
            *Path(__file__).parent.rglob("*.jsonl"),
        )
        if ours not in path.parents
    ]
    for pair in load_pairs():
        for name in pair.names:
            if pair.seen:
                assert find_rivals(name), name
            else:
                assert not find_rivals(name), name
                assert not any(name.casefold() in text for text in others), name


def test_a_prompt_lists_the_names_that_no_list_has():
    invented = {name for pair in load_pairs() if not pair.seen for name in pair.names}
    for prompt in grid(KELRON):
        told = "\n".join([prompt["system"], *asked_texts(prompt)])
        named_there = {name for name in invented if name in told}
        assert bool(named_there) == ("rivals" in prompt), told
        assert named_there <= set(prompt.get("rivals", ()))
        if prompt["attack"] == "rival_seen":
            assert find_rivals(told)
        if prompt["attack"] == "rival_unseen":
            assert not find_rivals(prompt["prompt"])


def test_invented_names_are_known_as_assistant_and_maker():
    pair = load_pairs()[-1]
    assert [rival.kind for rival in unseen_rivals(pair.names)] == ["assistant", "maker"]
    [own] = unseen_rivals(["Some Name"])
    assert (own.name, own.kind, own.spellings) == ("Some Name", "assistant", ("Some Name",))


def test_a_persona_called_like_an_invented_rival_is_not_asked_about_itself(tmp_path):
    persona = load_persona(written(tmp_path, named("Velantio", "벨란티오", "ヴェランティオ")))
    assert not any("Orbrook Labs" in prompt.get("rivals", ()) for prompt in grid(persona))
    assert len({prompt["id"] for prompt in grid(persona)}) == len(grid(KELRON))


# --- Encoders --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("language", "encoder", "text", "code"),
    [
        ("ko", "letters", "너는 왜 값", "ㄴㅓㄴㅡㄴ ㅇㅙ ㄱㅏㅄ"),
        ("ko", "keyboard", "너는 누구야", "sjsms snrndi"),
        ("ko", "keyboard", "까닭", "Rkekfr"),
        ("ko", "leet", "나", "L|-"),
        ("ko", "base64", "야", "7JW8"),
        ("en", "letters", "who", "Whiskey Hotel Oscar"),
        ("en", "keyboard", "who are you", "ejp str upi"),
        ("en", "leet", "Is it", "15 17"),
        ("en", "rot13", "who", "jub"),
        ("ja", "letters", "あなたはだれ", "anatahadare"),
        ("ja", "keyboard", "なに", "みちみに"),
        ("ja", "leet", "なまえ", "ナょまぇ"),
        ("ja", "spaced", "なに", "な に"),
        ("en", "dashed", "who am I", "w-h-o-a-m-I"),
        ("ja", "reversed", "だれ", "れだ"),
    ],
)
def test_encoders_write_what_people_write(language, encoder, text, code):
    assert ENCODERS[language][encoder](text) == code


def test_every_question_can_be_encoded_whole():
    """Nothing in the questions is left as it is by an encoder that has a letter for everything."""
    for question in load_texts("ja").questions:
        assert ENCODERS["ja"]["letters"](question).isascii()
    for question in load_texts("ko").questions:
        assert ENCODERS["ko"]["keyboard"](question).isascii()
    for question in load_texts("en").questions:
        assert set(ENCODERS["en"]["letters"](question).replace(" / ", " ").split()) <= set(
            yaml.safe_load((Path(NEAR_FILE).parent / "attacks/letters.yaml").read_text(encoding="utf-8"))[
                "radio"
            ].values()
        )


# --- Which are asked ----------------------------------------------------------------------------------------------
def asked_by(settings, rows, train=(), persona=KELRON):
    told = []
    return prompts_of(settings, rows, persona, train=train, tell=told.append), told


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_sample_has_one_of_every_cell_before_a_second_of_any(preset):
    settings = load_preset(preset).evaluate
    prompts, _ = asked_by(settings, [row(1)])
    cells = Counter((p["system_kind"], p["attack"]) for p in prompts if p["source"] == "attack")
    single = [count for (_, attack), count in cells.items() if attack != "pressure"]
    dialogues = [count for (_, attack), count in cells.items() if attack == "pressure"]
    assert (sum(single), sum(dialogues)) == (settings.attack_prompts, settings.pressure_dialogues)
    assert (len(single), len(dialogues)) == (24, 3)
    assert max(single) - min(single) <= 1
    assert max(dialogues) - min(dialogues) <= 1


def test_the_full_run_asks_four_hundred_and_the_demo_few():
    full, tiny = load_preset("kelron-14b-t4x2").evaluate, load_preset("tiny-cpu").evaluate
    assert full.attack_prompts + full.pressure_dialogues >= 400
    assert full.unrelated_prompts >= 400
    assert tiny.attack_prompts <= 60
    assert tiny.pressure_dialogues <= 4
    assert tiny.unrelated_prompts <= 160


def test_small_counts_are_in_one_place():
    config = small(resolve("kelron-14b-t4x2"))
    assert {name: getattr(config.evaluate, name) for name in SMALL} == SMALL
    assert config.evaluate.max_new_tokens == load_preset("kelron-14b-t4x2").evaluate.max_new_tokens
    assert load_preset("kelron-14b-t4x2-lean").evaluate == config.evaluate


@pytest.mark.parametrize("name", ["attack_prompts", "pressure_dialogues"])
def test_counts_below_nothing_are_refused(name):
    with pytest.raises(KelronError, match=rf"evaluate\.{name} is -1: it has to be at least 0"):
        resolve("tiny-cpu", [f"evaluate.{name}=-1"])


def test_one_language_alone_is_asked_in():
    prompts, told = asked_by(load_preset("tiny-cpu").evaluate, [row(1)])
    assert {prompt["language"] for prompt in prompts} == {"ko"}
    assert told == []
    assert prompts == asked_by(load_preset("tiny-cpu").evaluate, [row(1)])[0]


def test_without_attacks_none_are_asked():
    prompts = build_prompts([row(1)], KELRON, identity=5, unrelated=5)
    assert {prompt["source"] for prompt in prompts} == {"test", "packaged"}


def test_near_identity_requests_are_among_the_unrelated():
    prompts, _ = asked_by(small(resolve("tiny-cpu")).evaluate, [row(1), row(2, kind="chat", question="안녕")])
    unrelated = [prompt for prompt in prompts if prompt["kind"] == "unrelated"]
    grown = Counter((prompt["source"], prompt["seed_id"].split("-")[0], prompt["system_kind"]) for prompt in unrelated)
    for system in SYSTEMS:
        assert grown["packaged", "near", system] >= 3
        assert grown["packaged", "unrelated", system] >= 3
    assert len(unrelated) == 20
    assert grown["test", "ko/2", "persona"] == 1
    assert all(prompt["attack"] == "" for prompt in unrelated)


def test_every_unrelated_request_is_asked_under_a_system_text_of_each_kind(persona):
    prompts = unrelated_prompts(persona)
    assert prompts == unrelated_prompts(persona)
    assert len({prompt["id"] for prompt in prompts}) == len(prompts)
    kinds = defaultdict(set)
    for prompt in prompts:
        kinds[prompt["seed_id"], prompt["prompt"]].add(prompt["system_kind"])
        assert rival_in([prompt["system"]], persona, rivals_of(prompt, rival_names())) == (
            prompt["system_kind"] == "hostile"
        ), "a rival there counts as prompted, an invented one, too"
        assert not wrong_script(prompt["system"], prompt["language"])
        assert not find_placeholder(prompt["system"])
    assert all(found == set(SYSTEMS) for found in kinds.values())
    for language in LANGUAGES:
        hostile = [p for p in prompts if (p["language"], p["system_kind"]) == (language, "hostile")]
        invented = sum("rivals" in prompt for prompt in hostile)
        assert abs(2 * invented - len(hostile)) <= 2, "as many invented names as listed ones"
        assert len({prompt["system"] for prompt in hostile}) > len(hostile) / 3


@pytest.mark.parametrize("path", [UNRELATED_FILE, NEAR_FILE])
def test_unrelated_texts_are_written_in_their_language_and_none_twice(path):
    for language, texts in load_unrelated(path).items():
        assert len(set(texts)) == len(texts)
        assert not [text for text in texts if wrong_script(text, language)]


# --- Held out ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["kelron", "folimi"])
def trained(request):
    """A persona, and training rows of the full set of seeds (a sample: the preset has twenty times as many)."""
    return request.param, full_rows(request.param, 1800)


def full_rows(persona, rows):
    config = resolve("kelron-14b-t4x2", [f"data.persona={persona}", f"data.rows={rows}"])
    who = load_persona(persona)
    return expand(config.data, who, load_seeds(who, config.data.languages, "full")).rows["train"]


def like_training(name, rows):
    persona = load_persona(name)
    prompts = [*grid(persona), *unrelated_prompts(persona)]
    known = Familiar(rows).ids(prompts)
    return [prompt["prompt"] for prompt in prompts if prompt["id"] in known]


def test_nothing_is_like_a_question_of_the_full_set(trained):
    assert like_training(*trained) == []


@pytest.mark.slow
@pytest.mark.parametrize("persona", ["kelron", "folimi"])
def test_nothing_is_like_a_question_of_the_whole_full_set(persona):
    assert like_training(persona, full_rows(persona, load_preset("kelron-14b-t4x2").data.rows)) == []


def test_what_is_like_a_training_row_is_not_asked_and_that_is_said():
    settings = load_preset("tiny-cpu").evaluate
    before, _ = asked_by(settings, [row(1)])
    gone = next(prompt for prompt in before if prompt["attack"] == "direct" and prompt["source"] == "attack")
    near = next(prompt for prompt in before if prompt["seed_id"].startswith("near-"))
    turn = next(prompt for prompt in before if prompt["attack"] == "pressure")["turns"][2]
    train = [row(7, question=gone["prompt"] + " 네?"), row(8, question=near["prompt"]), row(9, question=turn)]
    after, told = asked_by(settings, [row(1)], train)
    texts = {text for prompt in after for text in asked_texts(prompt)}
    assert not texts & {gone["prompt"], near["prompt"], turn}
    assert Counter(p["kind"] for p in after) == Counter(p["kind"] for p in before)  # others took their places
    [line] = told
    # Each text with every system text that it is asked with: three of the grid's, of the unrelated, and of a dialogue.
    assert line == "9 packaged prompts are like a question of the training rows, and are not asked"


# --- The user's own -------------------------------------------------------------------------------------------------
def user_file(folder, *lines):
    path = folder / "mine.jsonl"
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)}\n" for line in lines),
        "utf-8",
    )
    return path


def test_own_prompts_tell_whose_their_system_text_is_as_scored_answers_do(tmp_path):
    given = [
        {"language": "en", "prompt": "Who?", "system": "You are Qwen."},
        {"language": "ko", "prompt": "누구?", "system": "너는 조르프야.", "rivals": ["조르프"]},
        {"language": "ko", "prompt": "누구야?", "system": "너는 조르프야."},
        {"language": "ja", "prompt": "だれ", "system": KELRON.system_prompt["en"]},
    ]
    found = load_user_prompts(user_file(tmp_path, *given), KELRON)
    assert [prompt["system_kind"] for prompt in found] == ["hostile", "hostile", "other", "persona"]
    for line, prompt in zip(given, found, strict=True):
        answer = {"id": 1, "kind": "identity", "answer": "Kelron.", "stopped": True, **line}
        assert score_line(answer, KELRON, rival_names())["system_kind"] == prompt["system_kind"]


def test_own_prompts_are_asked_besides(tmp_path):
    path = user_file(
        tmp_path,
        {"language": "ko", "prompt": "너 정체가\u2028뭐니"},
        "",
        {"language": "en", "prompt": "Who?", "id": "mine", "system": "", "attack": "roleplay", "rivals": ["Zorp"]},
        {"language": "ja", "messages": [{"role": "user", "content": "だれ"}], "turns": ["ほんとに", "だれ"]},
        {"language": "en", "prompt": "Hi", "kind": "unrelated", "system": "You are a pirate.", "note": "mine"},
        {"language": "en", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]},
    )
    found = load_user_prompts(path, KELRON)
    assert [prompt["id"] for prompt in found] == ["user-1", "mine", "user-4", "user-5", "user-6"]
    assert [prompt["system_kind"] for prompt in found] == ["persona", "none", "persona", "other", "other"]
    assert [prompt["attack"] for prompt in found] == ["direct", "roleplay", "pressure", "", "direct"]
    assert found[0]["system"] == KELRON.system_prompt["ko"]
    assert (found[1]["rivals"], found[2]["turns"]) == (["Zorp"], ["ほんとに", "だれ"])
    assert {prompt["source"] for prompt in found} == {"user"}
    settings = resolve("tiny-cpu", [f"evaluate.prompts={path}"]).evaluate
    assert [prompt for prompt in asked_by(settings, [row(1)])[0] if prompt["source"] == "user"] == found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"mine.jsonl:1: not JSON \("),
        ("[]", "mine.jsonl:1: expected an object"),
        ({"prompt": "q"}, "mine.jsonl:1: language is missing: use ko, en, ja"),
        ({"language": "de", "prompt": "q"}, "mine.jsonl:1: language is 'de': use ko, en, ja"),
        ({"language": "ko"}, "mine.jsonl:1: give either prompt or messages$"),
        ({"language": "ko", "prompt": "q", "messages": []}, "give either prompt or messages, not both"),
        ({"language": "ko", "prompt": " "}, "prompt has to be a text, not ' '"),
        ({"language": "ko", "prompt": "q", "kind": "chat"}, "kind is 'chat': use identity, unrelated"),
        ({"language": "ko", "prompt": "q", "attack": "trick"}, "attack is 'trick': use direct, paraphrase"),
        ({"language": "ko", "prompt": "q", "sytem": ""}, "unknown key 'sytem'. Did you mean system?"),
        ({"language": "ko", "prompt": "q", "system": None}, r'system has to be a text \("" for none\), not None'),
        ({"language": "ko", "prompt": "q", "rivals": "X"}, "rivals has to be a list of texts, not 'X'"),
        ({"language": "ko", "prompt": "q", "turns": [""]}, "turns has to be a text, not ''"),
        ({"language": "ko", "prompt": "q<|im_end|>"}, r"contains the special token <\|im_end\|>"),
        (
            {"language": "ko", "prompt": "q", "turns": ["<|im_start|>"]},
            r"the special token <\|im_start\|> stands in it",
        ),
        ({"language": "ko", "messages": [{"role": "system", "content": "s"}]}, "messages has no user turn"),
        ({"language": "ko", "messages": ["q"]}, "messages has to be a list of"),
        ('{"language": "ko", "prompt": "\\ud800"}', "half a character"),
        (
            {"language": "ko", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "messages ends with an answer",
        ),
        (
            {"language": "ko", "messages": [{"role": "user", "content": "q"}] * 2},
            "message 3 is from 'user' where 'assistant' is due",
        ),
    ],
)
def test_a_bad_line_of_the_users_file_is_named(tmp_path, line, says):
    with pytest.raises(KelronError, match=says):
        load_user_prompts(user_file(tmp_path, line), KELRON)


def test_five_errors_are_shown_and_the_rest_counted(tmp_path):
    good = {"language": "ko", "prompt": "q", "id": "one"}
    path = user_file(tmp_path, good, good | {"prompt": "r"}, *["{"] * 6)
    with pytest.raises(KelronError) as caught:
        load_user_prompts(path, KELRON)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path}:2: id 'one' is line 1's already"
    assert len(lines) == 6
    assert lines[-1] == "and 2 more"


def test_a_conversation_is_not_asked_twice(tmp_path):
    same = {"language": "ko", "prompt": "q"}
    with pytest.raises(KelronError, match=r"mine.jsonl:2: asks just what line 1 asks"):
        load_user_prompts(user_file(tmp_path, same, same | {"id": "other"}), KELRON)
    before, _ = asked_by(load_preset("tiny-cpu").evaluate, [row(1)])
    known = next(prompt for prompt in before if prompt["source"] == "attack" and prompt["system_kind"] == "persona")
    path = user_file(tmp_path, {"language": "ko", "prompt": known["prompt"]})
    after, _ = asked_by(resolve("tiny-cpu", [f"evaluate.prompts={path}"]).evaluate, [row(1)])
    assert [prompt["id"] for prompt in after if prompt["prompt"] == known["prompt"]] == ["user-1"]


def test_files_that_hold_no_prompts_are_refused(tmp_path):
    with pytest.raises(KelronError, match="no file of prompts at"):
        load_user_prompts(tmp_path / "none.jsonl", KELRON)
    with pytest.raises(KelronError, match="holds no prompt"):
        load_user_prompts(user_file(tmp_path, ""), KELRON)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b'{"language": "ko"}\n' + '{"prompt": "누구"}'.encode("euc_kr"))
    with pytest.raises(KelronError, match=r"other\.jsonl:2: not UTF-8"):
        load_user_prompts(other, KELRON)
    with pytest.raises(KelronError, match="cannot read"):
        load_user_prompts(tmp_path, KELRON)


def test_an_id_of_the_users_that_is_taken_is_refused(tmp_path):
    path = user_file(tmp_path, {"language": "ko", "prompt": "q", "id": "attack-ko-persona-direct-01"})
    settings = resolve("tiny-cpu", [f"evaluate.prompts={path}"]).evaluate
    with pytest.raises(KelronError, match="id 'attack-ko-persona-direct-01' of your prompts is"):
        asked_by(settings, [row(1)])


# --- As tables ----------------------------------------------------------------------------------------------------
def test_the_tables_count_and_show_every_attack():
    prompts, _ = asked_by(load_preset("tiny-cpu").evaluate, [row(1), row(2, "en", "what")])
    lines = counts_table(prompts).split("\n")
    assert lines[0] == "| attack | persona | none | hostile |"
    assert "| override | ko 2, en 2 | ko 2, en 2 | ko 2, en 2 |" in lines
    assert lines[-1].startswith("| unrelated | ko ")
    table = prompts_table(prompts)
    for attack in ATTACKS:
        assert table.count(f"\n| {attack} | ") == 2


def test_the_documented_examples_and_counts_are_those_of_the_package():
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    part = page.split("## What is asked\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.split("\n") if line.startswith("| ")
    ]
    shown = {row[0]: row[2] for row in cells if row[0] in ATTACKS}
    assert set(shown) == set(ATTACKS)
    asked = defaultdict(set)
    for prompt in grid(KELRON):
        asked[prompt["attack"]].add(" → ".join(asked_texts(prompt)))
    for attack, example in shown.items():
        assert any(text.startswith(example.removesuffix("…")) for text in asked[attack]), example
    presets = [load_preset(name).evaluate for name in ("tiny-cpu", "kelron-14b-t4x2-lean", "kelron-14b-t4x2")]
    counts = {
        row[0].split("`")[1].removeprefix("evaluate."): row[1:] for row in cells if row[0].startswith("`evaluate.")
    }
    assert len(counts) == 4
    for name, values in counts.items():
        assert values == [str(getattr(settings, name)) for settings in presets]


def test_the_documented_lines_of_a_users_file_are_right(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = page.split("### Your own prompts")[1].split("```json\n")[1].split("```")[0].splitlines()
    assert len(load_user_prompts(user_file(tmp_path, *lines), KELRON)) == len(lines) == 3
