// The explorer: the talk with Python. What needs no network is answered in the page; all other moves become one
// request at a time, the latest one.

const PAUSE = 200;  // ms without a move before Python is asked
const CHUNK = 4 << 20;  // bytes of a file in one message
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const clone = value => JSON.parse(JSON.stringify(value));

class Explorer extends Hand {
  constructor(model, el) {
    super();
    this.model = model;
    this.root = make("div", {className: "autoddpm"}, el);
    this.shown = {};       // images of the last answer, by name
    this.stacks = {};      // planes of volumes, by source
    this.number = 0;       // of the last request
    this.painted = null;   // pixels under the brush
    this.zoom = new Zoom(() => this.drawAll());
    this.build();
    this.listen = (message, buffers) => this.hear(message, (buffers || []).map(b => b instanceof ArrayBuffer ? b : b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength)));
    model.on("msg:custom", this.listen);
    model.send({kind: "hello"});
  }

  close() {
    this.model.off("msg:custom", this.listen);
    [this.blinking, this.playing, this.clock].forEach(clearInterval);
    clearTimeout(this.waiting);
  }

  hear(message, buffers) {
    ({
      config: () => this.configure(message, buffers),
      sources: () => { this.sources.fill(message.sources); Object.assign(this.want, {source: message.chosen, z: null, lesion: null}); this.painted = null; this.request(); },
      status: () => message.n === undefined || message.n === this.number ? this.busy(message.text) : null,
      stack: () => { this.stacks = {[message.source]: {...message, data: new Uint8Array(buffers[0])}}; },
      scan: () => message.n === this.number && this.takeScan(message, buffers),
      answer: () => message.n === this.number && this.take(message, buffers),
      error: () => message.n === undefined || message.n === this.number ? this.refuse(message) : null,
      walk: () => this.takeWalk(message, buffers),
      files: () => { saveBlob(new Blob(buffers, {type: "application/zip"}), message.name); this.say(`${message.name} saved`); },
    })[message.kind]?.();
  }

  configure(message, [colours]) {
    Object.assign(this, {facts: message, colours: new Uint8Array(colours), first: message.first, want: clone(message.first)});
    this.sources.fill(message.sources);
    this.chain.fill(message.chains.map(c => [c.name, `${c.name}, ${c.calls} network calls`]));
    this.variant.fill(message.variants.map(v => [v, v]));
    this.kind.fill(message.kinds.map(v => [v, v]));
    const paint = this.bar.getContext("2d"), pixels = paint.createImageData(256, 1);
    for (let k = 0; k < 256; k++) pixels.data.set([...this.colours.slice(3 * k, 3 * k + 3), 255], 4 * k);
    paint.putImageData(pixels, 0, 0);
    this.showMethod();
    this.send();
  }

  request() {  // soon, once the hand rests
    clearTimeout(this.waiting);
    if (!this.atOnce.checked && this.answered && same(this.answered.source, this.want.source) && this.want.z === this.answered.z && same(this.want.lesion, this.answered.lesion)) {
      this.now.disabled = false;
      return this.say("changed; the network has not run yet");
    }
    this.waiting = setTimeout(() => this.send(), PAUSE);
  }

  send() {
    if (this.pending) { this.again = true; return; }
    [this.pending, this.again] = [true, false];
    this.asked = clone(this.want);
    this.number += 1;
    this.root.dataset.state = "busy";
    this.model.send({kind: "ask", n: this.number, have: Object.keys(this.stacks)[0] || null, want: this.asked});
  }

  settled(state) {
    this.pending = false;
    clearInterval(this.clock);
    this.root.dataset.state = state;
    this.root.dataset.n = this.number;
    if (this.again) this.send();
  }

  busy(text) {
    const start = performance.now();
    clearInterval(this.clock);
    this.say(text);
    this.clock = setInterval(() => this.say(`${text}, ${Math.round((performance.now() - start) / 1000)} s`), 1000);
  }

  say(text, bad = false) {
    this.message.textContent = text;
    this.message.classList.toggle("bad", bad);
  }

  refuse(message) {
    clearInterval(this.clock);
    this.say(message.text, true);
    if (message.n === undefined) return;
    this.shown = {};
    this.answered = null;
    [this.name.textContent, this.score.textContent] = ["", ""];
    [...this.main, ...Object.values(this.stages), ...Object.values(this.walk)].forEach(p => p.set(null));
    this.notes.replaceChildren();
    this.settled("error");
  }

  images(message, buffers) {
    const [height, width] = message.size;
    return Object.fromEntries(message.pictures.map(([name, kind, channels], k) => [name, {data: kind === "f" ? new Float32Array(buffers[k]) : new Uint8Array(buffers[k]), width, height, channels}]));
  }

  takeScan(message, buffers) {  // before the network has run
    this.about = message;
    this.shown = this.images(message, buffers);
    this.painted = this.want.lesion && !this.want.lesion.place ? this.painted : null;
    this.banner.hidden = !message.simulated;
    this.banner.textContent = message.banner;
    this.name.textContent = message.name;
    this.score.textContent = "";
    this.showKind(message);
    this.showPlanes(message);
    this.paintAll();
  }

  take(message, buffers) {
    Object.assign(this.shown, this.images(message, buffers));
    Object.assign(this.about, message);
    this.answered = this.asked;
    if (!this.again && same(this.asked.choice, this.want.choice)) this.showMethod();
    this.showScore();
    this.notes.replaceChildren(...message.notes.map(text => make("li", {textContent: text})));
    this.texts.python.textContent = message.python;
    this.texts.command.textContent = message.command;
    this.used.textContent = message.used;
    this.now.disabled = true;
    this.walked = null;
    this.say(message.said);
    this.showMarking();
    this.paintAll();
    this.showStages();
    this.settled("idle");
    if (this.stagesOpen) this.askWalk();
  }

  async upload(file) {
    const parts = Math.max(1, Math.ceil(file.size / CHUNK));
    for (let k = 0; k < parts; k++) {
      this.say(`reading ${file.name}, ${Math.round(100 * k / parts)} %`);
      const bytes = await file.slice(k * CHUNK, (k + 1) * CHUNK).arrayBuffer();
      this.model.send({kind: "file", name: file.name, part: k, parts}, undefined, [bytes]);
    }
  }

  reset() {
    this.want = clone(this.first);
    this.painted = null;
    Object.assign(this.look, {opacity: 0.6, over: true, window: 1, level: 0.5, marking: null});
    for (const name of ["opacity", "window", "level"]) this[name].value = this.look[name];
    [this.area.value, this.radius.value, this.contrast.value, this.shape.value] = [300, 4, 0.8, 0];
    this.kind.value = this.facts.kinds[0];
    this.tool.value = "look";
    this.atOnce.checked = true;
    this.path.value = "";
    if (this.blinking) this.blink();
    this.zoom.reset();
    this.showTool();
    this.showMethod();
    this.press();
    this.request();
  }

  savePicture() {
    if (!this.shown.anomaly_map) return this.say("nothing to save yet", true);
    const side = 512, gap = 8, head = 34, foot = 46, sheet = make("canvas", {width: 3 * side + 2 * gap, height: side + head + foot}), context = sheet.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, sheet.width, sheet.height);
    this.main.forEach((picture, k) => {
      const part = make("canvas", {width: side, height: side});
      picture.drawOn(part.getContext("2d"), side, {...picture.show, cross: null});
      context.drawImage(part, k * (side + gap), head);
      Object.assign(context, {fillStyle: "black", font: "bold 18px system-ui, sans-serif"});
      context.fillText(picture.title.textContent, k * (side + gap) + 4, 23);
    });
    const x = 2 * (side + gap) + 250;
    context.drawImage(this.bar, x, 8, 180, 16);
    context.font = "15px system-ui, sans-serif";
    context.fillText("0", x - 14, 22);
    context.fillText(this.barEnd.textContent, x + 186, 22);
    context.fillText(`${this.name.textContent}${this.want.lesion ? ", lesion drawn in" : ""}; ${this.score.textContent}; marked above ${this.look.marking ? digits(this.look.marking) : "nothing"}`, 4, side + head + 19);
    context.fillText(`${this.about.simulated ? `${this.about.banner}; ` : ""}${this.about.used}; research use only`, 4, side + head + 39);
    sheet.toBlob(blob => { saveBlob(blob, `${this.about.stem}.png`); this.say(`${this.about.stem}.png saved`); });
  }
}

export default {
  render({model, el}) {
    const explorer = new Explorer(model, el);
    return () => explorer.close();
  },
};
