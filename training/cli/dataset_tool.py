"""Creation of data sets of images and of tables: the functions behind ``dataset_tool.py``."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from torch_utils.results import provenance, save_json
from training.data.images.containers import Transform
from training.data.images.stacks import holds_stack
from training.data.sources.formats import NAMES, open_source
from training.data.sources.writer import Conversion, image_writer, is_one_file, require_writable
from training.data.tables.formats import ForeignTable, TableChoices, is_table, open_table
from training.data.tables.raw_tables import Cells, open_cells
from training.data.tables.reading import RecordChoices
from training.data.tables.repeated_trials import DATASET, groups_of, unrolled
from training.data.tables.table import DataTable
from training.files.records import RECORDS, save_records
from training.files.table import TABLE_FILE, save_table
from training.models.table_reading import read_table
from training.names import IMAGES, TABLE
from training.settings.dataset_tool import DataSetSettings

FORMAT = "inflationary-flows image data set 1"
ONLY_NUMBERS = ("conditions", "covariates", "dataset", "repeats", "bounds", "kept")
"""Options that only tables of numbers have."""


@first_rank_only
def run(settings: DataSetSettings) -> None:
    """Create a data set of a table or of images, and write its options and facts beside it."""
    started = time.monotonic()
    makes_table = is_table(settings.source) and not holds_stack(Path(settings.source))
    settings.require_kind(TABLE if makes_table else IMAGES, settings.source)
    if makes_table and settings.dest.suffix != ".npz":
        raise UsageError(f"{settings.dest} will contain a table: give a name that ends in .npz")
    params = params_path(settings.dest)
    facts = table(settings, params) if makes_table else images(settings)
    seconds = round(time.monotonic() - started, 3)
    save_json(params, {**facts, "options": settings.recorded(), "seconds": seconds, **provenance()})


def images(settings: DataSetSettings) -> dict[str, Any]:
    """Create a data set of images, and return facts about it."""
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
    most = options.max_images and options.first_image + options.max_images
    in_part = bool(options.max_images or options.first_image)
    stacked = dest.suffix.lower() == ".npz"
    ends = options.value_range
    source = open_source(settings.source, most, in_part, stacked, ends)
    with image_writer(dest, ends or source.value_range) as writer:
        (height, width, channels), skipped = conversion.run(source, writer)
    logger.info(
        f"Wrote {writer.count} images of {width}x{height} pixels in {channels} channel(s), "
        f"{'with' if writer.has_labels else 'without'} labels, to {dest}"
        + (f"; skipped {skipped} unusable ones" if skipped else "")
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
    """Create a data set of a table, and return facts about it.

    The data set is numeric if all cells are numbers; otherwise it contains typed records.
    """
    dest = settings.dest
    require_new([dest, params], settings.overwrite, "--dest")
    made, lines = rows_of(settings)
    require_folder(dest.parent)
    if made.typed:
        save_records(dest, made)
        facts = {
            "format": RECORDS.format,
            "columns": made.names,
            "types": {column.name: column.type for column in made.columns},
            "constants": dict(made.constants),
            "beside": list(made.beside),
        }
    else:
        save_table(dest, made)
        facts = {
            "format": TABLE_FILE.format,
            "columns": made.names,
            "conditions": made.condition_names,
            "covariates": list(made.covariates),
            "dropped": list(made.dropped.names),
        }
    logger.info("\n".join([*lines, f"Wrote {dest}"]))
    return {"rows": len(made), "held_out": int(made.held_out.sum()), **facts, "found": lines}


def rows_of(settings: DataSetSettings) -> tuple[DataTable, list[str]]:
    """Read the table or the records of a source, with lines about the findings."""
    chosen = settings.table
    exclude = chosen.exclude or ()
    # Failed simulations may leave missing values too, so keeping them in trials needs an option.
    unsaid = bool(chosen.dataset or chosen.repeats) and "missing" not in chosen.given
    choices = chosen.into(
        RecordChoices,
        missing="refuse" if unsaid else chosen.missing,
        conditions=chosen.conditions or (),
        covariates=chosen.covariates or (),
        bounds={name: (low, high) for name, low, high in chosen.bounds or ()},
        types=dict(chosen.types or ()),
        missing_values=chosen.missing_values or (),
        is_missing=chosen.is_missing or (),
    )

    def numbers() -> tuple[ForeignTable, TableChoices]:
        wanted = settings.wanted, chosen.seed, chosen.header, None, exclude, chosen.sep
        source = open_table(settings.source, *wanted)
        if not chosen.repeats:
            return source, choices
        # Several trials in a row become one row each.
        groups, columns = groups_of(chosen.repeats, source.names)
        known = [name for name in columns if name not in choices.covariates]
        of_trials = replace(choices, conditions=known, dataset=DATASET)
        return unrolled(source, groups, columns, DATASET), of_trials

    def cells() -> Cells:
        opened = open_cells(settings.source, chosen.sep, chosen.header, seed=chosen.seed)
        return opened.only(settings.wanted, exclude)

    named = [f"--{name}" for name in ONLY_NUMBERS if name in chosen.given]
    rows, lines, _ = read_table(numbers, cells, choices, named)
    return rows, lines


def params_path(dest: Path) -> Path:
    """Return the path of the JSON file of options, beside the data set."""
    return dest.with_name(f"{dest.stem if is_one_file(dest) else dest.name}_params.json")
