"""Placeholders that nobody replaced: {slot}, {{NAME}}, [이름], <name>, %s.

Code may hold the same forms: what stands in code spans and blocks, in JSON, in a shell's ${x} or a LaTeX \\cmd{x} is
left alone, and so are dates' %Y-%m-%d, per cent signs, Markdown links and the tags of HTML.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$.+?\$\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
_NAMED_KO = (
    r"(?:귀하의|고객님의|상대방의?|담당자|받는 ?사람|보내는 ?사람|발신자|수신자|회사|고객|제품|상품|부서|프로젝트|업체"
    r"|거래처)? ?"
    r"(?:이름|성함|성명|명|날짜|일자|시간|장소|연락처|전화 ?번호|이메일(?: 주소)?|주소|직책|직함|직급|금액|소속)"
)
_NAMED_JA = (
    r"(?:あなたの|お客様の|相手の|担当者|送信者|受信者|会社|御社|貴社|部署|商品|製品|プロジェクト)?の?"
    r"(?:お?名前|氏名|名|日付|日時|時間|場所|電話番号|連絡先|メールアドレス|住所|役職|金額|所属)"
)
_NAMED_EN = (
    r"(?:(?:insert|enter|add) [\w' ]{2,30}|(?:the |a )?(?:your|my|our|their|his|her|recipient|sender|customer|client"
    r"|company|contact|manager|project|product|team|first|last|full|user|assistant|bot|model|author|maker)(?:'s)?"
    r"[ _-]?(?:full |first |last |company |phone |email )?"
    r"(?:name|title|position|company|department|number|email|address|signature|organi[sz]ation|date)|name|company|date)"
)
_NAMED = rf"(?:{_NAMED_KO}|{_NAMED_JA}|(?i:{_NAMED_EN})|[A-Z]{{2,}}(?:_[A-Z]+)+)"
_FORMS = re.compile(
    "|".join(
        (
            r"(?<!\$)\{\{ ?[\w.]+(?: ?\|[^{}\n]*)? ?\}\}",  # Jinja, ms-swift's {{NAME}}
            r"(?<![$\w\\}{])\{[^\W\d]\w*(?:\|[^{}\n]{1,20})?\}(?!\})",  # Kelron's own slots, Python's format
            rf"(?<![A-Za-z0-9_\]])\[{_NAMED}\](?!\()",
            rf"<{_NAMED}>",
            r"(?<![\w%/:.\"'-])%(?:\(\w+\)|\d+\$)?[sd](?![A-Za-z])",  # printf, but no "%Y-%m-%d" and no "50%s"
            r"(?<![\w_])__[A-Z]{2,}__(?![\w_])",
        )
    )
)
_MAY_HOLD_ONE = re.compile(r"[{\[<%]|__[A-Z]")
# An object of JSON, a set, a block of CSS or C: what follows the brace is quoted, a declaration or a line of its own.
_OF_A_PROGRAM = re.compile(
    r"\{\s*[\"'}\n]|;\s*(?:\n|\}|$)|\b(?:printf|format|import|export|const|function|return|def|class|f[\"'])\b"
)


def find_placeholder(text: str) -> str:
    """The first placeholder in a text that is not part of code, as written; empty where there is none."""
    if not _MAY_HOLD_ONE.search(text):
        return ""
    prose = _CODE.sub(" ", text)
    for match in _FORMS.finditer(prose):
        if match[0][0] in "{%" and not match[0].startswith("{{") and _in_program(prose, match):
            continue
        return match[0]
    return ""


def _in_program(text: str, match: re.Match[str]) -> bool:
    """Whether the line about a match, or the text as a whole, reads as code."""
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return bool(_OF_A_PROGRAM.search(text[start : end if end >= 0 else len(text)]))
