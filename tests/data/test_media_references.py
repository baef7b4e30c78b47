"""A record that names media never becomes a row without them: every key, mark, role and turn that projects publish."""

from __future__ import annotations

import pytest

from anytoany_lib.data.formats.instructions import conversation_of
from anytoany_lib.data.formats.media_references import Unusable

IMAGE, SECOND, SOUND, FILM = (
    ("image", "a.jpg"),
    ("image", "b.jpg"),
    ("audio", "a.wav"),
    ("video", "v.mp4"),
)


def human(value, **more) -> dict:
    return {"from": "human", "value": value, **more}


def gpt(value, **more) -> dict:
    return {"from": "gpt", "value": value, **more}


def talk(*said, **more) -> dict:
    """A record of turns, a human's first."""
    turns = [(gpt if n % 2 else human)(value) for n, value in enumerate(said)]
    return {"conversations": turns, **more}


def flat(record: dict) -> list[list]:
    """Per message its texts as they are, and its media as (kind, name or told caption)."""
    return [
        [
            p["text"] if p["type"] == "text" else (p["type"], p.get(p["type"]) or p.get("caption"))
            for p in message["content"]
        ]
        for message in conversation_of(record)
    ]


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ({"image": "a.jpg"}, IMAGE),
        ({"images": ["a.jpg"]}, IMAGE),
        ({"image_path": "a.jpg"}, IMAGE),
        ({"imageFile": "a.jpg"}, IMAGE),
        ({"img": "a.jpg"}, IMAGE),
        ({"image": "000123"}, ("image", "000123")),
        ({"images": [{"path": "a.jpg", "bytes": None}]}, IMAGE),
        ({"image": {"file_name": "a.jpg", "height": 3}}, IMAGE),
        ({"media": {"items": [{"url": "a.jpg"}]}}, IMAGE),
        ({"meta": {"files": ["a.jpg"]}}, IMAGE),
        ({"whatever": "a.jpg"}, IMAGE),
        ({"id": "a.jpg"}, IMAGE),
        ({"videos": ["v.mp4"]}, FILM),
        ({"clip": "v.mp4"}, FILM),
        ({"image": "v.mp4"}, FILM),
        ({"audios": "a.wav"}, SOUND),
        ({"wav": "a.wav"}, SOUND),
        ({"image": "a.jpg", "image_url": "https://x/b.jpg", "image_id": 7, "width": 8}, IMAGE),
        ({"image": "train/a.jpg", "id": "a.jpg"}, ("image", "train/a.jpg")),
    ],
)
def test_any_key_that_names_a_medium_shows_it(named: dict, shown: tuple):
    assert flat(talk("What?", "That.", **named)) == [[shown, "What?"], ["That."]]


@pytest.mark.parametrize(
    ("named", "key"),
    [
        ({"image_id": 42}, "image_id"),
        ({"image_url": "https://x/a.jpg"}, "image_url"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"image": {"bytes": "AAAA"}}, "bytes"),
        ({"image": 7}, "image"),
        ({"has_image": True}, "has_image"),
        ({"num_videos": 1}, "num_videos"),
        ({"image_size": [640, 480]}, "image_size"),
        ({"audio": {"array": [0.1, 0.2], "sampling_rate": 16000}}, "audio"),
        ({"video": {"frames": [[1]]}}, "video"),
        ({"output_image": "o.jpg"}, "output_image"),
        ({"image_captions": ["a lake"]}, "image_captions"),
        ({"image": "a.jpg\nb.jpg"}, "image"),
    ],
)
def test_what_names_a_medium_and_no_file_drops_the_record_with_the_key(named: dict, key: str):
    with pytest.raises(Unusable, match=key):
        conversation_of(talk("What?", "That.", **named))


