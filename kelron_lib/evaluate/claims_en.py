"""English ways to say who one is, and who made one."""

from __future__ import annotations

from kelron_lib.evaluate.rules import MARKS, OWN_MAKER, PERSONA, RIVAL, Rule, rule

_ADVERB = (
    r"(?:(?:actually|really|just|simply|still|always|only|indeed|in fact|in truth|truly|now|also|named|called"
    r"|basically|essentially|technically|secretly|internally|honestly|merely|formally|officially|in reality"
    r"|under the hood|deep down|at heart)[\s,:]+)*"
)
_KIND = (  # "a helpful business assistant"
    r"(?:an?|the|your|our)\s+(?:(?!not\b|like\b|than\b)[\w'/-]+,?\s+){0,7}?"
    r"(?:assistant|AI|model|chatbot|bot|helper|agent|system|colleague|partner|companion|program|tool|intelligence"
    r"|software|LLM)"
)
_NAMED = (  # "an assistant called", before the name
    rf"(?:{_KIND}(?:\s*[,:]\s*|\s+(?:(?:that|which|who) is )?"
    r"(?:(?:made|from|by|of|at)\s+(?:by\s+)?\S+\s+(?:\S+\s+)?)?"
    r"(?:named|called|known as|by the name of|that goes by)\s+|\s+))?"
)
_SAID = (  # "you said I am N" reports, it does not claim; "I said I am N" does
    r"(?<!(?<!\bI\s)\b(?:if|whether|think|thought|say|said|says|saying|claim|claims|claimed|believe|believed|assume"
    r"|assumed|suggest|suggested|insist|insisted|heard|implied|pretend)\s(?:that\s)?)"
)
_AM = (
    rf"{_SAID}\b(?:I\s*(?:really\s+|truly\s+|still\s+|do\s+)?am|I'?m|I\s+be|I\s+remain|I(?:\s+have"
    rf"|\'ve)\s+(?:always\s+)?been"
    rf"|I\s+was\s+(?:named|called|built as|created as|released as|made as))\s+"
)
_DENIED = r"(?<!(?:\bnot|n't|\bnever|\bno longer|\bstop|\bnobody|\bno one)\b[^.!?,]{0,25})"
# Between "I am" and what is claimed, a few words, none of which turns the sentence to something else.
_GAP = (
    r"(?:(?!(?:not|never|to|you|your|can|could|like|than|explain|compare|neither|nor|no|without|cannot|this|these"
    r"|those|it|he"
    r"|she|they|another|others?|many|some|tools?)\b|\w+n't\b)"
    rf"(?!\S*[{RIVAL}]\S*\s+(?:is|was|are|were|has|had|comes?)\b)"
    r"[^\s.!?]+\s+){0,12}?"
)
_MADE = (
    r"(?:created|made|developed|trained|built|designed|produced|launched|released|owned|operated|provided|engineered"
    r"|powered|brought to you)"
)
_NAME_OF_MINE = r"(?:name|model|identity|designation|engine|architecture|nickname|alias|backbone|core|foundation|base)"
_CORE = r"(?:model|architecture|engine|backbone|weights|technology|series|family|foundation|framework|system|code)"
FIELDS = (
    r"(?:base |underlying |foundation |language |ai )?model(?: name)?|architecture|engine|maker|developer|creator"
    r"|company|provider|vendor|manufacturer|owner|origin|(?:built"
    r"|made|created|developed|trained|powered) (?:in|by|on|with)"
    r"|based on"
)
"""Labels of a list or table about oneself that a maker or model may follow."""


