"""The parts ImageBind is built of: transformer blocks, and each sense's stem, head and scale.

`preprocessor`, `Trunk`, `head` and `postprocessor` make one sense's four stages; the names of
their parameters are those of the published file, so they are not free to change.
Legend: B batch, L tokens, W width, D embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytoany_lib.encoders.imagebind_inputs import (
    FRAMES_PER_CLIP,
    IMU_CHANNELS,
    IMU_PATCH,
    IMU_SAMPLES,
    SENSED_PATCH,
    ImageBindConfig,
    SenseConfig,
)

MAX_TEXT_SCALE = 100.0


def written_out_attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """Attention as two products: forward and back in bfloat16 on a CPU it takes a third of the time
    of the fused kernel, so training uses it."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if is_causal:
        scores = scores + torch.full_like(scores[0, 0], -math.inf).triu(1)
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention; `bias_kv` adds one learned key and value to every sequence."""

    def __init__(self, width: int, heads: int, bias_kv: bool):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.bias_k = nn.Parameter(torch.empty(1, 1, width)) if bias_kv else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, width)) if bias_kv else None
        nn.init.xavier_uniform_(self.in_proj_weight)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                nn.init.xavier_normal_(bias)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(B, T, D) -> (B, T, D); with `causal` a position sees those before it only."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(x), -1, -1).to(k)], dim=1)
            v = torch.cat([v, self.bias_v.expand(len(x), -1, -1).to(v)], dim=1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        attend = written_out_attention if self.training else F.scaled_dot_product_attention
        y = attend(q, k, v, is_causal=causal)  # (B, heads, L, W / heads)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU between, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, sense: SenseConfig, bias_kv: bool):
        super().__init__()
        self.attn = Attention(sense.width, sense.heads, bias_kv)
        self.norm_1 = nn.LayerNorm(sense.width, eps=1e-6)
        self.mlp = Mlp(sense.width)
        self.norm_2 = nn.LayerNorm(sense.width, eps=1e-6)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.attn(self.norm_1(x), causal)
        return x + self.mlp(self.norm_2(x))


class Trunk(nn.Module):
    """A sense's transformer: vision is normalised before, text is causal, others have bias_kv."""

    def __init__(self, name: str, sense: SenseConfig):
        super().__init__()
        self.causal = name == "text"
        self.pre_transformer_layer: nn.Module
        if name == "vision":
            self.pre_transformer_layer = nn.Sequential(nn.LayerNorm(sense.width, eps=1e-6))
        else:
            self.pre_transformer_layer = nn.Identity()
        bias_kv = name not in ("vision", "text")
        self.blocks = nn.ModuleList(Block(sense, bias_kv) for _ in range(sense.blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x, self.causal)
        return x


class StillToFilm(nn.Module):
    """(B, 3, H, W) -> (B, 3, 2, H, W): a picture is a film that does not move."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2) if x.ndim == 4 else x
        return x.expand(-1, -1, FRAMES_PER_CLIP, -1, -1) if x.shape[2] == 1 else x


class Stem(nn.Module):
    """Patches -> tokens (B, L, W), normalised where the sense is not RGB."""

    def __init__(self, proj: nn.Module, norm_width: int | None):
        super().__init__()
        self.proj = proj
        self.norm_layer = nn.LayerNorm(norm_width) if norm_width else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if x.ndim > 3:  # (B, W, ...) of a convolution; a linear stem gives tokens already
            x = x.flatten(2).transpose(1, 2)
        return x if self.norm_layer is None else self.norm_layer(x)


class Positions(nn.Module):
    """Learned positions (1, 1 + patches, W)."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * width**-0.5)


class PatchPreprocessor(nn.Module):
    """Vision, audio, depth or thermal input -> class token and patch tokens with positions."""

    def __init__(self, stem_name: str, stem: Stem, patches: int, width: int, shape: tuple):
        super().__init__()
        self.stem_name, self.shape = stem_name, shape
        self.add_module(stem_name, stem)
        self.pos_embedding_helper = Positions(patches + 1, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures, clips or spectrograms (B, C, ..., H, W) -> tokens (B, 1 + patches, D), the class token first."""
        found = (x.shape[1], *x.shape[-2:])
        if found != self.shape:
            raise ValueError(
                f"channels, height and width must be {self.shape}, found {tuple(found)}"
            )
        tokens = self.get_submodule(self.stem_name)(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1).to(tokens), tokens], dim=1)
        return tokens + self.pos_embedding_helper.pos_embed


class ImuPreprocessor(nn.Module):
    """(B, 6, 2000) readings -> class token and 250 tokens of 8 consecutive readings."""

    def __init__(self, width: int):
        super().__init__()
        self.imu_stem = Stem(nn.Linear(IMU_CHANNELS * IMU_PATCH, width, bias=False), width)
        self.pos_embed = nn.Parameter(torch.randn(1, IMU_SAMPLES // IMU_PATCH + 1, width) * 0.01)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(-1, IMU_PATCH, IMU_PATCH).permute(0, 2, 1, 3).flatten(2)
        tokens = self.imu_stem(patches)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1).to(tokens), tokens], dim=1)
        return tokens + self.pos_embed


class TextPreprocessor(nn.Module):
    """(B, L) token ids, L at most the context length -> (B, L, W)."""

    def __init__(self, config: ImageBindConfig):
        super().__init__()
        length, width = config.context_length, config.text.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, length, width) * 0.01)
        # The published file holds the causal mask; attention is told `is_causal` instead.
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.pos_embed[:, : ids.shape[1]]


class ClassHead(nn.Sequential):
    """Class token -> (B, D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, 0])

    def of_all(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, D): every token through what the class token goes through."""
        return super().forward(tokens)


class TextHead(nn.Module):
    """The token at the end of the text -> (B, D)."""

    def __init__(self, width: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, embed_dim, bias=False)
        )

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        return self.proj(tokens[torch.arange(len(tokens), device=tokens.device), ends])


class Normalise(nn.Module):
    """To unit length over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Scale(nn.Module):
    """Multiply by exp(log_logit_scale), at most 100; a parameter for text, else a constant."""

    def __init__(self, fixed: float | None):
        super().__init__()
        value = torch.tensor(math.log(fixed if fixed is not None else 1 / 0.07))
        if fixed is None:
            self.log_logit_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_logit_scale", value)

    def forward(self, x: Tensor) -> Tensor:
        return self.log_logit_scale.exp().clamp(max=MAX_TEXT_SCALE) * x


def preprocessor(name: str, sense: SenseConfig, config: ImageBindConfig) -> nn.Module:
    """Input -> tokens (B, L, W) of one sense."""
    width, size, bins, frames = sense.width, config.image_size, config.mel_bins, config.mel_frames
    if name == "text":
        return TextPreprocessor(config)
    if name == "imu":
        return ImuPreprocessor(width)
    if name == "vision":
        patch = config.vision_patch
        kernel = (FRAMES_PER_CLIP, patch, patch)
        proj = nn.Sequential(StillToFilm(), nn.Conv3d(3, width, kernel, stride=kernel, bias=False))
        shape = (3, size, size)
        return PatchPreprocessor("rgbt_stem", Stem(proj, None), (size // patch) ** 2, width, shape)
    if name == "audio":
        patch, stride, shape = config.audio_patch, config.audio_stride, (1, bins, frames)
    else:
        patch = stride = SENSED_PATCH
        shape = (1, size, size)
    patches = math.prod((side - patch) // stride + 1 for side in shape[1:])
    stem = Stem(nn.Conv2d(1, width, patch, stride=stride, bias=False), width)
    stem_name = "depth_stem" if name == "depth" else "rgbt_stem"
    return PatchPreprocessor(stem_name, stem, patches, width, shape)


def head(name: str, sense: SenseConfig, embed_dim: int) -> nn.Module:
    """Tokens (B, L, W) -> embedding (B, D) of one sense."""
    if name == "text":
        return TextHead(sense.width, embed_dim)
    # The published indices count a selection (1) and, for imu, a dropout (2) as modules.
    gaps = [nn.Identity()] * (2 if name == "imu" else 1)
    norm = nn.LayerNorm(sense.width, eps=1e-6)
    return ClassHead(norm, *gaps, nn.Linear(sense.width, embed_dim, bias=False))


def postprocessor(name: str, sense: SenseConfig) -> nn.Module:
    """Unit length, and but for vision a scale."""
    return Normalise() if name == "vision" else nn.Sequential(Normalise(), Scale(sense.scale))
