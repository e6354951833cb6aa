"""Generate images by seed, one PNG each, for example to compute an FID.

Each image depends only on its seed, the network and the solver settings. Running the command again
generates only images that are missing or broken.
"""

from training.cli.script import run_script, runs
from training.settings.samples import GenerationSettings

main = runs("simulations.images_of_seeds", GenerationSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
