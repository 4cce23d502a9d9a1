// The page: its state and the functions that change it.

const element = (id) => document.getElementById(id);
const content = JSON.parse(element("content").textContent);

/** Decodes base64 into bytes. */
function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}
const floats = (text) => new Float32Array(bytes(text).buffer);

const data = { ...content, images: bytes(content.images) };
for (const name of ["mean", "std", "recon", "kl"]) data[name] = floats(content[name]);
data.total = data.recon.map((value, i) => value + data.kl[i]);
const { latents, labels, names, shape, classes } = data, count = labels.length;
const pixels = shape[0] * shape[1] * shape[2];
const decode = makeDecoder(content.decoder.ops, floats(content.decoder.weights), latents, classes);

// Latent dimensions, most informative first. Their names are "z" and the index, counted from 0.
const ranked = [...Array(latents).keys()].sort((a, b) => data.information[b] - data.information[a]);
const nameOf = (dimension) => "z" + String(dimension).replace(/\d/g, (digit) => "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"[digit]);
const meanOf = (number) => data.mean.subarray(number * latents, (number + 1) * latents);

/**
 * The range of a latent dimension: it contains zero, and every posterior mean with two standard
 * deviations on both sides.
 */
function rangeOf(dimension) {
  let low = 0, high = 0;
  for (let i = dimension; i < count * latents; i += latents) {
    low = Math.min(low, data.mean[i] - 2 * data.std[i]);
    high = Math.max(high, data.mean[i] + 2 * data.std[i]);
  }
  return [low, high];
}
const ranges = [...Array(latents).keys()].map(rangeOf);

const state = { z: new Float32Array(latents), label: 0, picked: null, hover: null, animation: null };
const plane = new Plane(element("plane"), data, ranges);
plane.axes = [ranked[0], latents > 1 ? ranked[1] : null];
const sliders = new Map();
const MOST_SLIDERS = 100; // for the most informative dimensions
const speed = { decode: 0, frame: 0, frames: 0, last: 0 };
let waiting = false;

/** Requests a single frame, even if several events precede it. */
function request() {
  if (!waiting) requestAnimationFrame(frame);
  waiting = true;
}

function frame(now) {
  waiting = false;
  if (state.animation) animate(now);
  const start = performance.now();
  const decoded = decode(state.z, state.label);
  speed.decode += (performance.now() - start - speed.decode) * (speed.decode ? 0.1 : 1);
  drawPixels(element("decoded"), decoded, shape, 1);
  writeDifference(decoded);
  for (const [dimension, { input, output }] of sliders) {
    input.value = state.z[dimension];
    output.textContent = state.z[dimension].toFixed(2).replace("-", "\u2212");
  }
  for (const button of element("labels").children) button.ariaPressed = String(button.value === String(state.label));
  const more = plane.decodeTiles(decode, state.z, state.label);
  plane.draw(state.z, state.label, state.picked, state.hover);
  writeSpeed(now);
  if (state.animation || more) request();
}

/** Moves z along a straight line to the goal, with a smooth start and end. */
function animate(now) {
  const { from, goal, start } = state.animation;
  const time = Math.min(1, Math.max(0, (now - start) / 350)), fraction = time * time * (3 - 2 * time);
  state.z.forEach((_, i) => { state.z[i] = from[i] + fraction * (goal[i] - from[i]); });
  if (time === 1) [state.z, state.animation] = [Float32Array.from(goal), null];
}

/** Moves to a latent vector, immediately if requested or if the user prefers reduced motion. */
function goTo(goal, atOnce = matchMedia("(prefers-reduced-motion: reduce)").matches) {
  if (atOnce) [state.z, state.animation] = [Float32Array.from(goal), null];
  else state.animation = { from: Float32Array.from(state.z), goal: Float32Array.from(goal), start: performance.now() };
  request();
}

/** Sets some coordinates immediately and stops a running animation. */
function move(changes) {
  state.animation = null;
  for (const [dimension, value] of changes) {
    const [low, high] = ranges[dimension];
    state.z[dimension] = Math.min(high, Math.max(low, value));
  }
  request();
}

/** Selects a test image: shows it and its terms, and moves z to its posterior mean. */
function selectImage(number, atOnce) {
  state.picked = ((number % count) + count) % count;
  state.label = labels[state.picked];
  const own = data.images.subarray(state.picked * pixels, (state.picked + 1) * pixels);
  drawPixels(element("original"), own, shape, 255);
  element("which").textContent = `test image ${state.picked}`;
  element("of").textContent = names.length > 1 ? names[state.label] : ""; // a single label says nothing
  element("number").value = state.picked;
  writeTerms();
  const [recon, kl] = [data.recon, data.kl].map((values) => values[state.picked].toFixed(1));
  element("live").textContent = `Test image ${state.picked}, ${names[state.label]}: recon ${recon}, KL ${kl} nats`;
  goTo(meanOf(state.picked), atOnce);
}

function writeTerms() {
  for (const term of element("terms").children) {
    const values = data[term.dataset.name];
    term.querySelector("output").textContent = values[state.picked].toFixed(2).replace("-", "\u2212");
    drawStrip(term.querySelector("canvas"), values, state.picked);
  }
}

