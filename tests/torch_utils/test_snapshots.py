"""Network files hold what they were given, and nothing that a stranger put in them runs."""

import io
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError
from torch_utils import snapshots
from torch_utils.snapshots import Part, build, read_network, read_state, write_network, write_state

REGISTRY: dict[str, type[nn.Module]] = {"linear": nn.Linear, "bilinear": nn.Bilinear}
ABOUT = {"data_name": "circles", "seen": 10_000, "tmax": 7.01, "none": None, "list": [1, "a"]}


def linear(seed: int = 0, width: int = 3) -> Part:
    generator = torch.Generator().manual_seed(seed)
    state = {
        "weight": torch.randn(2, width, generator=generator),
        "bias": torch.randn(2, generator=generator),
    }
    return Part("linear", {"in_features": width, "out_features": 2}, state)


def payload(**changes: Any) -> dict[str, Any]:
    part = linear()
    entry = {"class": part.class_name, "arguments": part.arguments, "state": part.state}
    whole = {
        "format": snapshots.NETWORK_FORMAT,
        "version": snapshots.VERSION,
        "parts": {"network": entry},
        "about": dict(ABOUT),
    }
    return whole | changes


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in payload().items() if name != key}


def load(path: Path) -> nn.Module:
    """All that opening a network file does here."""
    parts, _ = read_network(path)
    ((name, part),) = parts.items()
    return build(path, name, part, REGISTRY)


