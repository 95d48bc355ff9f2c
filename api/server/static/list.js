// All searches, newest first or as sorted.
import { get, objectives, post, query, send } from "./api.js";
import { PHASES, ask, chip, el, notify, number, select, sortable, swap, table, timeLeft, when } from "./ui.js";

const STATES = ["", "QUEUED", "STARTING", "RUNNING", "PAUSED", "CANCELLING", "SUCCEEDED", "CANCELLED", "FAILED"];
const MOST = 8; // that a comparison shows: more colours cannot be told apart

export function listPage(main, live) {
  let state = "", text = "", sort = "-created_at", tokens = [null], timer = null;
  const chosen = new Map(); // by id, the names of those that are ticked, on all pages
  const body = el("div"), bulk = el("div", { className: "row", ariaLive: "polite" });
  const refresh = async () => {
    const page = await get(`/v1/searches${query({ state, text, sort, page_size: 25, page_token: tokens.at(-1) })}`);
    const { searches, next_page_token: more } = page, known = await objectives();
    // updated_at changes with every round of the service, and is not shown.
    swap(body, [searches.map(({ updated_at, ...rest }) => rest), more, tokens.length, sort], () => [searches.length ? rows(searches, known, chosen, act, sort, order) : empty(state || text), pager(more)]);
  };
  const pager = (more) => (tokens.length < 2 && !more ? "" : el("div", { className: "row pager" },
    el("button", { "data-key": "back", disabled: tokens.length < 2, onclick: () => { tokens.pop(); live.now(); } }, "Back"),
    el("button", { "data-key": "more", disabled: !more, onclick: () => { tokens.push(more); live.now(); } }, "More")));
  const order = (by) => from(() => { sort = by; });
  const from = (change) => { change(); tokens = [null]; live.now(); };
  const find = el("input", { type: "search", placeholder: "name, label, data set", ariaLabel: "Find", oninput: () => {
    clearTimeout(timer);
    timer = setTimeout(() => from(() => { text = find.value.trim().slice(0, 100); }), 300);
  } });

  function act() {
    const names = [...chosen.values()], ids = [...chosen.keys()];
    bulk.replaceChildren(...ids.length ? [
      el("span", { className: "grow" }, `${ids.length} chosen`),
      ids.length > 1 && ids.length <= MOST ? el("a", { className: "button", href: `#/compare/${ids.join(",")}` }, "Compare") : null,
      el("button", { type: "button", onclick: () => all("Cancel", "What they have found so far is kept.", (id) => post(`/v1/searches/${id}/cancel`)) }, "Cancel"),
      el("button", { type: "button", className: "danger", onclick: () => all("Delete", "Their trials, networks and figures are deleted permanently.", (id) => send("DELETE", `/v1/searches/${id}`)) }, "Delete"),
      el("button", { type: "button", onclick: () => { chosen.clear(); done(); } }, "None"),
    ].filter(Boolean) : []);
    async function all(what, text_, one) {
      if (!(await ask({ title: `${what} ${ids.length === 1 ? names[0] : `${ids.length} searches`}?`, text: text_, ok: what, danger: true }))) return;
      const faults = [];
      for (const id of ids) await one(id).then(() => chosen.delete(id), (error) => faults.push(`${chosen.get(id)}: ${error.message}`));
      if (faults.length) notify(faults.join("\n"));
      done();
    }
  }
  function done() { // unticks what is not chosen any more
    for (const box of body.querySelectorAll("td input")) box.checked = chosen.has(box.value);
    act();
    live.now();
  }

  main.replaceChildren(
    el("div", { className: "row" }, el("h1", { className: "grow" }, "Searches"), find,
      select("State", STATES.map((s) => [s, s || "all"]), state, (value) => from(() => { state = value; })),
      el("a", { className: "button primary", href: "#/new" }, "New search")),
    el("section", { className: "card" }, bulk, body));
  live.every(3, refresh);
}

function empty(sought) {
  if (sought) return el("p", { className: "soft" }, "No such search.");
  return el("p", {}, "No search yet. ", el("a", { href: "#/new" }, "Submit one"), ", or from the command line: ", el("code", {}, "slicemamba submit laptop"));
}

function rows(searches, known, chosen, act, sort, order) {
  const names = { Name: "name", "Data set": "dataset", State: "state", Created: "created_at" };
  const columns = ["Name", "Data set", "State", "Phase", "Progress", "Best", "Left", "Labels", "Created"]
    .map((title) => (names[title] ? sortable(names[title], title, sort, order, { firstDown: title === "Created" }) : { title }));
  return table([{ title: "", content: el("span", { className: "unseen" }, "Choose") }, ...columns], searches.map((s) => {
    const now = s.progress[s.phase];
    const tick = el("input", { type: "checkbox", value: s.id, checked: chosen.has(s.id), ariaLabel: `Choose ${s.name}`, "data-key": `tick ${s.id}`, onchange: () => {
      if (tick.checked) chosen.set(s.id, s.name); else chosen.delete(s.id);
      act();
    } });
    return el("tr", {},
      el("td", {}, tick),
      el("td", {}, el("a", { href: `#/s/${s.id}`, "data-key": s.id }, s.name), el("br"), el("span", { className: "mono soft" }, s.id)),
      el("td", {}, s.dataset),
      el("td", {}, chip(s.state), s.queue_position ? el("span", { className: "soft" }, ` place ${s.queue_position}`) : null, s.warning ? el("div", { className: "wait" }, s.warning) : null),
      el("td", {}, s.phase ? PHASES[s.phase] ?? s.phase : "–"),
      el("td", {}, now ? [el("progress", { max: now.total || 1, value: now.done, ariaLabel: `${now.done} of ${now.total} ${now.unit}` }), el("span", { className: "soft" }, `${now.done} / ${now.total} ${now.unit}`)] : null),
      el("td", { className: "num" }, best(s, known)),
      el("td", {}, s.expected_end_at ? timeLeft(s.expected_end_at) : null),
      el("td", {}, Object.entries(s.labels).map(([k, v]) => `${k}=${v}`).join(", ")),
      el("td", {}, when(s.created_at)));
  }), { className: "stacks" });
}

// The best trial so far, in the search's first objective.
function best(search, known) {
  const [name, value] = Object.entries(search.progress.search?.metrics ?? {}).find(([key]) => key.startsWith("best_")) ?? [];
  return name ? `${known[name.slice(5)]?.title ?? name.slice(5)} ${number(value)}` : "–";
}
