// Runs what the computer planned, candidate beside candidate, and sends every finding at once.

import { facts, unit } from "./facts.mjs";
import { draw, finish, say, show, trouble } from "./view.mjs";

const BEAT_MS = 3000;
const TRIES = 6;
const PAUSE_BEFORE_TRY_MS = 1500;
const LOAD_LIMIT_MS = 15 * 60 * 1000;
const CALL_LIMIT_MS = 10 * 60 * 1000;

class Refused extends Error {
  constructor(reason, status = 0) {
    super(reason);
    this.status = status;
  }
}

const WRONG_OUTPUT = 422;

let work; // what the computer asked for
let said = 0; // messages
let leaving = false;
let hidden = document.hidden; // since the beginning of a round
const runners = new Map();

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function post(path, body, type = "application/json") {
  for (let attempt = 1; ; attempt += 1) {
    let answer;
    let content;
    try {
      answer = await fetch(path, { method: "POST", headers: { "Content-Type": type }, body });
      content = await answer.json();
    } catch {
      if (attempt === TRIES) throw new Refused("The computer does not answer any more. Was the command stopped?");
      await sleep(PAUSE_BEFORE_TRY_MS);
      continue;
    }
    if (!answer.ok) throw new Refused(content.error, answer.status);
    return content;
  }
}

// Messages are numbered, so that one that is sent again, for its answer was lost, counts once. One that is refused does
// not count.
async function tell(message) {
  const answer = await post(`api/${work.run}/say/${said + 1}`, JSON.stringify(message));
  said += 1;
  return answer;
}

// A word that needs no answer.
const beacon = (word) => work && !leaving && navigator.sendBeacon(`api/${work.run}/${word}`);

// Strings as the computer takes them: one line, printable, not long.
const plain = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").slice(0, 290);

class Runner {
  constructor() {
    this.worker = new Worker(new URL("./runner.mjs", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data: { id, value, error } }) => {
      const answer = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) answer?.done(value);
      else answer?.failed(new Error(error));
    };
    this.worker.onerror = (event) => {
      for (const answer of this.waiting.values()) answer.failed(new Error(event.message || "its thread ended"));
      this.waiting.clear();
    };
  }

  ask(act, given, limit) {
    const id = (this.count += 1);
    return new Promise((done, failed) => {
      const timer = setTimeout(() => failed(new Error(`no answer within ${limit / 60000} minutes`)), limit);
      const ended = (how) => (value) => { clearTimeout(timer); how(value); };
      this.waiting.set(id, { done: ended(done), failed: ended(failed) });
      this.worker.postMessage({ id, act, given });
    });
  }

  close() {
    this.worker.terminate();
  }
}

async function failed(candidate, error) {
  candidate.failed = plain(error.message);
  runners.get(candidate.number)?.close();
  runners.delete(candidate.number);
  draw(work);
  await tell({ kind: "failed", candidate: candidate.number, reason: candidate.failed });
}

// What a runner gives; undefined where it failed, which the computer knows then.
async function attempt(candidate, act, given, limit = CALL_LIMIT_MS) {
  try {
    return await runners.get(candidate.number).ask(act, given, limit);
  } catch (error) {
    await failed(candidate, error);
    return undefined;
  }
}

// Load and prove a candidate; its times, or undefined where it failed.
async function load(candidate) {
  say(`Loading ${candidate.name}`);
  runners.set(candidate.number, new Runner());
  const given = { candidate, threads: work.threads, unit: unit() };
  const loaded = await attempt(candidate, "load", given, LOAD_LIMIT_MS);
  if (!loaded) return undefined;
  const { outputs, ...times } = loaded;
  say(`Checking the output of ${candidate.name}`);
  try {
    await post(`api/${work.run}/outputs/${candidate.number}`, outputs, "application/octet-stream");
  } catch (error) {
    if (error.status !== WRONG_OUTPUT) throw error;
    candidate.failed = error.message;
    runners.get(candidate.number).close();
    runners.delete(candidate.number);
    draw(work);
    return undefined;
  }
  return times;
}

async function warmUp(candidate, times) {
  say(`Warming up ${candidate.name}`);
  const { window, spread, limit, steps, batch: most } = work.protocol;
  const batch = await attempt(candidate, "calibrate", { least: steps * work.clock, most });
  if (batch === undefined) return;
  candidate.batch = batch;
  const warmup = [];
  while (warmup.length < limit && !isSteady(warmup, window, spread)) {
    await inFront();
    const ms = await attempt(candidate, "measure", { batch });
    if (ms === undefined) return;
    warmup.push(ms || work.clock / batch);
  }
  await tell({ kind: "ready", candidate: candidate.number, ...positive(times), warmup_ms: warmup, batch });
}

