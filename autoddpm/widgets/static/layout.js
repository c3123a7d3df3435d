// The page: which pictures and controls there are, and where.

const STAGES = {coarse: "1. coarse", likelihood: "1. likelihood", mask: "1. mask", stitched: "2. stitched", restored: "3. restored", anomaly_map: "3. final map"};

class Layout {
  build() {
    const top = make("div", {className: "result"}, this.root);
    this.name = make("b", {className: "name"}, top);
    this.score = make("span", {className: "score"}, top);
    this.banner = make("span", {className: "banner", hidden: true}, top);
    this.buildPictures();
    this.readout = make("div", {className: "readout", textContent: "\u00a0"}, this.root);
    this.message = make("div", {className: "message"}, this.root);
    this.message.setAttribute("role", "status");
    this.notes = make("ul", {className: "notes"}, this.root);
    const controls = make("div", {className: "controls"}, this.root);
    this.buildScan(this.group(controls, "Scan"));
    this.buildLook(this.group(controls, "Look"));
    this.lesions = this.group(controls, "Draw a lesion");
    this.buildLesion(this.lesions);
    this.buildMethod(fold(this.root, "Method"));
    this.buildStages(fold(this.root, "Every stage, step by step", () => { this.stagesOpen = true; this.showStages(); this.askWalk(); }));
    this.buildTakeAway(fold(this.root, "Take away: files, Python, command"));
  }

  group(parent, title) {
    const box = make("section", {}, parent);
    make("h3", {textContent: title}, box);
    return box;
  }

  buildPictures() {
    const row = make("div", {className: "pictures"}, this.root);
    this.scan = new Picture(this.zoom, "Scan", "scan");
    this.healthy = new Picture(this.zoom, "Pseudo-healthy", "healthy");
    this.map = new Picture(this.zoom, "Anomaly map", "map");
    this.main = [this.scan, this.healthy, this.map];
    this.bar = make("canvas", {className: "bar", width: 256, height: 1});
    for (const picture of this.main) { row.append(picture.box); this.handle(picture); }
    const scale = make("span", {className: "scale"});
    scale.append(this.bar, this.tick = make("b", {title: "marked from here on"}));
    const ends = make("span", {className: "ends"});
    ends.append(make("i", {textContent: "0"}), scale, this.barEnd = make("i"));
    this.map.note.append(this.extent = make("i", {className: "area"}), ends);
    this.legend = ["marked", "lesion"].map(name => make("i", {className: `line ${name}`, textContent: name, hidden: true}, this.scan.note));
  }

  buildScan(box) {
    this.sources = new Menu(box, "scan", v => { Object.assign(this.want, {source: v, z: null, lesion: null}); this.painted = null; this.request(); });
    this.plane = new Slider(box, "plane", {low: 0, high: 0, value: 0, form: k => this.heights ? `z = ${this.heights[k] > 0 ? "+" : ""}${this.heights[k]} mm` : "", moved: k => this.movePlane(k)});
    const row = make("div", {className: "row"}, box);
    const files = make("input", {type: "file", accept: ".nii,.gz,.png,.npy,.tif,.tiff", hidden: true}, row);
    files.addEventListener("change", () => { if (files.files[0]) this.upload(files.files[0]); files.value = ""; });
    button(row, "Open a file", () => files.click(), "NIfTI, PNG or NPY; a model of other images takes TIFF as well. Nothing leaves this machine");
    this.path = make("input", {type: "text", placeholder: "or its path, then Enter", className: "path"}, row);
    this.path.setAttribute("aria-label", "path of a scan");
    this.path.addEventListener("keydown", e => { e.stopPropagation(); if (e.key === "Enter" && this.path.value.trim()) this.model.send({kind: "path", path: this.path.value.trim()}); });
    button(make("div", {className: "row"}, box), "Reset everything", () => this.reset(), "All controls as they were at the start");
  }

  buildLook(box) {
    this.look = {opacity: 0.6, over: true, window: 1, level: 0.5, marking: null};
    const row = make("div", {className: "row"}, box);
    this.overButton = button(row, "Map on scan", () => { this.look.over = !this.look.over; this.press(); this.drawScan(); });
    this.blinkButton = button(row, "Blink", () => this.blink(), "Scan and pseudo-healthy image in turn");
    button(row, "−", () => this.zoom.by(1 / 1.5), "Zoom out").className = "small";
    button(row, "+", () => this.zoom.by(1.5), "Zoom in: wheel, two fingers").className = "small";
    button(row, "1:1", () => this.zoom.reset(), "The whole slice").className = "small";
    const percent = v => `${Math.round(100 * v)} %`;
    this.opacity = new Slider(box, "opacity", {low: 0, high: 1, step: 0.01, value: 0.6, form: percent, moved: v => { Object.assign(this.look, {opacity: v, over: true}); this.press(); this.drawScan(); }});
    this.marking = new Slider(box, "mark above", {low: -300, high: 0, value: -150, form: k => digits(ratio.down(k)), moved: k => { this.look.marking = ratio.down(k); this.paintMarks(); }});
    this.window = new Slider(box, "window", {low: 0.05, high: 1.5, step: 0.01, value: 1, form: v => v.toFixed(2), moved: v => { this.look.window = v; this.paintGreys(); }});
    this.level = new Slider(box, "level", {low: 0, high: 1, step: 0.01, value: 0.5, form: v => v.toFixed(2), moved: v => { this.look.level = v; this.paintGreys(); }});
    this.press();
  }

