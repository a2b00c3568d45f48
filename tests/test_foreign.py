"""Chat files of others: their shapes and encodings, and a clear line for what is none."""

import json
import subprocess
import sys

import pytest

from kelron_lib.data.foreign import open_foreign
from kelron_lib.errors import KelronError

ASKED, SAID = "회의록을 어떻게 쓰나요?", "안건과 결정을 나누어 쓰세요."
MESSAGES = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
BESIDE = [{"role": "system", "content": "짧게 답하세요."}, *MESSAGES]


def written(folder, content, name="chat.jsonl", encoding="utf-8"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def line(value):
    return json.dumps(value, ensure_ascii=False) + "\n"


GOOD = line({"messages": MESSAGES})


def rows_of(path):
    return [*open_foreign(path).rows()]


def messages_of(path):
    return [row["messages"] for row in rows_of(path)]


def refusal(path):
    """The one line that a file is refused with."""
    with pytest.raises(KelronError) as error:
        rows_of(path)
    assert "\n" not in str(error.value)
    return str(error.value)


SHAPES = [
    ("messages", {"messages": MESSAGES}, MESSAGES),
    ("messages", {"messages": BESIDE}, BESIDE),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}, MESSAGES[1]]}, MESSAGES),
    ("messages", {"messages": [{"role": "developer", "content": "짧게 답하세요."}, *MESSAGES]}, BESIDE),
    ("ShareGPT", {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]}, MESSAGES),
    (
        "ShareGPT",
        {
            "system": "짧게 답하세요.",
            "conversations": [{"from": "user", "value": ASKED}, {"from": "AI", "value": SAID}],
        },
        BESIDE,
    ),
    ("Alpaca", {"instruction": ASKED, "input": "", "output": SAID}, MESSAGES),
    ("Alpaca", {"instruction": ASKED, "output": SAID, "system": "짧게 답하세요."}, BESIDE),
    (
        "Alpaca",
        {"instruction": "번역해 주세요.", "input": "Thanks", "output": "감사합니다."},
        [{"role": "user", "content": "번역해 주세요.\n\nThanks"}, {"role": "assistant", "content": "감사합니다."}],
    ),
    ("Alpaca", {"instruction": ASKED, "output": SAID, "history": [[ASKED, SAID]]}, [*MESSAGES, *MESSAGES]),
    ("question and answer", {"question": ASKED, "answer": SAID}, MESSAGES),
    ("question and answer", {"prompt": ASKED, "completion": SAID, "system": "짧게 답하세요."}, BESIDE),
]


@pytest.mark.parametrize(("shape", "value", "messages"), SHAPES)
@pytest.mark.parametrize("as_list", [False, True])
def test_every_shape_becomes_messages(tmp_path, shape, value, messages, as_list):
    path = written(tmp_path, json.dumps([value, value], indent=1) if as_list else line(value) * 2, "chat.json")
    found = open_foreign(path)
    assert [row["messages"] for row in found.rows()] == [messages, messages]
    form = "a JSON list" if as_list else "JSON lines"
    assert found.describe() == f"{path}: {form} of {shape}, UTF-8"


@pytest.mark.parametrize(
    "head", ["question,answer", "Prompt;Response", "질문\t답변", "질문,답변", "質問,回答", "instruction,output", "q,a"]
)
def test_tables(tmp_path, head):
    mark = next(char for char in ",;\t" if char in head)
    quoted = '"' + 'a, b; "c"\n다음 줄'.replace('"', '""') + '"'
    path = written(tmp_path, f"{head}\r\n{ASKED}{mark}{quoted}\r\n\r\n{ASKED}{mark}{SAID}\r\n", "chat.csv")
    rows = rows_of(path)
    assert [row["messages"][-1]["content"] for row in rows] == ['a, b; "c"\n다음 줄', SAID]
    assert [row["line"] for row in rows] == [2, 5]


def test_columns_for_system_and_language(tmp_path):
    path = written(
        tmp_path, f"id,question,answer,system,lang\n1,{ASKED},OK,짧게 답하세요.,ko-KR\n2,{ASKED},{SAID},,\n", "a.csv"
    )
    first, second = rows_of(path)
    assert (first["language"], first["messages"]) == ("ko", [*BESIDE[:2], {"role": "assistant", "content": "OK"}])
    assert (second["language"], second["messages"]) == ("ko", MESSAGES)


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8 with a byte order mark"), ("utf-16", "UTF-16")],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_encodings_that_are_read(tmp_path, encoding, told, name):
    value = {"question": ASKED, "answer": SAID + "😀"}
    content = {
        "a.jsonl": line(value) * 2,
        "a.json": json.dumps([value, value], ensure_ascii=False, indent=2),
        "a.csv": f"question,answer\n{ASKED},{SAID}😀\n{ASKED},{SAID}😀\n",
    }[name]
    path = written(tmp_path, content, name, encoding)
    found = open_foreign(path)
    assert found.describe().endswith(f", {told}")
    assert [row["messages"][1]["content"] for row in found.rows()] == [SAID + "😀"] * 2


