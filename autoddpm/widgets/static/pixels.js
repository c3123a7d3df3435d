// What is computed from pixels in the browser, so that no control has to wait for Python. An image is
// {data, width, height, channels}, row by row, with one number a pixel, or three: red, green, blue.

const grown = (marked, width, height) => marked.map((_, at) => {  // by one pixel, 3x3
  const row = Math.floor(at / width), column = at % width;
  for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, height - 1); r++)
    for (let c = Math.max(column - 1, 0); c <= Math.min(column + 1, width - 1); c++)
      if (marked[r * width + c]) return 1;
  return 0;
});

// The mask of the method: likelihood above the threshold, grown.
function maskOf(likelihood, threshold) {
  const above = Uint8Array.from(likelihood.data, v => v > threshold ? 1 : 0);
  return {...likelihood, data: grown(above, likelihood.width, likelihood.height)};
}

// The scan, with the pseudo-healthy image in the mask.
const stitch = (scan, healthy, mask) =>
  ({...scan, data: scan.data.map((v, k) => mask.data[Math.floor(k / scan.channels)] ? healthy.data[k] : v)});

// What is marked on the scan: the map above its threshold, inside the head.
const markedOf = (map, head, threshold) =>
  ({...map, data: Uint8Array.from(map.data, (v, k) => head.data[k] && v > threshold ? 1 : 0)});

const emptyMask = ({width, height}) => ({width, height, channels: 1, data: new Uint8Array(width * height)});

const count = mask => mask.data.reduce((sum, v) => sum + (v ? 1 : 0), 0);

// Painted pixels as text: "517+3" is three pixels from the 517th on.
function runsOf(mask) {
  const runs = [];
  for (let k = 0; k < mask.data.length; k++) {
    if (!mask.data[k]) continue;
    const start = k;
    while (k < mask.data.length && mask.data[k]) k++;
    runs.push(`${start}+${k - start}`);
  }
  return runs.join(" ");
}

// A round brush between two places, so that a quick hand leaves no gaps.
function brush(mask, from, to, radius, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to.row - from.row, to.column - from.column)));
  for (let k = 0; k <= steps; k++) {
    const row = from.row + (to.row - from.row) * k / steps, column = from.column + (to.column - from.column) * k / steps;
    for (let r = Math.max(0, Math.ceil(row - radius)); r <= Math.min(mask.height - 1, row + radius); r++)
      for (let c = Math.max(0, Math.ceil(column - radius)); c <= Math.min(mask.width - 1, column + radius); c++)
        if (Math.hypot(r - row, c - column) <= radius) mask.data[r * mask.width + c] = value;
  }
}

// The edge of a mask as a path of lines between pixels.
function outlineOf(mask) {
  const path = new Path2D(), {data, width, height} = mask;
  const at = (r, c) => r >= 0 && c >= 0 && r < height && c < width && data[r * width + c];
  const line = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
  for (let r = 0; r < height; r++)
    for (let c = 0; c < width; c++) {
      if (!data[r * width + c]) continue;
      if (!at(r - 1, c)) line(c, r, c + 1, r);
      if (!at(r + 1, c)) line(c, r + 1, c + 1, r + 1);
      if (!at(r, c - 1)) line(c, r, c, r + 1);
      if (!at(r, c + 1)) line(c + 1, r, c + 1, r + 1);
    }
  return path;
}

// A canvas of an image's own size, coloured pixel by pixel: paint(k, pixels, at) writes red, green, blue and alpha of
// the pixel k.
function coloured(image, paint) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d"), pixels = context.createImageData(image.width, image.height);
  for (let k = 0; k < image.width * image.height; k++) paint(k, pixels.data, 4 * k);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// Grey, or an image's own colours, between the ends of a window.
function grey(image, window, level) {
  const {data, channels} = image, low = level - window / 2;
  return coloured(image, (k, pixels, at) => {
    for (let c = 0; c < 3; c++) pixels[at + c] = 255 * (data[channels * k + c % channels] - low) / window;
    pixels[at + 3] = 255;
  });
}

// Colours of a map from 0 to its limit; `seeThrough`: the more, the quieter.
function heat(image, limit, colours, seeThrough) {
  return coloured(image, (k, pixels, at) => {
    const v = image.data[k], colour = 3 * Math.min(255, Math.max(0, Math.round(255 * v / limit)));
    for (let c = 0; c < 3; c++) pixels[at + c] = colours[colour + c];
    pixels[at + 3] = seeThrough ? 217 * Math.min(1, Math.max(0, 2 * v / limit)) : 255;
  });
}
