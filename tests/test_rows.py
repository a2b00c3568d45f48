"""Rows on disk: what is read back, what is refused, what a dataset is known by, and that `datasets` reads it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from dataset_files import drop_first_row, put_rows, rows_in

from kelron_lib import data
from kelron_lib.data.rows import FIELDS, PROVENANCE, write_rows
from kelron_lib.errors import KelronError

SPLITS = ("train", "validation", "test")


def make_row(number=1, answer="저는 켈론입니다.", **changes):
    row = {"id": f"r{number}", "seed_id": "ko/a", "group": "a", "kind": "identity", "intent": "i", "language": "ko"}
    messages = [("system", ""), ("user", "누구세요?"), ("assistant", answer)]
    return {**row, "messages": [{"role": role, "content": text} for role, text in messages], **changes}


def roles(*names):
    return make_row(messages=[{"role": name, "content": "x"} for name in names])


def test_rows_come_back_as_they_were(tmp_path):
    rows = [make_row(number, register="polite", template="q1/a2", generator="seeds") for number in range(3000)]
    rows[7] = roles("system", *["user", "assistant"] * 4) | {"id": "long"}
    write_rows(tmp_path / "train.parquet", rows)
    filled = [dict.fromkeys(PROVENANCE, "") | row for row in rows]
    assert data.read_rows(tmp_path / "train.parquet") == filled
    assert [*data.iter_rows(tmp_path / "train.parquet")] == filled


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in make_row().items() if k != "group"}, "field 'group' is missing"),
        (make_row(kind="other"), "kind is 'other'"),
        (make_row(language="zh"), "language is 'zh'"),
        (make_row(messages=[]), "messages is not a list"),
        (make_row(messages=[{"role": "user"}]), "not an object with role and content"),
        (roles("system", "user"), "no assistant answer"),
        (roles("user", "assistant"), "roles are user, assistant"),
        (roles("system", "assistant", "user"), "roles are system, assistant, user"),
        (roles("system", "user", "assistant", "user"), "roles are"),
        (make_row(answer="<|im_start|>"), "special token <|im_start|>"),
        (make_row(answer=" "), "the assistant message is empty"),
        (make_row(number=0), "id 'r0' is used twice"),
    ],
)
def test_a_broken_row_is_named_by_file_and_number(tmp_path, row, message):
    path = tmp_path / "train.parquet"
    put_rows(tmp_path, [make_row(number=0), row])
    with pytest.raises(KelronError) as error:
        data.read_rows(path)
    assert str(error.value).startswith(f"{path}, row 2: ")
    assert message in str(error.value)


def test_rows_that_are_not_there(tmp_path):
    told = f"^no rows at {tmp_path}/train.parquet: `kelron data --out {tmp_path}` with the run's config makes them$"
    with pytest.raises(KelronError, match=told):
        data.read_rows(tmp_path / "train.parquet")
    with pytest.raises(KelronError, match=told):
        data.fingerprint(tmp_path)
    put_rows(tmp_path, [])
    with pytest.raises(KelronError, match="no rows in it"):
        data.read_rows(tmp_path / "train.parquet")


def flipped(raw):
    return raw[:60] + bytes(byte ^ 255 for byte in raw[60:120]) + raw[120:]


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"{}\n", lambda raw: raw[:-9], flipped])
def test_a_damaged_file_is_told_in_a_line(tmp_path, damage):
    put_rows(tmp_path, [make_row(number) for number in range(50)])
    path = tmp_path / "train.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(KelronError) as error:
        data.read_rows(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert "again" in str(error.value)


def test_a_parquet_file_of_another_kind_is_told_by_its_columns(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(KelronError, match="no column 'group'"):
        data.read_rows(tmp_path / "train.parquet")


def test_a_dataset_of_json_lines_is_told_what_to_do(small_config, tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text("{}\n")
    (tmp_path / "quality.json").write_text("{}")
    told = rf"train.jsonl holds JSON lines, .* are Parquet now: `kelron data --out {tmp_path} --replace`"
    with pytest.raises(KelronError, match=told):
        data.load_dataset_dir(tmp_path)
    with pytest.raises(KelronError, match=told):
        data.fingerprint(tmp_path)
    data.build_dataset(small_config, tmp_path, replace=True)
    assert not list(tmp_path.glob("*.jsonl"))
    assert len(rows_in(tmp_path)) > 100


@pytest.mark.parametrize("split", SPLITS)
def test_the_fingerprint_covers_every_split(small_data, tmp_path, split):
    folder = shutil.copytree(small_data, tmp_path / "data")
    drop_first_row(folder, split)
    assert data.fingerprint(folder) != data.fingerprint(small_data)


@pytest.mark.parametrize("field", [*FIELDS, *PROVENANCE])
def test_the_fingerprint_covers_every_column(tmp_path, field):
    def known_by(row):
        for split in SPLITS:
            put_rows(tmp_path, [row], split)
        return data.fingerprint(tmp_path)

    other = {"kind": "chat", "language": "en"}.get(field, "another")
    assert known_by(make_row()) != known_by(make_row(**{field: other}))


def test_the_fingerprint_is_of_the_rows_and_not_of_the_bytes(small_data, tmp_path):
    from pyarrow import parquet

    folder = shutil.copytree(small_data, tmp_path / "data")
    file = folder / "train.parquet"
    parquet.write_table(parquet.read_table(file), file, compression="snappy")  # as another writer would
    assert file.read_bytes() != (small_data / "train.parquet").read_bytes()
    assert data.fingerprint(folder) == data.fingerprint(small_data)


MEASURE = """
import sys
from pathlib import Path
import pyarrow.parquet
from kelron_lib.data import iter_rows
def peak():  # of this process alone, where getrusage tells of its parent
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
count = sum(1 for row in iter_rows(Path(sys.argv[1])))
print(count, peak() - before)
"""


def test_a_large_file_is_read_in_little_memory(tmp_path):
    put_rows(tmp_path, [make_row(number, answer=f"저는 켈론입니다. {number} " * 60) for number in range(35000)])
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "train.parquet")],
        check=True, capture_output=True, text=True, env=os.environ,
    ).stdout  # fmt: skip
    rows, kilobytes = map(int, told.split())
    assert rows == 35000
    assert kilobytes < 80 * 1024  # all rows at once take over 130 MB


def test_datasets_reads_the_folder(small_data, tmp_path):
    code = (
        "import json, sys; import datasets; "
        "found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2]); "
        "print(json.dumps({name: [len(part), part[0], part.column_names] for name, part in found.items()}))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(small_data), str(tmp_path)],
        check=True, capture_output=True, text=True, env=os.environ | {"HF_DATASETS_OFFLINE": "1"},
    ).stdout  # fmt: skip
    found = json.loads(told.splitlines()[-1])
    assert [*found] == [*SPLITS]
    for split, (count, first, columns) in found.items():
        rows = rows_in(small_data, split)
        assert (count, first) == (len(rows), rows[0])
        assert columns == [*FIELDS, *PROVENANCE, "messages"]
