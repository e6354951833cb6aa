"""Integrates the probability-flow ODE of images or tables: melt data, bring it back, generate."""

from training.options.script import run_script, runs
from training.options.simulations import SimulationSettings

main = runs("simulations.images_or_tables", SimulationSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
