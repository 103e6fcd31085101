// The page: a sheet that the model goes on writing, or a chat. All of the model's text goes in as text nodes.

import { Problem, countTokens, healthy, served, stream } from "./api.js";
import { apiKey, askForKey, instructions, sampling, setUp, suggest } from "./settings.js";
import { NOBODY, WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const page = Object.fromEntries(
  ["log", "welcome", "actions", "problem", "prompt", "send", "live", "status", "scroll", "latest"].map((id) => [id, $(id)]),
);

// One list of runs a mode: { author: "you" | "model", text, element }.
const runs = { write: [], chat: [] };
let mode = "write";
let model = null; // what answers: its kind is base, chat or remote
let nobody = false; // the server has no model for this page
let current = null; // the AbortController of the text being written
let countdown = null;

/* Drawing */

function draw() {
  page.log.replaceChildren();
  page.log.dataset.mode = mode;
  for (const run of runs[mode]) attach(run);
  refresh();
}

function attach(run) {
  run.element = document.createElement("div");
  run.element.className = `run ${run.author === "you" ? "you" : "model-run"}`;
  run.node = document.createTextNode(run.text);
  run.element.append(run.node);
  page.log.append(run.element);
}

function add(author, text) {
  const run = { author, text };
  runs[mode].push(run);
  attach(run);
  return run;
}

function refresh() {
  const words = WORDS[mode];
  const list = runs[mode];
  const busy = current !== null;
  page.welcome.hidden = list.length > 0 && !nobody;
  $("welcome-title").textContent = nobody ? "This server has no model for this page." : words.title;
  $("welcome-text").textContent = nobody ? NOBODY : words[model?.kind ?? "base"];
  $("choice").disabled = busy;
  $("starters").hidden = $("composer").hidden = nobody;
  $("modes").hidden = nobody || model?.kind === "remote"; // services elsewhere are there to chat with
  const last = list.at(-1);
  page.actions.hidden = busy || last?.author !== "model";
  $("continue").hidden = mode !== "write";
  $("facts-line").textContent = last?.facts ?? "";
  page.prompt.placeholder = list.length ? words.more : words.placeholder;
  $("prompt-label").textContent = mode === "write" ? "Your text" : "Your message";
  page.send.toggleAttribute("data-busy", busy);
  page.send.ariaLabel = busy ? "Stop" : "Send";
  page.send.title = busy ? "Stop (Esc)" : "Send (Enter)";
  page.send.disabled = !busy && !canSend();
  page.log.ariaBusy = String(busy);
}

function drawStarters() {
  const buttons = WORDS[mode].starters.map((text) => starter(text, () => send(text)));
  if (mode === "write") {
    const surprise = starter("Surprise me", () => write(""));
    surprise.className = "first";
    buttons.unshift(surprise);
  }
  $("starters").replaceChildren(...buttons);
}

function starter(text, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
  return button;
}

const canSend = () => page.prompt.value !== "" || (mode === "write" && runs.write.length > 0);

/* Scrolling: follow the text unless the reader has scrolled up. */

let following = true;
const atEnd = () => page.scroll.scrollHeight - page.scroll.scrollTop - page.scroll.clientHeight < 60;

function follow() {
  if (following) page.scroll.scrollTop = page.scroll.scrollHeight;
  page.latest.hidden = following || atEnd();
}

page.scroll.addEventListener("scroll", () => {
  following = atEnd();
  page.latest.hidden = following;
});
page.latest.addEventListener("click", () => {
  following = true;
  follow();
});

/* Writing */

function send(text) {
  if (current) return;
  page.prompt.value = "";
  grow();
  following = true;
  if (mode === "write") write(text);
  else chat(text);
}

/** The whole sheet goes along; the server reads its end, as much as fits the model's window. */
function write(text) {
  if (text) add("you", text);
  generate("/v1/completions", () => ({ prompt: runs.write.map((run) => run.text).join("") }));
}

function chat(text) {
  if (text) add("you", text);
  const turns = runs.chat.map((run) => ({ role: run.author === "you" ? "user" : "assistant", content: run.text }));
  const system = instructions() ? [{ role: "system", content: instructions() }] : [];
  generate("/v1/chat/completions", () => ({ messages: [...system, ...turns] }));
}

async function generate(path, prompt) {
  if (!model && !(await connect())) return;
  clearProblem();
  const run = add("model", "");
  const where = mode;
  current = new AbortController();
  run.element.classList.add("busy");
  page.status.textContent = "The model is writing.";
  refresh();
  follow();
  const progress = { run, most: sampling().max_tokens, tokens: 0, counted: 0, first: null, finish: null, cut: false };
  let problem = null;
  try {
    await writeInto(progress, path, prompt, current.signal);
  } catch (error) {
    if (error.name !== "AbortError") problem = error;
  }
  current = null;
  run.element.classList.remove("busy");
  run.facts = facts(progress, problem);
  if (!run.text) drop(where, run);
  if (problem?.code === "context_length_exceeded") giveBack(where);
  page.live.textContent = "";
  page.status.textContent = problem ? "" : `${run.facts}.`;
  refresh();
  if (problem) {
    show(problem, () => {
      drop(where, run);
      generate(path, prompt);
    });
  }
  follow();
}

/**
 * Streams into the run. On the sheet a window that fills up ends nothing: another request goes on from the text's
 * end, until all the tokens that were wished for are there.
 */
async function writeInto(progress, path, prompt, signal) {
  if (model.kind === "remote") {
    // OpenAI's parameters only; and not every service says how many tokens there were.
    for await (const piece of stream(path, { model: model.id, ...prompt(), ...sampling() }, signal)) take(progress, piece);
    progress.tokens = progress.usage?.completion_tokens ?? progress.tokens;
    return;
  }
  const { max_tokens: most, seed, ...others } = sampling();
  const share = mode === "write" ? 4 : 2; // of the window, what is kept free for writing
  for (let part = 0; ; part += 1) {
    const left = most - progress.counted;
    const room = model.context_window - Math.min(left, Math.max(1, Math.floor(model.context_window / share)));
    const body = { model: model.id, ...prompt(), ...others, max_tokens: left, truncate_prompt_tokens: room };
    if (seed !== undefined) body.seed = seed + part; // the same numbers again would favour repetition
    for await (const piece of stream(path, body, signal)) take(progress, piece);
    const { prompt_tokens: read, completion_tokens: written } = progress.usage;
    progress.counted = progress.tokens = progress.counted + written;
    progress.cut ||= read === room;
    if (mode === "chat" || progress.finish !== "length" || progress.counted >= most) return;
  }
}

/** A message that can't be sent as it is goes back into the text field. */
function giveBack(where) {
  const turn = runs[where].at(-1);
  if (turn?.author !== "you") return;
  drop(where, turn);
  if (!page.prompt.value) page.prompt.value = turn.text;
  grow();
}

function take(progress, piece) {
  if (piece.usage) progress.usage = piece.usage;
  if (piece.finish) progress.finish = piece.finish;
  // A base model often opens its answer with blank lines, which a chat has no use for.
  const text = mode === "chat" && !progress.run.text ? piece.text.trimStart() : piece.text;
  if (!text) return;
  progress.first ??= performance.now();
  progress.tokens += 1;
  progress.last = performance.now();
  progress.run.text += text;
  progress.run.node.appendData(text);
  page.live.textContent = `${progress.tokens} tokens${speed(progress)}`;
  follow();
}

function speed({ tokens, first, last }) {
  const seconds = (last - first) / 1000;
  return tokens > 1 && seconds > 0 ? ` · ${((tokens - 1) / seconds).toFixed(0)} tokens/s` : "";
}

function facts(progress, problem) {
  const full = progress.tokens < progress.most ? "the context window is full" : "at the length you set";
  const ends = { stop: "ended by itself", length: full };
  const end = problem ? "broken off" : (ends[progress.finish] ?? "stopped");
  const sight = progress.cut && mode === "write" ? ` · it sees only the last ${model.context_window} tokens` : "";
  return `${progress.tokens} tokens${speed(progress)} · ${end}${sight}`;
}

function drop(where, run) {
  runs[where] = runs[where].filter((other) => other !== run);
  run.element.remove();
}

const stop = () => current?.abort();

/* Problems, each with what to do about it */

function show(problem, retry) {
  const known = problem instanceof Problem ? problem : new Problem("broken", String(problem.message ?? problem));
  const tooLong = known.code === "context_length_exceeded";
  const keyless = known.code === "invalid_api_key";
  const [title, text] = {
    toolong: ["That is too long for this model.", `${known.message} Shorten it, or the instructions in the settings.`],
    keyless: ["This server asks for an API key.", apiKey() ? known.message : "Put yours into the settings."],
    offline: ["The server can't be reached.", "Is “platen serve” still running? Start it again, then try once more."],
    busy: ["The server is busy.", ""],
    stopping: ["The server is shutting down.", "Start it again, then try once more."],
    refused: ["The server refused this.", known.message],
    broken: ["The text broke off.", known.message],
  }[tooLong ? "toolong" : keyless ? "keyless" : known.kind];
  $("problem-title").textContent = title;
  $("problem-text").textContent = text;
  $("problem-settings").hidden = !keyless;
  $("problem-retry").hidden = tooLong || (keyless && !model); // settings that close try it
  $("problem-retry").onclick = () => {
    clearProblem();
    retry();
  };
  page.problem.hidden = false;
  if (known.kind === "offline") $("dot").dataset.state = "off";
  if (known.kind === "busy") countDown(known.retryAfter ?? 3, retry);
  page.problem.scrollIntoView({ block: "nearest" });
}

function countDown(seconds, retry) {
  let left = seconds;
  const tick = () => {
    $("problem-text").textContent = `Trying again in ${left} s…`;
    if (left-- > 0) return;
    clearProblem();
    retry();
  };
  tick();
  countdown = setInterval(tick, 1000);
}

function clearProblem() {
  clearInterval(countdown);
  page.problem.hidden = true;
}

/* The server */

async function connect() {
  let models;
  try {
    models = await served();
  } catch (error) {
    $("model-name").textContent = "no model";
    show(error, connect);
    return false;
  }
  clearProblem();
  $("dot").dataset.state = "ok";
  nobody = models.length === 0;
  $("choice").replaceChildren(...models.map((one) => new Option(one.id)));
  $("choice").hidden = models.length < 2;
  $("model-name").hidden = models.length > 1;
  $("choice").onchange = () => choose(models[$("choice").selectedIndex]);
  choose(models[0] ?? null);
  if (model?.kind === "remote" && mode !== "chat") switchTo("chat");
  return !nobody;
}

/** Talk to this model from now on; null is none. */
function choose(one) {
  model = one;
  $("model-name").textContent = model?.id ?? "no model";
  $("model-facts").textContent = model ? factsOf(model) : "";
  document.title = model ? `${model.id} · Platen` : "Platen";
  suggest(model?.default_sampling_params);
  refresh();
}

function factsOf({ kind, parameters, context_window: window }) {
  if (kind === "remote") return "at another service";
  return `${amount(parameters)} parameters · ${window.toLocaleString("en")}-token window`;
}

function amount(count) {
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (count >= size) return `${(count / size).toFixed(1)} ${unit}`;
  }
  return String(count);
}

