// A new search: the form is made from the service's own JSON schema, so it knows every option there is.
import { get, newKey, post } from "./api.js";
import { attempt, el, notify, rough } from "./ui.js";

const FIRST = ["data", "search"]; // come first and are open at once; the rest behind a click
const HIDDEN = ["kind", "root"];

export async function formPage(main, live) {
  const [document_, { datasets }] = await Promise.all([get("/openapi.json"), get("/v1/datasets")]);
  if (live.left.aborted) return; // another page is shown by now
  const schemas = document_.components.schemas;
  const resolve = (schema) => {
    if (schema.$ref) return { ...resolve(schemas[schema.$ref.split("/").at(-1)]), ...withoutRef(schema) };
    if (schema.allOf?.length === 1) return { ...resolve(schema.allOf[0]), ...schema };
    const options = schema.anyOf?.filter((option) => option.type !== "null");
    return options?.length === 1 ? { ...resolve(options[0]), ...schema, nullable: true } : schema;
  };
  const body = document_.paths["/v1/searches"].post.requestBody.content["application/json"].schema;
  const root = resolve(body);
  const fields = [];
  const form = el("form", { noValidate: true, onsubmit: (event) => { event.preventDefault(); submit(); } });
  const report = el("div", { ariaLive: "polite" });
  const cost = el("p", { className: "cost", ariaLive: "polite" });

  function section(name, schema, path, open) {
    const inner = Object.entries(schema.properties).filter(([key]) => !HIDDEN.includes(key)).map(([key, child]) => {
      const resolved = resolve(child);
      return resolved.properties ? el("div", { style: "grid-column:1/-1" }, section(key, resolved, [...path, key], false)) : field(key, resolved, [...path, key]);
    });
    const box = el("fieldset", {}, el("legend", {}, name), inner);
    return open ? box : el("details", {}, el("summary", {}, name), box);
  }

  function field(key, schema, path) {
    const id = `f-${path.join("-")}`;
    const choices = path.join("/") === "data/name" ? datasets : schema.enum;
    const value = schema.default;
    const shown = value === undefined || value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    const common = { id, "aria-describedby": `${id}-help` };
    let input;
    if (choices) input = el("select", common, choices.map((c) => el("option", { value: c, selected: String(c) === shown }, String(c))));
    else if (schema.type === "boolean") input = el("input", { ...common, type: "checkbox", checked: value === true });
    else input = el("input", { ...common, value: shown, inputMode: ["integer", "number"].includes(schema.type) ? "decimal" : "text", placeholder: schema.nullable ? "none" : "" });
    const fault = el("span", { className: "bad", role: "alert" });
    fields.push({ path, schema, input, fault, before: read(input) });
    const told = limits(schema);
    const help = el("small", { id: `${id}-help`, title: told }, told);
    return el("div", { className: input.type === "checkbox" ? "field check" : "field" }, input.type === "checkbox" ? [input, el("label", { htmlFor: id }, key)] : [el("label", { htmlFor: id }, key), input], help, fault);
  }

  // Only what differs from the defaults is sent: a later version's defaults stay its own.
  function job() {
    const result = {};
    for (const { path, schema, input, before } of fields) {
      const value = read(input);
      if (value === before && path.join("/") !== "data/name") continue;
      let node = result;
      for (const key of path.slice(0, -1)) node = node[key] ??= {};
      node[path.at(-1)] = parse(value, schema);
    }
    return result;
  }

  async function checked(action) {
    for (const { fault } of fields) fault.textContent = "";
    report.replaceChildren();
    try {
      return await action(job());
    } catch (error) {
      const untold = (error.errors ?? []).filter(({ pointer, detail }) => {
        const found = fields.find(({ path }) => pointer && (pointer === `/${path.join("/")}` || pointer.startsWith(`/${path.join("/")}/`)));
        if (found) { found.fault.textContent = detail; found.input.closest("details")?.setAttribute("open", ""); }
        return !found;
      });
      report.replaceChildren(el("pre", { className: "log bad" }, untold.length || !error.errors?.length ? error.message : "Some options need another value; see above."));
      return undefined;
    }
  }

  // One key for one body: a double click makes one search, a corrected form another.
  const keys = new Map();
  const keyOf = (values) => {
    const text = JSON.stringify(values);
    if (!keys.has(text)) keys.set(text, newKey());
    return keys.get(text);
  };
  const submit = () => checked(async (values) => {
    const search = await post("/v1/searches", values, { "Idempotency-Key": keyOf(values) });
    notify(`${search.name} is in the queue`);
    location.hash = `#/s/${search.id}`;
  });
  const check = () => checked(async (values) => {
    const found = await post("/v1/searches/validate", values);
    const images = Object.entries(found.data.num_images ?? {}).map(([split, n]) => `${n} ${split}`).join(", ");
    tell(found);
    report.replaceChildren(el("p", {}, `This can run: ${n(found.evaluations)} evaluations of ${n(found.space_size)} slicings; images: ${images}. `
      + `Training processes ${n(found.images_trained)} images in total, evaluation ${n(found.images_evaluated)}.`));
  });

  // What it will take, told while the options are chosen; faults are told when it is checked or submitted.
  let asked = 0, timer = null;
  const tell = ({ estimate, advice }) => {
    cost.replaceChildren(...advice.map((sentence) => el("span", { className: "bad" }, `${sentence}. `)), el("b", {}, `About ${rough(estimate.device_hours)} of worker time`), ` (${rough(estimate.device_hours_low)} … ${rough(estimate.device_hours_high)}), `
      + `${n(estimate.num_evaluations)} evaluations, ${n(Math.ceil(estimate.memory_mb))} MiB of memory per training worker. `, el("span", { className: "soft" }, estimate.basis));
  };
  const preview = async () => {
    const mine = ++asked;
    const found = await post("/v1/searches/validate", job()).catch(() => null);
    if (mine !== asked) return;
    if (found) tell(found);
    else cost.replaceChildren(el("span", { className: "soft" }, "The estimate appears once all options are valid."));
  };
  form.addEventListener("change", () => { clearTimeout(timer); timer = setTimeout(preview, 400); });

  const groups = Object.entries(root.properties).filter(([name]) => !HIDDEN.includes(name)).map(([name, child]) => [name, resolve(child)]);
  const plain = groups.filter(([, schema]) => !schema.properties);
  const nested = groups.filter(([, schema]) => schema.properties);
  nested.sort(([one], [other]) => FIRST.includes(other) - FIRST.includes(one));
  form.append(el("fieldset", {}, el("legend", {}, "general"), plain.map(([name, schema]) => field(name, schema, [name]))),
    ...nested.map(([name, schema]) => section(name, schema, [name], FIRST.includes(name))),
    cost, report, el("div", { className: "row" }, el("button", { className: "primary" }, "Submit"), el("button", { type: "button", onclick: () => attempt(check) }, "Check without starting")));
  form.className = "card";
  form.style.cssText = "display:grid;gap:.9rem";
  const small = Object.values(document_.paths["/v1/searches"].post.requestBody.content["application/json"].examples)[0].value;
  const fillIn = () => {
    for (const { path, input } of fields) {
      const value = path.reduce((node, key) => node?.[key], small);
      if (value !== undefined) input.value = typeof value === "object" ? JSON.stringify(value) : String(value);
    }
    preview();
  };
  main.ariaBusy = false;
  main.replaceChildren(
    el("div", { className: "row" }, el("h1", { className: "grow" }, "New search"), el("button", { type: "button", onclick: fillIn }, "Fill in a small search")),
    el("p", { className: "soft" }, "Every option shows its default: the published network and search, which are meant for GPUs. Lists are written as JSON: [\"dice\", \"hd95\"]."), form);
  preview();
}

const n = (value) => Number(value).toLocaleString("en");

function withoutRef({ $ref, ...rest }) {
  return rest;
}

const read = (input) => (input.type === "checkbox" ? input.checked : input.value.trim());

function parse(value, schema) {
  if (typeof value === "boolean") return value;
  if (value === "" && schema.nullable) return null;
  if (schema.type === "string" || schema.enum) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value; // the service says what it expected
  }
}

const KINDS = { array: "list", object: "pairs", integer: "whole number" };

function limits({ description, type, minimum, exclusiveMinimum, maximum, exclusiveMaximum }) {
  const bounds = [["≥", minimum], [">", exclusiveMinimum], ["≤", maximum], ["<", exclusiveMaximum]];
  const told = bounds.filter(([, bound]) => bound !== undefined).map(([sign, bound]) => `${sign} ${bound}`);
  return [description?.replaceAll("`", ""), KINDS[type], ...told].filter(Boolean).join(" · ");
}
