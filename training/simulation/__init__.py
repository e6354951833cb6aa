"""From the options of a simulation script to trajectories, images, and the files of them."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.simulation.coverage import CoverageSubject as CoverageSubject
    from training.simulation.extraction import ExtractionChoice as ExtractionChoice
    from training.simulation.latents import LatentChoice as LatentChoice
    from training.simulation.learned_checks import LearnedRuns as LearnedRuns
    from training.simulation.mixtures import MixturePlan as MixturePlan
    from training.simulation.networks import NetworkChoice as NetworkChoice
    from training.simulation.networks import NetworkFile as NetworkFile
    from training.simulation.posterior_subjects import PosteriorSubject as PosteriorSubject
    from training.simulation.posterior_subjects import required as required
    from training.simulation.tables import TableFlow as TableFlow
    from training.simulation.times import TimeChoice as TimeChoice
    from training.simulation.toys import ToyChoice as ToyChoice
    from training.simulation.toys import ToyFlow as ToyFlow
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
