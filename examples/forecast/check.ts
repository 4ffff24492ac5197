/**
 * The forty forecasts again, in this process and by another method: what forecast.py is checked against.
 *
 * 1. Nothing is shared with the example: the file is parsed anew, and the least-squares problem is solved by
 *    Householder QR on the regressors themselves, never by normal equations.
 * 2. So where the two agree to nine digits, neither the fabric nor the arithmetic has changed a number.
 */
import { readFileSync } from "node:fs";

export interface Forecast {
  harmonics: number;
  lags: number;
  /** Root mean square error over the tested days, in millimetres. */
  rmse: number;
  coefficients: number[];
}

const FIRST_FITTED_DAY = 10;
const LAST_FITTED_DAY = 1095;
const LAST_TESTED_DAY = 1460;
const DAYS_PER_YEAR = 365.25;

/** Daily precipitation in millimetres from the CSV's second column; day 0 is 2012-01-01. */
export function readPrecipitation(file: string | URL): number[] {
  const [header, ...lines] = readFileSync(file, "utf8").trim().split("\n");
  if (header?.split(",")[1] !== "precipitation") throw new Error(`${file}: no column precipitation`);
  return lines.map((line) => Number.parseFloat(line.split(",")[1]!));
}

/** What a forecaster that only knows the mean of the fitted days would be off by. */
export function rmseOfTrainingMean(series: readonly number[]): number {
  const fitted = series.slice(FIRST_FITTED_DAY, LAST_FITTED_DAY + 1);
  const mean = fitted.reduce((sum, y) => sum + y, 0) / fitted.length;
  return rootMeanSquare(tested(series).map((y) => y - mean));
}

/** Fits one model on days 10–1095 and tests it, one day ahead, on days 1096–1460. */
export function forecast(series: readonly number[], harmonics: number, lags: number): Forecast {
  const matrix: number[][] = [];
  for (let day = FIRST_FITTED_DAY; day <= LAST_FITTED_DAY; day++) {
    matrix.push([...regressors(series, day, harmonics, lags), series[day]!]);
  }
  const coefficients = solveByHouseholder(matrix);
  const errors = tested(series).map((y, i) => {
    const row = regressors(series, LAST_FITTED_DAY + 1 + i, harmonics, lags);
    return y - row.reduce((sum, x, k) => sum + x * coefficients[k]!, 0);
  });
  return { harmonics, lags, rmse: rootMeanSquare(errors), coefficients };
}

function tested(series: readonly number[]): number[] {
  return series.slice(LAST_FITTED_DAY + 1, LAST_TESTED_DAY + 1);
}

function rootMeanSquare(values: readonly number[]): number {
  return Math.hypot(...values) / Math.sqrt(values.length);
}

function regressors(series: readonly number[], day: number, harmonics: number, lags: number): number[] {
  const turns = Array.from({ length: harmonics }, (_, j) => (2 * Math.PI * (j + 1) * day) / DAYS_PER_YEAR);
  const seasons = turns.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
  const before = Array.from({ length: lags }, (_, k) => series[day - 1 - k]!);
  return [1, ...seasons, ...before];
}

/**
 * Least squares for rows `[x₀ … xₙ₋₁, y]`, which it overwrites: each column in turn is reflected onto its
 * diagonal, which leaves a triangle to substitute back.
 */
function solveByHouseholder(rows: number[][]): number[] {
  const size = rows[0]!.length - 1;
  for (let k = 0; k < size; k++) {
    const normal = rows.slice(k).map((row) => row[k]!);
    // The sign that adds, so that nothing cancels.
    normal[0]! += Math.sign(normal[0]! || 1) * Math.hypot(...normal);
    const squared = normal.reduce((sum, x) => sum + x * x, 0);
    for (let column = k; column <= size; column++) {
      const along = normal.reduce((sum, x, i) => sum + x * rows[k + i]![column]!, 0);
      for (let i = 0; i < normal.length; i++) rows[k + i]![column]! -= (2 * along * normal[i]!) / squared;
    }
  }
  const solution: number[] = new Array(size).fill(0);
  for (let k = size - 1; k >= 0; k--) {
    let rest = rows[k]![size]!;
    for (let column = k + 1; column < size; column++) rest -= rows[k]![column]! * solution[column]!;
    solution[k] = rest / rows[k]![k]!;
  }
  return solution;
}
