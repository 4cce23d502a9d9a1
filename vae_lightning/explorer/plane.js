// Drawing: the plane with the test images at their posterior means, single images, strips of values.

const colorOf = (label) => content.colors[label % content.colors.length];
const TILES = 18; // decoded images along each side of the plane
const SPRITE = 64; // largest side, in pixels, of an image on the plane and of a decoded tile
const BUDGET_MS = 6; // time per frame for decoding tiles

/** Creates a canvas that is not attached to the page. */
function createCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** Pixels (C, H, W) in [0, scale] as ImageData: in gray or color, over white if there is alpha; see data/shown.py. */
function toImage(pixels, [channels, height, width], scale) {
  const image = new ImageData(width, height), size = height * width, color = channels > 2 ? size : 0;
  const alpha = channels === 2 || channels === 4 ? (channels - 1) * size : null;
  const within = (value) => Math.min(1, Math.max(0, value / scale));
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) {
      const value = pixels[i + c * color], opacity = alpha === null ? 1 : within(pixels[i + alpha]);
      image.data[4 * i + c] = alpha === null ? (value * 255) / scale : 255 * (1 - opacity + opacity * within(value)); // clamps and rounds
    }
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** Width and height of an image that is scaled so that its longer side has this length, at least 1. */
const fitted = ([, height, width], side) => [width, height].map((length) => Math.max(1, (length * side) / Math.max(height, width)));

/** Resizes a canvas to an image and draws its pixels. */
function drawPixels(canvas, pixels, shape, scale) {
  [canvas.height, canvas.width] = [shape[1], shape[2]];
  canvas.getContext("2d").putImageData(toImage(pixels, shape, scale), 0, 0);
}

/** An image as a canvas: gray images in the color of the label, with their brightness as opacity; others in a frame of that color. */
function drawSprite(pixels, label, shape) {
  const [channels, height, width] = shape, canvas = createCanvas(width, height), context = canvas.getContext("2d");
  const image = toImage(pixels, shape, 255), rgb = parseInt(colorOf(label).slice(1), 16);
  if (channels === 1)
    for (let i = 0; i < height * width; i++) image.data.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, image.data[4 * i]], 4 * i);
  context.putImageData(image, 0, 0);
  if (channels === 1) return canvas;
  context.strokeStyle = colorOf(label);
  context.lineWidth = Math.max(height, width) / 12;
  context.strokeRect(0, 0, width, height);
  return canvas;
}

/** Draws the sprites of all test images side by side. Each fits into SPRITE x SPRITE pixels; small images keep their size. */
function drawSprites(images, labels, shape) {
  const size = shape[0] * shape[1] * shape[2], [width, height] = fitted(shape, Math.min(SPRITE, Math.max(shape[1], shape[2])));
  const across = Math.ceil(Math.sqrt(labels.length)), cell = [Math.ceil(width), Math.ceil(height)];
  const canvas = createCanvas(cell[0] * across, cell[1] * Math.ceil(labels.length / across)), context = canvas.getContext("2d");
  labels.forEach((label, number) => {
    const sprite = drawSprite(images.subarray(number * size, (number + 1) * size), label, shape);
    context.drawImage(sprite, (number % across) * cell[0], Math.floor(number / across) * cell[1], width, height);
  });
  return { canvas, from: (number) => [(number % across) * cell[0], Math.floor(number / across) * cell[1], width, height] };
}

/** Draws all values as ticks on a strip and marks the chosen one. */
function drawStrip(canvas, values, chosen) {
  const scale = devicePixelRatio, context = canvas.getContext("2d"), style = getComputedStyle(canvas);
  const width = (canvas.width = canvas.clientWidth * scale), height = (canvas.height = canvas.clientHeight * scale);
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  const toX = (value) => 3 * scale + ((value - low) / span) * (width - 6 * scale);
  context.fillStyle = style.getPropertyValue("--faint");
  context.globalAlpha = 0.22;
  for (const value of values) context.fillRect(toX(value), height * 0.3, scale, height * 0.4);
  context.globalAlpha = 1;
  context.fillStyle = style.getPropertyValue("--accent");
  context.fillRect(toX(values[chosen]) - scale, height * 0.1, 3 * scale, height * 0.8);
}

