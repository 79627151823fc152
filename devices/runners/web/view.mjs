// What is to be seen on the page.

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

export const say = (text) => { at("step").textContent = text; };

// The page's state (waiting, done, stopped, or none) and what it says of it.
export function show(state, text) {
  document.body.className = state;
  say(text);
}

export function trouble(text) {
  show("stopped", "Stopped");
  at("trouble").textContent = text;
  at("trouble").hidden = false;
  at("note").hidden = true;
}

export function finish(work) {
  draw(work);
  const bad = work.candidates.filter(({ failed }) => failed).length;
  show("done", bad ? `Done; ${bad} of ${work.candidates.length} could not be measured` : "Done");
  at("note").textContent = "The figures are on the computer. You can close this page.";
}

export function draw(work) {
  at("device").textContent = work.device.endsWith(work.system) ? work.device : `${work.device}, ${work.system}`;
  at("bar").max = work.rounds;
  at("bar").value = work.done;
  at("results").hidden = false;
  at("rows").replaceChildren(...work.candidates.flatMap(rows));
}

function made(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Two rows of the table: name and median, and below them, as wide as the table, what there is to say of them.
function rows(candidate) {
  const name = made("td", "name", candidate.name);
  const more = made("td", "more");
  more.colSpan = 2;
  const which = made("span", "how", `${candidate.bundle}, ${candidate.target}`);
  if (candidate.emulated) which.append(made("span", "tag", "emulated"));
  more.append(which, made("span", "how", candidate.runtime));
  if (candidate.failed) more.append(made("span", "why", candidate.failed));
  else if (candidate.times.length > 1) more.append(bars(candidate.times));
  return [[name, figure(candidate)], [more]].map((cells) => {
    const line = made("tr");
    line.append(...cells);
    return line;
  });
}

function figure(candidate) {
  const cell = made("td", "figure");
  if (candidate.failed) cell.append(made("span", "bad", "failed"));
  else if (!candidate.times.length) cell.append(made("span", "", "waiting"));
  else {
    const sorted = [...candidate.times].sort((a, b) => a - b);
    const middle = (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
    cell.append(made("b", "", digits(middle)), made("span", "", `${digits(sorted[0])} – ${digits(sorted.at(-1))}`));
  }
  return cell;
}

const digits = (ms) => ms.toFixed(ms < 1 ? 3 : ms < 10 ? 2 : ms < 100 ? 1 : 0);

// All rounds as bars, the slowest as high as the picture.
function bars(times) {
  const picture = document.createElementNS(SVG, "svg");
  const most = Math.max(...times);
  picture.setAttribute("viewBox", `0 0 ${times.length} 1`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  times.forEach((ms, place) => {
    const bar = document.createElementNS(SVG, "rect");
    const box = { x: place + 0.1, y: 1 - ms / most, width: 0.8, height: ms / most };
    for (const [name, value] of Object.entries(box)) bar.setAttribute(name, value);
    picture.append(bar);
  });
  return picture;
}