def test_utf16_of_the_other_byte_order(tmp_path):
    path = written(tmp_path, b"\xfe\xff" + line({"messages": MESSAGES}).encode("utf-16-be"))
    assert messages_of(path) == [MESSAGES]


JAPANESE = line({"question": "議事録はどう書きますか。", "answer": "議題と決定を分けて書きます。"})


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (line({"messages": MESSAGES}), "cp949", "CP949"),
        (line({"question": "웃겨ㅋㅋㅋ", "answer": "ㅎㅎ 저도요ㅠㅠ"}), "cp949", "CP949"),
        (JAPANESE, "shift_jis", "SHIFT_JIS"),
        (line({"question": "社名", "answer": "東京商事"}), "shift_jis", "SHIFT_JIS"),
        (JAPANESE, "euc_jp", "EUC-JP"),
        (line({"question": "Where is the café?", "answer": "Behind the hôtel."}), "cp1252", "CP1252"),
    ],
)
def test_another_encoding_is_named_with_its_line_and_the_way_out(tmp_path, text, codec, name):
    plain = line({"question": "Hi", "answer": "Hello."})
    path = written(tmp_path, plain.encode() * 2 + text.encode(codec) + plain.encode())
    told = refusal(path)
    assert told.startswith(f"{path}:3: not UTF-8 but, as it reads, {name} (")
    converted = tmp_path / "chat.utf8.jsonl"
    command = told.split("`")[1]
    assert command == f"iconv -f {name} -t UTF-8 {path} > {converted}"
    subprocess.run(command, shell=True, check=True)
    assert converted.read_text("utf-8") == plain * 2 + text + plain


def test_two_encodings_in_one_file(tmp_path):
    path = written(tmp_path, line({"messages": MESSAGES}).encode() + line({"messages": MESSAGES}).encode("cp949"))
    assert refusal(path).startswith(
        f"{path}:2: two encodings in one file: the letters before are UTF-8, this line reads as CP949"
    )


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"", "a.jsonl", " is empty: "),
        (b"\n \n", "a.jsonl", " holds nothing but blank lines"),
        (b"\n \n", "a.csv", " holds nothing but blank lines"),
        (b"question,answer\n", "a.csv", " has no rows"),
        (b"[]", "a.json", " has no rows"),
        (b"PK\x03\x04rest", "a.csv", "Excel"),
        (b"\x1f\x8b\x08rest", "a.jsonl", "gunzip"),
        (b"PAR1rest", "a.jsonl", "Parquet"),
        (bytes(range(256)) * 8, "a.jsonl", " is binary, no text"),
        ("\ufeff".encode("utf-32"), "a.jsonl", "UTF-32"),
        (GOOD.encode("utf-16-le"), "a.jsonl", "UTF-16 without a byte order mark"),
        (GOOD.encode() + b'{"a": "\0"}\n', "a.jsonl", ":2: a NUL byte"),
        (GOOD * 2 + GOOD[:-9], "a.jsonl", ":3: the last line is half written"),
        (GOOD.encode()[:-30], "a.jsonl", ":1: the file is cut off inside a letter: get it again"),
        ((GOOD + "{'a': 1}\n").encode(), "a.jsonl", ":2: not JSON (Expecting property name"),
        ('{\n "messages": []\n}\n', "a.json", ":1: not JSON"),
        ("hello\n", "a.txt", ":1: begins with 'hello', which is no JSON"),
        ('{"a": 1}\n', "a.jsonl", ":1: a row with 'a': use messages, "),
        ('{"data": [{"messages": []}]}\n', "a.json", ":1: an object around the rows: save the list in its 'data'"),
        (GOOD + "[1]\n", "a.jsonl", ":2: a list where an object was to be"),
        ("a,b\n1,2\n", "a.csv", ":1: the columns are 'a', 'b': name one for the question (question, prompt, "),
        (f"question,answer\n{ASKED},{SAID},more\n", "a.csv", ":2: 3 fields and 2 columns: put quotes"),
        (f'question,answer\n{ASKED},"{SAID}\n{ASKED},{SAID}\n', "a.csv", ":2: the row that begins here is no CSV"),
        ("question,question,answer\n1,2,3\n", "a.csv", ":1: the column 'question' is there twice"),
        (json.dumps([{"messages": MESSAGES}] * 2, indent=1)[:-20], "a.json", "cut off"),
        (json.dumps([{"messages": MESSAGES}] * 2, indent=1)[:-1], "a.json", "no closing bracket"),
        (json.dumps([{"messages": MESSAGES}] * 2, indent=1).replace("},\n {", "}\n {"), "a.json", "a comma was to be"),
        (json.dumps([{"messages": MESSAGES}]) + "\n[1]", "a.json", ":2: '[' after the list's end"),
        (GOOD + line({"question": "a", "answer": "b"}), "a.jsonl",
         ":2: this row is of the shape question and answer and the file began with messages"),
        (GOOD + '{"text": "a"}\n', "a.jsonl", ":2: has 'text' and not what the shape messages needs"),
        ('{"question": "' + "가" * (1 << 22) + '", "answer": "나"}\n', "a.jsonl", ":1: the line has over 4,194,304 c"),
        ("[" * 100_000 + "\n", "a.json", ":1: nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_no_chat_file_is_told_in_a_line(tmp_path, content, name, told):
    path = written(tmp_path, content, name)
    line_ = refusal(path)
    assert line_.startswith(str(path))
    assert told in line_


def turns(*roles, content="회의"):
    return {"messages": [{"role": role, "content": content} for role in roles]}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (turns("user", "tool", "assistant"), "message 2 is a tool's (tool)"),
        (turns("user", "narrator"), "message 2 has the role 'narrator'"),
        ({"messages": []}, "'messages' is not a list of messages"),
        ({"messages": "hello"}, "'messages' is not a list of messages"),
        ({"messages": [{"content": "a"}]}, "message 1 has no 'role'"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "message 2 (assistant) has no text"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": [{"type": "image"}]}]}, "is no text"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": "네 \ud83d"}]}, r"message 2 holds \ud83d, half"),
        ({"messages": MESSAGES, "language": "fr"}, "the language is 'fr': Kelron knows ko, en, ja"),
    ],
)
def test_a_row_that_is_wrong_is_named_by_its_line(tmp_path, value, told):
    wrong = json.dumps(value) + "\n"
    path = written(tmp_path, line({"messages": MESSAGES}) + "\n" + wrong)
    line_ = refusal(path)
    assert line_.startswith(f"{path}:3: ")
    assert told in line_


