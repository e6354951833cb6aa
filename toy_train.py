"""Trains a denoiser on a toy data set.

Data are drawn fresh for every step from the toy's own distribution, on its exact eigenbasis.
"""

from training.options.script import run_script, runs
from training.options.training import ToyTrainSettings

main = runs("train.run_on_toy", ToyTrainSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
