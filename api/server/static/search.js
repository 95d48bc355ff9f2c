// One search: how far it is, what it found, and what can be done about it.
import { download, get, objectives, openPage, post, query, send, version } from "./api.js";
import { drawings, showJobs, start, under } from "./jobs.js";
import { logBox } from "./log.js";
import * as plots from "./plots.js";
import { pickForm } from "./pick.js";
import { resultCard } from "./result.js";
import { PHASES, ask, attempt, chip, clockTime, duration, el, number, notify, rough, select, sortable, swap, table, timeLeft, when } from "./ui.js";

const PAGES = 5; // of a thousand trials each, that a plot shows
const UNDER_WAY = ["QUEUED", "STARTING", "RUNNING"];

export function searchPage(main, live, id) {
  const url = `/v1/searches/${id}`;
  const parts = Object.fromEntries(["head", "phases", "findings", "tiles", "comparison", "trials", "jobs", "verdict", "history"].map((name) => [name, el("div")]));
  const plot = Object.fromEntries(["pareto", "hypervolume", "slicing"].map((name) => [name, el("div", { className: "plot", role: "figure" })]));
  plot.pareto.setAttribute("aria-label", "Trials and Pareto frontier; the table below holds the same figures");
  plot.hypervolume.setAttribute("aria-label", "Hypervolume of the frontier against evaluations");
  plot.slicing.setAttribute("aria-label", "Share of each slice size in the frontier, by block; the best is framed");
  const view = { sort: null, state: "", tokens: [null], axes: null, estimate: undefined, intervals: {} };
  const axes = el("div", { className: "row" });
  const picking = el("div");
  const cut = el("p", { className: "soft", hidden: true }, `The plot shows the first ${(PAGES * 1000).toLocaleString("en")} completed trials; the table has all.`);
  const audit = el("button", { type: "button", hidden: true, onclick: () => attempt(startAudit) }, "Audit");

  main.replaceChildren(
    el("section", { className: "card" }, parts.head, parts.findings, parts.phases), el("section", { className: "card" }, parts.tiles, parts.comparison),
    el("div", { className: "two" },
      el("section", { className: "card" }, el("div", { className: "row" }, el("h2", { className: "grow" }, "Pareto frontier"), axes), plot.pareto, cut, picking),
      el("section", { className: "card" }, el("h2", {}, "Hypervolume"), plot.hypervolume)),
    el("section", { className: "card" }, el("h2", {}, "Slicing of the frontier"), plot.slicing),
    el("section", { className: "card" }, drawings(id)),
    el("section", { className: "card" }, parts.trials),
    el("section", { className: "card" }, el("div", { className: "row" }, el("h2", { className: "grow" }, "Follow-up jobs"), audit), parts.verdict, parts.jobs),
    el("section", { className: "card" }, logBox(url, live.left)),
    el("section", { className: "card" }, el("details", {}, el("summary", {}, "State changes and job"), parts.history)));

  async function refresh() {
    const search = await get(url);
    const { id: _, progress, job_status, updated_at, expected_end_at, ...lasting } = search;
    document.title = `${search.name} · SliceMamba NAS`;
    const { ray_dashboard: ray } = await version();
    swap(parts.head, lasting, () => head(search, ray, url, live));
    parts.phases.replaceChildren(phases(search, await objectives()));
    swap(parts.history, lasting, () => history(search));
    const front = await get(`${url}/pareto`);
    // Beside a single objective, what it costs: one figure against itself shows nothing.
    const cost = ["latency_ms", "flops", "params"].find((name) => front.measured.includes(name));
    const first = [front.objectives[0].name, front.objectives[1]?.name ?? cost ?? front.objectives[0].name];
    // Before the first trial anything may be chosen; what it was not measured for cannot be drawn any more.
    view.axes = first.map((name, i) => (front.measured.includes(view.axes?.[i]) ? view.axes[i] : name));
    view.sort ??= `${front.objectives[0].direction === "maximize" ? "-" : ""}${front.objectives[0].name}`;
    if (view.estimate === undefined) { // a token that may only read gets none
      view.estimate = null;
      post("/v1/searches/validate", search.spec).then((found) => { view.estimate = found.estimate; }).catch(() => {});
    }
    if (search.state === "SUCCEEDED" && view.result !== search.ended_at) { // once a run: an extended one has another
      view.result = search.ended_at;
      const result = await get(`${url}/result`).catch(() => ({}));
      parts.findings.replaceChildren(...resultCard(result, id, live));
    }
    const jobs = await followUps(search); // the audit's intervals are drawn with the figures
    const [found] = await Promise.all([figures(front), trialTable(front)]);
    parts.tiles.replaceChildren(tiles(search, front, found.worked, view.estimate));
    swap(parts.comparison, [front.trials[0], found.random, found.trials.search.length], () => comparison(front, found));
    if (!under(search.state) && !jobs.some((job) => under(job.state))) live.slow();
    else live.quick();
  }

  async function figures(front) {
    const known = await objectives();
    swap(axes, front.measured, () => [1, 0].map((i) => select(i ? "x" : "y", front.measured.map((n) => [n, known[n].title]), view.axes[i], (value) => { view.axes[i] = value; live.now(); })));
    const [y, x] = view.axes.map((name) => known[name]);
    const names = [...new Set(view.axes)].join(",");
    if (front.trials.length) swap(picking, front.measured, () => pickForm(url, id, front.measured, known));
    const some = async (study) => {
      const trials = [];
      let next = null;
      for (let i = 0; i < PAGES && (i === 0 || next); i++) {
        const page = await get(`${url}/trials${query({ study, state: "COMPLETED", page_size: 1000, page_token: next })}`);
        trials.push(...page.trials);
        next = page.next_page_token;
      }
      if (study === "search") cut.hidden = !next;
      return trials;
    };
    const [trials, random, chosen, curve, baseline, { trials: [bestRandom], worker_seconds }] = await Promise.all([
      some("search"), some("random"), get(`${url}/pareto${query({ objectives: names })}`), get(`${url}/hypervolume`), get(`${url}/hypervolume?study=random`),
      get(`${url}/pareto${query({ study: "random", objectives: front.objectives.map((o) => o.name).join(",") })}`).catch(() => ({ trials: [], worker_seconds: 0 }))]);
    const own = names === front.objectives.map((o) => o.name).join(",") ? front.trials : chosen.trials;
    const intervals = { ...Object.fromEntries(front.trials.map((t) => [t.number, t.intervals])), ...view.intervals };
    plots.pareto(plot.pareto, { x, y, trials, front: own, random, intervals }, (n) => { location.hash = `#/s/${id}/t/${n}`; });
    plots.hypervolume(plot.hypervolume, [{ name: "search", points: curve.points }, { name: "random", points: baseline.points }].filter((c) => c.points.length));
    plots.slicing(plot.slicing, front.trials);
    return { trials: { search: trials, random }, random: bestRandom, worked: front.worker_seconds + worker_seconds };
  }

  async function followUps(search) {
    const { jobs } = await get(`${url}/jobs`);
    showJobs(parts.jobs, jobs, id, live);
    audit.hidden = search.state !== "SUCCEEDED";
    audit.disabled = jobs.some((job) => job.kind === "audit" && under(job.state));
    const ended = jobs.filter((job) => job.kind === "audit" && job.state === "SUCCEEDED").map((job) => job.id);
    if (view.audited !== ended.join() && search.state === "SUCCEEDED") {
      view.audited = ended.join();
      const found = await get(`${url}/audit`).catch(() => null); // one that ran beside the service counts too
      view.intervals = Object.fromEntries((found?.front?.members ?? []).map((row) => [row.number, row.intervals]));
      parts.verdict.replaceChildren(...found?.verdict ? [el("p", {}, el("b", {}, `Audit: ${found.verdict.word}. `), found.verdict.sentence)] : []);
    }
    return jobs;
  }

  async function startAudit() {
    const sampled = await ask({ title: "Audit this search", text: "Trains sampled slicings from scratch and repeats the random search, to say how far the answer can be trusted. How many slicings?", ok: "Audit", input: "8" });
    if (sampled) await start(audit, `${url}/audit`, { num_retrained: Number(sampled) }, () => live.now());
  }

  async function trialTable(front) {
    const page = await get(`${url}/trials${query({ sort: view.sort, state: view.state, page_size: 20, page_token: view.tokens.at(-1) })}`);
    const known = await objectives();
    swap(parts.trials, [page, front.trials, view.sort, view.state, view.tokens.length], () => trialRows(page, front, known));
  }

  function trialRows(page, front, known) {
    const best = new Set(front.trials.map((t) => t.number));
    const tied = new Set(front.trials.flatMap((t) => t.tied_with ?? []));
    const metrics = [...new Set([...front.objectives.map((o) => o.name), "seconds"])];
    const order = (sort) => { view.sort = sort; view.tokens = [null]; live.now(); };
    const column = (name) => sortable(name, known[name] ? plots.title(known[name]) : name, view.sort, order, { num: true, firstDown: true });
    const columns = [column("number"), { title: "State" }, ...metrics.map(column), { title: "Origin" }, { title: "Slicing" }];
    const rows = page.trials.map((t) => el("tr", {},
      el("td", { className: "num" }, el("a", { href: `#/s/${id}/t/${t.number}`, "data-key": `trial ${t.number}` }, String(t.number)), best.has(t.number) ? " ★" : tied.has(t.number) ? " =" : ""),
      el("td", {}, chip(t.state), t.violation ? el("span", { className: "soft", title: `breaks the constraints by ${t.violation.toPrecision(2)} of their limits` }, " outside") : ""), metrics.map((m) => el("td", { className: "num" }, number(m === "seconds" ? t.seconds : t.metrics[m]))),
      el("td", {}, t.origin), el("td", { className: "slicing mono", title: t.architecture }, t.architecture)));
    if (!page.total && !view.state) return [el("h2", {}, "Trials (0)"), el("p", { className: "soft" }, "None yet: the supernet is trained first.")];
    const pages = view.tokens.length > 1 || page.next_page_token;
    return [
      el("div", { className: "row" }, el("h2", { className: "grow" }, `Trials (${page.total.toLocaleString("en")})`),
        select("State", ["", "COMPLETED", "RUNNING", "PENDING", "PRUNED", "INFEASIBLE", "FAILED"].map((s) => [s, s || "all"]), view.state, (value) => { view.state = value; view.tokens = [null]; live.now(); }),
        el("button", { "data-key": "csv", onclick: () => attempt(() => download(`${url}/trials.csv${query({ state: view.state })}`, `${id}.csv`)) }, "CSV")),
      table(columns, rows),
      el("div", { className: "row pager" }, pages && [
        el("button", { "data-key": "back", disabled: view.tokens.length < 2, onclick: () => { view.tokens.pop(); live.now(); } }, "Back"),
        el("button", { "data-key": "more", disabled: !page.next_page_token, onclick: () => { view.tokens.push(page.next_page_token); live.now(); } }, "More")],
        el("span", { className: "soft" }, `★ on the frontier${tied.size ? "   = tied with one of these: no measurable difference" : ""}`))];
  }

  live.every(3, refresh);
}

