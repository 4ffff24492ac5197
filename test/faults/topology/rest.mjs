/** Plain requests to a service, as from curl. */

/** The reply's JSON. Throws where the reply is no success, with its `status` and `code`. */
export async function request(url, { method, json, key, timeoutMs }) {
  const response = await fetch(url, {
    method,
    signal: AbortSignal.timeout(timeoutMs),
    headers: {
      ...(key && { authorization: `Bearer ${key}` }),
      ...(json && { "content-type": "application/json" }),
    },
    ...(json && { body: JSON.stringify(json) }),
  });
  const text = await response.text();
  if (response.ok) return parsed(text);
  const error = new Error(`${method} ${url}: ${response.status} ${text.slice(0, 300)}`);
  throw Object.assign(error, { status: response.status, code: parsed(text)?.code });
}

function parsed(text) {
  try {
    return text === "" ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}
