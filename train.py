"""Train the denoiser of an inflationary flow on images or on a table.

Architecture, duration and other defaults depend on the data and the device. Ctrl-C saves the run,
and --resume continues it with identical results.
"""

from training.cli.script import run_script, runs
from training.settings.train import TrainSettings

main = runs("train.run", TrainSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
