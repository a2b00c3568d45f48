"""Bring your own: rows of a user's file among those of the seeds.

The file's rows are walked in an order that the seed and each row's own text give, so that neither their order in the
file nor rows added at its end move the others. What the gate would not let through is left out and named. A question
stands in one split alone, most in train; held-out rows that are much like a training row go there, too. Each row takes
the place of one of the seeds' rows of its split, language and kind (business and chat alike), so that the shares of
languages and of the identity stay as they were.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelron_lib.data.dialogue import fits
from kelron_lib.data.expand import EMPTY_SYSTEM_SHARE, MOST_USES
from kelron_lib.data.foreign import open_foreign
from kelron_lib.data.gate import find_kind, row_faults, similar_to_others
from kelron_lib.data.rows import Row
from kelron_lib.errors import KelronError
from kelron_lib.persona import Persona
from kelron_lib.settings import DataSettings

GENERATOR = "mixed"
BASE_GENERATOR = "base:"
"""What the generator of a row begins with that is in the base model's own words."""
HELD_OUT: Mapping[str, float] = {"validation": 0.05, "test": 0.05}
"""Share of the questions that no row trains on, by split; less where the split has no room for so many."""
LEFT_HELD_OUT = 0.5
"""Share of the held-out rows of a language and kind that stay the seeds', whose groups are held out as a whole."""
_SPARE = 4
"""Rows that are looked at for one that is wanted, before a file counts as unusable."""
_NAMED = 10

Place = tuple[str, str, bool]
"""Split, language, and whether it is about the identity."""


@dataclass
class Own:
    """The rows of a file that are to be mixed in."""

    path: Path
    sha256: str
    wanted: int
    usable: list[dict[str, Any]] = field(default_factory=list)
    """Good rows in their order, some more than wanted: a few may ask what the seeds ask."""
    left_out: dict[str, list[int]] = field(default_factory=dict)
    """Lines of the rows that were looked at and are not usable, by why."""
    examples: dict[str, str] = field(default_factory=dict)
    """What was found in the first of them, where that is more than why says."""
    told: list[str] = field(default_factory=list)
    """What the reading is to say."""

    def leave_out(self, why: str, row: Row, example: str = "") -> None:
        self.left_out.setdefault(why, []).append(row["line"])
        if example:
            self.examples.setdefault(why, example)

    def lines(self) -> list[str]:
        """What was left out, with line numbers."""
        return [
            f"{self.path}: {len(lines)} rows left out, {why}: line {', '.join(map(str, sorted(lines)[:_NAMED]))}"
            f"{', ...' if len(lines) > _NAMED else ''}{f' ({found!r})' if (found := self.examples.get(why)) else ''}"
            for why, lines in self.left_out.items()
        ]


def sha256_of(path: Path) -> str:
    """Hex digest of a file. Raises KelronError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KelronError(f"cannot read data.own {path}: {error.strerror or error}") from None


def changed_since(settings: DataSettings, report: Mapping[str, Any]) -> bool:
    """Whether the config's own file is here and is another than the one that a dataset was made with, as the dataset's
    report tells."""
    path = Path(settings.own)
    if not settings.own or not path.is_file():
        return False
    told = report.get("own")
    return not isinstance(told, dict) or told.get("sha256") != sha256_of(path)


def _draw(text: str) -> float:
    """A number from 0 to 1 that a text gives, everywhere the same."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _asked(row: Row) -> tuple[str, ...]:
    return tuple(message["content"].strip() for message in row["messages"] if message["role"] == "user")


def _text(row: Row) -> str:
    return "\n".join(message["content"] for message in row["messages"] if message["role"] != "system")


def _with_system(row: Mapping[str, Any], persona: Persona) -> list[dict[str, str]]:
    """The row's messages, behind the persona's system message or, as often as in the seeds' rows, an empty one, where
    it has none."""
    messages: list[dict[str, str]] = row["messages"]
    if messages[0]["role"] == "system":
        return messages
    empty = _draw(f"system:{_text(row)}") < EMPTY_SYSTEM_SHARE
    return [{"role": "system", "content": "" if empty else persona.system_prompt[row["language"]]}, *messages]


