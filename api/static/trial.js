// One trial: its slicing, what was measured, and how it did on each image.
import { get } from "./api.js";
import { chip, el, notify, number, table, when } from "./ui.js";

export function trialPage(main, live, id, n) {
  const url = `/v1/searches/${id}`;
  const body = el("div", { className: "stack" });
  main.replaceChildren(el("nav", { ariaLabel: "Way back" }, el("a", { href: `#/s/${id}` }, "← Search")), body);
  live.every(5, async () => {
    const [trial, search, images] = await Promise.all([
      get(`${url}/trials/${n}`), get(url), get(`${url}/trials/${n}/images`).catch(() => null)]);
    body.replaceChildren(...view(trial, search, images?.images));
    if (!["RUNNING", "PENDING"].includes(trial.state)) live.stop();
  });
}

function view(trial, search, images) {
  const copy = () => navigator.clipboard.writeText(trial.architecture).then(() => notify("copied"));
  const metrics = Object.entries(trial.metrics);
  return [
    el("section", { className: "card" },
      el("h1", {}, `Trial ${trial.number} of ${search.name} `, chip(trial.state)),
      el("p", { className: "soft" }, `${trial.origin} · ${when(trial.ended_at ?? trial.started_at)} · ${number(trial.seconds)} s`),
      trial.error ? el("pre", { className: "log bad" }, trial.error) : null,
      slices(trial.architecture),
      el("p", {}, el("code", {}, trial.architecture), " ", el("button", { type: "button", onclick: copy }, "Copy"))),
    el("div", { className: "two" },
      el("section", { className: "card" }, el("h2", {}, "Dice by image of the search split, the worst first"), images ? bars(images) : el("p", { className: "soft" }, "No scores by image.")),
      el("section", { className: "card" }, el("h2", {}, "Measured with the supernet's weights"),
        table([{ title: "Metric" }, { title: "Value", num: true }], metrics.map(([k, v]) => el("tr", {}, el("td", {}, k), el("td", { className: "num" }, number(v, 6))))))),
  ];
}

function slices(architecture) {
  return el("div", { className: "slices" }, architecture.split("|").map((stage, i, all) => {
    const blocks = stage.split(":")[1].split(",");
    const name = i < all.length / 2 ? `encoder ${i + 1}` : `decoder ${i + 1 - all.length / 2}`;
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
