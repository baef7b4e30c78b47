"""Diagrams of a live model and its data: tokens, batches, tensors on their way, likenesses, aims, decisions, media.

In come a model's messages and batches, arrays (most of them from `anatomy`) or media; out come PNGs, and HTML for tokens.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from IPython.display import HTML, Image
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from anytoany_lib.batches import Batch, collate
from anytoany_lib.decoders.mels import RATE, log_mel
from anytoany_lib.figures.anatomy import ROLES, Decisions, cosines, names_of, principal, roles
from anytoany_lib.figures.charts import (
    GREY,
    KIND_COLOURS,
    TRAINED,
    entitle,
    legend,
    panel,
    picture,
    short,
)
from anytoany_lib.media import media_files
from anytoany_lib.messages import IGNORED, Message, MessageEncoder, Part, medium_of

_COLOURS = ("#ffffff", "#dfe3e8", "#f2b661", "#8ab8ec", "#c79fd9")
ROLE_COLOURS = dict(zip(ROLES, _COLOURS, strict=True))
_SHOWN_FRAMES, _SHORTEST = 4, 0.4
_MOST_LINES, _MOST_COLUMNS = 16, 96
_LINE = 24  # characters


def token_strip(encoder: MessageEncoder, messages: list[Message]) -> HTML:
    """A conversation as the language model reads it, token by token: coloured by what it is, underlined where it is learnt."""
    encoded = encoder.encode(messages)
    batch = collate([encoded], lambda *_: torch.zeros(1), None, 1)
    names = names_of(encoder, encoded.ids)
    for kind, _, at in encoded.media:
        soft = range(encoder.soft_tokens)
        names[at : at + encoder.soft_tokens] = [f"{kind} {n + 1}" for n in soft]
    boxes = [
        _box(name, ROLES[role], label != IGNORED)
        for name, role, label in zip(names, roles(encoder, batch)[0], encoded.labels, strict=True)
    ]
    known = [_box(role, role, False) for role in ROLES[1:]] + [_box("learnt", "text", True)]
    above = f'<div style="margin-bottom: 6px">{len(names)} tokens: {"".join(known)}</div>'
    return HTML(f'<div style="line-height: 2">{above}{"".join(boxes)}</div>')


def _box(name: str, role: str, learnt: bool) -> str:
    """A token; styled in place, since saved notebooks lose style sheets."""
    style = (
        "display: inline-block; white-space: pre; font: 12px/1.5 monospace; color: #1d2126; margin: 1px; "
        f"padding: 0 3px; border-radius: 3px; background: {ROLE_COLOURS[role]}; "
        f"border-bottom: 3px solid {TRAINED if learnt else 'transparent'}"
    )
    return f'<span style="{style}">{html.escape(name)}</span>'


def batch_map(encoder: MessageEncoder, batch: Batch) -> Image:
    """A batch as a map: a row a conversation, a column a token, coloured by what it is; dots where the loss looks."""
    places, learnt = roles(encoder, batch), (batch.labels != IGNORED).numpy()
    rows, length = places.shape
    figure, axis = panel(min(13, 3 + 0.11 * length), 1.3 + 0.2 * rows)
    colours, last = ListedColormap(list(ROLE_COLOURS.values())), len(ROLES) - 1
    axis.pcolormesh(places, cmap=colours, vmin=0, vmax=last, edgecolors="w", linewidth=0.6)
    y, x = learnt.nonzero()
    dots = axis.scatter(x + 0.5, y + 0.5, s=9, color=TRAINED, label="learnt")
    axis.invert_yaxis()
    axis.set_yticks(np.arange(rows) + 0.5, [str(number + 1) for number in range(rows)])
    there = [ROLES[n] for n in np.unique(places) if n]
    legend(axis, [*(Patch(color=ROLE_COLOURS[name], label=name) for name in there), dots])
    share = learnt.sum() / (places > 0).sum()
    title = f"a batch, (B, T) = ({rows}, {length}): {share:.0%} of its tokens are learnt"
    entitle(axis, title, "token", "conversation")
    return picture(figure)


def _as_map(tensor: np.ndarray) -> np.ndarray:
    """A tensor as something to look at: a matrix, with a single row broken into some lines."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    if len(rows) > 1:
        return rows
    lines = max(n for n in range(1, _MOST_LINES + 1) if rows.size % n == 0)
    return rows.reshape(lines, -1)


