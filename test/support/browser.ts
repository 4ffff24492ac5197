// A browser without scripts: it keeps cookies for each host, follows redirects, and fills in the forms of pages.

export interface Page {
  readonly url: string;
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

const MAX_HOPS = 12;

export class Browser {
  /** By host and port: a real browser's know no ports, but no test relies on that. */
  readonly #jars = new Map<string, Map<string, string>>();

  cookie(url: string, name: string): string | undefined {
    return this.#jar(url).get(name);
  }

  setCookie(url: string, name: string, value: string): void {
    this.#jar(url).set(name, value);
  }

  get(url: string): Promise<Page> {
    return this.#go(url, { method: "GET" }, MAX_HOPS);
  }

  /** One request, wherever it would lead. */
  hop(url: string): Promise<Page> {
    return this.#go(url, { method: "GET" }, 0);
  }

  /** Sends the page's form with its hidden fields and `fields`, as a browser would: with the page's origin. */
  submit(page: Page, fields: Record<string, string>, headers: Record<string, string> = {}): Promise<Page> {
    const form = /<form method="post" action="([^"]+)"[^>]*>([\s\S]*?)<\/form>/.exec(page.text);
    if (!form) throw new Error(`no form on ${page.url}: ${page.text.slice(0, 300)}`);
    const hidden = [...form[2]!.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)">/g)];
    const body = new URLSearchParams({
      ...Object.fromEntries(hidden.map((match) => [match[1]!, match[2]!])),
      ...fields,
    });
    const target = new URL(form[1]!, page.url).href;
    return this.#go(
      target,
      {
        method: "POST",
        body: body.toString(),
        headers: {
          "content-type": "application/x-www-form-urlencoded",
          origin: new URL(page.url).origin,
          ...headers,
        },
      },
      MAX_HOPS,
    );
  }

  async #go(url: string, init: RequestInit, hops: number): Promise<Page> {
    const jar = this.#jar(url);
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(url, {
      ...init,
      redirect: "manual",
      headers: { ...(init.headers as Record<string, string>), ...(cookie && { cookie }) },
    });
    for (const line of response.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split(";");
      const at = pair!.indexOf("=");
      const gone = attributes.some((attribute) =>
        /^\s*(max-age=0|expires=thu, 01 jan 1970)/i.test(attribute),
      );
      if (gone) jar.delete(pair!.slice(0, at));
      else jar.set(pair!.slice(0, at), pair!.slice(at + 1));
    }
    const location = response.headers.get("location");
    const text = await response.text();
    if (location !== null && hops > 0)
      return this.#go(new URL(location, url).href, { method: "GET" }, hops - 1);
    return { url, status: response.status, headers: response.headers, text };
  }

  #jar(url: string): Map<string, string> {
    const { host } = new URL(url);
    let jar = this.#jars.get(host);
    if (jar === undefined) {
      jar = new Map();
      this.#jars.set(host, jar);
    }
    return jar;
  }
}
