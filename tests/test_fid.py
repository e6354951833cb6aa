"""fid.py: references, distances from them, and what is refused.

A small linear map is in the place of the Inception network, so that what the script does with
features is known in closed form.
"""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import fid
from tests.support.image_runs import SIZE, LinearDetector, features_of, write_images
from tests.support.running import contents, good, refused, run_script, unless_given
from torch_utils import distributed
from torch_utils.results import load_arrays
from training.data.images.dataset import ImageDataset, pixel_batches
from training.measure.feature_distances import frechet_distance, kernel_distance

COUNT = 23


def noise(count=COUNT, channels=3, seed=0, size=SIZE):
    """Images ``[n, H, W, C]`` uint8."""
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "data.zip", noise())


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Other images, as a generating script leaves them: nested, with parameters beside them."""
    folder = tmp_path_factory.mktemp("generated")
    for index, image in enumerate(noise(18, seed=1) // 2):
        path = folder / f"{index // 7:06d}" / f"{index:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "sim_params.json").write_text("{}")
    (folder / "000000" / "notes.json").write_text("not even JSON")
    return folder


class Tool:
    """Runs the script with the linear detector; results are read back."""

    def __init__(self, folder):
        self.folder, self.weights = folder / "results", folder / "weights.pth"
        self.weights.write_bytes(b"a detector")

    def ref(self, data, *more, name="ref.npz"):
        dest = self.folder / name
        good(self("ref", f"--data={data}", f"--dest={dest}", *more))
        return dest

    def calc(self, images, reference, *more):
        dest = self.folder / "result.json"
        given = (f"--images={images}", f"--ref={reference}", f"--dest={dest}", "--overwrite")
        result = good(self("calc", *given, *more))
        return {**json.loads(dest.read_text()), "printed": result.out}

    def __call__(self, command, *more):
        standard = {"--device_name": "cpu", "--workers": 0, "--detector": self.weights}
        return run_script(fid, command, *unless_given(standard, more))


@pytest.fixture
def tool(tmp_path, monkeypatch):
    monkeypatch.setattr("training.cli.fid.InceptionDetector", LinearDetector)
    return Tool(tmp_path)


def test_a_reference_holds_the_moments_and_what_they_are_of(tool, data):
    path = tool.ref(data, "--workers=2", "--batch=4")
    arrays, features = load_arrays(path), features_of(noise())
    assert (arrays["mu"].dtype, arrays["sigma"].dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(arrays["mu"], features.mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(arrays["sigma"], np.cov(features.T), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays["features"], features, rtol=1e-5, atol=1e-6)
    assert arrays["features"].dtype == np.float32
    identity = hashlib.sha256(tool.weights.read_bytes()).hexdigest()
    text = json.loads(path.with_suffix(".json").read_text())
    for got in (arrays, text):
        assert (int(got["count"]), str(got["detector"])) == (COUNT, identity)
        assert list(got["image_shape"]) == [3, SIZE, SIZE]
    assert {entry.name for entry in path.parent.iterdir()} == {"ref.npz", "ref.json"}
    assert text["features"] == COUNT
    assert text["options"]["data"] == str(data)
    assert text["options"]["device_name"] == "cpu"
    assert {"seconds", "torch_fidelity"} <= text.keys()


def places(path):
    """Which images' features a reference of the data holds, in their order."""
    kept, features = torch.from_numpy(load_arrays(path)["features"]), features_of(noise())
    distances, got = torch.cdist(kept.double(), features).min(dim=1)
    assert (distances < 1e-5).all()
    return got.tolist()


@pytest.mark.parametrize(("option", "count"), [("--kid_features", 9), ("--num", 8)])
def test_so_many_random_images_are_taken(tool, data, option, count):
    given, seeds = (f"{option}={count}", "--batch=4"), {"a.npz": 3, "b.npz": 3, "c.npz": 4}
    paths = [tool.ref(data, *given, f"--seed={seed}", name=name) for name, seed in seeds.items()]
    chosen = [places(path) for path in paths]
    assert [len(set(one)) for one in chosen] == [count] * 3
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert chosen[0] not in (chosen[2], list(range(count)))
    # The moments are of all that is measured, whichever features are kept.
    measured = chosen[0] if option == "--num" else list(range(COUNT))
    arrays = load_arrays(paths[0])
    assert int(arrays["count"]) == len(measured)
    expected = np.cov(features_of(noise()[measured]).T)
    np.testing.assert_allclose(arrays["sigma"], expected, rtol=1e-5, atol=1e-6)
    assert places(tool.ref(data, f"--num={COUNT}", name="all.npz")) == list(range(COUNT))