def _is_of_base(row: Mapping[str, Any]) -> bool:
    """Whether `kelron rehearse` made a row, which then says whence it is: it asked training seeds alone."""
    told = all(row[name] for name in ("seed_id", "group", "kind", "intent"))
    return told and bool(row["generator"].startswith(BASE_GENERATOR))


def _ready(row: Mapping[str, Any], persona: Persona, name: str) -> dict[str, Any]:
    """A foreign row with all the fields that a row of a dataset has."""
    if _is_of_base(row):
        return {**row, "id": f"{name}:{row['line']}", "messages": _with_system(row, persona)}
    group = f"own.{hashlib.sha256(_asked(row)[0].encode() if _asked(row) else b'').hexdigest()[:12]}"
    made = {
        **row,
        "id": f"{name}:{row['line']}",
        "seed_id": f"{row['language']}/{group}",
        "group": group,
        "intent": row["intent"] or "own",
        "generator": f"{GENERATOR}:{name}",
        "messages": _with_system(row, persona),
    }
    return made | {"kind": find_kind(made, persona)}


def _problem(row: Row, settings: DataSettings, persona: Persona) -> tuple[str, str]:
    """Why a row cannot be used, apart from other rows, and what was found in it; empty where it can."""
    if row["language"] not in settings.languages:
        return f"in a language that data.languages ({', '.join(settings.languages)}) has not", ""
    for check, found in row_faults(row, persona).items():
        return check, found
    texts = [message["content"] for message in row["messages"][1:]]
    if not fits([*zip(texts[::2], texts[1::2], strict=True)], row["messages"][0]["content"], settings.max_tokens):
        return f"longer than data.max_tokens ({settings.max_tokens})", ""
    return "", ""


def _drawn(rows: Iterable[dict[str, Any]], seed: int, most: int) -> list[dict[str, Any]]:
    """The first `most` rows in the order of their draws; each text once."""

    def numbered() -> Iterator[tuple[float, int, dict[str, Any]]]:
        for row in rows:
            yield _draw(f"{seed}:{_text(row)}"), row["line"], row

    return [row for _, _, row in heapq.nsmallest(most, numbered())]


def read_own(settings: DataSettings, persona: Persona) -> Own:
    """The rows of the config's own file.

    Raises KelronError for a file that is no chat file, and where it gives too few rows for data.own_share.
    """
    foreign = open_foreign(Path(settings.own))
    own = Own(foreign.path, sha256_of(foreign.path), round(settings.own_share * settings.rows))
    if not own.wanted:
        raise KelronError(
            f"data.own_share={settings.own_share:g} of data.rows={settings.rows} is not one row: raise it, or leave "
            "data.own out"
        )
    uses: Counter[str] = Counter()
    seen: set[str] = set()
    spare = own.wanted + own.wanted // 10 + 20
    for drawn in _drawn(foreign.rows(), settings.seed, _SPARE * spare):
        if len(own.usable) == spare:
            break
        if _text(drawn) in seen:
            own.leave_out("the same as another", drawn)
            continue
        seen.add(_text(drawn))
        row = _ready(drawn, persona, foreign.path.name)
        texts = {message["content"] for message in row["messages"][1:]}
        problem, example = _problem(row, settings, persona)
        if problem:
            own.leave_out(problem, row, example)
        elif max(uses[text] for text in texts) >= MOST_USES:
            own.leave_out(f"with a question or an answer that {MOST_USES} others have", row)
        else:
            uses.update(texts)
            own.usable.append(row)
    own.told = [f"data.own {foreign.describe()}", *foreign.notes()]
    _require_enough(own, len(own.usable), settings)
    return own


def _require_enough(own: Own, count: int, settings: DataSettings) -> None:
    if count < own.wanted:
        told = "; ".join(own.lines())
        raise KelronError(
            f"{own.path} gives {count} rows and data.own_share={settings.own_share:g} of data.rows={settings.rows} "
            f"asks for {own.wanted}: set data.own_share to {math.floor(1000 * count / settings.rows) / 1000:g}, or "
            f"add rows{f' ({told})' if told else ''}"
        )


def _shares(places: Mapping[Place, Sequence[int]], wanted: int) -> dict[str, float]:
    """Share of the questions for each held-out split: at most half of the room that it has, so that no language and
    kind has far more than fit."""
    room: Counter[str] = Counter()
    for (split, _, _), indices in places.items():
        room[split] += len(indices)
    return {split: min(share, room[split] / 2 / wanted) for split, share in HELD_OUT.items()}


