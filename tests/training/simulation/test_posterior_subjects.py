"""What a posterior is of."""

from pathlib import Path

from tests.support.image_models import save_image_model
from training.runs.networks import NetworkChoice, NetworkFile
from training.runs.posterior_subjects import PosteriorSubject


def test_images_that_are_called_after_a_toy_are_images(tmp_path: Path) -> None:
    save_image_model(tmp_path / "network.pkl", data_name="moons", t_max=3.0)
    file = NetworkFile.open(NetworkChoice(str(tmp_path / "network.pkl")))
    subject = PosteriorSubject.of_network(file)
    assert subject.toy is None
    assert subject.images is not None
    assert subject.image_shape == (1, 8, 8)
    # As a sentence calls them: the 52nd number.
    assert subject.words[51] == "the pixel in row 7, column 4"
