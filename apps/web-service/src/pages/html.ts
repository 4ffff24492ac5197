/**
 * The few pages of the service that people see: plain forms, without scripts. Whatever is put into a page is escaped by the
 * template itself; what is HTML already says so by its type.
 */
import { createHash } from "node:crypto";
import type { FastifyReply } from "fastify";

const STYLE =
  "body{font:16px/1.5 system-ui,sans-serif;max-width:30rem;margin:4rem auto;padding:0 1rem;color:#1b1f24;background:#fff}" +
  "h1{font-size:1.4rem}label{display:block;margin:1rem 0 .3rem}input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;border:1px solid #8b949e;border-radius:.3rem}" +
  "button,a.button{font:inherit;display:inline-block;margin:1.2rem .6rem 0 0;padding:.5rem 1rem;border:1px solid #1b1f24;border-radius:.3rem;background:#fff;color:#1b1f24;text-decoration:none;cursor:pointer}" +
  "button.main{background:#1b1f24;color:#fff}code{font-size:1.2em;letter-spacing:.08em}dt{color:#57606a;margin-top:.6rem}dd{margin:0}" +
  ".error{border-left:.25rem solid #b3261e;padding:.3rem .8rem}.note{color:#57606a}";

const PAGE_HEADERS = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy": `default-src 'none'; style-src 'sha256-${createHash("sha256").update(STYLE).digest("base64")}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`,
  "x-frame-options": "DENY",
  // With no-referrer a browser sends forms with the Origin `null`, and ours is checked.
  "referrer-policy": "same-origin",
} as const;

/** Text that is HTML. */
export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

type Part = Html | readonly Html[] | string | number | undefined;

const ESCAPES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** HTML with everything that is put into it escaped; undefined is nothing. */
export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.reduce((text, string, at) => text + textOf(parts[at - 1]) + string));
}

function textOf(part: Part): string {
  if (part === undefined) return "";
  if (part instanceof Html) return part.text;
  if (Array.isArray(part)) return part.map((item: Html) => item.text).join("");
  return String(part).replace(/[&<>"']/g, (letter) => ESCAPES[letter]!);
}

/** Sends a page. */
export function sendPage(reply: FastifyReply, title: string, body: Html, status = 200): FastifyReply {
  const page = html`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} – Farloom</title><style>${new Html(STYLE)}</style></head>
<body><main><h1>${title}</h1>
${body}
</main></body>
</html>
`;
  return reply.code(status).headers(PAGE_HEADERS).serializer(String).send(page.text);
}
