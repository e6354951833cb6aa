"""Observations, reference posteriors and constants of the benchmark: data of the package ``sbibm``.

The package is not installed and none of its code is run: pip downloads the wheel, and its files are
read from there. Each task has ten observations, the parameters that these were simulated with, and
10,000 draws of the posterior of each.
"""

import bz2
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.simulators.task import Task
from dnnlib.errors import DataError
from dnnlib.logs import logger

VERSION = "1.1.0"
OBSERVATIONS = 10
T_MIXTURE_CLASSES = (
    "pyro.distributions.torch.Categorical",
    "pyro.distributions.torch.Chi2",
    "pyro.distributions.torch.Independent",
    "pyro.distributions.torch.MixtureSameFamily",
    "pyro.distributions.multivariate_studentt.MultivariateStudentT",
)


class Stored:
    """Stands for whatever object a file names, and does nothing but hold its tensors."""


class Wheel:
    """The files of the package.

    Args:
        path: The wheel.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def downloaded(cls, folder: Path) -> "Wheel":
        """The wheel in a folder, to which pip downloads it if it is not there.

        Raises:
            DataError: It cannot be downloaded.
        """
        found = sorted(folder.glob(f"sbibm-{VERSION}-*.whl"))
        if not found:
            logger.info(f"pip downloads the wheel of sbibm {VERSION} to {folder}, for its data")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", f"--dest={folder}", f"sbibm=={VERSION}"]
            if subprocess.run(command).returncode:
                raise DataError(
                    f"pip could not download sbibm {VERSION}: put its wheel into {folder}"
                )
            found = sorted(folder.glob(f"sbibm-{VERSION}-*.whl"))
        return cls(found[0])

    def observation(self, task: Task, number: int) -> np.ndarray:
        """Data ``[C]`` of an observation from 1 to 10."""
        return self._numbered(task, number, f"{task.observed}.csv")[0]

    def true_parameters(self, task: Task, number: int) -> np.ndarray:
        """Parameters ``[D]`` that it was simulated with."""
        return self._numbered(task, number, "true_parameters.csv")[0]

    def reference(self, task: Task, number: int) -> np.ndarray:
        """Draws ``[10000, D]`` of its posterior."""
        return self._numbered(task, number, "reference_posterior_samples.csv.bz2")

    def tensor(self, task: str, name: str) -> np.ndarray:
        """A tensor among the files of a task."""
        return self._loaded(task, name).numpy()

    def mixture_of_t(self) -> dict[str, np.ndarray]:
        """Weights ``[K]``, freedom ``[K]``, centres ``[K, 92]``, scales ``[K, 92, 92]`` of slcp's
        distractors."""
        stands_for: list[Any] = [
            (type(name.rpartition(".")[2], (Stored,), {}), name) for name in T_MIXTURE_CLASSES
        ]
        with torch.serialization.safe_globals(stands_for):
            found = self._loaded("slcp", "gmm.torch")
        distributions = vars(vars(found)["_component_distribution"])["base_dist"]
        tensors = {
            "weights": vars(vars(found)["_mixture_distribution"])["probs"],
            "freedom": vars(distributions)["df"],
            "centres": vars(distributions)["loc"],
            "scales": vars(distributions)["_unbroadcasted_scale_tril"],
        }
        return {name: tensor.double().numpy() for name, tensor in tensors.items()}

    def _loaded(self, task: str, name: str) -> Any:
        return torch.load(io.BytesIO(self._read(f"{task}/files/{name}")), weights_only=True)

    def _numbered(self, task: Task, number: int, name: str) -> np.ndarray:
        content = self._read(f"{task.files or task.name}/files/num_observation_{number}/{name}")
        text = bz2.decompress(content) if name.endswith(".bz2") else content
        return np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1, ndmin=2)

    def _read(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(f"sbibm/tasks/{name}")
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(
                f"{self.path} has no sbibm/tasks/{name} that can be read: remove it, and pip "
                "downloads it again"
            ) from error
