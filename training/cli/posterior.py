"""Posteriors, and tests and comparisons of them: the commands of ``posterior.py``."""

from math import ceil
from pathlib import Path
from time import monotonic, perf_counter

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from torch_utils.distributed import first_rank_only
from training.cli.shared import remove_parts, reserve
from training.files.observations import read_observations
from training.files.population import POPULATION
from training.files.posterior import (
    CALIBRATION,
    CHECK,
    COMPARISON_FORMAT,
    MIXTURE,
    MIXTURE_FORMAT,
    PREDICTIVE,
    save_values,
)
from training.files.posterior_draws import load_netcdf
from training.measure.posterior.calibration import calibrate as tests_of
from training.models import (
    calibration,
    comparison,
    hierarchical,
    posterior_checking,
    posterior_sampling,
)
from training.models import posterior_reports as results
from training.models.inference import InferenceTask
from training.models.reports import warn_if_longer
from training.names import CHAINS, FEWEST_RUNS, UNSOUND
from training.paper.mixtures import Components, MixturePlan, recover
from training.settings.posterior import (
    POINTS,
    RUNS,
    CalibrateSettings,
    CheckSettings,
    CompareSettings,
    MixtureOptions,
    MixtureSettings,
    PopulationSettings,
    PredictSettings,
    SampleSettings,
)


def files_of(task: InferenceTask, name: str, suffix: str) -> tuple[Path, Path]:
    """Return the paths of two results files: arrays (with a given suffix), and JSON."""
    stem = task.settings.save_dir / f"{task.subject.stem}_{name}"
    return stem.with_name(f"{stem.name}{suffix}"), stem.with_name(f"{stem.name}.json")


def sample(settings: SampleSettings) -> int:
    """Draw from the posterior of each observation.

    Returns:
        The exit code: ``UNSOUND`` if an observation is rejected, or with ``--strict`` if a
        posterior has not converged; else 0.
    """
    began, task = perf_counter(), InferenceTask.open(settings)
    try:
        seen = posterior_sampling.Observed.of(task)
    except posterior_sampling.RejectedObservation as error:
        return error.exit_code
    draws_file, numbers_file = files_of(task, "posterior", ".nc")
    parts = numbers_file.with_suffix(".part")
    with distributed.process_group(settings.run.device_name) as device:
        reserve([draws_file, numbers_file], settings.run.overwrite)
        sampled = posterior_sampling.sample(task.on(device), seen, parts)
        if sampled is not None:
            sampled.save(draws_file)
        remove_parts(parts)
    if sampled is None:
        return 0
    results.report_files(numbers_file, draws_file, began)
    why = "network evaluations took longer than measured at the start"
    warn_if_longer("the draws", monotonic() - settings.began, settings.sampler.minutes, why)
    return UNSOUND if settings.strict and not sampled.summary.converged.all() else 0


def check(settings: CheckSettings) -> int:
    """Check posteriors by simulation-based calibration.

    Returns:
        The exit code: ``UNSOUND`` with ``--strict`` if a test fails, else 0.
    """
    began, task = perf_counter(), posterior_checking.opened(settings)
    cases = posterior_checking.cases_of(task)
    values_file, numbers_file = files_of(task, "posterior_check", ".npz")
    parts = numbers_file.with_suffix(".part")
    with distributed.process_group(settings.run.device_name) as device:
        reserve([values_file, numbers_file], settings.run.overwrite)
        report = posterior_checking.check(task.on(device), cases, parts)
        if distributed.is_main():
            save_values(values_file, report.values, report.fingerprint)
            results.write_numbers(numbers_file, CHECK.format, began, report.facts)
            report.log()
            results.report_files(numbers_file, values_file, began)
        remove_parts(parts)
    return UNSOUND if settings.strict and not report.passed else 0


