"""Simulations of a simulator: the file given to ``simulate``, or an unfinished round's.

It has all parameters and the data that were simulated so far, so that an interrupted run resumes.
In a folder ``round1``, ``round2``, ... of ``posterior.py rounds``, ``partial-simulations.npz``
exists while the simulations run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.files.declared import FLAG, TEXT, WHOLE, Format, Key, ResultFile, text

RUNS = ResultFile(
    kind="simulations",
    name="partial-simulations.npz",
    sizes="N simulations of D parameters and K numbers, F failures",
    keys={
        "identity": text("digest of the seed, the number of rows per call and the token"),
        "parameters": Key("N D", "parameters"),
        "data": Key("N K", "simulated data; NaN if not done or failed", optional=True, wild=True),
        "done": Key("N", "whether each simulation has ended", FLAG),
        "failed": Key("F", "numbers of the simulations that raised an exception", WHOLE, low=0),
        "messages": Key("F", "their exceptions", TEXT),
    },
    least={"F": 0},
    advice="remove it to simulate again",
)
FORMATS = {RUNS.kind: Format("simulations of a simulator")}


@dataclass(eq=False)
class SimulatorRuns:
    """Simulations, finished or not, with the arrays of ``RUNS``.

    Attributes:
        identity: Digest of everything that data depend on, besides the parameters.
        parameters: Parameters ``[N, D]``.
        data: Simulated data ``[N, K]``; None before the first.
        done: Mask ``[N]`` of simulations that have ended.
        failures: Exceptions by number of the simulation.
    """

    identity: str
    parameters: np.ndarray
    data: np.ndarray | None
    done: np.ndarray
    failures: dict[int, str]

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        failed = np.array(list(self.failures), dtype=np.int64)
        messages = np.array(list(self.failures.values()), dtype="U")
        arrays = {name: value for name, value in vars(self).items() if name != "failures"}
        RUNS.save(path, {"format": RUNS.format, **arrays, "failed": failed, "messages": messages})

    @classmethod
    def load(cls, path: Path) -> "SimulatorRuns":
        """Load the file.

        Raises:
            DataError: The file is missing or broken.
        """
        arrays = RUNS.load(path)
        failed, messages = (arrays.pop(name).tolist() for name in ("failed", "messages"))
        return cls(
            str(arrays["identity"]),
            arrays["parameters"],
            arrays.get("data"),
            arrays["done"],
            dict(zip(failed, messages, strict=True)),
        )
