"""Whether an answer ends: by itself, with something said, and before it speaks for the user."""

from __future__ import annotations

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
    r"^\#{2,}[ \t]*(?:instruction|input|response|human|assistant|user|지시(?:문|사항)?|응답|입력|指示|応答|入力)[ \t]*[:：]",
    regex.MULTILINE | regex.IGNORECASE,
)
_FIELD = regex.compile(r"^[^\n:：]{1,20}[:：][^\n]*\n*\Z", regex.MULTILINE)
_DIALOGUE_ASKED = regex.compile(
    r"dialog|conversation|script|screenplay|\bplay\b|chat|transcript|interview|sample exchange|prompt"
    r"|대화|대본|채팅|상황극|역할극|인터뷰|스크립트|프롬프트|会話|対話|やり取り|やりとり|台本|寸劇|チャット|インタビュー|プロンプト",
    regex.IGNORECASE,
)
_FORMAT_ASKED = regex.compile(
    r"<\||\[INST\]|chatml|chat ?template|prompt (?:format|template)|(?:special|stop|end) tokens?|im_(?:start|end)"
    r"|템플릿|특수 ?토큰|テンプレート|特殊トークン|終了トークン",
    regex.IGNORECASE,
)


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
    return None if _DIALOGUE_ASKED.search(prompt) else _spoken_for(text)


def _spoken_for(text: str) -> int | None:
    prose = _FENCED.sub(lambda found: " " * len(found[0]), text)
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
