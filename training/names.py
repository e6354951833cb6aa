"""Names that options and files accept, and defaults that help texts quote.

They are defined here, and not in the code that implements them, so that ``--help`` need not wait
for PyTorch: this module imports the standard library alone. A test compares them with the
registries of that code.
"""

import sys
from pathlib import Path

PROGRAM = "ifs"
"""Installed command that runs the scripts."""


def script(name: str) -> str:
    """Return the name of a script of this project as users type it, for messages.

    Example:
        >>> script("train")
        'train.py'

    Args:
        name: Name of the script, without its suffix.

    Returns:
        ``ifs NAME`` in an installed copy, where scripts are not in the working directory, or if the
        program was started by this command; otherwise ``NAME.py``.
    """
    installed = (Path(__file__).parent.parent / "scripts").is_dir()
    return (
        f"{PROGRAM} {name}" if installed or sys.argv[0].startswith(f"{PROGRAM} ") else f"{name}.py"
    )


def command_line(name: str) -> str:
    """Return how a user starts a script: ``ifs NAME`` or ``python NAME.py``."""
    typed = script(name)
    return typed if typed.startswith(f"{PROGRAM} ") else f"python {typed}"


UNSOUND = 3
"""Exit code of ``--strict`` and ``--refuse``."""
EXTRAS = {
    "arviz": "arviz",
    "bokeh": "report",
    "jinja2": "report",
    "torch_fidelity": "fid",
    "trimesh": "meshes",
}
"""Extras of the package that a few commands need, by imported module."""

# Data.
TOY, TABLE, IMAGES, RECORDS = KINDS_OF_DATA = ("toy", "table", "images", "records")
"""Kinds of data that a network can be trained on."""
TOY_NAMES = (
    *("circles", "sine1", "sine2", "moons", "s_curve", "swirl", "alt_s_curve", "alt_swirl"),
    *("unscaled_alt_s_curve", "unscaled_alt_swirl"),
)
TRANSFORMS = ("center-crop", "center-crop-wide")
PATCHES, HELD_OUT_PATCHES = "patches", "patches:held-out"
PATCH = 16
"""Side of patches of photographs, in pixels."""
HEADERS = ("auto", "yes", "no")
"""Values of the option that states whether the first row of a text file names the columns."""
MISSING = ("keep", "refuse", "drop", "mean")
"""Treatment of missing values: keep or refuse them, drop their rows, or take the mean."""
COLUMN_TYPES = ("number", "whole", "category", "date")
"""Types of a column of records."""
IDENTIFIER = "identifier"
"""Type of a column that only distinguishes rows."""
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""Separators between the cells of a text file, by name."""
DECIMALS = (".", ",")
HALVES = ("upper-half", "lower-half", "left-half", "right-half")
"""Parts of an image that may be the only observed ones."""
OPERATORS = ("blur:STD", "downsample:FACTOR", "crop:ROW,COLUMN,HEIGHT,WIDTH", "random:COUNT")
"""Named linear maps, with their arguments; the last applies to any points."""
RAW_TABLES = (".csv", ".tsv", ".npy", ".parquet", ".feather", ".xlsx")
"""Suffixes of files that ``dataset_tool.py`` converts to tables."""
SERIES, PICTURES, SETS, ARRAYS = DATA_AS = ("series", "images", "sets", "arrays")
"""Kinds of raw data as conditions; arrays are for a network of the user's."""
MOST_RAW_VALUES = 30_000
"""Largest number of values of one simulation of raw data."""
MODULE = "module"
"""Argument of a network that network files leave out: a network of the user's."""

# Networks.
TOY_NETWORK_NAMES = ("mlp", "ToyConvUNet", "ToySongUNet")
IMAGE_NETWORK_NAMES = ("ddpmpp", "ncsnpp", "adm")
TABLE_NETWORK = "mlp"
QUESTIONS = "questions"
"""Name of the network of records."""
LABEL_DIM = 9
"""Number of augmentation labels: x-flip, y-flip, n, cos phi - 1, sin phi, n cos a, n sin a, n_x,
n_y.
"""
PRECISIONS = ("fp32", "bf16", "fp16")
SPACES = ("ES", "IS")
MOST_BLOCKS = 64
"""Largest number of blocks per level of an image network."""
MOST_WAVES = 16
"""Largest number of pixel waves that a network gets as input."""
NOISE_CONDITIONINGS = ("log", "ddpm")
"""Encodings of time that a network can be trained with."""

