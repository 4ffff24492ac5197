/** The package has no types of its own. */
declare module "proxy-from-env" {
  /** The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for a URL, or the empty string. */
  export function getProxyForUrl(url: string | URL): string;
}
