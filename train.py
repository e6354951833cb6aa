"""Trains a denoiser on images, or on the rows of a table."""

from training.options.script import run_script, runs
from training.options.train import TrainSettings

main = runs("train.run", TrainSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
