// Small pieces of page. All text goes in as text, never as HTML.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && name !== "form") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Puts new content in only where what it shows has changed, so that a selection stays. In any case the focus stays, on
// what has the same `data-key`, and so do open details that have one.
const shown = new WeakMap();
export function swap(node, data, make) {
  const text = JSON.stringify(data);
  if (shown.get(node) === text) return;
  shown.set(node, text);
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = node.querySelectorAll("details[open][data-key]");
  const find = (key) => node.querySelector(`[data-key="${CSS.escape(key)}"]`);
  node.replaceChildren(...[make()].flat());
  for (const details of open) find(details.dataset.key)?.replaceWith(details);
  if (focused) find(focused)?.focus({ preventScroll: true });
}

export const chip = (state) => el("span", { className: `chip ${state}` }, state);

export function notify(text) {
  const box = document.getElementById("notice");
  const line = el("div", {}, text);
  box.append(line);
  setTimeout(() => line.remove(), 8000);
}

// Runs an action of the user's and tells what went wrong with it.
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    notify(error.message);
    return undefined;
  }
}

let settle = () => {}; // the question that the dialog shows
export function ask({ title, text, ok, input = null, secret = false, danger = false }) {
  const dialog = document.getElementById("ask");
  const field = document.getElementById("ask-input");
  const button = document.getElementById("ask-ok");
  settle(null); // there is one dialog: what is asked over another question must not answer that
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-text").textContent = text;
  field.hidden = input === null;
  field.value = input ?? "";
  field.type = secret ? "password" : "text";
  field.setAttribute("aria-label", title);
  button.textContent = ok;
  button.className = danger ? "danger" : "primary";
  dialog.returnValue = "";
  document.getElementById("ask-back").onclick = () => dialog.close(); // not a submit button: Enter means OK, not the first
  if (dialog.open) field.focus();
  else dialog.showModal();
  return new Promise((resolve) => {
    settle = resolve;
    dialog.onclose = () => resolve(dialog.returnValue === "ok" ? (input === null ? true : field.value.trim()) : null);
  });
}

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

// Operations and parameters: 317 M, not 317,400,000.
export function count(value) {
  if (value === null || value === undefined) return "–";
  const [unit, size] = [["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, s]) => value >= s) ?? ["", 1];
  return `${Number((value / size).toPrecision(3))} ${unit}`.trim();
}

export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// To a moment as the service writes it.
export const timeLeft = (text) => duration(Math.max(0, (new Date(text) - new Date()) / 1000));

// Today's by the clock alone.
export const clockTime = (moment) => moment.toDateString() === new Date().toDateString()
  ? moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : moment.toLocaleString([], { dateStyle: "short", timeStyle: "short" });

export const when = (text) => (text ? new Date(text).toLocaleString() : "–");

// On a phone, rows of a table that `stacks` become blocks. One without links is reached by the keyboard under a name of
// its own, so that it can be scrolled.
export function table(columns, rows, { caption, className = "", reach = null } = {}) {
  return el("div", { className: "scroll", tabIndex: reach ? 0 : null, role: reach ? "group" : null, ariaLabel: reach },
    el("table", { className },
      caption ? el("caption", { className: "soft" }, caption) : null,
      el("thead", {}, el("tr", {}, columns.map((c) => el("th", { scope: "col", className: c.num ? "num" : "", ariaSort: c.sorted ?? null }, c.content ?? c.title)))),
      el("tbody", {}, rows)));
}

// A column by which a table can be sorted: `sort` is the name of one, with - in front from the highest value down.
export function sortable(name, title, sort, order, { num = false, firstDown = false } = {}) {
  const sorted = sort === name ? "ascending" : sort === `-${name}` ? "descending" : null;
  const next = sorted === (firstDown ? "descending" : "ascending") ? !firstDown : firstDown;
  return { num, sorted, content: el("button", { type: "button", "data-key": `sort ${name}`, onclick: () => order(next ? `-${name}` : name) }, `${title} ${sorted ? (sorted === "ascending" ? "▲" : "▼") : ""}`) };
}

export function select(label, options, value, onchange) {
  return el("label", { className: "row" }, el("span", { className: "soft" }, label),
    el("select", { "data-key": `select ${label}`, onchange: (event) => onchange(event.target.value) },
      options.map(([key, text]) => el("option", { value: key, selected: key === value }, text))));
}

// For what is known roughly only.
export function rough(hours) {
  const digits = (value) => (value < 10 ? Number(value.toPrecision(1)) : Math.round(value)).toLocaleString("en");
  return hours < 1 ? `${digits(hours * 60)} min` : `${digits(hours)} h`;
}

export const PHASES = { check: "Check", supernet: "Supernet", survey: "Survey", search: "Search", random: "Random baseline", finals: "Finals", retrain: "Retrain", evaluate: "Test", baselines: "Baselines", audit_search: "Random searches", audit_front: "Intervals of the frontier", audit_retrain: "Retrain a sample", export: "Export", figures: "Draw" };
