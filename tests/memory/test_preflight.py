"""Whether a machine has room for a profile is said before anything is fetched."""

from __future__ import annotations

import pytest

from anytoany_lib.config import Profile
from anytoany_lib.memory import planning, preflight


def unfetched(name: str) -> Profile:
    profile = Profile.load(name)
    llm = profile.llm.model_copy(update={"folder": "ckpt/nowhere"})
    return profile.model_copy(update={"llm": llm})


def test_a_difference_takes_the_disk_of_its_base_itself_and_their_sum():
    found = preflight.room_needed(unfetched("nextgpt-7b"))
    fetched = 27 + 4.8 + 5.5 + 3.9 + 3.7
    assert found.disk == pytest.approx(1e9 * fetched + 2 * 6_738_423_808, rel=0.01)
    whole = preflight.room_needed(unfetched("qwen3-8b"))
    assert whole.disk == pytest.approx(1e9 * (16.4 + 4.8 + 5.5 + 3.9 + 3.7), rel=0.01)


def test_all_media_models_lie_in_host_memory_beside_a_card():
    profile = unfetched("qwen2.5-1.5b")
    found, alone = preflight.room_needed(profile), preflight.room_needed(profile, on_card=False)
    assert found.host > sum(planning.weights(profile).values())
    assert alone.host > found.host / 2


def test_a_free_colab_machine_is_told_what_to_take_first():
    assert preflight.recommended(**preflight.COLAB_T4) == "qwen2.5-1.5b"
    assert preflight.shortages(unfetched("qwen2.5-1.5b"), **preflight.COLAB_T4) == []
    (line,) = preflight.shortages(unfetched("nextgpt-7b"), **preflight.COLAB_T4)
    assert "58.4 GB of disk (the language model's base, the difference and their sum" in line
    assert preflight.recommended(disk=10**10, host=10**10, card=None) == "tiny"


def test_each_want_has_its_line():
    lines = preflight.shortages(
        unfetched("nextgpt-7b"), disk=10**10, host=8 * 10**9, card=8 * 10**9
    )
    assert ["disk" in lines[0], "host memory" in lines[1], lines[2].startswith("chat takes")] == [
        True
    ] * 3


def test_the_table_says_where_there_is_room():
    assert [
        (row["profile"], row["here"]) for row in preflight.profile_rows(**preflight.COLAB_T4)
    ] == [
        ("qwen2.5-1.5b", "has room"),
        ("qwen3-8b", "has room"),
        ("nextgpt-7b", "no"),
    ]
