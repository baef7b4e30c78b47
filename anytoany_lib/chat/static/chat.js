// The chat's front end: draws what the kernel says and tells the kernel what the user does; it decides nothing itself.
//
// The kernel keeps the conversation. Its trait `snapshot` holds all of it when a page opens; afterwards come small
// operations (see `apply`). One store a widget, any number of views of it. HTML in a text piece was made safe in Python;
// everything else is put into the page as text.

const CHUNK = 2 ** 21; // bytes of an upload in one message: Jupyter drops messages above 10 MiB without a word
const PATIENCE = 8000; // milliseconds without an answer after which the page says so
const ICON = { image: "🖼", audio: "🔊", video: "🎞", depth: "📏", thermal: "🌡", imu: "📈" };

/** An element: h("button", {class: "x", onclick: f}, "text", child). */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const button = (css, text, tip, onclick, more = {}) =>
  h("button", { type: "button", class: `a2a-button ${css}`, title: tip, "aria-label": tip, onclick, ...more }, text);

// --- the store: what is on the screen, as data ---

function blobUrl(data, mime) {
  return URL.createObjectURL(new Blob([data], { type: mime }));
}

/** A piece whose bytes, if it has any, are an address that elements can show. */
function shown(piece) {
  return piece.data ? { ...piece, data: null, url: blobUrl(piece.data, piece.mime) } : piece;
}

function forget(bubbles) {
  for (const { pieces } of bubbles) for (const piece of pieces) if (piece.url) URL.revokeObjectURL(piece.url);
}

/** Carries out what the kernel said on the store. */
function apply(store, told, buffers) {
  const piece = () => shown(buffers?.length ? { ...told.piece, data: buffers[0] } : told.piece);
  if (told.op === "add") store.bubbles.push({ role: told.role, pieces: [] });
  else if (told.op === "piece") {
    const { pieces } = store.bubbles[told.bubble];
    forget([{ pieces: pieces.slice(told.at, told.at + 1) }]);
    pieces[told.at] = piece();
  } else if (told.op === "drop") forget(store.bubbles.splice(told.from));
  else if (told.op === "set") Object.assign(store, told.values);
}

/** Plays what is said of a reply, one sentence after the other. */
class Loudspeaker {
  waiting = [];

  say(data) {
    const sound = new Audio(blobUrl(data, "audio/wav"));
    const next = () => {
      URL.revokeObjectURL(sound.src);
      this.waiting.shift();
      this.begin();
    };
    sound.onended = sound.onerror = next;
    this.waiting.push(sound);
    if (this.waiting.length === 1) this.begin();
  }

  /** A page that nobody has touched yet may not play: its player beside the words is left. */
  begin() {
    this.waiting[0]?.play().catch(() => this.hush());
  }

  hush() {
    for (const sound of this.waiting.splice(0)) {
      sound.onended = sound.onerror = null;
      sound.pause();
      URL.revokeObjectURL(sound.src);
    }
  }
}

// --- one view ---

class View {
  constructor(store, send, el) {
    Object.assign(this, { store, uploads: new Map(), bubbles: [] });
    this.send = (content, buffers) => this.reach(() => send(content, buffers));
    this.root = h("div", { class: "a2a-chat", "data-lm-suppress-shortcuts": "true" });
    this.root.append(this.header(), this.drawer(), this.scroller(), this.composer());
    this.dropZone();
    this.gone = h("div", { class: "a2a-gone", role: "alert", hidden: true });
    el.append(this.gone, this.root);
    for (const bubble of store.bubbles) this.addBubble(bubble);
    this.draw(["title", "status", "attached", "settings", "runs", "examples", "editing"]);
  }

  /** Says so if a message cannot reach the kernel, or nothing comes back. */
  reach(send) {
    const lost = (text) => {
      this.gone.textContent = text;
      this.gone.hidden = false;
    };
    try {
      send();
      this.waiting ??= setTimeout(() => lost("The kernel does not answer: another cell is running, or it was restarted. If nothing runs, run this cell again."), PATIENCE);
    } catch {
      lost("The kernel was restarted or is gone: run this cell again to go on.");
    }
  }

