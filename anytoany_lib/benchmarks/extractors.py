"""What makes features of media and captions for `distances`: CLIP, CLAP, ImageBind, or a TorchScript file by its path.

Every maker here loads a model from a local folder or file, downloads nothing, and returns an `Extractor`:
extract(kind, items) with kind "image", "audio", "video" or "text" and items in any form that `media` takes (paths,
PIL images, samples, frames; strings for text) gives float32 features (N, D), or (N, T, D) of T frames for CLIP's clips.
A medium that cannot be read, or whose features are not finite, is a row of NaN, which `distances` counts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    ClapModel,
    CLIPModel,
)

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.system.offloading import frozen_dtype

Extractor = Callable[[str, Sequence[Any]], np.ndarray]
CLIP_FRAMES = 16  # of a clip, evenly spread: as many as the published text-to-video models make
PIECE_SECONDS = 0.96  # what VGGish hears at a time


def model_folder(path: str | Path, what: str) -> Path:
    """The folder itself; FileNotFoundError if it holds no model."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path}: no config.json there: give a local folder with a {what} model (nothing is downloaded)"
        )
    return path


# Of each kind: what loads an item, what embeds a batch of them, and how many make one.
_Kinds = Mapping[str, tuple[Callable[[Any], Any], Callable[[list[Any]], torch.Tensor], int]]


def _extractor(name: str, kinds: _Kinds) -> Extractor:
    """The extractor of these kinds; it raises ValueError for others, and gives NaN for items that cannot be loaded."""

    @torch.inference_mode()
    def extract(kind: str, items: Sequence[Any]) -> np.ndarray:
        if kind not in kinds:
            raise ValueError(f"{name} embeds {', '.join(kinds)}, not {kind}")
        load, embed, batch_size = kinds[kind]
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(items), batch_size):
            loaded: dict[int, Any] = {}
            for number, item in enumerate(items[start : start + batch_size], start):
                with suppress(MediaError):
                    loaded[number] = load(item)
            if loaded:
                rows = embed(list(loaded.values())).float().cpu().numpy()
                found |= dict(zip(loaded, rows, strict=True))
        # Without one readable medium nobody knows the width; a column of NaN says as much.
        shape = next(iter(found.values())).shape if found else (1,)
        features = np.full((len(items), *shape), np.nan, dtype=np.float32)
        for number, row in found.items():
            features[number] = row
        return features

    return extract


def _frames(medium: Any) -> np.ndarray:
    """Frames of a clip, the middles of equal parts: uint8 (CLIP_FRAMES, H, W, 3); a shorter clip repeats some."""
    frames = media_files.as_video(medium, num_frames=CLIP_FRAMES)
    return frames[((np.arange(CLIP_FRAMES) + 0.5) * len(frames) / CLIP_FRAMES).astype(int)]


