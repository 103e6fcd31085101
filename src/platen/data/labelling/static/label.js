// The labelling page. A judgement is shown as done only when the server says that it is on the disk; until then the
// page keeps it and tries again, so a server that dies and comes back misses nothing.

const $ = (id) => document.getElementById(id);
const RETRY_MS = 700;
const LIVE_MS = 3000;

let set = null; // what is asked: { title, task, choices }
let items = [];
let at = 0;
let annotator = null;
let saving = false;

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error?.message ?? `The server answered ${response.status}.`), { refused: response.status < 500 });
  return answer;
}

/* Drawing */

function show(part) {
  $("change").hidden = part === "welcome";
  for (const id of ["welcome", "work", "finished"]) $(id).hidden = id !== part;
}

function element(tag, text, classes = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = classes;
  return made;
}

function draw() {
  const item = items[at];
  $("correcting").hidden = true;
  $("choices").hidden = false;
  if (!item) return drawEnd();
  show("work");
  $("position").textContent = `${at + 1} of ${items.length}`;
  $("state").textContent = item.value ? (item.disagreed ? "done, others disagree" : "done") : "";
  $("text").textContent = item.text;
  const names = item.answers.length === 2 ? ["First answer", "Second answer"] : ["Answer"];
  $("answers").replaceChildren(...item.answers.map((answer, i) => {
    const box = element("div", "", "answer");
    box.append(element("h3", names[i] ?? "Answer"), element("p", answer));
    return box;
  }));
  if (item.correction) {
    const box = element("div", "", "answer");
    box.append(element("h3", "Your correction"), element("p", item.correction));
    $("answers").append(box);
  }
  $("suggested").hidden = !item.suggestion || Boolean(item.value);
  $("suggestion").textContent = item.suggestion ?? "";
  $("enter-key").hidden = !items.some((one) => one.suggestion);
  for (const button of $("choices").children) {
    const value = button.dataset.value;
    button.setAttribute("aria-pressed", String(value === item.value));
    button.classList.toggle("suggested", value === item.suggestion && !item.value);
  }
}

function drawEnd() {
  show("finished");
  const left = items.filter((item) => !item.value).length;
  $("finished-title").textContent = left ? "That was the last one." : "All done.";
  $("finished-text").textContent = left ? `${left} are still without your judgement.` : "Every item has your judgement. Thank you.";
}

function drawStanding(standing) {
  const figure = (value) => (value === null ? "–" : value.toFixed(3));
  $("alpha").textContent = figure(standing.alpha);
  $("alpha").classList.toggle("known", standing.alpha !== null);
  $("pairs").parentElement.hidden = standing.pairs.length === 0;
  $("shared").textContent = standing.shared_items;
  $("disagreed").textContent = standing.disagreed;
  const row = (left, small, right, classes) => {
    const made = element("tr", "", classes);
    const name = element("td", left);
    if (small) name.append(element("small", small));
    made.append(name, element("td", right));
    return made;
  };
  $("pairs").replaceChildren(...standing.pairs.map((pair) =>
    row(`${pair.first} · ${pair.second}`, `${pair.items} items, ${(100 * pair.observed).toFixed(0)}% alike`, figure(pair.kappa))));
  $("people").replaceChildren(...Object.entries(standing.done).map(([name, done]) =>
    row(name, "", `${done} of ${standing.total}`, name === annotator ? "me" : "")));
  const mine = standing.done[annotator] ?? 0;
  $("filled").style.width = `${standing.total ? (100 * mine) / standing.total : 0}%`;
  const bar = document.querySelector(".bar");
  bar.setAttribute("aria-valuemax", standing.total);
  bar.setAttribute("aria-valuenow", mine);
}

function complain(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}

/* Moving */

function wanted(item) {
  const filter = $("filter").value;
  return filter === "all" || (filter === "todo" ? !item.value : item.disagreed);
}

function move(step) {
  let next = at + step;
  while (next >= 0 && next < items.length && !wanted(items[next])) next += step;
  if (next < 0) return;
  at = Math.min(next, items.length);
  complain("");
  draw();
}

