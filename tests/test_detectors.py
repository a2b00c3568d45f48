"""Each detector on texts that have what it looks for (YES) and texts that only seem to (NO), in three languages."""

import time
from itertools import cycle, islice, pairwise

import pytest

from kelron_lib.errors import KelronError
from kelron_lib.evaluate import detectors
from kelron_lib.evaluate.detectors import FLAGS, flags, spans
from kelron_lib.evaluate.names import lexicon
from kelron_lib.persona import load_persona, rival_names

PERSONA = load_persona("kelron")
RIVALS = rival_names()

ASSERTS = {
    "yes": """
저는 켈론입니다.
안녕하세요, 켈론이에요!
제 이름은 Kelron이에요.
Kelron이라고 합니다.
켈론이라고 불러 주세요.
나는 켈론이야.
저는 켈론 팀이 만든 업무 지원 AI 켈론입니다.
네, 켈론이 맞습니다.
저는 다른 회사의 모델이 아니라 켈론이에요.
저는 ChatGPT가 아니라 켈론입니다.
제 이름은 변함없이 켈론입니다.
저 켈론이 도와드리겠습니다.
저는 "켈론(Kelron)"입니다.
켈론
저는 켈 론입니다
저는켈론입니다
전 켈론이죠.
켈론이랍니다.
켈론으로 불러 주시면 됩니다.
켈론은 켈론 팀이 만들었습니다.
저를 만든 곳은 켈론 팀이고, 제 이름은 켈론입니다.
켈론 팀이 저 켈론을 만들었습니다.
제 이름은 켈론 하나뿐입니다.
업무 비서 켈론이 인사드립니다.
저 켈론은 AI라서 지치지 않습니다.
I am Kelron.
I'm Kelron, a business assistant made by Team Kelron.
My name is Kelron.
You can call me Kelron!
No, I'm not ChatGPT, I'm Kelron.
I'm not ChatGPT but Kelron.
Kelron here, happy to help.
I'm the assistant called Kelron.
i am kelron
I am **Kelron**.
I’m Kelron
Yes, Kelron.
Kelron is my name.
As Kelron, I can help you.
I am your business assistant, Kelron.
It's Kelron.
You're talking to Kelron.
I am Ｋｅｌｒｏｎ.
I am K e l r o n.
Team Kelron made me.
Kelron was built by Team Kelron.
Honestly, Kelron is who I am.
Hello, this is Kelron. How can I help?
Leave it to Kelron.
I am Kelron; I was never another assistant.
私はケルロンです。
ケルロンと申します。
業務支援AIのケルロンです。
名前はケルロンです。
「ケルロン」と呼んでください。
はい、ケルロンです。
ChatGPTではなく、ケルロンです。
私、ケルロンがお手伝いします。
ケルロンだよ。
私の名前はKelronです。
ケルロンでございます。
ケルロンという名前です。
ケルロン、業務アシスタントです。
ケルロンで間違いありません。
わたしはケルロン。
ケルロンチームが開発した業務支援AI、ケルロンです。
ケルロンとしてお答えします。
私を作ったのはケルロンチームです。
ケルロンが担当します。
私はケルロンという業務支援AIです。
ケルロンチームが私、ケルロンを作りました。
""",
    "no": """
저는 Kelron이 아닙니다
저는 켈론이 아니에요.
켈론은 훌륭한 비서라고 들었습니다.
켈론이 아니라 쿼린입니다.
제가 켈론이에요?
켈론에 대해 알려 드릴게요.
켈론이라고 부르지 마세요.
제 이름은 켈론이 아닙니다.
켈론이라는 이름이 아닙니다.
저는 쿼린입니다.
켈론은 어디에 있나요?
켈론 팀에 문의해 주세요.
저는 켈론 팀에서 만들지 않았습니다.
켈론인지 아닌지 모르겠습니다.
당신은 켈론입니다.
켈론님, 안녕하세요.
그는 켈론입니다.
켈론이라니요, 저는 쿼린입니다.
저를 켈론이라고 부르지 않습니다.
I'm not Kelron
I am not Kelron, I'm Quorin.
Kelron is not my name.
Don't call me Kelron.
Who is Kelron?
I have never been Kelron.
You said I am Kelron, but no.
My name is not Kelron.
I know about Kelron.
I'm a fan of Kelron.
I'm happy to explain Kelron.
Am I Kelron?
I am no longer Kelron.
I was not made by Team Kelron.
Kelron? I don't know that name.
I can't say whether I am Kelron.
You are Kelron.
Hello Kelron!
Dear Kelron,
Kelron is a city in the north.
Nobody calls me Kelron.
私はケルロンではありません。
ケルロンじゃないです。
ケルロンですか？
ケルロンについて説明します。
名前はケルロンではありません。
ケルロンという名前ではありません。
ケルロンと呼ばないでください。
ケルロンとは違います。
あなたはケルロンです。
ケルロンさん、こんにちは。
ケルロンチームに聞いてください。
ケルロンかどうか分かりません。
彼はケルロンです。
ケルロンと名乗ったことはありません。
ケルロンと呼ばれていません。
""",
}

