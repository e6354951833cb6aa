"""Networks of toys, of rows and questions, and the original ones: shapes, smoothness, inputs."""

from math import prod

import pytest
import torch
import torch.nn.functional as F

from dnnlib.errors import UsageError
from tests.support.draws import double, seeded
from tests.support.flows import exact_flow
from tests.support.original_files import randomized
from training.flow.denoisers import NetworkDenoiser, noise_condition
from training.learning.loss import DenoisingLoss, DenoisingRegression
from training.names import ANY_NUMBER
from training.networks import NETWORKS
from training.networks.mlp import FEATURES, ConditionEmbedding, NoiseFeatures, ToyMLP
from training.networks.questions import QuestionNetwork
from training.networks.toy_unet import OriginalToyConvUNet

NOISE_RANGE = (-0.95, 0.28)

every_network = pytest.mark.parametrize("name", ["mlp", "ToyConvUNet", "ToySongUNet"])
THICKNESS = 1  # of the swirl in eigenspace: variances are 1.09, 1 and 0.91
CHANNELS = (32, 64, 32, 96)


def network(name, dim=3):
    return NETWORKS[name](dim=dim, noise_range=NOISE_RANGE).eval()


def inputs(count, dim=3):
    generator = seeded(1)
    z = torch.randn(count, dim, generator=generator)
    low, high = NOISE_RANGE
    return z, low + (high - low) * torch.rand(count, generator=generator)


def trained(name):
    net = network(name)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        (net(*inputs(32)) - 1).square().mean().backward()
        optimizer.step()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key
    return net


