/**
 * Which model forecasts Seattle's rain best? Forty of them, one task each, on whatever endpoint is there.
 *
 *     node examples/forecast/forecast.mjs [--out FILE]
 *
 * The fabric's address, key and endpoint come from FARLOOM_URL, FARLOOM_API_KEY and FARLOOM_ENDPOINT, or from what
 * `farloom login` has written. The function is Python (forecast.py); this program only calls it.
 *
 * The data are 1,461 days of the weather station at Seattle-Tacoma Airport, collected by NOAA, as the npm package
 * vega-datasets (BSD-3-Clause) carries them.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Farloom } from "@farloom/sdk";

const FUNCTION = fileURLToPath(new URL("./forecast.py", import.meta.url));
const WEATHER = new URL("../../node_modules/vega-datasets/data/seattle-weather.csv", import.meta.url);

const [, ...lines] = readFileSync(WEATHER, "utf8").trim().split("\n");
/** Millimetres a day; day 0 is 2012-01-01. */
const rain = lines.map((line) => Number(line.split(",")[1]));

/** The arguments of each call: the series, 0 to 4 harmonics of the year, 0 to 7 of the days before. */
const calls = [];
for (let harmonics = 0; harmonics <= 4; harmonics++) {
  for (let lags = 0; lags <= 7; lags++) calls.push([rain, harmonics, lags]);
}

const { values: options } = parseArgs({ options: { out: { type: "string" } } });
const farloom = new Farloom();
try {
  const forecast = await farloom.register({ file: FUNCTION, mode: "at_least_once" });

  const models = [];
  for await (const { value, error } of forecast.map(calls).asCompleted()) {
    if (error) throw error;
    models.push(value);
    showProgress(models.length, calls.length);
  }

  const [best] = models.toSorted((a, b) => a.rmse - b.rmse);
  const rmseOfMean = Math.sqrt(squaredErrorOfMean(rain.slice(10, 1096), rain.slice(1096)));
  console.log(`\nA day's rain in Seattle, ${rain.length - 1096} days forecast by ${models.length} models:`);
  console.log(
    `  best           ${best.harmonics} harmonics, ${best.lags} lag: RMSE ${best.rmse.toFixed(3)} mm`,
  );
  console.log(`  training mean  RMSE ${rmseOfMean.toFixed(3)} mm`);
  if (options.out) writeFileSync(options.out, JSON.stringify({ models, rmseOfMean }));
} finally {
  await farloom.close();
}

/** How far off the mean of the fitted days is on the tested ones: what any model has to beat. */
function squaredErrorOfMean(fitted, tested) {
  const mean = fitted.reduce((sum, y) => sum + y, 0) / fitted.length;
  return tested.reduce((sum, y) => sum + (y - mean) ** 2, 0) / tested.length;
}

/** Redraws one line on a terminal; elsewhere a line for every ten. */
function showProgress(done, total) {
  const bar = "█".repeat(Math.round((done / total) * 30)).padEnd(30, "░");
  if (process.stdout.isTTY) process.stdout.write(`\r  ${bar} ${done}/${total} forecasts`);
  else if (done % 10 === 0) console.log(`  ${done}/${total} forecasts`);
}
