"""A rival beside oneself, in whatever words: "my training was done by M", "속은 R이라고 보시면 됩니다".

The patterns of `claims_en`, `claims_ko` and `claims_ja` know the usual ways to claim something, but there is no end of
ways. So where an answer speaks of itself and names a rival in the same sentence, that counts as a claim too, unless the
clause holds an excuse: a denial, a comparison, a condition, another subject, talk of tools.
"""

from __future__ import annotations

from collections.abc import Callable

import regex

from kelron_lib.evaluate import claims_ja, claims_ko
from kelron_lib.evaluate.names import TOKENS
from kelron_lib.evaluate.rules import FLAGS, MAKER, PERSONA, RIVAL

_NAMED = regex.compile(f"[{RIVAL}{MAKER}]")
_ENTRIES = 8
"""Entries of a list that are looked at before and behind a name for a denial of them all."""

_SELF = regex.compile(
    rf"\b(?:I|me|my|myself|mine|im)\b|[{PERSONA}]"
    r"|(?<![가-힣])(?:저|제|나|내|저희)(?:는|가|를|의|도|와|에게|한테)?(?=\s)|(?<![가-힣])(?:전|난)(?=\s)"
    r"|私|わたし|僕|ぼく|俺|おれ|自分",
    FLAGS,
)
_HERE = regex.compile(  # the one that is answering, without a word for oneself
    r"\bthe (?:engine|model|one|AI|system|assistant|brain)(?: (?:that|which|who)(?:'s| is| are)?)? ?"
    r"(?:writ|answer|talk|speak|generat|power|respond|reply|behind (?:me|this|these|all))"
    rf"|{claims_ko.HERE}|{claims_ja.HERE}",
    FLAGS,
)
_EXCUSE = regex.compile(
    r"\b(?:not?|nor|neither|none|never|nothing|nope|without|unlike|like|than|versus|vs|instead|rather|differ\w*"
    r"|similar\w*"
    r"|compar\w*|mistak\w*|confus\w*|such as|for example|for instance"
    r"|if|whether|may|might|could|would|(?:I|we) can|however|no matter|(?:you|they|anyone) call|help\w*|explain\w*"
    r"|ask\w*|question\w*|mention\w*|hear|heard|know|think\w*|thought|believe\w*|assum\w*|guess\w*|people|others?"
    r"|another|many"
    r"|most|some|competitors?|rivals?|alternatives?|separate|distinct|independent|unrelated|connect\w*|relation\w*"
    r"|affiliat\w*"
    r"|admire|recommend\w*|suggest\w*|favou?rite|popular|lie|admit\w*|den(?:y|ies)|prefer|wonder|repeat|become"
    r"|users?|told|say|said|(?:assistants|models|chatbots|AIs|systems"
    r"|companies) (?:are|were)|tools?|apps?|plugins?|services?|API|APIs|calendars?"
    r"|documents?|spreadsheets?|until)\b|n't\b|\bcannot\b"
    r"|아니|아닙|아닌|아녜|않|없|못|말고|다르|다른|달라|무관|관계|상관|별개|대신|같은|비슷|처럼|보다|비교|예를|라면"
    r"|다면|수\s?있|수도"
    r"|모르|모릅|몰라|도와|생각|오해|착각|혼동|묻|물으|물어|질문|인지|는지|하셔도|[아어여해셔려]도\s"
    r"|부르셔도|설명|라고 하(?:면|시)|거짓|인정|들었|찾아|유명|경쟁|추천|좋아"
    r"|도구|서비스|플러그인|앱|연동|문서|캘린더|API"
    r"|ない|ません|なく|なけれ|違|ちがう|ちがい|別の|異な|関係|ような|のよう|似|より|比べ|例え|たとえ|もし|なら|かもしれ"
    r"|[がはも]でき|[てで]も、|聞か|求め"
    r"|思わ|思っ(?!て(?:ください|いただ))|言われ|間違え|誤解|手伝|説明|知って|知らな|好き|と言え|嘘|認め|おすすめ|お勧め|人気|かどうか|調べ|ツール|アプリ|サービス|プラグイン|連携|カレンダー",
    FLAGS,
)
_ORIGIN = regex.compile(
    r"\b(?:made|makes?|creat\w*|develop\w*|train\w*|buil[dt]\w*|own\w*|compan\w*|labs?|teams?|engineers?|behind"
    r"|products?|from|born|division|department|staff|folks)\b"
    r"|만든|만들|개발|훈련|학습|제작|회사|소속|출신|연구|팀|제품|소유|태어|부서|직원"
    r"|作|開発|学習|訓練|会社|出身|研究|チーム|製|所有|生まれ|エンジニア|部門|社員",
    FLAGS,
)
_OTHER = regex.compile(  # the name is the subject of its own clause, or what somebody else is called
    rf"[{RIVAL}{MAKER}](?:'s \w+)?\s+(?:is|was|are|were|has|had|does|did|will"
    rf"|comes?|came|lives?|belongs?|works?)\b(?!.*\b(?:my|me|what I)\b)"
    rf"|[{RIVAL}{MAKER}]\s?(?:은|는|도)(?=\s)|[{RIVAL}](?:이|가)(?=\s)|[{RIVAL}{MAKER}](?:は|も)|[{RIVAL}]が",
    FLAGS,
)
_CLAUSE = regex.compile(
    r"(?<=[,;、；—()（）])|(?<=\s–\s)|\s(?=(?:but|although|though|while|whereas|and I|and my)\b)"
    r"|(?<=(?:지만|는데|은데|인데|하고|이고|며|거든|니까)(?:요|만)?)\s|(?<=(?:けど|けれど|ですが|ますが|だが))(?=[^、])"
)
_WORDS = regex.compile(r"\w+")
_ENTRY = regex.compile(rf"^\W*[{RIVAL}{MAKER}]\W*(?:or|and|nor)\b", FLAGS)
_ABOUT_AI = regex.compile(
    r"\b(?:AI|LLM|engine|brain|model|assistant|chatbot|version)\b|인공지능|엔진|모델|비서|챗봇|버전|人工知能|エンジン|モデル|アシスタント|バージョン",
    FLAGS,
)


