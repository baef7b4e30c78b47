"""A training under FSDP: weights, gradients and the optimiser's state lie in parts among the processes.

Torch divides them (`fully_shard`) and gets each layer together when it is due; here is what a training needs besides. All
processes compute as many batches a step, whatever rows they have. What a step has not used gets no step of the optimiser. And
what is written to disk is whole, as one process alone would have it: it can go on with any number of processes, divided or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from anytoany_lib.config import StageConfig
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.training.stage_data import Step


def check(stage: StageConfig, accelerator: Accelerator) -> None:
    """Raises what of a stage, the cards or this torch does not go with FSDP: ValueError, ImportError."""
    if stage.optimiser == "paged-adamw-8bit":
        raise ValueError(
            "paged-adamw-8bit keeps its state whole, FSDP divides it: set optimiser: adamw in the profile's stage, or start "
            "without FSDP"
        )
    if accelerator.scaler is not None:
        raise ValueError(
            "FSDP would train in float16, as llm.dtype says or as these cards compute in: launch with ddp.yaml, on cards that "
            "have bfloat16, or set llm.dtype: float32 in the profile"
        )
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ImportError(
            f"training under FSDP needs torch 2.13, where processes may use different parameters; found {torch.__version__}"
        )


def divided(
    accelerator: Accelerator, model: AnyToAny, optimiser: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Divides a model and its optimiser's state, in place; all have the weights of the first process then."""
    for _, _, tensor in _saved(model):
        distributed.broadcast(tensor.detach(), src=0)
    for module in model.bridges().values():
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)
    state = optimiser.state_dict()
    optimiser.state.clear()  # Accelerate gives it the parts of the weights, but not of their averages
    wrapped, prepared = accelerator.prepare(model, optimiser)
    wrapped.set_reduce_scatter_unused_params(True)
    places = [p for group in optimiser.param_groups for p in group["params"]]
    state["state"] = {
        number: {name: _divided(tensor, places[number]) for name, tensor in of_one.items()}
        for number, of_one in state["state"].items()
    }
    optimiser.load_state_dict(state)
    return wrapped, prepared


def evened(step: Step) -> Step:
    """The step with as many parts as that of the process with most, and as many passes in each: in every pass all of them get
    each layer together.

    What this one lacks it makes up with its first batch, whose losses count for nothing; so does a row that it holds to the
    untouched LLM where only another process has a plain one.
    """
    most = max(gather_object([len(step.parts)]))
    while len(step.parts) < most:
        batch, shares = step.parts[0]
        step.parts.append((batch, dict.fromkeys(shares, 0.0)))
    plain = gather_object([[bool(batch.plain.any()) for batch, _ in step.parts]])
    for number, ((batch, shares), *of_all) in enumerate(zip(step.parts, *plain, strict=True)):
        if any(of_all) and not batch.plain.any():
            stand_in = torch.zeros_like(batch.plain)
            stand_in[(batch.labels[:, 1:] != IGNORED).any(1).int().argmax()] = True
            step.parts[number] = (replace(batch, plain=stand_in), shares)
    return step


def forget_unused(model: AnyToAny) -> None:
    """Takes away the gradients of what no process has used: zeros, by which AdamW would still move it."""
    # The language model's layers are always used, and LoRA's first gradients are zeros of their own right.
    bridges = [p for module in model.bridges().values() for p in module.parameters()]
    held = [(p, p.grad) for p in bridges if isinstance(p.grad, DTensor)]
    if not held:
        return
    used = torch.stack([gradient.to_local().any() for _, gradient in held]).int()
    distributed.all_reduce(used, distributed.ReduceOp.MAX)
    for (parameter, _), by_any in zip(held, used.tolist(), strict=True):
        if not by_any:
            parameter.grad = None


def is_first() -> bool:
    """Whether this process is the first of several, or alone."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from all processes, which all have to ask for it; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def whole_weights(model: AnyToAny) -> Iterator[None]:
    """While it lasts what a run folder holds of the model is whole, on the host. All processes have to enter."""
    parts = [place for place in _saved(model) if isinstance(place[2], DTensor)]
    for module, name, part in parts:
        tensor = whole(part.detach()).cpu()
        setattr(module, name, nn.Parameter(tensor, requires_grad=part.requires_grad))
    try:
        yield
    finally:
        for module, name, part in parts:
            setattr(module, name, part)


def whole_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state as torch has it, whole. All processes have to ask for it."""
    state = optimiser.state_dict()
    state["state"] = {
        number: {
            name: whole(value).cpu() if isinstance(value, DTensor) else value
            for name, value in of_one.items()
        }
        for number, of_one in state["state"].items()
    }
    return state


def _saved(model: AnyToAny) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Where the parameters are that a run folder holds: those of the bridges, and LoRA."""
    bridges = tuple(model.bridges())
    for path, module in model.named_modules():
        if "lora_" in path or path.startswith(bridges):
            for name, parameter in module.named_parameters(recurse=False):
                yield module, name, parameter


def _divided(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of what belongs to a parameter; a count of steps has none."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    local = tensor.to(like.device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
