"""The quality gate: what rows must never be, checked before an hour of GPU time is spent on them.

    check_rows(rows, persona, identity_share)        the report on rows of any origin; `rows` is read once, so a stream
                                                     will do
    check_splits(splits, persona, identity_share)    the same over the splits of a dataset, with leaks between them
    row_faults(row, persona)                         the checks that one row fails: a filter for what a model wrote
    find_kind(row, persona), find_language(row)      for rows that do not say what they are
    write_page(report, path)                         the report as one HTML file

A report is what quality.json holds; `run.Gate` describes it.
"""

from kelron_lib.data.gate.run import check_rows, check_splits

__all__ = ["check_rows", "check_splits"]
