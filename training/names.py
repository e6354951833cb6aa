"""The words that options and files take, and the defaults that help texts quote.

They stand here, and not beside the code that knows what they mean, so that ``--help`` need not wait
for PyTorch: this module imports the standard library alone. A test compares them with the
registries of that code.
"""

import sys
from pathlib import Path

PROGRAM = "ifs"
"""The installed command that runs the scripts."""


def script(name: str) -> str:
    """Return a script of this project as its user types it, for messages.

    Example:
        >>> script("train")
        'train.py'

    Args:
        name: Name of the script, without its suffix.

    Returns:
        ``ifs NAME`` in an installed copy, which has no scripts at hand, or where the program was
        started by this command; else ``NAME.py``.
    """
    installed = (Path(__file__).parent.parent / "scripts").is_dir()
    return (
        f"{PROGRAM} {name}" if installed or sys.argv[0].startswith(f"{PROGRAM} ") else f"{name}.py"
    )


UNSOUND = 3
"""Exit code of ``--strict`` and ``--refuse``."""
EXTRAS = {
    "arviz": "arviz",
    "bokeh": "report",
    "jinja2": "report",
    "torch_fidelity": "fid",
    "trimesh": "meshes",
}
"""What is to be installed with the package for what a few commands import."""

# Data.
TOY, TABLE, IMAGES, RECORDS = KINDS_OF_DATA = ("toy", "table", "images", "records")
"""What a network file says that it is of."""
TOY_NAMES = (
    *("circles", "sine1", "sine2", "moons", "s_curve", "swirl", "alt_s_curve", "alt_swirl"),
    *("unscaled_alt_s_curve", "unscaled_alt_swirl"),
)
TRANSFORMS = ("center-crop", "center-crop-wide")
PATCHES, HELD_OUT_PATCHES = "patches", "patches:held-out"
PATCH, SIDES = 16, (4, 64)
"""Side of patches of photographs, in pixels, unless it is said, and between which it must be."""
HEADERS = ("auto", "yes", "no")
"""Whether the first row of a text names its columns."""
MISSING = ("keep", "refuse", "drop", "mean")
"""What becomes of missing values: keep or refuse them, drop their rows, or take the mean."""
COLUMN_TYPES = ("number", "whole", "category", "date")
"""Of a column of records: what its values are."""
IDENTIFIER = "identifier"
"""A column that only tells rows apart."""
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""What may be between the cells of a text, by name."""
DECIMALS = (".", ",")
HALVES = ("upper-half", "lower-half", "left-half", "right-half")
"""Parts of an image that may be all that was observed."""
OPERATORS = ("blur:STD", "downsample:FACTOR", "crop:ROW,COLUMN,HEIGHT,WIDTH", "random:COUNT")
"""Linear maps that have a name, with what is said of them; the last is of any points."""
RAW_TABLES = (".csv", ".tsv", ".npy", ".parquet", ".feather")
"""Files that ``dataset_tool.py`` makes tables of."""

# Networks.
TOY_NETWORK_NAMES = ("mlp", "ToyConvUNet", "ToySongUNet")
IMAGE_NETWORK_NAMES = ("ddpmpp", "ncsnpp", "adm")
TABLE_NETWORK = "mlp"
QUESTIONS = "questions"
"""The network of records."""
TRIAL_NETWORK = "trials"
LABEL_DIM = 9
"""Of augmentation: x-flip, y-flip, n, cos phi - 1, sin phi, n cos a, n sin a, n_x, n_y."""
PRECISIONS = ("fp32", "bf16", "fp16")
SPACES = ("ES", "IS")
MOST_BLOCKS = 64
"""Of a level of an image network."""
MOST_WAVES = 16
"""Of pixels, that a network sees."""
NOISE_CONDITIONINGS = ("log", "ddpm")
"""What a network can be trained with."""

# Flow.
INFLATION = ("dims_to_keep", "rho", "gamma0", "g_type", "inflation_gap", "g_rescaling")
"""What is known of an inflationary schedule."""
ALL_AT_ONCE = 512
"""Points of one call where results must not depend on how many there are beside."""
G_TYPES = ("orig", "constant_inflation_gap")
SOLVER_NAMES = (
    *("euler", "heun", "rk4", "exp_ab2", "exp_rk4", "exp_rk5"),
    *("dopri5", "rev_euler", "rev_rk5"),
)
ADAPTIVE_SOLVERS = ("dopri5",)
"""Those that choose their steps themselves."""
DEFAULT_SOLVER = "exp_rk5"
"""The most accurate for its calls in ``benchmarks/solvers.py``; see docs/solvers.md."""
DEFAULT_STEPS = 20
"""Steps of an integration where nothing else was asked for."""
TRACES = ("auto", "exact", "hutchinson")
LARGEST_EXACT = 128
"""Dimensions up to which ``auto`` is exact."""
PROBES = 8
"""Random directions of a point: its standard error is then known to a quarter."""
CELL_ERROR, CELL_POINTS = 0.05, 256
"""Densities of discrete rows are means over points, until their standard error in nats is so small,
or points are so many."""
METHODS = ("gain", "marginal", "path")
"""Of calibration."""
LEARNED = "learned"
"""The law of latents of a network file."""
LIKELIHOOD = "likelihood"
TRIALS = "trials"
POPULATION = "population"
DISCRETE = "discrete_parameters"
"""What a network file has of a likelihood: bounds of its parameters."""
UNIFORM = "uniform"
"""The prior between the bounds of parameters."""

# Training.
OTHERS = 32768
"""Further points of a toy; targets are averaged over the near ones."""
MOST_AVERAGED = 8
"""Dimensions up to which this pays."""
AUTO = "auto"
MARGINALS = ("none", "yeo-johnson", "quantile")
AXES_TOO = "quantile-axes"
"""``quantile``, and a spline along the whitened axes too, which draws in rows that are far from all
others there: a step of iterative Gaussianization (Chen and Gopinath 2000)."""
EVENED = {"quantile-0.05": 0.05, "quantile-0.2": 0.2, "quantile-0.5": 0.5}
"""What is done to marginals of records, too: a column gets the quantiles that it has with so much
noise, in standard deviations."""
LOG = "log"
"""The logarithm of columns that are positive over decades."""
WHITENINGS = ("none", "pca", "zca")
COND_SCREENS = (AUTO, "on", "off")
LINEAR_STARTS = (*COND_SCREENS, "gaussian")
BOUNDED = (AUTO, "map", "reject")
ANY_NUMBER = -1
"""In a shape, of what there may be any number: ``(ANY_NUMBER, K)`` is a set of trials of K numbers.
"""
ADAM, SOAP = OPTIMIZERS = ("adam", "soap")
"""See ``learning.soap``."""
BY_WEIGHT = "by_weight"
T_SAMPLINGS = ("uniform", "normal", "log_uniform", BY_WEIGHT)
TOY_PRECONDITIONINGS = ("ifs", "edm", "edm_es")

# Simulation.
KINDS = ("melt", "roundtrip", "gen")
MOST_ROWS = 10_000
"""Rows of a table that are melted, unless a number is given."""
NOISES = ("independent", "path")
"""Of residuals: fresh at each time, or the flow's own."""

