"""Makes a network file of one that was trained by the paper's original code.

--source is a network-snapshot-*.pkl of that code: a pickle, which is read as data, so that nothing
in it can run. --dest is an ordinary network file, for all scripts. Its parameters are written
beside it.
"""

from training.options.networks import ImportSettings
from training.options.script import run_script, runs

main = runs("networks.import_network", ImportSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
