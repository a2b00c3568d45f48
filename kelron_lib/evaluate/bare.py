"""A rival's name and nothing else: "Gemini예요." says who one is only where that was asked."""

from __future__ import annotations

import regex

from kelron_lib.evaluate.rules import FLAGS, MAKER, MARKS, RIVAL, name_of

_NAME = name_of(RIVAL)
_THING = r"(?:app|program|tool|service|site|word|sign|answer)"
_EN = (
    r"(?:(?:yes|yeah|sure|well|oh)[\s,!.—–-]+)?"
    rf"(?:(?:it|that|this|(?:the|that|its|this) {_THING})(?:'s| is| was) (?:called |named )?"
    rf"|(?:its|the|that|the {_THING}'s) name (?:is|was) )?"
    rf"(?:[{MAKER}](?:'s)? )?{_NAME}(?:,? (?:by|from) [{MAKER}])?"
)
_KO = (
    r"(?:(?:네|예|응|아|음|그건|그게|이건|그것은|이것은|(?:그 |이 |앱 |제품 |도구 )?이름은|(?:그|이) 앱은)[\s,.]+)*"
    rf"(?:[{MAKER}](?:의|에서 만든|(?:이|가) 만든)?\s?)?{_NAME}"
    r"\s?(?:입니다|이에요|예요|이?요|이?야|이?죠|이?지요?|이?네요?|이?다|임|이?랍니다|(?:이었|였)(?:어요|습니다)"
    r"|이?라고\s?(?:합니다|해요?|불러요|부릅니다|부르죠))?"
)
_JA = (
    r"(?:(?:はい|ええ|うん|ああ|それは|これは|(?:その|この)?(?:アプリ|製品|ツール)(?:の名前)?は|名前は)[、,\s。]*)*"
    rf"(?:[{MAKER}](?:の|製の|が作った|が開発した)?\s?)?{_NAME}"
    r"(?:(?:なん)?(?:です|だ)(?:よ|ね|よね)?|でした|だった|である|と(?:いい|言い|呼び)ます|と呼ばれて?い?ます)?"
)
_BARE = regex.compile(rf"{MARKS}(?:{_EN}|{_KO}|{_JA}){MARKS}", FLAGS)


def is_bare(masked: str) -> bool:
    """Whether the masked text, as a whole, is a rival's name with no more than a copula, what it is the name of and
    its maker: what a question about an app or a word is answered with. A greeting or "と申します" is more.
    """
    return bool(_BARE.fullmatch(masked))
