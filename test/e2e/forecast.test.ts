/**
 * The example of the README on a whole fabric (web service, PostgreSQL, one endpoint, Python workers), held
 * against an independent computation, and called once more with nothing but HTTP and JSON.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Forecast,
  forecast,
  readPrecipitation,
  rmseOfTrainingMean,
} from "../../examples/forecast/check.js";
import { clientEnv, startFabric } from "../../scripts/lib/fabric.mjs";
import { ROOT, run } from "../../scripts/lib/run.mjs";

const RELATIVE_TOLERANCE = 1e-9;
const START_MS = 120_000;

const rain = readPrecipitation(join(ROOT, "node_modules/vega-datasets/data/seattle-weather.csv"));
const stateDir = mkdtempSync(join(tmpdir(), "farloom-e2e-forecast-"));
let fabric: Awaited<ReturnType<typeof startFabric>>;

beforeAll(async () => {
  const stopping = new AbortController().signal;
  fabric = await startFabric({ stateDir, port: 0, configFile: join(stateDir, "config.json"), stopping });
}, START_MS);

afterAll(async () => {
  const { status, left } = await fabric.stop();
  rmSync(stateDir, { recursive: true, force: true });
  expect(left, "processes left behind by farloom dev").toEqual([]);
  expect(status).toBe(0);
}, START_MS);

function expectClose(actual: number, wanted: number, scale = Math.abs(wanted)): void {
  expect(Math.abs(actual - wanted)).toBeLessThanOrEqual(RELATIVE_TOLERANCE * scale);
}

/** Coefficients are compared on the scale of the model's largest: the small ones have no digits of their own. */
function expectSameModel(actual: Forecast, wanted: Forecast): void {
  const { harmonics, lags } = wanted;
  expect(actual).toMatchObject({ harmonics, lags });
  expectClose(actual.rmse, wanted.rmse);
  expect(actual.coefficients).toHaveLength(wanted.coefficients.length);
  const scale = Math.max(...wanted.coefficients.map(Math.abs));
  wanted.coefficients.forEach((value, i) => {
    expectClose(actual.coefficients[i]!, value, scale);
  });
}

describe("the forecast example, called through the SDK", () => {
  let models: Forecast[];
  let rmseOfMean: number;
  let output: string;

  beforeAll(async () => {
    const results = join(stateDir, "results.json");
    const example = join(ROOT, "examples/forecast/forecast.mjs");
    const ended = await run(process.execPath, [example, "--out", results], { env: clientEnv(fabric) });
    output = ended.output;
    expect(ended.status, output).toBe(0);
    ({ models, rmseOfMean } = JSON.parse(readFileSync(results, "utf8")));
  }, START_MS);

  it("agrees with an independent computation on all forty models to nine digits", () => {
    const seen = new Map(models.map((model) => [`${model.harmonics} ${model.lags}`, model]));
    for (let harmonics = 0; harmonics <= 4; harmonics++) {
      for (let lags = 0; lags <= 7; lags++) {
        expectSameModel(seen.get(`${harmonics} ${lags}`)!, forecast(rain, harmonics, lags));
      }
    }
    expect(models).toHaveLength(40);
    expectClose(rmseOfMean, rmseOfTrainingMean(rain));
  });

  it("finds four harmonics and one lag best, 6.978 mm against 7.677 of the training mean", () => {
    const best = models.toSorted((a, b) => a.rmse - b.rmse)[0]!;
    expect(best).toMatchObject({ harmonics: 4, lags: 1 });
    expect(best.rmse.toFixed(3)).toBe("6.978");
    expect(rmseOfMean.toFixed(3)).toBe("7.677");
  });

  it("shows progress and the answer to whoever reads its output", () => {
    expect(output).toContain("40/40 forecasts");
    expect(output).toContain("4 harmonics, 1 lag: RMSE 6.978 mm");
  });
});

describe("the forecast example, called with HTTP and JSON alone", () => {
  it("gives the same number in the answer to one request", async () => {
    const headers = {
      authorization: `Bearer ${readFileSync(fabric.apiKeyFile, "utf8").trim()}`,
      "content-type": "application/json",
    };
    const post = async (path: string, body: unknown) => {
      const answer = await fetch(fabric.url + path, { method: "POST", headers, body: JSON.stringify(body) });
      const text = await answer.text();
      expect(answer.ok, text).toBe(true);
      return JSON.parse(text);
    };
    const code = readFileSync(join(ROOT, "examples/forecast/forecast.py"), "utf8");
    await post("/v1/functions", { name: "forecast", runtime: "python", code });
    const task = await post("/v1/tasks?wait=60", {
      function: "forecast",
      endpoint: fabric.endpoint,
      args: [rain, 4, 1],
    });
    expect(task).toMatchObject({ state: "SUCCEEDED" });
    expectSameModel(task.result, forecast(rain, 4, 1));
  });
});
