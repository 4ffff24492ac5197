/** How a service is named. */

/** The service's origin: no path, no slash at the end. Throws for what is no http(s) URL. */
export function normaliseServiceUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !["http:", "https:"].includes(url.protocol)) {
    throw new Error(`the service URL '${text}' is not of the form http(s)://host[:port]`);
  }
  return url.origin;
}
