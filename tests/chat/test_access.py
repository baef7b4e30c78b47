"""Chats that others visit: who is let in, what they may ask for, and what is left when they go. Real servers, real browsers."""

from __future__ import annotations

import http.client
import io
import json
import logging
import sys
import time
import zipfile
from pathlib import Path

import pytest
from browser import browser_page, free_port, needs_chromium, screenshot, server
from PIL import Image
from scripts import Screen

from anytoany_lib.chat.access import Gate, Limits, without_places
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import Uploads
from anytoany_lib.chat.widget import Chat
from anytoany_lib.config import resolve
from anytoany_lib.generation import replies
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files

INPUT = ".a2a-chat .a2a-input textarea"
TOKEN = "a-token-of-the-tests"
SMALL = Limits(file_bytes=50_000, quota_bytes=80_000, characters=200, turns=2)


class Visit(Screen):
    """A page of a served chat, without a browser."""

    def __init__(self, chat: Chat):
        super().__init__(json.loads(json.dumps(chat._everything(), default=lambda _: "bytes")))
        self.chat = chat
        chat.send = self.hear

    def do(self, what: str, *buffers: bytes, **told) -> None:
        self.chat._hear(None, {"do": what, **told}, list(buffers))


@pytest.fixture
def visit(model) -> Visit:
    return Visit(Chat(model, sampling=Sampling(steps=2), blocking=True, served=SMALL))


def png(side: int = 32, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


# --- the gate ---


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/", {"Host": "localhost:80"}, 401),
        ("/?token=wrong", {"Host": "localhost"}, 401),
        ("/?token=" + TOKEN, {"Host": "localhost"}, None),
        ("/?token=" + TOKEN, {"Host": "127.0.0.1:8866"}, None),
        ("/?token=" + TOKEN, {"Host": "[::1]:8866"}, None),
        ("/?token=" + TOKEN, {"Host": "MY.example:8866"}, None),
        ("/?token=" + TOKEN, {"Host": "evil.invalid"}, 403),
        ("/?token=" + TOKEN, {"Host": "localhost.evil.invalid"}, 403),
        ("/?token=" + TOKEN, {"Host": ""}, 403),
        ("/?token=" + TOKEN, {"Host": "[::1"}, 403),
        ("/?token=" + TOKEN, {}, 403),
        ("/?token=" + TOKEN, {"Host": "localhost", "Origin": "http://evil.invalid"}, 403),
        ("/?token=" + TOKEN, {"Host": "localhost", "Origin": "null"}, 403),
        ("/?token=" + TOKEN, {"Host": "localhost", "Origin": "http://localhost:8866"}, None),
        ("/x", {"Host": "localhost", "Cookie": "other=1; mine=" + TOKEN}, None),
        ("/x", {"Host": "localhost", "Cookie": "mine=no"}, 401),
        ("/x", {"Host": "localhost", "Cookie": "\x00;;=;" * 50}, 401),
        ("/x", {"Host": "localhost", "Authorization": "Bearer " + TOKEN}, None),
        ("/x?token=", {"Host": "localhost"}, 401),
    ],
)
def test_who_is_let_in(target: str, headers: dict[str, str], status: int | None):
    gate = Gate(TOKEN, Gate.of(None, ["my.example"]).hosts, cookie="mine")
    refusal = gate.refusal(target, headers)
    assert (refusal and refusal.status) == status


def test_a_token_is_drawn_unless_told_otherwise():
    one, other = Gate.of(None, ()), Gate.of(None, ())
    assert len(one.token) >= 32 and one.token != other.token and one.token in one.link("0.0.0.0", 1)
    assert "token" not in Gate.of("", ()).link("127.0.0.1", 8866)
    # Without a token, names and origins are looked at all the same.
    open_ = Gate.of("", ())
    assert open_.refusal("/", {"Host": "localhost"}) is None
    assert open_.refusal("/", {"Host": "evil.invalid"}).status == 403


def test_who_comes_by_the_link_goes_on_with_a_cookie_and_without_the_token():
    gate, host = Gate(TOKEN, frozenset({"localhost"}), cookie="mine"), {"Host": "localhost"}
    answer = gate.answer(f"/?theme=dark&token={TOKEN}", host)
    assert (answer.status, answer.headers["Location"]) == (302, "/?theme=dark")
    assert answer.headers["Set-Cookie"] == f"mine={TOKEN}; Path=/; HttpOnly; SameSite=Lax"
    assert gate.answer("/", host | {"Cookie": f"mine={TOKEN}"}) is None
    assert gate.answer(f"/static/a.js?token={TOKEN}", host) is None
    assert gate.answer("/?token=x", host).status == 401
    assert Gate.of("", ()).answer("/?token=x", host) is None


