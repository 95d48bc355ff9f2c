// Jobs that follow a search: what they do, how far they are, their files and pictures.
import { download, get, newKey, post, send } from "./api.js";
import { reported } from "./plots.js";
import { PHASES, attempt, chip, el, notify, swap, table, timeLeft, when } from "./ui.js";

export const under = (state) => !["SUCCEEDED", "CANCELLED", "FAILED"].includes(state);

// One click starts one job: the button waits for the answer, and a repeated request carries the same key.
export async function start(button, path, body, done) {
  const key = newKey();
  button.disabled = true;
  try {
    const job = await post(path, body, { "Idempotency-Key": key });
    button.disabled = false; // before the page is brought up to date, which may know better
    notify(`${job.kind} is in the queue as ${job.id}`);
    await done(job);
  } catch (error) {
    button.disabled = false;
    notify(error.status === 409 && error.message.includes("not trained") ? "This slicing is not trained yet. Retrain it first; then it can be exported." : error.message);
  }
}

export function showJobs(node, jobs, id, live) {
  // updated_at changes with every round of the service, and is not shown.
  swap(node, jobs.map(({ updated_at, ...rest }) => rest), () => (jobs.length ? rows(jobs, id, live) : el("p", { className: "soft" }, "None so far.")));
}

function rows(jobs, id, live) {
  const columns = ["Job", "Trial", "State", "Progress", "Created", "Files"].map((title) => ({ title }));
  return table(columns, jobs.map((job) => el("tr", {},
    el("td", {}, el("b", {}, job.kind), el("br"), el("span", { className: "mono soft" }, job.id)),
    el("td", {}, job.trial === null ? "–" : job.study === "search" ? el("a", { href: `#/s/${id}/t/${job.trial}`, "data-key": `trial of ${job.id}` }, String(job.trial)) : `${job.trial} (random)`),
    el("td", {}, chip(job.state), job.error || job.message ? el("div", { className: job.error ? "bad" : "soft" }, job.error ?? job.message) : null),
    el("td", {}, progress(job), under(job.state) ? el("button", { type: "button", className: "danger", "data-key": `cancel ${job.id}`, ariaLabel: `Cancel ${job.kind} ${job.id}`, onclick: () => attempt(async () => { await post(`/v1/jobs/${job.id}/cancel`); live.now(); }) }, "Cancel") : null),
    el("td", {}, when(job.created_at)),
    el("td", {}, job.state === "SUCCEEDED" ? files(job, id) : "–"))));
}

function progress(job) {
  const now = job.progress[job.phase];
  if (!now) return null;
  const left = job.expected_end_at ? `, about ${timeLeft(job.expected_end_at)} left` : "";
  const text = `${PHASES[job.phase] ?? job.phase}: ${now.done} / ${now.total} ${now.unit}${left}`;
  return [el("progress", { max: now.total || 1, value: now.done, ariaLabel: text }), el("div", { className: "soft" }, text)];
}

function files(job, id) {
  const list = el("ul", { className: "files" });
  const load = () => attempt(async () => {
    const { artifacts } = await get(`/v1/searches/${id}/artifacts`);
    const ours = artifacts.filter((file) => file.path.startsWith(`${job.folder}/`));
    list.replaceChildren(...ours.map((file) => el("li", {}, el("button", { type: "button", className: "link mono", "data-key": file.path, onclick: () => attempt(() => download(artifact(id, file.path), file.path.split("/").at(-1))) }, file.path.slice(job.folder.length + 1)), el("span", { className: "soft" }, ` ${size(file.size_bytes)}`))));
  });
  return el("details", { "data-key": `files ${job.id}`, ontoggle: (event) => { if (event.target.open && !list.childElementCount) load(); } }, el("summary", { "data-key": `show ${job.id}` }, "Show"), list);
}

const artifact = (id, path) => `/v1/searches/${id}/artifacts/${path.split("/").map(encodeURIComponent).join("/")}`;
const size = (bytes) => (bytes < 1e3 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

async function picture(id, path, alt) {
  const url = URL.createObjectURL(await (await send("GET", artifact(id, path))).blob());
  return el("img", { src: url, alt, onload: () => URL.revokeObjectURL(url) });
}

const DRAWN = {
  "training.png": "Loss and validation score of each training",
  "ranking.png": "Scores with the supernet's weights beside those of networks trained from scratch (audit)",
  "predictions/predictions.png": "Test images: truth and prediction of the chosen network",
};

// The report's figures of the search so far, and what it has drawn; fetched when it is opened.
export function drawings(id) {
  const shown = el("div", { className: "pictures" }), plotted = el("div");
  const load = () => attempt(async () => {
    const [{ figures }, { artifacts }] = await Promise.all([get(`/v1/searches/${id}/figures`), get(`/v1/searches/${id}/artifacts`)]);
    const plots = figures.map((figure) => ({ figure, node: el("div", { className: "plot", role: "figure", ariaLabel: figure.alt, style: `height: ${figure.layout.height}px` }) }));
    plotted.replaceChildren(...plots.map(({ figure, node }) => el("figure", {}, node, el("figcaption", {}, el("b", {}, figure.title), ` ${figure.text}`))));
    for (const { figure, node } of plots) reported(node, figure); // in the page, where they have a width
    const known = Object.entries(DRAWN).filter(([path]) => artifacts.some((file) => file.path === path));
    const pictures = await Promise.all(known.map(async ([path, text]) => el("figure", {}, await picture(id, path, text), el("figcaption", {}, text))));
    shown.replaceChildren(...pictures.length || plots.length ? pictures : [el("p", { className: "soft" }, "Nothing is drawn yet.")]);
  });
  return el("details", { ontoggle: (event) => { if (event.target.open) load(); } }, el("summary", {}, "More figures"), plotted, shown);
}

// Pictures of a finished job, the worst image first. They need the token, so they are fetched, not linked to.
export async function gallery(job, id) {
  const shown = await get(artifact(id, `${job.folder}/figures.json`));
  return Promise.all(shown.map(async ({ image, dice, path }) => el("figure", {}, await picture(id, path, `Image, truth and prediction of ${image}; Dice ${dice.toFixed(3)}`),
    el("figcaption", {}, el("span", { className: "mono" }, image), ` Dice ${dice.toFixed(3)}`))));
}
