"""Hamiltonian steps: a leapfrog that can be undone, whose errors fall as they must."""

from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from tests.support.draws import double, normal
from tests.support.posteriors import Parabola, gaussian_prior, problem
from training.inference.likelihoods import Gaussian
from training.inference.noise import Noise
from training.inference.samplers.hamiltonian import Hamiltonian

CHAINS = 4
OBSERVED = double([[0.5], [-0.5]])


class Leapfrog:
    """The map ``(w, q) -> (w, q)`` of some steps, with a metric that is not the identity."""

    def __init__(self, size, leaps):
        self._target = problem(gaussian_prior(), Parabola(), OBSERVED).target
        self._size, self._leaps = size, leaps

    def __call__(self, w, q):
        """Where chains ``[M C, dim]`` of momenta ``[M, C, dim]`` end, and by how much the energy
        has changed."""
        kernel = Hamiltonian(self._target, self._leaps)
        state = kernel.start(w, CHAINS)
        kernel._root = double([[1.5, 0.0], [0.4, 0.8]]).expand(2, 2, 2)
        kernel._size = torch.full((2,), self._size).double()
        noise = mock.create_autospec(Noise, instance=True)
        noise.normal.return_value = q
        noise.uniform.return_value = torch.zeros(2, CHAINS, 1).double()  # all are accepted
        noise.shared_integer.return_value = self._leaps
        ends = []
        energy = kernel._energy

        def seen(state, momentum):
            ends.append(momentum)
            return energy(state, momentum)

        before = energy(state, q)
        with mock.patch.object(kernel, "_energy", seen):
            kernel.step(state, noise, 0)
        return state.w, ends[-1], energy(state, ends[-1]) - before


def start():
    return normal(2 * CHAINS, 2, seed=1), normal(2, CHAINS, 2, seed=2)


def test_leapfrog_with_the_momentum_turned_goes_back():
    leap, (w, q) = Leapfrog(0.1, 7), start()
    end, momentum, _ = leap(w, q)
    assert (end - w).abs().min() > 1e-3
    back, turned, _ = leap(end, -momentum)
    assert_close(back, w, rtol=0, atol=1e-10)
    assert_close(-turned, q, rtol=0, atol=1e-10)


def test_leapfrog_keeps_volume():
    leap, (w, q) = Leapfrog(0.2, 3), start()
    step, columns = 1e-5, []
    for axis in range(4):
        shift = step * torch.eye(4).double()[axis]
        ends = []
        for sign in (1, -1):
            moved_w, moved_q, _ = leap(w + sign * shift[:2], q + sign * shift[2:])
            ends.append(torch.cat([moved_w, moved_q.flatten(0, 1)], dim=1))
        columns.append((ends[0] - ends[1]) / (2 * step))
    determinants = torch.linalg.det(torch.stack(columns, dim=2))
    assert_close(determinants, torch.ones_like(determinants), rtol=0, atol=1e-6)


def test_the_error_of_the_energy_falls_as_the_square_of_the_step():
    w, q = start()
    errors = torch.stack([Leapfrog(0.4 / n, n)(w, q)[2].abs() for n in (8, 16)])
    assert_close(errors[0] / errors[1], torch.full((8,), 4.0).double(), rtol=0.15, atol=0)


@pytest.mark.parametrize("kind", ["curvature", "covariance"])
def test_the_metric_is_learned(kind):
    """Of a Gaussian posterior it is its inverse covariance, however it is learned."""
    likelihood = Gaussian(double(0.2), operator=double([[1.0, 0.7]]))
    target = problem(gaussian_prior(), likelihood, OBSERVED).target
    kernel = Hamiltonian(target)
    curvature = target.curvature(normal(1, 2), torch.zeros(1, dtype=torch.int64))
    mass = torch.eye(2).double() + curvature[0]
    if kind == "covariance":
        with mock.patch.object(Hamiltonian, "_is_curved", False):
            state = kernel.start(torch.zeros(2 * CHAINS, 2).double(), CHAINS)
            root = torch.linalg.cholesky(torch.linalg.inv(mass))
            kernel._covariance.add((normal(20000, 2, seed=3) @ root.T).expand(2, -1, -1))
            kernel._learn_metric(state)
        tolerance = 0.05
    else:
        kernel.start(normal(2 * CHAINS, 2), CHAINS)
        tolerance = 1e-9
    got = kernel._root @ kernel._root.mT
    assert_close(got, mass.expand(2, 2, 2), rtol=tolerance, atol=tolerance)
