"""Compiling a network before its training: it changes no step, or is refused in one line."""

from typing import Any

import pytest
import torch
from torch import nn

from dnnlib.errors import UsageError
from tests.support.card_training import run_steps
from tests.support.trainers import circles_trainer
from training.learning.speed import compile_network


def test_the_batch_that_it_is_tried_with_is_not_learnt_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: asked.append(network))
    weights = []
    for compiled in (False, True):
        trainer, source = circles_trainer()
        if compiled:
            compile_network(trainer, source)
            assert asked == [trainer.denoiser.network]
        run_steps(trainer, source, 2)
        weights.append(nn.utils.parameters_to_vector(trainer.denoiser.parameters()))
    assert torch.equal(*weights)


def test_what_cannot_be_compiled_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # The base of all errors of the compiler: where it has moved, take what torch.compile raises for
    # a backend that does not exist.
    import torch._dynamo.exc

    def fail(network: nn.Module, *given: Any) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\n  in a traceback")

    for broken in ("compile", "forward"):
        trainer, source = circles_trainer()
        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "compile", lambda network: None)
            patch.setattr(type(trainer.denoiser.network), broken, fail)
            with pytest.raises(UsageError, match=r"here \(no compiler\): leave --compile out$"):
                compile_network(trainer, source)
