"""Two steps of stage 3, alone or as one of several processes under FSDP: `python tests/sharding.py OUT`, or by torchrun.

Accelerate gives FSDP to cards only; for processes on a CPU it is told so here. The first process writes losses, gradients and
weights to OUT.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from anytoany_lib.batches import Batch, collate
from anytoany_lib.config import Profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.train import optimiser_and_schedule, total_loss, trained_parts


def batch_for(model: AnyToAny) -> Batch:
    """A conversation with a picture on either side."""
    picture = {"type": "image", "image": torch.randn(model.profile.encoder.embedding)}
    asked = {"role": "user", "content": [picture, {"type": "text", "text": "Another one."}]}
    drawn = {"type": "image", "caption": "A red bell."}
    encoded = model.messages.encode([asked, {"role": "assistant", "content": [drawn]}])
    target = torch.randn(model.profile.decoders["image"].condition)
    width = model.profile.encoder.embedding
    return collate([encoded], lambda _, medium: medium, lambda *_: target, width)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from all processes."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def main(out: Path) -> None:
    """Writes what the steps came to."""
    accelerator = Accelerator(cpu=True)
    if accelerator.num_processes > 1:
        shared = {"distributed_type": DistributedType.FSDP}
        AcceleratorState._shared_state |= shared | {"fsdp_plugin": FullyShardedDataParallelPlugin()}
    profile = Profile.load("tiny")
    lora = profile.lora.model_copy(update={"dropout": 0.0})
    model = AnyToAny.from_profile(profile.model_copy(update={"lora": lora}))
    stage = profile.stages[3].model_copy(update={"warmup": 0.0})
    torch.manual_seed(0)
    optimiser, _ = optimiser_and_schedule(trained_parts(model, stage), stage, 100)
    batch = batch_for(model)
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    wrapped.train()
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = total_loss(wrapped(batch), stage)
        accelerator.backward(loss)
        trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
        gradients = {name: whole(p.grad) for name, p in trained.items()}
        accelerator.clip_grad_norm_(trained.values(), stage.clip)
        optimiser.step()
        losses.append(loss.item())
    weights = {name: whole(p) for name, p in trained.items()}
    layer = model.causal_lm.get_decoder().layers[0].mlp.up_proj.weight
    held = (layer.to_local() if hasattr(layer, "to_local") else layer).nbytes
    if accelerator.is_main_process:
        torch.save(
            {"losses": losses, "gradients": gradients, "weights": weights, "held": held}, out
        )


if __name__ == "__main__":
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    main(Path(sys.argv[1]))
