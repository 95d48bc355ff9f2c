// Searches side by side: their frontiers in one plot, and the networks that they chose.
import { get, objectives, query } from "./api.js";
import * as plots from "./plots.js";
import { SCORES, score } from "./result.js";
import { chip, count, el, number, select, swap, table } from "./ui.js";

export function comparePage(main, live, ids) {
  const axes = el("div", { className: "row" }), rows = el("div");
  const plot = el("div", { className: "plot", role: "figure", ariaLabel: "Pareto frontiers of the searches; the table below names the best of each" });
  let chosen = null;
  main.replaceChildren(
    el("h1", {}, `${ids.length} searches`),
    el("section", { className: "card" }, el("div", { className: "row" }, el("h2", { className: "grow" }, "Pareto frontiers"), axes), plot,
      el("p", { className: "soft" }, "Scores with the weights of each search's own supernet: between supernets they compare only roughly. The chosen networks below were trained and are tested.")),
    el("section", { className: "card" }, el("h2", {}, "Chosen networks, on test"), rows));

  async function refresh() {
    const known = await objectives();
    const searches = await Promise.all(ids.map((id) => get(`/v1/searches/${id}`)));
    const own = await Promise.all(ids.map((id) => get(`/v1/searches/${id}/pareto`)));
    const common = own[0].measured.filter((name) => own.every((front) => front.measured.includes(name)));
    const first = [common.find((name) => known[name].direction === "maximize") ?? common[0], common.find((name) => ["flops", "latency_ms", "params"].includes(name)) ?? common.at(-1)];
    chosen = first.map((name, i) => (common.includes(chosen?.[i]) ? chosen[i] : name)); // less is common once trials are completed
    swap(axes, common, () => (common.length ? [1, 0].map((i) => select(i ? "x" : "y", common.map((name) => [name, known[name].title]), chosen[i], (value) => { chosen[i] = value; live.now(); })) : []));
    const fronts = common.length ? await Promise.all(ids.map((id) => get(`/v1/searches/${id}/pareto${query({ objectives: [...new Set(chosen)].join(",") })}`))) : own;
    const results = await Promise.all(searches.map((s) => (s.state === "SUCCEEDED" ? get(`/v1/searches/${s.id}/result`).catch(() => ({})) : {})));
    if (common.length) plots.fronts(plot, known[chosen[1]], known[chosen[0]], fronts.map((front, i) => ({ name: searches[i].name, trials: front.trials })));
    swap(rows, [searches.map(({ name, state, dataset }) => [name, state, dataset]), own, results], () => comparison(searches, own, results));
  }
  live.every(10, refresh);
}

function comparison(searches, fronts, results) {
  const columns = ["Search", "Data set", "State", "Best trial", ...SCORES.map(([, title]) => title), "FLOPs", "Parameters", "U-Net: Dice ↑"].map((title, i) => ({ title, num: i > 2 }));
  const rows = searches.map((s, i) => {
    const { retrained = {}, baselines = {} } = results[i];
    const [first] = fronts[i].objectives, best = fronts[i].trials[0];
    return el("tr", {},
      el("td", {}, el("a", { href: `#/s/${s.id}`, "data-key": s.id }, s.name)), el("td", {}, s.dataset), el("td", {}, chip(s.state)),
      el("td", { className: "num" }, best ? `${plots.title(first)} ${number(best.metrics[first.name])}` : "–"),
      SCORES.map(([key]) => el("td", { className: "num" }, score(retrained, key))), ["flops", "params"].map((cost) => el("td", { className: "num" }, count(retrained[cost]))),
      el("td", { className: "num" }, score(baselines.unet ?? {}, "dice")));
  });
  return table(columns, rows);
}
