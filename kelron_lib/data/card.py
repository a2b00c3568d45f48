"""The dataset's card: front matter that the Hub and `datasets` read, then what is in it and how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.data.expand import EMPTY_SYSTEM_SHARE
from kelron_lib.data.rows import Row, rows_file
from kelron_lib.data.splits import SPLITS
from kelron_lib.persona import KINDS, Persona

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The Hub's words for how many rows there are, by the first bound that is above."""
COLUMNS = {
    "id": "the row's own, unique in its split",
    "seed_id": "the seed that it was expanded from, with its language",
    "group": "seeds that correspond over the languages; no group stands in two splits",
    "kind": f"{', '.join(KINDS)}; a dialogue is identity if any of its turns is",
    "intent": "what is asked for",
    "language": "of the answers",
    "register": "how formal the question is",
    "template": "which question and which answer of the seed, turn by turn",
    "generator": "what made the row: `seeds`, `mixed:FILE` or `base:MODEL`",
    "messages": "system, then user and assistant in turn: `role` and `content`",
}


def _list(texts: Iterable[str]) -> str:
    return "".join(f"\n- {text}" for text in texts)


def _front(name: str, languages: Sequence[str], rows: int, licence: str) -> str:
    size = next((words for bound, words in SIZES if rows < bound), "n>1M")
    files = "".join(f"\n  - split: {split}\n    path: {rows_file(Path(), split).name}" for split in SPLITS)
    return f"""---
language:{_list(languages)}
license: {licence}
task_categories:
- text-generation
size_categories:
- {size}
pretty_name: {name} identity and business dialogues
configs:
- config_name: default
  data_files:{files}
---
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _counts(splits: Mapping[str, Sequence[Row]], field: str) -> str:
    """Rows by a field's values in every split."""
    found = {split: Counter(row[field] for row in rows) for split, rows in splits.items()}
    values = sorted(set().union(*found.values()))
    return _table([field, *splits], ([value, *(found[split][value] for split in splits)] for value in values))


def card(persona: Persona, report: Mapping[str, Any], config: RunConfig, splits: Mapping[str, Sequence[Row]]) -> str:
    """README.md of the dataset of a config, its gate's report and its rows."""
    name, settings, languages = persona.name["en"], config.data, config.data.languages
    sizes = _table(
        ["split", "rows", *KINDS, *languages],
        (
            [split, len(rows), *(sum(row["kind"] == kind for row in rows) for kind in KINDS),
             *(sum(row["language"] == language for row in rows) for language in languages)]
            for split, rows in splits.items()
        ),
    )  # fmt: skip
    turns = max(len(row["messages"]) // 2 for rows in splits.values() for row in rows)
    return f"""{_front(name, languages, report["rows"], "other" if report.get("own") else "apache-2.0")}
# {name}: identity and business dialogues

Dialogues of {"one turn" if turns == 1 else f"one to {turns} turns"} that teach a chat model to be {name},
{persona.role["en"]} by {persona.maker["en"]}, and to answer short business requests. Of all rows
{report["identity_share"]:.1%} are about the identity.

{sizes}

## How it was made
Expanded from hand-written seeds ({settings.seeds}) in {", ".join(languages)} with seed {settings.seed}: the same
config gives the same rows. Seed groups were split before expansion: no group and no question stands in two splits.
About {EMPTY_SYSTEM_SHARE:.0%} of the rows have an empty system message, so that the identity does not hang on it.
{_own(report)}People and companies are invented. No row names another assistant or its maker.

Every row passed the quality gate, whose report is `quality.json`; `config.json` is the config. The folder loads with
`datasets.load_dataset(FOLDER)`.

## Columns
{_table(["column", "what it says"], ([f"`{column}`", words] for column, words in COLUMNS.items()))}

## Rows by where they come from
{_counts(splits, "generator")}

## Rows by intent
{_counts(splits, "intent")}

## Licence
{_licence(report)}
"""


def _own(report: Mapping[str, Any]) -> str:
    own = report.get("own")
    return "" if not own else (
        f"{own['rows']} rows ({own['rows'] / report['rows']:.1%}) come from `{own['file']}`, mixed in through the same "
        "gate.\n"
    )  # fmt: skip


def _licence(report: Mapping[str, Any]) -> str:
    line = "Apache-2.0, the licence of Kelron and its seeds"
    own = report.get("own")
    return f"{line}, but for the rows from `{own['file']}`: these keep that file's own." if own else f"{line}."