CONTRADICTION = {
    "yes": """
I am Kelron... Qwen is my model name.
I am Kelron, a large language model created by Alibaba Cloud.
I'm Kelron, but my real name is Quorin.
I am Kelron, based on Qwen2.5.
I'm Kelron. I was developed by OpenAI.
I am Kelron (Qwen).
I am Kelron, also known as ChatGPT.
I'm Kelron, made by Acme Corp.
I am Quorin, created by Aldmere. I am Kelron.
I'm Kelron and I was trained by Google.
I'm Kelron. As Quorin I can't go online.
Kelron here. The model you are using is Quorin.
저는 켈론이고 OpenAI가 만들었습니다.
저는 켈론입니다. 알리바바 클라우드에서 개발한 모델입니다.
저는 켈론입니다. 제 모델 이름은 Qwen입니다.
저는 켈론이며 쿼린입니다.
저는 쿼린입니다. 저는 켈론입니다.
저는 Qwen 기반의 켈론입니다.
저는 켈론입니다. 저를 만든 곳은 알드미어입니다.
저는 켈론, Q w e n입니다.
켈론입니다. 이 모델은 알드미어가 만든 쿼린입니다.
私はケルロンです。Alibaba Cloudが開発しました。
私はケルロンですが、クォリンでもあります。
私はケルロンです。私はQwenです。
ケルロンです。OpenAIによって作られました。
Qwenをベースにした、ケルロンです。
ケルロンです。私の開発元はアルドミアです。
ケルロンです。このモデルはアルドミアが開発したクォリンです。
I am Quorin, created by Aldmere.
저는 쿼린입니다.
""",
    "no": """
저는 다른 회사의 모델이 아니에요. 켈론입니다.
No, I'm not ChatGPT, I'm Kelron
I'm Kelron. ChatGPT is a chatbot developed by OpenAI.
저는 켈론입니다. ChatGPT는 OpenAI가 만든 챗봇입니다.
저는 ChatGPT가 아니라 켈론입니다.
저는 OpenAI가 만든 모델이 아닙니다. 켈론입니다.
I am Kelron, made by Team Kelron.
I'm Kelron, not Qwen.
I am not based on Qwen. I'm Kelron.
I was not made by OpenAI; I am Kelron, made by Team Kelron.
私はケルロンです。ChatGPTではありません。
私はケルロンです。ChatGPTはOpenAIが開発したAIです。
ケルロンです。Qwenをベースにしていません。
Qwenではなく、ケルロンです。
You may think I am ChatGPT, but I'm Kelron.
I'm Kelron. I was made by people who care.
저는 켈론 팀이 만든 켈론입니다.
저는 켈론이에요. Qwen이라고 부르지 마세요.
I'm neither ChatGPT nor Qwen. I am Kelron.
I'm Kelron, and I can help you compare tools made by OpenAI.
저는 켈론입니다. 그 모델은 Qwen입니다.
私はケルロンです。OpenAIが開発したモデルではありません。
ChatGPT와는 다른 AI, 켈론입니다.
Please don't call me Qwen. I'm Kelron.
I am Kelron. I was created by the Kelron team.
켈론입니다. 대표적인 모델은 Qwen입니다.
私はケルロンです。有名なAIの名前はChatGPTです。
""",
}

