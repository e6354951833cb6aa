"""Makes data sets of images and of tables: what ``dataset_tool.py`` runs."""

import time
from pathlib import Path
from typing import Any

import PIL

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils.distributed import rank_from_environment
from torch_utils.results import provenance, save_json
from training.data.images.codec import Transform
from training.data.sources.formats import NAMES, open_source
from training.data.sources.writer import Conversion, image_writer, is_zip, require_writable
from training.data.tables.formats import is_table, open_table
from training.data.tables.making import TableChoices, make_table
from training.files.table import FORMAT as TABLE_FORMAT
from training.files.table import save_table
from training.names import IMAGES, TABLE
from training.options.dataset_tool import DataSetSettings

FORMAT = "inflationary-flows image data set 1"


def run(settings: DataSetSettings) -> None:
    if rank_from_environment() != 0:
        return  # one process makes the file
    started = time.monotonic()
    makes_table = is_table(settings.source)
    settings.require_kind(TABLE if makes_table else IMAGES, settings.source)
    if makes_table and settings.dest.suffix != ".npz":
        raise UsageError(f"{settings.dest} is to hold a table: give it a name that ends in .npz")
    params = params_path(settings.dest)
    facts = table(settings, params) if makes_table else images(settings)
    seconds = round(time.monotonic() - started, 3)
    save_json(params, {**facts, "options": settings.recorded(), "seconds": seconds, **provenance()})


def images(settings: DataSetSettings) -> dict[str, Any]:
    """Makes a data set of images. Returns what is known of it."""
    dest, options = settings.dest, settings.images
    conversion = Conversion(
        Transform(options.transform, options.resolution),
        int(options.channels) if options.channels else None,
        options.max_images,
        options.skip_bad,
        options.first_image,
    )
    source_path = None if settings.source in NAMES else Path(settings.source)
    require_writable(dest, source_path, settings.overwrite)
    source = open_source(settings.source, options.patch, settings.wanted_images)
    with image_writer(dest) as writer:
        (height, width, channels), skipped = conversion.run(source, writer)
    logger.info(
        f"Wrote {writer.count} images of {width}x{height} pixels in {channels} channel(s), "
        f"{'with' if writer.has_labels else 'without'} labels, to {dest}"
        + (f"; skipped {skipped} bad ones" if skipped else "")
    )
    return {
        "format": FORMAT,
        "images": writer.count,
        "skipped": skipped,
        "image_shape": [channels, height, width],
        "has_labels": writer.has_labels,
        "pillow": PIL.__version__,
    }


def table(settings: DataSetSettings, params: Path) -> dict[str, Any]:
    """Makes a data set of a table. Returns what is known of it."""
    dest = settings.dest
    require_new([dest, params], settings.overwrite, "--dest")
    chosen = settings.table
    source = open_table(settings.source, settings.wanted, chosen.seed, chosen.header)
    choices = chosen.into(
        TableChoices,
        conditions=chosen.conditions or (),
        dequantize=chosen.dequantize == "auto",
        bounds={name: (low, high) for name, low, high in chosen.bounds or ()},
    )
    made, lines = make_table(source, choices)
    require_folder(dest.parent)
    save_table(dest, made)
    logger.info("\n".join([*lines, f"Wrote {dest}"]))
    return {
        "format": TABLE_FORMAT,
        "rows": len(made),
        "held_out": int(made.held_out.sum()),
        "columns": list(made.columns.names),
        "conditions": list(made.condition_names),
        "dropped": list(made.dropped.names),
        "found": lines,
    }


def params_path(dest: Path) -> Path:
    """Where the options of a data set are written: beside it."""
    whole = dest.suffix == ".npz" or is_zip(dest)
    return dest.with_name(f"{dest.stem if whole else dest.name}_params.json")
