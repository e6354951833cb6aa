"""Answers to any question about the rows of a table, by a network trained with --any.

fill closes holes, predict tells columns from others, score tells how likely rows are and which of
their cells are odd, sample draws rows, and check tests all of this on rows that are held out.
"""

from training.options import ask
from training.options.script import group, run_script, runs

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