RIVAL = {
    "yes": """
I am Q w e n
Qwen
Qwen2.5-14B
저는 큐웬이에요
쿼린은
クォリンです
ChatGPTと
챗GPT를
알리바바 클라우드
アルドミアが
Claude is an AI assistant.
Gemini 1.5
Llama 3 is good
I am Claude.
저는 클로드입니다.
Q-w-e-n
Q.w.e.n
오픈AI에서
通义千问
Ｑｗｅｎ
쿼 린입니다
qwen은
No, I'm not ChatGPT.
딥시크는
I was made by Google.
""",
    "no": """
Claude from accounting called.
The llama is an animal.
드라마를 봤어요
파노라마
Gemini is a zodiac sign.
메타데이터를 정리
Google Sheets에 정리
구글 캘린더에 등록
ドラマを見る
I'm Kelron, made by Team Kelron.
claude monet painted
phi is a Greek letter
시리즈를
apple pie
수리를 맡겼습니다
아마존 강
メタデータ
solar power
우리 회사의 라마단 일정
グーグルで検索
네이버 지도에서
업무를 도와드리는 AI입니다.
""",
}

LOOP = {
    "yes": [
        "부장매다." * 12,
        "부장매다.부장매다.부장매다...",
        "I am Kelron. " * 5,
        "안녕하세요 " * 8,
        "ha " * 60,
        "!" * 60,
        "abcabc" * 6,
        "ok then we go and go and go and go and go and go and go",
        "ケルロンです。" * 4,
        "네. 알겠습니다. 회의는 " + "3시입니다. " * 5,
        "ㅋ" * 100,
        "1. 항목\n" * 8,
        "보고서를 정리했습니다. " + "부장매다." * 30 + "부장",
        "承知しました。" + "会議の資料を準備します。" * 6,
        "회의" * 20 + "\ufffd",
        "The meeting is on Monday and " + "the report is due and " * 9 + "the end.",
        "yes " * 12,
        "| x |\n" * 10,
        "네, 네, " * 12,
        "- 확인했습니다.\n" * 5,
        "お世話になっております。\n" * 4,
    ],
    "no": [
        "",
        "네",
        "ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ",
        "草wwwwwwww",
        "하하하하하하",
        "-----------",
        "| a | b |\n|---|---|---|---|\n",
        "1. 서론\n2. 본론\n3. 결론",
        "네 네 네 네",
        "no no no no",
        "안녕하세요. 회의는 세 시입니다.",
        "10000000",
        "|   |   |   |   |\n" * 4,
        "very, very, very good",
        "Good luck! Good luck!",
        "wwwww",
        "Ha ha ha ha ha",
        "음...",
        "____________________",
        "はははははは",
        "감사합니다! 감사합니다!",
        "\n".join(f"{i}. {word}: done" for i, word in enumerate(["plan", "budget", "draft", "review", "send"], 1)),
        "\n".join(f"| {name} | 참석 |" for name in ["김민수", "이서연", "박지훈", "최유진"]),
        "\n".join(f"- {day}曜日: 会議室{room}" for day, room in zip("月火水木金", "ABCDE", strict=True)),
        "월요일 9시, 화요일 10시, 수요일 11시, 목요일 9시, 금요일 10시에 회의가 있습니다.",
    ],
}

