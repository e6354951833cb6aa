"""Impute, predict, score and sample rows of a table with conditional queries.

The network is trained with train --any.
"""

from training.settings import ask
from training.cli.script import group, run_script, runs

main = group(
    help=__doc__,
    commands={
        "fill": runs("answers.fill", ask.FillSettings),
        "predict": runs("answers.predict", ask.PredictSettings),
        "score": runs("answers.score", ask.ScoreSettings),
        "sample": runs("answers.sample", ask.DrawSettings),
        "check": runs("answers.check", ask.AskCheckSettings),
    },
)

if __name__ == "__main__":
    run_script(main)
