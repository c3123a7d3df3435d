// What the pictures show.

const BLINK = 700;  // ms
const digits = (v, n = 3) => v === 0 ? "0" : Math.abs(v) < 0.1 ? v.toPrecision(Math.min(n, 2)) : v.toFixed(n);

class View extends Layout {
  showScore() {
    const {score, percentile, healthy} = this.about, among = percentile === null ? "no healthy slices to compare with at these settings" : `higher than ${Math.round(percentile)} % of ${healthy} healthy slices`;
    this.score.replaceChildren(make("span", {textContent: "score "}), make("b", {textContent: score.toFixed(3)}), make("span", {textContent: `, ${among}`}));
  }

  showKind({head}) {  // lesions are drawn in heads, which files of NIfTI hold; other images are arrays
    this.lesions.hidden = !head;
    this.files.textContent = head ? "Files (NIfTI, JSON)" : "Files (NPY, JSON)";
    if (head) return;
    this.tool.value = "look";
    this.showTool();
  }

  showPlanes({source, z}) {
    const stack = this.stacks[source];
    this.heights = stack ? stack.heights : null;
    this.plane.shown(Boolean(stack));
    if (!stack) return;
    this.plane.range(0, stack.heights.length - 1);
    if (this.want.z === null || this.want.z === z) this.plane.value = stack.heights.indexOf(z);
    this.want.z ??= z;
    this.asked.z ??= z;
  }

  movePlane(k) {  // the plane itself at once, what the network makes of it later
    const {heights, data, size} = this.stacks[this.want.source], [height, width] = size, length = height * width;
    Object.assign(this.want, {z: heights[k], lesion: null});
    this.painted = null;
    this.shown = {scan: {data: Float32Array.from(data.subarray(k * length, (k + 1) * length), v => v / 255), width, height, channels: 1}};
    this.score.textContent = "";
    this.say(`z = ${heights[k]} mm`);
    this.paintAll();
    this.request();
  }

  showMarking() {
    const known = this.about.map_threshold;
    if (this.look.marking === null || this.look.marking === this.calibrated) this.look.marking = known;
    this.calibrated = known;
    if (this.look.marking) this.marking.value = ratio.up(this.look.marking);
  }

  showMethod() {
    const {choice} = this.want, chain = this.facts.chains.find(c => c.name === choice.chain);
    this.sources.value = this.want.source;
    this.chain.value = choice.chain;
    this.variant.value = choice.variant;
    this.seed.value = choice.seed;
    this.noise.range(10, this.facts.max_level);
    this.noise.value = choice.noise_level ?? chain.noise_level ?? 0;
    this.steps.value = choice.resample_steps ?? chain.resample_steps;
    this.noise.shown(chain.noise_level !== null);
    this.variant.shown(chain.noise_level !== null);
    this.from.value = choice.threshold === null ? "calibrated" : choice.threshold === "p95" ? "p95" : "hand";
    if (this.about?.threshold) this.threshold.value = ratio.up(this.about.threshold);
    this.now.disabled = true;
  }

  press() {
    this.overButton.setAttribute("aria-pressed", String(this.look.over));
    this.blinkButton.setAttribute("aria-pressed", String(Boolean(this.blinking)));
  }

  blink() {
    clearInterval(this.blinking);
    this.blinking = this.blinking ? 0 : setInterval(() => { this.other = !this.other; this.drawScan(); }, BLINK);
    this.other = Boolean(this.blinking);
    this.press();
    this.drawScan();
  }

  // After an answer: every layer. The controls of "Look" make anew only what they decide.
  paintAll() {
    this.layers = {};
    const {shown, layers, about} = this, map = shown.anomaly_map;
    if (map) {
      layers.over = heat(map, about.limits.anomaly_map, this.colours, true);
      layers.map = heat(map, about.limits.anomaly_map, this.colours, false);
      this.barEnd.textContent = digits(about.limits.anomaly_map, 2);
    }
    layers.truth = shown.truth && outlineOf(shown.truth);
    this.legend[1].hidden = !layers.truth;
    this.paintMarks(false);
    this.paintGreys();
  }

  paintGreys() {
    const {scan, restored} = this.shown, {window, level} = this.look;
    if (scan) this.layers.scan = grey(scan, window, level);
    if (restored) this.layers.healthy = grey(restored, window, level);
    this.drawMain();
  }

