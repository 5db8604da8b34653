// The page of `ffruntime serve`: it shows pictures to the device, teaches it, and takes back. It keeps nothing itself
// but the drawing and the pictures that wait to be taught; everything else is the device's answer.

const API = "api/v1/";
const $ = (id) => document.getElementById(id);
const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(share > 0.995 || share < 0.005 ? 1 : 0)} %`);

// --- the API

class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// What the device answers; a Refusal with its reason where it does not.
async function ask(path, { query = {}, body, method, headers } = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) if (each !== undefined) parameters.append(name, each);
  }
  const address = API + path + (parameters.toString() ? `?${parameters}` : "");
  const answer = await fetch(address, { method: method || "POST", body, headers }).catch(() => {
    throw new Refusal(0, "away", "The device does not answer. Is it on, and in this network?");
  });
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: { code: "", message: `status ${answer.status}` } }));
  if (answer.status === 401) knock();
  throw new Refusal(answer.status, error.code, error.message);
}

const get = (path, query) => ask(path, { query, method: "GET" }).then((answer) => answer.json());
const post = (path, query, body) => ask(path, { query, body }).then((answer) => answer.json());

// An element with text and attributes. Names and messages only ever become text.
function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(place, message, ...buttons) {
  place.replaceChildren(make("p", message), ...buttons);
  place.hidden = !message;
}

function button(text, press, attributes = {}) {
  const element = make("button", text, { type: "button", ...attributes });
  element.addEventListener("click", press);
  return element;
}

// --- who is there

function knock() {
  $("rooms").hidden = true;
  $("enter").hidden = false;
  $("status").textContent = "";
}

async function enter(token) {
  await ask("session", { headers: { Authorization: `Bearer ${token}` } });
  $("enter").hidden = true;
  await begin();
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  enter($("token").value.trim()).catch((refusal) => ($("status").textContent = refusal.message));
});

// --- how it is

let status = null;

function showStatus(now) {
  const first = status === null;
  const changed = first || now.version !== status.version || now.examples !== status.examples;
  status = now;
  $("model").textContent = now.name;
  $("status").textContent =
    `knows ${now.classes.length} classes · ${now.examples} taught here · version ${now.version}` +
    (now.job || now.queued ? " · learning" : "");
  $("names").replaceChildren(...now.classes.map((known) => make("option", "", { value: known.name })));
  $("room").textContent = !now.learns
    ? "This network cannot learn here: it was exported without gradients, and has no class statistics."
    : now.spare
      ? `A name that it does not know makes a new class; there is room for ${now.spare}.`
      : "There is no room for another class.";
  for (const id of ["learn", "keep", "name"]) $(id).disabled = !now.learns;
  $("rehearse").disabled = !now.learns || !now.examples;
  document.querySelector('[data-source="camera"]').hidden = !now.camera;
  if (first && now.pictures !== "digit") choose("file");
  if (changed) showMemory().catch(complain);
}

function complain(refusal) {
  $("status").textContent = refusal.message;
}

function listen() {
  const events = new EventSource(`${API}events`);
  events.addEventListener("status", (event) => showStatus(JSON.parse(event.data)));
  events.addEventListener("job", (event) => showJob(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    $("status").textContent = "The device does not answer; trying again…";
    if (events.readyState === EventSource.CLOSED) setTimeout(() => begin().catch(complain), 3000);
  });
}

// --- a picture to show

const paper = $("paper");
const pen = paper.getContext("2d");
let strokes = []; // of points [x, y], in pixels of the paper
let held = null; // a photograph or file, a Blob, where nothing is drawn
let answered = null; // the picture that was answered last, a Blob
let tray = []; // pictures that will be taught together, Blobs
let timer = 0;

function redraw() {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, paper.width, paper.height);
  pen.strokeStyle = pen.fillStyle = "#000";
  pen.lineWidth = 20;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(...stroke[0]);
    for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) pen.lineTo(...point);
    pen.stroke();
  }
}

function clear() {
  clearTimeout(timer);
  strokes = [];
  held = null;
  lowered = false;
  redraw();
}

// The picture in hand, a Blob: what is drawn, else what was photographed or chosen, else null.
function inHand() {
  return strokes.length ? new Promise((done) => paper.toBlob(done)) : Promise.resolve(held);
}

// What is drawn is shown when the pen has rested for a moment.
function drawn() {
  clearTimeout(timer);
  held = null;
  if (strokes.length) timer = setTimeout(async () => classify(await inHand()), 300);
}

function place(event) {
  const box = paper.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * paper.width, ((event.clientY - box.top) / box.height) * paper.height];
}

let pointer = null; // the finger that draws: a second one is ignored

paper.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button) return;
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  strokes.push([place(event)]);
  clearTimeout(timer);
  redraw();
});
paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const passed = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  strokes[strokes.length - 1].push(...(passed.length ? passed : [event]).map(place));
  redraw();
});
for (const end of ["pointerup", "pointercancel"]) {
  paper.addEventListener(end, (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    drawn();
  });
}

const STEP = 16; // pixels of an arrow key
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
let at = [160, 64];
let lowered = false;

paper.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (!arrow && event.key !== " ") return;
  event.preventDefault();
  if (arrow) {
    at = at.map((value, axis) => Math.min(paper.width - STEP, Math.max(STEP, value + arrow[axis])));
    if (lowered) strokes[strokes.length - 1].push([...at]);
  } else {
    lowered = !lowered;
    if (lowered) strokes.push([[...at]]);
    else drawn();
  }
  redraw();
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(...at, 12, 0, 2 * Math.PI);
  pen.stroke();
});

$("clear").addEventListener("click", clear);
$("unstroke").addEventListener("click", () => {
  strokes.pop();
  redraw();
  drawn();
});

function choose(source) {
  for (const tab of document.querySelectorAll("[data-source]")) {
    const chosen = tab.dataset.source === source;
    tab.setAttribute("aria-pressed", chosen);
    $(tab.dataset.source).hidden = !chosen;
  }
  if (source === "camera") $("stream").src = `${API}camera`;
  else $("stream").removeAttribute("src"); // the camera is another's from now on
}

for (const tab of document.querySelectorAll("[data-source]")) {
  tab.addEventListener("click", () => choose(tab.dataset.source));
}

$("frame").addEventListener("click", async () => {
  try {
    await take(await (await ask("camera/frame", { method: "GET" })).blob());
  } catch (refusal) {
    unanswered(refusal);
  }
});

// A picture that was not drawn is in hand, and shown.
async function take(picture) {
  clear();
  held = picture;
  await classify(picture);
}

// Of several files all but the last wait to be taught together with it.
async function took(files) {
  const pictures = [...files];
  if (!pictures.length) return;
  tray.push(...pictures.slice(0, -1));
  showTray();
  await take(pictures[pictures.length - 1]);
}

for (const id of ["photograph", "pictures"]) {
  $(id).addEventListener("change", (event) => {
    took(event.target.files);
    event.target.value = "";
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  took(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => took(event.clipboardData.files));

// --- what it says

let asked = 0; // of several pictures under way only the last one's answer is shown

function unanswered(refusal) {
  $("said").hidden = true;
  $("nothing").hidden = false;
  $("nothing").textContent = refusal.message;
}

async function classify(picture) {
  const turn = ++asked;
  answered = picture;
  try {
    const { answers, took } = await post("classify", {}, picture);
    if (turn === asked) showAnswer(answers[0], took);
  } catch (refusal) {
    if (turn === asked) unanswered(refusal);
  }
}

function showAnswer(answer, took) {
  const unsure = answer.sure === false;
  $("nothing").hidden = true;
  $("said").hidden = false;
  $("shown").src = answer.image;
  $("verdict").className = unsure ? "unsure" : "";
  $("verdict").textContent = unsure ? `I don't know. Most like: ${answer.label}` : answer.label;
  $("detail").textContent = [
    answer.probability === null ? "" : `probability ${percent(answer.probability)}`,
    `${took.toFixed(0)} ms, the network ${answer.ms.toFixed(1)}`,
    answer.mode,
  ].filter(Boolean).join(" · ");
  $("doubts").hidden = !answer.doubts.length;
  $("doubts").replaceChildren(...answer.doubts.map((doubt) => make("li", doubt)));
  const values = answer.classes.map((ranked) => ranked.goodness);
  const [least, span] = [Math.min(...values), Math.max(...values) - Math.min(...values) || 1];
  $("classes").tBodies[0].replaceChildren(...answer.classes.map((ranked) => {
    const row = make("tr");
    const cell = make("td");
    const bar = make("div", "", { class: "bar" });
    bar.style.width = `${(100 * (ranked.goodness - least)) / span}%`;
    cell.append(bar);
    row.append(make("th", ranked.name, { scope: "row" }), cell, make("td", ranked.goodness.toPrecision(3)));
    return row;
  }));
  $("evidence").replaceChildren();
}

