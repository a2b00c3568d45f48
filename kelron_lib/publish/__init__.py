"""A run's result as others load it: adapter or merged weights, template, card, proof that it loads and answers.

checks (files alone) -> the place -> disk -> files in a staging folder -> loaded back and asked -> card and digests ->
the place. What is refused is refused before anything is loaded or sent; what does not answer is not published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.hub_client import Hub
from kelron_lib.interrupt import Interrupted, terminable
from kelron_lib.model import base_name
from kelron_lib.publish.adapter import WEIGHTS
from kelron_lib.publish.back import compare, own_answers, published_answers, questions, summary
from kelron_lib.publish.card import card
from kelron_lib.publish.checked import Checked, check_run
from kelron_lib.publish.files import CARD, PROOF, kind_words, write_provenance, write_weights, write_words
from kelron_lib.publish.merge import merged_bytes, plan_merge
from kelron_lib.publish.places import Place, open_place
from kelron_lib.runtime import exclusive, no_space, require_disk, write_json
from kelron_lib.settings import CHAT_LANGUAGE
from kelron_lib.space import base_shape

BESIDE = 64_000_000
"""Bytes for what lies beside the weights: the tokenizer of a large vocabulary, card, proof."""


def publish(
    config: RunConfig,
    run: Path,
    to: str,
    *,
    adapter: Path | None = None,
    data: Path | None = None,
    merged: bool = False,
    force: bool = False,
    language: str = "",
    allow_foreign: bool = False,
    public: bool = False,
    hub: Hub | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Publish a run's adapter, or its merged weights, to a folder or a model repo; returns the verification.

    `language`: of the template's default system prompt (English where the run has it, else its first). `force`: also
    where the gate was not passed, which the card then says first. Raises KelronError for a run that may not be
    published or a place that may not be written, and RunFailed where what was made does not answer as it should.
    """
    default = _default_language(config, language)
    allow_foreign = allow_foreign or config.store.allow_foreign
    with _denials_told():
        checked = check_run(config, run, adapter or run / "adapter", data or run / "data", force=force)
        place = open_place(to, run, hub, allow_foreign=allow_foreign, public=public)
        earlier = place.check()
        require_disk(place.staging, _needed(checked, merged), "the publication")
    if checked.failing:
        say(f"not cleared for release, and published all the same (--force): {len(checked.failing)} checks not met")
    if earlier and earlier.merged != merged:
        say(f"{place.words} holds {kind_words(merged=earlier.merged)}: {kind_words(merged=merged)} will take its place")
    return _carry_out(checked, run, place, default, say, merged=merged)


def _carry_out(
    checked: Checked, run: Path, place: Place, default: str, say: Callable[[str], None], *, merged: bool
) -> dict[str, Any]:
    """Make it and move it to its place; what cuts that off is told with what the place then holds."""
    safe = f"nothing was published, and {place.words} is as it was"
    try:
        with terminable(), exclusive(run, option="--run"), place.staged():
            found = _make(checked, place, default, say, merged=merged)
            safe = f"{place.words} holds what it held before, or all of the new files"
            say(place.put())
    except KeyboardInterrupt as error:
        kind = type(error) if isinstance(error, Interrupted) else Interrupted
        raise kind(f"interrupted by {kind.how}: {safe}") from None
    except Exception as error:
        if no_space(error) is None:
            raise
        disk = place.staging.parent
        raise KelronError(f"no disk space in {disk}: free some, or name another place with --to; {safe}") from None
    return found


@contextlib.contextmanager
def _denials_told() -> Iterator[None]:
    """What may not be read within is told in a line."""
    try:
        yield
    except PermissionError as error:
        raise KelronError(
            f"cannot get at {error.filename} ({error.strerror}): give this account access to it, or name another"
        ) from None


def _default_language(config: RunConfig, language: str) -> str:
    languages = config.data.languages
    if language and language not in languages:
        raise KelronError(f"--language is {language} and the run's languages are {', '.join(languages)}: name one")
    return language or (CHAT_LANGUAGE if CHAT_LANGUAGE in languages else languages[0])


def _needed(checked: Checked, merged: bool) -> int:
    """Bytes that a publication takes on the disk, before any of it is written."""
    if not merged:
        return (checked.adapter.folder / WEIGHTS).stat().st_size + BESIDE  # float16: half of it, where the other is f32
    base = Path(base_name(checked.config))
    if base.is_dir():
        plan_merge(base, checked.adapter)
        return merged_bytes(base) + BESIDE
    return 2 * base_shape(checked.config).total + BESIDE


def _make(checked: Checked, place: Place, default: str, say: Callable[[str], None], *, merged: bool) -> dict[str, Any]:
    """Fill the staging folder, and prove that what lies there answers."""
    out, config = place.staging, checked.config
    system = checked.persona.system_prompt[default]
    made = write_weights(checked, out, say, merged=merged)
    write_words(checked, out, system)
    asked = questions(checked.persona, config.data.languages)
    own = own_answers(config, checked.adapter.folder, asked, system)
    published = published_answers(config, out, asked, merged=merged)
    found = {"merged": merged, **compare(asked, own, published, checked.persona)}
    say(summary(found))
    if found["problems"]:
        raise RunFailed(f"nothing was published: {'; '.join(found['problems'])}, though the run's own adapter does")
    write_json(out / PROOF, found)
    text = card(checked, found, default, name=place.name, source=place.source, merged=merged)
    (out / CARD).write_text(text, encoding="utf-8")
    write_provenance(checked, out, made)
    return found