def refusal(path: Path, opener: Callable[[Path], Any] = load) -> str:
    """The message of the DataError, which is one line and names the file."""
    with pytest.raises(DataError) as caught:
        opener(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message.strip()
    return message


def test_a_network_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    given = {"network": linear(), "other": Part("linear", {"in_features": 5}, {})}
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_types_of_numbers_survive(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.arange(4).to(dtype)
    write_network(tmp_path / "n.pkl", {"a": Part("x", {}, {"v": value})}, {})
    back = read_network(tmp_path / "n.pkl")[0]["a"].state["v"]
    assert back.dtype == dtype
    assert torch.equal(back, value)


def test_a_built_module_computes_what_the_original_did(tmp_path: Path) -> None:
    original = nn.Linear(3, 2)
    part = Part("linear", {"in_features": 3, "out_features": 2}, original.state_dict())
    write_network(tmp_path / "n.pkl", {"network": part}, {})
    x = torch.randn(5, 3)
    assert torch.equal(load(tmp_path / "n.pkl")(x), original(x))


def test_a_training_state_gives_back_what_it_was_given(tmp_path: Path) -> None:
    parameter = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    write_state(tmp_path / "s.pt", {"seen": 5, "optimizer": optimizer.state_dict()})
    state = read_state(tmp_path / "s.pt")
    assert state["seen"] == 5
    back = state["optimizer"]["state"][0]
    assert torch.equal(back["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_states_and_networks_are_not_taken_for_each_other(tmp_path: Path) -> None:
    write_state(tmp_path / "s.pt", {"seen": 5})
    write_network(tmp_path / "n.pkl", {"network": linear()}, {})
    assert "not a network file" in refusal(tmp_path / "s.pt")
    assert "not a training state" in refusal(tmp_path / "n.pkl", read_state)


class Calls:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(marker: Path) -> dict[str, Any]:
    touch = f"touch {marker}"
    return {
        "os.system": Calls(os.system, touch),
        "subprocess": Calls(subprocess.check_call, ["touch", str(marker)]),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "open": Calls(open, str(marker), "w"),
        "mkdir": Calls(os.mkdir, str(marker)),
        "load": Calls(pickle.loads, pickle.dumps(Calls(os.system, touch))),
        "import": Calls(__import__, "antigravity"),
    }


def as_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def as_old_torch_file(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("opener", [load, read_state])
@pytest.mark.parametrize("write", [as_pickle, as_old_torch_file, torch.save])
@pytest.mark.parametrize("where", ["whole", "about", "state", "arguments", "key"])
@pytest.mark.parametrize("attack", list(hostile(Path("x"))))
def test_code_in_a_file_does_not_run(
    tmp_path: Path,
    attack: str,
    where: str,
    write: Callable[[Any, Path], None],
    opener: Callable[[Path], Any],
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "network.pkl"
    bomb = hostile(marker)[attack]
    whole = payload()
    if where == "whole":
        whole = bomb
    elif where == "about":
        whole["about"]["seen"] = bomb
    elif where == "key":
        whole[bomb] = 1
    else:
        whole["parts"]["network"][where]["weight"] = bomb
    write(whole, path)
    refusal(path, opener)
    assert not marker.exists()


def test_the_attacks_of_these_tests_would_work_elsewhere(tmp_path: Path) -> None:
    for name in ("os.system", "open", "mkdir"):
        marker = tmp_path / name
        done = pickle.loads(pickle.dumps(hostile(marker)[name]))
        if hasattr(done, "close"):
            done.close()
        assert marker.exists()


WATCH = """
import sys
from pathlib import Path
from dnnlib.errors import DataError
from torch_utils.snapshots import read_network, read_state

warm, *hostile = map(Path, sys.argv[1:])
read_network(warm)  # what torch imports at its first load, it has now
for opener in (read_network, read_state):
    try:
        opener(hostile[0].with_name("missing"))
    except DataError:
        pass
heard, listening = [], False

def listen(event, arguments):
    if not listening:
        return
    if event == "open":
        path, mode, flags = arguments
        if isinstance(mode, str) and set(mode) & set("wax+") or flags & 0o3:
            heard.append((event, path, mode))
    elif event == "import" and arguments[0] in sys.modules:
        pass
    elif event.split(".")[0] in WATCHED:
        heard.append((event, str(arguments)[:200]))

WATCHED = {"exec", "compile", "import", "subprocess", "socket", "os", "shutil", "ctypes", "pty"}
sys.addaudithook(listen)
refused = 0
for path in hostile:
    for opener in (read_network, read_state):
        listening = True
        try:
            opener(path)
        except DataError:
            refused += 1
        finally:
            listening = False
print(refused, heard)
"""


def test_a_hostile_file_causes_nothing_that_python_audits(tmp_path: Path) -> None:
    write_network(tmp_path / "good.pkl", {"network": linear()}, ABOUT)
    paths = []
    for name, attack in hostile(tmp_path / "marker").items():
        for write in (as_pickle, as_old_torch_file, torch.save):
            paths.append(tmp_path / f"{name}-{getattr(write, '__name__', 'torch')}")
            write(payload(about={"seen": attack}), paths[-1])
    done = subprocess.run(
        [sys.executable, "-c", WATCH, tmp_path / "good.pkl", *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{2 * len(paths)} []\n"
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("write", [torch.save, as_old_torch_file])
def test_a_file_that_was_cut_short_is_refused(
    tmp_path: Path, write: Callable[[Any, Path], None], kept: float
) -> None:
    path = tmp_path / "network.pkl"
    write(payload(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refusal(path)


def test_a_file_with_wrong_bytes_is_refused_or_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    torch.save(payload(), path)
    whole = path.read_bytes()
    expected = load(path).state_dict()
    for start in range(0, len(whole), 13):
        changed = bytearray(whole)
        changed[start] ^= 0x41
        path.write_bytes(changed)
        try:
            state = load(path).state_dict()
        except DataError:
            continue
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def zip_with(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"garbage",
        b"\x80",
        b"\x80\x02",
        b"{}",
        Random(0).randbytes(4000),
        bytes(4000),
        b"<html>not found</html>",
        zip_with(),
        zip_with(data_pkl=b"garbage", version=b"3"),
        zip_with(data_pkl=pickle.dumps({"format": snapshots.NETWORK_FORMAT}, protocol=2)),
        zip_with(constants_pkl=b"", data_pkl=b"", version=b"3"),
    ],
    ids=lambda content: repr(content[:12]),
)
@pytest.mark.parametrize("opener", [load, read_state])
def test_other_bytes_are_refused(
    tmp_path: Path, content: bytes, opener: Callable[[Path], Any]
) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(content)
    refusal(path, opener)


@pytest.mark.parametrize(
    "value",
    [torch.zeros(3), [1, 2], None, "text", 7, {}, {"state_dict": {"w": torch.zeros(2)}}, (1,)],
    ids=repr,
)
@pytest.mark.parametrize("write", [torch.save, as_old_torch_file])
@pytest.mark.parametrize("opener", [load, read_state])
def test_foreign_torch_files_are_refused(
    tmp_path: Path, value: Any, write: Callable[[Any, Path], None], opener: Callable[[Path], Any]
) -> None:
    path = tmp_path / "network.pkl"
    write(value, path)
    refusal(path, opener)


def test_pickled_modules_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "network.pkl")
    assert "never loaded" in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize("opener", [load, read_state])
def test_missing_files_and_folders_are_told_apart(
    tmp_path: Path, opener: Callable[[Path], Any]
) -> None:
    assert "does not exist" in refusal(tmp_path / "none.pkl", opener)
    assert "is a folder" in refusal(tmp_path, opener)
    (tmp_path / "file").write_text("x")
    refusal(tmp_path / "file" / "below.pkl", opener)


@pytest.mark.parametrize("opener", [load, read_state])
def test_a_newer_version_is_refused_with_both_versions(
    tmp_path: Path, opener: Callable[[Path], Any]
) -> None:
    path = tmp_path / "network.pkl"
    form = snapshots.NETWORK_FORMAT if opener is load else snapshots.STATE_FORMAT
    torch.save(payload(format=form, version=snapshots.VERSION + 41), path)
    message = refusal(path, opener)
    assert f"version {snapshots.VERSION + 41}" in message
    assert f"up to {snapshots.VERSION}" in message


@pytest.mark.parametrize("version", [None, "1", 1.5, [1], torch.tensor(1)], ids=repr)
def test_a_version_must_be_a_number(tmp_path: Path, version: Any) -> None:
    torch.save(payload(version=version), tmp_path / "network.pkl")
    assert "version" in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize(
    "whole",
    [
        without("format"),
        without("version"),
        without("parts"),
        without("about"),
        payload(format=None),
        payload(format=torch.zeros(2)),
        payload(parts=None),
        payload(parts=[1]),
        payload(parts={"network": None}),
        payload(parts={"network": {"class": "linear"}}),
        payload(parts={"network": {"class": "linear", "arguments": [1], "state": {}}}),
        payload(parts={"network": {"class": "linear", "arguments": {}, "state": 3}}),
        payload(about=None),
        payload(about=[1]),
    ],
)
def test_an_incomplete_file_is_refused(tmp_path: Path, whole: dict[str, Any]) -> None:
    torch.save(whole, tmp_path / "network.pkl")
    refusal(tmp_path / "network.pkl")


def save_part(path: Path, **changes: Any) -> None:
    entry = payload()["parts"]["network"] | changes
    torch.save(payload(parts={"network": entry}), path)


@pytest.mark.parametrize("name", ["os.system", "Linear", "torch.nn.Linear", ""])
def test_only_classes_of_the_registry_are_built(tmp_path: Path, name: str) -> None:
    save_part(tmp_path / "network.pkl", **{"class": name})
    message = refusal(tmp_path / "network.pkl")
    assert f"'{name}'" in message
    assert "linear, bilinear" in message


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"in_features": 3},
        {"in_features": 3, "out_features": 2, "odd": 1},
        {"in_features": "3", "out_features": 2},
        {"in_features": None, "out_features": 2},
        {"in_features": 3.5, "out_features": 2},
        {"in_features": -3, "out_features": 2},
        {"in_features": 10**30, "out_features": 2},
        {"in_features": torch.zeros(2), "out_features": 2},
        {1: 2},
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: dict[Any, Any]) -> None:
    save_part(tmp_path / "network.pkl", arguments=arguments)
    assert "'network'" in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weight": torch.zeros(2, 4)}, "weight"),
        ({"weight": torch.zeros(6)}, "weight"),
        ({"bias": torch.zeros(())}, "bias"),
        ({"bias": torch.zeros(3)}, "bias"),
        ({"odd": torch.zeros(1)}, "odd"),
        ({3: torch.zeros(1)}, "3"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, changes: dict[Any, Tensor], named: str
) -> None:
    save_part(tmp_path / "network.pkl", state=linear().state | changes)
    assert named in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_a_missing_tensor_is_named(tmp_path: Path, missing: str) -> None:
    state = {name: value for name, value in linear().state.items() if name != missing}
    save_part(tmp_path / "network.pkl", state=state)
    assert missing in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.zeros(2, 3).to(torch.float8_e4m3fn),
    ],
    ids=["without values", "sparse", "complex", "float8"],
)
def test_tensors_of_another_kind_are_refused(tmp_path: Path, value: Tensor) -> None:
    save_part(tmp_path / "network.pkl", state=linear().state | {"weight": value})
    assert "never loaded" in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize("value", [1.0, None, "text", [torch.zeros(2)], {"a": torch.zeros(2)}])
def test_what_is_no_tensor_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    save_part(tmp_path / "network.pkl", state=linear().state | {"bias": value})
    assert "network.bias" in refusal(tmp_path / "network.pkl")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, number: float, dtype: torch.dtype
) -> None:
    state = linear().state
    state["weight"] = state["weight"].to(dtype)
    state["weight"][1, 1] = number
    save_part(tmp_path / "network.pkl", state=state)
    message = refusal(tmp_path / "network.pkl")
    assert "network.weight" in message
    assert "not finite" in message


def test_huge_layers_without_their_tensors_cost_nothing(tmp_path: Path) -> None:
    save_part(tmp_path / "wide.pkl", arguments={"in_features": 60_000, "out_features": 60_000})
    began = time.monotonic()
    assert "do not fit" in refusal(tmp_path / "wide.pkl")
    assert time.monotonic() - began < 2


def test_one_number_spread_over_a_huge_layer_does_not_pass_for_its_tensor(tmp_path: Path) -> None:
    size = 10**9
    path = tmp_path / "spread.pkl"
    save_part(
        path,
        arguments={"in_features": size, "out_features": size, "bias": False},
        state={"weight": torch.zeros(1).expand(size, size)},
    )
    assert path.stat().st_size < 10_000
    refusal(path)


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: bytes | None,
    error: BaseException,
) -> None:
    path = tmp_path / "network.pkl"
    if old is not None:
        path.write_bytes(old)

    def half(value: Any, file: Any) -> None:
        if hasattr(file, "write"):
            file.write(b"half")
        else:
            Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", half)
    for write in (
        lambda: write_network(path, {"network": linear()}, {}),
        lambda: write_state(path, {"seen": 1}),
    ):
        with pytest.raises(type(error)):
            write()
        found = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert found == ({"network.pkl": old} if old else {})


@pytest.mark.parametrize("width", [3, 100_000])
def test_a_full_disk_is_an_operating_system_error_and_leaves_the_old_file(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]], width: int
) -> None:
    path = tmp_path / "network.pkl"
    write_network(path, {"network": linear()}, {})
    old = path.read_bytes()
    with pytest.raises((OSError, DataError)), full_disk(500):
        write_network(path, {"network": linear(width=width)}, {})
    assert os.listdir(tmp_path) == ["network.pkl"]
    assert path.read_bytes() == old