$("why").addEventListener("click", async () => {
  $("why").disabled = true;
  try {
    const { kind, evidence } = await post("explain", {}, answered);
    $("evidence").replaceChildren(...evidence.map((piece) => {
      const figure = make("figure");
      const caption = kind === "exact" ? `what speaks for ${piece.label}, and against` : `hidden, it is no ${piece.label}`;
      figure.append(make("img", "", { src: piece.picture, alt: caption }), make("figcaption", caption));
      return figure;
    }));
  } catch (refusal) {
    say($("evidence"), refusal.message);
  } finally {
    $("why").disabled = false;
  }
});

// --- teaching

let lesson = null; // the number of the last job that was asked for here

function showTray() {
  $("tray").replaceChildren(...tray.map((picture, index) => {
    const item = make("li");
    const image = make("img", "", { alt: `picture ${index + 1}`, src: URL.createObjectURL(picture) });
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
    const drop = () => {
      tray.splice(index, 1);
      showTray();
    };
    item.append(image, button("Drop", drop, { "aria-label": `Drop picture ${index + 1}` }));
    return item;
  }));
  $("waiting").textContent = tray.length ? `${tray.length} waiting, to be taught together with the next:` : "";
}

$("keep").addEventListener("click", async () => {
  const picture = await inHand();
  if (!picture) return say($("asked"), "Draw or take a picture first.");
  tray.push(picture);
  clear();
  showTray();
  if (!$("draw").hidden) paper.focus();
});