function head(search, ray, url, live) {
  const act = (what, body) => () => attempt(async () => { await post(`${url}/${what}`, body); live.now(); });
  const button = (text, onclick, className = "") => el("button", { type: "button", onclick, className, "data-key": text }, text);
  const ended = !under(search.state);
  const extend = async () => {
    const before = search.spec.search.num_trials;
    const total = await ask({ title: "Extend the search", text: `It has ${before} trials. How many in all?`, ok: "Extend", input: String(before * 2) });
    if (total) await act("extend", { num_trials: Number(total) })();
  };
  const cancel = async () => {
    if (await ask({ title: "Cancel this search?", text: "What it has found so far is kept, and it can be resumed.", ok: "Cancel the search", danger: true })) await act("cancel")();
  };
  const remove = async () => {
    if (!(await ask({ title: "Delete this search?", text: "Its trials, networks and figures are deleted permanently.", ok: "Delete", danger: true }))) return;
    await attempt(async () => { await send("DELETE", url); notify(`${search.name} is deleted`); location.hash = "#/"; });
  };
  return [el("div", { className: "row" }, el("h1", { className: "grow" }, search.name, " ", chip(search.state)),
    search.state === "SUCCEEDED" ? button("Report", () => attempt(() => openPage(`${url}/report`))) : null,
    UNDER_WAY.includes(search.state) ? button("Pause", act("pause")) : null,
    ["PAUSED", "FAILED", "CANCELLED"].includes(search.state) ? button("Resume", act("resume"), "primary") : null,
    ended || search.state === "PAUSED" ? button("Extend", extend) : null,
    !ended && search.state !== "CANCELLING" ? button("Cancel", cancel, "danger") : null,
    el("a", { className: "button", href: `#/new/${search.id}`, "data-key": "copy" }, "Copy to a new search"),
    ended ? button("Delete", remove, "danger") : null),
  el("p", { className: "soft" }, el("span", { className: "mono" }, search.id), " · ", `data ${search.spec.data.name}`, ` · ${search.spec.search.searcher}`, search.submitted_by ? ` · asked for by ${search.submitted_by}` : "", search.message && !search.error ? ` · ${search.message}` : "", search.queue_position ? ` · place ${search.queue_position} in the queue` : "",
    ray && search.job_status ? [" · ", el("a", { href: `${ray.replace(/\/$/, "")}/#/jobs/${search.job_id}`, target: "_blank", rel: "noreferrer" }, "Ray's dashboard")] : ""),
  search.error ? el("pre", { className: "log bad" }, search.error) : null,
  search.warning ? el("p", { className: "finding wait", role: "status" }, search.warning) : null].filter(Boolean);
}

