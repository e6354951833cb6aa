"""Train the denoiser of an inflationary flow on a toy.

Every step draws fresh data from the toy distribution, in its exact eigenbasis.
"""

from training.cli.script import run_script, runs
from training.settings.training import ToyTrainSettings

main = runs("train.run_on_toy", ToyTrainSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