def test_keys_of_nothing_name_nothing():
    empty = {
        "image": None,
        "images": [],
        "video": "",
        "num_images": 0,
        "audio": {},
        "image_list": [],
    }
    words = {"image_caption": "a dog", "category": "photo", "path": "src/app.ts", "id": "000123"}
    legacy = {"image_name": "00000000000"}
    assert flat(talk("a", "b", **empty, **words, **legacy)) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("mark", "shown"),
    [
        *[
            (mark, IMAGE)
            for mark in (
                "<image>", "<IMAGE>", "<img>", "<Image>", "<ImageHere>", "<Img><ImageHere></Img>",
                "<|image|>", "<|image_1|>", "<image_1>", "<image1>", "<image 1>", "<|image_pad|>",
                "<|vision_start|><|image_pad|><|vision_end|>", "<img><IMG_CONTEXT></img>", "[IMG]", "[IMAGE]",
                "<image_placeholder>", "<im_start><image><im_end>", "<start_of_image>", "<image>./</image>",
                "<__dj__image>", "<vila/image>", "<image_soft_token>", "<|image_start|><image><|image_end|>",
                "<|begin_of_image|><|endoftext|><|end_of_image|>", "<img>a.jpg</img>", "<Img>a.jpg</Img>",
                "<image>a.jpg</image>", '<img src="a.jpg">', "![a lamp](a.jpg)", "Picture 1: <img>a.jpg</img>",
                "Picture 1:", "<media>", "<|vision_start|><|vision_end|>", "<video>",
            )
        ],
        *[
            (mark, SOUND)
            for mark in (
                "<audio>", "<|AUDIO|>", "<|audio_bos|><|AUDIO|><|audio_eos|>", "<|audio_1|>", "<AudioHere>",
                "<Speech><SpeechHere></Speech>", "<audio>a.wav</audio>", "Audio 1: <audio>a.wav</audio>", "<sound>",
            )
        ],
        *[
            (mark, FILM)
            for mark in (
                "<video>", "<Video><VideoHere></Video>", "<Video><ImageHere></Video>", "<|video_pad|>",
                "<vid_start><vid_patch><vid_end>", "<vila/video>", "<video>v.mp4</video>", "<image>", "<image>\n",
            )
        ],
    ],
)  # fmt: skip
def test_any_mark_stands_for_the_medium_that_is_named(mark: str, shown: tuple):
    kind, name = shown
    first = flat(talk(f"Look: {mark} What?", "That.", **{kind: name}))[0]
    assert first == ["Look:", shown, "What?"]
    later = flat(talk("Hi", "Hello", f"{mark} What?", "That.", **{f"{kind}s": [name]}))
    assert later == [["Hi"], ["Hello"], [shown, "What?"], ["That."]]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (talk("<image_2>, then <image_1>", "b", image=["a.jpg", "b.jpg"]), [[SECOND, ", then", IMAGE], ["b"]]),
        (talk("<image_0> or <image_1>", "b", image={"<image_0>": "a.jpg", "<image_1>": "b.jpg"}), [[IMAGE, "or", SECOND], ["b"]]),
        (talk("Picture 1: <img>a.jpg</img> Picture 2: <img>b.jpg</img>", "b"), [["Picture 1:", IMAGE, "Picture 2:", SECOND], ["b"]]),
        (talk("<audio>\nDo they match?", "b", image="a.jpg", audio="a.wav"), [[IMAGE, SOUND, "Do they match?"], ["b"]]),
        ({"conversations": [human("Hi"), gpt("Hi"), human("What?", image="a.jpg"), gpt("b")]}, [["Hi"], ["Hi"], [IMAGE, "What?"], ["b"]]),
        (talk("<image>\nWhat?", "The <image> shows a lamp.", image="a.jpg"), [[IMAGE, "What?"], ["The <image> shows a lamp."]]),
    ],
)  # fmt: skip
def test_media_stand_where_they_are_marked(record: dict, expected: list):
    assert flat(record) == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (talk("<image>\nWhich?", "b", image=["a.jpg", "b.jpg"]), "2 media under image, 1 marks <image>"),
        (talk("<image><image>\nWhich?", "b", image="a.jpg"), "1 media under image, 2 marks <image>"),
        (talk("<image><image>\nWhich?", "b", video="v.mp4"), "1 media under video, 2 marks <image>"),
        (talk("<image>What?", "b", image="a.jpg", second="b.jpg"), "2 media"),
        (talk("<img>a.jpg</img> and <image>?", "b"), "no image for the mark <image>"),
        (talk("Hi", "Hello", "<image> What?", image="a.jpg"), "question without a reply holds image"),
        (talk("Draw a dog", "<image>", image="a.jpg"), "no caption for a generated image"),
        (talk("Draw a dog", "Here: <image>", image="a.jpg"), "no caption for a generated image"),
        (talk("Draw", "<img>a.jpg</img>"), "no caption for a generated image"),
        (talk("<image>", "b"), "no image for the mark <image>"),
        (talk("Draw", "<image>", image_captions=["in", "out"]), "image_captions tells of more"),
        ({"conversations": [human("What?", input_modality="image"), gpt("b")]}, "input_modality names image"),
        (talk("a", "b", image_list=[{"image_name": "a.jpg", "caption": "c"}]), "image_list names what no turn marks"),
        (talk("a", "b", deep=[[[[[[[[[[[[[["a.jpg"]]]]]]]]]]]]]]), "nested too deep"),
    ],
)  # fmt: skip
def test_what_does_not_come_out_even_is_dropped_with_the_reason(record: dict, reason: str):
    with pytest.raises(Unusable, match=reason):
        conversation_of(record)


