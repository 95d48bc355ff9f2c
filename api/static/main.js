// Which page is shown, and the clock that keeps it fresh.
import { onTokenNeeded } from "./api.js";
import { formPage } from "./form.js";
import { listPage } from "./list.js";
import { searchPage } from "./search.js";
import { trialPage } from "./trial.js";
import { ask, el, notify } from "./ui.js";

let stop = () => {};

function clock() {
  const left = new AbortController();
  let timer = null, refresh = async () => {}, seconds = 3, running = false, again = false, stopped = false, told = false;
  const tick = async () => {
    again = running; // asked for meanwhile: what is on its way may be too old
    if (running || stopped) return;
    running = true;
    clearTimeout(timer);
    try {
      await refresh();
      told = false;
    } catch (error) {
      if (!told && !stopped) notify(error.message);
      told = true;
    }
    running = false;
    if (!stopped) timer = setTimeout(tick, again ? 0 : 1000 * seconds * (document.hidden ? 10 : 1));
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

async function show() {
  stop();
  const live = clock();
  stop = live.stop;
  const main = document.getElementById("main");
  const [, page, id, kind, n] = location.hash.split("/");
  document.title = "SliceMamba NAS";
  main.replaceChildren(el("p", { className: "soft" }, "Loading …"));
  try {
    if (page === "new") await formPage(main);
    else if (page === "s" && kind === "t") trialPage(main, live, id, n);
    else if (page === "s") searchPage(main, live, id);
    else listPage(main, live);
  } catch (error) {
    main.replaceChildren(el("p", { className: "bad" }, error.message));
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