  /** Brings the page up to what the store says after an operation. */
  follow(told, buffers) {
    clearTimeout(this.waiting);
    this.waiting = null;
    this.gone.hidden = true;
    if (told.op === "add") this.addBubble(this.store.bubbles.at(-1));
    else if (told.op === "piece") this.drawPiece(told.bubble, told.at);
    else if (told.op === "drop") for (const gone of this.bubbles.splice(told.from)) gone.remove();
    else if (told.op === "set") this.draw(Object.keys(told.values));
    else if (told.op === "received") this.nextChunk(told);
    else if (told.op === "deliver") this.deliver(told, buffers[0]);
    else if (told.op === "write") this.write(told.text);
    this.examples.hidden = this.store.bubbles.length > 0;
  }

  draw(keys) {
    const { store } = this;
    if (keys.includes("title")) this.title.textContent = store.title;
    if (keys.includes("status")) this.drawStatus();
    if (keys.includes("attached")) this.drawChips();
    if (keys.includes("settings")) this.drawSettings();
    if (keys.includes("runs")) this.drawRuns();
    if (keys.includes("editing")) this.editing.hidden = store.editing == null;
    if (keys.includes("examples")) {
      const choose = (text) => () => this.write(text);
      this.examples.replaceChildren(...store.examples.map((text) => button("a2a-example", text, `Write: ${text}`, choose(text))));
    }
  }

  // - header and settings -

  header() {
    this.title = h("b", { class: "a2a-title" });
    this.status = h("span", { class: "a2a-note", role: "status" });
    const toggle = (event) => {
      this.settings.hidden = !this.settings.hidden;
      event.currentTarget.setAttribute("aria-expanded", String(!this.settings.hidden));
    };
    return h("div", { class: "a2a-header" }, this.title, this.status, h("span", { class: "a2a-space" }),
      button("a2a-gear", "⚙", "Settings, runs, saving", toggle, { "aria-expanded": "false" }));
  }

  drawStatus() {
    const { state, text } = this.store.status;
    const busy = state === "busy" || state === "loading";
    this.status.className = `a2a-note a2a-${state}`;
    this.status.textContent = text;
    this.root.classList.toggle("a2a-working", busy);
    this.root.setAttribute("aria-busy", String(busy));
    for (const action of [this.sendButton, this.retryButton, this.undoButton, this.clearButton]) action.disabled = busy;
    this.stopButton.disabled = state !== "busy";
  }

  drawer() {
    this.fields = h("div", { class: "a2a-fields" });
    this.runs = h("select", { class: "a2a-runs", "aria-label": "Run to talk to", onchange: () => this.ask({ do: "switch", run: this.runs.value }) });
    this.place = h("input", { class: "a2a-place", type: "text", "aria-label": "Folder of a conversation", value: this.store.place });
    const at = (what) => () => this.ask({ do: what, path: this.place.value });
    // Whoever visits a served page has no folders there: what is kept is downloaded.
    const keeping = this.store.served
      ? [button("a2a-archive", "Save conversation", "Download messages and media", () => this.send({ do: "archive" }))]
      : [h("label", {}, "Conversation ", this.place),
        button("a2a-save", "Save folder", "Write messages and media into this folder", at("save")),
        button("a2a-load", "Load", "Go on with the conversation in this folder", at("load"))];
    this.settings = h("div", { class: "a2a-settings", hidden: true }, this.fields,
      h("div", { class: "a2a-row" }, h("label", {}, "Run ", this.runs)),
      h("div", { class: "a2a-row" }, ...keeping,
        button("a2a-page", "Save page", "Download the conversation as one HTML page", () => this.send({ do: "page" }))));
    return this.settings;
  }

  drawSettings() {
    const changed = () => this.send({ do: "settings", values: Object.fromEntries(
      [...this.fields.querySelectorAll("input")].map((input) => [input.name, input.type === "checkbox" ? input.checked : input.value])) });
    this.fields.replaceChildren(...this.store.settings.map(({ name, label, value, tip, ...more }) => {
      const input = h("input", { name, title: tip, onchange: changed, ...more });
      if (more.type === "checkbox") input.checked = value;
      else input.value = value ?? "";
      return h("label", { title: tip }, `${label} `, input);
    }));
  }

  drawRuns() {
    const { runs, run } = this.store;
    this.runs.replaceChildren(...runs.map((name) => h("option", { value: name, selected: name === run }, name)));
    this.runs.closest(".a2a-row").hidden = !runs.length;
  }