/** The plane of two latent dimensions. With a single latent dimension, the other axis is the label. */
class Plane {
  constructor(canvas, data, ranges) {
    Object.assign(this, { canvas, data, ranges, axes: [0, 1], view: "images", onlyLabel: null, stale: true });
    this.layer = createCanvas(1, 1);
    this.sprites = drawSprites(data.images, data.labels, data.shape);
    this.side = Math.min(SPRITE, Math.max(data.shape[1], data.shape[2])); // of a tile, a square
    this.tiles = createCanvas(TILES * this.side, TILES * this.side);
    this.single = createCanvas(1, 1); // the tile that was decoded last
    this.tile = { key: "", next: 0 };
    // Tiles are decoded from the center outwards.
    this.order = [...Array(TILES * TILES).keys()].sort((a, b) => this.distanceFromCenter(a) - this.distanceFromCenter(b));
  }

  distanceFromCenter(tile) {
    const middle = (TILES - 1) / 2;
    return Math.hypot((tile % TILES) - middle, Math.floor(tile / TILES) - middle);
  }

  /** The coordinate on an axis of the latent vector that begins at index start of an array. */
  coordinate(axis, vectors, start, label) {
    return this.axes[axis] === null ? label : vectors[start + this.axes[axis]];
  }

  range(axis) {
    return this.axes[axis] === null ? [-0.7, this.data.names.length - 0.3] : this.ranges[this.axes[axis]];
  }

  /** Coordinate on an axis -> pixel of the canvas. */
  toPixel(axis, value) {
    const [low, high] = this.range(axis), fraction = (value - low) / (high - low);
    return axis === 0 ? fraction * this.canvas.clientWidth : (1 - fraction) * this.canvas.clientHeight;
  }

  /** Pixel of the canvas -> coordinate on an axis. */
  toCoordinate(axis, pixel) {
    const [low, high] = this.range(axis);
    const fraction = axis === 0 ? pixel / this.canvas.clientWidth : 1 - pixel / this.canvas.clientHeight;
    return low + Math.min(1, Math.max(0, fraction)) * (high - low);
  }

  /** The position of the posterior mean of a test image, in pixels. */
  positionOf(number) {
    const { mean, latents, labels } = this.data;
    return [0, 1].map((axis) => this.toPixel(axis, this.coordinate(axis, mean, number * latents, labels[number])));
  }

  /** The test image nearest to a pixel within a distance, or null. */
  nearest(x, y, within = Infinity) {
    let best = null;
    for (let number = 0; number < this.data.labels.length; number++) {
      if (this.onlyLabel !== null && this.data.labels[number] !== this.onlyLabel) continue;
      const [px, py] = this.positionOf(number), distance = Math.hypot(px - x, py - y);
      if (distance < within) [best, within] = [number, distance];
    }
    return best;
  }

  /** Decodes tiles for a few milliseconds; returns whether tiles remain. */
  decodeTiles(decode, z, label) {
    if (this.view !== "decoded") return false;
    const others = z.map((value, dimension) => (this.axes.includes(dimension) ? 0 : value));
    const key = [this.axes, Array.from(others), label].join();
    if (key !== this.tile.key) this.tile = { key, next: 0 };
    const context = this.tiles.getContext("2d"), { side } = this, [width, height] = fitted(this.data.shape, side);
    const start = performance.now();
    while (this.tile.next < this.order.length && performance.now() - start < BUDGET_MS) {
      const number = this.order[this.tile.next++], column = number % TILES, row = Math.floor(number / TILES);
      const fractions = [(column + 0.5) / TILES, 1 - (row + 0.5) / TILES];
      this.axes.forEach((dimension, axis) => {
        const [low, high] = this.range(axis);
        if (dimension !== null) others[dimension] = low + fractions[axis] * (high - low);
      });
      drawPixels(this.single, decode(others, label), this.data.shape, 1);
      context.clearRect(column * side, row * side, side, side);
      context.drawImage(this.single, column * side + (side - width) / 2, row * side + (side - height) / 2, width, height);
      this.stale = true;
    }
    return this.tile.next < this.order.length;
  }

  /** Draws the static layer: grid, images, dots. */
  drawLayer(scale) {
    const { canvas, layer, data } = this, style = getComputedStyle(canvas), context = layer.getContext("2d");
    layer.width = canvas.width;
    layer.height = canvas.height;
    context.scale(scale, scale);
    if (this.view === "decoded") context.drawImage(this.tiles, 0, 0, canvas.clientWidth, canvas.clientHeight);
    else this.drawGrid(context, style);
    const { labels } = data, [width, height] = fitted(data.shape, Math.max(18, canvas.clientWidth / 26));
    labels.forEach((label, number) => {
      const [x, y] = this.positionOf(number);
      context.globalAlpha = this.onlyLabel === null || this.onlyLabel === label ? 0.9 : 0.07;
      if (this.view === "images") {
        context.drawImage(this.sprites.canvas, ...this.sprites.from(number), x - width / 2, y - height / 2, width, height);
        return;
      }
      context.fillStyle = colorOf(label);
      context.beginPath();
      context.arc(x, y, this.view === "dots" ? 4.2 : 3.4, 0, 2 * Math.PI);
      context.fill();
      context.strokeStyle = this.view === "dots" ? style.getPropertyValue("--panel") : "#000";
      context.stroke();
    });
    this.stale = false;
  }

