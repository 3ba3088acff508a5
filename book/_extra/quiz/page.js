/* The quiz: one image after the other, then the scores. `hamsynthQuiz` (quiz.js) holds the images. */
"use strict";

(() => {
  const { images, classes, titles, probe, phantom, marked } = hamsynthQuiz;
  const page = document.getElementById("quiz");
  const part = (name) => page.querySelector(`[data-name=${name}]`);
  const status = page.querySelector("[role=status]");
  const answers = [];

  const element = (kind, text = "", attributes = {}) => {
    const made = Object.assign(document.createElement(kind), attributes);
    made.append(text);
    return made;
  };
  const nameOf = (dx) => classes.find((each) => each.dx === dx).name;
  const isReal = (image) => image.source === "real";
  const ofSource = (source) => (source === "real" ? "real" : titles[source]);
  const percent = (share) => `${Math.round(100 * share)} %`;

  const ask = () => {
    status.textContent = `Image ${answers.length + 1} of ${images.length}`;
    part("image").replaceChildren(element("img", "", {
      src: `data:image/png;base64,${images[answers.length].png}`, width: 256, height: 256, className: "hamsynth-pixels",
      alt: `Image ${answers.length + 1} of the quiz`,
    }));
  };

  /* The probability of at least so many hits in n by guessing. */
  const byGuessing = (hits, n) => {
    let sum = 0, ways = 1;
    for (let k = n; k >= hits; k--) {
      sum += ways;
      ways = ways * k / (n - k + 1);
    }
    return sum / 2 ** n;
  };

  const table = () => {
    const rows = ["real", ...Object.keys(titles)].filter((name) => images.some(({ source }) => source === name));
    const line = (head, chosen) => {
      const row = element("tr");
      row.append(element("th", head, { scope: "row" }));
      const you = chosen.filter((i) => answers[i] === isReal(images[i])).length;
      const its = chosen.filter((i) => (images[i].synthetic < 0.5) === isReal(images[i])).length;
      for (const text of [chosen.length, you, its]) row.append(element("td", String(text)));
      return row;
    };
    const made = element("table", "", { className: "table" }), head = element("tr"), body = element("tbody");
    for (const text of ["Images", "n", "You right", "Probe right"]) head.append(element("th", text, { scope: "col" }));
    made.append(element("caption", "Your score and the probe's, for each source."), element("thead"), body);
    made.tHead.append(head);
    const all = images.map((_, i) => i);
    for (const source of rows) body.append(line(ofSource(source), all.filter((i) => images[i].source === source)));
    body.append(line("all", all));
    return made;
  };

  /* What measures say of an image: they explain what could have been seen, not what the reader saw. */
  const explain = (image) => {
    const finer = image.grain > 1.15 ? "coarser to the eye, with more difference between neighbouring pixels, than"
      : image.grain < 0.85 ? "smoother than" : "about as smooth as";
    const is = isReal(image) ? `Real${phantom ? ", drawn by the phantom's program" : ""}` : `SYNTHETIC, by ${titles[image.source]}`;
    return `${is}: ${nameOf(image.dx)}. It is ${finer} a real image usually is (grain ${percent(image.grain)} of the median). ` +
      `The probe gave it ${percent(image.synthetic)} for synthetic` +
      `${(image.synthetic < 0.5) === isReal(image) ? "." : ", and was wrong, too."}`;
  };

  const show = () => {
    const right = answers.filter((answer, i) => answer === isReal(images[i])).length, result = part("result");
    const missed = images.map((image, i) => [image, i]).filter(([image, i]) => answers[i] !== isReal(image));
    result.replaceChildren(
      element("h2", `You were right on ${right} of ${images.length}`),
      element("p", `By guessing, ${right} or more come with a probability of ${percent(byGuessing(right, images.length))}. ` +
        `The probe has learned from ${probe.n} other images; on such as it had not seen, its balanced accuracy was ` +
        `${percent(probe.accuracy)} (${probe.extractor}).`),
      table(),
      element("h2", missed.length ? "What you missed" : "You missed none"),
    );
    const list = element("ul", "", { className: "hamsynth-cards" });
    for (const [image, i] of missed) {
      const item = element("li");
      item.append(element("img", "", {
        src: `data:image/png;base64,${image.png}`, width: 128, height: 128, className: "hamsynth-pixels",
        alt: `Image ${i + 1}: ${isReal(image) ? "real" : "synthetic"} ${nameOf(image.dx)}`,
      }), element("p", explain(image)));
      list.append(item);
    }
    result.append(list, element("button", "Again", { type: "button", onclick: start }));
    part("asking").hidden = true;
    result.hidden = false;
    result.focus();
  };

  const start = () => {
    answers.length = 0;
    part("result").hidden = true;
    part("asking").hidden = false;
    ask();
    page.querySelector("[data-answer]").focus({ preventScroll: true });
  };

  for (const button of page.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => {
      answers.push(button.dataset.answer === "real");
      answers.length < images.length ? ask() : show();
    });
  }

  if (images.length) {
    part("asking").hidden = false;
    ask();
  } else {
    part("none").hidden = false;
    part("none").textContent = marked
      ? "This run is marked as not for publication: its real images are not shown, and without them there is no quiz."
      : "This run has no synthetic images yet, so that there is nothing to tell apart.";
  }
})();
