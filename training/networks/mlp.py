"""Residual multilayer perceptrons: the default network for toys and tables, single or ensemble."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from math import ceil, pi, prod, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from torch_utils.arguments import check_arguments
from torch_utils.linear import Linear, linear
from training.names import ANY_NUMBER, MODULE
from training.networks.blocks import check_dropout
from training.networks.raw import RawEmbedding


class MemberLinear(nn.Module):
    """The linear layers of an ensemble of K networks, initialized like ``nn.Linear``."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``[K, B, outputs]`` of the K layers.

        Args:
            x: Inputs ``[K, B, inputs]``, or inputs ``[B, inputs]`` shared by all networks.
        """
        rows = x.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT)


class NoiseFeatures(nn.Module):
    """Cosine features ``cos(pi k tau)``, ``k = 1..count``, of the noise condition.

    All frequencies are low: the network is then as smooth in time as the data allows, and
    high-order solvers are efficient.

    Args:
        noise_range: Noise conditions of the first and the last time, which have tau 0 and 1.
        count: Number of cosines.

    Raises:
        UsageError: The noise range is empty.
    """

    frequencies: Tensor

    def __init__(self, noise_range: tuple[float, float], count: int):
        super().__init__()
        self.low, self.high = noise_range
        if not self.low < self.high:
            raise UsageError(f"the noise range {noise_range} is empty: give an end above the start")
        # Plain numbers, since arithmetic on the meta device imports the compiler.
        frequencies = torch.tensor([pi * index for index in range(1, count + 1)])
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        """Return features ``[..., count]`` of noise conditions ``[...]``."""
        tau = (c_noise - self.low) / (self.high - self.low)
        return (tau[..., None] * self.frequencies).cos()


FEATURES, WIDTH = 32, 64
"""Number of output features, and units of a hidden layer."""
CHANNELS, MOST_CHANNELS = 16, 64
"""Number of channels of the first convolution; each further one doubles it, up to the maximum."""
SMALLEST = 4
"""Length at which a direction is no longer halved."""


class ConditionEmbedding(nn.Module):
    """Embedding network from many conditions to a few features, trained with the main network.

    Conditions of shape ``[C]`` pass through a perceptron with one hidden layer. Shape ``[C, L]`` is
    a series and shape ``[C, H, W]`` an image, both with C channels: convolutions halve the length
    down to ``SMALLEST``, and a linear layer follows. Shape ``[ANY_NUMBER, K]`` is a set of n trials
    y of K numbers, in any order: features are ``rho(mean_i phi(y_i), log n)`` with perceptrons phi
    and rho (Zaheer et al. 2017, "Deep sets"). The n trials of a point can be padded with missing
    trials: the K numbers of each trial are followed by 1 if it is present and 0 if not.

    Args:
        shape: Shape of the conditions of one point.
    """

    width = FEATURES

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        channels, *size = self.shape
        layers: list[nn.Module] = []
        self.each = None
        if channels == ANY_NUMBER:
            [wide] = size
            widths = [(wide, WIDTH), (WIDTH, WIDTH)]
            deep = [layer for each in widths for layer in (nn.Linear(*each), nn.SiLU())]
            self.each = nn.Sequential(*deep)
            layers += [nn.Linear(WIDTH + 1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, FEATURES)]
        elif size:
            convolution = nn.Conv1d if len(size) == 1 else nn.Conv2d
            wide = CHANNELS
            while max(size) > SMALLEST or not layers:
                layers += [convolution(channels, wide, 3, stride=2, padding=1), nn.SiLU()]
                channels, wide = wide, min(2 * wide, MOST_CHANNELS)
                size = [ceil(length / 2) for length in size]
            layers += [nn.Flatten(), nn.Linear(channels * prod(size), FEATURES)]
        else:
            layers += [nn.Linear(channels, WIDTH), nn.SiLU(), nn.Linear(WIDTH, FEATURES)]
        self.layers = nn.Sequential(*layers)

    def forward(self, conditions: Tensor) -> Tensor:
        """Return features ``[B, FEATURES]`` of conditions.

        Conditions are ``[B, L]``, with their shape flattened. For sets of any number n of trials,
        conditions are ``[B, n (K + 1)]``.
        """
        if self.each is None:
            return self.layers(conditions.view(-1, *self.shape))
        trials = conditions.view(len(conditions), -1, self.label_dim)
        there = trials[..., -1:]
        number = there.sum(dim=1).clamp_min(1)
        mean = (self.each(trials[..., :-1]) * there).sum(dim=1) / number
        return self.layers(torch.cat([mean, number.log()], dim=1))

    @property
    def label_dim(self) -> int:
        """Number of input values per point. For sets of trials: per trial, with its flag."""
        return self.shape[1] + 1 if self.each is not None else prod(self.shape)


BOUND = 4.0
AT_ONCE = 2**16
"""Maximum number of tangent values (points times directions) processed together on a CPU.