  buildLesion(box) {
    this.tool = new Choices(box, "tool", [["look", "Off", "Drag to move, wheel to zoom"], ["place", "Click", "A click on the scan puts a lesion there"], ["paint", "Paint", "Paint a lesion on the scan"], ["erase", "Erase", "Take painted pixels away"]], () => this.showTool());
    this.kind = new Menu(box, "kind", () => this.changeLesion());
    this.area = new Slider(box, "size", {low: 10, high: 1500, step: 10, value: 300, form: v => `${v} px`, moved: () => this.changeLesion()});
    this.radius = new Slider(box, "brush", {low: 1, high: 15, step: 0.5, value: 4, form: v => `${v} px`, moved: () => {}});
    this.contrast = new Slider(box, "contrast", {low: 0.05, high: 1, step: 0.05, value: 0.8, form: v => v.toFixed(2), moved: () => this.changeLesion()});
    this.shape = new Slider(box, "shape", {low: 0, high: 30, value: 0, moved: () => this.changeLesion()});
    this.remove = button(make("div", {className: "row"}, box), "Remove the lesion", () => { this.painted = null; this.want.lesion = null; this.request(); });
    this.tool.value = "look";
    this.showTool();
  }

  buildMethod(box) {
    const change = (name, v) => { this.want.choice[name] = v; this.request(); };
    this.chain = new Menu(box, "chain", v => { Object.assign(this.want.choice, {chain: v, noise_level: null, resample_steps: null, threshold: null, variant: "paper"}); this.showMethod(); this.request(); });
    this.variant = new Menu(box, "variant", v => { Object.assign(this.want.choice, {variant: v, noise_level: null}); this.request(); });
    this.noise = new Slider(box, "noise level", {low: 10, high: 300, value: 200, moved: v => change("noise_level", v)});
    this.steps = new Slider(box, "re-sample steps", {low: 1, high: 10, value: 5, moved: v => change("resample_steps", v)});
    this.from = new Menu(box, "mask threshold", v => change("threshold", {calibrated: null, p95: "p95", hand: ratio.down(this.threshold.value)}[v]));
    this.from.fill([["calibrated", "calibrated"], ["p95", "95th percentile of the slice"], ["hand", "by hand"]]);
    this.threshold = new Slider(box, "threshold", {low: -300, high: 0, value: -100, form: k => digits(ratio.down(k)), moved: k => { this.from.value = "hand"; this.cut(ratio.down(k)); change("threshold", ratio.down(k)); }});
    this.seed = new Slider(box, "seed", {low: 0, high: 99, value: 0, moved: v => change("seed", v)});
    const row = make("label", {className: "check"}, box);
    this.atOnce = make("input", {type: "checkbox", checked: true}, row);
    row.append(" run the network at once ");
    this.atOnce.addEventListener("change", () => this.atOnce.checked && this.request());
    this.now = button(box, "Run now", () => this.send());
    this.used = make("p", {className: "used"}, box);
  }

  buildStages(box) {
    const row = make("div", {className: "stages"}, box);
    this.stages = Object.fromEntries(Object.entries(STAGES).map(([name, title]) => [name, new Picture(this.zoom, title, name)]));
    this.walk = {noisy: new Picture(this.zoom, "input of the network", "noisy"), clean: new Picture(this.zoom, "its estimate", "clean")};
    for (const picture of [...Object.values(this.stages), ...Object.values(this.walk)]) { row.append(picture.box); this.handle(picture); }
    this.step = new Slider(box, "step", {low: 0, high: 0, value: 0, form: k => this.walked ? `level ${this.walked.levels[k]}` : "", moved: () => this.showStep()});
    this.play = button(box, "Play", () => this.playWalk());
  }

  buildTakeAway(box) {
    const row = make("div", {className: "row"}, box);
    this.files = button(row, "Files (NIfTI, JSON)", () => this.busy("packing the files") || this.model.send({kind: "files", want: this.want, marking: this.look.marking}));
    button(row, "Picture (PNG)", () => this.savePicture());
    this.texts = {};
    for (const [name, title] of [["python", "Copy as Python"], ["command", "Copy as command"]]) {
      const part = make("div", {className: "text"}, box);
      const press = button(part, title, async () => { await copyText(this.texts[name].textContent, this.root); press.textContent = "Copied"; setTimeout(() => { press.textContent = title; }, 1500); });
      this.texts[name] = make("pre", {className: name, tabIndex: 0}, part);
    }
  }
}