def test_no_log_says_the_token(caplog):
    before, log = logging.getLogRecordFactory(), logging.getLogger("tornado.access")
    try:
        Gate(TOKEN).keep_out_of_logs()
        log.warning("%d %s %.2fms", 403, f"GET /?theme=dark&token={TOKEN} (127.0.0.1)", 0.7)
        log.warning(f"cookie {TOKEN}")
        log.warning("%s", {"Referer": f"/?token={TOKEN}&a=1"})
        log.warning("GET /?token=a%20b&theme=dark")
        log.warning("all of %(what)s", {"what": "it"})
        try:
            raise ValueError(f"no {TOKEN} there")
        except ValueError:
            log.exception("GET /?token=%s", TOKEN)
    finally:
        logging.setLogRecordFactory(before)
    assert TOKEN not in caplog.text and caplog.text.count("[hidden]") == 6
    assert "403 GET /?theme=dark&token=[hidden] (127.0.0.1) 0.70ms" in caplog.text
    assert "token=[hidden]&theme=dark" in caplog.text and "all of it" in caplog.text


def without_the_link(log: Path) -> str:
    """What a server has printed, but for the line with its link."""
    lines = log.read_text().splitlines(keepends=True)
    assert sum("the chat is at http://" in line and TOKEN in line for line in lines) == 1
    return "".join(line for line in lines if "the chat is at http://" not in line)


def test_what_a_visitor_is_told_names_no_folder():
    told = without_places(
        "/srv/a b: no such file '/home/me/x/y.png', ~/secret/z and C:\\Users\\me\\f.txt at 3/4"
    )
    assert "/" not in told.replace("3/4", "") and "\\" not in told and "y.png" in told
    assert without_places("see https://host/a") == "see https://host/a"


# --- what a visitor may do ---


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("path", {"path": "/etc/passwd"}),
        ("load", {"path": "file:///etc"}),
        ("load", {"path": "/etc"}),
        ("save", {"path": "/tmp/anytoany-visitor"}),
        ("switch", {"run": "/tmp"}),
        ("nothing", {}),
        ("send", {"text": 7}),
        ("send", {}),
        ("retry", {"bubble": "x"}),
        ("edit", {"bubble": 99}),
        ("download", {"bubble": -1, "piece": 10**9}),
        ("settings", {"values": {}}),
        ("settings", {"values": []}),
    ],
)
def test_a_visitor_has_no_paths_no_runs_and_no_say_in_what_is_not_understood(visit, what, told):
    assert visit.runs == [] and visit.served is True
    visit.do(what, **told)
    assert visit.status["state"] == "problem"
    assert not Path("/tmp/anytoany-visitor").exists()
    visit.do("clear")
    assert visit.status["state"] == "ready"


def test_what_fails_names_no_folder_of_the_server(visit, scripted, monkeypatch):
    """A decoder's error stood in the bubble with the path of its file, a whole reply's without it."""

    def lost(*_, **__):
        raise OSError("no room in /srv/secret/unet.safetensors")

    scripted(["Here", "image", "STOP"], ["Here", "STOP"])
    monkeypatch.setattr(type(visit.chat.session.model), "render", lost)
    visit.do("send", text="Draw")
    assert visit.said(1) == ["Here", "OSError: no room in unet.safetensors"]
    assert "secret" not in str(visit.chat._everything())
    monkeypatch.setattr(type(visit.chat.session.model), "hidden_states", lost)
    visit.do("send", text="And now?")
    assert visit.said(3) == ["OSError: no room in unet.safetensors"]
    assert "secret" not in str(visit.history)


def test_no_error_that_a_visitor_sees_names_a_folder(visit, monkeypatch):
    def failing(*_):
        raise RuntimeError("no such file: /srv/secret/weights.bin")
        yield

    monkeypatch.setattr(replies, "stream", failing)
    visit.do("send", text="Talk")
    shown = json.dumps([visit.bubbles, visit.status], default=str)
    assert "weights.bin" in shown and "/srv" not in shown
    visit.chat._say("/srv/secret/weights.bin was not loaded", "problem")
    assert visit.status["text"] == "weights.bin was not loaded"


@pytest.mark.parametrize("what", [("load", "path"), ("switch", "run")])
def test_who_sits_at_the_machine_has_no_chains_either(model, what):
    visit = Visit(Chat(model, blocking=True))
    for place in ("file:///etc", "s3://bucket/x::file:///etc/passwd", "zip://x::/etc/x.zip"):
        visit.do(what[0], **{what[1]: place})
        assert visit.status["state"] == "problem" and "expected a URL" in visit.status["text"]