function phases(search, known) {
  const { retrain, baselines, search: { random_baseline: random } } = search.spec;
  const survey = search.progress.survey || search.spec.search.survey || search.spec.search.stop_if_flat; // or made by default
  const finals = search.spec.finals === "auto" ? search.progress.finals : search.spec.finals; // in a space with sizes
  const wanted = ["supernet", survey && "survey", "search", random && "random", finals && "finals", ...retrain ? ["retrain", baselines.length && "baselines", "evaluate"] : []].filter(Boolean);
  return el("ol", { className: "phases" }, wanted.map((phase) => {
    const now = search.progress[phase];
    const figures = Object.entries(now?.metrics ?? {}).slice(0, 3).map(([k, v]) => `${figure(k, known)} ${number(v, 3)}`).join(" · ");
    return el("li", {}, el("div", { className: "row" }, el("b", { className: "grow" }, PHASES[phase]), el("span", { className: "soft" }, now ? `${now.done} / ${now.total} ${now.unit}` : "–")),
      el("progress", { max: now?.total || 1, value: now?.done ?? 0, ariaLabel: PHASES[phase] }), el("div", { className: "soft" }, figures));
  }));
}

// best_dice is what others call the best Dice.
function figure(key, known) {
  const name = key.replace(/^(val_|best_)/, "");
  return `${key.startsWith("best_") ? "best " : ""}${known[name]?.title ?? name}`;
}

