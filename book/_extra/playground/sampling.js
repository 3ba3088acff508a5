/* The generators in the page: noise from a seed, and what each network makes of it.
   `hamsynthNetworks` (networks.js) says which networks there are; hamsynth_utils/report/interactive/playground.py wrote both. */
"use strict";
window.hamsynth = window.hamsynth || {};

(() => {
  const sessions = {};
  let runtime = null;

  /* `count` standard normal numbers, the same for the same seed (mulberry32; Box and Muller 1958). */
  hamsynth.noise = (seed, count) => {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32 + 2 ** -33;
    };
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      values[i] = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    }
    return values;
  };

  /* The noise of a network for a seed. */
  hamsynth.noiseFor = (network, seed) => hamsynth.noise(seed, network.shape.reduce((a, b) => a * b, 1));

  /* From a to b on the arc between them: both lie at about the same distance from 0, and so does the way. */
  hamsynth.between = (a, b, share) => {
    const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
    const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)))));
    if (angle < 1e-6) return a;
    const [here, there] = [Math.sin((1 - share) * angle), Math.sin(share * angle)];
    return a.map((value, i) => (here * value + there * b[i]) / Math.sin(angle));
  };

  /* The image [3 * S * S] in [-1, 1] that a network makes of noise. One that asks its network many times has a
     path: each image on it, the last one the sample, comes after so many `passes`, the last of them at a `time`. */
  hamsynth.images = async function* (name, noise, label, guidance, steps) {
    const { shape, paths } = hamsynthNetworks.networks[name], ofShape = (values) => [values, [1, ...shape]];
    if (!paths) {
      yield { image: await run(`${name}-draw`, { noise: ofShape(noise), label: [label] }) };
      return;
    }
    const terms = [noise];
    let last;
    for (const { weights, time } of paths[steps]) {
      const x = ofShape(noise.map((_, i) => weights.reduce((sum, weight, k) => sum + weight * terms[k][i], 0)));
      if (time === undefined) {
        yield { image: await run(`${name}-decode`, { x }), passes: terms.length - 1, time: last };
      } else {
        last = time;
        terms.push(await run(`${name}-predict`, {
          x, time: [Float32Array.of(time), [1]], label: [label], guidance: [Float32Array.of(guidance), []],
        }));
      }
    }
  };

  /* Floats in [-1, 1], channel by channel, as the bytes 0 to 255 of an ImageData. */
  hamsynth.pixels = (image, size) => {
    const result = new ImageData(size, size), plane = size * size;
    for (let i = 0; i < plane; i++) {
      for (let channel = 0; channel < 3; channel++) {
        result.data[4 * i + channel] = Math.round((image[channel * plane + i] + 1) * 127.5);
      }
      result.data[4 * i + 3] = 255;
    }
    return result;
  };

  const start = () => (runtime ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "onnxruntime/ort.wasm.min.js";
    script.onload = () => {
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = new URL("onnxruntime/", document.baseURI).href;
      ort.env.logLevel = "error";
      resolve();
    };
    script.onerror = () => reject(new Error("onnxruntime/ort.wasm.min.js could not be loaded"));
    document.head.append(script);
  }));

  /* What a part of a network makes of inputs: floats as [values, shape], a whole number as [number]. */
  const run = async (part, inputs) => {
    await start();
    sessions[part] ||= ort.InferenceSession.create(`playground/networks/${part}.onnx`);
    const tensors = Object.entries(inputs).map(([name, [value, shape]]) => [name, shape
      ? new ort.Tensor("float32", value, shape)
      : new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), [1])]);
    const { out } = await (await sessions[part]).run(Object.fromEntries(tensors));
    return out.data;
  };
})();