def _texts(
    model: CLIPModel | ClapModel, folder: Path, longest: int
) -> Callable[[list[str]], torch.Tensor]:
    """The function from captions to their features (N, D) by a model's text tower; longer captions are cut."""
    tokenizer = AutoTokenizer.from_pretrained(without_code(folder), **LOCAL)

    def texts(captions: list[str]) -> torch.Tensor:
        words = tokenizer(
            captions, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(model.device)
        ids, mask = words["input_ids"], words["attention_mask"]
        return model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

    return texts


def clip(folder: str | Path, device: str = "cpu", batch_size: int = 32) -> Extractor:
    """CLIP from a transformers folder (CLIPModel, image processor, tokenizer): image, text (N, D), video (N, T, D)."""
    folder = model_folder(folder, "CLIP")
    model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
    pixels = AutoImageProcessor.from_pretrained(folder, **LOCAL)
    texts = _texts(model, folder, model.config.text_config.max_position_embeddings)

    def pictures(images: list[Any]) -> torch.Tensor:
        """Pictures -> (B, D)."""
        values = pixels(images=images, return_tensors="pt")["pixel_values"].to(device)
        return model.get_image_features(pixel_values=values).pooler_output

    def clips(films: list[np.ndarray]) -> torch.Tensor:
        """Frames (T, H, W, 3) of each clip -> (B, T, D)."""
        frames = pictures([Image.fromarray(frame) for film in films for frame in film])
        return frames.unflatten(0, (len(films), CLIP_FRAMES))

    kinds: _Kinds = {
        "image": (media_files.as_image, pictures, batch_size),
        "video": (_frames, clips, max(1, batch_size // CLIP_FRAMES)),
        "text": (str, texts, batch_size),
    }
    return _extractor("CLIP", kinds)


def clap(folder: str | Path, device: str = "cpu", batch_size: int = 16) -> Extractor:
    """CLAP from a transformers folder (ClapModel, feature extractor, tokenizer): audio and text (N, D).

    Of a longer sound the first seconds count, as many as the model hears (10): the library would draw a part at random.
    """
    folder = model_folder(folder, "CLAP")
    model = ClapModel.from_pretrained(folder, local_files_only=True).to(device).eval()
    ears = AutoFeatureExtractor.from_pretrained(folder, **LOCAL)
    # RoBERTa numbers positions from 2.
    texts = _texts(model, folder, model.config.text_config.max_position_embeddings - 2)

    def sound(medium: Any) -> np.ndarray:
        """The beginning of a sound at the model's rate, (samples,)."""
        return media_files.as_audio(medium, ears.sampling_rate)[0][: ears.nb_max_samples]

    def sounds(samples: list[np.ndarray]) -> torch.Tensor:
        """Sounds -> (B, D)."""
        heard = ears(samples, sampling_rate=ears.sampling_rate, return_tensors="pt")
        return model.get_audio_features(
            input_features=heard["input_features"].float().to(device),
            # Nothing is longer; the library marks one at random all the same.
            is_longer=torch.zeros(len(samples), 1, dtype=torch.bool, device=device),
        ).pooler_output

    kinds: _Kinds = {"audio": (sound, sounds, batch_size), "text": (str, texts, batch_size)}
    return _extractor("CLAP", kinds)


def imagebind(
    path: str | Path, device: str = "cpu", batch_size: int = 16, words: Sequence[Path] = ()
) -> Extractor:
    """This kit's ImageBind from its folder or the published file: image, audio, video and text (N, D) in one space.

    In half precision on a card. `words` are folders where CLIP's words may be, if they are not beside the weights.
    """
    senses, dtype = ("vision", "audio", "text"), frozen_dtype(torch.device(device))
    model = ImageBind.from_checkpoint(path, senses, dtype, words).to(device)
    kinds: dict[str, Any] = {
        kind: (partial(media_files.as_media, kind), partial(model.embed, kind), batch_size)
        for kind in MEDIA_KINDS
    }
    kinds["text"] = (str, partial(model.embed, "text"), batch_size)
    return _extractor("ImageBind", kinds)


def torchscript(
    file: str | Path,
    device: str = "cpu",
    rate: int = 16000,
    batch_size: int = 32,
    options: Mapping[str, Any] | None = None,
) -> Extractor:
    """Any network in a TorchScript file, called as net(batch, **options): its (N, D) are features or logits.

    It is given images uint8 (B, 3, H, W), clips float32 0 to 255 (B, 3, T, H, W), sounds float32 (B, samples) at `rate` Hz.
    The published Inception (`inception-2015-12-05.pt`) takes {"return_features": True}, I3D (`i3d_torchscript.pt`) with it
    {"rescale": True, "resize": True}. A TorchScript file holds a program: load those only whose source you trust.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such TorchScript file (nothing is downloaded)")
    network, options = torch.jit.load(str(file), map_location=device).eval(), dict(options or {})

    def picture(medium: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(media_files.as_image(medium))).permute(2, 0, 1)

    def film(medium: Any) -> torch.Tensor:
        return torch.from_numpy(_frames(medium)).permute(3, 0, 1, 2).float()

    def sound(medium: Any) -> torch.Tensor:
        return torch.from_numpy(media_files.as_audio(medium, rate)[0])

    def embed(batch: list[torch.Tensor]) -> torch.Tensor:
        """Media of one shape at once, of several one by one -> (B, D)."""
        alike = len({tensor.shape for tensor in batch}) == 1
        groups = [torch.stack(batch)] if alike else [tensor[None] for tensor in batch]
        return torch.cat([network(group.to(device), **options) for group in groups])

    kinds: _Kinds = {
        "image": (picture, embed, batch_size),
        "video": (film, embed, max(1, batch_size // CLIP_FRAMES)),
        "audio": (sound, embed, batch_size),
    }
    return _extractor(file.name, kinds)


def _pictures_of(clip: Any) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in _frames(clip)]


def _pieces_of(sound: Any) -> list[tuple[np.ndarray, int]]:
    """A sound in pieces of PIECE_SECONDS; what is left over goes, a shorter sound is filled up with silence."""
    samples, rate = media_files.as_audio(sound)
    length = round(PIECE_SECONDS * rate)
    samples = np.pad(samples, (0, max(0, length - len(samples))))
    starts = range(0, len(samples) - length + 1, length)
    return [(samples[start : start + length], rate) for start in starts]


_PARTS: Mapping[str, tuple[str, Callable[[Any], list[Any]]]] = {
    "video": ("image", _pictures_of),
    "audio": ("audio", _pieces_of),
}


def of_parts(extract: Extractor) -> Extractor:
    """What takes each frame of a clip as a picture, each piece of a sound as a sound: (all parts, D), for frame-wise FID and FAD.

    A medium that cannot be read is one row of NaN. ValueError for pictures and texts.
    """

    def parts(kind: str, items: Sequence[Any]) -> np.ndarray:
        if kind not in _PARTS:
            raise ValueError(f"parts are of {' or '.join(_PARTS)}, not of {kind}")
        kind, split = _PARTS[kind]
        rows: list[np.ndarray | None] = []
        for item in items:
            try:
                rows.append(extract(kind, split(item)))
            except MediaError:
                rows.append(None)
        width = next((found.shape[1] for found in rows if found is not None), 1)
        failed = np.full((1, width), np.nan, dtype=np.float32)
        return np.concatenate([failed if found is None else found for found in rows])

    return parts