function writeDifference(decoded) {
  let sum = 0;
  for (let i = 0; i < pixels; i++) sum += (decoded[i] - data.images[state.picked * pixels + i] / 255) ** 2;
  element("difference").textContent = `squared error ${sum.toFixed(1)}`;
}

function writeSpeed(now) {
  const gap = now - speed.last;
  speed.last = now;
  if (gap > 0 && gap < 100) speed.frame += (gap - speed.frame) / Math.min(++speed.frames, 20);
  const rate = speed.frames > 20 ? `, ${Math.round(1000 / speed.frame)} frames per second during motion` : "";
  element("speed").textContent = `Decoding an image takes ${speed.decode.toFixed(2)} ms${rate}.`;
}

/** Appends a new element with the given properties to another element. */
const add = (parent, tag, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));

function buildSliders() {
  sliders.clear();
  element("sliders").replaceChildren();
  const most = Math.max(...data.information, 1e-9);
  for (const dimension of ranked.filter((other) => !plane.axes.includes(other)).slice(0, MOST_SLIDERS)) {
    const row = add(element("sliders"), "label", { className: "slider", title: `information about the image: ${data.information[dimension].toFixed(3)} nats` });
    add(row, "span", { textContent: nameOf(dimension) });
    add(add(row, "span", { className: "amount" }), "i").style.width = `${(100 * data.information[dimension]) / most}%`;
    const [min, max] = ranges[dimension];
    const input = add(row, "input", { type: "range", min, max, step: (max - min) / 400, ariaLabel: nameOf(dimension) });
    input.addEventListener("input", () => move([[dimension, Number(input.value)]]));
    sliders.set(dimension, { input, output: add(row, "output") });
  }
}

function buildAxes() {
  const selects = [element("across"), element("up")];
  if (latents === 1) element("upward").hidden = true;
  selects.forEach((select, axis) => {
    for (const dimension of ranked)
      add(select, "option", { value: dimension, textContent: `${nameOf(dimension)}  ${data.information[dimension].toFixed(2)} nats` });
    select.value = plane.axes[axis];
    select.addEventListener("change", () => {
      const before = plane.axes[axis], now = Number(select.value);
      if (plane.axes[1 - axis] === now) plane.axes[1 - axis] = before; // the two axes are swapped
      plane.axes[axis] = now;
      selects.forEach((other, i) => { other.value = plane.axes[i]; });
      plane.stale = true;
      buildSliders();
      request();
    });
  });
}

function buildHeader() {
  element("title").textContent = content.title;
  for (const [name, value] of content.facts) {
    const pair = add(element("facts"), "div");
    add(pair, "dt", { textContent: name });
    add(pair, "dd", { textContent: value });
  }
  for (const [name, text, title] of [
    ["recon", "recon", `-log p(x|z), mean over ${data.samples} posterior samples`],
    ["kl", "KL", `KL(q(z|x) || p(z)), ${data.klIsExact ? "in closed form" : `mean over ${data.samples} posterior samples`}`],
    ["total", "\u2212ELBO", "recon + KL"],
  ]) {
    const row = add(element("terms"), "div", { className: "term", title });
    row.dataset.name = name;
    add(row, "span", { textContent: text });
    add(row, "output");
    add(row, "canvas", { ariaHidden: "true" });
  }
  element("notes").textContent =
    `The terms of the test image are in nats. recon (${content.likelihood}) is the mean over ${data.samples} samples from ` +
    `q(z|x). KL is ${data.klIsExact ? "exact" : "the mean over the same samples"}. The strips show all ${count} images. The ` +
    "bars on the plane are one standard deviation of q(z|x). The latent dimensions are numbered from 0 and sorted by " +
    "their information about x.";
}

function buildLabels() {
  const present = [...new Set(labels)].sort((a, b) => a - b);
  for (const label of present.length > 1 ? present : []) {
    const button = add(element("legend"), "button", { ariaPressed: "false" });
    add(button, "i").style.background = colorOf(label);
    button.append(names[label]);
    button.addEventListener("click", () => {
      plane.onlyLabel = plane.onlyLabel === label ? null : label;
      plane.stale = true;
      [...element("legend").children].forEach((other, i) => { other.ariaPressed = String(present[i] === plane.onlyLabel); });
      request();
    });
  }
  for (let label = 0; label < classes; label++) {
    const button = add(element("labels"), "button", { value: label, textContent: names[label] });
    button.addEventListener("click", () => { state.label = label; request(); });
  }
}

/** Returns the largest difference between the pixels decoded here and those decoded by PyTorch. */
function checkDecoder() {
  const reference = floats(content.reference);
  let largest = 0;
  for (let number = 0; number < reference.length / pixels; number++)
    decode(meanOf(number), labels[number]).forEach((value, i) => {
      largest = Math.max(largest, Math.abs(value - reference[number * pixels + i]));
    });
  const right = largest < 1e-3;
  element("check").className = right ? "" : "wrong";
  element("check").textContent =
    `${right ? "" : "Error: "}The decoder runs in this page. Its pixels differ from those of PyTorch by at most ` +
    `${largest.toExponential(0)}.`;
  return largest;
}

buildHeader();
buildAxes();
buildSliders();
buildLabels();
const difference = checkDecoder();
listen();
selectImage(0, true);