def calibrate(settings: CalibrateSettings) -> None:
    """Calibrate a network on a calibration set, and write the calibrated network file."""
    began = perf_counter()
    dest = settings.dest or local_file(settings.prior.network)
    task, rows = calibration.opened(settings, dest)
    values_file, numbers_file = files_of(task, "posterior_calibration", ".npz")
    parts = numbers_file.with_suffix(".part")
    with distributed.process_group(settings.run.device_name) as device:
        reserve([values_file, numbers_file], settings.run.overwrite)
        result = calibration.calibrate(task.on(device), rows, parts)
        if result is not None:
            named = [] if task.subject.of_sets else task.subject.condition_names
            beside = calibration.over_conditions(result.guarantee, rows, named)
            save_values(values_file, result.values, result.fingerprint, CALIBRATION, beside)
            results.write_numbers(numbers_file, CALIBRATION.format, began, result.content)
            result.model.save(dest)
            result.log()
            logger.info(f"Saved the calibration in {dest}")
            results.report_files(numbers_file, values_file, began)
        remove_parts(parts)


@first_rank_only
def predict(settings: PredictSettings) -> int:
    """Run posterior predictive checks.

    Returns:
        The exit code: ``UNSOUND`` with ``--strict`` if a test fails, else 0.
    """
    began, stem = perf_counter(), settings.draws.stem
    saved = load_netcdf(settings.draws, comparison.MOST_OBSERVATIONS)
    files = [settings.save_dir / f"{stem}_predictive{suffix}" for suffix in (".npz", ".json")]
    require_new(files, settings.overwrite)
    result = comparison.predict(saved, settings)
    require_folder(settings.save_dir)
    texts = {"names": result.names, "format": PREDICTIVE.format}
    arrays = {"simulated": result.simulated, "observed": result.observed}
    PREDICTIVE.save(files[0], {**texts, **arrays})
    content = {"options": settings.recorded(), **result.tests.summary()}
    results.write_numbers(files[1], PREDICTIVE.format, began, content)
    logger.info(result.tests.verdict)
    count = len(result.observed)
    if saved.count > count:
        logger.info(f"Only the first {count} of {saved.count} observations are checked")
    results.report_files(files[1], files[0], began)
    return UNSOUND if result.tests.failed and settings.strict else 0


def compare(settings: CompareSettings) -> int:
    """Compute evidences and probabilities of models for the same observations.

    Returns:
        The exit code: ``UNSOUND`` with ``--strict`` if a posterior has not converged, else 0.
    """
    began, path = perf_counter(), settings.save_dir / "comparison.json"
    tasks, names = comparison.opened(settings)
    parts = [path.with_name(f"comparison_{place + 1}.part") for place in range(len(tasks))]
    with distributed.process_group(settings.run.device_name) as device:
        reserve([path], settings.run.overwrite)
        on_device = [task.on(device) for task in tasks]
        result = comparison.compare(on_device, names, settings, parts)
        if distributed.is_main():
            results.write_numbers(path, COMPARISON_FORMAT, began, dict(result.facts))
            logger.info(f"Wrote {path} after {perf_counter() - began:.1f} s")
        for folder in parts:
            remove_parts(folder)
    return UNSOUND if settings.strict and not result.converged.all() else 0


@first_rank_only
def population(settings: PopulationSettings) -> int:
    """Infer a hierarchical model from the posterior draws of its members.

    Returns:
        The exit code: ``UNSOUND`` with ``--strict`` if it has not converged, else 0.
    """
    began, saved = perf_counter(), load_netcdf(settings.draws, 2**31, every_draw=True)
    stem = f"{settings.draws.stem}_population"
    files = [settings.save_dir / f"{stem}{suffix}" for suffix in (".npz", ".json", ".pkl")]
    require_new(files, settings.overwrite)
    result = hierarchical.population(settings, saved, stem, files[2].name)
    require_folder(settings.save_dir)
    result.arrays.save(files[0])
    result.prior.save(files[2])
    results.write_numbers(files[1], POPULATION.format, began, dict(result.facts))
    logger.info(f"Wrote {files[2].name}, a prior for new members")
    results.report_files(files[1], files[0], began)
    return UNSOUND if settings.strict and not result.converged else 0