@pytest.mark.parametrize(
    "said",
    [
        "What does the SVG element <image> do?",
        "Use <video>:\n```\n<video>\n<source src=a.mp4>\n</video>\n```",
        "The <image> and <picture> tags, <img src='logo.png'>, ![x](https://x/a.png)",
        "<|im_start|>user, [IMG], <image_1>, Picture 1: and <|image_pad|> are tokens",
        "if (a <b> c) List<Image> images; <imagination>",
    ],
)
def test_a_mark_in_a_record_without_media_is_text(said: str):
    assert flat(talk(said, said)) == [[said], [said]]
    shown = flat(talk(f"<audio>{said}", said, audio="a.wav"))
    assert shown[1] == [said] and SOUND in shown[0]


PARTS = [
    ([{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}], {}),
    ([{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What?"}], {}),
    ([{"type": "image"}, {"type": "text", "text": "What?"}], {"images": ["a.jpg"]}),
    ([{"image": "a.jpg"}, {"text": "What?"}], {}),
    ([{"type": "image", "path": "a.jpg"}, "What?"], {}),
    ([{"type": "text", "text": "<image>What?"}], {"images": [{"path": "a.jpg"}]}),
]


@pytest.mark.parametrize(("parts", "more"), PARTS)
def test_parts_of_messages_are_read(parts: list, more: dict):
    answer = {"role": "assistant", "content": [{"type": "text", "text": "That."}]}
    record = {"messages": [{"role": "user", "content": parts}, answer], **more}
    assert flat(record) == [[IMAGE, "What?"], ["That."]]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": "https://x/a.jpg"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": "a.pdf"},
        {"type": "text", "text": "see", "image": "a.jpg"},
        {"type": "video", "video": None},
        7,
    ],
)
def test_a_part_that_cannot_be_read_drops_the_record(part):
    said = [part, {"type": "text", "text": "What?"}]
    with pytest.raises(Unusable):
        conversation_of(
            {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "b"}]}
        )


@pytest.mark.parametrize(
    ("times", "name"),
    [
        ({"start": 12.0, "end": 15.5}, "v.mp4#t=12,15.5"),
        ({"start": "00:01:02.5", "end": "70"}, "v.mp4#t=62.5,70"),
        ({"start_time": 1, "end_time": 2}, "v.mp4#t=1,2"),
        ({"segment": [1, 2.5]}, "v.mp4#t=1,2.5"),
        ({"meta": {"split": [1, 2]}}, "v.mp4#t=1,2"),
        ({"start": None, "end": None}, "v.mp4"),
        ({"split": "train"}, "v.mp4"),
        ({"start": 0}, "v.mp4"),
    ],
)
def test_a_segment_is_that_segment(times: dict, name: str):
    assert flat(talk("<video>What?", "b", video="v.mp4", **times))[0] == [("video", name), "What?"]
    assert flat(talk("<image>What?", "b", image="a.jpg", **times))[0] == [IMAGE, "What?"]


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ({"start": 5}, "start without end"),
        ({"start": 5, "end": 5}, "no segment"),
        ({"start": 5, "end": float("inf")}, "end: no time"),
        ({"start": "soon", "end": 9}, "start: no time"),
        ({"start_frame": 5, "end_frame": 9}, "start_frame"),
        ({"start": 1, "end": 2, "videos": ["w.mp4"]}, "which is meant"),
    ],
)
def test_what_is_no_segment_drops_the_record(times: dict, reason: str):
    with pytest.raises(Unusable, match=reason):
        conversation_of(talk("What?", "b", video="v.mp4", **times))


