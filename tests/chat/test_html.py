"""What users, models and names of files put into HTML: markdown that is shown, and nothing that acts."""

from __future__ import annotations

import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import browser_page, needs_chromium
from PIL import Image

from anytoany_lib.chat.export import page
from anytoany_lib.chat.html import medium_html, original, part_html, preview, show, text_html
from anytoany_lib.chat.markdown import MARKED_CHARACTERS, to_html
from anytoany_lib.media import media_files

ATTACKS = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "<svg onload=window.hacked=1><animate onbegin=window.hacked=1 attributeName=x>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<a href='javascript:window.hacked=1' autofocus onfocus=window.hacked=1>a</a>",
    "<details open ontoggle=window.hacked=1>",
    "<style>@import 'http://evil.invalid/a.css'; body { display: none }</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.invalid'>",
    "[a](javascript:window.hacked=1)",
    "[a](JaVaScRiPt:window.hacked=1)",
    "[a](java\tscript:window.hacked=1)",
    "[a](&#106;avascript:window.hacked=1)",
    "[a](&#x6A&#x61;vascript&colon;window.hacked=1)",
    "[a](data:text/html,<script>window.hacked=1</script>)",
    "[a](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[a](vbscript:window.hacked=1) [b](file:///etc/passwd) [c](//evil.invalid) [d](/logout)",
    "<javascript:window.hacked=1> <data:text/html,a>",
    "[a]\n\n[a]: javascript:window.hacked=1",
    '[a](http://evil.invalid/"onmouseover="window.hacked=1)',
    "[a](http://evil.invalid 'title\" onmouseover=\"window.hacked=1')",
    "![a](http://evil.invalid/pixel.png)",
    '![a" onerror="window.hacked=1](http://evil.invalid/"onerror="window.hacked=1)',
    "![a](data:image/svg+xml,<svg onload='window.hacked=1'>)",
    "![a](javascript:window.hacked=1)",
    "[![a](http://evil.invalid/a.png)](http://evil.invalid/b)",
    "```html\n<script>window.hacked=1</script>\n```",
    "```\"onmouseover=window.hacked=1 x=\"\n<img src=x onerror='window.hacked=1'>\n```",
    "`<img src=x onerror='window.hacked=1'>`",
    "&lt;script&gt;window.hacked=1&lt;/script&gt; &#60;script&#62;",
    "| <img src=x onerror='window.hacked=1'> | b |\n| --- | --- |\n| <svg onload=window.hacked=1> | c |",
    "</div></article><script>window.hacked=1</script>",
    "--><script>window.hacked=1</script><!--",
    "\x00<scr\x00ipt>window.hacked=1</script>",
    "$$\n<script>window.hacked=1</script>\n$$",
    "\\begin{align}\n<img src=x onerror='window.hacked=1'>\n\\end{align}",
    "$<img src=x onerror='window.hacked=1'>$ \\(<svg onload=window.hacked=1>\\)",
)
HARMLESS = {
    "div",
    "p",
    "br",
    "strong",
    "em",
    "code",
    "pre",
    "a",
    "ul",
    "ol",
    "li",
    "blockquote",
    "hr",
}
HARMLESS |= {"h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
NAME = "<img src=x onerror='window.hacked=1'>\"'.png"


class Elements(HTMLParser):
    """The elements that a browser finds in a piece of HTML: (tag, attributes)."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


def picture(folder: Path, name: str = NAME) -> Path:
    return media_files.save_image(folder / name, Image.new("RGB", (300, 200), "red"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_was_written_becomes_more_than_text_and_links(attack):
    for tag, attributes in Elements(text_html(attack)).found:
        assert tag in HARMLESS
        if tag == "a":
            assert attributes.pop("href").startswith(("http://", "https://", "mailto:"))
            assert attributes.pop("target") == "_blank"
            assert attributes.pop("rel") == "noopener noreferrer"
            attributes.pop("title", None)
        names = {"class"} if tag in ("div", "code") else {"style"} if tag in ("th", "td") else set()
        assert attributes.keys() <= names | ({"start"} if tag == "ol" else set())


def test_captions_and_names_are_words_too(tmp_path: Path):
    caption = {"type": "image", "caption": NAME}
    assert [tag for tag, _ in Elements(part_html(caption)).found] == ["div"]
    (_, (tag, inner)) = Elements(medium_html(caption | {"image": picture(tmp_path)})).found
    assert tag == "img" and inner.keys() == {"src", "style", "alt", "title"}
    assert inner["alt"] == inner["title"] == f"image: {NAME}"
    found = Elements(page([], NAME, ATTACKS[0])).found
    assert not {"img", "script"} & {tag for tag, _ in found}


@needs_chromium
def test_in_a_browser_nothing_executes_and_nothing_is_asked_for(tmp_path):
    texts = "".join(f"<section>{text_html(attack)}</section>" for attack in ATTACKS)
    named = part_html({"type": "image", "image": picture(tmp_path), "caption": NAME})
    captioned = part_html({"type": "image", "caption": NAME})
    with browser_page() as shown:
        asked = []
        shown.on("request", lambda request: asked.append(request.url))
        # No policy here, unlike in a saved page: the HTML has to be harmless by itself.
        shown.set_content(f"<!doctype html>{texts}{named}{captioned}")
        shown.mouse.move(200, 200)
        shown.wait_for_function("() => document.querySelector('figure img').naturalWidth === 300")
        assert shown.evaluate("() => window.hacked") is None
        assert shown.locator("section").count() == len(ATTACKS)
        assert shown.locator("img").get_attribute("alt") == f"image: {NAME}"
        assert [url for url in asked if not url.startswith("data:")] == []


def test_markdown_is_rendered():
    text = "# Bells\n\nA **red** *bell*,\nand `code`:\n\n- one\n- two\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n> said"
    shown = to_html(text)
    for expected in (
        "<h1>Bells</h1>",
        "<strong>red</strong> <em>bell</em>,<br",
        "<code>code</code>",
    ):
        assert expected in shown
    assert "<li>one</li>" in shown and "<td>1</td>" in shown and "<blockquote>" in shown
    assert '<a href="https://a.example/b" ' in to_html("[a](https://a.example/b)")
    assert '<a href="mailto:a@b.example" ' in to_html("<a@b.example>")


WRITTEN = (
    r"\(a_1 * b_2 * c\) and \[x^2\] and $a*b*c$ and $$\sum_i x_i$$",
    "$$\na_1 * b\n- c\n+ d \\\\\n$$",
    "\\[\n# x\n\\]",
    "\\begin{align}\nx &= 1 \\\\\ny &= 2\n\\end{align}",
    r"C:\_x\*y\#z and \* and \\ and \a",
    "2*3*4 and 5*x + 3*y and f(a)*g(b)*h and x**2**3",
    "*args, **kwargs",
    "it costs $5 and $10, or 2 $",
    "&amp; &lt;b&gt; &copy;",
    "[1]: http://example.org/a",
    "שלום עולם 12 مرحبا (x)",
    "a<b> && c",
)


@pytest.mark.parametrize("text", WRITTEN)
def test_text_is_shown_as_it_was_written(text):
    assert shown_text(to_html(text)) == text


@pytest.mark.parametrize("code", [r"a\*b\_c $x$ &amp; **d**", "x = y[0]*z[1]*2"])
def test_code_is_shown_as_it_was_written(code):
    assert shown_text(to_html(f"`{code}`")) == code
    assert shown_text(to_html(f"```\n{code}\n\n  {code}\n```")) == f"{code}\n\n  {code}"


def test_emphasis_beside_brackets_and_between_letters_without_spaces_is_emphasis():
    assert "(<em>a</em>)" in to_html("(*a*)")
    assert "中<strong>文</strong>字" in to_html("中**文**字")
    assert "<strong>a_b</strong>" in to_html("**a_b**") and "<em>" in to_html("_a_")


class Shown(HTMLParser):
    """What a reader sees of a piece of HTML, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def shown_text(piece: str) -> str:
    reader = Shown()
    reader.feed(piece)
    return reader.text.strip("\n")


def test_a_picture_from_elsewhere_becomes_a_link_to_it():
    address = "https://a.example/b.png"
    (link, attributes), *more = Elements(to_html(f"![a bell]({address})")).found[1:]
    assert (link, attributes["href"], more) == ("a", address, [])
    assert ">a bell</a>" in to_html(f"![a bell]({address})")
    assert f">{address}</a>" in to_html(f"![]({address})")
    inside = to_html(f"[see ![a bell]({address}) here](https://a.example)")
    assert inside.count("<a ") == 1 and ">see a bell here</a>" in inside


def test_rendering_keeps_up_with_a_reply():
    text = (
        "A bell is struck by a **clapper**; the metal then *vibrates*, which is what you hear.\n\n"
        "1. The clapper hits the rim.\n2. The rim bends.\n\n| metal | tone |\n| --- | --- |\n| steel | bright |\n\n"
        "Most bells are cast in bronze, an alloy of copper and tin, because it rings long and does not rust. "
        "See [the article](https://example.org/bells) and `bell.ring()` for more about it.\n\n"
    )
    text = (text * 10)[:2000]
    took = []
    for _ in range(30):
        began = time.perf_counter()
        text_html(text)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.004, f"{1000 * min(took):.2f} ms"  # 2 ms where nothing else runs


@pytest.mark.parametrize("unit", ["[", "![a](", "*a ", "1. a\n", "|a", ">", "- ", "`", "<", "&"])
def test_text_made_to_be_slow_is_not(unit):
    began = time.perf_counter()
    to_html((unit * MARKED_CHARACTERS)[:MARKED_CHARACTERS])
    assert time.perf_counter() - began < 5


def test_text_beyond_all_measure_is_shown_as_it_is():
    text = "<b>\n**x**" * MARKED_CHARACTERS
    assert to_html(text).count("&lt;b&gt;\n**x**") == MARKED_CHARACTERS and "<b>" not in to_html(
        text
    )


def test_halves_of_characters_can_be_written():
    assert "a?b" in text_html("a\udcffb")


def test_media_say_what_they_are_and_fit(tmp_path):
    sound = {"type": "audio", "audio": np.sin(np.arange(8000) / 8), "sampling_rate": 16_000}
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    clip = {"type": "video", "video": frames, "fps": 4, "caption": "a drum"}
    for part, tag, label in (
        ({"type": "image", "image": picture(tmp_path)}, "img", "image"),
        (sound, "audio", "audio"),
        (clip, "video", "video: a drum"),
    ):
        (figure, outer), (found, inner) = Elements(medium_html(part)).found
        assert (figure, outer["class"], found) == ("figure", "a2a-medium", tag)
        assert inner["alt" if tag == "img" else "aria-label"] == label
        assert "max-width: 100%" in inner["style"] and "max-height" in inner["style"]
        assert inner["src"].startswith(f"data:{media_files.MIME[part['type']]};base64,")


def test_the_original_is_kept_as_it_is_and_the_preview_is_reduced(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    path = media_files.save_image(tmp_path / "a.jpg", Image.fromarray(pixels))
    part = {"type": "image", "image": path}
    assert original(part) == ("a.jpg", "image/jpeg", path.read_bytes())
    mime, data = preview(part)
    assert mime == "image/png" and data != path.read_bytes()
    name, mime, data = original({"type": "image", "image": Image.fromarray(pixels)})
    assert (name, mime) == ("image.png", "image/png") and data.startswith(b"\x89PNG")
    made = {"type": "audio", "audio": np.zeros(16_000 * 90), "sampling_rate": 16_000}
    assert original(made)[:2] == ("audio.wav", "audio/wav")
    assert len(original(made)[2]) > len(preview(made)[1])
    page_like = path.rename(tmp_path / "a.html")
    assert original({"type": "image", "image": page_like})[1] == "application/octet-stream"
    with pytest.raises(ValueError, match="missing"):
        original({"type": "image", "image": tmp_path / "gone.png"})


def test_show_and_the_page_have_the_same_markdown(monkeypatch):
    shown = []
    monkeypatch.setattr("anytoany_lib.chat.html.display", shown.append)
    messages = [{"role": "user", "content": "A **red** bell <script>"}]
    show(messages)
    assert text_html(messages[0]["content"]) in shown[0].data
    assert text_html(messages[0]["content"]) in page(messages)
