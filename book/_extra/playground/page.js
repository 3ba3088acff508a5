/* The page: what the reader chooses, and the two labelled canvases. */
"use strict";

(() => {
  const { networks, classes, notice, licence, note } = hamsynthNetworks;
  const page = document.getElementById("playground");
  const field = (name) => page.querySelector(`[name="${name}"]`);
  const canvas = (name) => page.querySelector(`canvas[data-name="${name}"]`);
  const say = (text) => { page.querySelector("[role=status]").textContent = text; };
  const label = () => Number(field("class").value);

  /* Draw floats [3 * S * S] with a line under them that says what they are; `about` is what a saved file says. */
  const draw = (target, image, size, about, description) => {
    const context = target.getContext("2d"), side = target.width;
    const small = document.createElement("canvas");
    small.width = small.height = size;
    small.getContext("2d").putImageData(hamsynth.pixels(image, size), 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, side, side);
    context.fillStyle = "#000";
    context.fillRect(0, side, side, target.height - side);
    context.fillStyle = "#fff";
    context.font = "bold 15px sans-serif";
    context.textAlign = "center";
    context.fillText("SYNTHETIC, not a patient", side / 2, side + 21);
    target.setAttribute("aria-label", `Synthetic image, not a patient: ${description}`);
    target.about = about;
    target.description = description;
  };

  const save = (target, name) => target.toBlob(async (blob) => {
    const text = { "hamsynth:synthetic": "true", ...target.about, Comment: notice, Copyright: licence };
    const png = hamsynth.withText(new Uint8Array(await blob.arrayBuffer()), text);
    hamsynth.save(png, `synthetic-${name}-${classes[label()].dx}.png`);
  });

  const aboutOf = (name, seed, sampling) => ({
    "hamsynth:generator": name, "hamsynth:class": classes[label()].dx, "hamsynth:seed": String(seed),
    "hamsynth:sampling": `in the browser ${sampling}`.trim(), "hamsynth:checkpoint": networks[name].checkpoint,
  });

  /* The images that were last made, from noise to sample. */
  let path = [];
  const showStep = () => {
    const { image, passes, time, all, about, of, size } = path[Number(field("step").value) - 1];
    const text = passes ? `after ${passes} of ${all} passes of the network, the last at time ${Number(time.toFixed(3))}`
      : "the noise, before any pass of the network";
    draw(canvas("lesion"), image, size, about, passes === all ? of : `${of}, ${text}`);
    page.querySelector("[data-name=time]").textContent = text;
    field("step").setAttribute("aria-valuetext", text);
  };

  const make = async () => {
    const name = field("generator").value, { title, size, paths } = networks[name], seed = Number(field("seed").value);
    const of = `${classes[label()].name}, ${title}, seed ${seed}`, guidance = field("guidance").value, steps = field("number").value;
    const all = paths?.[steps].filter(({ time }) => time !== undefined).length, found = [];
    const begun = performance.now();
    page.querySelector("[data-name=steps]").hidden = !paths;
    for await (const each of hamsynth.images(name, hamsynth.noiseFor(networks[name], seed), label(), Number(guidance), steps)) {
      const sampling = paths ? `guidance=${guidance} steps=${steps} passes=${each.passes}` : "";
      found.push({ ...each, all, about: aboutOf(name, seed, sampling), of, size });
      path = found;
      field("step").max = found.length; // before the value, which it limits
      field("step").value = found.length;
      showStep();
      await new Promise(requestAnimationFrame);
    }
    page.querySelector("[data-name=save]").disabled = false;
    return `${of}: made in ${((performance.now() - begun) / 1000).toFixed(2)} s.`;
  };

  const walk = async () => {
    const seeds = [Number(field("from").value), Number(field("to").value)], share = Number(field("share").value) / 100;
    const codes = seeds.map((seed) => hamsynth.noiseFor(networks.vae, seed));
    const { value: { image } } = await hamsynth.images("vae", hamsynth.between(...codes, share), label()).next();
    const of = `${classes[label()].name}, VAE, ${share * 100} % of the way from seed ${seeds[0]} to seed ${seeds[1]}`;
    draw(canvas("walk"), image, networks.vae.size, aboutOf("vae", seeds.join(" to "), `share=${share}`), of);
    page.querySelector("[data-name=save-walk]").disabled = false;
    return `${of}.`;
  };

  /* One task after the other: a network runs one image at a time, and only the last wish of a kind counts. */
  let busy = Promise.resolve();
  const wanted = {};
  const want = (task) => {
    const ticket = wanted[task.name] = (wanted[task.name] || 0) + 1;
    busy = busy.then(async () => {
      if (ticket !== wanted[task.name]) return;
      page.setAttribute("aria-busy", "true");
      say("Working. The first time, the networks are loaded.");
      try {
        say(await task());
      } catch (error) {
        say(`That did not work: ${error.message}`);
      }
      page.removeAttribute("aria-busy");
    });
  };

  const options = (select, entries) => select.append(...entries.map(([value, text]) => new Option(text, value)));
  page.querySelector("[data-name=note]").textContent = note;
  options(field("generator"), Object.entries(networks).map(([name, { title }]) => [name, title]));
  options(field("class"), classes.map(({ dx, name }, i) => [i, `${name} (${dx})`]));
  field("class").value = classes.findIndex(({ dx }) => dx === "mel");
  page.querySelector("[data-name=walk]").hidden = !networks.vae;
  const sayGuidance = () => { page.querySelector("[data-name=guidance]").textContent = field("guidance").value; };
  /* What the generator that is now chosen can be told. */
  const offer = () => {
    const { paths, steps, guidance } = networks[field("generator").value] || {};
    page.querySelector("[data-name=sampling]").hidden = !paths;
    field("number").replaceChildren();
    if (paths) {
      options(field("number"), Object.keys(paths).map((number) => [number, number]));
      field("number").value = steps;
      field("guidance").value = guidance;
    }
    sayGuidance();
  };
  offer();

  if (location.protocol === "file:") {
    page.querySelector("[data-name=blocked]").hidden = false;
  } else if (Object.keys(networks).length) {
    page.querySelector("fieldset").disabled = false;
  }

  page.addEventListener("input", (event) => {
    if (event.target.name === "generator") offer();
    sayGuidance();
    if (event.target.name === "step") showStep();
    if (event.target.name === "share") want(walk);
  });
  page.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); want(make); });
  page.querySelector("[data-name=another]").addEventListener("click", () => {
    field("seed").value = Number(field("seed").value) + 1;
    want(make);
  });
  page.querySelector("[data-name=go]").addEventListener("click", () => want(walk));
  page.querySelector("[data-name=save]").addEventListener("click", () => save(canvas("lesion"), field("generator").value));
  page.querySelector("[data-name=save-walk]").addEventListener("click", () => save(canvas("walk"), "vae-walk"));
})();
