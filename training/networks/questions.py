"""A network for any conditional distribution of a row: target cells given known cells.

Each cell is *asked* (a target), *known* (a condition), or *absent*. Numbers are cells of a flow:
the network computes F of a denoiser (``flow.denoisers``) for the targets. For categories it
computes the probabilities of their levels. A row is factorized as

    p(numbers, levels | known) = prod_k p(level_k | known, levels before) p(numbers | known, levels)

and all factors are exact: probabilities take one network evaluation, the density is that of the
flow.

The flow starts from the closed form of a mixture (``networks.mixture``), whose denoiser of x, the
targets with noise of variance gamma, is ``D = x - gamma w``, with errors of standard deviation s.
In units of F, with the output f of the layers, which is initially 0,

    F = sqrt(gamma (1 + gamma)) (x / (1 + gamma) - w) + sqrt((1 + gamma) / gamma) s f.

So an untrained network is that mixture, given the known cells; with one component, it is a Gaussian
copula. The regression target of F for numbers e and unit noise n is ``(sqrt(gamma) e - n) / sqrt(1
+ gamma)``. The F of the mixture is clipped to the range of this target, since in a row with
contradictory values, such as one wrong number, it would be arbitrary. Level probabilities start
from the level shares of the components. Cells that are not targets have F = 0: for the flow they
are independent standard normal numbers.

A number with frequently repeated values, such as 0, has an additional category. Its levels are
these *atoms*, and its last level means that the number is at none of them. At an atom the number is
absent, whatever its state.
"""

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from torch_utils.linear import Linear
from training.networks.blocks import check_dropout
from training.networks.mixture import ABSENT, ASKED, KNOWN, ConditionalStart, Start, StartMixture
from training.networks.mlp import (
    NoiseFeatures,
    by_coordinate,
    slopes_of_waves,
    wave_frequencies,
    with_slopes,
    with_waves,
)


