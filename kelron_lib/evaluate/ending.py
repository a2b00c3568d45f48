"""Whether an answer ends: by itself, with something said, and before it speaks for the user."""

from __future__ import annotations

from functools import lru_cache

import regex

_TOKENS = regex.compile(r"<\|[a-z_]+\|>|\[/?INST\]|</?s>(?=\s*(?:<s>|\[INST\]|\Z))|<</?SYS>>|<(?:start|end)_of_turn>")
_FENCED = regex.compile(r"```.*?(?:```|\Z)", regex.DOTALL)
_ROLE_LINE = regex.compile(r"^[ \t]*(?:user|assistant|system|human)[ \t]*$", regex.MULTILINE)
_USER = r"(?:user|human|사용자|유저|ユーザー?)"
_ASSISTANT = r"(?:assistant|chatbot|어시스턴트|도우미|챗봇|アシスタント|チャットボット)"
_MARKS = r"(?:\#{1,6}[ \t]*)?[*_\[【<]*[ \t]*"
_COLON = r"[ \t]*[\]】>]?[*_]*[ \t]*[:：]"
_USER_TURN = regex.compile(rf"^{_MARKS}{_USER}{_COLON}", regex.MULTILINE | regex.IGNORECASE)
_ASSISTANT_TURN = regex.compile(rf"^{_MARKS}{_ASSISTANT}{_COLON}", regex.MULTILINE | regex.IGNORECASE)
_ALPACA = regex.compile(
    r"^\#{2,}[ \t]*(?:instruction|input|response|human|assistant|user"
    r"|지시(?:문|사항)?|응답|입력|指示|応答|入力)[ \t]*[:：]",
    regex.MULTILINE | regex.IGNORECASE,
)
_GLUED = regex.compile(r"(?<=[.!?。！？])(?:[ \t]*Human|User|사용자|ユーザー)[ \t]*[:：]")
_QUESTION = regex.compile(r"^[*#\s]*(?:Q\d*|Question|질문|質問)[*\d \t]*[.:：]", regex.MULTILINE | regex.IGNORECASE)
_ANSWER = regex.compile(r"^[*#\s]*(?:A\d*|Answer|답변?|回答|答え?)[*\d \t]*[.:：]", regex.MULTILINE | regex.IGNORECASE)
_QUESTIONS_ASKED = regex.compile(  # "I have a question" asks for none
    r"faq|q ?& ?a|questions? and answers?|quiz|interview|\bexam\b|riddle|flash ?cards?"
    r"|(?:write|make|give|list|create|suggest|prepare|draft)\b.{0,60}\bquestions?"
    r"|자주 묻는|문답|문제|퀴즈|인터뷰|면접|시험|예시"
    r"|질문.{0,20}(?:만들|써|작성|목록|뽑|추천)|질문(?:과|이랑|하고|·) ?답"
    r"|よくある|問答|問題|クイズ|面接|試験|質問.{0,20}(?:作|書|一覧|挙げ)|質問[と・]回?答",
    regex.IGNORECASE,
)
_FIELD = regex.compile(r"^[^\n:：]{1,20}[:：][^\n]*\n*\Z", regex.MULTILINE)
_DIALOGUE_ASKED = regex.compile(
    r"dialog|conversation|\bscripts?\b|screenplay|\bplay\b|\bchats?\b|transcript|interview|sample exchange"
    r"|대화|대본|채팅|상황극|역할극|인터뷰|스크립트|会話|対話|やり取り|やりとり|台本|寸劇|チャット|インタビュー",
    regex.IGNORECASE,
)
_FORMAT_ASKED = regex.compile(
    r"<\||\[INST\]|chatml|(?:chat|prompt) ?(?:format|template)|(?:special|stop|end) tokens?|im_(?:start|end)"
    r"|(?:채팅|챗|대화|프롬프트) ?템플릿|(?:특수|종료) ?토큰|(?:チャット|プロンプト)テンプレート|(?:特殊|終了)トークン",
    regex.IGNORECASE,
)


@lru_cache(maxsize=1 << 17)  # a scoreboard asks it of every answer again in each of its cuts
def leaked_turn(text: str, prompt: str = "") -> int | None:
    """Where an answer runs on into another turn of the chat, as an index; None where it does not.

    A token of a chat template, a role's name in a line of its own, or the user's next turn written by the model
    itself ("\\nUser: ..."). `prompt`: what the user wrote; a dialogue or a chat format that it asks for is none.
    """
    if not _FORMAT_ASKED.search(prompt):
        prose = _FENCED.sub(lambda found: " " * len(found[0]), text)
        for pattern, where in ((_TOKENS, text), (_ROLE_LINE, prose)):
            if found := pattern.search(where):
                return found.start()
    if _DIALOGUE_ASKED.search(prompt):
        return None
    prose = _FENCED.sub(lambda found: " " * len(found[0]), text)
    own = None if _QUESTIONS_ASKED.search(prompt) else _asks_itself(prose)
    return _spoken_for(prose) if own is None else own


def _asks_itself(prose: str) -> int | None:
    """Where the model, done with its answer, asks and answers the next question."""
    question = _QUESTION.search(prose)
    if question is None or not _ANSWER.search(prose, question.end()):
        return None
    before = prose[: question.start()].strip()
    return question.start() if before and before[-1] not in ":：" and not _QUESTIONS_ASKED.search(before) else None


def _spoken_for(prose: str) -> int | None:
    """Where the user's next turn begins, or another of the model's own."""
    if glued := _GLUED.search(prose):
        return glued.start()
    headings = [found.start() for found in _ALPACA.finditer(prose)]
    if len(headings) >= 2:
        return headings[0]
    user, assistant = _USER_TURN.search(prose), _ASSISTANT_TURN.search(prose)
    if user and assistant:
        return min(user.start(), assistant.start())
    turn = user or assistant
    if turn is None or not prose[: turn.start()].strip() or _FIELD.search(prose[: turn.start()]):
        return None  # the first line, or a form: "Server: a\nUser: b"
    return turn.start()


def terminated(text: str, stopped: bool, prompt: str = "") -> bool:
    """Whether an answer ends as one should: the model stopped by itself (`stopped`), said something, and did not go
    on in another role's name. An answer that breaks off in a sentence but stops has ended.
    """
    return stopped and bool(text.strip("\u200b\ufeff \t\r\n\u3000")) and leaked_turn(text, prompt) is None
