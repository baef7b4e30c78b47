"""Edits of a picture: which picture a reply begins with, and that the pipeline's own image-to-image is what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from anytoany_lib.config import Profile
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.generation.edits import picture_to_edit
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.toyworld import draw

CPU = torch.device("cpu")


def picture(colour: str) -> Image.Image:
    return draw("boat", colour, np.random.default_rng(0))


def profile(strength: float | None) -> Profile:
    tiny = Profile.load("tiny")
    image = tiny.decoders["image"].model_copy(update={"edit_strength": strength})
    return tiny.model_copy(update={"decoders": tiny.decoders | {"image": image}})


def user(*content) -> dict:
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in content
    ]
    return {"role": "user", "content": parts}


def test_a_picture_shown_alone_is_edited_where_the_profile_says_so():
    shown = picture("red")
    asked = [user(shown, "Make it green.")]
    assert picture_to_edit(asked, profile(None), Sampling()) == {}
    edit = picture_to_edit(asked, profile(0.4), Sampling())
    assert edit["strength"] == 0.4 and edit["picture"].size == shown.size
    assert picture_to_edit([user("Draw a cat.")], profile(0.4), Sampling()) == {}
    two = [user(shown, picture("blue"), "Mix them.")]
    assert picture_to_edit(two, profile(0.4), Sampling()) == {}


def test_with_a_strength_of_its_own_a_reply_edits_the_newest_picture():
    made = {"type": "image", "image": picture("blue"), "caption": "a blue boat"}
    talk = [
        user(picture("red"), "Make it blue."),
        {"role": "assistant", "content": [made]},
        user("Now in green."),
    ]
    assert picture_to_edit(talk, profile(0.4), Sampling()) == {}
    edit = picture_to_edit(talk, profile(None), Sampling(strength=0.6))
    assert edit["strength"] == 0.6
    assert np.array_equal(np.asarray(edit["picture"]), np.asarray(made["image"]))
    with pytest.raises(ValueError, match="strength has to be a number above 0, at most 1"):
        Sampling(strength=0.0)


def test_strength_is_for_decoders_of_pictures():
    video = Profile.load("tiny").decoders["video"].model_dump()
    with pytest.raises(ValueError, match="edit_strength: text-to-video begins with noise alone"):
        type(Profile.load("tiny").decoders["video"]).model_validate(video | {"edit_strength": 0.5})


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(Profile.load("tiny").decoders["image"], CPU)


def test_an_edit_is_what_the_bare_pipeline_makes(decoder: Decoder):
    condition = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    steps: list[tuple[int, int]] = []
    edited = decoder.generate(
        condition,
        [3],
        steps=10,
        picture=picture("red"),
        strength=0.5,
        on_step=lambda done, total, shown: steps.append((done, total)),
    )[0]["image"]
    bare = StableDiffusionImg2ImgPipeline(
        **decoder.pipeline.components, requires_safety_checker=False
    )
    expected = bare(
        prompt_embeds=condition,
        negative_prompt_embeds=decoder._unconditional.expand_as(condition),
        image=picture("red"),
        strength=0.5,
        num_inference_steps=10,
        guidance_scale=decoder.config.guidance,
        generator=[torch.Generator("cpu").manual_seed(3)],
        output_type="np",
    ).images[0]
    assert np.array_equal(np.asarray(edited), (expected * 255).round().astype(np.uint8))
    assert steps[-1] == (5, 5)


def test_the_less_may_change_the_more_is_as_it_was(decoder: Decoder):
    condition = torch.zeros(1, 16, 128)
    before = np.asarray(picture("red"), float)

    def away(strength: float) -> float:
        made = decoder.generate(condition, [0], steps=10, picture=picture("red"), strength=strength)
        return float(np.abs(np.asarray(made[0]["image"], float) - before).mean())

    assert away(0.2) < away(0.6) < away(1.0)


def test_a_decoder_that_makes_no_pictures_says_so():
    audio = Decoder(Profile.load("tiny").decoders["audio"], CPU)
    with pytest.raises(ValueError, match="audioldm pipeline cannot edit"):
        audio.generate(torch.zeros(1, 128), [0], picture=picture("red"))
