"""One model of a series: harmonics of the year plus lags, fitted by least squares.

The standard library is all it needs, so it runs on any endpoint that has Python. `forecast` is the entry:
it fits on days 10 to 1095, forecasts days 1096 to 1460 one day ahead, and says how far off it was.
"""

from math import cos, pi, sin, sqrt

TRAIN = range(10, 1096)
TEST = range(1096, 1461)
DAYS_PER_YEAR = 365.25


def forecast(series, harmonics, lags):
    """Forecast `series` (one number a day) with so many harmonics and lags; return the error and the model."""
    rows = [regressors(series, t, harmonics, lags) for t in TRAIN]
    coefficients = least_squares(rows, [series[t] for t in TRAIN])
    errors = [series[t] - dot(regressors(series, t, harmonics, lags), coefficients) for t in TEST]
    return {
        "harmonics": harmonics,
        "lags": lags,
        "rmse": sqrt(dot(errors, errors) / len(errors)),
        "coefficients": coefficients,
    }


def regressors(series, t, harmonics, lags):
    """What the forecast of day `t` is made from: 1, the seasons, and the days before it."""
    row = [1.0]
    for j in range(1, harmonics + 1):
        angle = 2 * pi * j * t / DAYS_PER_YEAR
        row += [cos(angle), sin(angle)]
    return row + [series[t - lag] for lag in range(1, lags + 1)]


def least_squares(rows, targets):
    """Solve the normal equations by Cholesky; the columns are few and well conditioned."""
    columns = list(zip(*rows))
    gram = [[dot(a, b) for b in columns] for a in columns]
    right = [dot(column, targets) for column in columns]
    size = len(columns)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = gram[i][j] - dot(lower[i][:j], lower[j][:j])
            lower[i][j] = sqrt(rest) if i == j else rest / lower[j][j]
    halfway = []
    for i in range(size):
        halfway.append((right[i] - dot(lower[i][:i], halfway)) / lower[i][i])
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(lower[k][i] * solution[k] for k in range(i + 1, size))
        solution[i] = (halfway[i] - known) / lower[i][i]
    return solution


def dot(a, b):
    """Sum of products."""
    return sum(x * y for x, y in zip(a, b))