def test_limits_of_a_message_and_of_settings(visit, scripted):
    scripted(["One", "STOP"], ["Two", "STOP"], ["Three", "STOP"])
    visit.do("send", text="x" * 201)
    assert "characters" in visit.status["text"] and visit.bubbles == []
    values = {one["name"]: "" if one["value"] is None else one["value"] for one in visit.settings}
    for name, value in (
        ("steps", 100_000),
        ("max_new_tokens", 10**9),
        ("frames", 9999),
        ("seconds", 1e9),
    ):
        visit.do("settings", values=values | {name: value})
        assert f"{name} may be" in visit.status["text"]
    visit.do("settings", values=values | {"steps": 3})
    assert visit.chat.session.sampling.steps == 3
    for text in ("One", "Two", "Three"):
        visit.do("send", text=text)
    assert "Clear begins another" in visit.status["text"] and len(visit.bubbles) == 4


def test_a_reply_has_its_time(model, scripted):
    scripted(["word " * 90])
    chat = Chat(model, sampling=Sampling(), blocking=True, served=Limits(reply_seconds=0.0))
    visit = Visit(chat)
    visit.do("send", text="Talk")
    assert visit.said(1)[-1] == "stopped"


def test_uploads_are_bounded_and_refused_files_are_deleted(visit):
    folder = visit.chat.session.folder
    visit.upload("a.png", png())
    visit.upload("no picture.png", b"text" * 100)
    assert "not attached" in visit.status["text"] and len(list(folder.iterdir())) == 1
    visit.do("chunk", b"", id="b", name="b.png", mime="", at=0, size=60_000)
    assert "may send" in visit.status["text"]
    visit.do("chunk", b"x" * 100, id="b", name="b.png", mime="", at=0, size=50)
    visit.do("chunk", b"x", id="c", name="c.png", mime="", at=-1, size=50)
    noise = [png(32, colour) + bytes(45_000) for colour in ("green", "blue")]
    visit.upload("1.png", noise[0], chunk=20_000)
    visit.upload("2.png", noise[1], chunk=20_000)
    assert "at most" in visit.status["text"] and len(visit.attached) == 2
    assert len(list(folder.iterdir())) == 2
    for one in list(visit.attached):
        visit.do("remove", id=one["id"])
    assert list(folder.iterdir()) == []


def test_a_name_is_never_another_attachments(visit, scripted):
    """Counted names gave the third file the name of the second once the first was removed."""
    scripted(["Yes", "STOP"])
    for name, colour in (("a", "red"), ("b", "green")):
        visit.upload(f"{name}.png", png(32, colour))
    visit.do("remove", id="a.png")
    visit.upload("c.png", png(32, "blue"))
    visit.do("send", text="Look")
    shown = [p["image"] for p in visit.chat.session.messages[0]["content"] if p["type"] == "image"]
    colours = [Image.open(path).convert("RGB").getpixel((0, 0)) for path in shown]
    assert colours == [(0, 128, 0), (0, 0, 255)]
    # What a message shows stays, also when it is taken back and put away.
    visit.do("undo")
    visit.do("cancel")
    assert all(Path(path).exists() for path in shown)


def test_names_of_uploads_are_drawn(tmp_path: Path):
    uploads = Uploads()
    paths = []
    for n in range(3):
        told = {"id": str(n), "name": "x.png", "at": 0, "size": 1}
        paths.append(uploads.take(told, b"x", tmp_path)[1])
        if n == 0:
            paths[0].unlink()
    assert len({path.name for path in paths}) == 3 and not any(
        p.stem.isdigit() and len(p.stem) == 4 for p in paths
    )


def test_what_is_kept_is_downloaded(visit, scripted, tmp_path: Path):
    scripted(["A bell", "image", "STOP"])
    visit.do("send", text="Draw")
    visit.do("archive")
    name, mime, data = visit.delivered[-1]
    assert (name, mime) == ("conversation.zip", "application/zip")
    zipfile.ZipFile(io.BytesIO(data)).extractall(tmp_path)
    loaded = Session.load(tmp_path, visit.chat.session.model)
    assert [message["role"] for message in loaded.messages] == ["user", "assistant"]


# --- servers ---


