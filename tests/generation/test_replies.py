"""Replies: blocks that cannot be malformed, batches that agree with single replies, limits, seeds and events."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from scripts import count_reads, tokens_of

from anytoany_lib.batches import collate
from anytoany_lib.generation import decoding
from anytoany_lib.generation import replies as generation
from anytoany_lib.generation.events import (
    Done,
    MediaFailed,
    MediaProgress,
    MediaReady,
    MediaStarted,
    PartialReply,
    TextDelta,
)
from anytoany_lib.generation.kv_cache import PrefixCache
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import draw


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def scripted(model: AnyToAny, monkeypatch: pytest.MonkeyPatch):
    """Replaces the choice of tokens (and nothing else) by a script for each row."""

    def install(*scripts: list) -> None:
        rows = [[t for item in script for t in tokens_of(model, item)] for script in scripts]
        steps = itertools.count()

        def chooser(model, sampling, seeds):
            def choose(logits, which):
                step = next(steps)
                return [rows[n][min(step, len(rows[n]) - 1)] for n in which]

            return choose

        monkeypatch.setattr(decoding, "_chooser", chooser)

    return install


def drafts_of(
    model: AnyToAny, count: int, sampling: Sampling | None = None
) -> list[decoding.Draft]:
    prompts = [model.messages.encode(ask("Go " * (n + 1)), prompt=True) for n in range(count)]
    drafts = {}
    for row, draft, _ in decoding.decode(model, prompts, sampling or Sampling(), range(count)):
        drafts[row] = draft
    return [drafts[row] for row in range(count)]


def test_a_finished_reply_leaves_the_batch_and_the_others_go_on_as_ever(
    model: AnyToAny, scripted, monkeypatch: pytest.MonkeyPatch
):
    sizes = count_reads(monkeypatch, axis=0)
    texts = [["Yes", "STOP"], ["One two three four", "image", "STOP"], ["One two", "STOP"]]
    scripted(*texts)
    drafts = drafts_of(model, 3)
    assert sizes[0] == 3 and sizes[-1] == 1 and sorted(sizes, reverse=True) == sizes
    assert [draft.finish_reason for draft in drafts] == ["stop"] * 3
    assert [draft.text().strip() for draft in drafts] == ["Yes", "One two three four", "One two"]
    scripted(texts[1])
    prompt = model.messages.encode(ask("Go " * 2), prompt=True)
    *_, (_, alone, _) = decoding.decode(model, [prompt], Sampling(), [0])
    together = next(part for part in drafts[1].parts if part["type"] == "image")["condition"]
    expected = next(part for part in alone.parts if part["type"] == "image")["condition"]
    torch.testing.assert_close(together, expected, rtol=1e-3, atol=1e-3)


def test_text_goes_on_after_each_block_and_rows_do_not_disturb_each_other(
    model: AnyToAny, scripted
):
    scripted(["One", "image", " two", "audio", "STOP"], ["Only some plain words here", "STOP"])
    first, second = drafts_of(model, 2)
    shown = [part.get("text", part["type"]) for part in first.parts]
    assert [item for item in shown if item] == ["One", "image", " two", "audio"]
    assert [part["text"] for part in second.parts] == ["Only some plain words here"]
    assert {first.finish_reason, second.finish_reason} == {"stop"}


def test_a_condition_is_what_one_forward_pass_over_the_finished_reply_gives(
    model: AnyToAny, scripted
):
    scripted(
        ["One", "image", " two", "video", "STOP"], ["A longer beginning of it", "image", "STOP"]
    )
    for row, draft in enumerate(drafts_of(model, 2)):
        reply = {"role": "assistant", "content": draft.parts}
        encoded = model.messages.encode([*ask("Go " * (row + 1)), reply])
        batch = collate([encoded], lambda *_: None, None, 1)
        inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
        hidden = model.hidden_states(inputs, batch.mask)
        made = [part for part in draft.parts if part["type"] != "text"]
        for (kind, _, at), part in zip(encoded.signals, made, strict=True):
            length = len(model.vocabulary.signals[kind])
            expected = model.project(kind, hidden[:, at : at + length])[0]
            torch.testing.assert_close(part["condition"], expected, rtol=0.1, atol=0.1)


def test_only_text_and_allowed_signals_can_be_drawn(model: AnyToAny):
    choose = decoding._chooser(model, Sampling(kinds=("audio",)), [0])
    logits = torch.zeros(1, len(model.vocabulary))
    logits[0, model.vocabulary.base_size :] = 10.0  # the model wants nothing but new tokens
    assert choose(logits, [0]) == [model.vocabulary.signals["audio"][0]]
    choose = decoding._chooser(model, Sampling(temperature=5.0, top_p=1.0), [0])
    firsts = {block[0] for block in model.vocabulary.signals.values()} | {model.vocabulary.say}
    drawn = {
        choose(
            torch.where(
                torch.arange(len(model.vocabulary)) < model.vocabulary.base_size, -1e4, 0.0
            )[None],
            [0],
        )[0]
        for _ in range(40)
    }
    assert drawn == firsts


def test_greedy_replies_are_the_same_alone_and_in_a_batch(model: AnyToAny):
    questions = [
        "What is the capital of France?",
        "What is the opposite of hot?",
        "How many days are in a week?",
    ]
    sampling = Sampling(kinds=(), max_new_tokens=8)
    together = generation.reply_all(model, [ask(q) for q in questions], sampling=sampling)
    alone = [model.chat(ask(q), sampling=sampling) for q in questions]
    assert "Paris" in alone[0]["content"][0]["text"]
    assert [m["content"][0]["text"][:12] for m in together] == [
        m["content"][0]["text"][:12] for m in alone
    ]


def test_the_same_seed_gives_the_same_reply_and_another_seed_another(model: AnyToAny):
    sampling = Sampling(temperature=1.0, kinds=(), max_new_tokens=12)
    replies = [model.chat(ask("Tell me a story."), seed, sampling) for seed in (1, 1, 2)]
    assert replies[0] == replies[1] != replies[2]


def test_a_reply_is_cut_at_its_limit_and_says_so(model: AnyToAny):
    *_, done = model.stream(
        ask("Count to a thousand."), sampling=Sampling(kinds=(), max_new_tokens=5)
    )
    assert done.finish_reason == "length"
    assert 0 < len(model.messages.text_ids(done.message["content"][0]["text"])) <= 5


def test_characters_of_several_tokens_arrive_whole(model: AnyToAny, scripted):
    scripted(["Grüße 🙂 日本", "STOP"])
    deltas = [e.text for e in model.stream(ask("Hi")) if isinstance(e, TextDelta)]
    assert "".join(deltas) == "Grüße 🙂 日本"
    assert not any("\ufffd" in delta for delta in deltas)


def test_events_of_a_reply_with_media(model: AnyToAny, scripted):
    scripted(["See:", "image", " Hear:", "audio", "STOP"])
    events = list(model.stream(ask("Go"), sampling=Sampling(steps=2)))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "See: Hear:"
    assert [(e.index, e.kind) for e in events if isinstance(e, MediaStarted)] == [
        (1, "image"),
        (3, "audio"),
    ]
    progress = [(e.index, e.done, e.total) for e in events if isinstance(e, MediaProgress)]
    assert progress[:2] == [(1, 1, 2), (1, 2, 2)]
    image, audio = (e.part for e in events if isinstance(e, MediaReady))
    assert image["image"].size == (64, 64)
    assert (
        audio["audio"].dtype == "float32"
        and audio["audio"].ndim == 1
        and audio["sampling_rate"] == 16000
    )
    done = events[-1]
    assert isinstance(done, Done)
    assert [part["type"] for part in done.message["content"]] == ["text", "image", "text", "audio"]


def test_one_thread_computes_all_of_a_reply(
    model: AnyToAny, scripted, monkeypatch: pytest.MonkeyPatch
):
    """What is shown is read, words are drawn and media made by the worker, so that torch has one pool of threads."""
    computing = set()

    def watched(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def work(*arguments, **named):
            computing.add((name, threading.get_ident()))
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, work)

    watched(model, "hidden_states")
    watched(model.encoder, "embed")
    watched(model.decoder("image").pipeline.unet, "forward")
    scripted(["Here", "image", "STOP"])
    picture = {"type": "image", "image": draw("bell", "red", np.random.default_rng(0))}
    shown = [{"role": "user", "content": [picture, {"type": "text", "text": "Again."}]}]
    *_, done = generation.stream(model, shown)
    assert isinstance(done, Done)
    assert {name for name, _ in computing} == {"hidden_states", "embed", "forward"}
    worker = model.media_models.worker.submit(threading.get_ident).result()
    assert {thread for _, thread in computing} == {worker}


def test_the_same_seed_gives_the_same_picture(model: AnyToAny, scripted):
    pictures = []
    for seed in (3, 3, 4):
        scripted(["image", "STOP"])
        reply = model.chat(ask("Go"), seed, Sampling(steps=2))
        pictures.append(reply["content"][0]["image"].tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_closing_a_stream_ends_the_diffusion(model: AnyToAny, scripted):
    scripted(["video", "STOP"])
    events = model.stream(ask("Go"), sampling=Sampling(steps=30))
    steps = [event for event in itertools.islice(events, 3) if isinstance(event, MediaProgress)]
    events.close()
    assert steps and steps[-1].done < 30


def test_a_condition_that_is_not_finite_is_heard_of(
    model: AnyToAny, scripted, monkeypatch: pytest.MonkeyPatch
):
    scripted(["Text first.", "image", "STOP"])
    monkeypatch.setattr(model, "project", lambda kind, states: torch.full((1, 16, 128), torch.nan))
    events = list(model.stream(ask("Go")))
    (failed,) = [event for event in events if isinstance(event, MediaFailed)]
    assert failed.index == 1 and "not finite" in str(failed.error)
    assert [part["type"] for part in events[-1].message["content"]] == ["text"]
    scripted(["Text first.", "image", "STOP"])
    with pytest.raises(ValueError, match="not finite"):
        model.chat(ask("Go"))


def test_previews_and_lengths_are_those_of_the_sampling(model: AnyToAny, scripted):
    scripted(["image", "audio", "video", "STOP"])
    sampling = Sampling(steps=4, frames=4, seconds=0.5, preview_every=2)
    events = list(model.stream(ask("Go"), sampling=sampling))
    shown = [
        (event.index, event.done, event.preview.size)
        for event in events
        if isinstance(event, MediaProgress) and event.preview
    ]
    assert shown == [(0, 2, (64, 64)), (0, 4, (64, 64))]
    _, audio, video = events[-1].message["content"]
    assert len(audio["audio"]) == 8000 and len(video["video"]) == 4
    scripted(["audio", "video", "STOP"])
    (reply,) = generation.reply_all(model, [ask("Go")], sampling=sampling)
    audio, video = reply["content"]
    assert len(audio["audio"]) == 8000 and len(video["video"]) == 4


def test_a_stream_that_is_told_to_stop_is_done_with_what_there_is(model: AnyToAny, scripted):
    scripted(["One", " two", "image", "STOP"])
    *events, done = generation.stream(model, ask("Go"), stopping=lambda: True)
    assert events == [] and done == Done({"role": "assistant", "content": []}, "stopped")
    scripted(["One", " two", "image", "STOP"])
    seen: list = []
    for event in generation.stream(model, ask("Go"), stopping=lambda: len(seen) >= 2):
        seen.append(event)
    assert [type(event) for event in seen] == [TextDelta, TextDelta, Done]
    assert seen[-1] == Done(
        {"role": "assistant", "content": [{"type": "text", "text": "One two"}]}, "stopped"
    )


def test_text_around_media_keeps_its_blanks_and_is_not_read_again(
    model: AnyToAny, scripted, lengths: list[int]
):
    scripted(["It is here:\n", "image", " and there", "STOP"])
    cache, sampling = PrefixCache(), Sampling(steps=1)
    *_, done = generation.stream(model, ask("Go"), 0, sampling, cache)
    texts = [part["text"] for part in done.message["content"] if part["type"] == "text"]
    assert texts == ["It is here:\n", " and there"]
    read = len(cache.positions)
    messages = [*ask("Go"), done.message, *ask("Thanks")]
    lengths.clear()
    list(generation.stream(model, messages, 0, sampling, cache))
    assert lengths[0] == len(model.messages.encode(messages, prompt=True).ids) - read


def test_a_reply_has_no_blanks_around_it():
    parts = [{"type": "text", "text": text} for text in ("\n Yes, ", " ", " indeed. \n")]
    assert PartialReply(parts).message()["content"] == [
        {"type": "text", "text": "Yes, "},
        {"type": "text", "text": " indeed."},
    ]
    picture = {"type": "image", "image": "made", "condition": "gone", "caption": "kept"}
    unmade = {"type": "audio", "condition": "gone"}
    assert PartialReply([unmade, picture]).message()["content"] == [
        {"type": "image", "image": "made", "caption": "kept"}
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("kinds", ("image", "smell")),
        ("guidance", 0.5),
        ("steps", 0),
        ("steps", "many"),
        ("frames", 1),
        ("seconds", 0.0),
        ("seconds", float("inf")),
        ("preview_every", -1),
        ("preview_every", None),
    ],
)
def test_sampling_that_cannot_be_says_what_was_expected_and_found(name: str, value):
    found = "smell" if name == "kinds" else value
    with pytest.raises(ValueError, match=f"{name} ha(s|ve) to be .*found {found!r}"):
        Sampling(**{name: value})


def test_sampling_takes_whole_numbers_where_numbers_are_expected():
    assert Sampling(temperature=1, seconds=2, kinds=["audio"]).kinds == ("audio",)
    assert Sampling(steps=np.int64(3), guidance=1).steps == 3


@pytest.fixture
def lengths(monkeypatch):
    return count_reads(monkeypatch)


def test_with_a_memory_a_turn_reads_only_what_is_new_and_says_the_same(
    model: AnyToAny, lengths: list[int]
):
    picture = {"type": "image", "image": draw("bell", "red", np.random.default_rng(0))}
    sampling = Sampling(max_new_tokens=6, kinds=())
    cache, messages = PrefixCache(), []
    for turn, content in enumerate(([picture], "And what is the capital of France?", "Thanks!")):
        messages.append({"role": "user", "content": content})
        lengths.clear()
        *_, done = generation.stream(model, messages, 0, sampling, cache)
        first = lengths[0]
        whole = len(model.messages.encode(messages, prompt=True).ids)
        *_, alone = generation.stream(model, messages, 0, sampling)
        assert done.message == alone.message
        assert first == whole if turn == 0 else first < 0.7 * whole
        messages.append(done.message)
    edited = [*messages[:2], {"role": "user", "content": "And of Italy?"}]
    lengths.clear()
    *_, done = generation.stream(model, edited, 0, sampling, cache)
    first = lengths[0]
    *_, alone = generation.stream(model, edited, 0, sampling)
    assert done.message == alone.message
    assert first < len(model.messages.encode(edited, prompt=True).ids) / 2


def test_the_same_tokens_around_another_picture_are_read_anew(model: AnyToAny, lengths: list[int]):
    rng, cache = np.random.default_rng(0), PrefixCache()
    sampling = Sampling(max_new_tokens=2, kinds=())
    for thing in ("bell", "car"):
        lengths.clear()
        shown = [{"type": "image", "image": draw(thing, "red", rng)}]
        list(generation.stream(model, [{"role": "user", "content": shown}], 0, sampling, cache))
    soft = model.messages.soft_tokens
    assert soft < lengths[0] < len(cache.positions)


def test_a_memory_forgets_after_an_error_and_not_after_a_stop(
    model: AnyToAny, monkeypatch: pytest.MonkeyPatch
):
    cache, sampling = PrefixCache(), Sampling(max_new_tokens=6, kinds=())
    events = generation.stream(model, ask("Hello, who are you?"), 0, sampling, cache)
    next(events)
    events.close()
    assert cache.positions and cache.past_key_values.get_seq_length() == len(cache.positions)

    def broken(logits, rows):
        raise RuntimeError("out of cache")

    monkeypatch.setattr(decoding, "_chooser", lambda *_: broken)
    with pytest.raises(RuntimeError, match="out of cache"):
        list(generation.stream(model, ask("Hello, who are you?"), 0, sampling, cache))
    assert cache.positions == [] and cache.past_key_values.get_seq_length() == 0


def test_a_broken_medium_of_a_batch_is_missing_and_the_others_are_as_ever(model: AnyToAny):
    conditions = torch.randn(3, *model.profile.decoders["image"].condition)
    sampling = Sampling(steps=2)

    def made(conditions: torch.Tensor) -> list[dict]:
        drafts = [decoding.Draft([{"type": "image", "condition": one}]) for one in conditions]
        generation.render_all(model, drafts, 0, sampling)
        return [draft.parts[0] for draft in drafts]

    whole = made(conditions)
    conditions[1, 0] = torch.nan
    first, broken, last = made(conditions)
    assert "not finite" in broken["failed"] and "image" not in broken
    assert PartialReply([broken]).message()["content"] == []
    for part, before in ((first, whole[0]), (last, whole[2])):
        assert np.array_equal(np.asarray(part["image"]), np.asarray(before["image"]))


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_values_that_are_not_finite_are_seen_before_they_are_bytes(
    model: AnyToAny, kind: str, monkeypatch: pytest.MonkeyPatch
):
    pipeline = model.decoder(kind).pipeline
    decode = pipeline.vae.decode

    def broken(latents: torch.Tensor, *more, **others):
        found = decode(latents, *more, **others)
        found[0][0] = torch.nan
        return found

    monkeypatch.setattr(pipeline.vae, "decode", broken)
    condition = torch.randn(1, *model.profile.decoders[kind].condition)
    draft = decoding.Draft([{"type": kind, "condition": condition[0]}])
    generation.render_all(model, [draft], 0, Sampling(steps=1))
    assert "decoder gave values that are not finite" in draft.parts[0]["failed"]


def test_no_two_media_of_an_evaluation_share_a_seed():
    seeds = [generation.media_seed(row, part) for row in range(2000) for part in range(6)]
    assert len(set(seeds)) == len(seeds)
