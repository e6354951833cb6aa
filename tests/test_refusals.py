"""What scripts refuse: one line that says why, the exit code, and nothing written.

A row for each rule of ours. What click knows by itself, such as ranges and choices, is click's
business; what a library refuses stands in its own tests.
"""

from importlib import import_module

import numpy as np
import pytest

from tests.support.image_runs import TINY, write_images
from tests.support.running import contents, refused, run_script
from tests.test_toy_pfODE_int import NETWORKS
from torch_utils.results import load_arrays
from torch_utils.snapshots import read_network, write_network


@pytest.fixture(scope="module")
def places(
    toy_network, networks, images, blobs, colors, houses, houses_run, simulations, tmp_path_factory
):
    """What stands in braces in the table: networks of toys, tables and images, and data."""
    folder = tmp_path_factory.mktemp("places")
    # Observations, noise, masks, operators and likelihoods, most of which fit nothing.
    for name, text in {
        "seen": "x1,x2\n0.5,0.5\n1,-0.2\n",
        "three": "a,b,c\n1,2,3\n",
        "one": "class\n1\n",
        "truth": "x2,x1\n9,9\n",
        "words": "size;pet\n1,5;cat\n2,5;dog\n" * 9,
    }.items():
        (folder / f"{name}.csv").write_text(text)
    for name, array in {
        "wrong": np.array([[1.0, 2.0], [2.0, 1.0]]),
        "none": np.zeros(2, dtype=bool),
        "long": np.arange(4) > 1,
        "wide": np.ones((1, 3)),
    }.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "ref.npz", mu=np.zeros(6), sigma=np.eye(6))
    functions = "def f(x): return x[:, 0]\ndef one(x, draw): return x\n"
    (folder / "mine.py").write_text(functions)
    # Tables whose conditions do not fit, and a network that does not name its own.
    arrays = load_arrays(simulations / "runs.npz")
    plain = {name: arrays[name] for name in ("points", "names")}
    np.savez(folder / "plain.npz", **plain)
    np.savez(folder / "renamed.npz", **{**arrays, "condition_names": ["y 1", "y3"]})
    few = {"conditions": arrays["conditions"], "condition_names": ["y"]}
    np.savez(folder / "few.npz", **plain, **few)
    parts, about = read_network(simulations / "network.pkl")
    write_network(folder / "broken.pkl", parts, {**about, "condition_names": ["y 1"]})
    (folder / "empty").mkdir()
    (folder / "folder.npz").mkdir()
    write_images(folder / "small.zip", np.zeros((20, 7, 7, 1)))
    write_images(folder / "constant.zip", np.full((9, 8, 8, 1), 3))
    toys = {name: toy_network(*options) for name, options in NETWORKS.items()}
    data = {"images": images, "blobs": blobs, "colors": colors, "here": folder}
    tables = {"houses": houses, "csv": houses.with_suffix(".csv"), "runs": simulations}
    tables["of_houses"] = houses_run / "network-snapshot-000004.pkl"
    return {**toys, **data, **tables, **{f"of_{name}": path for name, path in networks.items()}}


