"""The Hub's token in a private dataset of its own, which pushed kernels can read, unlike Kaggle's secrets."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path

from kelron_lib.errors import KelronError
from kelron_lib.kaggle_ops.client import Kaggle
from kelron_lib.kaggle_ops.library import PATIENCE, send_dataset, wait_until_ready
from kelron_lib.kaggle_session import TOKEN, TOKEN_FILE
from kelron_lib.runtime import write_json

TITLE, SLUG = "Kelron Token", "kelron-token"
TOKENS = "huggingface.co/settings/tokens"
SCOPE = (
    "use a fine-grained token that may write to the run's own bucket or repo and nothing else "
    "(huggingface.co/settings/tokens: Fine-grained, then under Repositories the one, with read and write), and delete "
    "both token and dataset (`secret --delete`) when the run is finished"
)


def token_dataset(kaggle: Kaggle) -> str | None:
    """The dataset that holds the token, None where there is none. Raises KelronError for one that is public."""
    ref = f"{kaggle.owner}/{SLUG}"
    found = kaggle.dataset(ref)
    if found is not None and not found.private:
        raise KelronError(
            f"the dataset {ref} is PUBLIC: revoke the token in it at once, then run "
            "`scripts/push_kernels.sh secret --delete`"
        )
    return ref if found is not None else None


def ask_token() -> str:
    """The token from HF_TOKEN, a login of the Hub's client, or the keyboard. Raises KelronError."""
    from huggingface_hub import get_token

    token = os.environ.get(TOKEN) or get_token() or ""
    if not token and sys.stdin.isatty():
        token = getpass.getpass(f"{TOKEN} (not shown): ")
    if not token.strip():
        raise KelronError(f"no token was found: set {TOKEN}, or run `hf auth login`; {SCOPE}")
    return token.strip()


def keep_token(kaggle: Kaggle, token: str, *, patience: float = PATIENCE) -> str:
    """Put the token into the private dataset, in place of one that it held, and see that it is private; its name.

    Says what is to be done about another token that was there. Raises KelronError where the dataset is or would be
    public: what was uploaded is deleted again then.
    """
    ref, there = f"{kaggle.owner}/{SLUG}", token_dataset(kaggle)
    earlier = (kaggle.dataset_file(ref, TOKEN_FILE) or b"") if there is not None else b""
    with tempfile.TemporaryDirectory(prefix="kelron-token-") as scratch:
        folder = Path(scratch)
        metadata = {"id": ref, "title": TITLE, "licenses": [{"name": "other"}]}
        write_json(folder / "dataset-metadata.json", metadata)
        write_json(folder / TOKEN_FILE, {TOKEN: token})
        send_dataset(kaggle, folder, ref, "token", new=there is None, only=True)
    wait_until_ready(kaggle, ref, patience, lambda: kaggle.dataset(ref) is not None)
    found = kaggle.dataset(ref)
    if found is None or not found.private:
        kaggle.delete_dataset(ref)
        raise KelronError(f"Kaggle made {ref} public: it was deleted again. Revoke this token at {TOKENS}")
    if earlier and token.encode() not in earlier:
        kaggle.say(f"another token was there, and Kaggle was told to delete it: revoke it at {TOKENS} all the same")
    if found.older:
        kaggle.say(
            f"Kaggle still has {found.older} older version{'s' * (found.older != 1)} of {ref} with what they hold: "
            "`secret --delete` removes all of them, then run `secret` again"
        )
    return ref


def forget_token(kaggle: Kaggle) -> bool:
    """Delete the dataset; whether there was one."""
    ref = f"{kaggle.owner}/{SLUG}"
    if kaggle.dataset(ref) is None:
        return False
    kaggle.delete_dataset(ref)
    return True
