"""Streams of random numbers: the purposes of generators seeded by (seed, stream, ...).

The numbers are part of the meaning of a seed: changing one changes all results of its kind. Streams
that are never used with the same seed share a number, and are then aliases of each other.
"""

from enum import IntEnum


class Stream(IntEnum):
    """Purpose of random numbers, given as the second key to ``seeded_generator``."""

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
    """Points of a toy for calibration."""
    PROBES = 6
    """Random directions of a trace."""
    DEQUANTIZATION = 7
    """Dequantization noise."""
    HELD_OUT = 8
    """Times and noise on validation points of a training."""
    SPLIT = 9
    """Split into training and held-out images or rows."""
    MELTED_POINTS = 10
    """Points inflated to fit the base distribution of latents."""
    MELTED_NOISE = 11
    """Noise of the first time on points inflated to fit the base distribution."""
    SCREENING = 12
    """Rows for the screening of conditions."""
    OTHERS = 13
    """Further points of a toy, for averaging targets."""
    LOTS = 14
    """Choice among the further points for each sample."""
    QUESTIONS = 16
    """Choice of asked, known and absent cells of rows in a training step."""
    GAUSSIAN_START = 17
    """Weights, batches and validation split of a Gaussian prediction given conditions."""
    LEVEL_START = 18
    """Weights, batches and validation split of networks for levels given conditions."""
    TRIED = 15
    """Latents, and noise of the first time, for trials of solvers."""

    LATENT = 1
    """Latents for generation."""
    LABEL = 2
    """Classes to generate."""
    MELT_NOISE = 3
    """Noise of the first time on images to inflate."""
    RESIDUAL_NOISE = 4
    """Noise on points whose residuals are extracted."""

    FRESH_POINTS = 0
    """New samples for coverage."""
    TEST_POINTS = 1
    """Test points for coverage."""

    SCORED_IMAGES = 0
    """Choice of images that FID scores."""
    KEPT_FEATURES = 1
    """Choice of features that a reference keeps for KID."""
    KID_SUBSETS = 2
    """Subsets of KID."""

    OBSERVATION_NOISE = 0
    """Noise on simulated observations."""
    PRIOR_DRAWS = 1
    """Prior draws that represent all observations."""
    CHAINS = 2
    """Proposals and acceptances of chains and particles."""
    RESAMPLING = 3
    """Resampling of weighted draws."""
    STARTS = 4
    """Starting points of chains."""
    TRUTHS = 5
    """True parameters of a calibration check."""
    SHOWN_PRIOR = 6
    """Prior draws for comparison with posteriors."""
    REFINING = 7
    """Draws near a posterior."""
    LOOKAHEAD = 8
    """Prior draws that measure the error of its denoiser."""
    POSTERIOR_DRAWS = 9
    """Draws of a flow given an observation."""
    SEEN = 10
    """Random choice of observed coordinates, or sums of coordinates."""
