"use strict";
// The decoder: a list of operations on Float32Arrays. Value 0 is the input (z, then the one-hot
// label), and value i + 1 is the output of operation i. Sums are computed in double precision and
// stored in single precision.

/**
 * Matrix product: out[r * columns + c] = bias[r] + sum_k a[r * inner + k] b[c * inner + k].
 * It computes blocks of four rows and four columns.
 */
function product(a, b, bias, out, rows, columns, inner) {
  for (let r = 0; r < rows; r += 4) {
    // Rows past the end repeat the last row, so that the same value is written again.
    const r1 = Math.min(r + 1, rows - 1), r2 = Math.min(r + 2, rows - 1), r3 = Math.min(r + 3, rows - 1);
    const a0 = r * inner, a1 = r1 * inner, a2 = r2 * inner, a3 = r3 * inner;
    let c = 0;
    for (; c + 4 <= columns; c += 4) {
      const b0 = c * inner, b1 = b0 + inner, b2 = b1 + inner, b3 = b2 + inner;
      let s00 = bias[r], s01 = s00, s02 = s00, s03 = s00, s10 = bias[r1], s11 = s10, s12 = s10, s13 = s10;
      let s20 = bias[r2], s21 = s20, s22 = s20, s23 = s20, s30 = bias[r3], s31 = s30, s32 = s30, s33 = s30;
      for (let k = 0; k < inner; k++) {
        const x0 = b[b0 + k], x1 = b[b1 + k], x2 = b[b2 + k], x3 = b[b3 + k];
        const w0 = a[a0 + k], w1 = a[a1 + k], w2 = a[a2 + k], w3 = a[a3 + k];
        s00 += w0 * x0; s01 += w0 * x1; s02 += w0 * x2; s03 += w0 * x3;
        s10 += w1 * x0; s11 += w1 * x1; s12 += w1 * x2; s13 += w1 * x3;
        s20 += w2 * x0; s21 += w2 * x1; s22 += w2 * x2; s23 += w2 * x3;
        s30 += w3 * x0; s31 += w3 * x1; s32 += w3 * x2; s33 += w3 * x3;
      }
      const o0 = r * columns + c, o1 = r1 * columns + c, o2 = r2 * columns + c, o3 = r3 * columns + c;
      out[o0] = s00; out[o0 + 1] = s01; out[o0 + 2] = s02; out[o0 + 3] = s03;
      out[o1] = s10; out[o1 + 1] = s11; out[o1 + 2] = s12; out[o1 + 3] = s13;
      out[o2] = s20; out[o2 + 1] = s21; out[o2 + 2] = s22; out[o2 + 3] = s23;
      out[o3] = s30; out[o3 + 1] = s31; out[o3 + 2] = s32; out[o3 + 3] = s33;
    }
    for (; c < columns; c++) {
      const b0 = c * inner;
      let s0 = bias[r], s1 = bias[r1], s2 = bias[r2], s3 = bias[r3];
      for (let k = 0; k < inner; k++) {
        const x = b[b0 + k];
        s0 += a[a0 + k] * x; s1 += a[a1 + k] * x; s2 += a[a2 + k] * x; s3 += a[a3 + k] * x;
      }
      out[r * columns + c] = s0; out[r1 * columns + c] = s1; out[r2 * columns + c] = s2; out[r3 * columns + c] = s3;
    }
  }
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** The error function with an error of at most 1.5e-7: Abramowitz & Stegun 1964, 7.1.26. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - poly * Math.exp(-x * x));
}

/**
 * The mean of a continuous Bernoulli distribution with logit a: 1/2 + 1/(2 tanh(a/2)) - 1/a.
 * Near zero, the Taylor series is used.
 */
function continuousBernoulliMean(a) {
  if (Math.abs(a) < 0.1) return 0.5 + a / 12 - a ** 3 / 720 + a ** 5 / 30240;
  return 0.5 + 0.5 / Math.tanh(a / 2) - 1 / a;
}

/**
 * The mean of a discretized logistic distribution on the levels k/255:
 * 1/255 sum_{k < 255} sigmoid((location - (k + 1/2)/255)/scale).
 */
function discretizedLogisticMean(location, scale) {
  const reach = 20 * scale; // beyond this distance, a term is 0 or 1 within 2e-9
  const first = Math.min(255, Math.max(0, Math.ceil(255 * (location - reach) - 0.5)));
  const last = Math.min(254, Math.floor(255 * (location + reach) - 0.5));
  const ratio = Math.exp(1 / (255 * scale));
  let sum = first, odds = Math.exp(((first + 0.5) / 255 - location) / scale); // odds of a value below the level
  for (let level = first; level <= last; level++, odds *= ratio) sum += 1 / (1 + odds);
  return sum / 255;
}

/** An elementwise operation that applies f. */
const pointwise = (f) => (op, [x], out) => {
  for (let i = 0; i < out.length; i++) out[i] = f(x[i], op);
};

/**
 * im2col: writes the input patch of each output position as a row of
 * (outHeight outWidth, channels kernelY kernelX).
 */
