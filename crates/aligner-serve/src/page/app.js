// The page of `aligner serve`. Everything that comes from a server is inserted as text, never as markup.

const $ = (id) => document.getElementById(id);
const form = $("form");

/** What became of an answer, in words; a word that is missing here is shown as it is. */
const OUTCOMES = {
  corrected: "Corrected.",
  unchanged: "Nothing to correct.",
  off: "Not corrected: correction is off.",
  audited: "Original served, correction recorded.",
  passed_tool_calls: "Not corrected: it calls tools.",
  passed_json: "Not corrected: it is JSON.",
  passed_code: "Not corrected: it is mostly code.",
  passed_refusal: "Not corrected: it declines to answer.",
  passed_length: "Not corrected: it is too long.",
  passed_empty: "Not corrected: it has no text.",
  gated_empty: "Correction rejected: it was empty.",
  gated_runaway: "Correction rejected: it did not end.",
  gated_language: "Correction rejected: another language.",
  gated_length: "Correction rejected: far too long.",
  gated_reward: "Correction rejected: a reward model prefers the answer.",
  aligner_failed: "The Aligner failed.",
  aligner_timeout: "The Aligner took too long.",
  upstream_failed: "The upstream failed.",
};

const ABOUT = {
  ask: "The question goes to the upstream model. Its answer comes back with its correction.",
  correct: "Paste a question and an answer to it, from any model.",
};

let service = { model: "", mode: "buffer", upstream: true, keys: false };
let tab = "ask";
/** The AbortController of the request that is under way. */
let running = null;

/** An error that the service reported, and its HTTP status if it was one. */
class ServiceError extends Error {
  constructor(error, status) {
    super(error?.message ?? (typeof error === "string" ? error : JSON.stringify(error)));
    this.status = status;
  }
}

// ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function call(path, init = {}) {
  const headers = init.body ? { "Content-Type": "application/json" } : {};
  const key = $("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...init, headers });
  if (response.ok) return response;
  if (response.status === 401) $("key-field").hidden = false;
  // A proxy in between may answer with a page of its own, which would say nothing here.
  const { error } = await response.json().catch(() => ({}));
  throw new ServiceError(error ?? `The service answered with HTTP status ${response.status}.`, response.status);
}

/** The JSON frames of an event stream, up to `[DONE]`. */
async function* frames(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) {
        data.push(line.slice(5));
      } else if (line === "" && data.length > 0) {
        const text = data.join("\n").trim();
        data = [];
        if (text === "[DONE]") return;
        yield JSON.parse(text);
      }
    }
  }
}

/** The request that the form describes: `run` sends it, `curlCommand` writes it out. */
function request() {
  const question = $("question").value;
  if (tab === "correct") {
    return { path: "v1/corrections", body: { question, answer: $("answer").value, stream: true } };
  }
  const body = {
    model: $("model").value.trim(),
    messages: [{ role: "user", content: question }],
    stream: true,
    aligner: { mode: $("mode").value, include_original: true, edits: true },
  };
  return { path: "v1/chat/completions", body };
}

/**
 * What a frame says, the same for both ways of asking: `delta` and `audited` are more text of the correction and of the
 * answer, `original` is the answer as a whole, `final` is said once.
 */
function read(frame, body) {
  if (frame.error) throw new ServiceError(frame.error);
  if (frame.object === "correction.chunk") return { delta: frame.delta };
  if (frame.object === "correction") return { final: { ...frame, text: frame.correction } };
  const said = frame.aligner ?? {};
  const delta = frame.choices?.[0]?.delta?.content;
  return {
    [body.aligner?.mode === "audit" ? "audited" : "delta"]: delta,
    original: said.original,
    // An audited stream is the upstream's own: its end is all that it says.
    final: said.outcome ? said : body.aligner?.mode === "audit" && frame.choices?.[0]?.finish_reason && { outcome: "audited" },
  };
}

// ── Running ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function setState(state) {
  document.body.dataset.state = state;
  const busy = state === "running";
  $("result").setAttribute("aria-busy", busy);
  // Not `disabled`: the button would lose the focus that it was pressed with.
  $("submit").setAttribute("aria-disabled", busy);
  if (!busy && document.activeElement === $("stop")) $("submit").focus();
}

/** More text at the end of a pane. */
function append(pane, text) {
  if (pane.lastChild) pane.lastChild.appendData(text);
  else pane.append(text);
}

