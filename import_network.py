"""Makes a network file of one that was trained by the paper's original code.

--source is a network-snapshot-*.pkl of that code: a pickle, which is read as data, so that nothing
in it can run. --dest is an ordinary network file, for all scripts. Its parameters are written
beside it.
"""

from training.options.declared import takes
from training.options.networks import ImportSettings
from training.options.script import command, run_script


@command(help=__doc__)
@takes(ImportSettings)
def main(settings: ImportSettings) -> None:
    from training.commands.import_network import (
        run,  # here, so that --help need not wait for PyTorch
    )

    run(settings)


if __name__ == "__main__":
    run_script(main)
