"""Models compared by their evidence: ``posterior.py compare``."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from training.commands.inference import Asked
from training.files.posterior import COMPARISON_FORMAT
from training.inference.draws import Draws
from training.inference.summary import Summary
from training.inference.trials import TrialLikelihood
from training.measure.posterior.evidence import model_probabilities
from training.names import UNSOUND
from training.options.inference import PriorOptions
from training.options.posterior import CompareSettings, SampleSettings
from training.runs.posterior_results import MOST_SHOWN, write_numbers
from training.runs.posteriors import sample_groups, without_points

LARGEST_ERROR = 0.1
"""Nats of an evidence, from which on a warning is given."""


def compare(settings: CompareSettings) -> int:
    began = perf_counter()
    path = settings.save_dir / "comparison.json"
    asked = [Asked.open(one) for one in of_each(settings)]
    names = [one.learned.table.data_name for one in asked if one.learned is not None]
    if len(set(names)) < len(names):
        names = [f"{name} ({place + 1})" for place, name in enumerate(names)]
    require_alike(asked, names)
    with distributed.process_group(settings.run.device_name) as device:
        require_new([path], settings.run.overwrite)
        require_folder(settings.save_dir)
        distributed.barrier()  # no rank writes before all have looked
        sampled = [
            sampled_of(one.on(device, []), path.with_name(f"comparison_{place + 1}.json"))
            for place, one in enumerate(asked)
        ]
        tells = distributed.is_main()
    if not tells:
        return 0
    value, error = (  # log Z [M, models], nats, and what these are off by chance alone
        torch.stack([draws.stats[key] for draws, _ in sampled], dim=1)
        for key in ("evidence", "evidence_error")
    )
    prior = torch.tensor(settings.weights or [1.0] * len(asked), dtype=torch.float64)
    chances, shares = model_probabilities(value, error, prior), prior / prior.sum()
    converged = torch.stack([summary.converged for _, summary in sampled], dim=1)
    observations = [
        {
            "log_evidence": by_name(names, value[row]),
            "error": by_name(names, error[row]),
            "probability": by_name(names, chances.value[row]),
            "probability_error": by_name(names, chances.error[row]),
            "log_bayes_factor": by_name(names, value[row] - value[row].max()),
            "converged": dict(zip(names, converged[row].tolist(), strict=True)),
        }
        for row in range(len(value))
    ]
    content = {
        "models": {
            name: {
                "network": one.settings.prior.network,
                "prior": one.settings.prior.prior,
                "prior_probability": float(share),
                "network_sha256": one.learned.table.digest if one.learned else None,
                "samplers": sorted(set(draws.sampler)),
            }
            for name, one, share, (draws, _) in zip(names, asked, shares, sampled, strict=True)
        },
        "observations": observations,
        "options": settings.recorded(device_name=str(device)),
    }
    write_numbers(path, COMPARISON_FORMAT, began, content)
    report(names, value, error, chances.value, converged)
    logger.info(f"Wrote {path} after {perf_counter() - began:.1f} s")
    return UNSOUND if settings.strict and not converged.all() else 0


def of_each(settings: CompareSettings) -> list[SampleSettings]:
    """Settings to sample the posterior of each model by."""
    priors = settings.priors * (len(settings.networks) if len(settings.priors) == 1 else 1)
    return [
        SampleSettings(
            save_dir=settings.save_dir,
            prior=PriorOptions(network=network, prior=prior),
            observation=settings.observation,
            sampler=settings.sampler,
            run=settings.run,
        )
        for network, prior in zip(settings.networks, priors, strict=True)
    ]


def require_alike(asked: Sequence[Asked], names: Sequence[str]) -> None:
    """Raises UsageError unless all models are of the same data, in the same units."""
    laws = []
    for one in asked:
        assert one.learned is not None
        table = one.learned.table
        laws.append(dict(zip(table.names, table.coordinates.steps.tolist(), strict=True)))
    for name, law in zip(names, laws, strict=True):
        if law.keys() != laws[0].keys():
            raise UsageError(
                f"{names[0]} is of {', '.join(laws[0])}, and {name} of {', '.join(law)}: densities "
                "of other data do not compare"
            )
        apart = [column for column in law if law[column] != laws[0][column]]
        if apart:
            raise UsageError(
                f"'{apart[0]}' has steps of {laws[0][apart[0]]:g} in {names[0]}, but of "
                f"{law[apart[0]]:g} in {name}: make both data sets with the same --dequantize, or "
                "with more rows"
            )


def sampled_of(asked: Asked, place: Path) -> tuple[Draws, Summary]:
    """Draws of a model on its device, whose statistics have its evidence; they are kept beside
    ``place`` while they are made."""
    likelihood, settings = asked.likelihood(), asked.settings
    assert isinstance(likelihood, TrialLikelihood)
    assert isinstance(settings, SampleSettings)
    assert asked.learned is not None
    asked.learned.warn_of_many(likelihood.trials)
    observed = likelihood.numbers
    files = [asked.learned.file.path, settings.observation]
    groups, _ = asked.groups(place, len(observed), [observed], files)
    with groups.told_when_cut_short():
        sample_groups(asked.problem(likelihood, observed), asked.plan, groups)
    draws, summary = without_points(groups)
    groups.remove()
    if "evidence" not in draws.stats:
        raise UsageError("chains have no evidence: give --sampler=auto, or one with weights")
    return draws, summary


def by_name(names: Sequence[str], values: Tensor) -> dict[str, Any]:
    return dict(zip(names, values.tolist(), strict=True))


def report(
    names: Sequence[str], value: Tensor, error: Tensor, chance: Tensor, converged: Tensor
) -> None:
    """Tells what the first observations speak for, and where numbers are not exact."""
    for row in range(min(len(value), MOST_SHOWN)):
        each = zip(names, value[row], error[row], chance[row], strict=True)
        verdicts = [
            f"{name} {z:.2f} ± {off:.2g} nats, probability {p:.3g}" for name, z, off, p in each
        ]
        logger.info(f"Observation {row + 1}: {'; '.join(verdicts)}")
    if len(value) > MOST_SHOWN:
        logger.info(f"The JSON has the other {len(value) - MOST_SHOWN}")
    wide = int((error > LARGEST_ERROR).sum())
    if wide:
        logger.warning(
            f"Warning: {wide} evidence(s) are off by more than {LARGEST_ERROR:g} nats by chance: "
            "give more --draws"
        )
    missed = int((~converged).any(dim=1).sum())
    if missed:
        logger.warning(
            f"Warning: a posterior of {missed} of {len(value)} observations has not converged, and "
            "its evidence may be off by more than it says: posterior.py sample says why"
        )