def ask(port: int, path: str, body: str | None = None, **headers: str) -> tuple[int, str, dict]:
    """Status, body and headers of an answer; a Host may be claimed."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        link.request("POST" if body else "GET", path, body, headers)
        answer = link.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), dict(answer.headers)
    finally:
        link.close()


def cookie_of(port: int) -> str:
    status, _, headers = ask(port, f"/?token={TOKEN}")
    assert status == 302 and "token" not in headers.get("Location", headers.get("location"))
    return (headers.get("Set-Cookie") or headers.get("set-cookie")).split(";")[0]


# `anytoany app`, which makes room of who has left at once, not after a minute, as soon as there is a file.
APP = """
import sys, threading, time
from pathlib import Path
from anytoany_lib.chat import voila_app

def hurry():
    while not Path(sys.argv[1]).exists():
        time.sleep(0.5)
    voila_app._LEFT_SECONDS = 1

threading.Thread(target=hurry, daemon=True).start()
options = voila_app.options
voila_app.options = lambda *how: [o.replace("interval=15", "interval=1") for o in options(*how)]
voila_app.main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def voila(tmp_path_factory):
    """`make app` for two visitors; its port and the folder of its log. Of its files nothing is left when it ends."""
    pytest.importorskip("voila", reason="the extra app is not installed")
    folder, port = tmp_path_factory.mktemp("voila"), free_port()
    own = folder / "tmp"
    own.mkdir()
    command = ["env", f"TMPDIR={own}", sys.executable, "-c", APP, str(folder / "hurry")]
    command += ["--run", str(resolve("ckpt/tiny/run")), "--port", str(port), "--waiting", "0"]
    command += ["--visitors", "2", "--token", TOKEN]
    with server(command, f"http://127.0.0.1:{port}/voila/static/voila.js?token={TOKEN}", folder):
        assert list(own.glob("anytoany-app-*/chat.ipynb"))
        said = (folder / "server.log").read_text()
        assert f"http://127.0.0.1:{port}/?token={TOKEN}" in said
        yield port, folder
    assert not [path for path in own.rglob("*") if path.is_file() or "anytoany" in path.name]


def test_voila_answers_nobody_without_token_or_under_a_foreign_name(voila):
    port, _ = voila
    for path in (
        "/",
        "/voila/static/voila.js",
        "/voila/files/chat.ipynb",
        "/api/kernels",
        "/login",
    ):
        assert ask(port, path)[0] == 401, path
        assert ask(port, f"{path}?token={TOKEN}", Host="evil.invalid")[0] == 403, path
    cookie = cookie_of(port)
    assert ask(port, "/voila/static/voila.js", Cookie=cookie)[0] == 200
    for path in (
        "/voila/files/chat.ipynb",
        "/voila/files/../../etc/passwd",
        "/voila/files/out/x.png",
    ):
        assert ask(port, path, Cookie=cookie)[0] in (403, 404), path
    channels = f"/api/kernels/{'0' * 8}-0000-0000-0000-{'0' * 12}/channels"
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert ask(port, channels, **upgrade, **key)[0] == 401
    evil = {"Origin": "http://evil.invalid", "Cookie": cookie}
    assert ask(port, channels, **upgrade, **key, **evil)[0] == 403


def test_voilas_log_has_no_token(voila):
    port, folder = voila
    assert ask(port, f"/?theme=dark&token={TOKEN}", Host="evil.invalid")[0] == 403
    ask(port, f"/voila/templates/x?token={TOKEN}")  # which Voila does not expect
    said = without_the_link(folder / "server.log")
    assert "403 GET /?theme=dark&token=[hidden]" in said and "/voila/templates/x" in said
    assert TOKEN not in said


@needs_chromium
def test_two_visitors_talk_and_a_third_is_told_that_it_is_full(voila):
    port, folder = voila
    link = f"http://127.0.0.1:{port}/?token={TOKEN}"
    with browser_page(1000, 800) as first:
        context = first.context.browser.new_context()
        second = context.new_page()
        for page, theme in ((first, "&theme=dark"), (second, "")):
            page.goto(link + theme, timeout=240_000)
            page.wait_for_selector(INPUT, timeout=240_000)
        assert "token" not in first.url
        third = first.context.browser.new_context().new_page()
        assert third.goto(link).status == 503 and "taken" in third.inner_text("body")
        for page, words in ((first, "Draw a red bell first."), (second, "I am the second.")):
            page.set_default_timeout(240_000)
            page.fill(INPUT, words)
            page.click(".a2a-send")
        first.wait_for_function(
            "() => document.querySelector('.a2a-model img')?.naturalWidth === 256"
        )
        assert first.locator("body[data-jp-theme-light=false]").count() == 1
        assert second.locator("body[data-jp-theme-light=false]").count() == 0
        assert "Loading weights" not in first.inner_text("body")
        assert first.evaluate("() => document.documentElement.scrollHeight <= innerHeight + 1")
        screenshot(first, "voila_dark", "body")
        for page, words, other in ((first, "first", "second"), (second, "second", "first")):
            page.wait_for_selector(".a2a-ready")
            page.wait_for_selector(".a2a-model .a2a-pieces")
            shown = page.inner_text(".a2a-user")
            assert words in shown and other not in shown
            assert page.locator(".a2a-path").count() == page.locator(".a2a-place").count() == 0
            assert page.locator(".a2a-runs").is_hidden()
        first.click(".a2a-gear")
        with first.expect_download() as saved:
            first.click(".a2a-archive")
        assert zipfile.is_zipfile(saved.value.path())
        second.close()
        (folder / "hurry").touch()
        for _ in range(240):  # who has left makes room
            if third.goto(link, wait_until="commit").status == 200:
                break
            time.sleep(1)
        else:
            raise AssertionError("the place of a visitor who left stays taken")


