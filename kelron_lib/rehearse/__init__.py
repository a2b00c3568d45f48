"""The base model's own words: questions put otherwise, and its own answers to keep it from forgetting.

Two kinds of rows come of it. Identity questions of the training seeds are paraphrased by the base and answered with the
seed's own answers, so that more ways to ask are known. General questions, and the talk and work of the training seeds,
are answered by the base itself under an empty system message: learned again with the persona's, they hold on to what
the base can do (rehearsal). The gate judges every text, and what was held out for the evaluation is never asked nor
kept.

The rows are a JSON lines file that `data.own` mixes into a dataset. Needs a GPU for a real base; the tiny one shows it.
"""

from kelron_lib.rehearse.run import rehearse, summary

__all__ = ["rehearse", "summary"]
