"""Extractions of residuals, of toys and of images: what their files say, and the run itself."""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.files import require_folder
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance, save_json
from torch_utils.streams import Stream
from training.files.residuals import FORMAT, Extraction, digest
from training.flow.solvers import Solver
from training.measure.residuals import Extractor, Put, ResidualProbe, Source
from training.model.model import Model


@dataclass(frozen=True)
class ExtractionChoice:
    """How residuals are extracted.

    Attributes:
        noise: ``independent``, fresh at each time, or ``path``, on the flow's own paths.
        solver: Solver of the paths.
        count: Number of samples.
        batch: Number of samples at a time, over all ranks.
        seed: Seed of the samples and of the noise.
    """

    noise: str
    solver: Solver
    count: int
    batch: int
    seed: int

    def extractor(self, probe: ResidualProbe, source: Source) -> Extractor:
        return Extractor(
            probe,
            source,
            count=self.count,
            batch=self.batch,
            seed=self.seed,
            stream=Stream.RESIDUAL_NOISE,
            solver=self.solver if self.noise == "path" else None,
        )

    def describe(
        self, model: Model, data_name: str, times: Tensor, matters: Mapping[str, Any]
    ) -> Extraction:
        """What the files say of themselves.

        Args:
            model: The network.
            data_name: How results are named.
            times: Increasing ``[T]``.
            matters: Options that the numbers depend on, by name; files differ where these do.

        Raises:
            UsageError: The times do not increase.
        """
        if times[0] >= times[-1]:
            raise UsageError(
                f"T is {float(times[-1]):g}, but the first time is {float(times[0]):g}: give a "
                "later T"
            )
        return Extraction(
            data_name,
            model.denoiser.schedule.name,
            self.noise,
            int(model.about["dims_to_keep"]),
            times.numpy(),
            digest({**matters, **model.about}),
        )


def result_bytes(names: Iterable[str], rows: int, columns: int) -> int:
    """Size of float32 arrays ``[rows, columns]`` of these names."""
    return 4 * len(list(names)) * rows * columns


def run_extraction(
    job: Extractor,
    writer: AbstractContextManager[Put],
    parameters: Path,
    origin: str,
    options: Mapping[str, Any],
    announcement: str,
) -> None:
    """Writes residuals and their parameters.

    Args:
        job: What extracts them.
        writer: Of their files.
        parameters: The ``.json`` of the options.
        origin: The digest that the files have.
        options: What is recorded.
        announcement: What to tell before the work begins.
    """
    began = time.perf_counter()
    distributed.barrier()  # no rank writes before all have looked
    require_folder(parameters.parent)
    logger.info(announcement)
    with writer if distributed.is_main() else nullcontext() as put:
        calls = job.run(put)
    if distributed.is_main():
        seconds = time.perf_counter() - began
        facts = {"origin": origin, "denoiser_calls": calls, "seconds": seconds}
        save_json(parameters, {"format": FORMAT, "options": options, **facts, **provenance()})
        logger.info(
            f"Wrote residuals of {job.count} samples at {len(job.probe.times)} times to "
            f"{parameters.parent} in {seconds:.1f} s"
        )
