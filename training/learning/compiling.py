"""Compiling a network before its training, and whether that works on this machine."""

from dnnlib.errors import UsageError
from torch_utils.snapshots import first_line
from torch_utils.stats import RunningMeans
from training.data.batches import BatchSource
from training.learning.trainer import Trainer


def compile_network(trainer: Trainer, source: BatchSource) -> None:
    """Compiles the network of a trainer, by a batch that it does not learn from.

    Raises:
        UsageError: PyTorch cannot compile here, such as for want of a C++ compiler.
    """
    batch = next(source.batches(0))
    try:
        trainer.denoiser.network.compile()
    except RuntimeError as error:  # such as for a Python that is too new
        raise _refusal(error) from error
    from torch._dynamo.exc import TorchDynamoException  # which takes a second

    try:
        trainer.accumulate(batch, trainer.draw(batch.points.dtype), RunningMeans(trainer.device))
    except TorchDynamoException as error:
        raise _refusal(error) from error
    trainer.optimizer.zero_grad(set_to_none=True)


def _refusal(error: Exception) -> UsageError:
    return UsageError(
        f"PyTorch cannot compile the network here ({first_line(error)}): leave --compile out"
    )
