"""What is published of the repositories that the profiles name: sizes, numbers and file names, written down compactly.

`REPOSITORIES` has a `Repository` for each. Facts were read in the published configurations and file lists; texts and
vocabularies of others are not here.
"""

from __future__ import annotations

from .layout import Config, Part, Repository
from .pipelines import STABLE_DIFFUSION, ZEROSCOPE, audioldm

_LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "max_sequence_length": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.28.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
_LLAMA_ENDS = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_QWEN: Config = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
_QWEN3 = _QWEN | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "sliding_window": None,
    "transformers_version": "4.51.0",
}
_QWEN25 = _QWEN | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "transformers_version": "4.43.1",
}
_QWEN_ENDS = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "top_k": 20,
}


def _qwen3(
    name: str,
    sizes: tuple[int, int, int, int],
    kind: str,
    shard_bytes: int | None = 4 * 10**9,
    tied: bool = True,
) -> Repository:
    """A Qwen3 of these sizes: hidden, intermediate, layers, heads."""
    hidden, intermediate, layers, heads = sizes
    config = _QWEN3 | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "tie_word_embeddings": tied,
    }
    part = Part("", kind, config, "BF16", ("model.safetensors",), shard_bytes)
    ends = _QWEN_ENDS | {"temperature": 0.6, "top_p": 0.95}
    return Repository(name, (part,), {"generation_config.json": ends}, {"": "qwen3"})


_VICUNA = _LLAMA | {"vocab_size": 32001}
_SENSES = ("vision", "text", "audio", "depth", "thermal", "imu")
_SIZES = ((1280, 32, 16), (1024, 24, 16), (768, 12, 12), (384, 12, 8), (768, 12, 12), (512, 6, 8))
_SCALES = (None, None, 20.0, 5.0, 10.0, 5.0)
IMAGEBIND: Config = {
    "embed_dim": 1024,
    **{
        sense: {"width": width, "blocks": blocks, "heads": heads, "scale": scale}
        for sense, (width, blocks, heads), scale in zip(_SENSES, _SIZES, _SCALES, strict=True)
    },
}
_NEXTGPT: Config = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "words": 32000,
    "embed_dim": 1024,
    "projection": {"width": 512, "heads": 4, "feed_forward": 2048},
    "image": {"width": 768},
    "audio": {"width": 512},
    "video": {"width": 1024},
}
REPOSITORIES: dict[str, Repository] = {
    one.name: one
    for one in (
        Repository(
            "lmsys/vicuna-7b-delta-v0",
            (Part("", "llama delta", _VICUNA, "F16", ("pytorch_model.bin",), 10**10),),
            {"generation_config.json": _LLAMA_ENDS},
            {"": "llama"},
        ),
        Repository(
            "huggyllama/llama-7b",
            (Part("", "llama", _LLAMA, "F16", ("model.safetensors", "pytorch_model.bin"), 10**10),),
            {"generation_config.json": _LLAMA_ENDS},
            {"": "llama, both forms"},
        ),
        # Not published: what the kit makes of the two above, which it keeps without rotary_emb.inv_freq.
        Repository(
            "vicuna-7b-v0",
            (Part("", "causal", _VICUNA, "F16", ("model.safetensors",), 2 * 2**30),),
            {"generation_config.json": _LLAMA_ENDS},
            {"": "llama"},
        ),
        # The smaller ones are tied; 0.6B and 1.7B store their head all the same, 4B does not.
        _qwen3("Qwen/Qwen3-0.6B", (1024, 3072, 28, 16), "causal with its head", None),
        _qwen3("Qwen/Qwen3-1.7B", (2048, 6144, 28, 16), "causal with its head"),
        _qwen3("Qwen/Qwen3-4B", (2560, 9728, 36, 32), "causal"),
        _qwen3("Qwen/Qwen3-8B", (4096, 12288, 36, 32), "causal", tied=False),
        Repository(
            "Qwen/Qwen2.5-1.5B-Instruct",
            (Part("", "causal", _QWEN25, "BF16", ("model.safetensors",)),),
            {
                "generation_config.json": _QWEN_ENDS
                | {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8}
            },
            {"": "qwen2.5"},
        ),
        STABLE_DIFFUSION,
        audioldm("cvssp/audioldm-l-full", [256, 512, 768, 1280]),
        audioldm("cvssp/audioldm-s-full-v2", [128, 256, 384, 640]),
        ZEROSCOPE,
        Repository(
            "ChocoWu/nextgpt_7b_tiva_v0",
            (Part("", "nextgpt", _NEXTGPT, "F16", ("pytorch_model.pt",)),),
            {"config.json": _LLAMA | {"vocab_size": 32038, "transformers_version": "4.29.2"}},
            {"": "llama, with signals"},
        ),
        Repository(
            "imagebind_huge.pth",
            (Part("", "imagebind", IMAGEBIND, "F32", ("imagebind_huge.pth",)),),
        ),
    )
}
