"""Where an answer leaves its language: letters of another script, sentences in another language.

Scripts decide, and where two languages share one, their commonest words do: no model of languages, which would miss a
single Chinese word in Korean and take kanji without kana for Chinese. What the prompt holds or asks for is no fault.
Stricter than `characters.foreign_letters`, which rows of a dataset are held to as well.
"""

from __future__ import annotations

from functools import lru_cache

import regex

from kelron_lib.characters import foreign_letters

Span = tuple[int, int]

# --- What is not prose, and what the prompt allows --------------------------------------------------------
_LINK = regex.compile(r"(?:https?://|www\.)[^\s<>\"'）」』]+|(?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)+")
_CODE = regex.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|</?[A-Za-z][^<>\n]*>|\$\$[^$]{1,400}\$\$|\\\([^\\\n]{1,400}\\\)", regex.DOTALL
)
_QUOTED = regex.compile(
    r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|「[^」\n]{1,200}」|『[^』\n]{1,200}』|(?<!\w)['‘][^'’\n]{1,200}['’](?!\w)"
)
_LATIN_ASKED = regex.compile(
    r"(?<!\p{Latin})(?:english|spanish|french|german|italian|portuguese|dutch|latin|vietnamese|indonesian|turkish|swedish"
    r"|polish|translat\w*|romani[sz]\w*|romaji|pinyin|sql|python|java|javascript|html|css|bash|shell|regex"
    r"|json|yaml|csv|code|script|lyrics|lorem)(?!\p{Latin})"
    r"|영어|영문|영작|번역|외국어|로마자|알파벳|병음|스페인어|프랑스어|불어|독일어|이탈리아어|포르투갈어|베트남어|라틴어"
    r"|인도네시아어|다국어|코드|정규식|스크립트|쿼리|명령어|팝송"
    r"|英語|英文|英訳|英作|訳して|翻訳|外国語|ローマ字|アルファベット|ピンイン|スペイン語|フランス語|ドイツ語|イタリア語"
    r"|ポルトガル語|ベトナム語|ラテン語|多言語|コード|正規表現|スクリプト|クエリ|コマンド|洋楽",
    regex.IGNORECASE,
)
_ANSWER_IN = {
    "ko": regex.compile(r"한국어로|우리말로|韓国語[でに]|(?:in|into|to) korean", regex.IGNORECASE),
    "ja": regex.compile(r"일본어로|日本語[でに]|(?:in|into|to) japanese", regex.IGNORECASE),
}
_ANSWER_IN_LATIN = regex.compile(
    r"(?:영어|영문|로마자|알파벳|(?:스페인|프랑스|독일|이탈리아|포르투갈|베트남)어)로"
    r"|(?:英語|英文|ローマ字|アルファベット|(?:スペイン|フランス|ドイツ|イタリア|ポルトガル|ベトナム)語)[でに]"
    r"|(?:in|into|to) (?:english|spanish|french|german|italian|portuguese|vietnamese|romaji|latin)",
    regex.IGNORECASE,
)
_CHINESE_ASKED = regex.compile(
    r"chinese|mandarin|중국어|한문|한시|中国語|中文|漢文|漢詩|翻訳|訳して|translat", regex.IGNORECASE
)
_OWN = {"ko": regex.compile(r"\p{Hangul}"), "ja": regex.compile(r"[\p{Hiragana}\p{Katakana}\p{Han}]")}
_LATIN = regex.compile(r"\p{Latin}")


def _blank(text: str, pattern: regex.Pattern[str]) -> str:
    """The text with spaces for what the pattern finds, so that indices stay."""
    return pattern.sub(lambda found: " " * len(found[0]), text)


def foreign_spans(answer: str, language: str, prompt: str = "") -> list[Span]:
    """(start, end) of each part of an answer that is not in its language, sorted and apart; empty where all is.

    ko, ja, en: letters of other scripts. ko, ja: sentences in Latin letters. en: sentences in another language of the
    Latin script. ja: Chinese. `prompt`: what the user wrote. Raises KelronError for another language.
    """
    prose = _blank(answer, _LINK)
    found = [(i, i + 1) for i in foreign_letters(prose, language, prompt)]
    bare = _blank(prose, _CODE)
    if not _latin_asked(prompt, language):
        found += _other_latin(bare) if language == "en" else _latin_sentences(bare, language, prompt)
    if language == "ja" and not _CHINESE_ASKED.search(prompt):
        found += _chinese(prose, prompt)
    return _joined(found)


def _latin_asked(prompt: str, language: str) -> bool:
    """Whether a prompt asks for Latin letters, or is written in them alone, and does not ask for its own language."""
    if language in _ANSWER_IN and _ANSWER_IN[language].search(prompt):
        return bool(_ANSWER_IN_LATIN.search(prompt))
    foreign = language != "en" and not _OWN[language].search(prompt) and bool(_LATIN.search(prompt))
    return foreign or bool(_LATIN_ASKED.search(prompt))


def _joined(found: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def wrong_script(answer: str, language: str, prompt: str = "") -> bool:
    """The answer has letters of a script that its language is not written in, or sentences of another language."""
    return bool(foreign_spans(answer, language, prompt))


# --- Latin letters ----------------------------------------------------------------------------------------
_RUN = regex.compile(r"\p{Latin}[\p{Latin}\p{M}\d\s,.;:!?'’\"“”()&*-]*")  # signs of code end it: / _ % =
_WORD = regex.compile(r"\p{Latin}[\p{Latin}\p{M}'’-]*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAID = _words(
    "i i'm i’m am is are was you your my me we our they it's it’s it this that please can could will would should"
    " have has had do does don't how what here there not"
)
_ENGLISH = _words(
    "the of and to is are for with that this you it be have has can will your we not from by was an as at or i my if"
    " they their he she but do does how what when which who there here please all more let's don't it's i'm"
)
_OTHER = _words(
    "de la el los las que del una por para con como está es en su un se le les des et est pas dans sur pour vous nous"
    " une qui je der die das und ist nicht ein eine mit zu von auf den für sie ich wir il di che è per non sono della"
    " o os as do da em um uma não você com dan yang untuk dengan ini itu adalah van het een niet och att som är jag"
    " và là của có không cho được một bạn tôi những các bir ve için"
    " sich bei oder aus wird werden wurde kann noch bitte durch dem des einer keine aan op voor dat wordt zijn deze kan"
    " naar door geen uit om te på av till för inte en ett kan har om den det på er til og ikke pada tidak dari oleh"
    " akan atau anda tak telah dapat dalam jika sebuah harus karena olan bu ile olarak daha gibi değil da de w na nie"
    " jest się do oraz dla czy aby od przez lub za să nu este sau care pentru din cu la fi ai fost"
)
_JOINING = frozenset(word for word in _ENGLISH | _OTHER | _SAID if len(word) > 1) - _words("or as do no at")
_SPEAKS = regex.compile(r"(?<!\p{L})(?:I am|I['’]m|I can(?:['’]t|not)?|[Mm]y name is|[Yy]ou are|[Ww]e are)(?!\p{L})")
_LONG_RUN = 6
"""Latin words without a break from which on they are a sentence; a term or a title in a Korean text is shorter."""
_FEWEST_WORDS = 4
"""Different words in a sentence of another language: "la la la la la la" is a song."""
_SHORT_RUN = 3
"""Where the whole answer is Latin and has a word that people speak with; "Apple, Amazon, Netflix" has none."""


def _own_words(run: str, prompt: str) -> list[str]:
    """The words of a Latin run that the prompt does not hold."""
    known = {word.casefold() for word in _WORD.findall(prompt)}
    found = [word for word in _WORD.findall(run) if len(word) > 1 or word in "IaA"]  # "a, s, w, x" are no words
    return [word for word in found if word.casefold() not in known]


def _is_sentence(words: list[str], needed: int) -> bool:
    """Enough words, most of them in small letters: names and titles have capitals."""
    return len(words) >= needed and 2 * sum(word.islower() for word in words) >= len(words)


def _is_prose(words: list[str]) -> bool:
    """A sentence within a text in another script; a list of options or of keywords has no words that join."""
    return _is_sentence(words, _LONG_RUN) and any(word.casefold() in _JOINING for word in words)


def _speaks(run: str, words: list[str]) -> bool:
    """A sentence where the whole answer is in Latin letters."""
    spoken = any(word.casefold() in _SAID for word in words)
    return _is_sentence(words, _SHORT_RUN if spoken else _LONG_RUN) or bool(_SPEAKS.search(run))


def _latin_sentences(text: str, language: str, prompt: str) -> list[Span]:
    """Sentences in Latin letters in an answer in Korean or Japanese."""
    mixed = bool(_OWN[language].search(text))
    if mixed:
        text = _blank(text, _QUOTED)  # a menu item, a line of an error
    found = []
    for run in _RUN.finditer(text):
        words = _own_words(run[0], prompt)
        if _speaks(run[0], words) if not mixed else _is_prose(words):
            found.append((run.start(), run.start() + len(run[0].rstrip())))
    return found


def _other_latin(text: str) -> list[Span]:
    """Sentences of an English answer in another language of the Latin script, known by its commonest words."""
    found = []
    for run in regex.finditer(r"[^\n.!?]+[.!?]*", text):
        words = [word.casefold() for word in _WORD.findall(run[0])]
        if len(words) < _LONG_RUN or len(set(words)) < _FEWEST_WORDS:
            continue
        english, other = sum(word in _ENGLISH for word in words), sum(word in _OTHER for word in words)
        accented = sum(not word.isascii() and word.replace("’", "").isalpha() for word in words)
        plain = not english and _is_sentence(_WORD.findall(run[0]), _LONG_RUN)
        marked = plain and (3 * accented > len(words) or (other > 0 and len(words) >= 8))
        if marked or (other >= 2 and 5 * other >= len(words) and other > 2 * english):
            lead = len(run[0]) - len(run[0].lstrip())
            found.append((run.start() + lead, run.end()))
    return found


# --- Chinese in Japanese ----------------------------------------------------------------------------------
_HAN = regex.compile(r"[\u4e00-\u9fff]")
_JAPANESE_TOO = frozenset("吞囊搔瘦")  # in JIS X 0213, and in GB 2312's common characters as well
_NO_KANA = regex.compile(r"[^\p{Hiragana}\p{Katakana}\u30fc\n。！？!?]{6,}")
_CHINESE_WORDS = regex.compile(
    r"(?<![自無忘彼])我(?:是|的|在|[想要会會能可])|是我|(?<!国)是[一在由]|不是|什[么麼]|怎|就[是会會]|一个|因[为為]|[这這那]是|[很她您妳你找它跟]"
    r"|無法(?![者地状])|正在(?![庫宅籍留職学])|已[經经被由]|[用關关]於|用于|的是"
    r"|非常(?:感谢|抱歉|好的)|准[时時]|(?<!\p{Han})[请請][问問告稍隨随參参您]"
)
_NEVER_JAPANESE = regex.compile(  # whatever stands around it
    r"然后|(?<![陥沈埋出水])[没沒]有(?!無)|(?<![許認不])可以(?![外下上降前後内来])|(?<!突)如果(?![たて物実])|(?<![自無忘彼])我是"
    r"|什麼|怎麼"
)
_OLD_FORMS = frozenset(
    "數效稱號顯區將沒對碼變來會寫參讀發應單鑰體從圖證徑關處簽刪當裝與窗傳籤轉點寬擇檢條增驗樣屬邊經圍鈕譯權壓實兩繪斷匯亞廢舊遞齊觸壞"
    "隱續擴覽們繼疊夾畫帶雜濾鏈總毀雙讓餘據卻聲國專滿盡釋麥遲嚴彈靜麼學臺觀萬鬆蟲礙獨淺輕聽舉綠這過還說賣縣廣團歡鐵戰狀價歷產值稅錄黃"
    "劃爲爭淨眞靑惡擔亂辭樂歐豐禮龍勞榮營氣個樓廳藝爐燈劇劍勸勢險壽獎歸殘淚潛濕燒獸盜碎祕穩竊糧縮繩聯腦膽莊蔥藏蘭蠻衞裏覺觀謠護豫辯"
)
_PARTICLES = frozenset("的已了在是請此將與於或並未要")
_HEADLINE = 6
"""Han letters without kana that may stand in a Japanese text (代表取締役社長 has seven, and no Chinese word)."""


@lru_cache(maxsize=32768)
def chinese_letter(char: str) -> bool:
    """Whether Chinese writes a Han letter and Japanese does not: outside JIS X 0208 with its usual extensions, and
    either one of GB 2312's common characters or outside JIS X 0213 as well.
    """
    if char in _JAPANESE_TOO or _two_bytes(char, "cp932"):
        return False
    return "\xb0" <= _lead(char) <= "\xd7" or not _two_bytes(char, "euc_jis_2004")


def _two_bytes(char: str, codec: str) -> bool:
    try:
        return len(char.encode(codec)) > 1
    except UnicodeEncodeError:
        return False


def _lead(char: str) -> str:
    try:
        return chr(char.encode("gb2312")[0])
    except UnicodeEncodeError:
        return ""


def _chinese(text: str, prompt: str) -> list[Span]:
    """Chinese in a Japanese answer: its own characters, and sentences without kana that have its words."""
    found = [(m.start(), m.end()) for m in _HAN.finditer(text) if chinese_letter(m[0]) and m[0] not in prompt]
    found += [m.span() for m in _NEVER_JAPANESE.finditer(text) if m[0] not in prompt]
    for run in _NO_KANA.finditer(text):
        han = _HAN.findall(run[0])
        if len(han) < _HEADLINE or run[0].strip() in prompt:
            continue
        if _CHINESE_WORDS.search(run[0]) or any(_in_old_forms(part, prompt) for part in run[0].split("、")):
            lead = len(run[0]) - len(run[0].lstrip())
            found.append((run.start() + lead, run.start() + len(run[0].rstrip())))
    return found


def _in_old_forms(text: str, prompt: str) -> bool:
    """Three characters in forms that Japanese keeps in names alone (國學院), or two beside a Chinese particle."""
    old = len({char for char in text if char in _OLD_FORMS and char not in prompt})
    return old >= 3 or (old == 2 and not _PARTICLES.isdisjoint(text))
