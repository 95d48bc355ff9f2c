// A new search: from a preset, an earlier search or a file; eight options first, and every other one below them.
import { get, newKey, post, send } from "./api.js";
import { control, limits, resolver } from "./fields.js";
import { ask, attempt, el, notify, rough } from "./ui.js";

const FIRST = {
  name: "Name", "data/name": "Data set", "data/image_size": "Image size (height, width)", "model/embed_dim": "Width of the network",
  "supernet/epochs": "Epochs of the supernet", "search/num_trials": "Candidates", "search/objectives": "Objectives", "retrain/epochs": "Epochs of the chosen network",
};
const HIDDEN = ["kind", "root"];
const LONG = 24; // hours of worker time, from which on it is asked whether this is meant

export async function formPage(main, live, from) {
  const [document_, { datasets }, { presets }, earlier] = await Promise.all(
    [get("/openapi.json"), get("/v1/datasets"), get("/v1/presets"), from ? get(`/v1/searches/${from}`) : null]);
  if (live.left.aborted) return; // another page is shown by now
  const resolve = resolver(document_.components.schemas);
  const root = resolve(document_.paths["/v1/searches"].post.requestBody.content["application/json"].schema);
  const form = el("form", { noValidate: true, onsubmit: (event) => { event.preventDefault(); submit(); } });
  const report = el("div", { ariaLive: "polite" });
  const cost = el("p", { className: "cost", ariaLive: "polite" });
  const fields = [], switches = []; // options, and parts that can be left out

  function section(key, schema, path) {
    const inner = Object.entries(schema.properties).filter(([name]) => !HIDDEN.includes(name)).map(([name, child]) => {
      const resolved = resolve(child);
      const own = [...path, name];
      return resolved.properties ? el("div", { className: "whole" }, section(name, resolved, own)) : own.join("/") in FIRST ? null : field(own, resolved);
    });
    const box = el("fieldset", { ariaLabel: path.join(".") }, schema.nullable ? el("div", { className: "whole" }, onOff(path, schema)) : null, inner);
    return el("details", {}, el("summary", {}, key), box);
  }

  function onOff(path, schema) {
    const input = el("input", { type: "checkbox" });
    const set = (on) => { input.checked = on; };
    switches.push({ path, input, usual: Boolean(schema.default), set });
    return el("label", {}, input, ` with ${path.at(-1)}`);
  }

  function field(path, schema) {
    const where = path.join("/"), id = `f-${path.join("-")}`;
    const one = control(id, schema, where === "data/name" ? datasets : schema.enum);
    const fault = el("span", { className: "bad", role: "alert" });
    one.input.addEventListener("input", () => { fault.textContent = ""; });
    fields.push({ path, where, schema, fault, usual: schema.default, ...one });
    const label = el(one.group ? "span" : "label", one.group ? { id: `${id}-label` } : { htmlFor: id }, FIRST[where] ?? path.at(-1));
    if (one.group) one.input.setAttribute("aria-labelledby", `${id}-label`);
    const help = el("small", { id: `${id}-help` }, limits(schema));
    const tick = one.input.type === "checkbox";
    return el("div", { className: tick ? "field check" : "field" }, tick ? [one.input, label] : [label, one.input], help, fault);
  }

  const schemaAt = (where) => where.split("/").reduce((schema, key) => resolve(schema.properties[key]), root);
  const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
  const off = (path) => switches.some((one) => !one.input.checked && one.path.every((key, i) => path[i] === key));

  // Only what differs from the defaults is sent: a later version's defaults stay its own, and a recipe fills in its.
  function job() {
    const result = {};
    const put = (path, value) => { path.slice(0, -1).reduce((node, key) => (node[key] ??= {}), result)[path.at(-1)] = value; };
    for (const { path, input, usual } of switches) if (input.checked !== usual) put(path, input.checked ? {} : null);
    for (const { path, where, get: value, usual } of fields)
      if (!off(path) && (where === "data/name" || !same(value(), usual))) put(path, value());
    return result;
  }

  // Puts a job's options in, and the defaults everywhere else.
  function load(values) {
    const found = (path) => path.reduce((node, key) => (node === null ? null : node?.[key]), values);
    for (const one of switches) one.set(found(one.path) === undefined ? one.usual : found(one.path) !== null);
    for (const one of fields) {
      one.usual = one.schema.default;
      one.fault.textContent = "";
      const value = found(one.path);
      one.set(value === undefined || (value === null && !one.schema.nullable) ? one.usual : value);
    }
    report.replaceChildren();
    return preview();
  }

  // A recipe changes defaults of other options: those that are not set by hand show what they will be.
  function showDefaults(spec) {
    for (const one of fields) {
      const value = one.path.reduce((node, key) => node?.[key], spec);
      if (value === undefined || !same(one.get(), one.usual)) continue;
      one.usual = value;
      if (document.activeElement !== one.input) one.set(value);
    }
  }

  async function checked(action) {
    for (const { fault } of fields) fault.textContent = "";
    report.replaceChildren();
    try {
      return await action(job());
    } catch (error) {
      const untold = (error.errors ?? []).filter(({ pointer, detail }) => {
        const one = fields.find(({ where }) => pointer && (pointer === `/${where}` || pointer.startsWith(`/${where}/`)));
        if (one) { one.fault.textContent = detail; open(one.input); }
        return !one;
      });
      report.replaceChildren(el("pre", { className: "log bad" }, untold.length || !error.errors?.length ? error.message : "Some options need another value; see above."));
      return undefined;
    }
  }

  const open = (node) => { for (let box = node.closest("details"); box; box = box.parentElement.closest("details")) box.open = true; };

  // One key for one body: a double click makes one search, a corrected form another.
  const keys = new Map();
  const keyOf = (values) => {
    const text = JSON.stringify(values);
    if (!keys.has(text)) keys.set(text, newKey());
    return keys.get(text);
  };
  const submit = () => checked(async (values) => {
    const { estimate } = await post("/v1/searches/validate", values);
    if (estimate.device_hours > LONG && !await ask({ title: "Is this meant?", text: `It would take about ${rough(estimate.device_hours)} of worker time.`, ok: "Submit" })) return;
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

  // What the images ask for, put in with the reasons beside.
  const propose = () => checked(async (values) => {
    const { proposed } = await post("/v1/searches/validate", values);
    if (!proposed.length) {
      report.replaceChildren(el("p", {}, "The images of this set have not been decoded yet, so nothing is known of them: a search does so first, and so does ", el("code", {}, "slicemamba data check FOLDER"), "."));
      return;
    }
    for (const { option, value } of proposed) {
      const one = fields.find(({ path }) => path.join(".") === option);
      one.set(value);
      open(one.input);
    }
    await preview();
    report.replaceChildren(el("h2", {}, "Proposed from the data"), el("dl", {}, proposed.flatMap(({ option, value, reason }) => [el("dt", {}, `${option}: ${JSON.stringify(value)}`), el("dd", { className: "soft" }, reason)])));
  });

  // A file as `slicemamba search` takes it; the service reads it, and says what it does not take.
  const fromFile = (input) => checked(async () => {
    const [file] = input.files, text = await file.text();
    input.value = ""; // so that it can be chosen again when it is mended
    const found = await (await send("POST", "/v1/searches/validate", text, { "Content-Type": "application/yaml" })).json();
    await load(found.spec);
    notify(`${file.name} is put in`);
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
    if (!found) return void cost.replaceChildren(el("span", { className: "soft" }, "The estimate appears once all options are valid."));
    showDefaults(found.spec);
    tell(found);
  };
  form.addEventListener("change", () => { clearTimeout(timer); timer = setTimeout(preview, 400); });

  const parts = Object.entries(root.properties).filter(([name]) => !HIDDEN.includes(name)).map(([name, child]) => [name, resolve(child)]);
  const first = Object.keys(FIRST).map((where) => field(where.split("/"), schemaAt(where)));
  const general = parts.filter(([name, schema]) => !schema.properties && !(name in FIRST)).map(([name, schema]) => field([name], schema));
  form.append(el("fieldset", { ariaLabel: "Search" }, first),
    el("details", {}, el("summary", {}, "Advanced"), el("div", { className: "parts" }, el("details", {}, el("summary", {}, "general"), el("fieldset", { ariaLabel: "general" }, general)),
      parts.filter(([, schema]) => schema.properties).map(([name, schema]) => section(name, schema, [name])))),
    cost, report, el("div", { className: "row" }, el("button", { className: "primary" }, "Submit"), el("button", { type: "button", onclick: () => attempt(check) }, "Check without starting"),
      el("button", { type: "button", onclick: () => attempt(propose) }, "Propose from the data")));
  form.className = "card form";

  const own = earlier ? [["", `the search “${earlier.name}”`]] : [];
  const file = el("input", { type: "file", accept: ".yaml,.yml,.json", hidden: true, ariaLabel: "Job as YAML or JSON", onchange: () => attempt(() => fromFile(file)) });
  const start = el("select", { id: "start", onchange: () => load(start.value ? presets.find(({ name }) => name === start.value).job : earlier.spec) },
    own.map(([value, text]) => el("option", { value }, text)), presets.map(({ name, title }) => el("option", { value: name, title }, name)));
  main.ariaBusy = false;
  main.replaceChildren(
    el("div", { className: "row" }, el("h1", { className: "grow" }, "New search"), el("label", { htmlFor: "start", className: "soft" }, "Start from"), start,
      file, el("button", { type: "button", onclick: () => file.click() }, "Open a file…")), form);
  await load(earlier ? earlier.spec : presets[0].job);
}

const n = (value) => Number(value).toLocaleString("en");
