"""How the shipped configurations launch a process, and what to run so: two steps of stage 3, alone or under FSDP.

`python tests/support/sharding.py OUT`, or by torchrun: the first process writes losses, gradients and weights to OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from anytoany_lib.batches import Batch, collate
from anytoany_lib.config import Profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.train import total_loss
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.fsdp import forget_unused, whole
from anytoany_lib.training.setup import optimiser_and_schedule, trained_parts

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "anytoany_lib" / "accelerate"


def launched(name: str) -> dict[str, str]:
    """What `accelerate launch` puts into the environment of a process by a configuration."""
    asked = ["--config_file", str(CONFIGURATIONS / f"{name}.yaml"), "-m", "anytoany_lib.train"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(asked))
    given = prepare_multi_gpu_env(arguments)
    return {key: given[key] for key in given if key.startswith(("FSDP", "ACCELERATE"))}


def batch_for(model: AnyToAny) -> Batch:
    """A conversation with a picture on either side."""
    picture = {"type": "image", "image": torch.randn(model.profile.encoder.embedding)}
    asked = {"role": "user", "content": [picture, {"type": "text", "text": "Another one."}]}
    drawn = {"type": "image", "caption": "A red bell."}
    encoded = model.messages.encode([asked, {"role": "assistant", "content": [drawn]}])
    target = torch.randn(model.profile.decoders["image"].condition)
    width = model.profile.encoder.embedding
    return collate([encoded], lambda _, medium: medium, lambda *_: target, width)


def main(out: Path) -> None:
    """Writes what the steps came to."""
    ranks = Ranks(out.parent, [])
    profile = Profile.load("tiny")
    lora = profile.lora.model_copy(update={"dropout": 0.0})
    model = AnyToAny.from_profile(profile.model_copy(update={"lora": lora}))
    stage = profile.stages[3].model_copy(update={"warmup": 0.0})
    torch.manual_seed(0)
    optimiser, _ = optimiser_and_schedule(trained_parts(model, stage), stage, 100)
    batch = batch_for(model)
    wrapped, optimiser = ranks.prepare(model, optimiser)
    wrapped.train()
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = total_loss(wrapped(batch), stage)
        ranks.accelerator.backward(loss)
        forget_unused(model)
        trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
        gradients = {name: whole(p.grad).clone() for name, p in trained.items()}
        ranks.accelerator.clip_grad_norm_(trained.values(), stage.clip)
        optimiser.step()
        losses.append(loss.item())
    weights = {name: whole(p.detach()) for name, p in trained.items()}
    layer = model.causal_lm.get_decoder().layers[0].mlp.up_proj.weight
    held = (layer.to_local() if hasattr(layer, "to_local") else layer).nbytes
    if ranks.first:
        torch.save(
            {"losses": losses, "gradients": gradients, "weights": weights, "held": held}, out
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