function tiles(search, front, evaluating, estimate) {
  const best = front.trials[0];
  const tile = (text, value) => el("div", { className: "tile" }, el("b", {}, value), el("span", {}, text));
  const spent = search.started_at ? ((search.ended_at ? new Date(search.ended_at) : new Date()) - new Date(search.started_at)) / 1000 : NaN;
  const workers = search.spec.resources.train.num_workers;
  const worked = evaluating + ["supernet", "retrain", "baselines"].reduce((sum, phase) => sum + workers * (search.progress[phase]?.seconds ?? 0), search.progress.evaluate?.seconds ?? 0);
  const searchers = search.progress.check?.metrics.workers ?? 1;
  const beside = ["survey", "finals"].reduce((sum, phase) => sum + searchers * (search.progress[phase]?.seconds ?? 0), 0);
  const left = remaining(search);
  return el("div", { className: "tiles" },
    front.objectives.map((o) => tile(`best trial: ${plots.title(o)}`, best ? number(best.metrics[o.name]) : "–")),
    tile("Pareto-optimal", number(front.trials.length)), tile("completed trials", `${number(front.num_completed)} of ${number(search.spec.search.num_trials)}`),
    tile("time so far", duration(spent)), left ? tile(left.text, left.value) : null,
    tile("worker time so far", duration(worked + beside)),
    estimate ? tile(`total worker time, estimated (${rough(estimate.device_hours_low)} … ${rough(estimate.device_hours_high)})`, rough(estimate.device_hours)) : null);
}

// The best of the search beside what it must beat: the best fixed slicing, and the best of random search.
function comparison(front, { trials, random }) {
  const [first] = front.objectives;
  const order = (t) => (first.direction === "maximize" ? -1 : 1) * t.metrics[first.name];
  const fixed = trials.search.filter((t) => t.origin === "fixed").sort((a, b) => a.violation - b.violation || order(a) - order(b))[0];
  const rows = [["best of the search", front.trials[0]], [`best fixed slicing${fixed?.violation ? " (outside the constraints)" : ""}`, fixed], ["best of random search", random]].filter(([, t]) => t);
  if (rows.length < 2) return [];
  const slicing = (t) => (t.origin === "fixed" ? plots.fixedName(t.architecture) : `trial ${t.number}`);
  return table([{ title: "Network" }, ...front.objectives.map((o) => ({ title: plots.title(o), num: true })), { title: "Slicing" }],
    rows.map(([name, t]) => el("tr", {}, el("td", {}, name), front.objectives.map((o) => el("td", { className: "num" }, number(t.metrics[o.name]))), el("td", {}, slicing(t)))));
}

function remaining(search) {
  if (!search.expected_end_at) return null;
  return { text: `left, until about ${clockTime(new Date(search.expected_end_at))}`, value: timeLeft(search.expected_end_at) };
}

function history(search) {
  return el("div", {}, table([{ title: "Time" }, { title: "State" }, { title: "Why" }, { title: "By" }],
    search.history.map((c) => el("tr", {}, el("td", {}, when(c.time)), el("td", {}, chip(c.new_state)), el("td", {}, c.message ?? ""), el("td", {}, c.by ?? "")))),
  el("pre", { className: "log" }, JSON.stringify(search.spec, null, 2)));
}
