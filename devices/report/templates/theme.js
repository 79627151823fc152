// plotly draws with the colours of the page's theme, and again when the theme changes.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colours = layout => {
    const found = {
      "font.color": colour("--ink"), "hoverlabel.bgcolor": colour("--paper"),
      "hoverlabel.bordercolor": colour("--line"), "hoverlabel.font.color": colour("--ink"),
    };
    for (const axis of Object.keys(layout).filter(key => /^[xy]axis\d*$/.test(key))) {
      found[`${axis}.gridcolor`] = found[`${axis}.linecolor`] = found[`${axis}.zerolinecolor`] = colour("--line");
    }
    return found;
  };
  const set = (layout, path, value) => {
    const keys = path.split("."), last = keys.pop();
    keys.reduce((inner, key) => inner[key] ??= {}, layout)[last] = value;
  };
  const newPlot = Plotly.newPlot;
  Plotly.newPlot = (where, data, layout, config) => {
    for (const [path, value] of Object.entries(colours(layout))) set(layout, path, value);
    return newPlot(where, data, layout, config);
  };
  dark.addEventListener("change", () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, colours(plot.layout));
  });
  document.addEventListener("toggle", event => { // what was folded had no width to be drawn in
    for (const plot of event.target.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(plot);
  }, true);
})();
