"""LLaMA's words as the published weights know them, on words learnt here: what is read together, what is shown, what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from small_nextgpt import small_nextgpt, write_words

from anytoany_lib.config import Profile
from anytoany_lib.figures import anatomy
from anytoany_lib.generation import replies
from anytoany_lib.generation.events import PartialReply
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import IGNORED, MessageEncoder
from anytoany_lib.model import AnyToAny
from anytoany_lib.tokenizer.sentencepiece_legacy import LegacyTokenizer


@pytest.fixture(scope="module")
def small(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return small_nextgpt(tmp_path_factory.mktemp("llama"), profile)


@pytest.fixture(scope="module")
def llama(small: Profile) -> AnyToAny:
    return AnyToAny.from_profile(small, seed=0).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def encoder(llama: AnyToAny) -> MessageEncoder:
    return llama.messages


def user(*parts) -> dict:
    return {"role": "user", "content": [part(p, "image") for p in parts]}


def assistant(*parts) -> dict:
    return {"role": "assistant", "content": [part(p, "caption") for p in parts]}


def part(given, key: str) -> dict:
    if isinstance(given, str):
        return {"type": "text", "text": given}
    return {"type": given[0], (given[0] if key == "image" else key): given[1]}


def words(encoder: MessageEncoder, ids: list[int]) -> list[str]:
    """Words and new tokens by name, a leading blank as "_"."""
    named = {id: word for word, id in encoder.tokenizer.get_vocab().items()}
    new = {
        encoder.vocabulary.base_size + n: name for n, name in enumerate(encoder.vocabulary.names)
    }
    return [new.get(id) or named[id].replace("▁", "_") for id in ids]


def test_blanks_beside_new_tokens_are_dropped_and_others_stay(encoder: MessageEncoder):
    shown = encoder.encode([user(("image", "x.png"), " Here \n", ("audio", "y.wav"), "  ")])
    said = words(encoder, shown.ids)
    assert said[:3] == ["<s>", "_###", "_Human"]
    assert said[4:7] == ["<Img>", "<Img>", "</Img>"]  # no blank before, and one soft token
    after = said[7:]
    assert after[: after.index("<Img>")] == words(encoder, encoder.text_ids("Here"))
    assert after[-1] == "_###"  # blanks and a line break behind a medium are gone


def test_a_reply_ends_as_it_is_learnt_behind_words_and_behind_signals(encoder: MessageEncoder):
    for reply, end in ((["Here."], 0), (["Here. ", ("image", "a bell")], 1)):
        encoded = encoder.encode([user("Draw"), assistant(*reply)])
        mark = encoder.stops[end]
        assert encoded.ids[-len(mark) :] == encoded.labels[-len(mark) :] == mark
        more = encoder.encode([user("Draw"), assistant(*reply), user("Go on")]).ids
        assert words(encoder, more[len(encoded.ids) :])[0] == "_Human"  # and no blank before it
    assert words(encoder, encoder.stops[0]) == ["<0x0A>", "##", "#"]
    assert words(encoder, encoder.stops[1]) == ["_###"]


def test_prompts_are_how_the_learnt_conversation_begins(encoder: MessageEncoder):
    system = {"role": "system", "content": "Be brief."}
    messages = [
        system,
        user("Show me a bell."),
        assistant("Here. ", ("image", "a bell"), " And more."),
        user(("image", "x.png"), "What is it?"),
        assistant(("audio", "ding")),
        user(" And now?\n"),
        assistant(""),
    ]
    whole = encoder.encode(messages)
    for n, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = encoder.encode(messages[:n], prompt=True).ids
            assert whole.ids[: len(prompt)] == prompt
            assert whole.labels[len(prompt) - 1] == IGNORED != whole.labels[len(prompt)]


def test_the_oldest_turns_go_first_and_the_system_message_stays(encoder: MessageEncoder):
    system = {"role": "system", "content": "Be brief."}
    turns = [
        user("one " * 30),
        assistant("two"),
        user(("image", "x.png"), "three " * 30),
        assistant("four"),
        user("five"),
    ]
    full = encoder.encode([system, *turns], prompt=True)
    assert encoder.encode_within([system, *turns], len(full.ids), prompt=True) == (full, 0)
    cut, dropped = encoder.encode_within([system, *turns], len(full.ids) - 1, prompt=True)
    assert dropped == 2 and cut == encoder.encode([system, *turns[2:]], prompt=True)


def test_what_is_dropped_stays_the_same_until_the_limit_is_met_again(encoder: MessageEncoder):
    messages, found = [], []
    for turn in range(40):
        messages.append(user(f"This is question number {turn}."))
        cut, dropped = encoder.encode_within(messages, 400, prompt=True, keep=0.75)
        found.append(dropped)
        assert len(cut.ids) <= 400
        assert cut == encoder.encode(messages[dropped:], prompt=True)
        messages.append(assistant(f"And this is the answer to question {turn}."))
    assert found == sorted(found) and found[0] == 0 and found[-1] > 40
    assert len(set(found)) < len(found) / 2


TYPED = [
    "<s>",
    "</s>",
    "<unk>",
    "[IMG0]",
    "<Img>",
    "</Img>",
    "[VID3]",
    "<0x0A>",
    "###",
    "▁",
    "é",
    "🎉",
]
TYPED += ["日本", " ", "\n", "a", "Human:", "\x00", "\ue0000\ue001", "{{ bos_token }}"]


def test_nothing_that_is_typed_becomes_a_special_token(encoder: MessageEncoder):
    rng = random.Random(0)
    plain = {"▁": " "}  # SentencePiece's own sign for a blank
    for _ in range(300):
        text = "".join(rng.choices(TYPED, k=rng.randint(1, 8)))
        ids = encoder.text_ids(text)
        assert not set(ids) & set(encoder.tokenizer.all_special_ids)
        assert max(ids) < encoder.vocabulary.base_size
        assert encoder.tokenizer.decode(ids) == "".join(plain.get(c, c) for c in text)
        for encoded in (
            encoder.encode([user(text)], prompt=True),
            encoder.encode([user("a"), assistant(text), user(text)]),
        ):
            bos = encoder.tokenizer.bos_token_id
            assert [i for i in encoded.ids if i in encoder.tokenizer.all_special_ids] == [bos]
            assert max(encoded.ids) < encoder.vocabulary.base_size


@pytest.mark.parametrize(
    "text", ["A bell, two  blanks.", "## é 日本 🎉 #1", " \n a\n\nb", "a ## b # ##c"]
)
@pytest.mark.parametrize("end", [0, 1])
def test_a_reply_is_shown_as_it_is_drawn(
    llama: AnyToAny, monkeypatch: pytest.MonkeyPatch, text: str, end: int
):
    """Token by token: no end mark, no half of a character, every blank."""
    tokens = [*llama.messages.text_ids(text), *llama.messages.stops[end]]
    drawn = iter(tokens)
    monkeypatch.setattr(
        "anytoany_lib.generation.decoding._chooser", lambda *_: lambda logits, rows: [next(drawn)]
    )
    pieces = [
        event.text
        for event in replies.stream(llama, [user("a")], 0, Sampling(max_new_tokens=99, kinds=()))
        if hasattr(event, "text")
    ]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces).rstrip() == text.rstrip()
    assert not list(drawn)


def test_words_behind_a_medium_are_shown_and_read_again_as_drawn(
    llama: AnyToAny, monkeypatch: pytest.MonkeyPatch
):
    encoder = llama.messages
    said = encoder.encode([user("a"), assistant("Here.", ("image", "x"), "And more.")])
    prompt = encoder.encode([user("a")], prompt=True).ids
    block = encoder.vocabulary.signals["image"]
    reply = [i for i in said.ids[len(prompt) :] if i not in block[1:]]
    drawn = iter(reply)
    monkeypatch.setattr(
        "anytoany_lib.generation.decoding._chooser", lambda *_: lambda logits, rows: [next(drawn)]
    )
    (draft,) = replies.draw_all(llama, [[user("a")]])
    texts = [p["text"].strip() for p in draft.parts if p["type"] == "text"]
    assert texts == ["Here.", "And more."] and draft.finish_reason == "stop"
    parts = [
        p if p["type"] == "text" else {"type": "image", "image": "x", "caption": "x"}
        for p in draft.parts
    ]
    again = PartialReply(parts).message()
    assert encoder.encode([user("a"), again]).ids == said.ids


@pytest.mark.parametrize(
    ("reply", "last"), [(["Here."], ["↵"]), (["Here.", ("image", "a bell")], ["[IMG0]", "###"])]
)
def test_an_end_mark_is_one_decision_behind_words_and_behind_signals(
    llama: AnyToAny, reply: list, last: list[str]
):
    found = anatomy.decisions(llama, [user("Draw"), assistant(*reply)])
    assert found.tokens[-len(last) :] == last
    assert found.tokens.count("#") == 0 and len(found.likely) == len(found.tokens)
    assert found.likely.sum(1) == pytest.approx(1, abs=1e-5)


def test_a_caption_within_a_sentence_has_no_blank_of_its_own(encoder: MessageEncoder):
    assert encoder.inner_ids("a bell") == encoder.text_ids("a bell")
    assert encoder.text_ids(" a bell")[0] == encoder.text_ids("\n")[0]  # what it would begin with


def test_only_tokenizer_model_is_read(small: Profile, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.model in .*reads this file"):
        LegacyTokenizer(tmp_path)
    write_words(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert (
        LegacyTokenizer(tmp_path).get_vocab() == LegacyTokenizer(Path(small.llm.folder)).get_vocab()
    )
    whole = (tmp_path / "tokenizer.model").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"version https://git-lfs"):
        (tmp_path / "tokenizer.model").write_bytes(broken)
        with pytest.raises(ValueError, match="tokenizer.model .*no SentencePiece model, or is cut"):
            LegacyTokenizer(tmp_path)


def test_profiles_say_what_goes_with_these_words(small: Profile):
    settings = small.model_dump()
    for change, problem in (
        ({"chat_template": None}, "give chat_template"),
        ({"tokenizer": "auto", "published_demo": True}, "published_demo goes with"),
    ):
        with pytest.raises(ValueError, match=problem):
            Profile.parse({**settings, "llm": settings["llm"] | change}, "test")


def test_the_demo_puts_a_bos_before_every_text(small: Profile, encoder: MessageEncoder):
    llm = small.llm.model_copy(update={"published_demo": True})
    demo = MessageEncoder(
        encoder.tokenizer, small.model_copy(update={"llm": llm}), encoder.vocabulary
    )
    messages = [user("a", ("image", "x"), "b", ("audio", "y"), ("image", "z"))]
    bos = encoder.tokenizer.bos_token_id
    assert encoder.encode(messages, prompt=True).ids.count(bos) == 1
    said = demo.encode(messages, prompt=True)
    assert said.ids.count(bos) == 3 and words(demo, said.ids)[-1] == ":"
    assert demo.encode(messages) == encoder.encode(messages)
    assert len(said.media) == 3 and all(
        said.ids[at] == demo.vocabulary.wrappers[0] for *_, at in said.media
    )