# What is short to write and long to read.


def lists_in_each_other(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("where", ["about", "arguments", "whole"])
@pytest.mark.parametrize("value", [lists_in_each_other(60), circle()], ids=["2^60", "circle"])
@pytest.mark.parametrize("opener", [load, read_state])
def test_lists_that_hold_each_other_are_refused_at_once(
    tmp_path: Path, opener: Callable[[Path], Any], value: Any, where: str
) -> None:
    path = tmp_path / "network.pkl"
    whole = payload(format=snapshots.NETWORK_FORMAT if opener is load else snapshots.STATE_FORMAT)
    place = whole if where == "whole" else whole["about"]
    if where == "arguments":
        place = whole["parts"]["network"]["arguments"]
    place["odd"] = value
    torch.save(whole, path)
    began = time.process_time()
    assert "too many values" in refusal(path, opener)
    assert time.process_time() - began < 5


def test_tensors_that_share_their_values_are_refused(tmp_path: Path) -> None:
    """Each passes for the tensor of a layer, but copies of them would be as many."""
    shared = torch.zeros(1000, 1000)
    state = {f"layer{index}": shared for index in range(500)}
    save_part(tmp_path / "network.pkl", state=state)
    assert "more than the whole file" in refusal(tmp_path / "network.pkl")
    write_state(tmp_path / "state.pt", state)
    assert "more than the whole file" in refusal(tmp_path / "state.pt", read_state)


class Tower(nn.Sequential):
    def __init__(self, depth: int):
        super().__init__(*(nn.Linear(4, 4) for _ in range(depth)))


def test_a_tower_without_its_tensors_is_not_built(tmp_path: Path) -> None:
    save_part(tmp_path / "n.pkl", **{"class": "tower", "arguments": {"depth": 60_000}})
    parts, _ = read_network(tmp_path / "n.pkl")
    began = time.process_time()
    with pytest.raises(DataError, match="far more tensors"):
        build(tmp_path / "n.pkl", "network", parts["network"], {"tower": Tower})
    assert time.process_time() - began < 1
    assert len(list(Tower(2000).parameters())) == 4000  # others may be built


@pytest.mark.parametrize("where", ["about", "arguments"])
def test_plain_values_are_no_tensors(tmp_path: Path, where: str) -> None:
    whole = payload()
    place = whole["about"] if where == "about" else whole["parts"]["network"]["arguments"]
    place["seen"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(whole, tmp_path / "network.pkl")
    assert "has a tensor, 'seen'" in refusal(tmp_path / "network.pkl")


def test_numbers_are_of_a_size_that_can_be_used(tmp_path: Path) -> None:
    torch.save(payload(about={"tmax": 10**600}), tmp_path / "network.pkl")
    assert "'about' has a number beyond 2^64" in refusal(tmp_path / "network.pkl")


def test_names_from_a_file_are_printable_and_short_in_errors(tmp_path: Path) -> None:
    path, odd = tmp_path / "network.pkl", "a\n\x1b[2J" * 10_000
    entry = payload()["parts"]["network"]
    for whole in (
        payload(parts={odd: entry | {"state": {odd: 1}}}),
        payload(parts={odd: entry | {"class": odd}}),
        payload(parts={odd: entry | {"arguments": {odd: 1}}}),
        payload(parts={odd: {odd: 1}}),
    ):
        torch.save(whole, path)
        message = refusal(path)
        assert message.isprintable()
        assert len(message) < 600


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_states_hold_finite_numbers(tmp_path: Path, number: float) -> None:
    state = {"optimizer": {"state": {0: {"exp_avg": torch.tensor([1.0, number])}}}}
    write_state(tmp_path / "state.pt", state)
    message = refusal(tmp_path / "state.pt", read_state)
    assert "'optimizer.state.0.exp_avg' has values that are not finite" in message


@pytest.mark.parametrize("opener", [load, read_state])
def test_pipes_and_devices_are_not_read(tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        assert "device or pipe" in refusal(tmp_path / name, opener)
