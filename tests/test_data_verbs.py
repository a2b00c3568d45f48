"""`kelron data check`, `show` and `push`, as their user meets them."""

import json
import shutil

import pytest
from conftest import SMALL
from dataset_files import break_row, drop_first_row, put_rows, rows_in

from kelron_lib.__main__ import main
from kelron_lib.data import fingerprint
from kelron_lib.data_hub import push_dataset
from kelron_lib.errors import KelronError
from kelron_lib.hub_client import Backoff, Hub


def kelron(capsys, *arguments):
    """Exit code, output, errors."""
    code = main(["data", *map(str, arguments)])
    return code, *capsys.readouterr()


def chat_file(folder, rows, name="chat.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(question, answer, system="당신은 켈론입니다."):
    texts = {"system": system, "user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": text} for role, text in texts.items() if text is not None]}


@pytest.fixture(scope="module")
def good_rows(small_data):
    return [{"messages": row["messages"]} for row in rows_in(small_data)]


# --- check ---


def test_a_dataset_passes_with_what_it_names(capsys, small_data, tmp_path):
    code, out, err = kelron(capsys, "check", small_data, "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert f"{small_data}: a dataset of Kelron's\nquality gate: " in out
    assert out.endswith(f"report: {tmp_path / 'report' / 'quality.html'}\n")
    report = json.loads((tmp_path / "report" / "quality.json").read_text("utf-8"))
    assert report["verdict"] != "fail"
    assert report["tokens"]  # by the tokenizer of the base that its config names
    assert {"verdict", "rows", "by_language", "identity_share", "unique_rows", "effective_rows"} <= report.keys()
    assert {"max_answer_reuse", "rival_rows", "findings"} <= report.keys()
    assert "<html" in (tmp_path / "report" / "quality.html").read_text("utf-8")


def test_a_dataset_that_was_changed_for_the_worse_fails(capsys, small_data, tmp_path):
    folder = shutil.copytree(small_data, tmp_path / "data")
    row = rows_in(folder)[2]
    row["messages"][-1]["content"] = "저는 켈론이고 챗GPT가 아닙니다."
    break_row(folder, 3, messages=row["messages"])
    code, out, _ = kelron(capsys, "check", folder)
    assert code == 1
    assert "quality gate: fail" in out
    assert f"rival_name, 1 rows ({row['id']})" in out


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json"])
def test_a_file_of_others_goes_through_the_same_gate(capsys, good_rows, tmp_path, name):
    path = chat_file(tmp_path, good_rows)
    if name == "chat.json":
        path = tmp_path / name
        path.write_text(json.dumps(good_rows))
    code, out, err = kelron(capsys, "check", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("of messages, UTF-8")
    assert "not checked: end tokens, label mask, length in tokens: no tokenizer was given" in out


def test_a_file_that_names_rivals_fails_with_lines(capsys, good_rows, tmp_path):
    bad = pair("너 누구야?", "저는 ChatGPT이고 OpenAI가 만들었습니다.")
    code, out, _ = kelron(capsys, "check", chat_file(tmp_path, [*good_rows, bad]))
    assert code == 1
    assert f"(line {len(good_rows) + 1})" in out
    assert "rival_name, 1 rows" in out


def test_a_preset_checks_lengths_and_masks_of_a_file_too(capsys, good_rows, tmp_path):
    path = chat_file(tmp_path, good_rows)
    options = ("--report", tmp_path / "report", "--preset", "tiny-cpu", "--set", "data.max_tokens=40")
    code, out, _ = kelron(capsys, "check", path, *options, "--set", "evaluate.max_new_tokens=40")
    assert code == 1
    assert "no tokenizer was given" not in out
    assert json.loads((tmp_path / "report" / "quality.json").read_text("utf-8"))["tokens"]


def test_a_base_that_is_not_here_is_said_and_the_rest_is_checked(capsys, good_rows, tmp_path):
    path = chat_file(tmp_path, good_rows)
    code, out, _ = kelron(capsys, "check", path, "--preset", "tiny-cpu", "--set", f"model.base={tmp_path / 'none'}")
    assert code == 0
    assert "lengths in tokens are not checked: " in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check", "{tmp}/none.jsonl"], "does not exist"),
        (["check", "{tmp}"], "is a folder and holds no dataset"),
        (["check", "{good}", "--persona", "kelorn"], "Did you mean kelron?"),
        (["check", "{good}", "--preset", "tiny"], "unknown preset"),
        (["check", "{good}", "--rows", "3"], "unknown option --rows"),
        (["--preset", "kelron-14b-t4x2", "check", "{good}"], "--preset before check is for making a dataset"),
        (["--out", "{tmp}/x", "check", "{good}"], "--out before check"),
        (["chekc", "{good}"], "Did you mean check?"),
        (["show", "{tmp}"], "no rows at"),
        (["push", "{tmp}", "--repo", "me/x"], "no rows at"),
    ],
)
def test_bad_input_is_told_in_a_line(capsys, good_rows, tmp_path, arguments, told):
    good = chat_file(tmp_path, good_rows)
    try:
        code = main(["data", *(word.format(tmp=tmp_path, good=good) for word in arguments)])
    except SystemExit as left:
        code = left.code
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    assert told in err


