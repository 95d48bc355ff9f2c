// All searches, newest first.
import { get, query } from "./api.js";
import { PHASES, chip, el, select, table, timeLeft, when } from "./ui.js";

const STATES = ["", "QUEUED", "STARTING", "RUNNING", "PAUSED", "CANCELLING", "SUCCEEDED", "CANCELLED", "FAILED"];

export function listPage(main, live) {
  let state = "";
  let tokens = [null];
  const body = el("div");
  const refresh = async () => {
    const page = await get(`/v1/searches${query({ state, page_size: 25, page_token: tokens.at(-1) })}`);
    body.replaceChildren(page.searches.length ? rows(page.searches) : empty(state), pager(page));
  };
  const pager = (page) => (tokens.length < 2 && !page.next_page_token ? "" : el("div", { className: "row pager" },
    el("button", { disabled: tokens.length < 2, onclick: () => { tokens.pop(); live.now(); } }, "Newer"),
    el("button", { disabled: !page.next_page_token, onclick: () => { tokens.push(page.next_page_token); live.now(); } }, "Older")));
  main.replaceChildren(
    el("div", { className: "row" }, el("h1", { className: "grow" }, "Searches"),
      select("State", STATES.map((s) => [s, s || "all"]), state, (value) => { state = value; tokens = [null]; live.now(); }),
      el("a", { className: "button primary", href: "#/new" }, "New search")),
    el("section", { className: "card" }, body));
  live.every(3, refresh);
}

function empty(state) {
  if (state) return el("p", { className: "soft" }, `No search is ${state}.`);
  return el("p", {}, "No search yet. ", el("a", { href: "#/new" }, "Submit one"), ", or from the command line: ", el("code", {}, "slicemamba submit laptop"));
}

function rows(searches) {
  const columns = ["Name", "State", "Phase", "Progress", "Left", "Labels", "Created"].map((title) => ({ title }));
  return table(columns, searches.map((s) => {
    const now = s.progress[s.phase];
    return el("tr", {},
      el("td", {}, el("a", { href: `#/s/${s.id}` }, s.name), el("br"), el("span", { className: "mono soft" }, s.id)),
      el("td", {}, chip(s.state), s.queue_position ? el("span", { className: "soft" }, ` place ${s.queue_position}`) : null, s.warning ? el("div", { className: "wait" }, s.warning) : null),
      el("td", {}, s.phase ? PHASES[s.phase] ?? s.phase : "–"),
      el("td", {}, now ? [el("progress", { max: now.total || 1, value: now.done, ariaLabel: `${now.done} of ${now.total} ${now.unit}` }), el("span", { className: "soft" }, `${now.done} / ${now.total} ${now.unit}`)] : null),
      el("td", {}, s.expected_end_at ? timeLeft(s.expected_end_at) : null),
      el("td", {}, Object.entries(s.labels).map(([k, v]) => `${k}=${v}`).join(", ")),
      el("td", {}, when(s.created_at)));
  }), { className: "stacks" });
}