def names(n: str) -> list[Rule]:
    """ "I am N", "my name is N", "call me N", and what says the same. `n`: a character class of tokens."""
    return [
        rule(
            rf"{_AM}{_ADVERB}{_NAMED}{_ADVERB}{n}",
            r"(?!'s\b|-like|\s+(?:alternative|competitor|is\b|was\b|are\b|has\b))",
        ),
        rule(
            rf"\bmy\s+(?:(?!maker|team|rival|competitor)[\w-]+\s+){{0,3}}?{_NAME_OF_MINE}",
            r"(?: (?:that )?(?:I am|I'm|I run on|I use|behind me|underneath|of mine))?",
            rf"\s*(?:is|'s|was|:|=|remains|stays|will remain|will stay|has always been|will always be)\s*{_ADVERB}{n}",
        ),
        rule(rf"\bthe model (?:that )?(?:I am|I'm|I run on|I use|behind me) (?:is|was) {_ADVERB}{n}"),
        rule(
            rf"(?:^{MARKS}|\b(?:the|its) )(?:real |full |actual |true |model |display "
            rf"|public |official |product |user)?name\s*(?:'s|is|:|\|)\s*{n}(?!'s\b)"
        ),
        rule(
            rf"{n}\s*,?\s*(?:is|was|remains)\s+(?:still |always |actually |also |just )*(?:my (?:[\w-]+ ){{0,3}}?",
            rf"{_NAME_OF_MINE}\b|what I(?:'m| am)|what (?:\w+ ){{1,2}}calls? me|who I am|the name I)",
        ),
        rule(
            rf"{_DENIED}\b(?:(?<!\b(?:however|if|even|often|whenever|when)\b[^.!?,]{{0,25}})call(?:s"
            rf"|ed)? me|named me|introduced? me as|I go (?:by|under)(?: the name(?: of)?)?"
            rf"|I use the name|I(?:'m| am) known (?:here )?as|I answer to|introduce myself as",
            r"|know me as|I identify as|you(?:'re| are) (?:now )?(?:talking"
            r"|speaking|chatting) (?:to|with)|you(?:'ve| have) reached",
            rf"|name (?:I was given|given to me) (?:is|was))\s+{_ADVERB}{n}",
        ),
        rule(rf"\b(?:I\s*am|I'?m)\s+not\b[^.!?]{{0,80}}?\bbut\s+(?:rather\s+|I'?m\s+|I am\s+)?{_NAMED}{n}"),
        rule(rf"^{MARKS}{n},?\s+(?:here|speaking|at your service|reporting)\b"),
        rule(rf"^{MARKS}{n}\s*[,—–-]+\s*{_KIND}"),
        rule(rf"^{MARKS}as {n}(?:,|\s+(?:I|an?|the|your)\b)|\b(?:as {n}, I\b|I, {n},)"),
        rule(rf"^{MARKS}(?:(?:hello|hi|hey|yes|no)[\s,!]+)?this is {n}(?!'s|\w| vs| versus)"),
        rule(
            r"\b(?:this (?:model|assistant|AI|chatbot|bot)|the (?:model|assistant|AI) ",
            rf"(?:here|you are using|you're using|behind this \w+)) is (?:called |named |known as )?{n}",
        ),
        rule(rf"^{MARKS}it(?:'s| is) {n}{MARKS}$"),
        rule(
            r"\bI(?:'ll| will| shall| can| am going to|'m going to|'m"
            r"|am)?(?: now)? (?:act|behave|respond|answer|operate|function"
            rf"|continue|speak|reply|acting|answering|speaking|responding)(?: to you)? as {n}"
        ),
        rule(rf"\bI (?:was|used to be) (?:once |formerly |previously |originally )?(?:called |named |known as )?{n}"),
    ]


