// Which network of the frontier to take for a budget.
import { get, query } from "./api.js";
import { attempt, el, number } from "./ui.js";

export function pickForm(url, id, measured, known) {
  const metric = el("select", { ariaLabel: "what is limited" }, measured.map((name) => el("option", { value: name }, `${known[name].title} ${atMost(known[name]) ? "at most" : "at least"}`)));
  const limit = el("input", { ariaLabel: "limit", required: true, size: 8, placeholder: "20, 2M …" });
  const said = el("p", { role: "status" });
  const look = async () => {
    const bound = `${metric.value}=${limit.value.trim()}`;
    const found = await get(`${url}/pick${query(atMost(known[metric.value]) ? { max: bound } : { min: bound })}`).catch((error) => {
      said.replaceChildren(error.message);
      return null;
    });
    if (found) said.replaceChildren(...sentence(id, found, known));
  };
  return el("div", {}, el("form", { className: "row", onsubmit: (event) => { event.preventDefault(); attempt(look); } },
    el("span", { className: "soft" }, "Best network with"), metric, limit, el("button", {}, "Pick")), said);
}

const atMost = (objective) => objective.direction === "minimize";

function sentence(id, { trial, best, lost }, known) {
  const values = Object.keys(lost).map((name) => `${known[name].title} ${number(trial.metrics[name])}`).join(", ");
  const less = Object.entries(lost).map(([name, value]) => `${value > 0 ? "+" : ""}${number(value, 3)} ${known[name].title}`).join(", ");
  return [el("a", { href: `#/s/${id}/t/${trial.number}` }, `Trial ${trial.number}`), `: ${values}`,
    trial.number === best ? "; it is the best of all" : `; beside the best, trial ${best}: ${less}`];
}
