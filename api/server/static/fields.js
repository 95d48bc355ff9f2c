// Options of a job as controls of a form, made from the service's own JSON schema.
import { el } from "./ui.js";

// Follows references, and takes "this or null" for this, which may be left out.
export function resolver(schemas) {
  const resolve = ({ $ref, ...rest }) => {
    const schema = $ref ? { ...resolve(schemas[$ref.split("/").at(-1)]), ...rest } : rest;
    if (schema.allOf?.length === 1) return { ...resolve(schema.allOf[0]), ...schema };
    const options = schema.anyOf?.filter((option) => option.type !== "null");
    return options?.length === 1 ? { ...resolve(options[0]), ...schema, nullable: true } : schema;
  };
  return resolve;
}

// A control: what it is on the page, and its value as the job holds it.
export function control(id, schema, choices = schema.enum) {
  const common = { id, "aria-describedby": `${id}-help` };
  if (schema.type === "array" && schema.items?.enum) return boxes(id, schema.items.enum);
  if (schema.type === "boolean" && !schema.nullable) {
    const input = el("input", { ...common, type: "checkbox" });
    return { input, get: () => input.checked, set: (value) => { input.checked = value === true; } };
  }
  const some = choices ?? (schema.type === "boolean" ? [true, false] : null);
  if (some) {
    const none = schema.nullable ? [el("option", { value: "" }, "none")] : [];
    const input = el("select", common, none, some.map((choice) => el("option", { value: String(choice) }, String(choice))));
    return { input, get: () => some.find((choice) => String(choice) === input.value) ?? null, set: (value) => { input.value = String(value ?? ""); } };
  }
  const numeric = ["integer", "number"].includes(schema.type);
  const input = el("input", { ...common, inputMode: numeric ? "decimal" : "text", placeholder: schema.nullable ? "none" : "" });
  return { input, get: () => parse(input.value.trim(), schema), set: (value) => { input.value = shown(value); } };
}

// Several of a few: in the order in which they were chosen.
function boxes(id, options) {
  let chosen = [];
  const inputs = options.map((option) => el("input", { type: "checkbox", id: `${id}-${option}`, onchange: (event) => {
    chosen = event.target.checked ? [...chosen, option] : chosen.filter((other) => other !== option);
  } }));
  const input = el("div", { id, className: "boxes", role: "group", "aria-describedby": `${id}-help` },
    inputs.map((box, i) => el("label", {}, box, ` ${options[i]}`)));
  return { input, group: true, get: () => chosen, set: (value) => {
    chosen = [...(value ?? [])];
    inputs.forEach((box, i) => { box.checked = chosen.includes(options[i]); });
  } };
}

function shown(value) {
  if (value === undefined || value === null) return "";
  const plain = Array.isArray(value) && value.length && value.every((item) => ["string", "number"].includes(typeof item) && !String(item).includes(","));
  return plain ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
}

function parse(text, schema) {
  if (text === "" && (schema.nullable || schema.default === undefined)) return null;
  if (schema.type === "string") return text;
  if (schema.type === "array" && text && !text.startsWith("[")) {
    const items = text.split(",").map((item) => item.trim()).filter(Boolean);
    return schema.items?.type === "string" ? items : items.map(json);
  }
  return json(text);
}

function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // the service says what it expected
  }
}

const KINDS = { array: "list, with commas between", object: "pairs, as JSON", integer: "whole number" };

// What an option means, and its bounds.
export function limits({ description, type, items, minimum, exclusiveMinimum, maximum, exclusiveMaximum }) {
  const bounds = [["≥", minimum], [">", exclusiveMinimum], ["≤", maximum], ["<", exclusiveMaximum]];
  const told = bounds.filter(([, bound]) => bound !== undefined).map(([sign, bound]) => `${sign} ${bound}`);
  return [description?.replaceAll("`", ""), items?.enum ? null : KINDS[type], ...told].filter(Boolean).join(" · ");
}