async function run() {
  if (running || !form.reportValidity()) return;
  const { path, body } = request();
  const [left, right] = [$("left"), $("right")];
  const audit = body.aligner?.mode === "audit";
  const controller = (running = new AbortController());

  for (const id of ["ratio", "added", "first", "tokens"]) $(id).textContent = "–";
  $("error").textContent = "";
  left.textContent = body.answer ?? "";
  right.textContent = left.dataset.empty = "";
  right.dataset.empty = audit ? "None here: it is made behind the answer and only recorded." : "";
  $("left-title").textContent = "Answer";
  $("right-title").textContent = "Correction";
  $("outcome").textContent = body.answer == null ? "Waiting for the answer…" : "Correcting…";
  // Sentence by sentence the answer is known as a whole only at the end.
  $("panes").dataset.answer = body.aligner?.mode === "sentence" ? "last" : "first";
  $("panes").dataset.writing = body.answer == null ? "left" : "right";
  $("result").hidden = $("panes").hidden = $("facts").hidden = false;
  setState("running");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("result").scrollIntoView({ block: "nearest", behavior: still ? "auto" : "smooth" });

  let state = "done";
  try {
    const response = await call(path, { method: "POST", body: JSON.stringify(body), signal: controller.signal });
    let result;
    for await (const frame of frames(response)) {
      const { delta, audited, original, final } = read(frame, body);
      if (original != null) {
        left.textContent = original;
        if (!audit && !final) writing("right", "Correcting…");
      }
      if (audited) {
        writing("left", "Answering…");
        append(left, audited);
      }
      if (delta) {
        writing("right", "Correcting…");
        append(right, delta);
      }
      if (final) result = final;
    }
    if (!result) throw new Error("The stream ended early: what is shown here is not complete.");
    show(result);
  } catch (error) {
    state = controller.signal.aborted ? "idle" : "failed";
    if (controller.signal.aborted) $("outcome").textContent = "Stopped.";
    else fail(error, body.answer);
    // Half a correction must not look like a whole one.
    if (right.textContent) $("right-title").textContent = "Correction, not complete";
  }
  running = null;
  setState(state);
}

/** Where text is being written now. Said only when it changes: a status that is set again is read out again. */
function writing(side, words) {
  $("panes").dataset.writing = side;
  if ($("outcome").textContent !== words) $("outcome").textContent = words;
}

function fail(error, pasted = "") {
  // `fetch` and the reading of a stream report a lost connection as a TypeError, in words that differ by browser.
  const lost = error instanceof TypeError;
  $("error").textContent = lost ? `No connection to the service (${error.message}).` : error.message;
  $("outcome").textContent = "Failed.";
  // Texts that have come so far stay; where there are none, neither do empty panes.
  $("panes").hidden = $("facts").hidden = !$("right").textContent && $("left").textContent === pasted;
  if (error.status === 401) $("key").focus();
}

function show(result) {
  const [left, right] = [$("left"), $("right")];
  const { outcome, served, usage } = result;
  if (result.original != null) left.textContent = result.original;
  if (outcome !== "audited") {
    if (result.text != null) right.textContent = result.text;
    if (served === "block") $("right-title").textContent = "Served in its place";
    if (served === "original" && outcome !== "unchanged") $("right-title").textContent = "Served as it was";
    // Edits lead to the correction: beside another text they would mark what is not there.
    if (served === "correction" && result.edits?.length) {
      mark(left, result.edits, "delete");
      mark(right, result.edits, "insert");
    }
    right.dataset.empty = "No text.";
  }
  left.dataset.empty = "No text.";
  $("outcome").textContent = OUTCOMES[outcome] ?? outcome;
  $("ratio").textContent = percent(result.edit_ratio);
  $("added").textContent = milliseconds(result.added_ms);
  $("first").textContent = milliseconds(result.first_token_ms);
  $("tokens").textContent = usage ? `${usage.prompt_tokens} in, ${usage.completion_tokens} out` : "–";
}

/** Writes one side of the edits: `op` is marked, its opposite belongs to the other side. */
function mark(pane, edits, op) {
  pane.textContent = "";
  for (const edit of edits) {
    if (edit.op === "keep") {
      pane.append(edit.text);
    } else if (edit.op === op) {
      // White space at the ends stays outside: a line under or through it would look like a word.
      const [, before, words, after] = edit.text.match(/^(\s*)(.*?)(\s*)$/s);
      const element = document.createElement(op === "delete" ? "del" : "ins");
      element.textContent = words;
      pane.append(before, ...(words ? [element] : []), after);
    }
  }
}

function percent(ratio) {
  if (ratio == null) return "–";
  const value = ratio * 100;
  return value > 0 && value < 1 ? "< 1 %" : `${Math.round(value)} %`;
}

function milliseconds(value) {
  return value == null ? "–" : `${Math.round(value)} ms`;
}

