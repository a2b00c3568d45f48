"""The rows of a dataset folder, to be read and changed by tests."""

from kelron_lib.data import read_rows, rows_file
from kelron_lib.data.rows import write_rows


def rows_in(folder, split="train"):
    return read_rows(rows_file(folder, split))


def put_rows(folder, rows, split="train"):
    """Write rows, which may be wrong ones."""
    write_rows(rows_file(folder, split), rows)


def drop_first_row(folder, split="train"):
    put_rows(folder, rows_in(folder, split)[1:], split)


def break_row(folder, number, split="train", **changes):
    """Change the row of this number (from 1)."""
    rows = rows_in(folder, split)
    rows[number - 1] = {**rows[number - 1], **changes}
    put_rows(folder, rows, split)