class QuestionNetwork(nn.Module):
    """Network for any values of a row (targets), conditional on any other values (known).

    The network computes the output F of a denoiser for target numbers, and logits for the levels of
    target categories.

    Args:
        dim: D, the number of numeric columns.
        noise_range: Noise conditions of the first and the last time.
        level_counts: Number of levels of each of the C category columns ``[C]``; the sum is K.
        width: Number of units per hidden layer.
        depth: Number of hidden layers.
        time_features: Number of cosines of the noise condition.
        input_features: Number of frequencies of sines and cosines per number.
        dropout: Fraction of the hidden activations dropped in training.
        components: M, the number of components of the initial mixture.
        atoms: Indices of the numbers with atoms (frequently repeated values), whose category
            columns come last.

    Attributes:
        others, with_atoms: For each number with atoms, the index of the level "at no atom", and the
            index of the number.
        mixture: Initial mixture, from which the network starts.

    Raises:
        UsageError: The levels or atoms are invalid.
    """

    frequencies: Tensor
    category_of: Tensor
    others: Tensor
    with_atoms: Tensor
    asks = True
    """Whether labels are queries, in coordinates of the flow."""
    label_dim = 0
    """Number of required conditions.

    Without labels, all numbers are targets and none is at an atom.
    """

    def __init__(
        self,
        dim: int,
        noise_range: tuple[float, float],
        level_counts: Sequence[int] = (),
        width: int = 256,
        depth: int = 3,
        time_features: int = 8,
        input_features: int = 3,
        dropout: float = 0.0,
        components: int = 1,
        atoms: Sequence[int] = (),
    ):
        super().__init__()
        check_dropout(dropout)
        if any(count < 2 for count in level_counts):
            raise UsageError(
                f"category columns have {list(level_counts)} levels: give at least 2 for each"
            )
        if len(atoms) > len(level_counts) or not set(atoms) <= set(range(dim)):
            raise UsageError(
                f"the indices of columns with atoms (repeated values) are {list(atoms)}: give "
                f"indices from 0 to {dim - 1}, and a category for each"
            )
        self.dim, self.level_counts, self.atoms = dim, list(level_counts), list(atoms)
        levels, categories = sum(level_counts), len(level_counts)
        self.noise = NoiseFeatures(noise_range, time_features)
        seen = dim * (1 + 2 * input_features)
        known = seen + dim + levels + categories
        asked = seen + 2 * dim
        self._asked_size = asked + time_features
        self.numbers = _Layers(known + self._asked_size, width, depth, dim, dropout)
        self.levels = _Layers(known, width, depth, levels, dropout) if levels else None
        self.register_buffer("frequencies", wave_frequencies(input_features), persistent=False)
        places = [at for at, count in enumerate(level_counts) for _ in range(count)]
        category_of = torch.tensor(places, dtype=torch.long)
        self.register_buffer("category_of", category_of, persistent=False)
        others = torch.tensor(level_counts, dtype=torch.long).cumsum(0)[categories - len(atoms) :]
        self.register_buffer("others", others - 1, persistent=False)
        with_atoms = torch.tensor(atoms, dtype=torch.long)
        self.register_buffer("with_atoms", with_atoms, persistent=False)
        self.mixture = StartMixture(dim, level_counts, components)

    @property
    def is_start(self) -> bool:
        """Whether the network output F is that of the initial mixture, as before training."""
        output = self.numbers.output
        return not output.weight.any() and not output.bias.any()

    @property
    def question_dim(self) -> int:
        """Length L of an encoded query, as returned by ``model.questions.pack``."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        """Lengths of the parts of a query."""
        return [self.dim, self.dim, sum(self.level_counts), len(self.level_counts)]

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return F ``[B, D]``, which is 0 for numbers that are not targets.

        Args:
            z: Targets ``[B, D]`` with noise, scaled to unit variance; other numbers are ignored.
            c_noise: An eighth of the log of the noise variance, ``[]`` or ``[B]``.
            labels: Queries ``[B, L]`` from ``model.questions.pack``; None to make all numbers
                targets.
        """
        asked, start, h = self._seen(z, c_noise, labels)
        size = start.size.to(z.dtype)
        return asked * (start.value.to(z.dtype) + size * self.numbers(h))

    @torch.no_grad()
    def with_trace(
        self, z: Tensor, c_noise: Tensor, matrix: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return F ``[B, D]`` in evaluation, and ``tr(matrix dF/dz) [B]``, without gradients.

        The matrix ``[D, D]`` is diagonal, since the coordinates of queries are the columns
        themselves. The slopes of the mixture have a closed form; tangents are propagated forward
        through the layers.
        """
        asked, start, h = self._seen(z, c_noise, labels)
        size = start.size.to(z.dtype)
        layers = self.numbers
        value, slopes = with_slopes(layers.input(h), layers.hidden, layers.output)
        # The last features are waves of targets, target flags, sizes, and features of the time.
        weight = self.numbers.input.weight[:, -self._asked_size :]
        count = len(self.frequencies)
        sizes = weight[:, (2 * count + 2) * self.dim :][:, : self.dim]
        waves = by_coordinate(weight, self.dim, count)
        bends, trace = slopes_of_waves(asked * z, self.frequencies), torch.zeros_like(z[:, 0])
        for place in asked.any(dim=0).nonzero()[:, 0].tolist():
            of_sizes = start.slopes_of_sizes(place).to(z.dtype)
            inward = torch.cat([bends[place], of_sizes], dim=1)
            through = torch.cat([waves[place], sizes.T])
            outward = self.numbers.output.weight[place]
            steep = self.numbers.carried(inward, through, slopes) @ outward
            slope = start.slopes[:, place].to(z.dtype)
            slope = slope + of_sizes[:, place] * value[:, place] + size[:, place] * steep
            trace += matrix[place, place].to(z.dtype) * asked[:, place] * slope
        return asked * (start.value.to(z.dtype) + size * value), trace

    def _seen(
        self, z: Tensor, c_noise: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, "Start", Tensor]:
        """Return target flags ``[B, D]`` (0 or 1), the closed form, and the layers' inputs."""
        if labels is None:
            labels = z.new_zeros(len(z), self.question_dim)
            levels_at, levels = 2 * self.dim, sum(self.level_counts)
            last = levels_at + levels + len(self.level_counts)
            labels[:, levels_at + levels : last] = ABSENT
            # Numbers with atoms are known to be at none of them.
            labels[:, levels_at + self.others] = 1
            labels[:, last - len(self.atoms) : last] = KNOWN
        labels = labels.to(z.dtype)
        values, states, indicators, level_states = self.unpack(labels)
        asked = (states == ASKED).to(z.dtype)
        x_hat = asked * z
        # Double precision, for the inverse of nearly linearly dependent columns.
        gamma = (8 * c_noise.double()).exp()[..., None]
        start = self.closed_form(x_hat.double(), gamma, labels)
        given = self._given(values, states == KNOWN, indicators, level_states >= ASKED)
        seen = [*with_waves(x_hat, self.frequencies), asked, start.size.to(z.dtype)]
        h = torch.cat([*given, *seen, self.noise(c_noise).expand(len(z), -1)], dim=1)
        return asked, start, h

    def closed_form(self, x_hat: Tensor, gamma: Tensor, labels: Tensor) -> "Start":
        """Return the closed-form denoiser of the targets by the initial mixture.

        Args:
            x_hat: Scaled targets ``x / sqrt(1 + gamma) [B, D]``, float64.
            gamma: Noise variance ``[1]`` or ``[B, 1]``.
            labels: Queries ``[B, L]``.
        """
        values, states, indicators, level_states = self.unpack(labels.to(x_hat))
        # Numbers are conditional on target levels too.
        level_known = (level_states >= ASKED).to(x_hat)[:, self.category_of] * indicators
        x = (1 + gamma).sqrt() * x_hat
        return self.mixture.start(x, gamma, values, states, level_known)

    def single(self, labels: Tensor, place: int) -> "SingleTarget":
        """Return the network for one target number per row, whose known cells are processed once.

        Args:
            labels: Queries ``[B, L]`` with this number as the only target.
            place: Index of the number.
        """
        values, states, indicators, level_states = self.unpack(labels)
        exact, _, levels, _ = self.unpack(labels.double())
        level_known = (level_states >= ASKED).double()[:, self.category_of] * levels
        start = self.mixture.given(place, exact, states, level_known)
        cells = self._given(values, states == KNOWN, indicators, level_states >= ASKED)
        given = torch.cat(cells, dim=1)
        count, features = len(self.frequencies), len(self.noise.frequencies)
        # As in forward: known cells, waves of targets, target flags, sizes, features of the time.
        parts = [given.shape[1], (1 + 2 * count) * self.dim, self.dim, self.dim, features]
        weights = self.numbers.input.weight.split_with_sizes(parts, dim=1)
        waves = by_coordinate(weights[1], self.dim, count)
        # All other numbers have the waves of 0, and size 1 unless they are known.
        others = torch.arange(self.dim) != place
        still = waves[others, 1 + count :].sum(dim=(0, 1)) + weights[2][:, place]
        others[start.cells] = False
        still = still + weights[3][:, others].sum(dim=1)
        first = given @ weights[0].T + (self.numbers.input.bias + still)
        sizes = weights[3].T
        inward = torch.cat([waves[place], sizes[[place]]])
        of_time = weights[4].T.contiguous()
        return SingleTarget(self, start, place, first, inward, of_time, sizes[start.cells])

    def level_log_probabilities(self, labels: Tensor) -> Tensor:
        """Return the log probabilities ``[B, K]`` of all levels, given the known values of queries.

        Args:
            labels: Queries ``[B, L]``.
        """
        values, states, indicators, level_states = self.unpack(labels)
        assert self.levels is not None, (
            "only networks of tables with categories answer conditional queries"
        )
        given = self._given(values, states == KNOWN, indicators, level_states == KNOWN)
        with torch.no_grad():
            exact, states, indicators, level_states = self.unpack(labels.double())
            level_known = (level_states == KNOWN).double()[:, self.category_of] * indicators
            start = self.mixture.log_levels(exact, states, level_known)
        logits = start.to(values) + self.levels(torch.cat(given, dim=1))
        parts = [part.log_softmax(dim=1) for part in logits.split_with_sizes(self.level_counts, 1)]
        return torch.cat(parts, dim=1)

    def _given(
        self, values: Tensor, is_known: Tensor, indicators: Tensor, level_is_known: Tensor
    ) -> list[Tensor]:
        """Return the inputs of the layers that describe known cells."""
        known, level_known = is_known.to(values), level_is_known.to(values)
        parts = [*with_waves(known * values, self.frequencies), known, level_known]
        if self.level_counts:
            parts.append(level_known[:, self.category_of] * indicators)
        return parts

    def unpack(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Split queries ``[B, L]`` into their parts.

        Returns:
            Values and states of numbers ``[B, D]``, indicators of levels ``[B, K]``, and states of
            categories ``[B, C]``.
        """
        values, states, indicators, level_states = labels.split_with_sizes(self._sizes, dim=1)
        if self.atoms:
            of_atoms = level_states[:, len(self.level_counts) - len(self.atoms) :]
            gone = (of_atoms >= ASKED) & (indicators[:, self.others] == 0)
            own = states[:, self.with_atoms].masked_fill(gone, ABSENT)
            states = states.index_copy(1, self.with_atoms, own)
        return values, states, indicators, level_states


class SingleTarget:
    """A network for a single target number per row, with known cells that are processed once.

    Args:
        network: The network.
        start: Initial mixture, given the known cells.
        place: Index of the target number.
        first: Part of the first layer's output from the known cells only, ``[B, width]``.
        inward: Weights ``[R, width]`` of the waves of the target and of its size.
        of_time: Weights ``[T, width]`` of the features of the time.
        of_sizes: Weights ``[K, width]`` of the sizes of known cells.
    """

    def __init__(
        self,
        network: QuestionNetwork,
        start: ConditionalStart,
        place: int,
        first: Tensor,
        inward: Tensor,
        of_time: Tensor,
        of_sizes: Tensor,
    ):
        self.start, self._network, self._place = start, network, place
        self._first, self._inward, self._of_time = first, inward, of_time
        self._of_sizes = of_sizes

    def at(self, rows: Tensor) -> "SingleTarget":
        """Select rows by their indices."""
        some = copy(self)
        some.start, some._first = self.start.at(rows), self._first[rows]
        return some

    def __call__(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Return F ``[B, Q]`` of Q targets in each row; see ``QuestionNetwork.forward``.

        Args:
            z: Targets with noise ``[B, Q]``, scaled to unit variance.
            gamma: Noise variances ``[B, 1]``.
        """
        network, layers = self._network, self._network.numbers
        z, gamma = z.float(), gamma.float()
        value, size, sizes = self.start((1 + gamma).sqrt() * z, gamma)
        of_time = network.noise(gamma[:, 0].log() / 8) @ self._of_time
        h = (self._first + of_time).repeat_interleave(z.shape[1], dim=0)
        waves = with_waves(z.flatten()[:, None], network.frequencies)
        h.addmm_(torch.cat([*waves, size.view(-1, 1)], dim=1), self._inward)
        h = layers.through(h.addmm_(sizes.flatten(0, 1), self._of_sizes))
        output = layers.output
        made = F.linear(h, output.weight[[self._place]], output.bias[[self._place]])
        return value + size * made.view(z.shape)


class _Layers(nn.Module):
    """A residual perceptron whose output is initially 0.

    Its depth is the number of hidden layers after the first.
    """

    def __init__(self, seen: int, width: int, depth: int, out: int, dropout: float):
        super().__init__()
        self.input = Linear(seen, width)
        self.hidden = nn.ModuleList(Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.output = Linear(width, out)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, seen: Tensor) -> Tensor:
        return self.output(self.through(self.input(seen)))

    def through(self, h: Tensor) -> Tensor:
        """Return the output of the hidden layers ``[B, width]``, given that of the first layer."""
        in_place = not torch.is_grad_enabled()  # a fifth faster in large blocks
        for at, layer in enumerate(self.hidden):
            active = self.dropout(F.silu(layer(h), inplace=in_place))
            h = h.add_(active) if in_place and at else h + active
        return h

    def carried(self, inward: Tensor, weights: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """Return forward-mode tangents ``[B, width]`` at the last layer.

        Args:
            inward: Tangents ``[B, R]`` of the few inputs with nonzero tangents.
            weights: Weights ``[R, width]`` of the R inputs in the first layer.
            slopes: Slopes of the hidden activations.
        """
        tangents = inward @ weights
        for layer, slope in zip(self.hidden, slopes, strict=True):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            # The first layer has few such inputs: multiply its weights with the next layer first.
            first = layer is self.hidden[0]
            product = inward @ (weights @ weight.T) if first else tangents @ weight.T
            tangents.addcmul_(product, slope)
        return tangents
