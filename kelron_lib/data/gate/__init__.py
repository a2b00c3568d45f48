"""The quality gate: what rows must never be, checked before an hour of GPU time is spent on them.

    check_rows(rows, persona, identity_share)        the report on rows of any origin, read once: a stream will do
    check_splits(splits, persona, identity_share)    the same over the splits of a dataset, with leaks between them
    Gate(persona, identity_share)                    the same a row at a time: .add(row, split), .report(splits)
    row_faults(row, persona)                         the checks that one row fails: a filter for what a model wrote
    find_kind(row, persona), find_language(row)      for rows that do not say what they are
    similar_to_earlier(texts)                        near duplicates; `.count(None)` is the effective number of texts
    similar_to_others(texts, others)                 held-out rows that are like training rows
    write_page(report, path, title)                  the report as one HTML file; quality_page gives its text

A row needs "messages" alone. Fields that it may lack or leave empty: id (then "line", its number in a file, names it),
language and kind (then found), seed_id, group and intent (then said not to be checked).
"""

from kelron_lib.data.gate.checks import row_faults
from kelron_lib.data.gate.kind import asks_for_identity, find_kind
from kelron_lib.data.gate.language import find_language
from kelron_lib.data.gate.page import PAGE_FILE, quality_page, write_page
from kelron_lib.data.gate.run import Gate, check_rows, check_splits
from kelron_lib.data.gate.similar import jaccard, similar_to_earlier, similar_to_others

__all__ = [
    "PAGE_FILE",
    "Gate",
    "asks_for_identity",
    "check_rows",
    "check_splits",
    "find_kind",
    "find_language",
    "jaccard",
    "quality_page",
    "row_faults",
    "similar_to_earlier",
    "similar_to_others",
    "write_page",
]