def journey(steps: Mapping[str, Any]) -> Image:
    """Tensors on their way through a model, in order, each with its name and shape: arrays, or pictures (H, W, 3)."""
    arrays = {name: torch.as_tensor(v).detach().float().cpu().numpy() for name, v in steps.items()}
    figure = Figure(figsize=(2.9 * len(arrays), 2.3))
    axes = figure.subplots(1, len(arrays), squeeze=False, gridspec_kw={"wspace": 0.28})[0]
    for axis, (name, array) in zip(axes, arrays.items(), strict=True):
        shape = " × ".join(map(str, array.shape))
        if array.ndim == 3 and array.shape[-1] == 3:
            axis.imshow(array / 255)
        else:
            values = _as_map(array)
            if values.shape[1] > _MOST_COLUMNS:
                values, shape = values[:, :_MOST_COLUMNS], f"{shape}, {_MOST_COLUMNS} columns shown"
            # A few entries of a hidden state are so large that beside them nothing else is seen.
            most = np.quantile(np.abs(values), 0.98)
            axis.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
            axis.set_box_aspect(0.7)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"{name}\n{shape}", fontsize=9)
    arrow = {"arrowprops": {"arrowstyle": "-|>", "color": GREY, "lw": 1.4}}
    for axis in axes[1:]:
        axis.annotate("", (-0.04, 0.5), (-0.22, 0.5), "axes fraction", "axes fraction", **arrow)
    return picture(figure)


def similarity(alike: np.ndarray, rows: Sequence[tuple[str, str]], columns: Sequence[str]) -> Image:
    """How alike media (rows: kind, caption) are to captions (columns); a frame marks each medium's own caption."""
    figure, axis = panel(3.6 + 0.3 * len(columns), 1.9 + 0.22 * len(rows))
    shown = axis.imshow(alike, cmap="viridis", aspect="auto")
    figure.colorbar(shown, label="cosine", shrink=0.7, pad=0.02)
    entitle(axis, "media (down, by kind) and captions (across)")
    axis.tick_params(labelsize=7)
    axis.set_xticks(range(len(columns)), map(short, columns), rotation=50, ha="right")
    axis.set_yticks(range(len(rows)), [short(caption) for _, caption in rows])
    labels = zip(axis.get_yticklabels(), rows, strict=True)
    for number, (label, (kind, caption)) in enumerate(labels):
        label.set_color(KIND_COLOURS[kind])
        own = (columns.index(caption) - 0.5, number - 0.5)
        axis.add_patch(Rectangle(own, 1, 1, fill=False, edgecolor="white", linewidth=1.4))
    kinds = dict.fromkeys(kind for kind, _ in rows)
    handles = [Patch(color=KIND_COLOURS[kind], label=kind) for kind in kinds]
    where: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(handles)}
    axis.legend(handles=handles, **where, fontsize=8, frameon=False)
    return picture(figure)


def cloud(rows: torch.Tensor, groups: Sequence[str], title: str) -> Image:
    """Rows (N, ...) in the two directions in which they differ most, coloured by group (a kind of media, say)."""
    mean, directions = principal(rows)
    centred = rows.float().flatten(1) - mean
    points = (centred @ directions).numpy()
    seen = np.square(points).sum() / centred.square().sum().item()
    figure, axis = panel(5.4, 3.6)
    for number, group in enumerate(dict.fromkeys(groups)):
        own = points[np.array(groups) == group]
        colour = KIND_COLOURS.get(group, f"C{number}")
        axis.scatter(own[:, 0], own[:, 1], s=14, alpha=0.6, linewidth=0, color=colour, label=group)
    axis.set_aspect("equal", adjustable="datalim")
    legend(axis)
    size = f"{len(rows)} × {centred.shape[1]}"
    below = f"{size}, of whose variance {seen:.0%} are in view"
    entitle(axis, f"{title}\n{below}", "first principal component", "second")
    return picture(figure)


