"""Integrate the probability-flow ODE of images or tables.

It inflates data (melt), generates from the end of the melt (roundtrip), and generates new samples
(gen), with log densities on request.
"""

from training.cli.script import run_script, runs
from training.settings.simulations import SimulationSettings

main = runs("simulations.images_or_tables", SimulationSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
