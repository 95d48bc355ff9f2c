// Requests to the service, with the token that the user gave for this tab.

class Problem extends Error {
  constructor(status, body) {
    const findings = (body.errors ?? []).map((e) => `${e.pointer ?? e.parameter ?? ""}: ${e.detail}`);
    super([body.detail ?? `the service answered ${status}`, ...findings.filter((f) => !(body.detail ?? "").includes(f))].join("\n"));
    this.status = status;
    this.errors = body.errors ?? [];
  }
}

const KEY = "slicemamba-token";
let askForToken = async () => null;
export const onTokenNeeded = (ask) => { askForToken = ask; };

// Below the page's own folder, wherever a proxy shows it.
const place = (path) => new URL(path.slice(1), new URL(".", document.baseURI)).href;

export async function send(method, path, body, headers = {}, signal = undefined) {
  const token = sessionStorage.getItem(KEY);
  const options = { method, headers: { ...headers }, signal };
  if (token) options.headers.Authorization = `Bearer ${token}`;
  if (typeof body === "string") options.body = body; // its kind stands in the headers
  else if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(place(path), options);
  } catch {
    throw new Problem(0, { detail: "the service does not answer" });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) {
    const given = await askForToken(problem.detail);
    if (given) {
      sessionStorage.setItem(KEY, given);
      return send(method, path, body, headers, signal);
    }
  }
  throw new Problem(response.status, problem);
}

export const get = async (path) => (await send("GET", path)).json();
// What does not change while a page is open is asked for once.
const lasting = (ask) => {
  let answer = null;
  return () => {
    answer ??= ask();
    answer.catch(() => { answer = null; });
    return answer;
  };
};
export const version = lasting(() => get("/v1/version"));
// All objectives by name: what they are called, their units and directions.
export const objectives = lasting(async () => Object.fromEntries((await get("/v1/objectives")).objectives.map((o) => [o.name, o])));
const getText = async (path) => (await send("GET", path)).text();
export const post = async (path, body, headers) => (await send("POST", path, body, headers)).json();

// For what may be asked for again, and is to be made once.
export const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("-");

// Server-sent events, read by fetch, as EventSource could not carry the token. A broken stream is taken up after the
// last event; returns at the event `end`, or when `signal` stops it.
export async function follow(path, onEvent, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const response = await send("GET", path, undefined, headers, signal);
      for await (const event of events(response.body)) {
        last = event.id ?? last;
        onEvent(event);
        if (event.kind === "end") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500) throw error;
    }
    await new Promise((go) => setTimeout(go, 2000));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").filter((line) => !line.startsWith(":")).map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trimStart()]));
      if (fields.data) yield { id: fields.id ?? null, kind: fields.event ?? "message", data: JSON.parse(fields.data) };
    }
  }
}

export function query(values) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") params.append(name, one);
  return params.size ? `?${params}` : "";
}

// Fetched with the token, then handed to the browser: a plain link could not carry it.
export async function download(path, name) {
  const url = URL.createObjectURL(await (await send("GET", path)).blob());
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

// A page of a run goes to a window without an origin: its scripts run there, and reach neither the service nor the token.
export async function openPage(path) {
  const shown = window.open(place("/view"), "_blank");
  if (!shown) throw new Problem(0, { detail: "the browser blocked a new window; allow pop-ups for this page" });
  const ready = new Promise((go) => {
    addEventListener("message", function hear(event) {
      if (event.source !== shown) return;
      removeEventListener("message", hear);
      go();
    });
  });
  try {
    const page = await getText(path);
    await ready;
    shown.postMessage(page, "*");
  } catch (error) {
    shown.close();
    throw error;
  }
}