def aims(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> Image:
    """Where conditions should be (rings) and where the model puts them (dots): a panel a kind, in the plane in which the
    wanted ones differ most. `pairs`: kind -> (predicted, wanted), each (S, *condition).
    """
    figure = Figure(figsize=(4.3 * len(pairs), 3.7))
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axis, (kind, both) in zip(axes, pairs.items(), strict=True):
        predicted, wanted = (one.detach().float().cpu().flatten(1) for one in both)
        mean, directions = principal(wanted)
        found, goal = (((one - mean) @ directions).numpy() for one in (predicted, wanted))
        for line in np.stack([found, goal], axis=1):
            axis.plot(*line.T, color=KIND_COLOURS[kind], linewidth=0.7, alpha=0.5)
        axis.scatter(*goal.T, s=34, facecolor="none", edgecolor=GREY, label="wanted")
        axis.scatter(*found.T, s=14, color=KIND_COLOURS[kind], label="predicted")
        axis.legend(fontsize=8)
        axis.margins(0.1)
        alike = np.diag(cosines(predicted - mean, wanted - mean)).mean()
        shape = " × ".join(map(str, both[1].shape[1:]))
        title = f"{kind}, {shape}: mean cosine {alike:.2f}"
        entitle(axis, title, "first principal component", "second")
    figure.tight_layout()
    return picture(figure)


def likelihoods(found: Decisions) -> Image:
    """How likely a model went on in words, began a medium or stopped, before each token of its reply."""
    figure, axis = panel(min(14, 2.6 + 0.42 * len(found.tokens)), 2.4)
    at, below = np.arange(len(found.tokens)), np.zeros(len(found.tokens))
    colours = {"words": ROLE_COLOURS["text"], "stop": "#3a3f45"} | KIND_COLOURS
    for choice, likely in zip(found.choices, found.likely.T, strict=True):
        axis.bar(at, likely, 0.86, below, color=colours[choice], label=choice)
        below = below + likely
    legend(axis)
    axis.set(xlim=(-0.6, len(at) - 0.4), ylim=(0, 1))
    entitle(axis, "what may come next, before each token of the reply", down="probability")
    names = [short(token.strip() or "␣", 14) for token in found.tokens]
    axis.set_xticks(at, names, rotation=50, ha="right")
    return picture(figure)


def _draw(axis: Axes, part: Part) -> None:
    """Words as they are, a picture too, a clip as some of its frames, a sound as its log-mel picture."""
    kind, medium = part["type"], medium_of(part)
    if kind == "text":
        axis.text(0.5, 0.5, textwrap.fill(medium, _LINE), ha="center", va="center", fontsize=9)
    elif kind == "image":
        axis.imshow(media_files.as_image(medium))
    elif kind == "video":
        frames = media_files.as_video(medium)
        chosen = np.linspace(0, len(frames) - 1, min(_SHOWN_FRAMES, len(frames))).round()
        axis.imshow(np.concatenate(list(frames[chosen.astype(int)]), axis=1))
    else:
        samples, _ = media_files.as_audio(medium, RATE)
        samples = np.pad(samples, (0, max(0, round(_SHORTEST * RATE) - len(samples))))
        mels = log_mel(torch.from_numpy(samples)[None])[0]  # (frames, bands)
        axis.imshow(mels.T, origin="lower", aspect="auto", cmap="magma")


def sheet(rows: Mapping[str, Sequence[tuple[Part, str]]]) -> Image:
    """Parts in rows, (part, the line above it): words, pictures, the log-mel pictures of sounds, some frames of clips."""
    columns = max(map(len, rows.values()))
    width = min(2.5 * columns, 14)
    figure = Figure(figsize=(width, 1.75 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, parts) in zip(axes, rows.items(), strict=True):
        for axis in line[len(parts) :]:
            axis.axis("off")
        for axis, (part, above) in zip(line, parts, strict=False):
            _draw(axis, part)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(short(above, 38), fontsize=8)
        line[0].set_ylabel(textwrap.fill(name, _LINE), fontsize=9)
    return picture(figure)
