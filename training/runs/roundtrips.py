"""Round trips of many points: melted, brought back, and compared, a batch at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torch_utils import distributed
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.subjects.samples import Returns, Source


def measure_returns(
    flow: ProbabilityFlow,
    times: Tensor,
    solver: Solver,
    source: Source,
    returns: Returns,
    batch: int,
) -> int:
    """Measures how well points survive, and returns the denoiser calls of a point. Every rank reads
    each batch, of so many points in flight over all ranks, of which it integrates its share, and
    holds no more than one."""
    count, most_calls = len(source), 0
    starts = range(0, count, batch)
    total = 2 * (len(times) - 1) * len(starts)
    with distributed.progress_bar(total=total, desc="roundtrip", unit="step") as bar:
        for start in starts:
            places = range(start, min(start + batch, count))
            bar.set_postfix_str(f"{places.start} to {places.stop - 1} of {count}")
            samples = source.read(places)
            conditions = {} if samples.labels is None else {"labels": samples.labels}
            latents, back, calls = _there_and_back(
                flow, times, solver, samples.points, conditions, bar.update
            )
            most_calls = max(most_calls, calls)
            returns.add(flow, samples, latents, back)
    return most_calls


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
