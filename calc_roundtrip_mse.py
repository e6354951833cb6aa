"""Melts images or rows of a data set, generates them back, and measures how well they return."""

from training.options.script import run_script, runs
from training.options.simulations import RoundtripSettings

main = runs("simulations.roundtrips", RoundtripSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
