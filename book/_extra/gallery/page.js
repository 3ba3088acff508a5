/* The gallery: filters, cards, selection and download. `hamsynthGallery` (gallery.js) says what is known of each image;
   the images of a class and generator are in a script of their own, loaded when they are shown. */
"use strict";

(() => {
  const { images, classes, titles, columns, each, of, heldout, phantom, notice, licence } = hamsynthGallery;
  const page = document.getElementById("gallery");
  const part = (name) => page.querySelector(`[data-name=${name}]`);
  const field = (name) => page.querySelector(`[name=${name}]`);
  const list = page.querySelector(".hamsynth-cards");
  const selected = new Set(), loading = {};
  hamsynthGallery.files ||= {};

  const element = (kind, text = "", attributes = {}) => {
    const made = Object.assign(document.createElement(kind), attributes);
    made.append(text);
    return made;
  };
  const nameOf = (dx) => classes.find((one) => one.dx === dx).name;
  const percent = (share) => `${Math.round(100 * share)} %`;
  const named = ({ p }) => classes[p.indexOf(Math.max(...p))].dx;
  const asked = ({ p, dx }) => p[classes.findIndex((one) => one.dx === dx)];

  const load = ({ generator, dx }) => (loading[`${generator}-${dx}`] ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `gallery/${generator}-${dx}.js`;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`gallery/${generator}-${dx}.js could not be loaded`));
    document.head.append(script);
  }));

  const bytesOf = async (image) => {
    await load(image);
    return Uint8Array.from(atob(hamsynthGallery.files[image.image_id]), (letter) => letter.charCodeAt(0));
  };

  /* The image with a line under it that says what it is, and with its attention map over it if that is wanted. */
  const draw = async (canvas, image) => {
    await load(image);
    const picture = new Image(), context = canvas.getContext("2d"), side = canvas.width;
    picture.src = `data:image/png;base64,${hamsynthGallery.files[image.image_id]}`;
    await picture.decode();
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, 0, 0, side, side);
    if (field("attention").checked) {
      const rows = image.map.length / image.side;
      image.map.forEach((share, i) => { // nothing at even attention, the brightest at three times that
        context.fillStyle = `rgba(255, 230, 0, ${0.75 * Math.min(1, Math.max(0, (share - 100) / 200))})`;
        context.fillRect((i % image.side) * side / image.side, Math.floor(i / image.side) * side / rows,
          side / image.side, side / rows);
      });
    }
    context.fillStyle = "#000";
    context.fillRect(0, side, side, canvas.height - side);
    context.fillStyle = "#fff";
    context.font = "bold 22px sans-serif";
    context.textAlign = "center";
    context.fillText("SYNTHETIC", side / 2, side + 26);
  };

  const card = (image) => {
    const item = element("li"), canvas = element("canvas", "", { width: 256, height: 292 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Synthetic ${nameOf(image.dx)} by ${titles[image.generator]}, ${image.image_id}`);
    const box = element("input", "", { type: "checkbox", checked: selected.has(image) });
    box.onchange = () => {
      box.checked ? selected.add(image) : selected.delete(image);
      count();
    };
    const label = element("label");
    label.append(box, ` select ${nameOf(image.dx)}, ${titles[image.generator]}`);
    const all = element("details"), table = element("table");
    all.append(element("summary", `${named(image)} ${percent(Math.max(...image.p))}`), table);
    table.append(element("caption", "The classifier's probabilities"));
    classes.forEach(({ dx }, i) => {
      const row = table.insertRow();
      row.append(element("th", dx, { scope: "row" }), element("td", percent(image.p[i])));
    });
    const near = image.distance < heldout.near ? ", nearer than real images are" : "";
    item.append(canvas, label, element("p", `distance ${image.distance.toFixed(1)}${near}`), all);
    watcher.observe(canvas);
    canvas.image = image;
    return item;
  };

  /* Images are drawn when they come into sight. */
  const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    watcher.unobserve(target);
    draw(target, target.image).catch((error) => { page.querySelector("[role=status]").textContent = error.message; });
  }), { rootMargin: "200px" });

  const shown = () => {
    const [generator, dx, agrees] = ["generator", "class", "agrees"].map((name) => field(name).value);
    const orders = {
      rank: (a, b) => a.rank - b.rank, near: (a, b) => a.distance - b.distance, far: (a, b) => b.distance - a.distance,
      sure: (a, b) => asked(b) - asked(a), unsure: (a, b) => asked(a) - asked(b),
    };
    return images.filter((image) => image.generator === generator && (!dx || image.dx === dx) &&
      (!agrees || (named(image) === image.dx) === (agrees === "yes"))).sort(orders[field("order").value]);
  };

  const count = () => {
    part("download").disabled = !selected.size;
    page.querySelector("[role=status]").textContent = `${list.children.length} shown, ${selected.size} selected.`;
  };

  const show = () => {
    list.replaceChildren(...shown().map(card));
    count();
  };

  const csv = (head, rows) => new TextEncoder().encode(
    [head, ...rows].map((row) => row.map((value) => /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value)
      .join(",")).join("\n") + "\n");

  const download = async () => {
    const chosen = images.filter((image) => selected.has(image)), files = [];
    for (const image of chosen) files.push([image.file, await bytesOf(image)]);
    files.push(["manifest.csv", csv(columns, chosen.map((image) => columns.map((column) => image[column])))]);
    files.push(["scores.csv", csv(["image_id", "distance", ...classes.map(({ dx }) => `p_${dx}`)],
      chosen.map(({ image_id, distance, p }) => [image_id, distance, ...p]))]);
    files.push(["README.txt", new TextEncoder().encode(`${notice}\n${phantom ? "" : `${licence}\n`}`)]);
    hamsynth.save(hamsynth.zip(files), "synthetic-selection.zip");
  };

  if (!images.length) {
    part("none").hidden = false;
    return;
  }
  part("gallery").hidden = false;
  const kinds = Object.keys(of);
  part("about").textContent = `Here are the first ${each} of each class in a random order, of ` +
    kinds.map((name) => `${of[name].toLocaleString("en")} by ${titles[name]}`).join(", ") +
    ": more would make the page heavy. For comparison, held-out real images have a median distance of " +
    `${heldout.median.toFixed(1)}, and one in a hundred is nearer than ${heldout.near.toFixed(1)} (n = ${heldout.n.toLocaleString("en")}).`;
  field("generator").append(...kinds.map((name) => new Option(titles[name], name)));
  const drawn = classes.filter(({ dx }) => images.some((image) => image.dx === dx));
  field("class").append(...drawn.map(({ dx, name }) => new Option(`${name} (${dx})`, dx)));
  page.querySelector("form").addEventListener("input", show);
  page.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  part("all").addEventListener("click", () => { shown().forEach((image) => selected.add(image)); show(); });
  part("clear").addEventListener("click", () => { selected.clear(); show(); });
  part("download").addEventListener("click", download);
  show();
})();
