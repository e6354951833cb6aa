"""Network files hold what they were given, and others are refused. Of what a pickle or a zip can
be, ``test_inert_pickle`` and the fuzz tests know more."""

import os
import time
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.running import refusal
from torch_utils import snapshots
from torch_utils.snapshots import Part, build, read_network, read_state, write_network, write_state

REGISTRY: dict[str, type[nn.Module]] = {"linear": nn.Linear, "bilinear": nn.Bilinear}
ABOUT = {"data_name": "circles", "seen": 10_000, "tmax": 7.01, "none": None, "list": [1, "a"]}
NAN, INF = float("nan"), float("inf")


def linear(width=3):
    state = {"weight": torch.linspace(-1, 1, 2 * width).view(2, width), "bias": torch.ones(2)}
    return Part("linear", {"in_features": width, "out_features": 2}, state)


def payload(**changes):
    """What the file of a network holds; None leaves an entry out."""
    part = linear()
    entry = {"class": part.class_name, "arguments": part.arguments, "state": part.state}
    whole = {"format": snapshots.NETWORK_FORMAT, "version": snapshots.VERSION}
    whole |= {"parts": {"network": entry}, "about": dict(ABOUT), **changes}
    return {name: value for name, value in whole.items() if value is not None}


def of_part(**changes):
    """What the file of a network holds whose one part differs."""
    return payload(parts={"network": payload()["parts"]["network"] | changes})


def of_state(**changes):
    return of_part(state=linear().state | changes)


def load(path):
    """All that opening a network file does here."""
    parts, _ = read_network(path)
    ((name, part),) = parts.items()
    return build(path, name, part, REGISTRY)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.pkl"


@pytest.fixture
def refused(path):
    """``refused(content, opener)``: why a file with this content is refused."""

    def save_and_open(content, opener=load):
        torch.save(content, path)
        return refusal(opener, path)

    return save_and_open


def test_a_network_file_gives_back_what_it_was_given(path):
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
    state = {str(kind): torch.arange(4).to(kind) for kind in kinds}
    given = {"network": linear(), "other": Part("linear", {"in_features": 5}, state)}
    write_network(path, given, ABOUT)
    parts, about = read_network(path)
    assert about == ABOUT
    assert list(parts) == ["network", "other"]
    for name, part in given.items():
        assert (parts[name].class_name, parts[name].arguments) == (part.class_name, part.arguments)
        assert list(parts[name].state) == list(part.state)
        for key, value in part.state.items():
            assert torch.equal(parts[name].state[key], value)
            assert parts[name].state[key].dtype == value.dtype


def test_a_training_state_gives_back_what_it_was_given_and_is_no_network(tmp_path):
    state, network = tmp_path / "s.pt", tmp_path / "n.pkl"
    write_state(state, {"seen": 5, "optimizer": {0: torch.arange(3.0)}})
    back = read_state(state)
    assert back["seen"] == 5
    assert torch.equal(back["optimizer"][0], torch.arange(3.0))
    write_network(network, {"network": linear()}, {})
    assert "not a network file" in refusal(load, state)
    assert "not a training state" in refusal(read_state, network)


@pytest.mark.parametrize("opener", [load, read_state])
def test_other_files_are_refused(tmp_path, path, refused, opener):
    assert "does not exist" in refusal(opener, path)
    assert "is a folder" in refusal(opener, tmp_path)
    (tmp_path / "file").write_text("x")
    refusal(opener, tmp_path / "file" / "below.pkl")
    os.mkfifo(tmp_path / "pipe")
    assert "device or pipe" in refusal(opener, tmp_path / "pipe")
    torch.save(payload(), path)
    whole = path.read_bytes()
    for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        refusal(opener, path)
    for value in (torch.zeros(3), [1, 2], None, {}, {"state_dict": {"w": torch.zeros(2)}}):
        assert "of this project" in refused(value, opener)
    form = snapshots.NETWORK_FORMAT if opener is load else snapshots.STATE_FORMAT
    message = refused(payload(format=form, version=snapshots.VERSION + 41), opener)
    assert f"version {snapshots.VERSION + 41}" in message
    assert f"up to {snapshots.VERSION}" in message