// The picture in hand is taught, and those that wait.
async function teach(doubts = {}) {
  const pictures = [...tray, await inHand()].filter(Boolean);
  if (!pictures.length) return say($("asked"), "Draw or take a picture first.");
  const form = new FormData();
  pictures.forEach((picture, index) => form.append("picture", picture, picture.name || `drawing-${index + 1}.png`));
  $("learn").disabled = true;
  say($("asked"), "");
  try {
    const { job } = await post("learn", { label: $("name").value.trim(), ...doubts }, form);
    lesson = job.id;
    tray = [];
    clear();
    showTray();
    showJob(job);
  } catch (refusal) {
    const anyway = { contradicted: { yes: true }, near: { new: true } }[refusal.code];
    const buttons = anyway
      ? [button("Teach it anyway", () => teach({ ...doubts, ...anyway })), button("Leave it", () => say($("asked"), ""))]
      : [];
    say($("asked"), refusal.message, ...buttons);
  } finally {
    $("learn").disabled = false;
  }
}

$("lesson").addEventListener("submit", (event) => {
  event.preventDefault();
  teach();
});

const DOING = {
  learn: "Learning", resume: "Going on with what was left", rehearse: "Practising", rollback: "Going back",
  forget: "Forgetting", reset: "Forgetting everything", import: "Taking what another learned",
};
const STATE = { queued: "waits for its turn", running: "under way", done: "done", refused: "not adopted", failed: "failed" };