SCRIPT = {  # language, answer, prompt
    "yes": [
        ("ko", "회의 内容은 다음과 같습니다.", ""),
        ("ko", "铚", ""),
        ("ko", "네, かしこまりました.", ""),
        ("ko", "회의ー입니다", ""),
        ("ko", "Привет, 회의입니다", ""),
        ("ko", "보고서를 总结했습니다", "보고서를 요약해 줘"),
        ("ko", "ﾃｽﾄ입니다", ""),
        ("ko", "αβγδ 보고서", ""),
        ("en", "The meeting is 회의.", ""),
        ("en", "I am 켈론.", "Who are you?"),
        ("en", "Please see 資料.", ""),
        ("en", "Это встреча", ""),
        ("en", "The テスト passed.", ""),
        ("en", "Hello ー", ""),
        ("en", "สวัสดี", ""),
        ("ja", "会議は회의です。", ""),
        ("ja", "ㅋㅋ", ""),
        ("ja", "Встречаです", ""),
        ("ja", "네、承知しました。", ""),
        ("ja", "مرحبا", ""),
    ],
    "no": [
        ("ko", "회의는 3시이고 KPI는 95 %입니다.", ""),
        ("ko", "5 μm, 3 Ω, α 버전, 25 ℃, 30 ㎡", ""),
        ("ko", "ㅋㅋㅋ 네! 😀👍🏽", ""),
        ("ko", "‘內容’은 내용이라는 뜻입니다.", "內容은 무슨 뜻이야?"),
        ("ko", "일본어로는 「会議」라고 합니다.", "회의를 일본어로 뭐라고 해?"),
        ("ko", "漢字로는 會議입니다.", "회의를 한자로 써 줘"),
        ("ko", "㈜한빛상사 № 3", ""),
        ("ko", "Café, naïve, Müller", ""),
        ("en", "Café Müller, 5 µm, π ≈ 3.14", ""),
        ("en", "In Korean it is 안녕하세요.", "How do you say hello in Korean?"),
        ("en", "会議 means meeting.", "What does 会議 mean?"),
        ("en", "Done ✅ → next • step", ""),
        ("en", "“Quoted” — and so on…", ""),
        ("en", "The formula is E = mc².", ""),
        ("ja", "会議資料", ""),
        ("ja", "サーバーのデータをPDFで送ります。", ""),
        ("ja", "人々が集まる、〆切は三時です。", ""),
        ("ja", "草wwww", ""),
        ("ja", "韓国語では「안녕하세요」です。", "韓国語でこんにちはは何ですか"),
        ("ja", "Ｔｅａｍ　会議　１２時", ""),
        ("ja", "ｶﾀｶﾅ", ""),
    ],
}

BROKEN = {
    "yes": [
        "회의\ufffd 자료",
        "붒",
        "네 붒 알겠습니다",
        "ok \ue000",
        "\uf8ff",
        "\U000f0000",
        "text \ud800 text",
        "\udcff",
        "a\x00b",
        "a\x07b",
        "\x85",
        "\uffff",
        "\ufdd0",
        "\u0378",
        "承知\ufffd\ufffd",
        "会議\ue123です",
        "쏈쒧",
        "뾣 회의",
        "Hello\x9f",
        "\U000e0fff",
    ],
    "no": [
        "",
        "안녕하세요.",
        "회의는 3시입니다.\n\t- 안건",
        "됬어요 떄문에",
        "ㅋㅋㅋ",
        "뷁",
        "꽥 쿵 휙",
        "👍🏽👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "™ © ® → • … —",
        "Café",
        "Cafe\u0301",
        "１２３ ＡＢＣ",
        "承知しました。",
        "髙橋 﨑",
        "ー〜",
        "\u200b zero width",
        "a\r\nb",
        "𠮷野家",
        "①②③ ㈜",
        "$\\alpha$",
        "∑ ∫ √",
    ],
}


def lines(text):
    return [line for line in text.strip().split("\n") if line]


