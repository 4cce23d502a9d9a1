// Events of the pointer, the keys and the buttons.

/** Adds all event listeners. */
function listen() {
  listenToPointer(element("plane"));
  element("plane").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] }[event.key];
    if (steps) {
      const [axis, sign] = steps, dimension = plane.axes[axis], [low, high] = plane.range(axis);
      const step = (sign * (high - low)) / (event.shiftKey ? 20 : 120);
      if (dimension !== null) move([[dimension, state.z[dimension] + step]]);
    } else if (event.key === "Enter") selectNearest();
    else return;
    event.preventDefault();
  });
  const actions = {
    previous: ["p", () => selectImage(state.picked - 1)],
    next: ["n", () => selectImage(state.picked + 1)],
    random: ["r", () => selectImage(Math.floor(Math.random() * count))],
    back: ["b", () => selectImage(state.picked)],
    origin: ["0", () => goTo(new Float32Array(latents))],
  };
  for (const [id, [, act]] of Object.entries(actions)) element(id).addEventListener("click", act);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=number], select")) return;
    for (const [key, act] of Object.values(actions)) if (event.key === key) act();
  });
  element("number").max = count - 1;
  element("number").addEventListener("change", (event) => selectImage(Math.round(Number(event.target.value)) || 0));
  for (const radio of document.getElementsByName("view"))
    radio.addEventListener("change", () => {
      [plane.view, plane.stale] = [radio.value, true];
      request();
    });
  const redraw = () => {
    plane.stale = true;
    writeTerms();
    request();
  };
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

/** Selects the test image nearest to the crosshair. */
function selectNearest() {
  const crosshair = [0, 1].map((axis) => plane.toPixel(axis, plane.coordinate(axis, state.z, 0, state.label)));
  const number = plane.nearest(...crosshair);
  if (number !== null) selectImage(number);
}

/** Dragging moves the crosshair; a click on a test image selects it. */
function listenToPointer(canvas) {
  let down = null; // where the pointer was pressed, and the test image there
  const follow = (x, y) =>
    move(plane.axes.flatMap((dimension, axis) => (dimension === null ? [] : [[dimension, plane.toCoordinate(axis, [x, y][axis])]])));
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = [event.offsetX, event.offsetY], number = plane.nearest(x, y, 10);
    canvas.setPointerCapture(event.pointerId);
    down = { x, y, number, moved: number === null };
    state.hover = null;
    if (number === null) follow(x, y);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = [event.offsetX, event.offsetY];
    if (down) {
      down.moved ||= Math.hypot(x - down.x, y - down.y) > 4;
      if (down.moved) follow(x, y);
      return;
    }
    const hover = plane.nearest(x, y, 10);
    if (hover !== state.hover) request();
    state.hover = hover;
  });
  canvas.addEventListener("pointerup", () => {
    if (down && !down.moved) selectImage(down.number);
    down = null;
  });
  canvas.addEventListener("pointercancel", () => { down = null; });
  canvas.addEventListener("pointerleave", () => { state.hover = null; request(); });
}
