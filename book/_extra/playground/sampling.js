/* The generators in the page: noise from a seed, and what each network makes of it.
   `hamsynthNetworks` (networks.js) says which networks there are; hamsynth_utils/playground.py wrote both. */
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

  /* The image that a network decodes: noise, or a diffusion model's latents, to floats [3 * S * S] in [-1, 1]. */
  hamsynth.decode = async (name, noise, label) => {
    const network = hamsynthNetworks.networks[name];
    const inputs = { noise: [noise, [1, ...network.shape]] };
    if (!network.schedules) inputs.label = [label];
    return run(`${name}-decode`, inputs);
  };

  /* A diffusion model's guesses of the clean latents, one after each step of its solver; the last one is the
     sample. As `Diffusion.guesses`: DPM-Solver++(2M) (Lu et al. 2022) or DDIM (Song et al. 2021). */
  hamsynth.guesses = async function* (name, noise, label, guidance, steps) {
    const network = hamsynthNetworks.networks[name];
    const { time, alpha, sigma } = network.schedules[steps];
    const logSnr = (step) => Math.log(alpha[step] / sigma[step]);
    let noisy = noise, last = null;
    for (let step = 0; step < time.length; step++) {
      const clean = await run(`${name}-denoise`, {
        noisy: [noisy, [1, ...network.shape]], time: [time[step]], label: [label],
        guidance: [Float32Array.of(guidance), []],
      });
      yield { clean, time: time[step] };
      if (step + 1 === time.length) return;
      let ratio = 0;
      if (network.solver === "dpm++" && last && step + 2 < time.length) {
        ratio = (logSnr(step + 1) - logSnr(step)) / (logSnr(step) - logSnr(step - 1)) / 2;
      }
      const before = noisy, earlier = last;
      noisy = clean.map((guess, i) => {
        const toward = ratio ? guess + ratio * (guess - earlier[i]) : guess;
        return alpha[step + 1] * toward + sigma[step + 1] * (before[i] - alpha[step] * toward) / sigma[step];
      });
      last = clean;
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