COMMANDS = {
    "toy_train": "toy_train --outdir={out} --data_name=circles --duration=0.0008 --no-calibrate",
    "train": "train --outdir={out} --data={blobs} " + " ".join(TINY),
    "exact": "toy_pfODE_int exact --save_dir={out} --data_name=circles --total_samples=3",
    "net": "toy_pfODE_int net --save_dir={out} --network={PRP}",
    "pfODE": "pfODE_int --save_dir={out} --network={of_PRP} --data_root={images} --bs=5",
    "pfODE alone": "pfODE_int --save_dir={out} --network={of_PRP} --n_iters=2",
    "mesh": "toy_mesh_exps --save_dir={out} --network={PRP}",
    "exact mesh": "toy_mesh_exps --save_dir={out} --score=exact",
    "extracttoys": "calc_net_residuals_autocorrelations extracttoys --save_dir={out} "
    "--n_samples=3 --network={PRP}",
    "gen_fid": "gen_fid_samples --save_dir={out} --network={of_PRP}",
    "dataset_tool": "dataset_tool --source=digits --dest={out}",
    "rounds": "posterior rounds --save_dir={out} --observation={here}/three.csv",
    "sample": "posterior sample --save_dir={out} --network={PRP} --draws=4",
    "noisy": "posterior sample --save_dir={out} --network={PRP} --observation={here}/seen.csv "
    "--noise_std=0.3 --draws=4",
    "mixture": "posterior mixture --save_dir={out} --network={PRP} --noise_std=0.1",
    "nothing": "posterior sample --save_dir={out} --draws=4",
    "check": "posterior check --save_dir={out} --network={PRP} --draws=4",
    "fid ref": "fid ref --data={colors} --dest={out}/a.npz --detector={here}/none.pth",
    "fid calc": "fid calc --images={colors} --ref={here}/ref.npz --detector={here}/none.pth",
    "train a table": "train --outdir={out} --data={houses}",
    "rows": "pfODE_int --save_dir={out} --network={of_houses} --sim_type=gen",
    "rows in spheres": "toy_mesh_exps --save_dir={out} --network={of_houses} --data_root={houses}",
    "table": "dataset_tool --source={csv} --dest={out}.npz",
    "train with conditions": "train --outdir={out} --data={runs}/runs.npz",
    "given": "posterior sample --save_dir={out} --network={runs}/network.pkl --draws=4",
    "check given": "posterior check --save_dir={out} --network={runs}/network.pkl --runs=24 "
    "--draws=4 --n_iters=3",
    "report": "report --dest={out}",
}
SEEN, RUNS = "--condition={runs}/seen.csv", "--truth=data --data_root={runs}/runs.npz"
OWN, MINE = "--likelihood={here}/mine.py:", "--simulator={here}/mine.py:"
THREE = "--observation={here}/three.csv"
CASES = [
    ("nothing", "", 2, ["Missing option '--network'"]),
    # Trainings of toys.
    ("toy_train", "--data_dim=3", 2, ["3", "2", "circles"]),
    ("toy_train", "--gamma0=10", 2, ["tmax"]),
    ("toy_train", "--tmax=1e6", 2, ["tmax", "1e+06", "1e+30"]),
    ("toy_train", "--g_type=orig --inflation_gap=2", 2, ["g_type", "inflation_gap"]),
    ("toy_train", "--precond=edm --dims_to_keep=1", 2, ["dims_to_keep", "1", "2", "edm"]),
    ("toy_train", "--precond=edm --calibrate", 2, ["calibrate", "ifs", "edm"]),
    ("toy_train", "--desc=a/b", 2, ["a/b"]),
    # Trainings on images.
    ("train", "--data_dim=3072", 2, ["data_dim", "3072", "64", "blobs"]),
    ("train", "--cres=2,x", 2, ["cres", "2,x", "2,2,2"]),
    ("train", "--cres=1,1,1,1,1", 2, ["--cres=1,1,1,1,1: ", "8"]),
    ("train", "--arch=adm", 2, ["64", "8"]),
    ("train", "--batch=99999999999", 2, ["--batch", "GiB"]),
    ("train", "--cbase=20000", 2, ["--cbase=20000", "GiB"]),
    ("train", "--cbase=100000000", 2, ["--cbase=100000000", "65536"]),
    ("train", "--transfer={PRP}", 2, ["{PRP}"]),
    ("train", "--data={here}/small.zip", 2, ["7 x 7", "at least 8"]),
    ("train", "--data={here}/constant.zip", 1, ["data are constant"]),
    # Simulations of toys.
    ("net", "--data_name=moons", 2, ["--data_name", "moons", "circles", ".pkl"]),
    ("net", "--network={edm} --rho=1.0", 2, ["--rho", "1.0", "None"]),
    ("net", "--steps=8 --h=1", 2, ["8", "7.01"]),
    ("net", "--network=http://example.com/network.pkl", 2, ["https"]),
    ("net", "--steps=many", 2, ["many"]),
    ("exact", "--data_dim=3", 2, ["3", "2"]),
    ("exact", "--total_samples=10000000000000000", 1, ["memory"]),
    ("exact", "--h=1e-300", 2, ["makes more than"]),
    # Simulations of images.
    ("pfODE alone", "--sim_type=roundtrip", 2, ["--sim_type=roundtrip", "--prev_melt"]),
    ("pfODE alone", "--sim_type=gen --gen_source=empirical", 2, ["--sim_type=gen", "--prev_melt"]),
    ("pfODE alone", "--sim_type=roundtrip --prev_melt=x.npz --bs=3", 2, ["--bs", "melt"]),
    ("pfODE", "--prev_melt=x.npz", 2, ["--prev_melt", "roundtrip", "empirical"]),
    ("pfODE", "--eps=empirical", 2, ["--eps", "--gen_source=empirical"]),
    ("pfODE", "--eps=auto --gen_source=empirical", 2, ["--eps", "diag"]),
    ("pfODE", "--network={of_late} --end_time=0.4", 2, ["0.4", "0.5"]),
    ("gen_fid", "--end_vars=1e200", 2, ["overflows"]),
    ("gen_fid", "--n_iters=10000000000000000", 1, ["memory"]),
    # Coverage and residuals.
    ("mesh", "--r_min=4", 2, ["r_min", "4", "3.5"]),
    ("mesh", "--test_pts=10000001", 2, ["test_pts", "10,000,000"]),
    ("rows", "--sim_type=melt --data_root={houses} --probes=2", 2, ["--probes needs --log_prob"]),
    ("gen_fid", "--eps=empirical", 2, ["no inflated data"]),
    ("mesh", "--steps=1000000000", 2, ["steps", "1000000"]),
    ("mesh", "--alpha=1", 2, ["alpha", "transport"]),
    ("exact mesh", "", 2, ["--data_name"]),
    ("extracttoys", "--n_time_pts=703 --h=0.01", 2, ["7.02", "7.01"]),
    # Data sets.
    ("dataset_tool", "--resolution=32", 2, ["not of the form WxH"]),
    ("dataset_tool", "--resolution=0x0", 2, ["give sides from 1"]),
    (
        "dataset_tool",
        "--transform=center-crop --resolution=32x16",
        2,
        ["center-crop makes squares"],
    ),
    ("dataset_tool", "--transform=center-crop-wide", 2, ["needs --resolution"]),
    (
        "dataset_tool",
        "--transform=center-crop-wide --resolution=16x32",
        2,
        ["not below the height"],
    ),
    ("dataset_tool", "--dest={out}/x.tar", 2, ["ends in .zip", "not end in .tar"]),
    ("dataset_tool", "--first-image=5000", 1, ["has 1797 images, but --first-image skips 5000"]),
    # Posteriors.
    ("rounds", "--simulator={here}/none.py:f --bounds=a:0:1", 2, ["--simulator", "none.py:f"]),
    ("rounds", "--simulator={here}/mine.py:f", 2, ["--bounds=NAME:LOW:HIGH"]),
    ("rounds", "--simulator={here}/mine.py:f --bounds=a:0:", 2, ["'a' has one"]),
    ("rounds", "--simulator={here}/mine.py:f --bounds=a:0:1 --simulations=99", 2, ["24 for each"]),
    ("rounds", f"{MINE}one --bounds=a:0:1,a:1:2", 2, ["column 'a' twice"]),
    ("rounds", f"{MINE}one --bounds=a:0:1", 2, ["'a' is the name of a parameter and of a column"]),
    ("rounds", f"{MINE}one --bounds=t:0:1", 1, ["[1000, 1]", "[1000, 3]"]),
    ("rounds", "--simulator={here}/mine.py:one --prior={here}/mine.py:one", 1, ["returned int"]),
    ("rounds", f"{MINE}f --bounds=a:0:1 --observation={{here}}/seen.csv", 2, ["2 observations"]),
    ("noisy", f"{THREE} --likelihood=linear --operator={{here}}/wrong.npy", 2, ["3 values per"]),
    ("noisy", "--truth={here}/truth.csv", 2, ["--truth has 1 rows, but there are 2"]),
    ("noisy", "--noise_std=much", 2, ["much"]),
    ("noisy", "--noise_std={here}/nothing.npy", 1, ["nothing.npy"]),
    ("noisy", "--likelihood=mask --mask={here}/none.npy", 2, ["no coordinate"]),
    ("noisy", "--likelihood=mask --mask=x1,x2", 2, ["all coordinates"]),
    ("noisy", "--likelihood=mask --mask={here}/wide.npy", 1, ["a mask"]),
    ("noisy", "--likelihood=mask --mask={here}/long.npy", 2, ["4 booleans"]),
    ("noisy", "--likelihood=mask", 2, ["--mask"]),
    ("noisy", "--mask=x1", 2, ["--likelihood=mask"]),
    ("noisy", "--likelihood=linear --operator={here}/wide.npy", 2, ["3 columns"]),
    ("noisy", "--likelihood=poisson", 2, ["poisson"]),
    ("noisy", "--condition={here}/one.csv", 2, ["--condition"]),
    ("sample", "--observation={here}/seen.csv", 2, ["--noise_std"]),
    ("sample", f"{OWN}f --observation={{here}}/seen.csv", 2, ["--observation"]),
    ("mixture", "--weights=0.5,0.6,0.1", 2, ["3 numbers that sum to 1"]),
    ("mixture", "--weights=a,b", 2, ["by commas"]),
    ("mixture", "--components=3 --means=/nowhere.csv", 2, ["leave --components out"]),
    ("mixture", "--observation=/nowhere.csv --runs=3", 2, ["--runs is for simulated data"]),
    ("mixture", "--likelihood=own.py:function", 2, ["--noise_std is required with"]),
    ("check", "--noise_std=1 --data_root={blobs}", 2, ["--truth=data"]),
    ("check", "--noise_std=1 --data_root={blobs} --truth=data", 2, ["toys generate their own"]),
    ("check", "--noise_std=1 --truth=data --network={of_random}", 2, ["--data_root"]),
    # Distances of images.
    ("fid ref", "", 1, ["none.pth"]),
    ("fid ref", "--dest={out}/result.json", 2, ["--dest is {out}/result.json", "ends in .npz"]),
    ("fid ref", "--dest={here}/folder.npz", 2, ["folder.npz is a folder"]),
    ("fid calc", "--dest={out}/noname", 2, ["--dest is {out}/noname", "ends in .json"]),
    # Tables, whose options are not those of images.
    ("train a table", "--xflip", 2, ["--xflip is for images", "{houses}"]),
    ("train a table", "--arch=adm", 2, ["--arch=adm does not match", "mlp"]),
    ("rows", "--class=1", 2, ["--class is for images", "{of_houses}"]),
    ("rows", "--data_root={houses}", 2, ["--data_root is only for a melt"]),
    ("rows", "--vpode_disc_eps=0.1", 2, ["--vpode_disc_eps is only for --disc=vp_ode"]),
    ("rows", "--sim_type=melt --data_root={houses} --eps=auto", 2, ["--eps is only for gen"]),
    ("rows", "--sim_type=roundtrip --prev_melt=m.npz --csv=x", 2, ["--csv is for gen or a melt"]),
    ("rows", "--sim_type=all --data_root={houses} --bs=61", 1, ["60 held-out rows", "61"]),
    ("mesh", "--network={of_houses}", 2, ["Missing option '--data_root'"]),
    ("rows in spheres", "--data_name=moons", 2, ["moons", "houses"]),
    ("exact mesh", "--data_name=moons --data_root={houses}", 2, ["for networks of tables, not"]),
    ("table", "--resolution=8x8", 2, ["--resolution is for images"]),
    ("table", "--dest={out}.zip", 2, ["ends in .npz"]),
    ("table", "--types=age:number", 2, ["no column 'age'"]),
    ("table", "--exclude=prize", 2, ["no column 'prize' (is 'price' meant?)"]),
    ("table", "--columns=size --conditions=size", 2, ["all columns are conditions"]),
    ("table", "--source={here}/words.csv --conditions=pet", 2, ["--conditions is for", "line 2"]),
    ("dataset_tool", "--bounds=a:0:1", 2, ["for tables"]),
    # Tables with conditions.
    ("train with conditions", "--cond --cond_shape=1x1x1x2", 2, ["=1x1x1x2", "2 conditions"]),
    ("train with conditions", "--cond_shape=2", 2, ["--cond", "--cond_shape"]),
    ("train with conditions", "--cond --data={here}/plain.npz", 2, ["no conditions"]),
    (
        "train with conditions",
        "--cond --data={here}/few.npz",
        1,
        ["'condition_names' has shape [1], expected [2]"],
    ),
    ("given", "--condition={runs}/network.pkl", 1, ["network.pkl", "not a table"]),
    ("given", "--noise_std=1 --observation={runs}/network.pkl", 2, ["y 1, y2"]),
    ("given", f"{SEEN} --particles=8", 2, ["--particles needs a likelihood"]),
    ("given", f"{SEEN} --network={{here}}/broken.pkl", 1, ["does not name its 2 conditions"]),
    ("rows", "--network={runs}/network.pkl", 2, ["conditional on y 1, y2", "posterior.py sample"]),
    ("check given", "--truth=flow", 2, ["give --truth=data --data_root="]),
    ("check given", "--truth=data --data_root={here}/plain.npz", 1, ["no conditions"]),
    ("check given", "--truth=data --data_root={here}/renamed.npz", 1, ["no condition 'y2'"]),
    ("check given", f"{RUNS} --runs=61", 1, ["60 held-out rows"]),
    ("check given", f"{RUNS} --noise_std=1", 2, ["leave --noise_std out"]),
    # Reports.
    ("report", "{here}/empty --dest=report.txt", 2, ["ends in .html"]),
]


