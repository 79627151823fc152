// What the browser tells of itself and of the device. What it does not tell is null.

const short = (text, most = 290) => (text ? String(text).slice(0, most) : null);
const NAME = 80; // characters of what becomes a device's name
const UNITS = ["npu", "gpu", "cpu"];
const STEPS = 40;

let webnnUnit = null;

// The kind of unit for which WebNN gave a context.
export const unit = () => webnnUnit;

// The smallest step that the clock was seen to make, in milliseconds.
function clockStep() {
  let least = Infinity;
  for (let step = 0; step < STEPS; step += 1) {
    const before = performance.now();
    let now = before;
    while (now === before) now = performance.now();
    least = Math.min(least, now - before);
  }
  return Number(least.toPrecision(3));
}

async function webgpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) return [];
    const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info ?? {};
    const words = Object.entries({ vendor, architecture, device, description });
    const told = Object.fromEntries(words.map(([name, word]) => [name, short(word) ?? ""]));
    const fallback = Boolean(isFallbackAdapter ?? adapter.isFallbackAdapter);
    return [{ provider: "webgpu", adapter: { ...told, fallback } }];
  } catch {
    return []; // a browser that has the interface and no adapter may say so by failing
  }
}

async function webnn() {
  if (!navigator.ml) return [];
  for (const deviceType of UNITS) {
    try {
      const context = await navigator.ml.createContext({ deviceType });
      context.destroy?.();
      webnnUnit = deviceType;
      return [{ provider: "webnn", unit: deviceType }];
    } catch {
      // no such unit: the next one
    }
  }
  return [];
}

async function power() {
  try {
    const { charging, level } = await navigator.getBattery();
    return { charging, battery: level };
  } catch {
    return { charging: null, battery: null };
  }
}

async function hints() {
  try {
    const names = ["model", "platformVersion"];
    const { platform, platformVersion, model } = await navigator.userAgentData.getHighEntropyValues(names);
    return { platform: short(platform, NAME), platform_version: short(platformVersion, NAME), model: short(model, NAME) };
  } catch {
    return { platform: null, platform_version: null, model: null };
  }
}

export async function facts() {
  return {
    user_agent: navigator.userAgent.slice(0, 290),
    ...(await hints()),
    cores: navigator.hardwareConcurrency ?? null,
    device_memory_gib: navigator.deviceMemory ?? null,
    ...(await power()),
    isolated: Boolean(self.crossOriginIsolated),
    clock_ms: clockStep(),
    offers: [...(globalThis.WebAssembly ? [{ provider: "wasm" }] : []), ...(await webgpu()), ...(await webnn())],
  };
}
