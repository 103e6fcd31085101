// Sampling settings and the API key: the dialog, its defaults, and keeping them in this browser.

const DEFAULTS = { temperature: 0.8, top_p: 0.95, max_tokens: 200, seed: "", system: "" };
const KEY = "platen.settings";
const SECRET = "platen.key"; // kept for as long as the tab is open
const field = (name) => document.getElementById(name);

let defaults = { ...DEFAULTS };
let values = { ...DEFAULTS };

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // Storage is off or holds something else: the defaults do.
  }
}

function show() {
  for (const name of Object.keys(DEFAULTS)) field(name).value = values[name];
  for (const name of ["temperature", "top_p"]) field(`${name}-value`).value = Number(values[name]).toFixed(2);
}

function read() {
  for (const name of Object.keys(DEFAULTS)) {
    const input = field(name);
    if (input.checkValidity()) values[name] = input.value;
  }
  for (const name of ["temperature", "top_p"]) field(`${name}-value`).value = Number(values[name]).toFixed(2);
  try {
    localStorage.setItem(KEY, JSON.stringify(values));
  } catch {
    // They last as long as the page, then.
  }
}

function keepSecret() {
  try {
    sessionStorage.setItem(SECRET, apiKey());
  } catch {
    // It lasts as long as the page, then.
  }
}

function storedSecret() {
  try {
    return sessionStorage.getItem(SECRET) ?? "";
  } catch {
    return "";
  }
}

export function setUp() {
  values = { ...DEFAULTS, ...stored() };
  show();
  field("key").value = storedSecret();
  field("key").addEventListener("input", keepSecret);
  const dialog = field("settings");
  dialog.addEventListener("input", read);
  dialog.addEventListener("close", show);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  field("open-settings").addEventListener("click", () => dialog.showModal());
  field("reset").addEventListener("click", () => {
    values = { ...defaults };
    show();
    read();
  });
}

/** What a model asks for itself holds until somebody changes it. */
export function suggest({ temperature, top_p } = {}) {
  defaults = { ...DEFAULTS, ...(temperature === undefined ? {} : { temperature }), ...(top_p === undefined ? {} : { top_p }) };
  values = { ...defaults, ...stored() };
  show();
}

/** Opens the dialog at the field of the API key. */
export function askForKey() {
  field("settings").showModal();
  field("key").focus();
}

/** Settings as the API takes them; no seed means another text each time. */
export function sampling() {
  return {
    temperature: Number(values.temperature),
    top_p: Number(values.top_p),
    max_tokens: Number(values.max_tokens),
    ...(values.seed === "" ? {} : { seed: Number(values.seed) }),
  };
}

export const apiKey = () => field("key").value.trim();
export const instructions = () => values.system.trim();