// ── curl ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A word of a POSIX shell: inside of single quotes only the single quote itself means anything. */
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curlCommand() {
  const { path, body } = request();
  const parts = [`curl -N ${quote(new URL(path, location.origin + location.pathname).href)}`];
  parts.push(`-H ${quote("Content-Type: application/json")}`);
  // Double quotes, so that the shell fills the key in: the real one is never copied.
  if (service.keys || $("key").value.trim()) parts.push('-H "Authorization: Bearer $ALIGNER_KEY"');
  parts.push(`-d ${quote(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

async function copyCurl() {
  if (!form.reportValidity()) return;
  const command = curlCommand();
  try {
    await navigator.clipboard.writeText(command);
    $("command-field").hidden = true;
    $("note").textContent = "Copied.";
  } catch {
    // No permission, or a page without HTTPS, where there is no clipboard.
    $("command-field").hidden = false;
    $("command").value = command;
    $("command").select();
    $("note").textContent = "Copying is blocked: copy the command below.";
  }
  setTimeout(() => ($("note").textContent = ""), 3000);
}

// ── Tabs and start ──────────────────────────────────────────────────────────────────────────────────────────────────

function select(name) {
  if (name === "ask" && !service.upstream) name = "correct";
  tab = name;
  for (const other of ["ask", "correct"]) {
    const chosen = other === name;
    $(`tab-${other}`).setAttribute("aria-selected", chosen);
    $(`tab-${other}`).tabIndex = chosen ? 0 : -1;
    // Disabled as well as hidden: a field that cannot be seen must not hold the form back.
    $(`${other}-fields`).hidden = $(`${other}-fields`).disabled = !chosen;
  }
  $("panel").setAttribute("aria-labelledby", `tab-${name}`);
  $("about").textContent = ABOUT[name];
  $("submit").textContent = name === "ask" ? "Ask" : "Correct";
}

function onTabKey(event) {
  const tabs = [$("tab-ask"), $("tab-correct")];
  const at = tabs.indexOf(event.target);
  const to = { ArrowLeft: 1 - at, ArrowRight: 1 - at, Home: 0, End: 1 }[event.key];
  if (to == null) return;
  event.preventDefault();
  // A disabled tab takes the focus, so that it and its explanation are read, but is not chosen.
  tabs[to].focus();
  select(to === 0 ? "ask" : "correct");
}

async function loadService() {
  try {
    service = { ...service, ...(await (await call("v1/aligner")).json()) };
  } catch (error) {
    $("result").hidden = false;
    fail(error);
  }
  $("service").textContent = [service.model, service.version && `version ${service.version}`].filter(Boolean).join(", ");
  if (service.keys || $("key").value) $("key-field").hidden = false;
  if (!service.upstream) {
    $("tab-ask").setAttribute("aria-disabled", "true");
    $("tab-ask").setAttribute("aria-describedby", "no-upstream");
    $("no-upstream").hidden = false;
    $("about").hidden = true;
  }
  const modes = [...$("mode").options].map((option) => option.value);
  if (modes.includes(service.mode)) $("mode").value = service.mode;
}

/** Fills in the upstream's models. Without the list a model can still be typed, so a failure is no error. */
async function loadModels() {
  if (!service.upstream) return;
  try {
    const { data } = await (await call("v1/models")).json();
    const ids = data.map((model) => model.id).filter((id) => id !== service.model);
    $("models").replaceChildren(...ids.map((id) => new Option("", id)));
    $("model").value ||= ids[0] ?? "";
  } catch (error) {
    console.warn(`No list of models: ${error.message}`);
  }
}

/** Fills the form from the fragment of the address, for links and tests, and says whether it is to be submitted. */
function prefill() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const id of ["question", "answer", "model", "mode"]) {
    if (wanted.has(id)) $(id).value = wanted.get(id);
  }
  if (!$("mode").value) $("mode").value = "buffer";
  if (["ask", "correct"].includes(wanted.get("tab"))) select(wanted.get("tab"));
  return wanted.get("run") === "1";
}

/** The key is kept for this tab only; where the browser forbids that, it lasts as long as the page. */
function keepKey(key) {
  try {
    if (key == null) return sessionStorage.getItem("aligner-key") ?? "";
    sessionStorage.setItem("aligner-key", key);
  } catch {
    // Storage is blocked.
  }
  return "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
    event.preventDefault();
    run();
  }
});
for (const name of ["ask", "correct"]) {
  $(`tab-${name}`).addEventListener("click", () => select(name));
  $(`tab-${name}`).addEventListener("keydown", onTabKey);
}
$("stop").addEventListener("click", () => running?.abort());
$("curl").addEventListener("click", copyCurl);
$("key").addEventListener("input", () => keepKey($("key").value.trim()));
$("key").addEventListener("change", loadModels);
addEventListener("hashchange", () => prefill() && run());

if (/Mac|iPhone|iPad/.test(navigator.platform)) $("shortcut").firstElementChild.textContent = "⌘";
$("key").value = keepKey();
await loadService();
select("ask");
const submits = prefill();
$("main").hidden = false;
const models = loadModels();
// A list that does not come must not keep a link waiting that names its model.
if (submits && tab === "ask" && !$("model").value.trim()) await models;
if (submits) run();