# Flow.
INFLATION = ("dims_to_keep", "rho", "gamma0", "g_type", "inflation_gap", "g_rescaling")
"""Names of the arguments of an inflationary schedule."""
ALL_AT_ONCE = 512
"""Number of points per evaluation where results must not depend on the number of points."""
G_TYPES = ("orig", "constant_inflation_gap")
SOLVER_NAMES = ("euler", "heun", "exp_ab2", "exp_rk5")
DEFAULT_SOLVER = "exp_rk5"
"""Default solver: the most accurate for its network evaluations; see docs/reference/solvers.md."""
DEFAULT_STEPS = 20
"""Default number of steps of an integration."""
TRACES = ("auto", "exact", "hutchinson")
LARGEST_EXACT = 128
"""Largest number of dimensions where ``--trace=auto`` computes exact Jacobian traces."""
PROBES = 8
"""Number of random directions (probes) per point; the standard error is then known to a quarter."""
CELL_ERROR, CELL_POINTS = 0.05, 256
"""Limits on densities of discrete rows, which are means over points: points are added until the
standard error, in nats, is this small, or until there are this many.
"""
METHODS = ("gain", "path")
"""Methods of calibration."""
LEARNED = "learned"
"""Name of the learned distribution of latents in a network file."""
LIKELIHOOD = "likelihood"
TRIALS = "trials"
POPULATION = "population"
DISCRETE = "discrete_parameters"
"""Entry of a likelihood in a network file: its discrete parameters."""
UNIFORM, STORED_PRIOR = "uniform", "stored"
"""Names of the uniform prior between the bounds of parameters, and of the prior of simulations."""
PRIOR = "prior"
"""Entry of a network file: the prior of the simulations, as text."""

# Training.
OTHERS = 32768
"""Number of further points of a toy; targets are averaged over the near ones."""
MOST_AVERAGED = 8
"""Largest number of dimensions where averaging of training targets pays off."""
AUTO = "auto"
RANKS = "ranks"
MARGINALS = ("none", "yeo-johnson", RANKS)
AXES_TOO = "ranks-axes"
"""Name of ``ranks`` with an additional spline along the whitened axes, which draws in rows that
are far from all others there: a step of iterative Gaussianization (Chen and Gopinath 2000).
"""
EVENED = {"ranks-0.05": 0.05, "ranks-0.2": 0.2, "ranks-0.5": 0.5}
"""Transformations of marginals of records: a column gets the quantiles that it has with
noise of this size, in standard deviations.
"""
LOG = "log"
"""Name of the logarithm of columns that are positive over decades."""
WHITENINGS = ("none", "pca", "zca")
COND_SCREENS = (AUTO, "on", "off")
LINEAR_STARTS = (*COND_SCREENS, "mean", "gaussian")
BOUNDED = (AUTO, "map", "reject")
ANY_NUMBER = -1
"""Placeholder for any size in a shape: ``(ANY_NUMBER, K)`` is a set of trials of K numbers."""
ADAM, SOAP = OPTIMIZERS = ("adam", "soap")
"""Names of optimizers; see ``learning.soap``."""
BY_WEIGHT = "by_weight"
T_SAMPLINGS = ("uniform", "normal", "log_uniform", BY_WEIGHT)
TOY_PRECONDITIONINGS = ("ifs", "edm", "edm_es")

# Simulation.
KINDS = ("melt", "roundtrip", "gen")
MOST_ROWS = 10_000
"""Default number of rows of a table that are inflated."""
NOISES = ("independent", "path")
"""Noise of residuals: fresh at each time, or the flow's own."""

# Posteriors.
SAMPLERS = (*("auto", "pool", "refined", "annealed", "elliptical", "hmc", "twisted"),)
MOST_TESTED = 8
"""Largest number of dimensions where Gaussian mixtures approximate posteriors: there ``auto``
refines pools and anneals populations, and all samplers are tested by wider proposals.
"""
WARMUP = {"elliptical": 200, "hmc": 300}
"""Steps before the first draw; hmc estimates its metric in them."""
PARTICLES = 1024
"""Number of particles per population of ``twisted``, unless there are more draws."""
PARTICLE_STEPS = 16
"""Number of steps of the diffusion that particles follow."""
TOY_POOL, IMAGE_POOL = 2**17, 2**12
"""Default numbers of prior draws in a sampler's pool, for toys and for images."""
LEARNED_SOLVER, LEARNED_STEPS = "exp_rk5", 5
"""Solver and steps for draws of a neural posterior, where the network file has no others."""
LEARNED_POOL = 2**14
"""Number of prior draws in a pool where a network models the likelihood, which is expensive."""
MOST_SHARPENED = 16
"""Largest number of dimensions where full Jacobians of a denoiser are computed."""
CHAINS = 4
"""Number of Markov chains, or of populations of particles, per posterior; R-hat compares them."""
FEWEST_RUNS = 20
"""Smallest number of runs in a check of posteriors."""
AMORTIZED_ROWS, AMORTIZED_CUDA_ROWS = 1024, 8192
"""Number of points per evaluation where only draws are wanted, on a CPU and on CUDA. On a CPU the
data must fit into its cache, also for an ensemble: 2,048 points take half as long again per point.
A GPU needs more points.
"""
