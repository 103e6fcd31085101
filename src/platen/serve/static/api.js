// The server's API as the page uses it: what it serves, whether it is there, and streams of text.

import { apiKey } from "./settings.js";

/** A refusal or failure that the reader can do something about. `kind` says which. */
export class Problem extends Error {
  constructor(kind, message, { retryAfter = null, code = null } = {}) {
    super(message);
    this.kind = kind; // offline | busy | stopping | refused | broken
    this.retryAfter = retryAfter;
    this.code = code;
  }
}

async function request(path, options = {}) {
  const key = apiKey();
  const headers = key ? { ...options.headers, authorization: `Bearer ${key}` } : options.headers;
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("offline", "");
  }
}

/** The models that the page can talk to: the first one that writes here, else those that a gateway passes on to. */
export async function served() {
  const response = await request("/v1/models");
  if (!response.ok) throw await problemOf(response);
  const { data: models } = await response.json();
  const writer = models.find((model) => model.kind && model.kind !== "embedding");
  if (writer) return [writer];
  return models.filter((model) => model.owned_by === "upstream").map((model) => ({ ...model, kind: "remote" }));
}

/** How many tokens a text has, without the one that begins texts: what `platen tokens count` says too. */
export async function countTokens(model, text, signal) {
  const response = await request("/tokenize", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, prompt: text, add_special_tokens: false }),
    signal,
  });
  if (!response.ok) throw await problemOf(response);
  return (await response.json()).count;
}

export async function healthy() {
  return (await request("/health", { cache: "no-store" })).ok;
}

async function problemOf(response) {
  let error = {};
  try {
    error = (await response.json()).error;
  } catch {
    // Not ours: some proxy's page. The status has to do.
  }
  const kind =
    { insufficient_quota: "refused", queue_timeout: "busy" }[error.code] ??
    { 429: "busy", 503: "stopping" }[response.status] ??
    (response.status >= 500 ? "broken" : "refused");
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  return new Problem(kind, error.message ?? `The server answered ${response.status}.`, { retryAfter, code: error.code });
}

/**
 * Streams one answer: yields `{ text, finish, usage }`, the latter two when they come. Aborting `signal`
 * closes the connection, upon which the server stops working on it.
 */
export async function* stream(path, body, signal) {
  const response = await request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) throw await problemOf(response);
  for await (const data of events(response.body, signal)) {
    if (data === "[DONE]") return;
    const piece = JSON.parse(data);
    if (piece.error) throw new Problem("broken", piece.error.message, { code: piece.error.code });
    const choice = piece.choices?.[0];
    yield {
      text: choice?.delta?.content ?? choice?.text ?? "",
      finish: choice?.finish_reason ?? null,
      usage: piece.usage ?? null,
    };
  }
  throw new Problem("broken", "The connection broke off before the text was finished.");
}

async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } catch (error) {
    if (error instanceof Problem || signal.aborted) throw error;
    throw new Problem("broken", "The connection broke off before the text was finished.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
