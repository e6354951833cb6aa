"""Answers to any question about the rows of a table, by a network of train.py --any.

fill closes holes, predict tells columns from others, score tells how likely rows are and which of
their cells are odd, sample draws rows, and check tests all of this on rows that are held out.
"""

from training.options import ask
from training.options.script import group, run_script, runs

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