  paintMarks(draw = true) {
    const {anomaly_map: map, head} = this.shown, level = this.look.marking, marks = map && level ? markedOf(map, head, level) : null;
    this.layers.outline = marks && outlineOf(marks);
    this.legend[0].hidden = !marks;
    this.tick.hidden = !marks;
    if (marks) this.tick.style.left = `${Math.min(100, 100 * level / this.about.limits.anomaly_map)}%`;
    const mm = this.about?.mm?.dx, pixels = marks ? count(marks) : 0;
    this.extent.textContent = !marks ? "" : mm ? `${(pixels * mm * mm / 100).toFixed(1)} cm² marked` : `${pixels} px marked`;
    if (draw) this.drawMain();
  }

  drawMain() {
    this.drawScan();
    const {shown, layers, about} = this, frame = image => ({image, sides: about?.sides, cross: this.pointer});
    const lines = [[layers?.truth, TRUTH], [layers?.outline, MARK]].filter(([path]) => path);
    this.healthy.set(layers?.healthy ? {...frame(shown.restored), base: layers.healthy} : null);
    this.map.set(layers?.map ? {...frame(shown.anomaly_map), base: layers.map, outlines: lines} : null);
  }

  drawScan() {
    const {shown, layers, look, about} = this;
    if (!layers?.scan) { this.scan.set(null); return; }
    const blinked = this.other && layers.healthy, lines = [];
    if (!blinked && look.over && layers.outline) lines.push([layers.outline, MARK]);
    if (!blinked && layers.truth) lines.push([layers.truth, TRUTH]);
    if (this.painted) lines.push([outlineOf(this.painted), PAINT]);
    this.scan.set({image: shown.scan, base: blinked ? layers.healthy : layers.scan, over: look.over && !this.blinking ? layers.over : null, opacity: look.opacity, outlines: lines, sides: about?.sides, cross: this.pointer});
    this.scan.title.textContent = blinked ? "Pseudo-healthy" : about.head ? "Scan" : "Image";
  }

  drawAll() {
    [...this.main, ...Object.values(this.stages), ...Object.values(this.walk)].forEach(p => p.draw());
  }

  showStages() {
    if (!this.stagesOpen || !this.shown.likelihood) return;
    const {limits, sides} = this.about, truth = this.layers.truth ? [[this.layers.truth, TRUTH]] : [];
    for (const [name, picture] of Object.entries(this.stages)) {
      const image = this.shown[name], base = limits[name] ? heat(image, limits[name], this.colours, false) : grey(image, 1, 0.5);
      picture.set({image, base, sides, outlines: name === "mask" ? truth : []});
      picture.note.textContent = limits[name] ? `0 to ${digits(limits[name], 2)}` : name === "mask" ? `${count(image)} px` : "";
    }
  }

  cut(threshold) {  // mask and stitched image follow the slider; the rest waits for the network
    const {scan, coarse, likelihood} = this.shown;
    if (!likelihood) return;
    this.shown.mask = maskOf(likelihood, threshold);
    this.shown.stitched = stitch(scan, coarse, this.shown.mask);
    this.showStages();
  }

  askWalk() { if (this.answered) this.model.send({kind: "walk", n: this.number}); }

  takeWalk(message, [data]) {
    if (message.n !== this.number) return;
    this.walked = {...message, data: new Uint8Array(data)};
    this.step.range(0, message.levels.length - 1);
    this.step.value = message.levels.length - 1;
    this.showStep();
  }

  showStep() {
    if (!this.walked) return;
    const {size: [height, width], channels} = this.walked, length = height * width * channels;
    Object.values(this.walk).forEach((picture, part) => {
      const start = (2 * this.step.value + part) * length, image = {data: Float32Array.from(this.walked.data.subarray(start, start + length), v => v / 255), width, height, channels};
      picture.set({image, base: grey(image, 1, 0.5), sides: this.about.sides});
      picture.note.textContent = `level ${this.walked.levels[this.step.value]}`;
    });
  }

  playWalk() {
    clearInterval(this.playing);
    if (!this.walked) return;
    this.step.value = 0;
    this.playing = setInterval(() => {
      this.showStep();
      if (this.step.value >= this.walked.levels.length - 1) clearInterval(this.playing);
      else this.step.value += 1;
    }, 250);
  }
}
