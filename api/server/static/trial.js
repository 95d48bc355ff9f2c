// One trial: its slicing, what was measured, how it did on each image, and what can be made of it.
import { get, objectives } from "./api.js";
import { gallery, showJobs, start, under } from "./jobs.js";
import { named } from "./plots.js";
import { ask, attempt, chip, el, notify, number, swap, table, when } from "./ui.js";

export function trialPage(main, live, id, n) {
  const url = `/v1/searches/${id}`;
  const part = Object.fromEntries(["head", "images", "metrics", "jobs", "pictures"].map((name) => [name, el("div")]));
  let drawn = null;

  const refresh = async () => {
    const [trial, search, scores, { jobs }] = await Promise.all([
      get(`${url}/trials/${n}`), get(url), get(`${url}/trials/${n}/images`).catch(() => null), get(`${url}/jobs`)]);
    const ours = jobs.filter((job) => job.study === "search" && job.trial === trial.number);
    swap(part.head, [trial, search.name], () => head(trial, search));
    swap(part.images, scores, () => (scores ? bars(scores.images) : el("p", { className: "soft" }, "No scores per image.")));
    const known = await objectives();
    swap(part.metrics, trial.metrics, () => metrics(trial, known));
    showJobs(part.jobs, ours, id, live);
    const figures = ours.find((job) => job.kind === "figures" && job.state === "SUCCEEDED");
    if (figures && drawn !== figures.id) {
      drawn = figures.id;
      part.pictures.replaceChildren(el("p", { className: "soft" }, legend(search.spec.data.num_classes ?? 1)), ...await gallery(figures, id));
    }
    if (!["RUNNING", "PENDING"].includes(trial.state) && !ours.some((job) => under(job.state))) live.slow();
    else live.quick();
  };

  const begin = (what, body) => (event) => start(event.currentTarget, `${url}/trials/${n}/${what}`, body, () => live.now());
  const retrain = (event) => {
    const button = event.currentTarget;
    attempt(async () => {
      const epochs = await ask({ title: "Retrain this slicing", text: "It is trained as the search trains its winner, and scored on test. Epochs (empty: as the search has it):", ok: "Retrain", input: "" });
      if (epochs !== null) await start(button, `${url}/trials/${n}/retrain`, { retrain: epochs ? { epochs: Number(epochs) } : {} }, () => live.now());
    });
  };
  const button = (text, onclick) => el("button", { type: "button", onclick }, text);
  part.pictures.className = "pictures";
  part.pictures.append(el("p", { className: "soft" }, "“Draw predictions” shows the worst and the best images with truth and prediction."));
  main.replaceChildren(el("nav", { ariaLabel: "Way back" }, el("a", { href: `#/s/${id}` }, "← Search")),
    el("section", { className: "card" }, part.head,
      el("div", { className: "row" }, button("Retrain", retrain), button("Export", begin("export", { format: "bundle" })), button("Draw predictions", begin("figures", { images: 8 })))),
    el("div", { className: "two" },
      el("section", { className: "card" }, el("h2", {}, "Dice by image of the search split, the worst first"), part.images),
      el("section", { className: "card" }, el("h2", {}, "Measured with the supernet's weights"), part.metrics)),
    el("section", { className: "card" }, el("h2", {}, "Predictions with the supernet's weights"), part.pictures),
    el("section", { className: "card" }, el("h2", {}, "Jobs on this trial"), part.jobs));
  live.every(3, refresh);
}

function head(trial, search) {
  const copy = () => attempt(async () => {
    if (!navigator.clipboard) throw new Error("Browsers copy from https and localhost only; select the text and copy it.");
    await navigator.clipboard.writeText(trial.architecture);
    notify("copied");
  });
  return [
    el("h1", {}, `Trial ${trial.number} of ${search.name} `, chip(trial.state)),
    el("p", { className: "soft" }, `${trial.origin} · ${when(trial.ended_at ?? trial.started_at)} · ${number(trial.seconds)} s`),
    trial.error ? el("pre", { className: "log bad" }, trial.error) : null,
    slices(trial.architecture),
    el("p", {}, el("code", {}, trial.architecture), " ", el("button", { type: "button", onclick: copy }, "Copy"))].filter(Boolean);
}

const metrics = (trial, known) => table([{ title: "Metric" }, { title: "Value", num: true }],
  Object.entries(trial.metrics).map(([k, v]) => el("tr", {}, el("td", {}, known[k] ? named(known[k]) : k), el("td", { className: "num" }, number(v, 6)))));

// As slicemamba.evaluation.figures draws them.
const legend = (classes) => (classes === 1
  ? "On the image, yellow outlines the truth and blue the prediction. Beside it the truth; then the prediction: white where both agree, blue where it marks too much, yellow where it misses."
  : "On the image, the outlines of the truth in each class's colour. Beside it the truth; then the prediction, with white lines around what is wrong.");

function slices(architecture) {
  return el("div", { className: "slices" }, architecture.split("|").map((stage, i, all) => {
    const blocks = stage.split(":")[1].split(",");
    const half = Math.ceil(all.length / 2); // in the middle stands the encoder's last
    const name = i < half ? `encoder ${i + 1}` : `decoder ${i + 1 - half}`;
    return el("div", {}, el("span", { className: "soft" }, name), el("div", { className: "cells" }, blocks.map((b) => el("span", { className: "cell mono" }, b))));
  }));
}

function bars(images) {
  const shown = images.slice(0, 60);
  return el("div", {}, el("div", { className: "bars" }, shown.flatMap((image) => {
    const bar = el("i");
    bar.style.width = `${Math.max(image.dice * 100, 0.5)}%`;
    return [el("span", { className: "mono" }, image.name), el("div", {}, bar), el("span", {}, image.dice.toFixed(3))];
  })), images.length > shown.length ? el("p", { className: "soft" }, `and ${images.length - shown.length} better ones`) : null);
}