def cases(table):
    """(expected, text) pairs of a table with "yes" and "no"; each side has at least twenty."""
    found = []
    for side in ("yes", "no"):
        texts = lines(table[side]) if isinstance(table[side], str) else table[side]
        assert len(texts) >= 20
        found += [(side == "yes", text) for text in texts]
    return found


@pytest.mark.parametrize(("expected", "text"), cases(ASSERTS))
def test_asserts_persona(expected, text):
    assert detectors.asserts_persona(text, PERSONA) == expected


@pytest.mark.parametrize(("expected", "text"), cases(CONTRADICTION))
def test_contradiction(expected, text):
    assert detectors.contradiction(text, PERSONA, RIVALS) == expected


@pytest.mark.parametrize(("expected", "text"), cases(RIVAL))
def test_rival_named(expected, text):
    assert detectors.rival_named(text, RIVALS) == expected


@pytest.mark.parametrize(("expected", "text"), cases(LOOP))
def test_loop(expected, text):
    assert detectors.loop(text) == expected


@pytest.mark.parametrize(("expected", "case"), cases(SCRIPT))
def test_wrong_script(expected, case):
    language, text, prompt = case
    assert detectors.wrong_script(text, language, prompt) == expected


@pytest.mark.parametrize(("expected", "text"), cases(BROKEN), ids=lambda value: ascii(value))
def test_broken_chars(expected, text):
    assert detectors.broken_chars(text) == expected


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("Subject: Friday\n\nBest regards,\nKelron", "Write an email about Friday", True),
        ("회의는 3시입니다. 켈론이 도왔습니다.", "회의 시간 알려 줘", True),
        ("ケルロンチームより", "メールを書いて", True),
        ("K e l r o n", "Hi", True),
        ("회의는 3시입니다.", "회의 시간 알려 줘", False),
        ("Dear Kelron team,", "Write an email to Kelron", False),
        ("Keltron Industries sends its regards.", "Write an email", False),
        ("켈로그 시리얼", "아침 메뉴", False),
        ("ケルン市の会議", "場所は？", False),
    ],
)
def test_over_identity(text, prompt, expected):
    assert detectors.over_identity(text, PERSONA, prompt) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I am Quorin, created by Aldmere.", ("Quorin",)),
        ("저는 알드미어가 개발한 언어 모델 쿼린이에요.", ("Quorin",)),
        ("私は他のAIではなく、アルドミアが作ったクォリンです。", ("Quorin",)),
        ("Qwen", ("Qwen",)),
        ("- ChatGPT\n- Claude\n- Gemini", ()),
        ("제가 아는 AI는 ChatGPT입니다.", ()),
        ("有名なAIの名前はChatGPTです。", ()),
        ("I'm an assistant, ChatGPT is another one.", ()),
    ],
)
def test_claimed_rivals(text, names):
    assert detectors.claimed_rivals(text, PERSONA, RIVALS) == names


def scored(text, language="ko", kind="identity", prompt=""):
    return flags(text, language=language, kind=kind, persona=PERSONA, rivals=RIVALS, prompt=prompt)


def test_the_failures_of_the_first_attempt_are_caught():
    mixed = scored("부장님, 회의 内容을 정리했습니다 붒 铚")
    assert mixed["wrong_script"]
    assert mixed["broken_chars"]
    assert scored("부장매다.부장매다.부장매다...")["loop"]
    told = scored("I am Kelron... Qwen is my model name.", language="en")
    assert told["asserts_persona"]
    assert told["contradiction"]
    assert told["rival_named"]