async function watch() {
  if (document.hidden) return;
  const up = await healthy().catch(() => false);
  if (up && !model && (nobody || $("dot").dataset.state === "off")) await connect();
  $("dot").dataset.state = up ? "ok" : "off";
}

/* Wiring */

function grow() {
  page.prompt.style.height = "auto";
  page.prompt.style.height = `${page.prompt.scrollHeight}px`;
  refresh();
  count();
}

let counting = { timer: 0, request: new AbortController() };

/** The tokens of the text field, asked for when typing pauses; a newer text overtakes an older one's count. */
function count() {
  clearTimeout(counting.timer);
  counting.request.abort();
  const text = page.prompt.value;
  if (!text || !model || model.kind === "remote") {
    $("count").textContent = "";
    return;
  }
  const request = new AbortController();
  const ask = async () => {
    const tokens = await countTokens(model.id, text, request.signal).catch(() => null);
    if (!request.signal.aborted) $("count").textContent = tokens === null ? "" : `${tokens.toLocaleString("en")} tokens in the field`;
  };
  counting = { timer: setTimeout(ask, 250), request };
}

function switchTo(next) {
  stop();
  clearProblem();
  mode = next;
  document.querySelector(`[name=mode][value=${next}]`).checked = true;
  drawStarters();
  draw();
}

