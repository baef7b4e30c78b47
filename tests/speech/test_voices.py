"""Voices and recognisers of transformers, on small ones with random weights, beside the bare library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    VitsConfig,
    VitsModel,
    VitsTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from anytoany_lib.config import RecogniserConfig, SpeechConfig, VoiceConfig
from anytoany_lib.speech.recognisers import load_recogniser
from anytoany_lib.speech.voices import load_voice

LETTERS = " abcdefghijklmnopqrstuvwxyz'-"
SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VITS of a few thousand weights in the layout of facebook/mms-tts-eng."""
    folder = tmp_path_factory.mktemp("vits")
    vocabulary = folder / "letters.json"
    vocabulary.write_text(json.dumps({letter: n for n, letter in enumerate(LETTERS)}))
    tokenizer = VitsTokenizer(
        str(vocabulary), pad_token=" ", unk_token=" ", phonemize=False, is_uroman=False
    )
    tokenizer.save_pretrained(folder)
    vocabulary.unlink()
    torch.manual_seed(0)
    VitsModel(
        VitsConfig(
            vocab_size=len(LETTERS),
            hidden_size=16,
            num_hidden_layers=1,
            ffn_dim=16,
            flow_size=16,
            spectrogram_bins=33,
            prior_encoder_num_flows=1,
            prior_encoder_num_wavenet_layers=1,
            posterior_encoder_num_wavenet_layers=1,
            duration_predictor_num_flows=1,
            depth_separable_num_layers=1,
            upsample_initial_channel=16,
            upsample_rates=[4, 4],
            upsample_kernel_sizes=[8, 8],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of a few thousand weights, English only, whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("whisper")
    tokens = {token: n for n, token in enumerate((*sorted(ByteLevel.alphabet()), *SPECIAL))}
    tokenizer = WhisperTokenizer(vocab=tokens, merges=[])
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_start_token_id=tokens["<|startoftranscript|>"],
        eos_token_id=tokens["<|endoftext|>"],
        bos_token_id=tokens["<|endoftext|>"],
        pad_token_id=tokens["<|endoftext|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
        max_length=12,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_voice_of_letters_says_what_the_bare_model_says(vits: Path):
    pytest.importorskip("hibari", reason="the extra speech is not installed")
    voice = load_voice(VoiceConfig(reader="vits", folder=str(vits)))
    state = torch.get_rng_state()
    samples, rate = voice.say("It rings 2 times.", seed=3)
    assert torch.equal(torch.get_rng_state(), state), "a voice leaves the caller's generator alone"
    model = VitsModel.from_pretrained(vits).eval()
    inputs = VitsTokenizer.from_pretrained(vits)("It rings two times.", return_tensors="pt")
    torch.manual_seed(3)
    with torch.no_grad():
        expected = model(**inputs).waveform[0].numpy()
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert rate == model.config.sampling_rate and samples.ndim == 1 and np.ptp(samples) > 0
    assert np.array_equal(voice.say("It rings 2 times.", seed=3)[0], samples)
    assert not len(voice.say("¿?", seed=0)[0])


def test_a_voice_that_needs_another_program_is_refused(vits: Path, tmp_path: Path):
    for file in vits.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"is_uroman": True}))
    with pytest.raises(ValueError, match="expected a voice that reads plain letters"):
        load_voice(VoiceConfig(reader="vits", folder=str(tmp_path)))


def test_whisper_hears_what_the_bare_model_hears(whisper: Path):
    heard = load_recogniser(RecogniserConfig(reader="whisper", folder=str(whisper)))
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    found = heard.transcribe(samples)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    processor = WhisperProcessor.from_pretrained(whisper)
    features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = model.generate(features, num_beams=5)
    assert found.text == processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert found.log_probability < 0
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        chances = model(features, decoder_input_ids=start).logits[0, -1].softmax(-1)
    mark = processor.tokenizer.convert_tokens_to_ids("<|nospeech|>")
    assert found.no_speech == pytest.approx(float(chances[mark]), abs=1e-6)


@pytest.mark.parametrize("what", ["voice", "recogniser"])
def test_a_folder_with_code_is_refused(what: str, vits: Path, whisper: Path, tmp_path: Path):
    source = vits if what == "voice" else whisper
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"auto_map": {"a": "b.c"}}))
    with pytest.raises(ValueError, match="auto_map makes the model run code of its own"):
        if what == "voice":
            load_voice(VoiceConfig(reader="vits", folder=str(tmp_path)))
        else:
            load_recogniser(RecogniserConfig(reader="whisper", folder=str(tmp_path)))


def test_a_profile_that_says_nothing_speaks_with_the_wheels():
    speech = SpeechConfig()
    assert speech.voice.source and speech.voice.source.sha256
    assert speech.recogniser.source and speech.recogniser.source.inside
    with pytest.raises(ValueError, match="folder"):
        SpeechConfig.model_validate({"voice": {"reader": "vits"}})
