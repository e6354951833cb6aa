"""Samples images by seed, one PNG each, to compute an FID of.

An image depends on its seed, the network and the settings of the integration alone. A rerun makes
what is missing or broken.
"""

from training.options.samples import GenerationSettings
from training.options.script import run_script, runs

main = runs("simulations.images_of_seeds", GenerationSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