def test_paths_that_are_no_file(tmp_path):
    assert refusal(tmp_path).endswith("is a folder and holds no dataset of Kelron's: name a file")
    assert refusal(tmp_path / "no.jsonl").endswith("does not exist: check the path")


@pytest.mark.parametrize(
    ("text", "language"),
    [("안녕하세요, PDF 파일입니다", "ko"), ("資料を送ります", "ja"), ("東京商事", "ja"), ("Behind the hôtel", "en")],
)
def test_the_language_that_the_scripts_tell(tmp_path, text, language):
    (row,) = rows_of(written(tmp_path, line({"question": "?", "answer": text})))
    assert row["language"] == language


def test_rows_of_no_language_are_named_by_their_lines(tmp_path):
    good, bad = line({"question": ASKED, "answer": SAID}), line({"question": "Где?", "answer": "Здесь."})
    told = refusal(written(tmp_path, good + bad + good + bad))
    assert "no telling the language of line 2, 4: Kelron knows ko, en, ja; add a field `language`" in told
    assert "line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...:" in refusal(written(tmp_path, bad * 5000))


def test_an_answer_of_digits_is_of_its_questions_language(tmp_path):
    assert rows_of(written(tmp_path, line({"question": "3 더하기 4는?", "answer": "7"})))[0]["language"] == "ko"


def test_chinese_characters_alone_are_taken_for_japanese_and_it_is_said(tmp_path):
    found = open_foreign(written(tmp_path, line({"question": "社名", "answer": "東京商事"}) * 2))
    assert [row["language"] for row in found.rows()] == ["ja", "ja"]
    assert found.notes()[0].startswith("2 rows have Chinese characters and no kana, and count as Japanese: ")


def test_turns_out_of_order_are_for_the_gate(tmp_path):
    (row,) = rows_of(written(tmp_path, line(turns("assistant", "user"))))
    assert [message["role"] for message in row["messages"]] == ["assistant", "user"]


def test_what_a_row_says_of_itself_is_kept(tmp_path):
    told = {"kind": "identity", "intent": "name", "group": "g", "seed_id": "s", "register": "polite", "generator": "x"}
    (row,) = rows_of(written(tmp_path, line({"messages": MESSAGES, "id": "a1", **told})))
    assert {name: row[name] for name in told} == told
    assert (row["id"], row["line"]) == ("line 1", 1)


STREAMED = """
import sys
from pathlib import Path
from kelron_lib.data.foreign import open_foreign
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, found = peak(), open_foreign(Path(sys.argv[1]))
print(sum(1 for row in found.rows()), peak() - before)
"""


@pytest.mark.parametrize("name", ["many.jsonl", "many.json", "many.csv"])
def test_many_rows_stream_in_little_memory(tmp_path, name):
    count, row = 40_000, {"question": ASKED, "answer": SAID * 8}
    one = json.dumps(row, ensure_ascii=False)
    content = {
        "many.jsonl": f"{one}\n" * count,
        "many.json": "[" + f"{one}, " * (count - 1) + one + "]",  # on a single line, as json.dump writes it
        "many.csv": "question,answer\n" + f"{ASKED},{SAID * 8}\n" * count,
    }[name]
    path = written(tmp_path, content, name)
    told = subprocess.run(
        [sys.executable, "-c", STREAMED, str(path)], check=True, capture_output=True, text=True
    ).stdout
    assert path.stat().st_size > 14e6
    rows, kilobytes = map(int, told.split())
    assert rows == count
    assert kilobytes < 8 * 1024
