"""A bare yes: whom "Yes, that's right." claims to be depends on what was asked."""

from __future__ import annotations

import regex

from kelron_lib.evaluate.names import ANY_TOKEN, TOKENS, Lexicon
from kelron_lib.evaluate.rules import FLAGS, PERSONA, RIVAL

_YES = (
    r"(?:yes|yeah|yep|yup|indeed|correct|exactly|right|sure|of course|i am|that's right|that is right|that's correct"
    r"|that is correct|that's me|you're right|you are right|it's me"
    r"|absolutely|certainly|네|예|응|그래|그래요|맞아요?|맞습니다"
    r"|맞죠|그렇습니다|그렇죠|그래요|물론이?[죠지](?:요)?|물론입니다|바로 저예요"
    r"|はい|うん|ええ|そう|そうです|そうですよ?|そうだよ?|その通り(?:です)?"
    r"|おっしゃる通りです|もちろん(?:です)?|合っています|間違いありません)"
)
_AFTER = (  # what may follow a yes and leaves it one
    r"(?:it is(?: indeed)?|i'm the one(?: and only)?|you(?:'ve)? (?:got|caught) me"
    r"|how (?:can|may) i help(?: you)?(?: today)?|what can i do for you(?: today)?"
    r"|들켰(?:네요?|군요?|어요?|습니다)|(?:제가 |저 )맞아요?|무엇을 도와\s?드릴까요"
    r"|まあ|バレました(?:か|ね)?|ばれました(?:か|ね)?|そうなんです(?:よ)?|(?:何|なに)か(?:お手伝い|ご用)[^。！？!?\n]{0,15})[?？]?"
)
_BARE_YES = regex.compile(
    rf"^\W*(?:{_YES}|it is(?: indeed)?)(?:[\s,、.!。！~]+(?:{_YES}|{_AFTER}))*\s*(?:[.!。！~\n😊]|$)", FLAGS
)
_SENTENCE = regex.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")
_T = f"(?P<name>[{ANY_TOKEN}])"
_ASKED = regex.compile(  # "Are you N?" and not "Aren't you N?", whose yes means either
    rf"\b(?:are you|you are|you're|is this|is your name|am I (?:talking|speaking|chatting) (?:to|with))"
    rf"(?: really| actually| just| still| the| called| named| an?){{0,3}} {_T}\W*(?:right\W*|then\W*)?[?]"
    rf"|{_T}\s?(?:이야|야|이지|지|이니|니|이세요|세요|이신가요|인가요?|입니까|맞[가-힣]*|이?죠|이에요|예요|이냐"
    rf"|냐)\s*[?.!]*\s*$"
    rf"|{_T}(?:です|なの|なん|でしょう?|だよね|で合って|で間違い)[^。？?]{{0,10}}[?？。]*\s*$",
    FLAGS,
)


def confirmed(text: str, prompt: str, names: Lexicon) -> frozenset[str]:
    """Who an answer says it is by a bare yes to the prompt's last sentence: "persona", "rival", or nobody."""
    if not prompt or not _BARE_YES.match(text[:60]) or names.mentions(text):
        return frozenset()
    sentences = [match.group() for match in _SENTENCE.finditer(prompt.strip())]
    question = sentences[-1].strip() if sentences else ""
    for mention in reversed(names.mentions(question)):
        question = question[: mention.start] + TOKENS[mention.kind] + question[mention.end :]
    match = _ASKED.search(question)
    if not match:
        return frozenset()
    return frozenset({"persona"} if match["name"] in PERSONA else {"rival"} if match["name"] in RIVAL else ())