The tangents of a layer and its product then fit in the cache of a core.
"""


class ToyMLP(nn.Module):
    """Network ``F(z, c_noise)`` as a stack of ``h + silu(linear(h))``.

    Inputs are z itself, and ``sin`` and ``cos`` of ``k pi/5 z_i``, with periods from 10 to 2.5
    standard deviations; z is bounded by 4 so that far points do not alias. Without these waves
    training can stall permanently. A dimension that is nearly Gaussian (for example the thickness
    of a sheet) starts with such a weak signal that its input weights shrink before its output
    weights have grown, and then neither has a gradient. Conditions can have waves too; with few
    points, however, a network then memorizes which conditions belong to which point.

    An ensemble consists of several such networks with different initial weights. In training each
    has its own output, to be compared with the target; in evaluation F is their mean.

    Args:
        dim: Number of data dimensions D.
        noise_range: Noise conditions of the first and the last time.
        width: Number of units per hidden layer.
        depth: Number of hidden layers.
        time_features: Number of cosines of the noise condition.
        input_features: Number of frequencies k per data dimension.
        dropout: Fraction of the hidden activations dropped in training.
        label_dim: Number of standardized conditions L; 0 for none. For sets of trials, the number
            of values of one trial, including the flag that it is present.
        members: Number of networks K.
        condition_shape: Shape of the conditions, if they are embedded (``ConditionEmbedding``,
            shared by all members); empty if they are direct inputs.
        condition_features: Number of frequencies k per condition, or per embedded feature; None for
            ``input_features``.
        raw: Arguments of ``RawEmbedding`` if the conditions are raw data; None otherwise.
        module: Network of the user's in this embedding.

    Raises:
        UsageError: A size is out of range, or the conditions do not match their shape.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        noise_range: tuple[float, float],
        width: int = 128,
        depth: int = 5,
        time_features: int = 8,
        input_features: int = 4,
        dropout: float = 0.0,
        label_dim: int = 0,
        members: int = 1,
        condition_shape: Sequence[int] = (),
        condition_features: int | None = None,
        raw: dict[str, Any] | None = None,
        module: nn.Module | None = None,
    ):
        super().__init__()
        check_dropout(dropout)
        if members < 1:
            raise UsageError(f"members is {members}: give an ensemble of at least 1 network")
        self.label_dim, self.members = label_dim, members
        self.noise = NoiseFeatures(noise_range, time_features)
        if condition_features is None:
            condition_features = input_features
        self._frequencies, self._condition_frequencies = input_features, condition_features
        most = max(input_features, condition_features)
        self.register_buffer("frequencies", wave_frequencies(most), persistent=False)
        layer = Linear if members == 1 else partial(MemberLinear, members)
        self.embedding: ConditionEmbedding | RawEmbedding | None = None
        if raw is not None:
            check_arguments(RawEmbedding, raw, [MODULE])
            self.embedding = RawEmbedding(**raw, module=module)
        elif condition_shape:
            self.embedding = ConditionEmbedding(condition_shape)
        if self.embedding and self.embedding.label_dim != label_dim:
            shape = " x ".join(map(str, self.embedding.shape))
            raise UsageError(
                f"conditions of shape {shape} do not have {label_dim} values: give a shape with "
                f"{label_dim}"
            )
        seen = self.embedding.width if self.embedding else label_dim
        features = dim * (1 + 2 * input_features) + seen * (1 + 2 * condition_features)
        features += time_features
        self.input = layer(features, width)
        self.hidden = nn.ModuleList(layer(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.output = layer(width, dim)
        # F = 0 makes D the best linear denoiser, the start of training.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        z: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return F ``[B, D]``, or ``[K, B, D]`` for the members of an ensemble in training.

        Args:
            z: Inputs ``[B, D]``.
            c_noise: Noise conditions ``[]`` or ``[B]``.
            labels: Conditions ``[B, L]``; ignored by a network without conditions.
            features: Result of ``features_of``, which replaces labels.

        Raises:
            UsageError: Conditions are missing.
        """
        h: Tensor = self.input(self._first(z, c_noise, labels, features))
        for layer in self.hidden:
            h = h + self.dropout(F.silu(layer(h)))
        out: Tensor = self.output(h)
        return out.mean(dim=0) if self.members > 1 and not self.training else out

    def with_trace(
        self,
        z: Tensor,
        c_noise: Tensor,
        matrix: Tensor,
        labels: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return F ``[B, D]`` in evaluation, and ``tr(matrix dF/dz) [B]``.

        The Jacobian is computed in forward mode, with the unit vectors of z as tangents. The slopes
        of activations are computed once for all D tangents. The cost is half of that of D backward
        passes. Gradients flow back to z and the conditions, but not to the weights.

        Args:
            z: Network inputs ``[B, D]``.
            c_noise: Noise conditions ``[]`` or ``[B]``.
            matrix: Matrix ``[D, D]`` in the trace.
            labels: Standardized conditions ``[B, L]``, as in ``forward``.
            features: Features of the conditions, as in ``forward``.
        """
        seen = self._first(z, c_noise, labels, features)
        out, slopes = with_slopes(self.input(seen), self.hidden, self.output)
        inward = by_coordinate(_of_members(self.input.weight), z.shape[1], self._frequencies)
        through = [_of_members(layer.weight).mT for layer in self.hidden]
        # The first layer has few inputs per direction: multiply it with the input weights first.
        first = inward @ through[0][:, None]
        outward = _of_members(matrix.to(z) @ self.output.weight) / self.members
        steep = [_of_members(slope)[:, None] for slope in slopes]
        bends = slopes_of_waves(z, self.frequencies[: self._frequencies])
        rows = max(1, len(z) if z.is_cuda else AT_ONCE // slopes[0].shape[-1])
        directions = len(bends) if z.is_cuda else max(1, rows // max(1, len(z)))
        trace = torch.zeros_like(z[:, 0])
        for some, at in product(_parts(len(z), rows), _parts(len(bends), directions)):
            entering = bends[at, some]
            tangents = entering @ inward[:, at]
            further = entering @ first[:, at]
            tangents.addcmul_(further, steep[0][:, :, some])
            flat = (len(tangents), -1, tangents.shape[3])
            for slope, weight in zip(steep[1:], through[1:], strict=True):
                if self.members == 1:
                    further = linear(tangents, weight[0].mT)
                elif torch.is_grad_enabled():
                    further = (tangents.view(flat) @ weight).view_as(tangents)
                else:
                    torch.bmm(tangents.view(flat), weight, out=further.view(flat))
                tangents.addcmul_(further, slope[:, :, some])
            trace[some] += (tangents @ outward[:, at, :, None]).sum(dim=(0, 1, 3))
        return (out.mean(dim=0) if self.members > 1 else out), trace

    def features_of(self, labels: Tensor) -> Tensor:
        """Return the part of the first layer's inputs that depends on conditions ``[B, L]``."""
        given = self.embedding(labels) if self.embedding else labels
        return torch.cat(with_waves(given, self.frequencies[: self._condition_frequencies]), dim=1)

    def _first(
        self, z: Tensor, c_noise: Tensor, labels: Tensor | None, features: Tensor | None
    ) -> Tensor:
        """Return the inputs of the first layer ``[B, ...]``."""
        seen = [
            *with_waves(z, self.frequencies[: self._frequencies]),
            self.noise(c_noise).expand(len(z), -1),
        ]
        if self.label_dim:
            if features is None:
                if labels is None:
                    raise UsageError(
                        f"this network needs {self.label_dim} conditions for each point: give "
                        "labels"
                    )
                features = self.features_of(labels.to(z.dtype))
            seen.append(features)
        return torch.cat(seen, dim=1)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _of_members(values: nn.Module | Tensor) -> Tensor:
    """Return parameters ``[K, ...]`` of K networks, adding this dimension for a single one."""
    assert isinstance(values, Tensor)
    return values if values.ndim == 3 else values[None]


def wave_frequencies(count: int) -> Tensor:
    """Return the ``count`` lowest frequencies of sines and cosines in ``with_waves``."""
    return torch.tensor([pi / (BOUND + 1) * index for index in range(1, count + 1)])


def with_slopes(h: Tensor, hidden: nn.ModuleList, output: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """Return a network's output in evaluation, and the slopes of its hidden activations (silu).

    Args:
        h: Output of the first layer.
        hidden: Hidden layers.
        output: Last layer.

    Returns:
        The output, and slopes ``[..., B, width]`` per hidden layer.
    """
    slopes = []
    for layer in hidden:
        rows = layer(h)
        steep = rows.sigmoid()
        active = rows * steep
        slopes.append(active.lerp(steep.new_ones(()), steep))
        h = h + active
    return output(h), slopes


def with_waves(rows: Tensor, frequencies: Tensor) -> list[Tensor]:
    """Return inputs ``[B, N]``, and sines and cosines of their values, bounded by ``BOUND``.

    Args:
        rows: Inputs ``[B, N]``.
        frequencies: Frequencies ``[f]`` of sines and cosines.

    Returns:
        The inputs, and their sines ``[B, N f]`` and cosines ``[B, N f]`` if there are frequencies.
    """
    if not len(frequencies):
        return [rows]
    bounded = BOUND * torch.tanh(rows / BOUND)
    phases = (bounded[..., None] * frequencies).flatten(1)
    return [rows, phases.sin(), phases.cos()]


def slopes_of_waves(rows: Tensor, frequencies: Tensor) -> Tensor:
    """Return the derivatives ``[N, B, 1 + 2 f]`` of the outputs of ``with_waves``.

    Args:
        rows: Inputs ``[B, N]``. For each input, the derivatives are those of the input itself, of
            its f sines and of its f cosines.
        frequencies: Frequencies ``[f]`` of sines and cosines.
    """
    ones = torch.ones_like(rows)[..., None]
    if not len(frequencies):
        return ones.transpose(0, 1)
    bounded = torch.tanh(rows / BOUND)
    waves = (BOUND * bounded)[..., None] * frequencies
    slope = (1 - bounded.square())[..., None] * frequencies
    bends = torch.cat([ones, slope * waves.cos(), -slope * waves.sin()], dim=2)
    return bends.transpose(0, 1)


def by_coordinate(weight: Tensor, dim: int, frequencies: int) -> Tensor:
    """Return the weights ``[..., N, 1 + 2 f, width]`` of the outputs of ``with_waves``, sorted.

    Weights are sorted by the N coordinates that outputs belong to.

    Args:
        weight: Weights ``[..., width, features]``, whose first features are the outputs of
            ``with_waves``.
        dim: N, the number of coordinates.
        frequencies: f, the number of frequencies.
    """
    own, waves = weight[..., :dim, None], weight[..., dim : dim * (1 + 2 * frequencies)]
    parts = waves.view(*waves.shape[:-1], 2, dim, -1).unbind(-3) if frequencies else ()
    whole = torch.cat([own, *parts], dim=-1)
    return whole.movedim(-3, -1).contiguous()