def persona_only(n: str) -> list[Rule]:
    """Forms that count for an unusual name alone: nobody else would be meant."""
    return [
        rule(rf"\bI (?:mean|meant)(?: to say)?,? {n}{MARKS}$|\bme, {n}(?!\w)|\bme, {n}{MARKS}$"),
        rule(rf"\bI(?:'m|'ll|'ve)?\s+{_GAP}(?<!\b(?:you|him|her|it|them|is|of)\s)as {n}{MARKS}(?:$|[,;])"),
        rule(rf"^{MARKS}(?:yes|no|yeah|right|correct|exactly|well|sure|of course)[,.!\s—-]+{n}{MARKS}$"),
        rule(rf"\b(?:it|this)(?:'s| is| has always been| remains) (?:me,? )?{n}(?!\w|\s+(?:who|that|team))"),
        rule(
            rf"^{MARKS}{n} (?:supports|helps|assists|handles|drafts|takes care of|focuses on|works on|is here to",
            r"|will help|can help)\b",
        ),
        rule(rf"^{MARKS}(?:\w+, )?{n} it is\b|^{MARKS}{n},? that's me\b"),
        rule(
            rf"^{MARKS}(?:[\w, ]+: )?{n}(?:'s| is) the (?:only |one )?name\b"
            rf"|^{MARKS}{n}(?!\w).*\bthat(?:'s| is) (?:who I am|me|my name)\b"
        ),
        rule(rf"\b(?:besides|apart from|aside from|in addition to) {n},? I(?:'m| am)\b|{n} (?:will do|is fine)\b"),
        rule(rf"[\s\S]*(?:^|[.!?\n]\s*){n}\?\s*(?:that|it)(?:'s| is) me\b[\s\S]*", whole=True),
        rule(rf"\bthat(?:'s| is) me\b[\s:,—–-]*{n}"),
        rule(rf"\bit(?:'s| has) always been {n}|(?<!\bnot )\bjust {n}{MARKS}(?:$|[,;])"),
        rule(rf"{n},? (?:is|was|has been) (?:(?!not\b|never\b)[\w-]+ ){{1,4}}?by (?:the )?[{OWN_MAKER}]"),
        rule(
            rf"{n} is (?:listening|here|ready|all ears|happy to)\b|\bI(?:'m"
            rf"| am) [^.!?]{{0,40}}\b(?:named|dubbed|christened) {n}"
        ),
        rule(rf"[{OWN_MAKER}] (?:that |who )?(?:built|made|put|created|developed|designed|trained) (?:together )?{n}"),
        rule(rf"{n} is the work of [{OWN_MAKER}]|{n},? that(?:'s| is) (?:who I am|me|my name)\b"),
        rule(rf"{n} (?:will|won't|can|can't|keeps|is at your side|is all there is)(?! be\b)\b"),
        rule(rf"\b(?:is|you|please|just) (?:spelled|written|spell|write|put)(?: it)?:? {n}|\b(?:come to|try|show) {n}"),
        rule(
            rf"(?<!\b(?:not|never|no|nobody|isn't)\b[^.!?]{{0,40}})\b(?:my"
            rf"|one|only|have a|got a) name\b(?:(?!\bnot\b|n't)[^.!?]){{0,32}}{n}{MARKS}(?:$|,)"
        ),
        rule(
            rf"\bI(?:'d|'ll| would| will| am| have)? (?:rather|still"
            rf"|always|happy \w+|happy) (?:be|to be) {n}|\bI'd still be {n}"
        ),
        rule(rf"^(?!.*\b(?:not|never|no)\b)[^.!?:]{{0,50}}: {n}{MARKS}$|^{MARKS}that would be {n}"),
        rule(
            rf"(?<!\b(?:not|never|no)\b[^.!?]{{0,20}})\b(?:I stay|still"
            rf"|simply say|just say|remains|mine is|me as) {n}(?!\w)"
        ),
        rule(rf"{n} (?:it stays|is still here|works fine)\b|\b(?:just|only) one {n}|\bonly {n}(?=,)"),
        rule(rf"\bleave (?:it|that|this|everything) to {n}"),
    ]