def test_an_incomplete_file_is_refused(refused):
    for version in (None, "1", 1.5, [1], torch.tensor(1)):
        assert "version" in refused(payload(version=version))
    entry = {"class": "linear", "arguments": {}, "state": {}}
    for part in (None, {"class": "linear"}, entry | {"arguments": [1]}, entry | {"state": 3}):
        refused(payload(parts={"network": part}))
    for name in ("format", "parts", "about"):
        for value in (None, [1]):
            refused(payload(**{name: value}))
    refused(payload(format=torch.zeros(2)))
    # Names from a file are printable and short in errors.
    odd, entry = "a\n\x1b[2J" * 10_000, payload()["parts"]["network"]
    for changes in ({"state": {odd: 1}}, {"class": odd}, {"arguments": {odd: 1}}):
        refused(payload(parts={odd: entry | changes}))
    refused(payload(parts={odd: {odd: 1}}))


def test_only_registered_classes_are_built_by_their_arguments(refused):
    for name in ("os.system", "Linear", "torch.nn.Linear", ""):
        message = refused(of_part(**{"class": name}))
        assert f"'{name}'" in message
        assert "linear, bilinear" in message
    for arguments in (
        {},
        {"in_features": 3},
        {"in_features": 3, "out_features": 2, "odd": 1},
        *({"in_features": bad, "out_features": 2} for bad in ("3", None, 3.5, -3, 10**30)),
        {"in_features": torch.zeros(2), "out_features": 2},
        {1: 2},
    ):
        assert "'network'" in refused(of_part(arguments=arguments))


def test_tensors_that_do_not_fit_are_refused_by_name(refused):
    shapes = (("weight", (2, 4)), ("weight", (6,)), ("bias", ()), ("odd", (1,)), (3, (1,)))
    for name, shape in shapes:
        assert str(name) in refused(of_part(state=linear().state | {name: torch.zeros(shape)}))
    for missing in ("weight", "bias"):
        state = {name: value for name, value in linear().state.items() if name != missing}
        assert missing in refused(of_part(state=state))
    for value in (1.0, None, "text", [torch.zeros(2)], {"a": torch.zeros(2)}):
        assert "network.bias" in refused(of_state(bias=value))
    weight = torch.zeros(2, 3)
    for odd in (weight.to("meta"), weight.to_sparse(), weight.cfloat()):
        assert "ever loaded" in refused(of_state(weight=odd))
    for number in (NAN, INF, -INF):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            odd = torch.where(torch.arange(6).view(2, 3) == 4, number, 0.0).to(dtype)
            message = refused(of_state(weight=odd))
            assert "network.weight" in message
            assert "not finite" in message
    optimizer = {"state": {0: {"exp_avg": torch.tensor([1.0, NAN])}}}
    whole = {"format": snapshots.STATE_FORMAT, "version": 1, "optimizer": optimizer}
    message = refused(whole, read_state)
    assert "'optimizer.state.0.exp_avg' has values that are not finite" in message


class Tower(nn.Sequential):
    def __init__(self, depth: int):
        super().__init__(*(nn.Linear(4, 4) for _ in range(depth)))


def test_promises_beyond_the_file_fail_at_once(path, refused):
    began = time.process_time()
    wide = {"in_features": 60_000, "out_features": 60_000}
    assert "do not match its architecture" in refused(of_part(arguments=wide))
    # One number spread over a huge layer.
    size, spread = 10**9, torch.zeros(1).expand(10**9, 10**9)
    arguments = {"in_features": size, "out_features": size, "bias": False}
    refused(of_part(arguments=arguments, state={"weight": spread}))
    assert path.stat().st_size < 10_000
    # Each of these passes for the tensor of a layer, but copies of them would be as many.
    shared = torch.zeros(1000, 1000)
    state = {f"layer{index}": shared for index in range(500)}
    assert "more than the whole file" in refused(of_part(state=state))
    write_state(path, state)
    assert "more than the whole file" in refusal(read_state, path)
    for whole in (payload(about={"seen": spread}), of_part(arguments={"seen": spread})):
        assert "contains a tensor, 'seen'" in refused(whole)
    assert "'about' contains a number beyond 2^64" in refused(payload(about={"tmax": 10**600}))
    torch.save(of_part(**{"class": "tower", "arguments": {"depth": 60_000}}), path)
    parts, _ = read_network(path)
    assert "far more tensors" in refusal(build, path, "network", parts["network"], {"tower": Tower})
    assert time.process_time() - began < 20


@pytest.mark.parametrize("opener", [load, read_state])
def test_lists_that_hold_each_other_are_refused_at_once(refused, opener):
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep, deep]
    circle: list[Any] = []
    circle.append(circle)
    form = snapshots.NETWORK_FORMAT if opener is load else snapshots.STATE_FORMAT
    began = time.process_time()
    for value in (deep, circle):
        for whole in (payload(about={"odd": value}), payload(odd=value), of_part(arguments=value)):
            assert "too many or too deeply" in refused(whole | {"format": form}, opener)
    assert time.process_time() - began < 20
