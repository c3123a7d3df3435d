// The hand on the pictures: move, zoom, window and level, click and paint a lesion.

class Hand extends View {
  handle(picture) {
    const {canvas} = picture, fingers = new Map();
    let last = null, apart = 0, tapped = false;
    const spread = () => { const [a, b] = fingers.values(); return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); };
    const middle = () => { const [a, b] = fingers.values(); return {clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2}; };
    canvas.addEventListener("contextmenu", e => e.preventDefault());
    canvas.addEventListener("wheel", e => { e.preventDefault(); this.zoom.by(e.deltaY < 0 ? 1.2 : 1 / 1.2, picture.share(e)); }, {passive: false});
    canvas.addEventListener("pointerdown", e => {
      if (!picture.image) return;
      e.preventDefault();
      canvas.setPointerCapture(e.pointerId);
      fingers.set(e.pointerId, e);
      last = e;
      if (fingers.size === 2) { apart = spread(); tapped = false; this.dropStroke(); }  // it was no stroke, but a pinch
      else if (fingers.size === 1 && e.button === 0 && picture === this.scan) { tapped = true; this.startStroke(picture.place(e)); }
    });
    canvas.addEventListener("pointermove", e => {
      if (!picture.image) return;
      this.point(picture.place(e));
      if (!fingers.has(e.pointerId)) return;
      fingers.set(e.pointerId, e);
      const box = canvas.getBoundingClientRect(), dx = (e.clientX - last.clientX) / box.width, dy = (e.clientY - last.clientY) / box.height;
      if (fingers.size === 2) { const now = spread(); this.zoom.by(now / apart, picture.share(middle())); apart = now; }
      else if (e.buttons === 2) this.turn(dx, dy);
      else if (this.stroke && picture === this.scan) this.paintTo(picture.place(e));
      else if (this.tool.value === "look" || picture !== this.scan) this.zoom.move(-dx / this.zoom.k, -dy / this.zoom.k);
      last = e;
    });
    const lift = e => {
      fingers.delete(e.pointerId);
      [last] = fingers.values();  // the finger that stays goes on from where it is
      if (this.stroke) this.endStroke();
    };
    canvas.addEventListener("pointerup", e => { if (tapped && picture.image) this.placeAt(picture.place(e)); tapped = false; lift(e); });
    canvas.addEventListener("pointercancel", e => { tapped = false; this.dropStroke(); lift(e); });
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.drawMain(); this.readout.textContent = "\u00a0"; });
  }

  turn(dx, dy) {  // window and level by the right button, as viewers of scans do it
    this.look.window = Math.min(1.5, Math.max(0.05, this.look.window + dx));
    this.look.level = Math.min(1, Math.max(0, this.look.level + dy));
    [this.window.value, this.level.value] = [this.look.window, this.look.level];
    this.paintGreys();
  }

  point({row, column}) {
    const {scan, restored, anomaly_map: map} = this.shown, r = Math.round(row), c = Math.round(column);
    if (!scan || r < 0 || c < 0 || r >= scan.height || c >= scan.width) return;
    this.pointer = {row: r, column: c};
    const at = r * scan.width + c, mm = this.about?.mm, parts = [];
    const value = ({data, channels}) => Array.from(data.slice(channels * at, channels * (at + 1)), v => v.toFixed(2)).join(" ");
    if (mm) parts.push(`x ${(mm.x + mm.dx * c).toFixed(0)}, y ${(mm.y + mm.dy * r).toFixed(0)}, z ${this.want.z} mm`);
    parts.push(`pixel ${c}, ${r}`, `${this.about.head ? "scan" : "image"} ${value(scan)}`);
    if (restored) parts.push(`pseudo-healthy ${value(restored)}`);
    if (map) parts.push(`map ${map.data[at].toFixed(3)}`);
    this.readout.textContent = parts.join("   ");
    this.drawMain();
  }

  showTool() {
    const paints = ["paint", "erase"].includes(this.tool.value), lesion = this.want?.lesion, placed = this.tool.value === "place" || Boolean(lesion?.place);
    this.scan.canvas.classList.toggle("aims", this.tool.value !== "look");
    this.radius.shown(paints);
    this.area.shown(!paints && placed);
    [this.contrast, this.shape, this.kind].forEach(c => c.shown(paints || placed || lesion));
    this.remove.hidden = !lesion;
  }

  placeAt(place) {
    if (this.tool.value !== "place") return;
    this.painted = null;
    this.want.lesion = {place: [Math.round(place.row), Math.round(place.column)], painted: "", area: this.area.value, ...this.texture()};
    this.showTool();
    this.request();
  }

  startStroke(place) {
    if (!["paint", "erase"].includes(this.tool.value)) return;
    const copy = mask => mask && {...mask, data: mask.data.slice()};
    this.before = copy(this.painted);
    this.painted ??= copy(this.want.lesion && this.shown.truth) ?? emptyMask(this.shown.scan);
    this.stroke = place;
    this.paintTo(place);
  }

  dropStroke() {
    if (!this.stroke) return;
    [this.stroke, this.painted] = [null, this.before];
    this.drawScan();
  }

  paintTo(place) {
    brush(this.painted, this.stroke, place, this.radius.value, this.tool.value === "paint" ? 1 : 0);
    this.stroke = place;
    this.drawScan();
  }

  endStroke() {
    this.stroke = null;
    const painted = runsOf(this.painted);
    this.want.lesion = painted ? {place: null, painted, area: this.area.value, ...this.texture()} : null;
    this.showTool();
    this.request();
  }

  texture() { return {contrast: this.contrast.value, kind: this.kind.value, seed: this.shape.value}; }

  changeLesion() {
    if (!this.want.lesion) return;
    Object.assign(this.want.lesion, {area: this.area.value}, this.texture());
    this.request();
  }
}