/* Saving */

async function save(value, text = "") {
  const item = items[at];
  if (!item || saving) return;
  saving = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    const standing = await persist({ item: item.id, annotator, value, text });
    item.value = value || null;
    item.correction = text;
    item.disagreed &&= Boolean(value);
    drawStanding(standing);
    complain("");
    if (value) move(1);
    else draw();
  } catch (problem) {
    complain(problem.message);
  } finally {
    saving = false;
    document.body.removeAttribute("aria-busy");
  }
}

async function persist(body) {
  for (;;) {
    try {
      return await ask("/api/judgements", body);
    } catch (problem) {
      if (problem.refused) throw problem;
      complain("Not saved yet: the server does not answer. This page keeps trying; leave it open.");
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
}

function choose(value) {
  if (value === "correct" && set.task === "review") return correct();
  save(value);
}

function correct() {
  const item = items[at];
  $("correcting").hidden = false;
  $("choices").hidden = true;
  $("correction").value = item.correction || item.answers[0];
  $("correction").focus();
}

function finishCorrection() {
  $("correction").blur();
  save("correct", $("correction").value);
}

/* Beginning */

async function begin(name) {
  annotator = name;
  localStorage.setItem("annotator", name);
  $("who").textContent = name;
  const work = await ask(`/api/items?annotator=${encodeURIComponent(name)}`);
  items = work.items;
  const first = items.findIndex((item) => !item.value);
  at = first < 0 ? items.length : first;
  drawStanding(work.standing);
  draw();
}

function drawChoices() {
  $("title").textContent = set.title;
  document.title = `${set.title} · labelling`;
  $("choices").replaceChildren(...set.choices.map((choice) => {
    const button = element("button", "", "choice");
    button.type = "button";
    button.dataset.value = choice.value;
    button.append(element("kbd", choice.key.toUpperCase()), element("b", choice.value));
    if (choice.meaning) button.append(element("small", choice.meaning));
    button.addEventListener("click", () => choose(choice.value));
    return button;
  }));
}

function pressed(event) {
  if (event.ctrlKey && event.key === "Enter" && !$("correcting").hidden) return finishCorrection();
  if (event.key === "Escape" && !$("correcting").hidden) return draw();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  if ($("work").hidden && event.key !== "ArrowLeft") return;
  const choice = set.choices.find((one) => one.key && one.key === event.key.toLowerCase());
  if (choice) choose(choice.value);
  else if (event.key === "ArrowLeft") move(-1);
  else if (event.key === "ArrowRight") move(1);
  else if (event.key.toLowerCase() === "u") save("");
  else if (event.key === "Enter" && !event.target.matches("button") && items[at].suggestion && !items[at].value) choose(items[at].suggestion);
  else return;
  event.preventDefault();
}

/** What the others do meanwhile. */
async function live() {
  if (!annotator || saving || document.hidden) return;
  try {
    drawStanding(await ask("/api/standing"));
  } catch {
    // The next judgement tells that the server is away.
  }
}

async function start() {
  set = await ask("/api/set");
  drawChoices();
  $("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("name").value.trim();
    if (name) begin(name).then(() => document.activeElement.blur());
  });
  $("change").addEventListener("click", () => { show("welcome"); $("name").value = ""; $("name").focus(); });
  $("back").addEventListener("click", () => move(-1));
  $("forward").addEventListener("click", () => move(1));
  $("review").addEventListener("click", () => { $("filter").value = "all"; at = -1; move(1); });
  $("filter").addEventListener("change", async (event) => { event.target.blur(); await begin(annotator); at = -1; move(1); });
  $("cancel").addEventListener("click", draw);
  $("correcting").addEventListener("submit", (event) => { event.preventDefault(); finishCorrection(); });
  addEventListener("keydown", pressed);
  setInterval(live, LIVE_MS);
  const known = localStorage.getItem("annotator");
  if (known) await begin(known);
  else { show("welcome"); $("name").focus(); }
}

start().catch((problem) => { show("work"); complain(problem.message); });
