"""All jobs, and what they start from."""

from pathlib import Path

from tests.reliability.jobs import (
    IMAGE_TRAINING,
    TOY_TRAINING,
    Job,
    data_set,
    sampling,
    simulation,
    training,
    write_images,
)
from tests.reliability.kills import Runner


def make_jobs(runner: Runner, folder: Path) -> list[Job]:
    """The scripts to kill. Trains the networks that some of them need.

    Args:
        runner: Runs scripts.
        folder: An empty one, for what they read.
    """
    images = folder / "set.zip"
    write_images(images)
    toy = training("toy_train", *TOY_TRAINING)
    image = training("train", f"--data={images}", *IMAGE_TRAINING)
    networks = {}
    for job in (toy, image):
        place = folder / f"for-{job.script}"
        end = runner.run(job.script, job.command(place))
        if end.code:
            raise RuntimeError(f"{job.name} ended with {end.code}: {end.output}")
        networks[job.script] = max(place.glob("*/network-snapshot-*.pkl"))
    return [
        toy,
        image,
        simulation(networks["toy_train"]),
        sampling(networks["train"]),
        data_set(images, "set.zip", replacing=False),
        data_set(images, "set.zip", replacing=True),
        data_set(images, "set", replacing=True),
    ]