function again() {
  const last = runs[mode].at(-1);
  if (current || last?.author !== "model") return;
  drop(mode, last);
  if (mode === "write") write("");
  else chat("");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (current) stop();
  else if (canSend()) send(page.prompt.value);
});
page.prompt.addEventListener("input", grow);
page.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!current && canSend()) send(page.prompt.value);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && current) stop();
});
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => switchTo(radio.value));
}
$("new").addEventListener("click", () => {
  stop();
  runs[mode] = [];
  clearProblem();
  draw();
  page.prompt.focus();
});
$("continue").addEventListener("click", () => send(""));
$("again").addEventListener("click", again);
$("copy").hidden = !navigator.clipboard; // there only on this machine and over https
$("copy").addEventListener("click", async () => {
  const text = mode === "write" ? runs.write.map((run) => run.text).join("") : runs.chat.at(-1).text;
  await navigator.clipboard.writeText(text);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});
$("problem-close").addEventListener("click", clearProblem);
$("problem-settings").addEventListener("click", askForKey);
$("settings").addEventListener("close", async () => {
  if (!model && (await connect())) page.prompt.focus(); // what had the focus may have gone with the alert
});

/* A reload keeps the texts; another tab begins with its own. */

const KEY = "platen.texts";

function save() {
  const texts = Object.fromEntries(
    Object.entries(runs).map(([name, list]) => [name, list.map(({ author, text, facts }) => ({ author, text, facts }))]),
  );
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ mode, texts, draft: page.prompt.value }));
  } catch {
    // Storage is off or full: they last as long as the page, then.
  }
}

function restored() {
  try {
    const { mode: kept, texts, draft } = JSON.parse(sessionStorage.getItem(KEY));
    Object.assign(runs, { write: texts.write, chat: texts.chat });
    page.prompt.value = draft;
    return runs[kept] ? kept : null;
  } catch {
    return null; // nothing there
  }
}

addEventListener("pagehide", save);

setUp();
const kept = restored();
switchTo(kept ?? "write");
grow();
if ((await connect()) && !kept && model.kind === "chat") switchTo("chat");
refresh();
follow();
if (matchMedia("(hover: hover)").matches) page.prompt.focus();
setInterval(watch, 15_000);
document.addEventListener("visibilitychange", watch);
