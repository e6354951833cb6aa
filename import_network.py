"""Convert a network trained by the paper's original code.

The pickle --source (network-snapshot-*.pkl) is parsed as data, so that no code in it runs. --dest
is an ordinary network file, with its parameters in a file beside it.
"""

from training.cli.script import run_script, runs
from training.settings.networks import ImportSettings

main = runs("networks.import_network", ImportSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