def mixture(settings: MixtureSettings) -> None:
    """Infer the weights of a mixture over latents from noisy observations.

    With many runs whose true weights are drawn, the calibration of their posteriors is tested too.
    """
    began = perf_counter()
    task = InferenceTask.open(settings)
    if task.subject.label_dim:
        raise UsageError("mixture does not support conditional networks")
    likelihood, plan = task.likelihood(), mixture_plan(settings.mixture, task.subject.dim)
    source = settings.mixture.observation
    given = None if source is None else task.observed(source, likelihood)
    if source is not None and task.questions(source, likelihood) is not None:
        raise UsageError("mixture supports only numbers: leave category columns out")
    draws_file, numbers_file = files_of(task, "mixture", ".npz")
    with distributed.process_group(settings.run.device_name) as device:
        reserve([draws_file, numbers_file], settings.run.overwrite)
        task = task.on(device)
        fine = task.fine
        result = recover(fine, likelihood.to(device), task.rows, plan, given)
        if not distributed.is_main():
            return
        numbers, calibrated = result.summary(), None
        if result.truth is not None and plan.weights is None and plan.runs >= FEWEST_RUNS:
            values = result.values(plan.concentration, plan.seed)
            calibrated = tests_of(values, settings.mixture.level)
        mean, std = plan.components.mean, plan.components.std
        drawn = {"weights": result.draws, "observed": result.observed}
        drawn |= {"log_evidence": result.log_evidence, "mean": mean, "std": std}
        MIXTURE.save(draws_file, {**drawn, "truth": result.truth})
        options = settings.recorded(device_name=str(device))
        content = {
            "components": {"mean": mean.tolist(), "std": std.tolist()},
            "points": fine.kind,
            "solvers": fine.solvers,
            "calibration": None if calibrated is None else calibrated.summary(),
            **numbers,
            "options": options,
            "network_sha256": task.subject.digest,
        }
        results.write_numbers(numbers_file, MIXTURE_FORMAT, began, content)
        results.report_mixture(numbers)
        if calibrated is not None:
            logger.info(calibrated.verdict)
        results.report_files(numbers_file, draws_file, began)


def mixture_plan(options: MixtureOptions, dim: int) -> MixturePlan:
    """Return the settings for inferring the weights of a mixture of points with D dimensions.

    Raises:
        UsageError: Options contradict each other.
        DataError: The file of means is broken.
    """
    components = components_of(options, dim)
    weights = true_weights(options, components.count)
    return options.into(
        MixturePlan,
        draws=ceil(options.draws / CHAINS),
        components=components,
        weights=None if weights is None else components.mean.new_tensor(weights),
        points=options.points or POINTS,
        runs=options.runs or RUNS,
    )


def components_of(options: MixtureOptions, dim: int) -> Components:
    """Return the components; see ``mixture_plan``."""
    if options.means is None:
        spread = Components.spread(options.components or 3, dim)
        mean, std = spread.mean, spread.std
    else:
        mean = read_observations(options.means)
        std = mean.new_full((len(mean),), 0.5)
    if mean.shape[1] != dim:
        raise UsageError(f"{options.means} has {mean.shape[1]} columns for {dim} dimensions")
    if options.component_std is not None:
        std = mean.new_tensor(numbers_of("component_std", options.component_std))
        std = std.expand(len(mean)) if len(std) == 1 else std
    return Components(mean, std)


def true_weights(options: MixtureOptions, count: int) -> list[float] | None:
    """Return the true weights of K components; None to draw them.

    Raises:
        UsageError: The numbers are not valid weights.
    """
    if options.weights is None:
        return None
    weights = numbers_of("weights", options.weights)
    if len(weights) != count or not min(weights) >= 0 or abs(sum(weights) - 1) > 1e-6:
        raise UsageError(
            f"--weights is '{options.weights}': give {count} numbers that sum to 1, one "
            "per component"
        )
    return [weight / sum(weights) for weight in weights]


def numbers_of(name: str, text: str) -> list[float]:
    """Parse numbers separated by commas.

    Raises:
        UsageError: A number is invalid.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--{name} is '{text}': give one number, or several separated by commas"
        ) from None
