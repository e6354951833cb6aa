"""Streams of random numbers: what each generator seeded by (seed, stream, ...) is for.

The numbers are part of what a seed means: a changed one changes every result of its kind. Streams
that never meet under one seed share a number, and are then aliases of each other.
"""

from enum import IntEnum


class Stream(IntEnum):
    """The second key of ``seeded_generator``."""

    DATA = 0
    """Points of a toy, order of images."""
    LOSS = 1
    """Times and noise of a training step."""
    NETWORK = 2
    """Dropout of a training step."""
    AUGMENTATION = 3
    """Augmentation of a training batch."""
    CALIBRATION_NOISE = 4
    """Noise on the points of a calibration."""
    CALIBRATION_POINTS = 5
    """Points of a toy to calibrate on."""
    PROBES = 6
    """Random directions of a trace."""
    DEQUANTIZATION = 7
    """Noise that makes pixel values continuous."""
    HELD_OUT = 8
    """Times and noise on points that are held out of a training."""
    SPLIT = 9
    """Which images are held out of a training."""
    MELTED_POINTS = 10
    """Points that are melted to learn the law of latents from."""
    MELTED_NOISE = 11
    """Noise of the first time on these."""
    SCREENING = 12
    """Rows by which conditions are screened."""
    OTHERS = 13
    """Further points of a toy, to average targets over."""
    LOTS = 14
    """Among which of these a sample looks."""
    QUESTIONS = 16
    """Which cells of rows are asked, known and absent in a training step."""
    GAUSSIAN_START = 17
    """Weights, batches and what is held out of a Gaussian that is fitted given conditions."""
    LEVEL_START = 18
    """The same of networks that say what levels are, given conditions."""
    TRIED = 15
    """Latents, and noise of the first time, that solvers are tried on."""

    LATENT = 1
    """Latents to generate from."""
    LABEL = 2
    """Classes to generate."""
    MELT_NOISE = 3
    """Noise of the first time on images to melt."""
    RESIDUAL_NOISE = 4
    """Noise on the points whose residuals are extracted."""
    PILOT = 5
    """Latents that choose the steps of a solver."""

    FRESH_POINTS = 0
    """Fresh samples for coverage."""
    TEST_POINTS = 1
    """Test points for coverage."""

    SCORED_IMAGES = 0
    """Which images FID scores."""
    KEPT_FEATURES = 1
    """Which features a reference keeps for KID."""
    KID_SUBSETS = 2
    """Subsets of KID."""

    OBSERVATION_NOISE = 0
    """Noise on simulated observations."""
    PRIOR_DRAWS = 1
    """Draws of the prior that stand for all observations."""
    CHAINS = 2
    """Proposals and acceptances of chains and particles."""
    RESAMPLING = 3
    """Which weighted draws are taken."""
    STARTS = 4
    """Where chains start."""
    TRUTHS = 5
    """What is to be found again in a check."""
    SHOWN_PRIOR = 6
    """Draws of the prior to compare posteriors with."""
    REFINING = 7
    """Draws near a posterior."""
    LOOKAHEAD = 8
    """Draws of the prior that say how far its denoiser is off."""
    POSTERIOR_DRAWS = 9
    """Draws of a flow that is given an observation."""
    SEEN = 10
    """Coordinates, or sums of them, that are observed at random."""
