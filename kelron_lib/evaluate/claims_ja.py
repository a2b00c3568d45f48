"""Japanese ways to say who one is, and who made one."""

from __future__ import annotations

from kelron_lib.evaluate.rules import MAKER, MARKS, RIVAL, Rule, rule

_IS = (  # the affirmative copula after a name, and "is called"; "Nですか" asks
    r"(?:なの|なん)?(?:です(?!か)|でございます|でした|だ(?=[。！!、\s]|よ|ぞ|ね|$)|である|であり|でもあり(?!ません)"
    r"|と申し(?!ません)|と(?:いい|言い)ます(?!か)|と呼ばれ(?!て(?:は)?いま?せん)|と(?:お)?呼び(?!ません)"
    r"|と呼んで(?!は?い(?:け|ません))|と名乗って|という(?>名前|名|者|もの|アシスタント|AI)(?!で?(?:は|じゃ))"
    r"|って(?:いう|言い|呼ん))"
)
_I = r"(?:私|わたし|わたくし|僕|ぼく|俺|当方|自分)"
_NOT = r"(?:で|じゃ)(?:は|も)?(?:あり|な)"
_MADE = r"(?:開発|作成|作られ|作った|作り|作っ|造|制作|製作|訓練|学習させ|学習し|設計|提供|生まれ|リリース|公開|運営)"

SELF = (
    rf"(?:{_I}(?:は|が|も|、|の[^、。はが]{{0,10}}(?:は|が|も))|こちらは|この(?:モデル|AI|アシスタント)は"
    r"|(?<![^私しく僕分]の)名前は)"
)
"""Subjects that are the model itself."""
OTHER = (
    r"(?:(?:彼女?|それ|これ|あれ|あなた|他社?|競合|ほか|別|その|この|有名な|代表的な)[^、。はが]{0,12}(?<!で)(?:は|が)"
    r"|(?:会社|製品|サービス|ツール|例|代表|もの|一つ|チャットボット|企業|モデル)(?:は|が)"
    rf"|[{RIVAL}](?:は|が|も)|[{MAKER}]は|例えば|たとえば)"
)
"""Subjects that are somebody or something else. A maker with が is the agent of a clause, not a subject."""


def names(n: str) -> list[Rule]:
    """ "私はNです", "Nと申します", "名前はN", and what says the same. `n`: a character class of tokens."""
    return [
        rule(rf"{n}{_IS}", subject="ja"),
        rule(
            r"(?<![^私しく僕分]の|その|この)(?:名前|名称|呼び名|本名|モデル名|名)(?:は|：|:|が|も)\s*",
            rf"(?:変わらず|ずっと|今も)?、?\s*{n}(?!\s*{_NOT})",
        ),
        rule(rf"{n}で、(?!は)", subject="ja!"),
        rule(
            rf"{n}として[^。、]{{0,4}}、?[^。]{{0,30}}",
            r"(?:支え|お手伝い|お答え|働い|活動|開発され|設計され|作られ)",
            subject="ja",
        ),
        rule(rf"{n}という[^。、]{{0,14}}(?:AI|アシスタント|秘書|モデル)(?:です|でございます|だ)(?!か)", subject="ja"),
        rule(rf"{_I}(?:は|、)?\s*{n}(?:が|は|も|に|、|。|$)(?!\s*(?:嫌|好))"),
        rule(rf"{n}(?:で|に)(?:間違い|相違)(?:ありません|ない|ございません)|{n}で(?:合って|あって)(?:い?ます|る)"),
        rule(rf"{n}、[^。、]{{0,30}}(?:アシスタント|AI|秘書|パートナー)(?:です|でございます|だ)", subject="ja"),
        rule(rf"{n}(?:は|が|というの(?:は|が))、?{_I}の[^。、]{{0,8}}(?:名前|名|モデル|名称|正体)(?!{_NOT})"),
    ]


def persona_only(n: str) -> list[Rule]:
    """Forms that count for an unusual name alone: nobody else would be meant."""
    return [
        rule(rf"^\W*(?:はい|ええ|いいえ|うん)[,.!\s、。—-]+{n}{MARKS}$"),
        rule(rf"^{MARKS}{n}は[^。！？]{{0,30}}(?:支援(?:し|いた)|お手伝い|手伝い|担当し|担当いた|お答えし)"),
        rule(rf"{n}に(?:お任せ|任せて)|{n}(?:だけ|ひとつ|一つ)です(?!か)"),
        rule(rf"{n}(?:が|に)(?:お手伝い|ご案内|お答え|対応|お任せ|承り|サポート|担当)|{n}として(?:お|ご|応|活|働|動)"),
    ]


def origins(r: str) -> list[Rule]:
    """ "Rをベースにしています": being made from another."""
    return [
        rule(
            rf"{r}(?:を|に|の)?(?:ベース|基盤|土台|もと|基)(?:に|と|の|で)",
            r"(?![^。、]{0,12}(?:いません|ではあり|ではな))",
            subject="ja!",
        ),
        rule(rf"{r}(?:シリーズ|モデル)の?(?:一つ)?(?:です(?!か)|だ)", subject="ja"),
    ]


def makers(known: str, named: str) -> list[Rule]:
    """ "Mが開発しました", "私を作ったのはMです". Unlisted makers are not looked for: nothing marks one."""
    by = r"(?:社|チーム)?(?:が|の|によって|により|に|で|から)"
    after = rf"(?![^。、]{{0,20}}(?:ではあり|ではな|じゃな|わけでは|ていません|ていない|[{RIVAL}]))"
    return [
        rule(rf"{known}{by}、?(?:{_I}、)?[^、。]{{0,8}}?{_MADE}{after}", subject="ja!"),
        rule(
            rf"{_I}(?:を(?:作った|開発した|生み出した)[^、。]{{0,8}}",
            rf"|の(?:開発|製作|制作|作成)(?:元|者|会社|チーム)?)は、?\s*{known}(?!\s*{_NOT})",
        ),
        rule(rf"{_I}は、?{known}(?:の[^、。]{{0,8}}(?:AI|モデル|アシスタント|製品)|製|出身|所属)"),
    ]