// A clock that has not moved at all says that the time was below its step, which is taken for it.
const positive = (times) => Object.fromEntries(Object.entries(times).map(([name, ms]) => [name, ms || work.clock]));

function isSteady(times, window, spread) {
  if (times.length < window) return false;
  const last = times.slice(-window).sort((a, b) => a - b);
  const middle = (last[Math.floor((window - 1) / 2)] + last[Math.ceil((window - 1) / 2)]) / 2;
  return last[window - 1] - last[0] <= spread * middle;
}

const live = () => work.candidates.filter(({ number }) => runners.has(number));

// Wait until the page is in front: browsers slow down pages that are not. The seconds that this took.
async function inFront() {
  if (!document.hidden) return 0;
  const since = performance.now();
  show("waiting", "Waiting for this page to be in front");
  beacon("hidden");
  await new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
  });
  show("", "Going on");
  return (performance.now() - since) / 1000;
}

// The times of one round; undefined where it does not count, for a candidate failed or the page was not in front.
async function round(number) {
  const now = live();
  const times = work.candidates.map(() => null);
  hidden = document.hidden;
  for (let offset = 0; offset < now.length; offset += 1) {
    const candidate = now[(number + offset) % now.length];
    const ms = await attempt(candidate, "settled", { batch: candidate.batch });
    if (ms === undefined) return undefined;
    times[candidate.number] = ms || work.clock / candidate.batch;
  }
  return hidden ? undefined : times;
}

async function repeat(number, first, count) {
  let waited = 0;
  if (number > 0) {
    say("A short rest between repeats");
    await sleep(work.protocol.pause * 1000);
    waited = work.protocol.pause;
  }
  waited += await inFront();
  await tell({ kind: "begin", repeat: number, waited_s: waited });
  for (let at = first; at < first + count && live().length;) {
    say(`Round ${at + 1} of ${work.rounds}`);
    const times = await round(at);
    if (document.hidden || hidden) {
      waited = await inFront();
      for (const candidate of live()) await attempt(candidate, "measure", { batch: candidate.batch });
      if (live().length) await tell({ kind: "begin", repeat: number, waited_s: waited });
      continue;
    }
    if (times === undefined) continue;
    await tell({ kind: "round", number: at, times_ms: times });
    times.forEach((ms, place) => ms !== null && work.candidates[place].times.push(ms));
    at += 1;
    work.done = at;
    draw(work);
  }
}

async function operators(candidate) {
  say(`Operators of ${candidate.name}`);
  if (!runners.has(candidate.number)) await load(candidate);
  if (!runners.has(candidate.number)) return;
  const rows = await attempt(candidate, "profile", { candidate, unit: unit(), runs: work.protocol.runs });
  if (rows === undefined) return;
  const answer = await tell({ kind: "operators", candidate: candidate.number, rows });
  if (answer.failed) {
    candidate.failed = answer.failed;
    draw(work);
  }
}

async function stayAwake() {
  try {
    await navigator.wakeLock?.request("screen");
  } catch {
    // not allowed now, for example on a low battery: the page says to keep the screen on
  }
}

async function run() {
  const found = await facts();
  work = await post("api/begin", JSON.stringify(found));
  work.clock = found.clock_ms;
  draw(work);
  await stayAwake();
  const beat = setInterval(() => beacon(document.hidden ? "hidden" : "here"), BEAT_MS);
  document.addEventListener("visibilitychange", () => {
    hidden ||= document.hidden;
    beacon(document.hidden ? "hidden" : "here");
    if (!document.hidden) stayAwake();
  });
  addEventListener("pagehide", () => {
    beacon("closed");
    leaving = true; // browsers say afterwards that the page is hidden
  });
  addEventListener("pageshow", () => { leaving = false; });
  try {
    await measureAll();
  } catch (error) {
    if (!leaving) await tell({ kind: "gave up", reason: plain(error.message) }).catch(() => {});
    throw error;
  } finally {
    clearInterval(beat);
    work = undefined;
    for (const runner of runners.values()) runner.close();
  }
}

async function measureAll() {
  if (work.left.length) {
    for (const candidate of work.candidates.filter((one) => !one.failed)) {
      await inFront();
      const times = await load(candidate);
      if (times) await warmUp(candidate, times);
    }
  }
  for (const [number, first, count] of work.left) if (live().length) await repeat(number, first, count);
  for (const candidate of work.candidates.filter((one) => one.operators && !one.failed)) {
    await inFront();
    await operators(candidate);
  }
  await tell({ kind: "done" });
  finish(work);
}

try {
  await run();
} catch (error) {
  trouble(error instanceof Refused ? error.message : `This page failed: ${plain(error.message)}`);
}
