"""The tiny encoder's training: which captions fit which media, its loss, and that a seed decides."""

import numpy as np
import pytest
import torch
from PIL import Image

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import prepare
from anytoany_lib.toyworld import HELD_OUT_PAIRS, Scene, random_scene
from anytoany_lib.toyworld.training.encoder_data import (
    CLASSES,
    IGNORED,
    batch,
    encoder_tokenizer,
    labels,
    render_pool,
    tiny_config,
)
from anytoany_lib.toyworld.training.encoder_training import (
    BATCH,
    contrast,
    matches,
    ruled_out,
    train_encoder,
)


def test_captions_fit_what_they_are_true_of():
    thing, colour = sorted(HELD_OUT_PAIRS)[0]
    other = next(t for t in CLASSES["thing"] if t != thing and (t, colour) not in HELD_OUT_PAIRS)
    free = next(c for c in CLASSES["colour"] if {(thing, c), (other, c)}.isdisjoint(HELD_OUT_PAIRS))
    scenes = [
        Scene(thing, free),
        Scene(thing, free, size="small"),
        Scene(other, free),
        Scene(other, colour),
        Scene(thing),
    ]
    positive, neutral = matches(labels("image", scenes))
    assert torch.equal(positive, torch.eye(5, dtype=torch.bool))
    assert neutral[1, 0] and not neutral[0, 1]  # "a red bell" is true of a small one, not inversely
    assert neutral[0, 4] and not neutral[4, 0]  # a caption without colour leaves it open
    assert neutral[0, 3] and neutral[3, 0]  # crossed, they make a held-out pair
    assert not neutral[0, 2]


def test_the_truth_is_never_ruled_out():
    rng = np.random.default_rng(0)
    for kind in ("image", "audio", "video"):
        wanted = labels(kind, [random_scene(kind, rng) for _ in range(200)])
        for name, target in wanted.items():
            known = target != IGNORED
            assert not ruled_out(name, wanted)[known, target[known]].any()


def test_contrast_is_the_share_of_the_positives():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 4, generator=generator)
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 1] = True
    neutral = torch.zeros_like(positive)
    neutral[2, 3] = True
    plain = []
    for i in range(4):
        mass = [logits[i, j].exp().item() * (not neutral[i, j]) for j in range(4)]
        plain.append(-np.log(sum(m for j, m in enumerate(mass) if positive[i, j]) / sum(mass)))
    assert abs(contrast(logits, positive, neutral).item() - np.mean(plain)) < 1e-5


def test_batches_equal_what_prepare_makes():
    config = tiny_config(600)
    for kind in ("image", "video"):
        pool = render_pool(kind, 3, seed=4, config=config)
        media = pool.media.movedim(-3, -1).numpy()
        if kind == "image":
            media = [Image.fromarray(pixels) for pixels in media]
        expected = torch.stack([prepare(config, kind, medium) for medium in media])
        torch.testing.assert_close(batch(pool, np.arange(3), config), expected)


def test_any_text_has_tokens_and_the_end_is_highest():
    tokenizer = encoder_tokenizer(seed=0, captions=500)
    ids = tokenizer("Grüße aus Zürich, 你好!")["input_ids"]
    assert max(ids) == ids[-1] == len(tokenizer) - 1 and tokenizer.unk_token_id not in ids[:-1]


@pytest.fixture
def one_thread():
    """Small steps on several threads mostly wait for each other, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_same_seed_gives_the_same_weights(tmp_path, monkeypatch, one_thread):
    for kind in BATCH:
        monkeypatch.setitem(BATCH, kind, 6)
    first, _ = train_encoder(tmp_path / "a", steps=2, seed=3, pool_scale=0.004)
    second, _ = train_encoder(tmp_path / "b", steps=2, seed=3, pool_scale=0.004)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert ImageBind.from_checkpoint(tmp_path / "a").fingerprint == (
        ImageBind.from_checkpoint(tmp_path / "b").fingerprint
    )
