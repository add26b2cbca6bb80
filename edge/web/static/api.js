// The daemon's answers. Everything goes to our own origin; what it cannot answer is said, never made up.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const TIMEOUT_MS = 10000;
const state = { online: null };

/** Fires "online" and "offline" when that changes, "verdict", "review", "status" as the daemon says them. */
export const news = new EventTarget();

function tell(online) {
  if (state.online === online) return;
  state.online = online;
  news.dispatchEvent(new Event(online ? "online" : "offline"));
}

export function address(path, query = {}) {
  const wanted = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const text = new URLSearchParams(wanted).toString();
  return text ? `${path}?${text}` : path;
}

export async function ask(path, query = {}, options = {}) {
  let answer;
  try {
    answer = await fetch(address(path, query), { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  } catch (error) {
    tell(false);
    throw new ApiError(error.name === "TimeoutError" ? "the daemon does not answer in time" : "the daemon does not answer", 0);
  }
  tell(true);
  const body = (answer.headers.get("content-type") ?? "").includes("json") ? await answer.json() : await answer.text();
  const fine = answer.ok || (options.evenIf ?? []).includes(answer.status);
  if (!fine) throw new ApiError(body?.error ?? reading(answer.status), answer.status);
  return body;
}

const reading = (status) =>
  (status === 404 ? "this daemon does not offer that" : status === 401 ? "the daemon wants its token" : `the daemon answered ${status}`);

export const post = (path, body) =>
  ask(path, {}, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

const part = encodeURIComponent;
export const picture = (id, layer, max) => address(`api/v1/verdicts/${part(id)}/picture/${layer}`, { max });
export const tile = (id, layer, z, x, y) => `api/v1/verdicts/${part(id)}/tile/${layer}/${z}/${x}/${y}`;
export const detail = (id) => ask(`api/v1/verdicts/${part(id)}`);

/** Overlay that the daemon kept of a frame, or null. */
export function evidence(verdict) {
  if (!verdict.evidence) return null;
  const path = verdict.evidence.split("/").map(part).join("/");
  return /\.(png|jpe?g|webp)$/i.test(path) ? `evidence/${path}` : `evidence/${path}/overlay.jpg`;
}

const POLL_MS = 2000;
const RETRY_MS = 10000;
const SILENT_MS = 12000; // the daemon says its status every five seconds
const PROBE_MS = 5000;

/** Listen for ever: events where the daemon sends them; else the pages are told to look every two seconds.
 *  A page that nobody sees does not listen: a browser keeps six connections to a server, for all its tabs. */
export function listen() {
  let source = null;
  let poll = null;
  let again = null;
  let heard = 0;
  const polling = () => {
    poll ??= setInterval(() => news.dispatchEvent(new CustomEvent("status", { detail: { polled: true } })), POLL_MS);
  };
  const quiet = () => {
    source?.close();
    source = null;
    clearInterval(poll);
    clearTimeout(again);
    poll = null;
  };
  const open = () => {
    quiet();
    heard = Date.now();
    source = new EventSource("api/v1/events");
    for (const name of ["verdict", "review", "status"]) {
      source.addEventListener(name, (event) => {
        heard = Date.now();
        tell(true);
        news.dispatchEvent(new CustomEvent(name, { detail: JSON.parse(event.data || "{}") }));
      });
    }
    source.onopen = () => {
      heard = Date.now();
      news.dispatchEvent(new CustomEvent("status", { detail: { opened: true } }));
    };
    source.onerror = lost;
  };
  const lost = () => {
    quiet();
    polling();
    again = setTimeout(open, RETRY_MS);
  };
  setInterval(() => {
    if (!source || Date.now() - heard < SILENT_MS) return;
    lost(); // a connection that is open and silent: the daemon hangs, or the cable is out
    ask("readyz", {}, { evenIf: [503], signal: AbortSignal.timeout(PROBE_MS) }).catch(() => {});
  }, PROBE_MS);
  document.addEventListener("visibilitychange", () => (document.hidden ? quiet() : open()));
  open();
}
