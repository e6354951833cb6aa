"""Every way in which this project opens files, by name."""

from pathlib import Path

import click

from tests.fuzz import hostile_arrays, image_samples, probes, samples
from tests.fuzz.archives import in_gzip, in_tar, in_zip
from tests.fuzz.cases import Reader
from tests.fuzz.contents import (
    mutate_floats,
    mutate_json,
    mutate_lines,
    mutate_npy,
    mutate_png,
    mutate_text,
)
from tests.fuzz.hostile import anything
from tests.fuzz.hostile_arrays import meshes, npz, texts
from tests.fuzz.hostile_images import image_folders, image_zips, images
from tests.fuzz.hostile_pickles import bare, networks, states, torch_files
from tests.fuzz.hostile_sets import idx_files, stores, tars
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.pickles import mutate_pickle
from tests.fuzz.result_samples import (
    coverage,
    lags,
    matrices,
    matrices_of_images,
    original,
    roundtrips,
)
from torch_utils.results import load_json
from training.data.sources import lmdb_process

TORCH_FILE = in_zip({"*/data.pkl": mutate_pickle, "*/data/*": mutate_floats})
NPZ = {".npz": in_zip({"*": mutate_npy})}
IMAGES = {".zip": in_zip({"*.json": mutate_json, "*": mutate_png})}
IMAGES |= {".png": mutate_png, ".json": mutate_json}
SOME_ARRAYS = (
    samples.arrays("a.npz", samples.some_arrays),
    samples.compressed("a.npz", samples.some_arrays),
)
IMAGE_FILES = (
    image_samples.image_file("i.png"),
    image_samples.image_file("i.png", "L"),
    image_samples.image_file("i.jpg"),
    image_samples.image_file("i.bmp"),
    image_samples.image_file("i.webp", lossless=True),
)