  // - the conversation -

  scroller() {
    this.log = h("div", { class: "a2a-log", role: "log", "aria-live": "polite", "aria-label": "Conversation" });
    this.examples = h("div", { class: "a2a-examples", hidden: this.store.bubbles.length > 0 });
    this.scroll = h("div", { class: "a2a-scroll", tabindex: "0", role: "group", "aria-label": "Conversation, to scroll", style: `height: ${this.store.height}` },
      this.log, this.examples);
    return this.scroll;
  }

  addBubble(bubble) {
    const number = this.bubbles.length, user = bubble.role === "user";
    const act = (what) => () => this.ask({ do: what, bubble: number });
    const actions = h("div", { class: "a2a-actions" },
      button("a2a-copy", "Copy", "Copy the text", () => this.copy(bubble)),
      button("a2a-read", "🔈", "Read aloud", act("read")),
      user ? button("a2a-edit", "Edit", "Edit this message and go on from here", act("edit"))
        : button("a2a-again", "Retry", "Draw this reply anew", act("retry")));
    const element = h("article", { class: `a2a-bubble a2a-${user ? "user" : "model"}`, "aria-label": user ? "You" : "Model" },
      h("div", { class: "a2a-pieces" }), actions);
    const turn = h("div", { class: "a2a-turn" }, element);
    this.bubbles.push(turn);
    this.log.append(turn);
    bubble.pieces.forEach((_, at) => this.drawPiece(number, at));
  }

  drawPiece(number, at) {
    const piece = this.store.bubbles[number].pieces[at], place = this.bubbles[number].firstChild.firstChild;
    const old = place.children[at];
    if (piece.kind === "text" && !piece.url && old?.className === "a2a-piece-text") old.innerHTML = piece.html;
    else if (old) old.replaceWith(this.pieceElement(piece, number, at));
    else place.append(this.pieceElement(piece, number, at));
  }

  pieceElement(piece, number, at) {
    if (piece.kind === "text") {
      const element = h("div", { class: "a2a-piece-text" });
      element.innerHTML = piece.html;
      return piece.url ? h("div", { class: "a2a-spoken" }, element, this.medium({ ...piece, kind: "audio" }, number, at)) : element;
    }
    if (piece.kind === "dots") return h("span", { class: "a2a-dots", "aria-label": "waiting" }, "•••");
    if (piece.kind === "note") return h("div", { class: "a2a-note" }, piece.text);
    if (piece.kind === "error") return h("div", { class: "a2a-error", role: "alert" }, `⚠ ${piece.text} `,
      button("a2a-again", "Retry", "Draw this reply anew", () => this.ask({ do: "retry", bubble: number })));
    if (piece.kind === "making") return this.making(piece);
    return this.medium(piece, number, at);
  }

  making({ medium, text, done, total, url }) {
    const steps = total ? ` ${done}/${total}` : "";
    const bar = total ? h("progress", { max: total, value: done, "aria-label": text }) : h("progress", { "aria-label": text });
    return h("div", { class: "a2a-making a2a-note" }, `${ICON[medium]} ${text} …${steps}`, bar,
      url ? h("img", { class: "a2a-preview", src: url, alt: "a first look at the picture" }) : null);
  }

  medium({ kind, url, label, width, enlarged }, number, at) {
    // Small media are shown larger; the page's own width is the limit of large ones.
    const widen = ({ target }) => { if ((target.naturalWidth || target.videoWidth || 0) < width) target.style.width = `${width}px`; };
    const seen = { src: url, class: "a2a-media", title: label, onload: widen, onloadedmetadata: widen };
    const element = kind === "audio" ? h("audio", { ...seen, controls: true, "aria-label": label })
      : kind === "video" ? h("video", { ...seen, controls: true, autoplay: true, loop: true, playsinline: true, "aria-label": label })
      : h("img", { ...seen, alt: label });
    element.muted = kind === "video";
    const download = (more) => () => this.send({ do: "download", bubble: number, piece: at, ...more });
    return h("figure", { class: "a2a-medium" }, element, button("a2a-download", "⤓", `Download: ${label}`, download({})),
      enlarged ? button("a2a-download a2a-made", "⤓ as made", `Download: ${kind} as it was made`, download({ made: true })) : null);
  }

