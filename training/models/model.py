"""Trained models from Python: sampling and densities of rows, and posteriors given observations.

    >>> from training import Table
    >>> model = Table.open(frame).train(seed=0)                            # doctest: +SKIP
    >>> rows = model.sample(1000)                                          # doctest: +SKIP
    >>> draws = model.posterior(noise_std=0.1).sample({"price": 240.0})    # doctest: +SKIP
    >>> draws.summary()                                                    # doctest: +SKIP

Posteriors and checks are those of ``posterior.py``, with options of the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import log, prod
from typing import Any

import numpy as np
import torch

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from dnnlib.numbers import natural
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.table import Rows
from training.flow.bin_averages import cell_log_prob, has_cells
from training.flow.pfode import ProbabilityFlow
from training.inference.likelihoods import MatrixMap
from training.models import conversion
from training.models.library import library_class
from training.models.posterior import Posterior
from training.names import LIKELIHOOD
from training.subjects import Subject, open_prior
from training.trained.network import TrainedNetwork

ROW_PACKAGE = "row_package"
"""Key of ``about``: package of the rows that the model returns; None for pandas."""
MOST_DRAWS = 2**16
"""Number of draws, of all conditions together, that are in memory besides the result."""
MOST_COMPARED, FEW_COMPARED, COMPARED_DRAWS = 200, 20, 1000
"""Largest numbers of held-out simulations that decide whether posteriors are corrected, for
likelihoods that are Gaussian and for those that need the integration of a flow.
"""


@library_class
@dataclass(repr=False)
class Model(TrainedNetwork):
    """A trained model; see ``TrainedNetwork`` for its contents.

    Rows of a table are a data frame, whose columns are found by their names, or an array or a
    tensor in the order of ``columns``; results are of the kind of the training rows. Images ``[N,
    C, H, W]`` are in gray levels, as in files, from 0 to 255 for images of the data; points of
    ``flow`` itself are flat, and from -1 to 1.

    Attributes:
        kind: Package of the training rows, in whose kind rows are returned; None for pandas, or
            NumPy if there are no columns. Network files store it in ``about``.
    """

    @property
    def kind(self) -> str | None:
        """Package of the rows that the model returns; None for pandas."""
        kind = self.about.get(ROW_PACKAGE)
        return kind if isinstance(kind, str) else None

    @kind.setter
    def kind(self, kind: str) -> None:
        if kind == conversion.FRAMES:
            self.about.pop(ROW_PACKAGE, None)
        else:
            self.about[ROW_PACKAGE] = kind

    @classmethod
    def from_trained(cls, made: TrainedNetwork) -> "Model":
        """Return a trained model as a model of this class."""
        return cls(**{each.name: getattr(made, each.name) for each in fields(made)})

    @cached_property
    def subject(self) -> Subject:
        """Subject of the model: the flow and the meaning of its points."""
        return open_prior(self)

    def rows_of(self, names: Sequence[str], values: np.ndarray) -> Any:
        """Return numbers ``[N, D]`` as rows of the model's kind, or as images ``[N, C, H, W]``."""
        if self.subject.columns is None:
            return values.reshape(-1, *self.subject.point_shape)
        return conversion.rows_as(self.kind or conversion.FRAMES, names, values)

    def flat(self, rows: Any) -> Any:
        """Return images ``[..., C, H, W]``, or observations of them, as rows.

        Other rows are returned unchanged.
        """
        axes = len(self.subject.point_shape)
        if axes == 1 or np.ndim(rows) < axes:
            return rows
        return np.reshape(rows, (-1, prod(np.shape(rows)[-axes:])))

    @property
    def columns(self) -> list[str]:
        """Names of the columns of rows."""
        return self._named(self.subject.flow.basis.mean.new_zeros(0, self.subject.dim))[0]

    @property
    def covariates(self) -> list[str]:
        """Names of a trial's covariates, for a likelihood."""
        parameters = self.about.get(LIKELIHOOD, self.conditions)
        return self.conditions[len(parameters) :]

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions."""
        return list(self.subject.condition_names)

    def sample(self, count: int, seed: int = 0, given: Any = None) -> Any:
        """Draw new rows or images.

        Args:
            count: Number of draws.
            seed: Random seed.
            given: Conditions of a conditional model: one row, or for sets all trials of one set.
                For M rows of conditions the draws of each row stand together, ``M count`` rows in
                the order of the conditions. The draws given a row depend on the seed, its number
                and its values, not on the other rows. For images with class labels: one class, the
                class of each image, or None for any. For images with condition vectors ``[K]``: one
                vector, or one per image.

        Raises:
            UsageError: Conditions are missing, or not needed, or there is no such class; or the
                count or the seed is negative or not a whole number.
            DataError: Conditions are broken.
        """
        count, seed = natural("count", count), natural("seed", seed)
        # Draws of a likelihood are not rejected beyond bounds, unlike those of a posterior.
        if self.conditions and LIKELIHOOD not in self.about:
            return self._drawn_given(self.conditions_of(None, given), count, seed)
        drawn = self.subject.drawn_labels(count, seed, None) if given is None else None
        flow = self.subject.flow.given(labels=drawn) if drawn is not None else None
        generator = seeded_generator("cpu", seed, Stream.LATENT)
        points = (flow or self._flow_given(None, given)).sample(count, generator)
        return self.rows_of(*self._named(points, drawn=True))

    def _drawn_given(self, conditions: np.ndarray, count: int, seed: int) -> Any:
        """Return ``count`` draws given each row of conditions ``[M, C]``, block by block."""
        amortized = self.posterior().amortized(torch.from_numpy(conditions), max(count, 1), seed)
        names, size = self.columns, max(1, MOST_DRAWS // max(count, 1))
        values = np.empty((len(conditions), count, len(names)))
        for start in range(0, len(conditions), size):
            block = values[start : start + size]
            points = amortized.sample(torch.arange(start, start + len(block))).points
            _, own = self._named(points[:, 0, :count].flatten(0, 1), drawn=True)
            block[:] = own.reshape(block.shape)
        return self.rows_of(names, values.reshape(len(conditions) * count, len(names)))

    def log_prob(self, rows: Any, given: Any = None) -> np.ndarray:
        """Return the log densities ``[N]`` of rows, in nats.

        The density is that of the draws of ``sample``: minus infinity beyond the bounds of columns,
        and for a conditional model that of its posterior (see ``Posterior.log_prob``). For a
        discrete column it is the mean density over the quantization bin around a value
        (``training.flow.bin_averages``), and for images the density per gray level of each pixel.

        Args:
            rows: The rows, which for a conditional model may have its conditions as further
                columns.
            given: Conditions of a conditional model: a row for each, or one for all; for images
                with class labels, their classes.

        Raises:
            UsageError: Densities of many columns are estimates; see ``log_prob_with_error``.
        """
        return self._log_prob(rows, given, estimates=False)[0]

    def log_prob_with_error(self, rows: Any, given: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return log densities ``[N]`` of rows as ``log_prob`` does, and their standard errors.

        With many columns the trace of the Jacobian is estimated with random probes. Errors are 0
        where densities are exact.
        """
        return self._log_prob(rows, given, estimates=True)

    def _log_prob(self, rows: Any, given: Any, estimates: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return log densities ``[N]``, which may be estimates or must be exact, and errors."""
        if self.conditions and LIKELIHOOD not in self.about:
            density = self.posterior().log_prob(rows, given)
            return density, np.zeros(len(density))
        flow, points = self._flow_given(rows, given), self.points_of(rows)
        labels = torch.from_numpy(self.conditions_of(rows, given)) if self.conditions else None
        inside = torch.ones(len(points), dtype=torch.bool)
        if flow.coordinates is not None and LIKELIHOOD not in self.about:
            inside = flow.coordinates.inside(points.to(flow.device)).cpu()
        density, error = np.full(len(points), -np.inf), np.zeros(len(points))
        if inside.any():
            if has_cells(flow):
                way = self.subject.flow.integration("densities")
                some, _ = cell_log_prob(self.subject.flow, points[inside], *way, labels=labels)
            else:
                if not estimates:
                    flow.require_exact()
                some = flow.log_prob_with_error(points[inside])
                unit = self.subject.dim * log(self.subject.units["unit"])
                some = some._replace(log_prob=some.log_prob + unit)
            density[inside.numpy()], error[inside.numpy()] = (each.cpu().numpy() for each in some)
        return density, error

    def encode(self, rows: Any, given: Any = None, seed: int = 0) -> np.ndarray:
        """Return the latents ``[N, D]`` of rows; see ``log_prob``.

        Discrete columns are dequantized with a random seed.
        """
        points = self.subject.dequantized(self.points_of(rows), seed)
        return self._flow_given(rows, given).encode(points).cpu().numpy()

    def decode(self, latents: Any, given: Any = None) -> Any:
        """Return the rows of latents ``[N, D]``, the inverse of ``encode``."""
        flow = self._flow_given(None, given)
        return self.rows_of(*self._named(flow.decode(latents)))

    def posterior(
        self,
        noise_std: float | Sequence[float] | None = None,
        mask: Sequence[str | int] | None = None,
        **options: Any,
    ) -> Posterior:
        """Return the posterior of rows, given noisy or partial observations.

        Args:
            noise_std: Standard deviation of the observation noise, in the units of the
                observations: one number, or one for each. For a conditional model None, since its
                conditions are observed. For a likelihood, give ``prior`` instead: ``uniform``, a
                distribution, a dictionary of them, or a model; observations are then trials.
                ``Simulations(..., prior=...)`` state it already.
            mask: Observed columns, or booleans, an array of the shape of a point; None for the
                columns that an observation names.
            options: Further options of ``posterior.py sample``, by name, such as ``correct``,
                ``likelihood``, or ``operator``, which may also be a matrix ``[K, D]``, or a pair of
                functions of torch, a linear map of points ``[N, D]`` or images ``[N, C, H, W]``
                and its adjoint. With a likelihood of your own, such as
                ``likelihood="mine.py:density"``, ``sample()`` takes no observation.
        """
        noise = {} if noise_std is None else {"noise_std": noise_std}
        seen: dict[str, Any] = {} if mask is None else {"likelihood": "mask", "mask": mask}
        if isinstance(pair := options.get("operator"), tuple):
            shape = self.subject.image_shape or (self.subject.dim,)
            operator = MatrixMap.from_functions(pair[0], pair[1], shape)
            seen |= {"likelihood": "linear", "operator": operator.matrix.numpy()}
            options.pop("operator")
        return Posterior(self, {**noise, **seen, **options})

    def check(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """Test a conditional model on fresh rows; see ``Posterior.check``."""
        return self.posterior().check(data, **options)

    def _flow_given(self, rows: Any, given: Any) -> ProbabilityFlow:
        if self.conditions:
            return self.subject.flow.given(labels=self.conditions_of(rows, given))
        labels = self.subject.labels_of(given)
        return self.subject.flow if labels is None else self.subject.flow.given(labels=labels)

    def conditions_of(self, rows: Any, given: Any) -> np.ndarray:
        """Return conditions ``[N, C]``, or ``[1, C]`` for all rows.

        They may be further columns of rows. For sets, return all trials of one set, ``[1, n C]``.
        """
        source, raw = rows if given is None else given, self.subject.raw
        if raw is not None and given is None:
            raise UsageError(f"the model is conditional: give {raw} with the argument given")
        if raw is not None:
            return raw.rows(given, "the observation").detach().cpu().numpy()
        if source is None:
            raise UsageError(f"the model is conditional: give {', '.join(self.conditions)}")
        if given is None and self.subject.of_sets:
            raise UsageError(
                "the model is conditional on sets of trials: give one set with the argument given"
            )
        values = conversion.columns_of(source, self.conditions, "given")
        return values.reshape(1, -1) if self.subject.of_sets else values

    def points_of(self, rows: Any) -> torch.Tensor:
        """Return the points ``[N, D]`` of rows."""
        rows, own, whole = self.flat(rows), self.subject.names, self.columns
        names, numbers = conversion.numbers_of(
            rows, "rows", conversion.COLUMN if len(own) == 1 else conversion.ROW
        )
        if names is None and numbers.shape[1] == len(whole) != len(own):
            names, rows = whole, dict(zip(whole, numbers.T, strict=True))
        points = torch.from_numpy(conversion.columns_of(rows, own, "rows").copy())
        conversion.require_finite(points, own, "rows")
        if names is not None:
            beside = dict(zip(names, torch.from_numpy(numbers).T, strict=True))
            self.subject.warn_of_others(self.subject.contradicted(points, beside), "rows")
        units = self.subject.units
        return (points - units["origin"]) * units["unit"]

    def _named(self, points: torch.Tensor, drawn: bool = False) -> tuple[list[str], np.ndarray]:
        units = self.subject.units
        own = units["origin"] + points.double() / units["unit"]
        names, values = self.subject.as_source(own, drawn=drawn)
        return names, values.cpu().numpy()

    def digest(self) -> str:
        """Return the SHA-256 of everything that determines the flow; it is computed once."""
        if "_digest" not in self.__dict__:
            self.__dict__["_digest"] = super().digest()
        return str(self.__dict__["_digest"])

    def to(self, device: str | torch.device) -> "Model":
        """Move the model to a device, and return it."""
        self.__dict__.pop("subject", None)
        return self.frozen(device)


def weighted_if_better(
    model: Model, likelihood: TrainedNetwork, prior: Mapping[str, Any], held_out: Rows
) -> Posterior:
    """Return the posterior of a flow, weighted by a learned likelihood if that is better.

    Weights are better if they increase the mean log density of held-out simulations.

    Args:
        model: Flow of parameters given data.
        likelihood: Learned likelihood of the same simulations.
        prior: The option ``prior`` of the likelihood; empty for the one that it states.
        held_out: Simulations that neither network was trained on.
    """
    plain = model.posterior()
    rows = held_out.at(slice(MOST_COMPARED if likelihood.denoiser.is_trivial else FEW_COMPARED))
    own, other = (
        each.log_prob(rows.points.numpy(), rows.conditions)
        for each in (plain, model.posterior(correct=likelihood, **prior, draws=COMPARED_DRAWS))
    )
    return model.posterior(correct=likelihood, **prior) if weights_help(own, other) else plain


def weights_help(own: np.ndarray, weighted: np.ndarray) -> bool:
    """Return whether weights increase the mean log density of held-out simulations, and log it.

    Args:
        own: Log densities ``[N]`` by the flow.
        weighted: The same by the weighted draws.
    """
    # With N draws, no weighted density can exceed N times that of the flow.
    gain = np.minimum(weighted - own, log(COMPARED_DRAWS))
    better = bool(gain.mean() > 0)
    logger.info(
        f"Weights by the likelihood change the mean log density of {len(gain)} held-out "
        f"simulations by {gain.mean():.3f} nats (standard error "
        f"{gain.std() / len(gain) ** 0.5:.3f}): they are {'used' if better else 'not used'}"
    )
    return better
