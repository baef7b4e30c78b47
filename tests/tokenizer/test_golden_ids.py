"""Token for token: what published weights were trained on, and what published templates render, from the real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import assembled, golden, needs_published

from anytoany_lib.config import Profile
from anytoany_lib.llm import check_tokenizer, load_tokenizer
from anytoany_lib.messages import IGNORED, MessageEncoder, Vocabulary

pytestmark = needs_published
CAPTION, DOGS = "A dog runs on a beach.", "generate a caption"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in ("vicuna-7b-delta-v0", "llama-7b", "Qwen3-8B", "Qwen2.5-1.5B-Instruct"):
        assembled(name, folder)
    return folder


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    return golden("transformers-4.29.2-slow.json")


def encoder_of(name: str, folder: Path, **changes: Any) -> MessageEncoder:
    """The encoder of a profile with the tokenizer of a folder."""
    profile = Profile.load(name)
    llm = profile.llm.model_copy(update={"folder": str(folder), **changes})
    profile = profile.model_copy(update={"llm": llm})
    tokenizer = check_tokenizer(profile)
    rows = profile.llm.vocabulary or profile.llm.architecture["vocab_size"]
    return MessageEncoder(tokenizer, profile, Vocabulary.of(rows, profile))


# LLaMA's repository has a tokenizer.json beside tokenizer.model, Vicuna's has none: neither makes a difference.
@pytest.fixture(scope="module", params=["vicuna-7b-delta-v0", "llama-7b"])
def nextgpt(request: pytest.FixtureRequest, folders: Path) -> MessageEncoder:
    if request.param == "llama-7b":
        profile = Profile.load("nextgpt-7b")
        llm = profile.llm.model_copy(update={"folder": str(folders / "llama-7b")})
        profile = profile.model_copy(update={"llm": llm})
        return MessageEncoder(load_tokenizer(profile), profile, Vocabulary.of(32000, profile))
    return encoder_of("nextgpt-7b", folders / request.param)


@pytest.fixture(scope="module")
def demo(folders: Path) -> MessageEncoder:
    return encoder_of("nextgpt-7b", folders / "vicuna-7b-delta-v0", published_demo=True)


def user(*parts: str | tuple[str, str]) -> dict:
    return {"role": "user", "content": [part(p, "image") for p in parts]}


def assistant(*parts: str | tuple[str, str]) -> dict:
    return {"role": "assistant", "content": [part(p, "caption") for p in parts]}


def part(given: str | tuple[str, str], key: str) -> dict:
    if isinstance(given, str):
        return {"type": "text", "text": given}
    kind, name = given
    return {"type": kind, (kind if key == "image" else key): name}


def read(encoder: MessageEncoder, messages: list[dict], prompt: bool = False) -> list:
    """Ids, with "SOFT" in the places of media."""
    encoded = encoder.encode(messages, prompt)
    places = {at for _, _, at in encoded.media}
    return ["SOFT" if n in places else id for n, id in enumerate(encoded.ids)]


def labels(encoder: MessageEncoder, messages: list[dict]) -> list[int]:
    """Labels as the published training had them: it learnt every signal of a block, this kit the first alone."""
    encoded = encoder.encode(messages)
    signals = {id for block in encoder.vocabulary.signals.values() for id in block}
    return [
        id if id in signals else label
        for id, label in zip(encoded.ids, encoded.labels, strict=True)
    ]


STAGE_3 = [
    user(("image", "beach.png"), "What is in the picture?"),
    assistant("A dog on a beach."),
    user("Show me a video of it."),
    assistant("Here is a video.", ("video", "a dog")),
]


def conversations(truth: dict) -> list[tuple[list[dict], list, list[int]]]:
    """Every conversation of the published training: messages, ids, and labels of what the prompt's head does not have."""
    first, third = truth["training_stage_1"], truth["training_stage_3"]
    shown = [user(("image", "beach.png"), DOGS), assistant(CAPTION)]
    found = [
        (messages, [*said["prompt_wrap"], "SOFT", *said["input_ids"]], said["target_ids"])
        for messages, said in ((shown, first), (STAGE_3, third))
    ]
    for kind, said in truth["training_stage_2"].items():
        messages = [user(CAPTION), assistant(CAPTION, (kind, CAPTION))]
        found.append((messages, [*said["prompt_wrap"], *said["input_ids"]], said["target_ids"]))
    return found


def test_every_conversation_has_the_ids_that_its_training_made(nextgpt: MessageEncoder, truth):
    for messages, ids, targets in conversations(truth):
        assert read(nextgpt, messages) == ids
        assert labels(nextgpt, messages)[-len(targets) :] == targets
        assert set(labels(nextgpt, messages)[: -len(targets)]) == {IGNORED}


