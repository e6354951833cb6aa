"""Round trips of many images or rows: melted, brought back, and compared, a batch at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torch_utils import distributed
from training.data.images.batches import ImageDataset, normalize_pixels
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors


@dataclass
class WorstImages:
    """What is kept of the images with the largest errors: these first, equal ones as added.

    Attributes:
        count: Number of images at most.
        errors: Theirs ``[k]``.
        rows: Tensors ``[k, ...]`` by name.
    """

    count: int
    errors: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    rows: dict[str, Tensor] = field(default_factory=dict)

    def add(self, errors: Tensor, **rows: Tensor) -> None:
        """More images: their errors ``[n]``, and ``[n, ...]`` of what is to be kept of them."""
        kept = self.rows or {name: more[:0] for name, more in rows.items()}
        together = torch.cat([self.errors, errors])
        order = together.argsort(descending=True, stable=True)[: self.count]
        self.errors = together[order]
        self.rows = {name: torch.cat([kept[name], more])[order] for name, more in rows.items()}


@dataclass(frozen=True)
class Roundtrips:
    """Round trips of N images, on the CPU of every rank.

    Attributes:
        errors: Of all images.
        worst: What is kept of the worst, ``[k, ...]`` by name.
        calls: Denoiser calls of an image.
    """

    errors: RoundtripErrors
    worst: Mapping[str, Tensor]
    calls: int


def measure_roundtrips(
    flow: ProbabilityFlow,
    times: Tensor,
    solver: Solver,
    dataset: ImageDataset,
    with_labels: bool,
    batch: int,
    keep_worst: int,
) -> Roundtrips:
    """Measures how well images survive.

    Every rank reads each batch, of which it integrates its share, and holds no more than one.

    Args:
        flow: On this rank's device.
        times: Increasing ``[steps + 1]``.
        solver: How to take a step.
        dataset: The images.
        with_labels: Whether the network takes their labels.
        batch: Images in flight, over all ranks.
        keep_worst: Images to keep of those that come back worst.
    """
    count = len(dataset)
    starts = range(0, count, batch)
    columns, worst, most_calls = [], WorstImages(keep_worst), 0
    hidden = None if distributed.is_main() else True
    total = 2 * (len(times) - 1) * len(starts)
    with tqdm(total=total, desc="roundtrip", unit="step", disable=hidden) as bar:
        for start in starts:
            items = range(start, min(start + batch, count))
            bar.set_postfix_str(f"images {items.start} to {items.stop - 1} of {count}")
            pixels, labels = dataset.read(items)
            conditions = {"labels": labels} if with_labels else {}
            points = normalize_pixels(pixels).flatten(1)
            latents, returned, calls = _there_and_back(
                flow, times, solver, points, conditions, bar.update
            )
            most_calls = max(most_calls, calls)
            errors = RoundtripErrors.of(pixels.flatten(1), returned)
            columns.append(errors.columns())
            levels = (returned + 1) * LEVELS_PER_UNIT
            worst.add(
                errors.mse_float,
                indices=torch.tensor(items),
                originals=pixels,
                returned=levels.float().view(pixels.shape),
                latents=latents.float(),
                **conditions,
            )
    return Roundtrips(RoundtripErrors.from_columns(torch.cat(columns)), worst.rows, most_calls)


@dataclass(frozen=True)
class RowReturns:
    """Round trips of N rows of a table, on the CPU of every rank.

    Attributes:
        errors: ``[N, D]`` in the coordinates of the flow, where columns have unit variance.
        column_errors: ``[N, D]`` in the units of the columns.
        calls: Denoiser calls of a row.
    """

    errors: Tensor
    column_errors: Tensor
    calls: int

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """Root mean squares and the largest errors, of all and of each column by name."""
        columns = zip(
            names,
            self.column_errors.square().mean(dim=0).sqrt().tolist(),
            self.column_errors.abs().amax(dim=0).tolist(),
            strict=True,
        )
        return {
            "rms_error": float(self.errors.square().mean().sqrt()),
            "max_abs_error": float(self.errors.abs().max()),
            "columns": {name: {"rms": rms, "max_abs": most} for name, rms, most in columns},
        }


def measure_row_returns(
    flow: ProbabilityFlow, times: Tensor, solver: Solver, points: Tensor, batch: int
) -> RowReturns:
    """Measures how well rows ``[N, D]`` of a table survive; arguments as above."""
    parts, calls = [], 0
    starts = range(0, len(points), batch)
    hidden = None if distributed.is_main() else True
    total = 2 * (len(times) - 1) * len(starts)
    with tqdm(total=total, desc="roundtrip", unit="step", disable=hidden) as bar:
        for start in starts:
            data = points[start : start + batch]
            _, returned, taken = _there_and_back(flow, times, solver, data, {}, bar.update)
            error = flow.to_eigen(returned.to(flow.device)) - flow.to_eigen(data.to(flow.device))
            parts.append(torch.stack([error.cpu(), returned - data]))
            calls = max(calls, taken)
    errors, column_errors = torch.cat(parts, dim=1)
    return RowReturns(errors, column_errors, calls)


def _there_and_back(
    flow: ProbabilityFlow,
    times: Tensor,
    solver: Solver,
    points: Tensor,
    conditions: Mapping[str, Tensor],
    on_step: Callable[[], object],
) -> tuple[Tensor, Tensor, int]:
    """Of points ``[n, D]``, latents and returned points ``[n, D]``, in float64 on the CPU, and the
    denoiser calls of a point."""
    share = distributed.shard(len(points))
    data = points[share].to(flow.device).double()
    if conditions:
        mine = {name: rows[share].to(flow.device) for name, rows in conditions.items()}
        flow = flow.given(**mine)
    melt = flow.melt(data, times, solver, on_step=on_step)
    back = flow.generate(melt.end, times, solver, on_step=on_step, gap=melt.gap)
    returned = flow.to_data(back.end, back.times[-1])
    both = distributed.gather_rows(torch.stack([melt.end, returned]), len(points), dim=1).cpu()
    return both[0], both[1], melt.calls + back.calls