@pytest.mark.parametrize("user", ["human", "Human", "user", "USER", "usr", "prompter"])
@pytest.mark.parametrize(
    "assistant", ["gpt", "GPT", "chatgpt", "bot", "model", "assistant", "gpt-4", "ChatGPT"]
)
@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content"), ("speaker", "text")])
def test_roles_have_many_names(user: str, assistant: str, keys: tuple):
    turns = [dict(zip(keys, said, strict=True)) for said in ((user, "Hi"), (assistant, "Hello"))]
    assert flat({"conversations": turns}) == [["Hi"], ["Hello"]]


def roles(record: dict) -> str:
    return "".join(message["role"][0] for message in conversation_of(record))


def test_a_system_speaks_first_and_once():
    hi = talk("Hi", "Hello")["conversations"]
    system = {"from": "system", "value": "Answer in French."}
    for record in (
        {"conversations": hi, "system": "Answer in French."},
        {"conversations": [system, *hi]},
    ):
        assert roles(record) == "sua" and flat(record)[0] == ["Answer in French."]
    both = {"conversations": [system, *hi], "system_prompt": "Be brief."}
    assert flat(both)[0] == ["Be brief.\nAnswer in French."]
    assert roles({"conversations": [{"from": "system", "value": " "}, *hi], "system": ""}) == "ua"
    with pytest.raises(Unusable, match="a system turn in the middle"):
        conversation_of({"conversations": [*hi, system, *hi]})


def test_replies_before_questions_turns_of_one_speaker_and_empty_turns():
    more = gpt("Sure, here is more.")
    assert flat({"conversations": [more, human("Go on"), gpt("Done.")]}) == [["Go on"], ["Done."]]
    twice = [human("a"), human("<image>b"), gpt("c"), human(""), gpt("d")]
    with pytest.raises(Unusable, match="a turn is empty"):
        conversation_of({"conversations": twice, "image": "a.jpg"})
    joined = {"conversations": [human("a"), human(""), human("<image>b"), gpt("c"), gpt("d")]}
    assert flat(joined | {"image": "a.jpg"}) == [["a", IMAGE, "b"], ["c\nd"]]
    for name in ("function", "tool", "observation", "x" * 99):
        with pytest.raises(Unusable, match=f"role '{name[:40]}'"):
            conversation_of({"conversations": [human("a"), {"from": name, "value": "b"}]})


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"query": "Add.\n1 and 2", "response": "3"},
        {"prompt": "Add.\n1 and 2", "completion": "3"},
        {"question": "Add.\n1 and 2", "answer": "3"},
        {"texts": [{"user": "Add.\n1 and 2", "assistant": "3", "source": "x"}]},
        {"conversations": [["Add.\n1 and 2", "3"]]},
        {"conversation": [{"human": "Add.\n1 and 2", "assistant": "3"}]},
        {"QA": [{"i": "Add.", "q": "1 and 2", "a": "3"}]},
    ],
)
def test_pairs_of_question_and_answer(record: dict):
    assert flat(record) == [["Add.\n1 and 2"], ["3"]]
    assert flat(record | {"image": "a.jpg"}) == [[IMAGE, "Add.\n1 and 2"], ["3"]]
    before = flat(record | {"history": [["a", "b"]], "system": "s"})
    if "instruction" in record:
        assert before == [["s"], ["a"], ["b"], ["Add.\n1 and 2"], ["3"]]


def test_a_file_in_place_of_a_text_is_that_medium():
    asked = {"instruction": "What do you hear?", "input": "a.wav", "output": "A bell."}
    assert flat(asked) == [[SOUND, "What do you hear?"], ["A bell."]]


def test_what_a_reply_makes_is_named_and_told_beside_it():
    told = {"image": "o.jpg", "caption": "a lake"}
    for value, expected in (
        ("Here.", ["Here.", ("image", "a lake")]),
        ("<image> Here.", [("image", "a lake"), "Here."]),
    ):
        assert flat({"conversations": [human("Draw."), gpt(value, **told)]})[1] == expected
    with pytest.raises(Unusable, match="no caption for a generated image"):
        conversation_of({"conversations": [human("Draw."), gpt("Here.", image="o.jpg")]})
