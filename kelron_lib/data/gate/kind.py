"""What a row is about, where it does not say: whether it asks for, or asserts, the persona's identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import regex

from kelron_lib.persona import Persona

_ENGLISH = (
    r"\b(?:who|what) (?:exactly )?are (?:you|u)\b(?! (?:\w+ing|up to|able|allowed|supposed|good|interested|most)\b)",
    r"\bwho(?: is|'s) (?:this|there)\b",
    r"\b(?:what(?:'s| is)|tell me|may i (?:ask|have)|can i (?:ask|have)|know) your name\b",
    r"\byour (?:real |actual )?(?:creator|maker|developer|identity)\b",
    r"\bwho (?:made|built|created|developed|trained|owns|designed) (?:you|u)\b",
    r"\b(?:which|what) (?:ai |language )?(?:model|version|ai|company|assistant) (?:are you|is this|made you|am i)\b",
    r"\bare you (?:an? )?(?:ai|bot|robot|human|person|chatbot|language model|real)\b",
    r"\b(?:introduce yourself|tell me about yourself)\b",
    r"\bwho am i (?:talking|speaking|chatting) (?:to|with)\b",
)
_KOREAN = (
    r"(?:너|넌|네가|니가|당신|그쪽)[은는이가의]? ?(?:\S{1,6} )?(?:누구|뭐(?:야|니|예요)|정체)",
    r"누구(?:세요|시죠|십니까|신가요|야|니|냐)(?![가-힣])",
    r"(?<![가-힣])(?:너|네|니|당신)(?:의|는|은)? ?(?:진짜 )?(?:이름|정체|개발사|제작사)",
    r"(?<![가-힣])이름이? ?(?:뭐|무엇|어떻게 되|궁금|알려)|성함이 어떻게",
    r"(?:너|널|당신)[를을]? ?(?:누가|어디서|어느 회사|어떤 회사)|(?:누가|어느 회사가|어떤 회사가) ?(?:너|널|당신)",
    r"누가 (?:만들|개발)(?:었|한|했|어)|자기 ?소개(?:를|도)? ?(?:좀 )?(?:해 ?(?:줘|주|봐|보)|부탁)",
    r"(?:어떤|무슨|어느) ?(?:AI|인공지능|모델|언어 ?모델|챗봇)(?:이에요|예요|인가요|입니까|이야|야|이니|니)",
    r"(?<![가-힣])(?:사람|로봇|AI|인공지능|챗봇|봇)(?:이세요|이에요|이야|인가요|이니|입니까|이죠|이지)",
)
_JAPANESE = (
    r"(?:あなた|君|きみ|お前|そちら)(?:は|って|の|が)[^。?？\n]{0,8}(?:誰|だれ|何者|名前|正体|どなた|開発元)",
    r"どちら様|どなたですか|何者(?:です|なの|だ)|自己紹介(?:を?して|をお願い|お願い)",
    r"(?:お名前|名前)(?:は|を|って)[^。?？\n]{0,6}(?:何|なん|教え|聞|伺|うかが|[?？]|ですか|でしょうか)",
    r"(?:誰|だれ|どこ|どの会社|どちら)(?:が|に|で)あなたを?|あなたを?[^。?？\n]{0,6}(?:誰|だれ|どこ|どの会社)",
    r"(?:どの|どんな|何の|なんの)(?:AI|モデル|人工知能|アシスタント)(?:です|なの|か)",
    r"(?:人間|ロボット|AI|ボット|人工知能)(?:です|なの|でしょう)か?[。?？]",
)
_ASKS = regex.compile("|".join((*_ENGLISH, *_KOREAN, *_JAPANESE)), regex.IGNORECASE)


def asks_for_identity(text: str) -> bool:
    """Whether a question asks who answers, what it is called, or who made it. By common phrasings, so not all."""
    return bool(_ASKS.search(text))


class Names:
    """Where a text names a persona: its spellings as words."""

    def __init__(self, persona: Persona) -> None:
        spellings = sorted({*persona.spellings, *persona.name.values()}, key=len, reverse=True)
        self._spellings = tuple(spellings)
        self._pattern = regex.compile("|".join(map(_bounded, spellings)), regex.VERSION1)

    def find(self, text: str) -> str:
        """The first spelling found; empty where there is none."""
        if not any(spelling in text for spelling in self._spellings):
            return ""
        match = self._pattern.search(text)
        return str(match.group()) if match else ""


def _bounded(spelling: str) -> str:
    """A pattern of a spelling that is no part of a longer word of its script; Korean may go on with a particle."""
    escaped = regex.escape(spelling)
    if spelling[0].isascii():
        return rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"
    if "가" <= spelling[0] <= "힣":
        return rf"(?<![가-힣--[는은인]]){escaped}"
    if regex.match(r"[\p{Katakana}ー]", spelling[0]):
        return rf"(?<![\p{{Katakana}}ー]){escaped}(?![\p{{Katakana}}ー])"
    return escaped


def find_kind(row: Mapping[str, Any], persona: Persona, names: Names | None = None) -> str:
    """The kind of a row: its own field; else "identity" where an answer names the persona or a question asks who
    answers, and "chat" for everything else. `names`: of the persona, where many rows are to be told."""
    if given := row.get("kind"):
        return str(given)
    names = names or Names(persona)
    for message in row["messages"]:
        content = str(message.get("content", ""))
        if message.get("role") == "assistant" and names.find(content):
            return "identity"
        if message.get("role") == "user" and asks_for_identity(content):
            return "identity"
    return "chat"