def _split_of(row: Row, shares: Mapping[str, float]) -> str:
    """Where a row goes, by its first question alone; what the base said is for training."""
    if _is_of_base(row):
        return "train"
    at = _draw(f"split:{_asked(row)[0]}")
    for split, share in shares.items():
        if at < share:
            return split
        at -= share
    return "train"


def _asked_as(row: Row) -> str:
    """What rows share that ask the same: the group of own rows; the base answers a group's questions one by one."""
    return str(row["id"] if _is_of_base(row) else row["group"])


def _alike(held: Sequence[Row], train: Sequence[Row]) -> set[str]:
    """What those rows of `held` ask, by `_asked_as`, that are much like one of `train` of their language."""
    found: set[str] = set()
    for language in {row["language"] for row in held}:
        texts = [row for row in held if row["language"] == language]
        others = [_text(row) for row in train if row["language"] == language]
        best = similar_to_others([_text(row) for row in texts], others) if others else [None] * len(texts)
        found.update(_asked_as(row) for row, match in zip(texts, best, strict=True) if match is not None)
    return found


def _homes(rows: Sequence[Row], train: Sequence[Row], shares: Mapping[str, float]) -> dict[str, str]:
    """The split of each group; held-out rows that are like training rows, of the seeds or of these, join them, until
    none is."""
    home = {row["group"]: _split_of(row, shares) for row in rows}
    new: Sequence[Row] = [*train, *(row for row in rows if home[row["group"]] == "train")]
    while new:
        moved = _alike([row for row in rows if home[row["group"]] != "train"], new)
        home.update(dict.fromkeys(moved, "train"))
        new = [row for row in rows if row["group"] in moved]
    return home


def _places(splits: Mapping[str, Sequence[Row]], seed: int) -> dict[Place, list[int]]:
    """By place the indices, in their split, of the seeds' rows that may give way, in the order in which they do."""
    found: dict[Place, list[int]] = {}
    for split, rows in splits.items():
        for index, row in enumerate(rows):
            found.setdefault((split, row["language"], row["kind"] == "identity"), []).append(index)
    for (split, _, _), indices in found.items():
        indices.sort(key=lambda index: _draw(f"{seed}:{splits[split][index]['id']}"))
        if split != "train":
            del indices[math.floor((1 - LEFT_HELD_OUT) * len(indices)) :]
    return found


def mix_in(own: Own, splits: dict[str, list[dict[str, Any]]], settings: DataSettings) -> dict[str, Any]:
    """Put the own rows in the place of as many of the seeds', and return what the dataset's report says of them.

    Raises KelronError where too few ask what the seeds do not, or where their language has no room for so many.
    """
    home_of = {question: split for split, rows in splits.items() for row in rows for question in _asked(row)}
    near = _alike(own.usable, [row for split in HELD_OUT for row in splits[split]])
    places = _places(splits, settings.seed)
    homes = _homes(own.usable, splits["train"], _shares(places, own.wanted))
    taken: Counter[Place] = Counter()
    for row in own.usable:
        if taken.total() == own.wanted:
            break
        place = homes[row["group"]], row["language"], row["kind"] == "identity"
        homes_of_asked = {home_of[question] for question in _asked(row) if question in home_of}
        if homes_of_asked - ({"train"} if _is_of_base(row) else set()):  # the base answers training seeds' questions
            own.leave_out("with a question of the seeds'", row)
        elif _asked_as(row) in near:
            own.leave_out("much like a held-out row of the seeds'", row)
        elif taken[place] == len(places.get(place, ())):
            about = "identity" if place[2] else "business and chat"
            own.leave_out(f"beyond the {taken[place]} that {about} in {place[1]} has room for in {place[0]}", row)
        else:
            splits[place[0]][places[place][taken[place]]] = row
            taken[place] += 1
    _require_enough(own, taken.total(), settings)
    return {
        "file": own.path.name,
        "sha256": own.sha256,
        "rows": taken.total(),
        "by_split": {split: sum(n for place, n in taken.items() if place[0] == split) for split in splits},
        "left_out": {
            why: {"count": len(lines), "lines": sorted(lines)[:_NAMED]} for why, lines in own.left_out.items()
        },
    }
