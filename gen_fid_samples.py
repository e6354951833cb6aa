"""Samples images by seed, one PNG each, for fid.py to score.

An image depends on its seed, the network and the settings of the integration alone. A rerun makes
what is missing or broken.
"""

from training.options.declared import takes
from training.options.samples import GenerationSettings
from training.options.script import command, run_script


@command(help=__doc__)
@takes(GenerationSettings)
def main(settings: GenerationSettings) -> None:
    from training.commands.gen_fid_samples import (
        run,  # here, so that --help need not wait for PyTorch
    )

    run(settings)


if __name__ == "__main__":
    run_script(main)