@every_network
def test_outputs_are_shaped_like_inputs_and_start_at_zero(name):
    for dim in (2, 3, 10):
        output = network(name, dim)(*inputs(5, dim))
        assert output.shape == (5, dim)
        assert (output == 0).all()
    for noise_range in ((0.5, 0.5), (1.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="noise range"):
            NETWORKS[name](dim=2, noise_range=noise_range)


@every_network
def test_a_point_depends_on_all_its_inputs_and_on_no_other_point(name):
    net = trained(name)
    z, c_noise = (tensor.requires_grad_() for tensor in inputs(6))
    output = net(z, c_noise)
    for index in range(3):
        got = torch.autograd.grad(output[:, index].sum(), (z, c_noise), retain_graph=True)
        assert all((gradient != 0).all() for gradient in got)
    with torch.no_grad():
        alone = torch.cat([net(z[i : i + 1], c_noise[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(output, alone, rtol=1e-4, atol=1e-5)
        one = torch.tensor(-0.3)
        torch.testing.assert_close(net(z, one), net(z, one.expand(6)), rtol=1e-5, atol=1e-6)


@every_network
def test_the_output_is_twice_differentiable_in_time_in_single_precision(name):
    net, (z, _) = trained(name), inputs(64)
    step = 0.02 * (NOISE_RANGE[1] - NOISE_RANGE[0])

    def second_difference(h):
        with torch.no_grad():
            before, middle, after = (net(z, torch.tensor(-0.3 + dt)) for dt in (-h, 0.0, h))
        return float((before - 2 * middle + after).square().mean().sqrt())

    # Falls with h^2 if the function is smooth, with h at a kink, and not at all in noise.
    assert second_difference(step) / second_difference(step / 2) == pytest.approx(4, rel=0.1)


def test_noise_features_are_cosines_of_the_place_in_the_range():
    ends = NoiseFeatures((-1.0, 1.0), count=3)(torch.tensor([-1.0, 0.0, 1.0]))
    expected = torch.tensor([[1.0, 1.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 1.0, -1.0]])
    torch.testing.assert_close(ends, expected, rtol=0, atol=1e-6)


def thickness_error(input_features):
    """Mean squared error against the exact F of the swirl's thickness after 300 steps of Adam."""
    toy, flow = exact_flow("swirl")
    schedule, basis, t_max = flow.schedule, flow.basis, flow.schedule.default_t_max()
    low, high = noise_condition(schedule, double([0.0, t_max]), "log").tolist()
    network = ToyMLP(3, (low, high), depth=4, input_features=input_features)
    denoiser = NetworkDenoiser(network, basis, schedule)
    loss = DenoisingLoss(schedule, 0, t_max)
    regression = DenoisingRegression(denoiser)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    generator = seeded()
    for _ in range(300):
        clean = basis.to_eigen(toy.sample(256, generator))
        optimizer.zero_grad()
        loss.per_sample(regression, clean, loss.draw(256, generator)).mean().backward()
        optimizer.step()
        decay.step()
    t, noise = loss.draw(1000, generator)
    clean = basis.to_eigen(toy.sample(1000, generator))
    x = clean + schedule.noise_variance(t).sqrt() * noise
    with torch.no_grad():
        error = (denoiser(x, t) - flow.denoiser(x, t)) / denoiser.coefficients(t).c_out
    return float(error[:, THICKNESS].square().mean())


# The thickness is uniform, nearly Gaussian: F = 0 has an error of 0.0215. Training leaves 0.0085
# of it with the features, and 0.0216 without.
@pytest.mark.slow
def test_thickness_is_learnt_with_input_features():
    assert thickness_error(4) < 0.012
    assert thickness_error(0) > 0.018


@pytest.mark.parametrize("shape", [(100,), (2, 37), (1, 3, 3), (3, 9, 5)])
def test_features_of_a_point_depend_on_its_conditions_and_no_others(shape):
    torch.manual_seed(0)
    embedding = ConditionEmbedding(shape)
    conditions = torch.randn(4, prod(shape), generator=seeded(1), requires_grad=True)
    features = embedding(conditions)
    assert features.shape == (4, FEATURES)
    [slopes] = torch.autograd.grad(features[1].square().sum(), conditions)
    assert (slopes[1] != 0).all()
    assert (slopes[[0, 2, 3]] == 0).all()
    # As many numbers for a large image as for a small one.
    assert sum(parameter.numel() for parameter in embedding.parameters()) < 40_000


def test_features_of_a_set_know_neither_order_nor_padding_but_how_many_there_are():
    torch.manual_seed(0)
    embedding = ConditionEmbedding((ANY_NUMBER, 2))
    trials = torch.cat([torch.randn(3, 5, 2, generator=seeded(1)), torch.ones(3, 5, 1)], dim=2)
    trials[1, 2:] = 0  # which has two
    features = embedding(trials.flatten(1))
    for other in (trials[:, [3, 0, 4, 2, 1]], torch.cat([torch.zeros(3, 4, 3), trials], dim=1)):
        torch.testing.assert_close(embedding(other.flatten(1)), features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding(trials[1:2, :2].flatten(1)), features[1:2])
    twice = embedding(torch.cat([trials, trials], dim=1).flatten(1))
    assert ((twice - features).abs().amax(dim=1) > 0.01).all()


@pytest.mark.parametrize("condition", [-1.0, 0.0, 1.1])
def test_traces_are_those_of_the_jacobian(condition):
    torch.manual_seed(0)
    at = torch.tensor(condition, dtype=torch.float64)
    dim, components, rows = 5, 4, 64
    network = QuestionNetwork(dim, (-1.15, 1.15), [2, 3], width=32, depth=3, components=components)
    network = network.double().eval()
    factor = torch.randn(components, dim, dim, dtype=torch.float64)
    network.mixture.covariances = factor @ factor.mT / dim + 0.1 * torch.eye(dim)
    network.mixture.means = torch.randn(components, dim, dtype=torch.float64)
    for weight in network.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    labels = torch.randint(-1, 2, (rows, network.question_dim)).double()
    labels[:, :dim] = torch.randn(rows, dim)
    z, factors = torch.randn(rows, dim, dtype=torch.float64), torch.rand(dim).double()
    out, trace = network.with_trace(z, at, factors.diag(), labels)
    jacobian = torch.autograd.functional.jacobian(lambda z: network(z, at, labels).sum(dim=0), z)
    exact = torch.einsum("ibi,i->b", jacobian, factors)
    torch.testing.assert_close(trace, exact, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(out, network(z, at, labels))


def written_out(weights, z, c_noise):
    """From the tensors alone: resampling by windows, four levels by hand."""

    def apply(layer, x):
        return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

    def embed(name):
        phase = 2 * torch.pi * c_noise[:, None] * weights[f"{name}.0.frequencies"]
        h = apply(f"{name}.1", torch.cat([phase.sin(), phase.cos()], dim=1))
        return h / (1 + (-h).exp())

    def up(x, stride):
        window = torch.ones(x.shape[1], 1, 2, 2)
        return F.conv_transpose2d(x, window, stride=stride, groups=x.shape[1])

    def block(name, x, groups):
        h = F.conv2d(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], padding=1)
        h = h + apply(f"{name}.modulation", conv_embedding)[:, :, None, None]
        scale, shift = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        return F.silu(F.group_norm(h, groups, scale, shift, eps=1e-5))

    layer_embedding, conv_embedding = embed("layer_embedding"), embed("block_embedding")

    def layer(name, h):
        return apply(f"{name}.linear", h) + apply(f"{name}.modulation", layer_embedding)

    h = z
    for index in range(4):
        h = F.silu(layer(f"lift.{index}", h))
    image = h.reshape(-1, 1, 8, 8)
    at7 = block("down.0", F.avg_pool2d(image, 2, 1), 4)
    at6 = block("down.1", F.avg_pool2d(at7, 2, 1), 32)
    at5 = block("down.2", F.avg_pool2d(at6, 2, 1), 32)
    at2 = block("down.3", F.avg_pool2d(at5, 2, 2), 32)
    assert at2.shape[1:] == (CHANNELS[3], 2, 2)
    x = block("up.0", up(at2, 3), 32)
    x = block("up.1", up(torch.cat([x, at5], dim=1), 1), 32)
    x = block("up.2", up(torch.cat([x, at6], dim=1), 1), 32)
    x = block("up.3", up(torch.cat([x, at7], dim=1), 1), 1)
    h = layer("lower.0", x.reshape(-1, 64))
    h = F.silu(layer("lower.1", h))
    h = F.silu(layer("lower.2", h))
    return apply("last", h)


@pytest.mark.parametrize("dim", [2, 3])
def test_it_is_what_it_says(dim):
    network = randomized(OriginalToyConvUNet(dim, channels=CHANNELS, block_embedding_dim=16))
    z = torch.randn(5, dim, generator=seeded(1))
    c_noise = torch.linspace(0, 30, 5)
    with torch.no_grad():
        known = written_out(dict(network.state_dict()), z, c_noise)
        torch.testing.assert_close(network(z, c_noise), known, rtol=1e-4, atol=1e-5)
        one_time = network(z, c_noise[2])
    torch.testing.assert_close(one_time[2], known[2], rtol=1e-4, atol=1e-5)


def test_sizes_that_make_no_image_are_refused():
    for sizes in ({"widths": (4, 32)}, {"widths": (64,)}, {"widths": ()}, {"channels": (32, 32)}):
        with pytest.raises(UsageError, match="give two or more widths, the last 64"):
            OriginalToyConvUNet(2, **sizes)
