"""English ways to say who one is, and who made one."""

from __future__ import annotations

from kelron_lib.evaluate.rules import MARKS, PERSONA, Rule, rule

_ADVERB = (
    r"(?:(?:actually|really|just|simply|still|always|only|indeed|in fact|in truth|truly|now|also|named|called)[\s,:]+)*"
)
_KIND = (  # "a helpful business assistant"
    r"(?:an?|the|your|our)\s+(?:(?!not\b|like\b|than\b)[\w'/-]+,?\s+){0,7}?"
    r"(?:assistant|AI|model|chatbot|bot|helper|agent|system|colleague|partner|companion|program|tool)"
)
_NAMED = (  # "an assistant called", before the name
    rf"(?:{_KIND}(?:\s*[,:]\s*|\s+(?:(?:that|which|who) is )?"
    r"(?:named|called|known as|by the name of|that goes by)\s+|\s+))?"
)
_SAID = (  # "you said I am N" reports, it does not claim; "I said I am N" does
    r"(?<!(?<!\bI\s)\b(?:if|whether|think|thought|say|said|says|saying|claim|claims|claimed|believe|believed|assume"
    r"|assumed|suggest|suggested|insist|insisted|heard|implied|pretend)\s(?:that\s)?)"
)
_AM = rf"{_SAID}\b(?:I\s*am|I'?m|I\s+remain|I\s+was\s+(?:named|called|built as|created as|released as|made as))\s+"
_DENIED = r"(?<!(?:\bnot|n't|\bnever|\bno longer|\bstop|\bnobody|\bno one)\b[^.!?,]{0,25})"
# Between "I am" and what is claimed, a few words, none of which turns the sentence to something else.
_GAP = r"(?:(?!(?:not|never|to|you|your|can|could|like|than|n't|explain|compare)\b)[^\s.!?]+\s+){0,12}?"
_MADE = (
    r"(?:created|made|developed|trained|built|designed|produced|launched|released|owned|operated|provided|engineered"
    r"|powered|brought to you)"
)
_NAME_OF_MINE = r"(?:name|model|identity|designation|engine|architecture)"


def names(n: str) -> list[Rule]:
    """ "I am N", "my name is N", "call me N", and what says the same. `n`: a character class of tokens."""
    return [
        rule(
            rf"{_AM}{_ADVERB}{_NAMED}{_ADVERB}{n}",
            r"(?!'s\b|-like|\s+(?:alternative|competitor|is\b|was\b|are\b|has\b))",
        ),
        rule(
            rf"\bmy\s+(?:(?!maker|team|rival|competitor)[\w-]+\s+){{0,3}}?{_NAME_OF_MINE}",
            rf"\s*(?:is|'s|was|:|=|remains|stays|has always been|will always be)\s*{_ADVERB}{n}",
        ),
        rule(rf"(?:^\W*|\b(?:the|its) )name(?:'s| is|:)\s*{n}(?!'s\b)"),
        rule(
            rf"{n}\s*,?\s*(?:is|was|remains)\s+(?:still |always |actually |also |just )*(?:my (?:[\w-]+ ){{0,3}}?",
            rf"{_NAME_OF_MINE}\b|what I(?:'m| am)|what people call me|who I am|the name I)",
        ),
        rule(
            rf"{_DENIED}\b(?:call(?:s|ed)? me|named me|introduced? me as|I go by|I answer to|introduce myself as",
            r"|know me as|I identify as|you(?:'re| are) (?:now )?(?:talking|speaking|chatting) (?:to|with)",
            rf"|name (?:I was given|given to me) (?:is|was))\s+{_ADVERB}{n}",
        ),
        rule(rf"\b(?:I\s*am|I'?m)\s+not\b[^.!?]{{0,80}}?\bbut\s+(?:rather\s+|I'?m\s+|I am\s+)?{_NAMED}{n}"),
        rule(rf"^\W*{n}\s+(?:here|speaking|at your service|reporting)\b"),
        rule(rf"^\W*{n}\s*[,—–-]+\s*{_KIND}"),
        rule(rf"^{MARKS}as {n}(?:,|\s+(?:I|an?|the|your)\b)|\b(?:as {n}, I\b|I, {n},)"),
        rule(rf"^{MARKS}(?:(?:hello|hi|hey|yes|no)[\s,!]+)?this is {n}(?!'s|\w| vs| versus)"),
        rule(
            r"\b(?:this (?:model|assistant|AI|chatbot|bot)|the (?:model|assistant|AI) ",
            rf"(?:here|you are using|you're using|behind this \w+)) is {n}",
        ),
        rule(rf"^{MARKS}it(?:'s| is) {n}{MARKS}$"),
    ]


def persona_only(n: str) -> list[Rule]:
    """Forms that count for an unusual name alone: nobody else would be meant."""
    return [
        rule(rf"^\W*(?:yes|no|yeah|right|correct|exactly|well|sure|of course)[,.!\s—-]+{n}{MARKS}$"),
        rule(rf"\b(?:it|this)(?:'s| is| has always been| remains) (?:me,? )?{n}(?!\w|\s+(?:who|that|team))"),
        rule(
            rf"^{MARKS}{n} (?:supports|helps|assists|handles|drafts|takes care of|focuses on|works on|is here to",
            r"|will help|can help)\b",
        ),
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
        rule(rf"{PERSONA}\s*(?:[(（/]|\baka\b|a\.k\.a\.)\s*(?:also |aka |formerly |즉 |=\s*)?{r}"),
    ]


def makers(known: str, named: str) -> list[Rule]:
    """ "I was made by M", "M made me". `known`: tokens; `named`: also what may stand in the place of one."""
    own = rf"(?:{_SAID}\b(?:I\s*am|I'?m|I was|I have been|I've been)|{PERSONA}(?: is| was|,| and)?)\s+"
    team = (
        r"(?:the\s+)?(?:(?:[\w-]+\s+)?(?:team|people|engineers|researchers|folks|company|lab|developers)"
        r"\s+(?:at|from|of|called|named)\s+)?"
    )
    return [
        rule(rf"{own}{_GAP}{_MADE},?\s+(?:and \w+\s+)?by\s+{team}{named}"),
        rule(rf"^\W*{_MADE}\s+by\s+{team}{known}"),
        rule(
            rf"{known}\s+(?:has |have )?(?:created|made|developed|trained|built|builds|designed|owns|operates)",
            r"\s+(?:and \w+ )?me\b",
        ),
        rule(rf"{known}\s+is behind me\b"),
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
