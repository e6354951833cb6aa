"""Mixtures over latents: the draws of ``posterior.py mixture``.

``{data}_{schedule}_mixture.npz`` has, for R runs, C chains of S draws and K components,

    weights         [R, C, S, K], draws
    truth           [R, K], true weights; not of data that were not simulated
    observed        [R, N, ...], what was observed
    log_evidence    [R, N, K], of each component for each point, in nats
    mean, std       [K, D], [K], the components in whitened latents
"""

from pathlib import Path

from torch import Tensor

from torch_utils.results import save_arrays

FORMAT = "inflationary-flows mixture 1"


def save_mixture(
    path: Path,
    weights: Tensor,
    truth: Tensor | None,
    observed: Tensor,
    log_evidence: Tensor,
    components: tuple[Tensor, Tensor],
) -> None:
    """Writes the draws, whole or not at all."""
    arrays = {"weights": weights, "observed": observed, "log_evidence": log_evidence}
    arrays |= {"mean": components[0], "std": components[1]}
    arrays |= {} if truth is None else {"truth": truth}
    save_arrays(path, {name: values.cpu().numpy() for name, values in arrays.items()})