function im2col(op, x, rows) {
  let index = 0;
  for (let y = 0; y < op.outHeight; y++) for (let column = 0; column < op.outWidth; column++)
    for (let channel = 0; channel < op.channels; channel++)
      for (let ky = 0; ky < op.kernelY; ky++) {
        const row = y * op.strideY - op.paddingY + ky, base = (channel * op.height + row) * op.width;
        for (let kx = 0; kx < op.kernelX; kx++) {
          const inX = column * op.strideX - op.paddingX + kx;
          rows[index++] = row >= 0 && row < op.height && inX >= 0 && inX < op.width ? x[base + inX] : 0;
        }
      }
}

/**
 * col2im: adds each of the products (outChannels kernelY kernelX, height width) to the output
 * pixel at which the kernel places it.
 */
function col2im(op, products, out) {
  let index = 0;
  for (let channel = 0; channel < op.outChannels; channel++)
    for (let ky = 0; ky < op.kernelY; ky++) for (let kx = 0; kx < op.kernelX; kx++)
      for (let y = 0; y < op.height; y++) {
        const row = y * op.strideY - op.paddingY + ky, base = (channel * op.outHeight + row) * op.outWidth;
        for (let x = 0; x < op.width; x++, index++) {
          const outX = x * op.strideX - op.paddingX + kx;
          if (row >= 0 && row < op.outHeight && outX >= 0 && outX < op.outWidth) out[base + outX] += products[index];
        }
      }
}

// kind -> function of (operation, inputs, output), which writes into the output
const OPERATIONS = {
  relu: pointwise((x) => (x > 0 ? x : 0)),
  tanh: pointwise(Math.tanh),
  sigmoid: pointwise(sigmoid),
  silu: pointwise((x) => x * sigmoid(x)),
  gelu: pointwise((x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2))),
  softplus: pointwise((x, op) => softplus(x) + op.floor),
  continuousBernoulli: pointwise((x, op) => continuousBernoulliMean(op.bound * Math.tanh(x / op.bound))),
  add: (op, [x, y], out) => { for (let i = 0; i < out.length; i++) out[i] = x[i] + y[i]; },
  gate: (op, [x], out) => { for (let i = 0; i < out.length; i++) out[i] = x[i] * sigmoid(x[out.length + i]); },
  slice: (op, [x], out) => out.set(x.subarray(op.start, op.start + out.length)),
  affine: (op, [x], out) => {
    const pixels = out.length / op.channels;
    for (let i = 0; i < out.length; i++) {
      const channel = Math.floor(i / pixels);
      out[i] = op.scale[channel] * x[i] + op.shift[channel];
    }
  },
  discretizedLogistic: (op, [location, scale], out) => {
    for (let i = 0; i < out.length; i++) out[i] = discretizedLogisticMean(location[i], scale ? scale[i] : op.scale);
  },
  linear: (op, [x], out) => product(op.weight, x, op.bias, out, op.rows, 1, op.inner),
  convolution: (op, [x], out) => {
    const inner = op.channels * op.kernelY * op.kernelX, positions = op.outHeight * op.outWidth;
    op.buffer ??= new Float32Array(inner * positions);
    im2col(op, x, op.buffer);
    product(op.weight, op.buffer, op.bias, out, op.outChannels, positions, inner);
  },
  transposedConvolution: (op, [x], out) => {
    const positions = op.height * op.width, rows = op.outChannels * op.kernelY * op.kernelX;
    op.buffers ??= { transposed: new Float32Array(x.length), products: new Float32Array(rows * positions),
                     zeros: new Float32Array(rows) };
    for (let c = 0; c < op.channels; c++)
      for (let i = 0; i < positions; i++) op.buffers.transposed[i * op.channels + c] = x[c * positions + i];
    product(op.weight, op.buffers.transposed, op.buffers.zeros, op.buffers.products, rows, positions, op.channels);
    const pixels = op.outHeight * op.outWidth;
    for (let c = 0; c < op.outChannels; c++) out.fill(op.bias[c], c * pixels, (c + 1) * pixels);
    col2im(op, op.buffers.products, out);
  },
};

/**
 * Returns the function (z, label) -> pixels of the mean of p(x|z), (C H W). Every call writes into
 * the same array.
 */
function makeDecoder(ops, weights, latents, classes) {
  const values = [new Float32Array(latents + classes)];
  const steps = ops.map((listed) => {
    const op = { ...listed };
    for (const [name, value] of Object.entries(listed))
      if (Array.isArray(value) && name !== "inputs") op[name] = weights.subarray(value[0], value[0] + value[1]);
    const out = new Float32Array(op.size);
    values.push(out);
    return { run: OPERATIONS[op.kind], op, inputs: op.inputs.map((number) => values[number]), out };
  });
  return (z, label) => {
    values[0].fill(0).set(z);
    if (classes) values[0][latents + label] = 1;
    for (const { run, op, inputs, out } of steps) run(op, inputs, out);
    return values[values.length - 1];
  };
}
