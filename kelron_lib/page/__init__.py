"""Pages that stand alone: HTML files in which nothing is fetched (a content security policy forbids it) or run.

What a model or a stranger wrote is never markup: every such text goes through `text`.
"""

from kelron_lib.page.html import (
    LANGUAGE_NAMES,
    check_list,
    document,
    facts,
    lang,
    percent,
    table,
    text,
)

__all__ = ["LANGUAGE_NAMES", "check_list", "document", "facts", "lang", "percent", "table", "text"]
