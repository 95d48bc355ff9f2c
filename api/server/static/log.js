// A driver's log, line by line as it is printed.
import { follow } from "./api.js";
import { el } from "./ui.js";

const MOST_LINES = 3000;

export function logBox(url, left) {
  const box = el("pre", { className: "log", tabIndex: 0, role: "log", ariaLabel: "Log of the driver" });
  const state = el("span", { className: "soft" });
  const stick = el("input", { type: "checkbox", checked: true, onchange: () => { if (stick.checked) box.scrollTop = box.scrollHeight; } });
  let reading = null;

  function add(line) {
    box.append(`${line}\n`);
    while (box.childNodes.length > MOST_LINES) box.firstChild.remove();
    if (stick.checked) box.scrollTop = box.scrollHeight;
  }

  async function read(signal) {
    box.replaceChildren();
    state.textContent = "following";
    try {
      await follow(`${url}/logs?follow=true&tail=300`, ({ kind, data }) => (kind === "log" ? add(data.line) : null), signal);
      state.textContent = box.childNodes.length ? "the end" : "nothing was printed";
    } catch (error) {
      if (!signal.aborted) state.textContent = error.message;
    }
  }

  const toggle = (event) => {
    reading?.abort();
    if (!event.target.open) return;
    reading = new AbortController();
    left.addEventListener("abort", () => reading.abort(), { once: true });
    read(reading.signal);
  };
  return el("details", { ontoggle: toggle }, el("summary", {}, "Log of the driver"),
    el("div", { className: "row" }, el("label", { className: "row" }, stick, "Follow the end"), state), box);
}
