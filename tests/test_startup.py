"""Scripts say what they are without waiting for what they compute with."""

import subprocess
import sys
from pathlib import Path

from training import names
from training.data.toys import _RECIPES
from training.flow.denoisers import DTYPES
from training.flow.solvers import SOLVERS
from training.inference.sampling import KERNELS
from training.networks import IMAGE_NETWORKS, TOY_NETWORKS

ROOT = Path(__file__).parent.parent
HELP_OF_ALL = """
import contextlib, importlib, io, pathlib, sys
for path in sorted(pathlib.Path().glob("*.py")):
    main = importlib.import_module(path.stem).main
    for words in [[], *([name] for name in getattr(main, "commands", ()))]:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            main.main([*words, "--help"], standalone_mode=False)
        assert "--help" in shown.getvalue(), (path, words)
        heavy = {"bokeh", "matplotlib", "numpy", "scipy", "torch"} & set(sys.modules)
        assert not heavy, f"{path} {words} imports {heavy}"
"""


def test_no_help_imports_what_takes_long() -> None:
    subprocess.run([sys.executable, "-c", HELP_OF_ALL], cwd=ROOT, check=True)


def test_names_that_options_offer_are_those_that_there_are() -> None:
    assert tuple(SOLVERS) == names.SOLVER_NAMES
    assert tuple(TOY_NETWORKS) == names.TOY_NETWORK_NAMES
    assert tuple(IMAGE_NETWORKS) == names.IMAGE_NETWORK_NAMES
    assert tuple(DTYPES) == names.PRECISIONS
    assert set(KERNELS) == set(names.WARMUP) < set(names.SAMPLERS)
    assert tuple(_RECIPES) == names.TOY_NAMES