def test_the_distances_are_those_of_the_features(tool, data, generated):
    result = tool.calc(generated, tool.ref(data))
    first, second = features_of(noise(18, seed=1) // 2), features_of(noise())
    moments = [part for x in (first, second) for part in (x.mean(dim=0), x.T.cov())]
    assert result["fid"] == pytest.approx(frechet_distance(*moments), rel=1e-5)
    assert (result["count"], result["reference_count"]) == (18, COUNT)
    kid, subsets = result["kid"], result["kid"]["over_subsets"]
    assert kid["value"] == pytest.approx(kernel_distance(first, second), rel=1e-5)
    assert (kid["features"], kid["reference_features"]) == (18, COUNT)
    assert (subsets["subsets"], subsets["size"]) == (100, 18)
    assert abs(subsets["mean"] - kid["value"]) < 4 * subsets["std"] / 100**0.5
    assert result["options"]["images"] == str(generated)
    fid_line, kid_line = result["printed"].splitlines()
    assert fid_line == f"FID {result['fid']:.6g} (18 images against {COUNT})"
    text = f"KID x 1000 {1000 * kid['value']:.6g} (features of 18 images against {COUNT}); "
    assert kid_line.startswith(text)


def test_nothing_unasked_is_left_and_few_images_are_noted(tool, data, generated, tmp_path):
    same = tool.calc(generated, tool.ref(generated, name="same.npz"))
    assert same["kid"]["over_subsets"] is None, "of the whole sets it would tell nothing"
    assert same["printed"].splitlines()[1].endswith("(features of 18 images against 18)")
    reference = tool.ref(data)
    before = contents(tmp_path)
    result = good(tool("calc", f"--images={generated}", f"--ref={reference}"))
    assert result.out.startswith("FID ")
    assert contents(tmp_path) == before
    note = "Note: the covariance of 6 features is singular for 6 images. FID is biased upward"
    assert note in tool.calc(generated, reference, "--num=6")["printed"]
    assert "Note" not in tool.calc(generated, reference, "--num=7")["printed"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8"])
def test_foreign_moments_are_enough(tool, data, generated, dtype):
    own = load_arrays(tool.ref(data))
    foreign = tool.folder / "foreign.npz"
    np.savez(foreign, mu=own["mu"].astype(dtype), sigma=own["sigma"].astype(dtype))
    result = tool.calc(generated, foreign)
    assert f"{foreign} does not describe its images: accepted without a check" in result["printed"]
    assert f"{foreign} does not name its detector: accepted without a check" in result["printed"]
    assert "(18 images against an unknown number)" in result["printed"]
    expected = tool.calc(generated, tool.folder / "ref.npz")
    assert result["fid"] == pytest.approx(expected["fid"], rel=1e-6)
    assert (result["kid"], result["reference_count"]) == (None, None)


def test_no_kid_without_features(tool, data, generated):
    none = "--kid_features=0"
    for result in (
        tool.calc(generated, tool.ref(data), none),
        tool.calc(generated, tool.ref(data, none, name="none.npz")),
    ):
        assert result["kid"] is None
        assert "KID" not in result["printed"]
    assert load_arrays(tool.folder / "none.npz")["features"].shape == (0, 6)


@pytest.fixture
def refuse(tool, tmp_path):
    """``refuse(images, reference, parts, ...)``: they are not compared, and nothing is written."""

    def check(images, reference, parts, *options, command="calc"):
        before = contents(tmp_path)
        given = [f"--images={images}", f"--ref={reference}", f"--dest={tmp_path}/new/a.json"]
        if command == "ref":
            given = [f"--data={images}", f"--dest={tmp_path}/new/a.npz"]
        refused(tool(command, *given, *options), 1, *parts)
        assert contents(tmp_path) == before

    return check


def test_few_images_other_shapes_and_other_detectors_are_refused(refuse, tool, data, tmp_path):
    reference, other = tool.ref(data), tmp_path / "other.pth"
    one = write_images(tmp_path / "one.zip", noise(1))
    few = f"{one} has 1 image, but a covariance needs at least two"
    fewer = f"{data} has {COUNT} images, but --num is 24: give fewer"
    for command in ("ref", "calc"):
        refuse(one, reference, [few], command=command)
        refuse(data, reference, [fewer], "--num=24", command=command)
    for pixels, shape in ((noise(3, channels=1), "1x4x4"), (noise(3, size=8), "3x8x8")):
        path = write_images(tmp_path / f"{shape}.zip", pixels)
        refuse(path, reference, [f"{path} has images of {shape}", f"{reference} has 3x4x4"])
    other.write_bytes(b"another detector")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (tool.weights, other)]
    parts = [reference, *(f"{digest[:12]}..." for digest in digests), "the same --detector"]
    refuse(data, reference, parts, f"--detector={other}")


def test_bad_references_are_refused(refuse, tool, data, tmp_path):
    good, path = load_arrays(tool.ref(data)), tmp_path / "bad.npz"
    for change, message in (
        ({"mu": np.zeros((1, 6))}, "'mu' has shape [1, 6], expected [d]"),
        ({"sigma": np.eye(5)}, "'sigma' has shape [5, 5], expected [6, 6]"),
        ({"sigma": -np.eye(6)}, "the negative eigenvalue -1"),
        ({"features": np.zeros((4, 5))}, "'features' has shape [4, 5], expected [k, 6]"),
        ({"count": np.array([1, 2])}, "'count' has shape [2], expected a single value"),
        ({"image_shape": np.array("3x4x4")}, "'image_shape' has shape [], expected [3]"),
        ({"detector": np.array(3)}, "'detector' contains int64, expected text"),
        ({"mu": None}, "has no array 'mu'"),
        ({"sigma": None}, "has no array 'sigma'"),
        (
            {"mu": np.zeros(5), "sigma": np.eye(5), "features": None},
            "has 5 features, but the detector has 6: use the same",
        ),
    ):
        np.savez(path, **{name: v for name, v in (good | change).items() if v is not None})
        refuse(data, path, [path, message])


def test_images_come_in_order_shared_by_ranks(data, monkeypatch):
    dataset, items = ImageDataset(data), torch.tensor([5, 2, 19, 3])
    parts = list(pixel_batches(dataset, items, batch=3))
    assert [(len(part), part.dtype) for part in parts] == [(3, torch.uint8), (1, torch.uint8)]
    assert np.array_equal(torch.cat(parts), np.moveaxis(noise()[items], -1, 1))
    monkeypatch.setattr(distributed, "world_size", lambda: 6)
    shares = []
    for rank in range(6):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(list(pixel_batches(dataset, items, batch=3)))
    assert [len(share) for share in shares] == [0, 1, 1, 0, 1, 1]
    assert torch.equal(torch.cat([part for share in shares for part in share]), torch.cat(parts))
