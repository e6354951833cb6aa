"""Measure round-trip errors of images or rows: inflate them, generate them back, compare."""

from training.cli.script import run_script, runs
from training.settings.simulations import RoundtripSettings

main = runs("simulations.roundtrips", RoundtripSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
