"""The memory plan against every phase gone through on shapes alone, at full size, and the counting itself against known sizes."""

from __future__ import annotations

import gc

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.nn import functional as F

from anytoany_lib.config import Profile
from anytoany_lib.memory import activations, planning, rehearsal
from anytoany_lib.memory.frozen_rehearsal import drawing_peak
from anytoany_lib.memory.live_storages import LiveStorages, as_on_a_card

# The Qwens are of one build, which nextgpt-7b's LLaMA shares but for details.
PROFILES = (
    "tiny",
    "nextgpt-7b",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("qwen2.5-1.5b", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b")
    ),
)
MEGABYTE = 2**20
META = torch.device("meta")


def megabytes(count: int) -> torch.Tensor:
    return torch.empty(count, MEGABYTE, dtype=torch.uint8, device="meta")


# --- the counting ---


def test_the_peak_is_what_was_alive_at_once():
    with LiveStorages() as live:
        kept = megabytes(3)
        gone = megabytes(4)
        seen = kept[1:], kept.view(-1)  # of the same storage
        assert live.live == 7 * MEGABYTE
        del gone
        more = megabytes(2)
    assert live.peak == 7 * MEGABYTE and live.live == 5 * MEGABYTE
    del kept, seen, more
    gc.collect()
    assert live.live == 0


def test_what_autograd_keeps_is_alive_until_the_backward_pass_is_over():
    with META:
        first, second = nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False)
        x = torch.empty(512, 1024)
    with LiveStorages() as live:
        live.add(first, second, x)
        held = live.live
        loss = second(first(x).relu()).sum()
        assert live.live - held == pytest.approx(2 * MEGABYTE, abs=4096)  # the relu's output
        loss.backward()
    assert live.live - held == pytest.approx(8 * MEGABYTE, abs=4096)  # two gradients


def test_what_goes_to_the_host_is_not_counted():
    with LiveStorages() as live:
        away = [megabytes(1).float().cpu() for _ in range(3)]
        torch.cat(away)
        assert live.live == 0
        beside = megabytes(1)
        assert live.live == MEGABYTE and beside is not None


def test_a_mask_lets_everything_through_and_flags_are_set():
    with META, LiveStorages():
        x, mask = torch.empty(4, 8, 16), torch.empty(4, 8, dtype=torch.bool)
        assert mask.any()
        assert x[mask].shape == (32, 16)


def test_a_4_bit_layer_keeps_its_packed_weight_and_unpacks_it_to_multiply():
    rehearsal.model_on_shapes(Profile.load("tiny"))  # has bitsandbytes' table made
    layer = Linear4bit(
        4096, 11008, bias=False, compute_dtype=torch.float16, quant_type="nf4", device="meta"
    )
    layer.weight.data = layer.weight.data.half()
    layer.weight._quantize(META)
    numbers = 4096 * 11008
    with META, LiveStorages() as live:
        live.add(layer)
        assert live.live == pytest.approx(numbers * planning.NF4_BYTES, rel=0.001)
        x = torch.empty(512, 4096, dtype=torch.float16, requires_grad=True)
        held = live.live
        y = layer(x)
        assert live.live - held == y.nbytes  # its input is not kept
        assert live.peak - held == pytest.approx(2 * numbers, rel=0.05)
        with torch.no_grad():
            live.peak = live.live
            row = layer(x[:1])  # few rows are multiplied with the packed weight itself
        assert live.peak - live.live < numbers / 8 and row is not None


def test_attention_takes_no_pairs_and_the_own_function_comes_back():
    own = F.scaled_dot_product_attention
    with META, LiveStorages() as live, as_on_a_card():
        q, k, v = (
            torch.empty(1, 8, 4096, 64, dtype=torch.float16, requires_grad=True) for _ in "qkv"
        )
        held = live.live
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        assert live.peak - held == found.nbytes + 4 * 8 * 4096
        found.sum().backward()
        assert q.grad.shape == q.shape and v.grad.shape == v.shape
    assert F.scaled_dot_product_attention is own


# --- the plan ---


@pytest.mark.parametrize("name", PROFILES)
def test_the_plan_is_within_a_tenth_of_what_would_be_alive(name: str):
    profile = Profile.load(name)
    planned, far = planning.plan_memory(profile), []
    rehearsed = rehearsal.rehearse(profile)
    assert rehearsed.keys() == planned.keys()
    for phase, turns in rehearsed.items():
        assert {turn for turn in turns if turn} == planning.turns(planned[phase]).keys()
        for turn, found in turns.items():
            said = planning.at_once(planned[phase], turn) - planning.CUDA
            # What is small is rounded up, tensor by tensor.
            if said != pytest.approx(found, rel=0.1, abs=16 * MEGABYTE):
                far.append(f"{phase} {turn}: planned {said:,}, rehearsed {found:,}")
    assert not far, "\n".join(far)


def test_what_is_drawn_follows_the_size_of_the_media():
    """Half of the frames, half of the memory: the rule, and the UNet itself."""
    video = Profile.load("nextgpt-7b").decoders["video"]
    short = video.model_copy(update={"options": video.options | {"num_frames": 8}})
    assert activations.drawing(short) == pytest.approx(activations.drawing(video) / 2, rel=0.01)
    found = [drawing_peak(d.model_dump_json()) for d in (short, video)]
    more = activations.drawing(video) - activations.drawing(short)
    assert found[1] - found[0] == pytest.approx(more, rel=0.05)