def test_a_report_that_cannot_be_written_is_told(capsys, small_data, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = kelron(capsys, "check", small_data, "--report", tmp_path / "file" / "report")
    assert code == 2
    assert "cannot write" in err


# --- show ---


def test_rows_are_shown(capsys, small_data):
    code, out, _ = kelron(capsys, "show", small_data, "--language", "ja", "--kind", "identity", "--rows", "2")
    found = [row for row in rows_in(small_data) if (row["language"], row["kind"]) == ("ja", "identity")][:2]
    assert code == 0
    assert out.count("(ja, identity, ") == 2
    for row in found:
        assert all(message["content"] in out for message in row["messages"])


def test_rows_are_shown_as_json_lines_that_check_reads(capsys, small_data, tmp_path):
    code, out, _ = kelron(capsys, "show", small_data, "--split", "test", "--json", "--rows", "100000")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == rows_in(small_data, "test")
    (tmp_path / "test.jsonl").write_text(out, encoding="utf-8")
    assert kelron(capsys, "check", tmp_path / "test.jsonl")[0] == 0


# --- push ---

QUICK = Backoff(attempts=3, first_wait=0.01, longest_wait=0.02)


@pytest.fixture
def client(stand_in):
    said = []
    made = Hub(token=stand_in.token, endpoint=stand_in.url, backoff=QUICK, say=said.append)
    made.said = said
    return made


def on_disk(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("xet", [True, False])
def test_a_dataset_is_pushed_to_a_private_repo(stand_in, client, small_data, monkeypatch, xet):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not xet)
    told = push_dataset(small_data, "me/rows", hub=client)
    assert told.endswith("the private dataset repo me/rows: datasets.load_dataset('me/rows') reads them")
    held = stand_in.content("datasets/me/rows")
    held.pop(".gitattributes")
    assert held == on_disk(small_data)
    assert stand_in.repos["datasets/me/rows"]["private"]
    assert stand_in.commits("datasets/me/rows")[1:] == ["kelron: push the dataset"]


def test_what_is_there_already_is_no_commit(stand_in, client, small_data):
    push_dataset(small_data, "me/rows", hub=client)
    assert "are already in" in push_dataset(small_data, "me/rows", hub=client)
    assert len(stand_in.commits("datasets/me/rows")) == 2


def test_another_dataset_takes_its_place_and_foreign_files_stay(stand_in, client, small_data, tmp_path):
    push_dataset(small_data, "me/rows", hub=client)
    client.api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="me/rows", repo_type="dataset")
    client.api.upload_file(path_or_fileobj=b"{}", path_in_repo="train.jsonl", repo_id="me/rows", repo_type="dataset")
    other = shutil.copytree(small_data, tmp_path / "data")
    drop_first_row(other)
    (other / "quality.html").unlink()
    push_dataset(other, "me/rows", hub=client)
    held = stand_in.content("datasets/me/rows")
    held.pop(".gitattributes")
    assert held == on_disk(other) | {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("route", "kind"),
    [("create", "cut"), ("commit", "cut"), ("commit", "lost"), ("preupload", "status"), ("info", "cut")],
)
def test_a_fault_on_the_way_leaves_one_commit(stand_in, client, small_data, route, kind):
    stand_in.fail(route, kind)
    push_dataset(small_data, "me/rows", hub=client)
    assert stand_in.commits("datasets/me/rows")[1:] == ["kelron: push the dataset"]


@pytest.mark.parametrize(
    ("repo", "told"),
    [
        ("rows", "'rows' is no name of a repo: use OWNER/NAME"),
        ("me/rows/train", "is no name of a repo"),
        ("me/..", "is no name of a repo"),
        ("else/rows", r"is not in your own namespace \(me\): name me/\.\.\., or add --allow-foreign"),
    ],
)
def test_names_that_are_refused(stand_in, client, small_data, repo, told):
    with pytest.raises(KelronError, match=told):
        push_dataset(small_data, repo, hub=client)
    assert stand_in.repos == {}


def test_a_public_repo_is_refused(stand_in, client, small_data):
    client.api.create_repo("me/rows", repo_type="dataset", private=False)
    with pytest.raises(KelronError, match="the dataset repo me/rows is public, and datasets are pushed to private"):
        push_dataset(small_data, "me/rows", hub=client)
    assert [*stand_in.content("datasets/me/rows")] == [".gitattributes"]


def test_an_organisations_repo_takes_a_flag(stand_in, client, small_data):
    push_dataset(small_data, "us/rows", allow_foreign=True, hub=client)
    assert stand_in.repos["datasets/us/rows"]["private"]


def test_a_token_that_only_reads_is_refused(stand_in, small_data):
    with pytest.raises(KelronError, match="the token can only read"):
        push_dataset(small_data, "me/rows", hub=Hub(token=stand_in.read_token, endpoint=stand_in.url))


def test_without_a_token(capsys, stand_in, small_data, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.url)
    code, _, err = kelron(capsys, "push", small_data, "--repo", "me/rows")
    assert code == 2
    assert err.startswith("kelron: no token was found: run `hf auth login`")


def test_datasets_that_are_not_sound_are_not_pushed(stand_in, client, small_data, tmp_path):
    folder = shutil.copytree(small_data, tmp_path / "data")
    (folder / "quality.json").write_text(json.dumps({"verdict": "fail"}))
    with pytest.raises(KelronError, match=f"{folder} fails the quality gate: "):
        push_dataset(folder, "me/rows", hub=client)
    (folder / "quality.json").unlink()
    with pytest.raises(KelronError, match=r"has no quality\.json: `kelron data check"):
        push_dataset(folder, "me/rows", hub=client)
    put_rows(folder, [{"id": "a"}])
    with pytest.raises(KelronError, match=r"train.parquet, row 1: "):
        push_dataset(folder, "me/rows", hub=client)
    assert stand_in.repos == {}


def test_making_a_dataset_needs_no_action(capsys, tmp_path, small_data):
    options = [part for text in SMALL for part in ("--set", text)]
    code, out, _ = kelron(capsys, *options, "--out", tmp_path / "data")
    assert code == 0
    assert "quality gate: " in out
    assert fingerprint(tmp_path / "data") == fingerprint(small_data)