@pytest.mark.parametrize(
    ("command", "arguments", "code", "parts"), CASES, ids=[f"{c} {a}" for c, a, *_ in CASES]
)
def test_what_makes_no_sense_ends_with_one_line_and_nothing_written(
    places, tmp_path, monkeypatch, command, arguments, code, parts
):
    monkeypatch.chdir(tmp_path)
    known = {**places, "out": tmp_path / "out"}
    script, *words = (word.format(**known) for word in f"{COMMANDS[command]} {arguments}".split())
    result = run_script(import_module(script), *words)
    refused(result, code, *(part.format(**known) for part in parts))
    # What was refused only after it had begun may leave the empty folder of its results.
    assert contents(tmp_path) in ({}, {"out/": b""})
    assert code == 1 or not (tmp_path / "out").exists()


def test_numbers_that_overflow_end_with_one_line_and_no_draft(tmp_path):
    for arguments, code, part in (
        ("--end_vars=1e200", 1, "NaN or infinite"),
        ("--steps=2 --h=1e5", 2, "noise overflows"),
    ):
        script, *words = f"{COMMANDS['exact']} {arguments}".format(out=tmp_path / str(code)).split()
        refused(run_script(import_module(script), *words), code, part)
        assert not list(tmp_path.rglob(".*"))
