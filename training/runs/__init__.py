"""From the options of a simulation script to trajectories, images, and the files of them."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.runs.coverage import CoverageSubject as CoverageSubject
    from training.runs.extraction import ExtractionChoice as ExtractionChoice
    from training.runs.latents import LatentChoice as LatentChoice
    from training.runs.learned_checks import LearnedRuns as LearnedRuns
    from training.runs.mixtures import MixturePlan as MixturePlan
    from training.runs.networks import NetworkChoice as NetworkChoice
    from training.runs.networks import NetworkFile as NetworkFile
    from training.runs.posterior_subjects import PosteriorSubject as PosteriorSubject
    from training.runs.posterior_subjects import required as required
    from training.runs.tables import TableFlow as TableFlow
    from training.runs.times import TimeChoice as TimeChoice
    from training.runs.toys import ToyChoice as ToyChoice
    from training.runs.toys import ToyFlow as ToyFlow
else:
    __getattr__ = lazily(
        __name__,
        {
            "CoverageSubject": "coverage",
            "ExtractionChoice": "extraction",
            "LatentChoice": "latents",
            "LearnedRuns": "learned_checks",
            "MixturePlan": "mixtures",
            "NetworkChoice": "networks",
            "NetworkFile": "networks",
            "PosteriorSubject": "posterior_subjects",
            "required": "posterior_subjects",
            "TableFlow": "tables",
            "TimeChoice": "times",
            "ToyChoice": "toys",
            "ToyFlow": "toys",
        },
    )
