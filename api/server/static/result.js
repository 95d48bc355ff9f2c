// What a search that has ended found, first: in sentences, then the chosen network on test beside those that everyone knows.
import { download } from "./api.js";
import { start } from "./jobs.js";
import { attempt, count, el, number, table } from "./ui.js";

export const SCORES = [["dice", "Dice ↑"], ["miou", "mIoU ↑"], ["hd95", "HD95 (pixels) ↓"]];

export function resultCard(result, id, live) {
  const findings = (result.findings ?? []).map((sentence) => el("p", { className: "finding" }, sentence));
  const chosen = result.retrained;
  if (!chosen?.scores?.test) return findings;
  const guesses = Object.entries(result.trivial?.test ?? {}).map(([name, scores]) => [name, { scores: { test: scores } }]);
  const others = Object.values(result.baselines ?? {}).map((one) => [`${one.title}, trained for as long`, one]);
  const columns = ["Network", ...SCORES.map(([, title]) => title), "FLOPs", "Parameters"].map((title, i) => ({ title, num: i > 0 }));
  const rows = [["chosen network, retrained", chosen], ...others, ...guesses].map(([name, one]) => el("tr", {}, el("td", {}, name),
    SCORES.map(([key]) => el("td", { className: "num" }, score(one, key))), ["flops", "params"].map((cost) => el("td", { className: "num" }, count(one[cost])))));
  return [...findings, el("h2", {}, "On test"), table(columns, rows, { reach: "Scores on test" }), el("p", { className: "soft" }, "In brackets: 95 % intervals over images or patients."), taking(result.best?.number, id, live)];
}

// How to come by the network: its weights, a bundle for other programs, and the command that predicts with them.
function taking(trial, id, live) {
  const url = `/v1/searches/${id}`;
  const file = (name) => el("button", { type: "button", className: "link mono", onclick: () => attempt(() => download(`${url}/artifacts/retrained/${name}`, name)) }, name);
  return el("div", { className: "row" }, el("span", {}, "The network: ", file("weights.safetensors"), " and ", file("config.json")),
    trial === undefined ? null : el("button", { type: "button", onclick: (event) => start(event.currentTarget, `${url}/trials/${trial}/export`, { format: "bundle" }, () => live.now()) }, "Export for other programs"),
    el("span", { className: "soft" }, "With both in a folder: ", el("code", {}, "slicemamba predict FOLDER IMAGES --out masks")));
}

export function score(one, key) {
  const value = one.scores?.test?.[key];
  const ends = one.intervals?.test?.[key];
  if (value == null) return "–";
  return number(value) + (ends ? ` (${number(ends[0])} … ${number(ends[1])})` : "");
}
