// Which page is shown, and the clock that keeps it fresh.
import { onTokenNeeded } from "./api.js";
import { comparePage } from "./compare.js";
import { formPage } from "./form.js";
import { listPage } from "./list.js";
import { searchPage } from "./search.js";
import { trialPage } from "./trial.js";
import { ask, el } from "./ui.js";

let stop = () => {};

const lost = document.getElementById("lost");

function clock(main) {
  const left = new AbortController();
  let timer = null, refresh = async () => {}, seconds = 3, running = false, again = false, stopped = false, shown = false;
  const tick = async () => {
    again = running; // asked for meanwhile: what is on its way may be too old
    if (running || stopped) return;
    running = true;
    clearTimeout(timer);
    try {
      await refresh();
      if (!stopped) {
        say("");
        shown = true;
        main.ariaBusy = false;
      }
    } catch (error) {
      if (!stopped) failed(error);
    }
    running = false;
    if (!stopped) timer = setTimeout(tick, again ? 0 : 1000 * seconds * (document.hidden ? 10 : 1));
  };
  // Before anything was shown there is nothing to keep: what does not exist is told in its place.
  const failed = (error) => {
    if (shown || error.status === 0 || error.status >= 500) return say(error.message);
    stopped = true;
    return wrong(main, error);
  };
  return {
    every: (s, action) => { seconds = s; refresh = action; return tick(); },
    now: () => { clearTimeout(timer); return tick(); },
    slow: () => { seconds = 30; },
    quick: () => { seconds = 3; },
    left: left.signal, // aborted when the page is left
    stop: () => { stopped = true; clearTimeout(timer); left.abort(); },
  };
}

function say(text) {
  lost.textContent = text && `${text}; retrying. The page may be out of date.`;
  lost.hidden = !text;
}

function wrong(main, error) {
  main.ariaBusy = false;
  main.replaceChildren(el("section", { className: "card" }, el("h1", {}, error.status === 404 ? "Not found" : "This page cannot be shown"),
    el("p", {}, error.message.split("; GET ")[0]), el("a", { href: "#/" }, "All searches")));
}

async function show() {
  stop();
  say("");
  const main = document.getElementById("main");
  const live = clock(main);
  stop = live.stop;
  const [, page, id, kind, n] = location.hash.split("/");
  const title = page === "new" ? "New search" : kind === "t" ? `Trial ${n} of ${id}` : page === "s" ? `Search ${id}` : page === "compare" ? "Comparison" : "Searches";
  document.title = `${title} · SliceMamba NAS`;
  for (const link of document.querySelectorAll(".top nav a")) link.ariaCurrent = link.hash === (page === "new" ? "#/new" : "#/") ? "page" : null;
  main.replaceChildren();
  main.ariaBusy = true; // “Loading …” until the first answer
  try {
    if (page === "new") await formPage(main, live, id);
    else if (page === "compare") comparePage(main, live, id.split(","));
    else if (page === "s" && kind === "t") trialPage(main, live, id, n);
    else if (page === "s") searchPage(main, live, id);
    else listPage(main, live);
  } catch (error) {
    if (!live.left.aborted) wrong(main, error);
  }
  main.focus({ preventScroll: true });
}

let asking = null;
onTokenNeeded((detail) => {
  asking ??= ask({ title: "Access token", text: detail, ok: "Continue", input: "", secret: true }).finally(() => { asking = null; });
  return asking;
});

const theme = document.getElementById("theme");
const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
theme.addEventListener("click", () => {
  localStorage.theme = document.documentElement.dataset.theme = dark() ? "light" : "dark";
  show();
});
addEventListener("hashchange", show);
show();
