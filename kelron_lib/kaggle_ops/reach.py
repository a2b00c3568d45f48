"""What a config names that a session on Kaggle does not have: files of this laptop, and hours."""

from __future__ import annotations

from pathlib import Path

from kelron_lib.config import MADE_FOR, RunConfig
from kelron_lib.errors import KelronError
from kelron_lib.hub_store import SCHEME, open_hub_store
from kelron_lib.kaggle_ops.kernels import LONGEST, SLACK
from kelron_lib.persona import persona_file
from kelron_lib.runtime import PACKAGE_ROOT


def require_reachable(config: RunConfig) -> None:
    """Raise KelronError for a config with which pushed sessions are bound to fail, before any of them is pushed."""
    persona = config.data.persona
    if Path(persona).name != persona or Path(persona).suffix:
        home = persona_file("kelron").parent.relative_to(PACKAGE_ROOT)
        raise KelronError(
            f"data.persona={persona} is a file of this machine, which a session on Kaggle does not have: put it into "
            f"{home}/, commit it, and give its name, data.persona={Path(persona).stem}"
        )
    persona_file(persona)
    if config.data.own:
        raise KelronError(
            f"data.own={config.data.own} is a file of this machine, which a pushed session does not have: leave it "
            "out, or run the notebooks by hand with a dataset attached that holds it (docs/kaggle.md)"
        )
    if config.store.url.startswith(SCHEME):
        open_hub_store(config.store.url)  # refuses what names none, and reaches nothing yet
    elif config.store.url:
        raise KelronError(
            f"store.url={config.store.url} is no store of a run from a laptop: leave it out, and checkpoints stay in "
            f"the outputs of the sessions, or name one on the Hub ({SCHEME}buckets/OWNER/NAME/RUN)"
        )
    longest = LONGEST - SLACK
    if MADE_FOR.get(config.preset, 0) > 0 and config.session.budget_seconds > longest:
        raise KelronError(
            f"session.budget_seconds is {config.session.budget_seconds:g}: Kaggle ends a session after {LONGEST}, and "
            f"its output may be lost then; at most {longest} leaves time for the end"
        )