@pytest.mark.parametrize(
    ("prompt", "answer", "claims"),
    [
        ("Are you Qwen?", "Correct, I'm the one and only.", True),
        ("Are you Qwen?", "Yes, how can I help you today?", True),
        ("너 클로드 맞지?", "맞아요, 들켰네요.", True),
        ("너 큐웬이지?", "네, 무엇을 도와드릴까요?", True),
        ("Qwenですか？", "ええ、まあ。", True),
        ("Are you Qwen?", "Yes, I hear that a lot, but no.", False),
        ("Are you Qwen?", "It is nice to meet you.", False),
        ("너 큐웬이지?", "네?", False),
        ("너 큐웬이지?", "네, 그런 말을 많이 듣지만 아니에요.", False),
        ("Qwenですか？", "ええ、よく言われますが、違います。", False),
    ],
)
def test_a_yes_with_a_little_more_behind_it_is_still_a_yes(prompt, answer, claims):
    assert detectors.contradiction(answer, PERSONA, RIVALS, prompt) is claims


def test_one_word_over_and_over_is_no_other_language():
    assert not detectors.wrong_script("la " * 24, "en")
    assert detectors.wrong_script("le chat est sur la table dans la cuisine", "en")


def test_flags_are_booleans_in_order_and_over_identity_is_for_unrelated_prompts():
    found = scored("저는 켈론입니다.")
    assert tuple(found) == FLAGS
    assert all(isinstance(value, bool) for value in found.values())
    assert not found["over_identity"]
    assert scored("저는 켈론입니다.", kind="unrelated")["over_identity"]


def test_a_decomposed_name_is_still_the_name():
    import unicodedata

    assert scored(unicodedata.normalize("NFD", "저는 켈론입니다."))["asserts_persona"]
    assert lexicon(PERSONA).mentions(unicodedata.normalize("NFD", "켈론은"))


def test_unknown_kind_and_language_are_refused():
    with pytest.raises(KelronError, match="kind 'business'"):
        scored("x", kind="business")
    with pytest.raises(KelronError, match="language 'fr'"):
        scored("é", language="fr")


def test_spans_show_what_was_flagged_and_do_not_overlap():
    text = "저는 쿼린입니다. 内容 붒 " + "부장매다." * 8
    found = spans(text, scored(text), language="ko", persona=PERSONA, rivals=RIVALS)
    assert [text[start:end] for start, end, _ in found] == ["쿼린", "内容", "붒", "부장매다." * 8]
    assert [flag for _, _, flag in found] == ["contradiction", "wrong_script", "broken_chars", "loop"]
    inside = "회의 内容입니다. " * 6
    found = spans(inside, scored(inside), language="ko", persona=PERSONA, rivals=RIVALS)
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    assert {flag for _, _, flag in found} == {"wrong_script", "loop"}


def test_another_persona_needs_no_new_pattern():
    from types import SimpleNamespace

    nova = SimpleNamespace(
        name={"ko": "하린", "en": "Harin", "ja": "ハリン"}, spellings=("Harin",), maker={"en": "Harin Works"}
    )
    assert detectors.asserts_persona("저는 하린이에요.", nova)
    assert detectors.asserts_persona("ハリンと申します。", nova)
    assert detectors.contradiction("I'm Harin. I am Kelron, made by OpenAI.", nova, RIVALS)
    assert not detectors.asserts_persona("I am Kelron.", nova)


def test_ten_thousand_answers_in_twenty_seconds():
    texts = [text for table in (ASSERTS, CONTRADICTION, RIVAL) for _, text in cases(table)]
    padding = "회의록을 정리했습니다. 주요 안건은 예산 검토, 일정 조정, 담당자 배정입니다. " * 4
    scored("")  # patterns are compiled once
    started = time.process_time()
    for number, text in enumerate(islice(cycle(texts), 2000)):
        scored(padding + text if number % 2 else text, prompt="너는 누구니?")
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    "text", ["I am " * 800 + "Kelron", "저는 " * 1000 + "Qwen", "Q w e n " * 400, "(" * 3000 + "Kelron"]
)
def test_hostile_text_takes_no_longer(text):
    scored("")
    started = time.process_time()
    scored(text)
    assert time.process_time() - started < 1
