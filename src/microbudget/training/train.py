"""The training of every method: AdamW, cosine schedule, early stopping, exact resume after a kill.

accelerate chooses the device and its precision: a GPU where there is one, in bfloat16 where it can, else float32; a CPU
stays in float32. Several processes (`accelerate launch`) share each batch. The same seed gives the same weights on the
same machine, whether the training ran through or was killed and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..errors import MissingExtra
from ..machine.allocator import reused_memory

try:
    import torch
    from accelerate import Accelerator
    from torch.nn import Module
except ImportError as error:
    raise MissingExtra("training needs torch and accelerate: pip install 'microbudget[train]'") from error

from .loop import Loop
from .objective import Group, Objective, Trained
from .settings import Execution, Settings

ALONE = Execution()


def train(
    network: Module,
    objective: Objective,
    settings: Settings,
    execution: Execution = ALONE,
    *,
    groups: Sequence[Group] | None = None,
    mode: Callable[[Any], object] = Module.train,
    after_step: Callable[[], object] | None = None,
) -> Trained:
    """Train the network in place and leave it in eval mode on the CPU, with the weights of its best epoch.

    The network as it was given counts as epoch 0: training never makes the validation loss worse.

    groups: what is trained, by default all that requires a gradient. mode: puts the network into training mode at the
    start of each epoch (see `modes`). after_step: for what must hold of the weights, such as zeros that stay.
    With a checkpoint the same call resumes from it, or returns at once if the training was finished.
    Raises Diverged, DiskFull, OutOfTime; none of them loses the checkpoint.
    """
    if execution.threads:
        torch.set_num_threads(execution.threads)
    accelerator = Accelerator(mixed_precision=_precision())
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _repeatable(bool(devices)), reused_memory():
        torch.manual_seed(execution.seed)
        loop = Loop(network, objective, settings, execution, groups, mode, after_step, accelerator)
        trained = loop.run()
    accelerator.unwrap_model(loop.learner, keep_fp32_wrapper=False)
    network.zero_grad(set_to_none=True)
    network.to("cpu").eval()
    return trained


def _repeatable(cuda: bool) -> AbstractContextManager[None]:
    """Kernels of cuDNN that give the same result each time; a CPU has no others."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True) if cuda else nullcontext()


def _precision() -> str:
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