@pytest.fixture(scope="module")
def gradio(tmp_path_factory):
    """`make gradio`: its port, and the folder it keeps temporary files in."""
    pytest.importorskip("gradio", reason="the extra gradio is not installed")
    folder, port = tmp_path_factory.mktemp("gradio"), free_port()
    own = folder / "tmp"
    own.mkdir()
    command = ["env", f"TMPDIR={own}", sys.executable, "-m", "anytoany_lib", "gradio"]
    command += ["--run", str(resolve("ckpt/tiny/run")), "--port", str(port), "--token", TOKEN]
    with server(command, f"http://127.0.0.1:{port}/config?token={TOKEN}", folder):
        yield port, own
    assert not [path for path in own.rglob("*") if path.is_file() or "anytoany" in path.name]


def test_gradio_answers_nobody_without_token_or_under_a_foreign_name(gradio):
    port, _ = gradio
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
        assert ask(port, path)[0] == 401, path
        assert ask(port, f"{path}?token={TOKEN}", Host="evil.invalid")[0] == 403, path
    cookie = cookie_of(port)
    assert ask(port, "/config", Cookie=cookie)[0] == 200
    for place in ("/etc/passwd", str(resolve("ckpt/tiny/run/run.json"))):
        assert ask(port, f"/gradio_api/file={place}", Cookie=cookie)[0] in (403, 404)


def test_gradios_log_has_no_token(gradio):
    port, own = gradio
    ask(port, f"/?token={TOKEN}", Host="evil.invalid")
    ask(port, f"/gradio_api/queue/data?token={TOKEN}")
    assert TOKEN not in without_the_link(own.parent / "server.log")


def test_a_page_of_gradios_cannot_name_files_of_the_server(gradio, tmp_path: Path):
    client = pytest.importorskip("gradio_client")
    port, _ = gradio
    secret = media_files.save_image(tmp_path / "secret.png", Image.new("RGB", (8, 8)))
    visitor = client.Client(
        f"http://127.0.0.1:{port}", verbose=False, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    told = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    usual = ["0.0", "0.95", "4", "0", "", "2", "", "", False, False, False, False, False]
    # By hand: the client would read the file itself and send it.
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    asked = json.dumps({"data": [{"text": "Look", "files": [told]}, *usual]})
    status, answer, _ = ask(port, "/gradio_api/call/_send", asked, **headers)
    if status == 200:
        place = f"/gradio_api/call/_send/{json.loads(answer)['event_id']}"
        status, answer, _ = ask(port, place, **headers)
        assert "event: error" in answer and "event: complete" not in answer
    assert "data:image" not in answer
    turns = visitor.predict({"text": "x" * 30_000, "files": []}, *usual, api_name="/_send")[0]
    assert "may be sent" in str(turns)
    many = [*usual[:5], "100000", *usual[6:]]
    turns = visitor.predict({"text": "Hello", "files": []}, *many, api_name="/_send")[0]
    assert "steps may be 100 at most" in str(turns)


@needs_chromium
def test_two_visitors_of_gradios_page_have_their_own_conversations(gradio):
    port, _ = gradio
    link = f"http://127.0.0.1:{port}/?token={TOKEN}"
    with browser_page(1000, 900) as first:
        second = first.context.browser.new_context().new_page()
        pages = ((first, "I am the first."), (second, "I am the second."))
        for page, words in pages:
            page.set_default_timeout(240_000)
            page.goto(link)
            page.fill("textarea >> nth=0", words)
            page.keyboard.press("Enter")
        for page, words in pages:
            page.wait_for_selector(f".user >> text={words}")
            page.wait_for_selector(".bot")
            assert page.locator(".user").count() >= 1
        assert "second" not in first.inner_text("body") and "first" not in second.inner_text("body")