ALL = (
    Reader(
        "network",
        (
            samples.network(),
            samples.network(kept=1, calibrated=True),
            samples.network(precond="edm"),
        ),
        probes.use_network,
        {".pkl": TORCH_FILE},
        {**torch_files("network.pkl"), **networks("network.pkl")},
    ),
    Reader(
        "training state",
        (samples.state(2), samples.state(1)),
        probes.use_state,
        {".pt": TORCH_FILE},
        {**torch_files("training-state.pt"), **states("training-state.pt")},
    ),
    Reader(
        "original network",
        (original("toy", 4), original("images", 4), original("images", 5)),
        probes.use_original,
        {".pkl": mutate_pickle},
        {**anything("original.pkl"), **bare("original.pkl")},
    ),
    Reader(
        "detector",
        (samples.detector(zipped=True), samples.detector(zipped=False)),
        probes.use_detector,
        {".pth": TORCH_FILE, ".old": mutate_pickle},
        torch_files("weights.pth"),
    ),
    Reader(
        "arrays",
        SOME_ARRAYS,
        probes.use_arrays,
        NPZ,
        npz("a.npz", samples.some_arrays(), "rows"),
        parses=True,
    ),
    Reader(
        "rows",
        SOME_ARRAYS,
        probes.use_rows,
        NPZ,
        npz("a.npz", samples.some_arrays(), "rows"),
        parses=True,
    ),
    Reader(
        "melt",
        (
            samples.arrays("m.npz", samples.melt),
            samples.arrays("m.npz", lambda: samples.melt(labels=True)),
        ),
        probes.use_melt,
        NPZ,
        npz("m.npz", samples.melt(), "xs_es"),
        parses=True,
    ),
    Reader(
        "toy residuals",
        (samples.arrays("r.npz", samples.toy_residuals),),
        probes.use_toy_residuals,
        NPZ,
        npz("r.npz", samples.toy_residuals(), "net_outputs"),
        parses=True,
    ),
    Reader(
        "image residuals",
        (samples.image_residuals,),
        probes.use_image_residuals,
        NPZ,
        parses=True,
    ),
    Reader(
        "reference",
        (samples.arrays("ref.npz", samples.reference),),
        probes.use_reference,
        NPZ,
        npz("ref.npz", samples.reference(), "sigma"),
        parses=True,
    ),
    Reader(
        "pictures",
        (
            samples.arrays("circles_PRP_net_melt_results.npz", samples.melt),
            samples.arrays("circles_PRP_coverage.npz", coverage),
            samples.arrays("circles_PRP_toy_autocorrelations_summary.npz", lags),
            samples.arrays("circles_PRP_toy_autocorrelations.npz", matrices),
            samples.arrays("digits_PRP_worst.npz", roundtrips),
            matrices_of_images,
        ),
        probes.use_pictures,
        NPZ,
        npz("circles_PRP_net_melt_results.npz", samples.melt(), "xs_es"),
        parses=True,
    ),
    Reader(
        "statistics",
        (samples.statistics,),
        probes.use_statistics,
        {".jsonl": mutate_lines},
        hostile_arrays.statistics("stats.jsonl"),
    ),
    Reader(
        "parameters", (samples.parameters,), load_json, {".json": mutate_json}, texts("params.json")
    ),
    Reader(
        "training options",
        (samples.training_options,),
        probes.use_options,
        {".json": mutate_json},
        hostile_arrays.training_options("training_options.json"),
        names_file=False,
        also_allowed=(click.ClickException,),
    ),
    Reader(
        "statistics of a resumed run",
        (samples.statistics,),
        probes.use_resumed_statistics,
        {".jsonl": mutate_lines},
        hostile_arrays.statistics("stats.jsonl"),
        writes=True,
    ),
    Reader(
        "image data set",
        (
            image_samples.image_set("set.zip", 1),
            image_samples.image_set("set.zip", 3, vectors=True),
            image_samples.image_set("set", 1),
        ),
        probes.use_images,
        IMAGES,
        {**image_zips("set.zip"), **image_folders()},
    ),
    Reader(
        "images to convert",
        (image_samples.image_set("set.zip", 3), image_samples.image_set("set", 1)),
        probes.use_source,
        IMAGES,
        {**image_zips("set.zip"), **image_folders()},
    ),
    Reader(
        "image of a set",
        IMAGE_FILES,
        probes.use_image_of_a_set,
        {".png": mutate_png, "": mutate_bytes},
        images("i.png"),
    ),
    Reader(
        "image to convert",
        (
            *IMAGE_FILES,
            image_samples.image_file("i.png", "P"),
            image_samples.image_file("i.png", "RGBA"),
            image_samples.image_file("i.gif", "P"),
            image_samples.image_file("i.jpg", "CMYK"),
        ),
        probes.use_image_to_convert,
        {".png": mutate_png, "": mutate_bytes},
        images("i.png"),
    ),
    Reader(
        "idx",
        (image_samples.mnist(28), image_samples.mnist(5)),
        probes.use_source,
        {".gz": in_gzip(mutate_bytes)},
        idx_files(),
    ),
    Reader(
        "cifar",
        (image_samples.cifar(2), image_samples.cifar(4)),
        probes.use_source,
        {".gz": in_gzip(in_tar(mutate_pickle))},
        tars("cifar-10-python.tar.gz"),
    ),
    Reader(
        "pickle of a batch",
        tuple(map(image_samples.pickle_of_a_batch, (2, 3, 4, 5))),
        probes.use_pickle,
        {".pickle": mutate_pickle},
        bare("batch.pickle"),
    ),
    Reader(
        "lmdb",
        (image_samples.lsun(3), image_samples.lsun(60)),
        probes.use_source,
        {".mdb": mutate_bytes},
        stores(),
        runs=Path(lmdb_process.__file__),
    ),
    Reader(
        "mesh",
        (samples.mesh(binary=True), samples.mesh(binary=False)),
        probes.use_mesh,
        {".ply": mutate_text},
        meshes("boundary.ply"),
        parses=True,
    ),
)
READERS = {reader.name: reader for reader in ALL}
