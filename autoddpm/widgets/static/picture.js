// A picture: layers on a canvas, with the zoom that all pictures share, marks of the sides, and a pointer.

const MARK = "#56B4E9", TRUTH = "#009E73", PAINT = "#F0E442";

class Zoom {  // the part of the image that is shown
  constructor(changed) { this.changed = changed; this.reset(false); }
  reset(tell = true) { Object.assign(this, {k: 1, x: 0.5, y: 0.5}); if (tell) this.changed(); }
  // by a factor, so that a place (shares of the width and height of the picture) stays where it is
  by(factor, at = {x: 0.5, y: 0.5}) {
    const before = this.k;
    this.k = Math.min(12, Math.max(1, this.k * factor));
    this.move((at.x - 0.5) * (1 / before - 1 / this.k), (at.y - 0.5) * (1 / before - 1 / this.k));
  }
  move(dx, dy) {  // in shares of the image
    const most = 0.5 - 0.5 / this.k, inside = v => Math.min(0.5 + most, Math.max(0.5 - most, v));
    [this.x, this.y] = [inside(this.x + dx), inside(this.y + dy)];
    this.changed();
  }
}

// Images lie in the middle of a square: its side, and where the image begins, in pixels of the image.
function squareOf({width, height}) {
  const side = Math.max(width, height);
  return {side, left: (side - width) / 2, top: (side - height) / 2};
}

class Picture {
  constructor(zoom, title, name) {
    [this.zoom, this.name, this.image] = [zoom, name, null];
    this.box = make("figure", {className: `picture ${name}`});
    this.canvas = make("canvas", {tabIndex: -1}, this.box);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.caption = make("figcaption", {}, this.box);
    this.title = make("b", {textContent: title}, this.caption);
    this.note = make("span", {}, this.caption);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  // Shares of the picture, for a pointer's event.
  share(event) {
    const box = this.canvas.getBoundingClientRect();
    return {x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height};
  }

  // The pixel under a pointer; fractions count.
  place(event) {
    const at = this.share(event), {k, x, y} = this.zoom, {side, left, top} = squareOf(this.image);
    return {row: ((at.y - 0.5) / k + y) * side - top - 0.5, column: ((at.x - 0.5) / k + x) * side - left - 0.5};
  }

  // show: {image, base: canvas, over: canvas, opacity, outlines: [[path, colour]], sides, cross: {row, column}}
  set(show) { this.show = show; this.image = show && show.image; this.draw(); }

  draw() {
    const {canvas, show} = this, side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!side) return;
    if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
    this.drawOn(canvas.getContext("2d"), side, show);
  }

  drawOn(context, side, show) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.fillStyle = "black";
    context.fillRect(0, 0, side, side);
    if (!show) return;
    const {k, x, y} = this.zoom, square = squareOf(show.image), scale = side * k / square.side;
    context.setTransform(scale, 0, 0, scale, side * (0.5 - k * x) + scale * square.left, side * (0.5 - k * y) + scale * square.top);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(show.base, 0, 0);
    if (show.over && show.opacity > 0) {
      context.globalAlpha = show.opacity;
      context.drawImage(show.over, 0, 0);
      context.globalAlpha = 1;
    }
    for (const [path, colour] of show.outlines || []) {
      context.lineWidth = Math.max(1.5, side / 250) / scale;
      context.strokeStyle = colour;
      context.stroke(path);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (show.cross) this.cross(context, side, show);
    this.letters(context, side, show.sides);
  }

  cross(context, side, {cross, image}) {
    const {k, x, y} = this.zoom, reach = side / 50, square = squareOf(image), on = (place, centre) => side * (0.5 + k * ((place + 0.5) / square.side - centre));
    const px = on(cross.column + square.left, x), py = on(cross.row + square.top, y);
    context.strokeStyle = PAINT;
    context.lineWidth = Math.max(1, side / 400);
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(px + dx * reach / 3, py + dy * reach / 3);
      context.lineTo(px + dx * reach, py + dy * reach);
    }
    context.stroke();
  }

  letters(context, side, sides) {
    if (!sides) return;
    const size = Math.max(13, side / 16);
    Object.assign(context, {font: `bold ${size}px system-ui, sans-serif`, textBaseline: "top", lineJoin: "round", fillStyle: "white", strokeStyle: "black", lineWidth: size / 5});
    for (const [letter, align, at] of [[sides[0], "left", size / 2], [sides[1], "right", side - size / 2]]) {
      context.textAlign = align;
      context.strokeText(letter, at, size / 2);
      context.fillText(letter, at, size / 2);
    }
  }
}
