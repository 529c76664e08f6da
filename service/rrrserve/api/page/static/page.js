// The page of `rrr serve`. It asks the service that it came from, by the routes that everyone has, and nobody else.

const MODEL_COLOURS = 6, LAPS = 20, TOP_LABELS = 5;
const SCRAPE_SECONDS = 5, WINDOW_SECONDS = 30, CHART_SECONDS = 120, CHART_HEIGHT = 220;

let token = "";
let models = [];  // as GET /v1/models lists them
let repository = "";  // which version of it these are of
let samples = [];  // {number, label, model, blob, button}
let subject = null;  // what is asked about: {bytes, name, truth, sample}
let run = 0;  // its number: answers to a subject that was left for another are dropped
let busy = false;  // whether many requests are being sent, which scrapes would disturb

// ---- small things

const find = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

const percent = (share) => share > 0 && share < 0.0005 ? "< 0.1 %" : `${(share * 100).toFixed(1)} %`;
const milliseconds = (value) => `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
const times = (ratio) => `${ratio < 10 ? ratio.toFixed(1) : ratio.toFixed(0)} times`;
const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};
const large = (count) => count < 1e9 ? `${(count / 1e6).toFixed(1)} M` : `${(count / 1e9).toFixed(2)} G`;
const sleep = (seconds) => new Promise((wake) => setTimeout(wake, seconds * 1000));
// A label that is a code point is shown with its character.
const shown = (label) => /^U\+[0-9A-F]{4,6}$/.test(label) ? `${label} ${String.fromCodePoint(parseInt(label.slice(2), 16))}` : label;
const colour = (model) => `m${models.indexOf(model) % MODEL_COLOURS}`;
// Whether a model can be right about it: samples are of the labels of one model.
const judges = (model, truth) => truth !== undefined && model.labels.includes(truth);
const say = (sentence) => { find("said").textContent = sentence; };

// ---- the service

class Refused extends Error {
  constructor(status, { code, message }) {
    super(message);
    Object.assign(this, { status, code });
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, { code: "unreachable", message: "the service cannot be reached" });
  }
  if (response.ok) return response;
  const problem = (await response.json().catch(() => null))?.error;
  if (response.status === 401) lock();
  throw new Refused(response.status, problem ?? { code: `status ${response.status}`, message: "the service gave no answer" });
}

async function load() {
  const listed = await (await request("v1/models")).json();
  ({ models, repository } = listed);
  models.sort((a, b) => (b.name === listed.default) - (a.name === listed.default));
  samples = (await (await request("v1/samples")).json()).samples;
  const one = models.length === 1;
  find("about").textContent = `${models.map((model) => model.name).join(", ")} ${one ? "answers" : "answer"} here` +
    `${one ? "" : "; the same image goes to each of them"}.`;
  find("race").hidden = true;
  const key = token ? ' -H "Authorization: Bearer $TOKEN"' : "", base = new URL(".", location.href).href;
  find("shell").textContent = [
    `curl${key} -T IMAGE ${base}v1/predict`,
    `curl${key} -T IMAGE '${base}v1/models/${models.at(-1).name}/predict?members=true&coverage=0.95'`,
    `rrr predict IMAGE --url ${base.slice(0, -1)}${token ? " --token-file FILE" : ""}`,
  ].join("\n");
  find("metrics").hidden = token !== "";  // a link carries no token
  showClaims();
  showSamples();
}

async function start() {
  for (;;) {
    try {
      await load();
      break;
    } catch (error) {
      if (error.status === 401) return;
      find("about").textContent = `Not yet: ${error.message}. Asking again …`;
      await sleep(1);
    }
  }
  find("locked").hidden = true;
  find("open").hidden = false;
  watch();
}

function lock() {
  find("refused").textContent = token ? "That is not a token of this service." : "";
  token = "";
  find("about").textContent = "";
  find("open").hidden = true;
  find("locked").hidden = false;
  find("token").focus();
}

// ---- one image

async function predict(model, bytes) {
  const query = new URLSearchParams({ top_k: TOP_LABELS, members: true, effort: find("effort").value });
  if (find("coverage").value) query.set("coverage", find("coverage").value);
  const path = `v1/models/${encodeURIComponent(model.name)}/predict?${query}`;
  const began = performance.now();
  // The service judges an image by its bytes: what the system calls the file must not make it refuse them.
  const response = await request(path, { method: "POST", body: bytes, headers: { "Content-Type": "application/octet-stream" } });
  const answer = await response.json();
  return { answer, ms: performance.now() - began };
}

async function ask(next) {
  subject = next;
  const mine = ++run;
  preview();
  for (const { button, number } of samples) button.setAttribute("aria-pressed", number === subject.sample);
  const results = new Map();
  for (const model of models) {
    find("cards").replaceChildren(...models.map((each) => card(each, results.get(each))));
    let result;
    try {
      result = await predict(model, subject.bytes);
    } catch (error) {
      result = { error };
    }
    if (mine !== run) return;
    results.set(model, result);
  }
  find("cards").replaceChildren(...models.map((model) => card(model, results.get(model))));
  settle();
  // In one column the answers would be out of sight.
  if (matchMedia("(max-width: 860px)").matches) find("answers").scrollIntoView();
  if (subject.sample !== undefined) mark(samples[subject.sample], results);
  const good = models.filter((model) => results.get(model).answer);
  if (good.length > 1) race(good, new Map(good.map((model) => [model, [results.get(model).ms]])));
  else find("race").hidden = true;
  say(`${subject.name}. ${models.map((model) => summary(model, results.get(model))).join(" ")} ${find("race").hidden ? "" : find("winner").textContent}`);
  if (good.some((model) => results.get(model).answer.model.repository !== repository) ||
      models.some((model) => results.get(model).error?.code === "unknown_model")) await load();
}

async function take(file) {
  if (!file) return;
  await ask({ bytes: await file.arrayBuffer(), name: file.name || "the pasted image", type: file.type });
}

function preview() {
  const image = find("preview");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(new Blob([subject.bytes], { type: subject.type }));
  image.alt = `What is asked about: ${subject.name}`;
  image.hidden = false;
  find("shown").textContent = subject.name + (subject.truth ? `: ${shown(subject.truth)}` : "");
}

function summary(model, { answer, error }) {
  if (error) return `${model.name}: ${error.message}.`;
  const [best] = answer.predictions;
  return `${model.name} says ${best.label}, ${percent(best.probability)}${judges(model, subject.truth) ? `, which is ${best.label === subject.truth ? "right" : "wrong"}` : ""}.`;
}

// ---- an answer in words

function card(model, result) {
  const box = make("article", { className: `card answer ${colour(model)}` }, make("div", {},
    make("h3", {}, model.name),
    make("p", { className: "soft small" }, [
      ...(model.members > 1 ? [`${model.members} members`] : []), `${large(model.parameters)} parameters`,
      `${large(model.macs)} multiply-accumulates`, `${model.image_size} pixels`, model.target].join(", "))));
  if (!result) box.append(make("p", { className: "soft" }, "asked …"));
  else if (result.error) box.append(make("p", { className: "notice" }, `${result.error.code}: ${result.error.message}`));
  else fill(box, model, result);
  return box;
}

function fill(box, model, { answer, ms }) {
  const [best] = answer.predictions;
  const verdict = !judges(model, subject.truth) ? null : best.label === subject.truth
    ? make("p", { className: "right" }, "✓ right")
    : make("p", { className: "wrong" }, `✗ wrong: it is ${shown(subject.truth)}`);
  box.append(make("div", {}, make("p", { className: "best" }, shown(best.label)), verdict));
  if (answer.unsure) box.append(make("p", { className: "notice" }, "Unsure: nobody should act on this answer."));
  box.append(make("ol", { className: "bars", ariaLabel: "Most probable labels" }, ...answer.predictions.map((item) => make("li", {},
    make("span", {}, shown(item.label)), make("span", {}, percent(item.probability)), bar(item.probability)))));
  box.append(make("div", { className: "words" }, ...words(model, answer).map(([name, text]) =>
    make("p", {}, make("b", {}, `${name}: `), text))));
  if (model.members > 1) box.append(votes(model, answer, best.label));
  box.append(stages(answer.timing_ms, ms));
}

function bar(share) {
  const inner = make("div", { className: "fill" });
  inner.dataset.share = share;
  return make("div", { className: "track", ariaHidden: "true" }, inner);
}

// Widths are set once the bars are in the page, so that they grow.
function settle() {
  requestAnimationFrame(() => {
    for (const inner of document.querySelectorAll("[data-share]")) inner.style.width = `${inner.dataset.share * 100}%`;
  });
}

function words(model, answer) {
  const { entropy, mutual_information: split } = answer.uncertainty, most = Math.log(model.num_classes);
  const level = ["hardly any", "some", "much", "great, it is guessing"][[0.1, 0.35, 0.75].filter((bound) => entropy > bound * most).length];
  const told = [["Doubt", `${level}; entropy ${entropy.toFixed(2)} of at most ${most.toFixed(2)} nats` +
    (model.members > 1 ? `, ${split.toFixed(2)} of it because members differ` : "")]];
  if (model.members > 1) told.push(["Effort", effort(model, answer)]);
  if (find("coverage").value) told.push(["Set", set(answer)]);
  return told;
}

function effort(model, { effort: by, members_used: used, partial }) {
  if (partial) return `${used} of ${model.members} members answered; the others were late or failed`;
  if (by === "full") return `all ${model.members} members answered`;
  const busyNow = by !== find("effort").value ? ", since the service is busy" : "";
  if (by === "fast") return `${used} of ${model.members} members were asked, the others not${busyNow}`;
  return used < model.members
    ? `${used} of ${model.members} members settled it, the others were not asked`
    : `the first members did not settle it, so all ${used} were asked`;
}

function set({ set: labels, set_reason: reason }) {
  if (!labels) return `none, since ${reason}`;
  const coverage = find("coverage").selectedOptions[0].value * 100;
  if (!labels.length) return "empty: no label is likely enough, a person should look at the image";
  if (labels.length === 1) return `${shown(labels[0].label)} alone; such sets hold the right label ${coverage} times in 100`;
  const first = labels.slice(0, 8).map((item) => shown(item.label)).join(", ");
  return `one of ${labels.length}: ${first}${labels.length > 8 ? ", …" : ""}; such sets hold the right label ${coverage} times in 100`;
}

function votes(model, answer, best) {
  const same = answer.members.filter((item) => item.label === best).length;
  return make("div", {},
    make("p", { className: "small" }, make("b", {}, "Members: "), `${same} of ${answer.members.length} say ${shown(best)}`),
    make("ul", { className: "votes", ariaLabel: `Votes of the members of ${model.name}` }, ...answer.members.map((item) =>
      make("li", { className: item.label === best ? "" : "differs" }, `${item.member + 1}: ${shown(item.label)} ${percent(item.probability)}`))));
}

function stages(timing, ms) {
  const { total, ...known } = timing;
  const inside = Object.values(known).reduce((sum, value) => sum + value, 0);
  const parts = { ...known, "queue, JSON": Math.max(0, total - inside), network: Math.max(0, ms - total) };
  const strip = make("div", { className: "stages", ariaHidden: "true" });
  const key = make("ul", { className: "key", ariaLabel: "Time of each stage" });
  Object.entries(parts).forEach(([name, value], index) => {
    const segment = make("span", { className: `m${index}` });
    segment.style.flexGrow = value;
    strip.append(segment);
    key.append(make("li", { className: `m${index}` }, `${name} ${value.toFixed(1)} ms`));
  });
  return make("div", {}, make("p", { className: "small" }, make("b", {}, "Time: "), `${milliseconds(ms)}, of these ${milliseconds(total)} in the service`), strip, key);
}

// ---- the race

function race(runners, laps) {
  const typical = new Map(runners.map((model) => [model, median(laps.get(model))]));
  const order = [...runners].sort((a, b) => typical.get(a) - typical.get(b));
  const [first, last] = [order[0], order.at(-1)], count = laps.get(first).length;
  const wins = laps.get(first).filter((ms, lap) => runners.every((model) => laps.get(model)[lap] >= ms)).length;
  find("winner").textContent = `${first.name} ${count > 1 ? `was first in ${wins} of ${count} laps` : "came first"}: ` +
    `${times(typical.get(last) / typical.get(first))} as fast as ${last.name}`;
  find("lanes").replaceChildren(...order.map((model) => make("li", { className: colour(model) },
    make("span", {}, model.name), make("span", {}, `${milliseconds(typical.get(model))}${count > 1 ? ", median" : ""}`),
    bar(typical.get(model) / typical.get(last)))));
  find("race").hidden = false;
  settle();
}

async function raceLaps() {
  const { bytes } = subject, mine = run, laps = new Map(models.map((model) => [model, []]));
  await busily(find("laps"), find("winner"), async () => {
    for (let lap = 0; lap < LAPS; lap++) {
      for (const model of lap % 2 ? [...models].reverse() : models) laps.get(model).push((await predict(model, bytes)).ms);
      if (mine !== run) return;
      race(models, laps);
    }
    say(find("winner").textContent);
  });
}

async function busily(button, place, work) {
  busy = button.disabled = true;
  try {
    await work();
  } catch (error) {
    place.textContent = `Given up: ${error.message}.`;
  } finally {
    busy = button.disabled = false;
  }
}

// ---- samples of the repository

async function showSamples() {
  find("samples").hidden = !samples.length;
  find("thumbnails").replaceChildren(...samples.map((sample) => {
    const image = make("img", { alt: `Test image ${sample.number + 1}` });
    sample.button = make("button", { type: "button", "aria-pressed": "false" }, image, shown(sample.label), make("br"), make("span", { className: "mark" }));
    sample.button.addEventListener("click", () => askSample(sample));
    sample.found = (async () => {
      sample.blob = await (await request(`v1/samples/${sample.number}`)).blob();
      image.src = URL.createObjectURL(sample.blob);
    })().catch(() => {});
    return make("li", {}, sample.button);
  }));
  find("score").textContent = "";
  if (samples.length) find("origin").textContent = `${samples[0].model} was not trained on them. Below each stands what it is.`;
}

async function bytesOf(sample) {
  await sample.found;
  return sample.blob.arrayBuffer();
}

async function askSample(sample) {
  const bytes = await bytesOf(sample);
  await ask({ bytes, type: sample.blob.type, name: `Test image ${sample.number + 1}`, truth: sample.label, sample: sample.number });
}

function mark(sample, results) {
  sample.right = new Map();
  for (const [model, { answer }] of results) {
    if (answer && judges(model, sample.label)) sample.right.set(model, answer.predictions[0].label === sample.label);
  }
  sample.button.querySelector(".mark").replaceChildren(...[...sample.right].flatMap(([model, right]) => [
    make("span", { className: right ? "right" : "wrong", title: model.name, ariaHidden: "true" }, right ? "✓" : "✗"),
    make("span", { className: "behind" }, ` ${model.name} ${right ? "right" : "wrong"}`),
  ]));
}

async function askAll() {
  await busily(find("all"), find("score"), async () => {
    for (const sample of samples) {
      const bytes = await bytesOf(sample), results = new Map();
      for (const model of models) results.set(model, await predict(model, bytes));
      mark(sample, results);
      find("score").textContent = models.map((model) => {
        const judged = samples.filter((each) => each.right?.has(model));
        return `${model.name}: ${judged.filter((each) => each.right.get(model)).length} of ${judged.length} right`;
      }).join("; ");
    }
    say(find("score").textContent);
  });
}

// ---- claims

function showClaims() {
  // A claim that compares two models is stamped on both.
  const told = [...new Map(models.flatMap((model) => model.claims.map((claim) => [claim.name + claim.sentence, { model, claim }]))).values()];
  find("claims").replaceChildren(...told.map(({ model, claim }) => {
    const measured = claim.estimate === null ? "" : `${Number(claim.estimate.toPrecision(4))} ${claim.unit}` +
      (claim.interval && claim.interval[0] < claim.interval[1] ? ` (${claim.interval.map((value) => Number(value.toPrecision(4))).join(" to ")})` : "");
    const state = claim.stale ? "stale" : claim.verdict;
    return make("li", {}, make("span", { className: `badge ${state}` }, state), make("div", {},
      make("p", {}, claim.sentence || `The claims of ${model.name} cannot be read`),
      make("p", { className: "soft small" }, [
        claim.stale && claim.verdict !== "unreadable" ? `was ${claim.verdict}` : "", measured,
        claim.verified_at ? `on ${claim.verified_at.slice(0, 10)}` : "", claim.stale ? claim.stale_reasons.join("; ") : "",
      ].filter(Boolean).join(", "))));
  }));
  if (!told.length) find("claims").append(make("li", {}, make("p", { className: "only soft" }, "None is stamped on these models: ", make("code", {}, "rrr verify --stamp"), " leaves its verdicts here.")));
}

// ---- p50 and p99 from the histograms of /metrics

// Counts of good answers to single images at most so many seconds long, by model: Map of bound -> count.
function histograms(text) {
  const found = new Map();
  for (const [, labels, value] of text.matchAll(/^rrr_request_duration_seconds_bucket\{(.*)\} (\S+)$/gm)) {
    const { model, route, outcome, le } = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, word]) => [key, word]));
    if (outcome !== "ok" || !model || !route.endsWith("/predict")) continue;
    const bounds = found.get(model) ?? found.set(model, new Map()).get(model);
    const bound = le === "+Inf" ? Infinity : Number(le);
    bounds.set(bound, (bounds.get(bound) ?? 0) + Number(value));
  }
  return found;
}

// Where the service asks several Tritons, how many of them answer.
function tellTritons(text) {
  const [known, answering] = ["known", "answering"].map((word) => Number(text.match(new RegExp(`^rrr_tritons_${word} (\\S+)$`, "m"))?.[1] ?? 0));
  find("tritons").hidden = known === 0;
  find("tritons").textContent = `${answering} of ${known} Tritons answer.`;
}

// As Prometheus's histogram_quantile: linear between the bounds of the bucket; seconds, or null without answers.
function quantile(share, bounds, before) {
  const counts = [...bounds].sort(([a], [b]) => a - b).map(([bound, count]) => [bound, count - (before?.get(bound) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let low = 0, below = 0;
  for (const [bound, count] of counts) {
    if (count >= share * all) return bound === Infinity ? low : low + (bound - low) * (share * all - below) / (count - below || 1);
    [low, below] = [bound, count];
  }
  return low;
}

const scrapes = [];  // {at, found}
const points = [];  // {at, of: Map of model name -> {p50, p99, answers}}

async function watch() {
  const mine = watch.number = (watch.number ?? 0) + 1;  // after another token there is another one
  while (mine === watch.number) {
    if (!busy && document.visibilityState === "visible") {
      try {
        const text = await (await request("metrics")).text();
        note(performance.now() / 1000, histograms(text));
        tellTritons(text);
        draw();
      } catch (error) {
        if (error.status === 401) return;
        scrapes.length = 0;  // what is missed cannot be told from what did not happen
      }
    }
    await sleep(SCRAPE_SECONDS);
  }
}

function note(at, found) {
  while (scrapes.length && scrapes[0].at < at - WINDOW_SECONDS - 1) scrapes.shift();
  const all = (bounds) => bounds?.get(Infinity) ?? 0;
  const before = scrapes[0]?.found;
  if (before && [...before].some(([model, bounds]) => all(found.get(model)) < all(bounds))) scrapes.length = 0;  // begun anew
  else if (before) {
    points.push({ at, of: new Map([...found].map(([model, bounds]) => [model, {
      p50: quantile(0.5, bounds, before.get(model)), p99: quantile(0.99, bounds, before.get(model)),
      answers: all(bounds) - all(before.get(model)),
    }])) });
  }
  scrapes.push({ at, found });
  while (points.length && points[0].at < at - CHART_SECONDS) points.shift();
}

function drawn(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function draw() {
  const chart = find("chart"), width = chart.clientWidth || 600, now = points.at(-1)?.at ?? 0;
  const [left, right, top, bottom] = [52, 12, 10, 26];
  const values = points.flatMap(({ of }) => [...of.values()].flatMap(({ p50, p99 }) => [p50, p99])).filter((value) => value !== null);
  const most = Math.max(...values, 0.001) * 1.1, power = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => most / size <= 5);
  const x = (at) => width - right - (now - at) / CHART_SECONDS * (width - left - right);
  const y = (seconds) => CHART_HEIGHT - bottom - seconds / most * (CHART_HEIGHT - top - bottom);
  const parts = [];
  for (let value = 0; value <= most; value += step) {
    parts.push(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    parts.push(drawn("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${Number((value * 1000).toPrecision(3))} ms`));
  }
  for (const ago of [120, 90, 60, 30, 0]) {
    parts.push(drawn("text", { x: x(now - ago), y: CHART_HEIGHT - 6, "text-anchor": ago ? "middle" : "end" }, ago ? `-${ago} s` : "now"));
  }
  for (const model of models) {
    for (const kind of ["p99", "p50"]) {
      let line = [];
      for (const { at, of } of [...points, { at: now, of: new Map() }]) {
        const value = of.get(model.name)?.[kind] ?? null;
        if (value !== null) line.push([x(at), y(value)]);
        else {
          if (line.length > 1) parts.push(drawn("polyline", { class: `${colour(model)} ${kind}`, points: line.map((pair) => pair.map((n) => n.toFixed(1)).join()).join(" ") }));
          if (line.length === 1) parts.push(drawn("circle", { class: colour(model), cx: line[0][0], cy: line[0][1], r: 2.5 }));
          line = [];
        }
      }
    }
  }
  if (!values.length) parts.push(drawn("text", { x: width / 2, y: CHART_HEIGHT / 2, "text-anchor": "middle" }, "no answers yet"));
  chart.setAttribute("viewBox", `0 0 ${width} ${CHART_HEIGHT}`);
  chart.replaceChildren(...parts);
  const latest = points.at(-1)?.of;
  find("legend").replaceChildren(...models.map((model) => {
    const { p50 = null, p99 = null, answers = 0 } = latest?.get(model.name) ?? {};
    const told = p50 === null ? `no answers in the last ${WINDOW_SECONDS} s`
      : `p50 ${milliseconds(p50 * 1000)}, p99 ${milliseconds(p99 * 1000)}, ${answers} ${answers === 1 ? "answer" : "answers"}`;
    return make("li", { className: colour(model) }, make("b", {}, model.name), ` ${told}`);
  }));
}

// ---- what a person does

for (const id of ["file", "photo"]) {
  find(id).addEventListener("change", async ({ target }) => {
    await take(target.files[0]);
    target.value = "";  // the same file may be chosen again
  });
}
for (const id of ["effort", "coverage"]) find(id).addEventListener("change", () => subject && ask(subject));
find("laps").addEventListener("click", raceLaps);
find("all").addEventListener("click", askAll);
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();  // else the browser would leave the page for the file
    find("drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else say(find("shown").textContent = "That was no file: an address is not fetched. Save the image, then drop it here.");
  });
}
find("locked").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  find("token").value = "";
  await start();
  if (!find("open").hidden) find("file").focus();
});
new ResizeObserver(draw).observe(find("chart"));
start();
