"""All jobs, and what they start from."""

from pathlib import Path

from tests.reliability import jobs
from tests.reliability.kills import Runner


def make_jobs(runner: Runner, folder: Path) -> list[jobs.Job]:
    """The scripts to kill. Trains the networks that some of them need."""
    images = folder / "set.zip"
    jobs.write_images(images)
    toy = jobs.training("toy_train", *jobs.TOY_TRAINING)
    image = jobs.training("train", f"--data={images}", *jobs.IMAGE_TRAINING)
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
        jobs.simulation(networks["toy_train"]),
        jobs.sampling(networks["train"]),
        jobs.data_set(images, "set.zip", replacing=False),
        jobs.data_set(images, "set.zip", replacing=True),
        jobs.data_set(images, "set", replacing=True),
    ]