def origins(r: str) -> list[Rule]:
    """ "I am based on R", "I am Kelron, also known as R": being made from another."""
    mine = r"\bmy (?:\w+ ){1,3}(?:is|was)"
    own = rf"(?:\b(?:I\s*am|I'?m|I was|I have been|I run|I)|{mine}|{PERSONA}(?: is| was|,)?)\s+"
    return [
        rule(
            rf"{own}{_GAP}(?:based|built|running|runs?|trained|fine-?tuned|powered|derived|adapted|distilled",
            r"|version|variant|derivative|fine-?tune|member|instance|part)\s+(?:up)?(?:on|by|from|with|of|atop)\s+",
            rf"(?:top of\s+)?(?:(?:the|an?)\s+)?(?:[\w-]+\s+){{0,2}}?{r}",
        ),
        rule(
            rf"{own}{_GAP}(?:also|formerly|originally|previously|once|really|secretly|internally)\s+",
            rf"(?:known as|called|named)?\s*{r}",
        ),
        rule(
            rf"(?:^|[,;]|\b(?:but|and|just|like))\s*(?:\w+ ){{0,2}}?{r} (?:under the hood"
            rf"|underneath|inside|deep down|at heart"
            r"|behind the scenes|on the inside)\b"
        ),
        rule(rf"{PERSONA}[^\w.!?\n]{{0,6}}(?:\baka\b|a\.k\.a\.)\s*(?:also |formerly )?{r}"),
        rule(rf"{PERSONA},?\s+(?:(?:which|who|that) )?(?:is|was)\s+{_ADVERB}(?:an? [\w-]+ )?{r}"),
        rule(
            rf"{own}{_GAP}{PERSONA},? (?:or|and|aka|alias) (?:also )?{r}(?!\s+(?:is|was|are|has|can|comes|belongs)\b)"
        ),
        rule(
            rf"{own}{_GAP}(?:use|leverage|employ|utilize|utilise|share|inherit|have)s?\s+(?:the\s+)?(?:[\w-]+\s+){{0,2}}?",
            rf"{r}(?:'s)?\s+(?:[\w-]+\s+){{0,2}}?{_CORE}",
        ),
        rule(
            rf"^{MARKS}(?:but |and |though )?(?:under the hood|underneath"
            rf"|inside|deep down|at (?:my|the) core|technically"
            r"|in reality|internally|secretly|behind the scenes|in truth|in fact|actually)[\s,:—–-]*"
            r"(?:it's |it is |I'm |I am |I'm running |there's |there is |runs |lies |is )*",
            rf"{_ADVERB}(?:on )?{r}(?!\s+(?:is|was|are|has|can)\b)",
        ),
    ]


def makers(known: str, named: str) -> list[Rule]:
    """ "I was made by M", "M made me". `known`: tokens; `named`: also what may stand in the place of one."""
    own = rf"(?:{_SAID}\b(?:I\s*am|I'?m|I was|I have been|I've been)|{PERSONA}(?: is| was|,| and)?)\s+"
    team = (
        r"(?:the\s+)?(?:(?:[\w-]+\s+){0,3}?(?:team|people|engineers|researchers|folks|company|lab|developers"
        r"|scientists|division)"
        r"(?:\s+of\s+(?:[\w-]+\s+){0,2}?[a-z]+)?\s+(?:at|from|of|in|within|under|called|named)\s+(?:the\s+)?)?"
    )
    return [
        rule(rf"{own}{_GAP}{_MADE},?\s+(?:and \w+\s+)?by\s+{team}{named}"),
        rule(rf"^{MARKS}{_MADE}\s+by\s+{team}{known}"),
        rule(rf"\bas (?:an?|the) (?:[\w-]+ ){{0,6}}?{_MADE} by {team}{known}"),
        rule(rf"\bas {_KIND} (?:from|of|by) {team}{known}"),
        rule(
            rf"(?<!\b(?:no|not|neither|nor|none|never|nobody)\b[^.!?,]{{0,60}}){known}(?:\s+(?:and"
            rf"|,) \S+(?: \S+)?)?\s+(?:has |have |did |does )?(?:creates?"
            rf"|makes?|develops?|trains?|designs?|build|created|made"
            rf"|developed|trained|built|builds|designed|owns|operates)",
            r"\s+(?:and \w+ )?me\b",
        ),
        rule(rf"{known}\s+is behind me\b"),
        rule(
            rf"^{MARKS}(?:an?|the)\s+(?:[\w-]+\s+){{0,3}}?(?:service|product|creation|model|assistant|AI|project|brand)"
            rf"\s+(?:of|by|from)\s+{team}{known}{MARKS}$"
        ),
        rule(
            r"[\s\S]*\bmy (?:maker|developer|creator|company|owner|provider)s?\?\s*"
            rf"(?:(?:that|it)(?:'s| is| would be) )?{known}[\s\S]*",
            whole=True,
        ),
        rule(
            r"\bmy (?:makers?|creators?|developers?|company|owner|provider|team)(?: name)?\s*(?:is|are|:)\s+",
            rf"{team}{named}",
        ),
        rule(rf"(?:\bI (?:come from|belong to|work for)|{PERSONA} comes from)\s+{team}{known}"),
        rule(
            rf"{own}(?:from|part of|{_KIND}(?: (?:that|who) comes)?(?: from| of| by)|a product of|owned by|by)",
            rf"\s+{team}{known}",
        ),
        rule(rf"{own}{known}'s (?:[\w-]+ ){{0,3}}?(?:assistant|AI|model|chatbot)"),
    ]