  drawGrid(context, style) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    context.font = "11px system-ui, sans-serif";
    for (const axis of [0, 1]) {
      const [low, high] = this.range(axis), step = 2 ** Math.max(0, Math.ceil(Math.log2((high - low) / 14)));
      for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
        const pixel = this.toPixel(axis, tick);
        context.fillStyle = style.getPropertyValue(tick === 0 && this.axes[axis] !== null ? "--line" : "--grid");
        context.fillRect(axis === 0 ? pixel : 0, axis === 0 ? 0 : pixel, axis === 0 ? 1 : width, axis === 0 ? height : 1);
        context.fillStyle = style.getPropertyValue("--faint");
        const text = this.axes[axis] === null ? this.data.names[tick] : String(tick).replace("-", "\u2212");
        if (axis === 0) context.fillText(text, pixel + 3, height - 6);
        else context.fillText(text, 5, pixel - 4);
      }
    }
  }

  /** Draws the static layer, the posterior of the selected image, the crosshair and the hovered image. */
  draw(z, label, picked, hover) {
    const { canvas } = this, scale = devicePixelRatio, context = canvas.getContext("2d");
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height, this.stale] = [width, height, true];
    if (this.stale) this.drawLayer(scale);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.drawImage(this.layer, 0, 0);
    context.scale(scale, scale);
    const style = getComputedStyle(canvas), [ink, halo] = ["--accent", "--halo"].map((name) => style.getPropertyValue(name));
    this.drawPosterior(context, picked, style.getPropertyValue("--ink"), halo);
    const [x, y] = [0, 1].map((axis) => this.toPixel(axis, this.coordinate(axis, z, 0, label)));
    const path = new Path2D();
    path.arc(x, y, 9, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(x + 9 * dx, y + 9 * dy);
      path.lineTo(x + 17 * dx, y + 17 * dy);
    }
    this.stroke(context, path, ink, halo);
    if (hover !== null) this.drawHover(context, hover, style);
  }

  /** Strokes a path with a halo, so that it is visible on any background. */
  stroke(context, path, ink, halo) {
    [[halo, 5], [ink, 2]].forEach(([color, width]) => {
      [context.strokeStyle, context.lineWidth] = [color, width];
      context.stroke(path);
    });
  }

  /** Draws bars of one standard deviation on both sides of the posterior mean of the selected image. */
  drawPosterior(context, picked, ink, halo) {
    const { mean, std, latents } = this.data, path = new Path2D(), center = this.positionOf(picked);
    this.axes.forEach((dimension, axis) => {
      if (dimension === null) return;
      for (const sign of [-1, 1]) {
        const end = [...center];
        end[axis] = this.toPixel(axis, mean[picked * latents + dimension] + sign * std[picked * latents + dimension]);
        path.moveTo(...center);
        path.lineTo(...end);
      }
    });
    this.stroke(context, path, ink, halo);
  }

  drawHover(context, number, style) {
    const { shape, labels, names, images } = this.data, size = shape[0] * shape[1] * shape[2], [x, y] = this.positionOf(number);
    const image = createCanvas(shape[2], shape[1]), side = 64;
    drawPixels(image, images.subarray(number * size, (number + 1) * size), shape, 255);
    const left = x + 14 + side + 8 > this.canvas.clientWidth ? x - 14 - side : x + 14;
    const top = Math.min(Math.max(4, y - side / 2), this.canvas.clientHeight - side - 22);
    context.imageSmoothingEnabled = false;
    context.fillStyle = style.getPropertyValue("--ink");
    context.beginPath();
    context.roundRect(left - 3, top - 3, side + 6, side + 22, 7);
    context.fill();
    const [width, height] = fitted(shape, side);
    context.drawImage(image, left + (side - width) / 2, top + (side - height) / 2, width, height);
    context.font = "600 11px system-ui, sans-serif";
    context.fillStyle = style.getPropertyValue("--paper");
    context.fillText(names.length > 1 ? `${number} \u00b7 ${names[labels[number]]}` : number, left + 2, top + side + 13, side - 4);
  }
}
