// Runs one candidate in a thread of its own, so that the page can go on speaking, and times it by this thread's clock.

const BUNDLES = {
  wasm: "ort/ort.wasm.bundle.min.mjs",
  webgpu: "ort/ort.webgpu.bundle.min.mjs",
  webnn: "ort/ort.webgpu.bundle.min.mjs",
};
const BINARIES = {
  wasm: "ort/ort-wasm-simd-threaded.wasm",
  webgpu: "ort/ort-wasm-simd-threaded.asyncify.wasm",
  webnn: "ort/ort-wasm-simd-threaded.asyncify.wasm",
};
// A model of one Identity: it brings the runtime up, so that loading the real one is timed without that.
const NOTHING =
  "CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEQ==";
const ARRAYS = {
  float32: Float32Array, float16: globalThis.Float16Array ?? Uint16Array, float64: Float64Array, int64: BigInt64Array,
  int32: Int32Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};

let ort;
let session;
let feeds;
let printed = null; // what the runtime prints, while it is to be caught

// The runtime takes hold of this when it is imported, and prints its profile by it.
const print = console.log.bind(console);
console.log = (...words) => (printed ? printed.push(words.join(" ")) : print(...words));

const local = (path) => new URL(path, self.location.href).href;

async function fetched(path) {
  const answer = await fetch(local(path));
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.arrayBuffer();
}

function options(candidate, unit) {
  const { provider } = candidate;
  const chosen = provider === "webnn" ? { name: "webnn", deviceType: unit } : provider;
  return { executionProviders: [chosen], graphOptimizationLevel: "all", logSeverityLevel: 3 };
}

async function load({ candidate, threads, unit }) {
  ort = await import(local(BUNDLES[candidate.provider]));
  ort.env.wasm.numThreads = candidate.provider === "wasm" ? threads : 1;
  ort.env.wasm.wasmPaths = { wasm: local(BINARIES[candidate.provider]) };
  const nothing = Uint8Array.from(atob(NOTHING), (letter) => letter.charCodeAt(0));
  await (await ort.InferenceSession.create(nothing, options(candidate, unit))).release();
  const model = new Uint8Array(await fetched(`files/${candidate.model}`));
  const arrays = [];
  for (const input of candidate.inputs) {
    arrays.push(new ort.Tensor(input.dtype, new ARRAYS[input.dtype](await fetched(`files/${input.file}`)), input.shape));
  }
  const started = performance.now();
  session = await ort.InferenceSession.create(model, options(candidate, unit));
  const loaded = performance.now();
  if (session.inputNames.length !== arrays.length) throw new Error(`takes ${session.inputNames.length} inputs`);
  feeds = Object.fromEntries(session.inputNames.map((name, place) => [name, arrays[place]]));
  const before = performance.now();
  const found = await session.run(feeds);
  const ended = performance.now();
  return { load_ms: loaded - started, first_ms: ended - before, outputs: joined(session.outputNames.map((n) => found[n])) };
}

// The outputs' bytes, one behind the other.
function joined(tensors) {
  const parts = tensors.map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole.buffer;
}

// Milliseconds of one inference: of `batch` in a row, their mean. The outputs are in the processor's memory at the end.
async function measure({ batch }) {
  const started = performance.now();
  for (let call = 0; call < batch; call += 1) await session.run(feeds);
  return (performance.now() - started) / batch;
}

// How many calls in a row last as long as the clock needs to tell them well: the quickest of several times decides,
// for the first calls of a model are slow ones.
async function calibrate({ least, most }) {
  let batch = 1;
  for (;;) {
    let took = Infinity;
    for (let time = 0; time < 3 && took >= least; time += 1) took = Math.min(took, (await measure({ batch })) * batch);
    if (took >= least || batch >= most) return batch;
    batch = Math.min(most, Math.max(batch * 2, took > 0 ? Math.ceil((batch * least) / took) : 0));
  }
}

// One event of a profile; undefined for a line that is none.
function event(line) {
  try {
    return JSON.parse(line.trim().replace(/,$/, ""));
  } catch {
    return undefined;
  }
}

// By operator and provider: mean milliseconds and calls an inference, in a session of its own, its first run left out.
async function profile({ candidate, unit, runs }) {
  await session.release();
  const model = new Uint8Array(await fetched(`files/${candidate.model}`));
  session = await ort.InferenceSession.create(model, { ...options(candidate, unit), enableProfiling: true });
  for (let run = 0; run <= runs; run += 1) await session.run(feeds);
  printed = [];
  try {
    session.endProfiling();
    await new Promise((done) => setTimeout(done));
    return summed(printed.map(event).filter(Boolean), runs);
  } finally {
    printed = null;
  }
}

function summed(events, runs) {
  const whole = events.filter(({ cat, name }) => cat === "Session" && name === "model_run");
  if (whole.length !== runs + 1) return [];
  const from = Math.min(...whole.map(({ ts, dur }) => ts + dur));
  const rows = new Map();
  for (const { cat, name, ts, dur, args } of events) {
    if (cat !== "Node" || !name.endsWith("_kernel_time") || ts < from) continue;
    const provider = (args.provider ?? "").replace("ExecutionProvider", "");
    const key = `${args.op_name} ${provider}`;
    const row = rows.get(key) ?? { operator: args.op_name, provider, ms: 0, calls: 0 };
    rows.set(key, { ...row, ms: row.ms + dur / 1000 / runs, calls: row.calls + 1 });
  }
  return [...rows.values()].map((row) => ({ ...row, calls: Math.max(1, Math.round(row.calls / runs)) }));
}

// One call to wake the clocks that sank while others ran, then the timed.
async function settled(given) {
  await session.run(feeds);
  return measure(given);
}

const ACTS = { load, measure, settled, calibrate, profile };

self.onmessage = async ({ data: { id, act, given } }) => {
  try {
    self.postMessage({ id, value: await ACTS[act](given) });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
