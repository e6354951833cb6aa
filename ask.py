"""Impute, predict, score and sample rows of a table with conditional queries.

The network is trained with train --any.
"""

from training.cli.script import group, run_script, runs
from training.settings import ask

main = group(
    help=__doc__,
    commands={
        "fill": runs("ask.fill", ask.FillSettings),
        "predict": runs("ask.predict", ask.PredictSettings),
        "score": runs("ask.score", ask.ScoreSettings),
        "sample": runs("ask.sample", ask.DrawSettings),
        "check": runs("ask.check", ask.AskCheckSettings),
    },
)

if __name__ == "__main__":
    run_script(main)