  async copy({ pieces }) {
    const text = pieces.filter((piece) => piece.text && piece.kind === "text").map((piece) => piece.text).join("\n\n");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without permission or https there is the older way.
      const area = h("textarea", { class: "a2a-offscreen" });
      this.root.append(area);
      area.value = text;
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  deliver({ name, mime }, data) {
    const url = blobUrl(data, mime);
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  // - writing -

  composer() {
    const ask = (what) => () => this.ask({ do: what });
    this.input = h("textarea", { rows: "2", dir: "auto", "aria-label": "Message", onkeydown: (event) => this.key(event), onpaste: (event) => this.paste(event),
      placeholder: "Write a message. Enter sends, Shift+Enter starts a line; drop, paste or attach pictures, sounds and clips" });
    this.chips = h("div", { class: "a2a-chips" });
    this.files = h("input", { type: "file", multiple: true, hidden: true, accept: "image/*,audio/*,video/*,.npy,.csv", onchange: () => { this.take(this.files.files); this.files.value = ""; } });
    this.path = h("input", { type: "text", class: "a2a-path", placeholder: "or a file's path, then Enter", "aria-label": "Path of a file to attach",
      onkeydown: (event) => { if (event.key === "Enter") { this.send({ do: "path", path: this.path.value }); this.path.value = ""; } } });
    this.sendButton = button("a2a-send a2a-primary", "Send", "Send the message (Enter)", () => this.submit());
    this.stopButton = button("a2a-stop", "Stop", "End the reply here (Escape)", () => this.stop());
    this.retryButton = button("a2a-retry", "Retry", "Draw the last reply anew", ask("retry"));
    this.undoButton = button("a2a-undo", "Undo", "Take back the last message and its reply", ask("undo"));
    this.clearButton = button("a2a-clear", "Clear", "Forget the conversation", ask("clear"));
    this.microphone = button("a2a-microphone", "🎙", "Record from the microphone", () => this.record(), { "aria-pressed": "false" });
    this.editing = h("div", { class: "a2a-editing a2a-note", hidden: true }, "Editing an earlier message: what came after it will go. ",
      button("a2a-cancel", "Cancel", "Leave the message as it was", ask("cancel")));
    this.notice = h("div", { class: "a2a-problem a2a-note", role: "alert", hidden: true });
    this.root.addEventListener("keydown", (event) => { if (event.key === "Escape" && !this.stopButton.disabled) this.stop(); });
    return h("div", { class: "a2a-inputs" }, this.editing, this.notice, this.chips,
      h("div", { class: "a2a-input" }, this.input, h("div", { class: "a2a-go" }, this.sendButton, this.stopButton)),
      h("div", { class: "a2a-tools" }, this.files, button("a2a-upload", "📎 Attach", "Attach files", () => this.files.click()),
        this.microphone, this.store.served ? null : this.path, h("span", { class: "a2a-space" }), this.retryButton, this.undoButton, this.clearButton));
  }

  stop() {
    this.store.loudspeaker.hush();
    this.send({ do: "stop" });
  }

  write(text) {
    this.input.value = text;
    this.input.focus();
  }

  key(event) {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    // By hand: notebooks take Shift+Enter for themselves.
    if (event.shiftKey) this.input.setRangeText("\n", this.input.selectionStart, this.input.selectionEnd, "end");
    else this.submit();
  }

  submit() {
    if (this.sendButton.disabled) return;
    if (this.uploads.size) return this.say("a file is still on its way: send when it has arrived");
    this.ask({ do: "send", text: this.input.value });
    this.scroll.scrollTop = 0; // the end, which whoever writes wants to see
    this.input.focus();
  }

  /** Asks for something that changes the conversation; nothing else can be asked for until the kernel has answered. */
  ask(what) {
    this.store.status = { state: "loading", text: "sending" };
    this.drawStatus();
    this.send(what);
  }

  say(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  // - files -

  paste(event) {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    this.take(event.clipboardData.files);
  }

  dropZone() {
    const stop = (event) => { event.preventDefault(); event.stopPropagation(); };
    const over = (is) => (event) => { stop(event); this.root.classList.toggle("a2a-over", is); };
    this.root.addEventListener("dragover", over(true));
    this.root.addEventListener("dragleave", over(false));
    this.root.addEventListener("drop", (event) => { over(false)(event); this.take(event.dataTransfer.files); });
  }

  /** Sends files to the kernel piece by piece: the next chunk goes when the last one was received. */
  take(files, question = false) {
    this.say("");
    for (const file of files) {
      if (file.size > this.store.limit) {
        const mb = (bytes) => `${Math.round(bytes / 2 ** 20)} MB`;
        this.say(`${file.name} has ${mb(file.size)}, more than the ${mb(this.store.limit)} that can be sent through the page${this.store.served ? "" : ": copy it to where the kernel runs and type its path"}`);
        continue;
      }
      const id = crypto.randomUUID?.() ?? String(Math.random());
      this.uploads.set(id, { file, sent: 0, question });
      this.nextChunk({ id, bytes: 0 });
    }
  }

  async nextChunk({ id, bytes }) {
    const upload = this.uploads.get(id);
    if (!upload) return;
    const { file } = upload;
    upload.sent = bytes;
    if (bytes >= file.size && bytes) {
      this.uploads.delete(id);
      if (upload.question) this.submit();
    } else {
      try {
        const chunk = await file.slice(bytes, bytes + CHUNK).arrayBuffer();
        this.send({ do: "chunk", id, name: file.name, mime: file.type, at: bytes, size: file.size }, [chunk]);
      } catch (error) {
        this.uploads.delete(id);
        this.send({ do: "remove", id });
        this.say(`${file.name} could not be read to its end: ${error.message}`);
      }
      if (!file.size) this.uploads.delete(id);
    }
    this.drawChips();
  }

  drawChips() {
    const drop = (id) => () => { this.uploads.delete(id); this.send({ do: "remove", id }); this.drawChips(); };
    const chip = (id, name, ...what) => h("div", { class: "a2a-chip", title: name }, ...what, button("a2a-remove", "✕", `Remove ${name}`, drop(id)));
    const there = this.store.attached.map(({ id, kind, name, thumbnail }) => chip(id, name,
      thumbnail ? h("img", { class: "a2a-thumbnail", src: thumbnail, alt: "" }) : h("span", {}, ICON[kind]), h("span", { class: "a2a-name" }, name)));
    const coming = [...this.uploads].map(([id, { file, sent }]) => chip(id, file.name,
      h("progress", { max: file.size || 1, value: sent, "aria-label": `sending ${file.name}` }), h("span", { class: "a2a-name" }, file.name)));
    this.chips.replaceChildren(...there, ...coming);
  }

  async record() {
    if (this.recorder) return this.recorder.stop();
    this.store.loudspeaker.hush();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const recorder = new MediaRecorder(stream), heard = [];
      recorder.ondataavailable = ({ data }) => heard.push(data);
      recorder.onstop = () => {
        for (const track of stream.getTracks()) track.stop();
        const type = recorder.mimeType.split(";")[0];
        // Where words are heard a recording is a question, and is asked as soon as it has arrived.
        this.take([new File(heard, `recording.${type.split("/")[1]}`, { type })], this.store.hears);
        this.pressed(null);
      };
      recorder.start();
      this.pressed(recorder);
    } catch (error) {
      this.say(`no recording: ${error?.message ?? "this page may not use a microphone"}; attach a sound file instead`);
    }
  }

  pressed(recorder) {
    this.recorder = recorder;
    this.microphone.setAttribute("aria-pressed", String(!!recorder));
    this.microphone.textContent = recorder ? "⏹" : "🎙";
  }
}

export default () => {
  const views = new Set();
  let store;
  return {
    initialize({ model }) {
      store = { ...model.get("snapshot"), loudspeaker: new Loudspeaker() };
      store.bubbles = store.bubbles.map(({ role, pieces }) => ({ role, pieces: pieces.map(shown) }));
      model.on("msg:custom", (told, buffers) => {
        apply(store, told, buffers);
        if (told.op === "say") store.loudspeaker.say(buffers[0]);
        for (const view of views) view.follow(told, buffers);
      });
    },
    render({ model, el }) {
      const view = new View(store, (content, buffers) => model.send(content, undefined, buffers), el);
      views.add(view);
      return () => views.delete(view);
    },
  };
};