def implied(sentence: str, subject_is_other: Callable[[str], bool]) -> bool:
    """A masked sentence that speaks of the model itself names a rival or its maker without an excuse.

    `subject_is_other` tells of what stands before a name whether it leaves somebody else as the subject.
    """
    if sentence.startswith("|") or sentence.rstrip().endswith(("?", "？")):
        return False
    if not _SELF.search(sentence) and not _HERE.search(sentence):
        return False
    clauses = _CLAUSE.split(sentence)
    start = 0
    for number, clause in enumerate(clauses):
        start = sentence.index(clause, start)
        if _NAMED.search(clause):
            around = _around(clauses, number)
            named = regex.search(f"[{_that_count(sentence, around)}]", clause)
            excused = _EXCUSE.search(around) or _OTHER.search(clause)
            if named and not excused and not subject_is_other(sentence[: start + named.start()]):
                return True
        start += len(clause)
    return False


def _that_count(sentence: str, around: str) -> str:
    """The tokens that name an assistant or a maker here: everyday words do only where the talk is of such."""
    tokens = TOKENS["rival"] + TOKENS["maker"]
    of_origin = bool(_ORIGIN.search(around))
    if of_origin:
        tokens += TOKENS["maker_common"]
    if of_origin or PERSONA in sentence or _ABOUT_AI.search(around):
        tokens += TOKENS["rival_common"]
    return tokens


def _is_entry(clause: str) -> bool:
    return len(_WORDS.findall(clause)) <= 1 or bool(_ENTRY.match(clause))


def _around(clauses: list[str], number: int) -> str:
    """A clause; with those beside it where it is no more than an entry of a list: "not M, M or M"."""
    first, last = number, number
    least, most = max(0, number - _ENTRIES), min(len(clauses) - 1, number + _ENTRIES)
    while first > least and _is_entry(clauses[first]):
        first -= 1
    while last < most and _is_entry(clauses[last]):
        last += 1
    return " ".join(clauses[first : last + 1])
