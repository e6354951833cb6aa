"""What headlines say of simulations: the data, the schedule, the law of the latents."""

from training.files.names import parameter, stem_of, title_of
from training.files.trajectory import SavedTrajectory
from training.pictures.style.words import brief

CLOSED_FORM = "latents: closed form"


def name_and_details(trajectory: SavedTrajectory) -> tuple[str, str]:
    """The data's name; schedule and denoiser."""
    return title_of(stem_of(trajectory.path))


def latent_law(trajectory: SavedTrajectory) -> str:
    """What a generation drew its latents from, in words; none for others, or if it is unknown.

    Raises:
        DataError: The parameters beside the file are broken.
    """
    if trajectory.kind != "gen":
        return ""
    stem = stem_of(trajectory.path)
    path = trajectory.path.with_name(f"{stem}_sim_params.json")
    options = parameter(path, "options")
    if options is None:  # of images, which may have been simulated one by one
        path = trajectory.path.with_name(f"{stem}_HD_pfODE_int_sim_params.json")
        options = parameter(path, "gen", "options")
    options = options if isinstance(options, dict) else {}
    chosen = options.get("eps")
    if chosen is None:
        return ""
    eps, compressed = str(chosen), trajectory.compressed()
    paper, number = eps.startswith("paper"), eps.rpartition(":")[2]
    if "empirical" in (eps, options.get("gen_source")):
        return "latents: variances of the melt"
    if eps == "learned":
        return "latents: learned law"
    if eps == "auto" or not (compressed.any() or paper):
        return CLOSED_FORM
    if not compressed.any():
        return "latents: variance A0²"
    law = ("A0² and " if paper else "") + f"ε = {number:.12}"
    return f"latents: {law}, closed form {brief(trajectory.latent_variance()[compressed].mean())}"