# Posteriors.
SAMPLERS = (*("auto", "pool", "refined", "annealed", "elliptical", "hmc", "smc", "twisted"),)
MOST_TESTED = 8
"""Dimensions up to which Gaussian mixtures can stand for posteriors: there ``auto`` refines pools
and anneals populations, and all samplers are tested by wider proposals."""
WARMUP = {"elliptical": 200, "hmc": 300}
"""Steps before the first draw; hmc learns its metric in them."""
PARTICLES = 1024
"""Of a population of ``twisted``, unless draws are more."""
PARTICLE_STEPS = 16
"""Steps of the diffusion that they follow."""
TOY_POOL, IMAGE_POOL = 2**17, 2**12
"""Prior draws in a pool."""
LEARNED_SOLVER, LEARNED_STEPS = "exp_rk5", 5
"""Solver and steps of the draws of a neural posterior, where the network file has no others."""
LEARNED_POOL = 2**12
"""The same where a network says the likelihood, which is dear."""
MOST_DEBLURRED = 16
"""Dimensions of which Jacobians of a denoiser are taken whole."""
FEWEST_RUNS = 20
"""That a check of posteriors takes."""
FEWEST_NEIGHBORS, NEIGHBORS = 20, 100
"""Simulations that are tested near an observation: at least, and unless another number is said."""
AMORTIZED_ROWS, AMORTIZED_CUDA_ROWS = 1024, 8192
"""Points of one call where nothing but draws is wanted: as many as stay in the cache of a CPU, also
in an ensemble, where 2,048 take half as long again a point; a card wants more."""