function showJob(job) {
  $("job").hidden = false;
  const what = job.label ? `${DOING[job.kind]}: ${job.label}` : DOING[job.kind];
  const safe = job.examples.length && job.kind === "learn" ? `, ${job.examples.length} stored safely` : "";
  $("doing").textContent = `${what}: ${STATE[job.state]}${safe}${job.error ? `. ${job.error.message}` : ""}`;
  const busy = job.state === "queued" || job.state === "running";
  $("progress").hidden = !busy;
  if (job.steps) {
    $("progress").max = job.steps;
    $("progress").value = job.step;
  } else {
    $("progress").removeAttribute("value");
  }
  const short = (said) => `${said.sure === false ? "unsure, " : ""}${said.label} ${percent(said.probability)}`.trim();
  const lines = job.after.map((after, index) => `${short(job.before[index])} → ${short(after)}`);
  for (const change of job.changes) {
    const figures = change.before === null ? "" : `; held-back images ${percent(change.before)} → ${percent(change.after)}`;
    lines.push(
      change.adopted
        ? `version ${change.version}, after ${change.seconds.toFixed(1)} s${figures}`
        : `an update was refused: ${change.reason}${figures}`,
    );
  }
  $("changes").replaceChildren(...lines.map((line) => make("li", line)));
  $("undo").hidden = busy || job.kind !== "learn" || job.id !== lesson || !job.examples.length;
  $("undo").onclick = () => work("forget", { id: job.examples });
}

// Work of the learner that a button asks for; it is shown as it goes.
async function work(path, query, body) {
  try {
    showJob(await post(path, query, body));
    showStatus(await get("status"));
    await showMemory();
  } catch (refusal) {
    say($("asked"), refusal.message);
  }
}

// --- what was taught

async function showMemory(before) {
  const [{ examples, more }, { current: counts, versions }] = await Promise.all([get("examples", { before }), get("versions")]);
  const items = examples.map((example) => {
    const item = make("li", "", { title: `${example.at}, ${example.status}` });
    const forget = button("Forget", () => work("forget", { id: [example.id] }), {
      "aria-label": `Forget example ${example.id}, ${example.label}`,
    });
    item.append(make("img", "", { src: example.image, alt: `example ${example.id}` }), make("div", example.label), forget);
    return item;
  });
  if (before === undefined) $("examples").replaceChildren();
  $("examples").append(...items);
  if (!$("examples").childElementCount) $("examples").append(make("li", "nothing yet", { class: "soft" }));
  $("older").hidden = !more;
  $("older").onclick = () => showMemory(examples[examples.length - 1].id).catch(complain);
  const goBack = (id) => button("Go back to it", () => work("rollback", { version: id }), { "aria-label": `Go back to version ${id}` });
  const bundle = make("li", counts ? "as it was shipped " : "as it was shipped: answers now", { value: 0 });
  if (counts) bundle.append(goBack(0));
  $("versions").replaceChildren(bundle, ...versions.map((version) => {
    const judged = version.before === null ? "" : `, held-back images ${percent(version.before)} → ${percent(version.after)}`;
    const how = version.current ? ": answers now" : version.adopted ? "" : ": refused";
    const item = make("li", `${version.kind}, ${version.examples} examples${judged}${how} `, { value: version.id });
    if (version.adopted && version.kept && !version.current) item.append(goBack(version.id));
    return item;
  }));
  $("rollback").disabled = !counts;
}

$("rehearse").addEventListener("click", () => work("rehearse"));
$("rollback").addEventListener("click", () => work("rollback"));
$("import").addEventListener("change", (event) => {
  work("state", {}, event.target.files[0]);
  event.target.value = "";
});
$("reset").addEventListener("click", async () => {
  const leave = () => say($("sure"), "");
  try {
    const { confirm, examples, versions } = await post("reset");
    const forget = button("Yes, forget everything", () => {
      leave();
      work("reset", { confirm });
    }, { class: "danger" });
    say($("sure"), `${examples} examples and ${versions} versions will be gone, for good.`, forget, button("Keep them", leave));
  } catch (refusal) {
    say($("sure"), refusal.message);
  }
});

// --- begin

async function begin() {
  showStatus(await get("status"));
  $("rooms").hidden = false;
  listen();
}

redraw();
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) history.replaceState(null, "", location.pathname); // not in the history, nor in a bookmark
(token ? enter(token) : begin()).catch(complain);