def test_replies_read_what_training_read(nextgpt: MessageEncoder, truth):
    for messages, ids, targets in conversations(truth):
        for n, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = read(nextgpt, messages[:n], prompt=True)
                assert ids[: len(prompt)] == prompt
                learnt = [IGNORED] * (len(ids) - len(targets)) + targets
                assert learnt[len(prompt) - 1] == IGNORED and learnt[len(prompt)] != IGNORED


def test_text_by_itself_has_the_ids_of_the_slow_tokenizer(nextgpt: MessageEncoder, truth):
    for text, said in truth["fragments_before_adding"].items():
        assert nextgpt.text_ids(text) == said["ids"], text


def test_text_beside_new_tokens_has_the_ids_of_the_slow_tokenizer(nextgpt: MessageEncoder, truth):
    said = truth["fragments_after_adding"]["Here it is.[IMG0] [IMG1] [IMG2] [IMG3]\n###"]["ids"]
    encoded = nextgpt.encode([user("Draw"), assistant("Here it is. ", ("image", "a bell"))])
    assert encoded.ids[-len(said) :] == said


def test_the_end_is_learnt_as_it_was(nextgpt: MessageEncoder, truth):
    assert nextgpt.stops == [[13, 2277, 29937], [835]] and nextgpt.stop_text == "###"
    assert nextgpt.stops[1:] == truth["stops_id"]["inference.py, demo_app.py"]
    for ids in nextgpt.stops:
        assert nextgpt.tokenizer.decode(ids).strip() == nextgpt.stop_text


def test_the_new_tokens_have_their_ids(nextgpt: MessageEncoder, truth):
    first = nextgpt.vocabulary.base_size
    assert {n: first + i for i, n in enumerate(nextgpt.vocabulary.names)} == truth["added_tokens"]
    assert len(nextgpt.vocabulary) == truth["len_after"]


# What the demo puts between "Human:" and the text itself is a blank of its own.
DEMO = {
    "inference.py, first turn": [user("show me a video. a woman walk a dop in the park.")],
    "demo_app.py, first turn, text": [user(" show me a picture of a cat")],
    "demo_app.py, first turn, image": [user(("image", "cat.jpg"), " What is in the picture?")],
    "demo_app.py, second turn": [
        user("show me a cat"),
        assistant("Here is a cat. ", ("image", "a cat")),
        user(" And now as a sound."),
    ],
}


@pytest.mark.parametrize("name", DEMO)
def test_prompts_of_the_published_demo_have_its_ids(demo: MessageEncoder, truth, name: str):
    assert read(demo, DEMO[name], prompt=True) == truth["inference"][name]["ids"]


def test_the_published_demo_is_off_and_learns_as_ever(
    nextgpt: MessageEncoder, demo: MessageEncoder, truth
):
    assert not Profile.load("nextgpt-7b").llm.published_demo
    for messages, ids, _ in conversations(truth):
        assert read(demo, messages) == ids
    for messages in DEMO.values():
        assert read(nextgpt, messages, prompt=True) != read(demo, messages, prompt=True)


# --- Qwen ---


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("qwen3-8b", "Qwen3-8B", "Qwen3-8B enable_thinking=False"),
        ("qwen2.5-1.5b", "Qwen2.5-1.5B-Instruct", "Qwen2.5-1.5B-Instruct"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_qwen_reads_what_its_own_template_renders(
    folders: Path, name: str, folder: str, said: str, own: bool
):
    """The profile's template, and the published one (`chat_template: null`)."""
    changes = {"chat_template": None} if own else {}
    encoder = encoder_of(name, folders / folder, **changes)
    for case, expected in golden("qwen-chat-templates.json")[said].items():
        encoded = encoder.encode(expected["messages"], expected["add_generation_prompt"])
        assert encoded.ids == expected["ids"], case
        assert encoder.tokenizer.decode(encoded.ids) == expected["text"], case


def test_of_a_qwen3_conversation_any_reply_can_be_learnt_as_it_is_asked_for(folders: Path):
    encoder = encoder_of("qwen3-8b", folders / "Qwen3-8B")
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    shown = {len(encoder.as_learnt(messages, np.random.default_rng(seed))) for seed in range(20)}
    assert shown == {2, 4}
    for length in shown:
        whole = encoder.encode(messages[:length])
        prompt = encoder.encode(messages[: length - 1], prompt=True).ids
        assert whole.ids[: len(prompt)] == prompt
        learnt = [n for n, label in enumerate(whole.labels) if label != IGNORED]
        assert learnt[0] == len(prompt)  # and nothing of the reply before


def test_qwen_has_fewer_words_than_rows(folders: Path):
    for name, folder in (("qwen3-8b", "Qwen3-8B"), ("qwen2.5-1.5b", "Qwen2.5-1.5B-Instruct")):
        encoder = encoder_of(name, folders / folder)
        assert max(encoder.tokenizer.get_vocab().values()) < encoder.vocabulary.base_size == 151936
