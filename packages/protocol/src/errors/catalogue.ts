/**
 * Every error that Farloom tells anyone, once: code, HTTP status, whether the same request may succeed later,
 * and what the message says. docs/errors.md is this table for people; a test holds the two together.
 *
 * A message says what is wrong and what to do. `{name}` is filled in from the error's values.
 */
const entry = (status: number, retryable: boolean, message: string) =>
  ({ status, retryable, message }) as const;

export const ERRORS = {
  // Requests
  REQUEST_INVALID: entry(400, false, "The request is not valid: {detail}."),
  JSON_INVALID: entry(
    400,
    false,
    "The body is not valid JSON: {detail}. NaN and Infinity are not JSON; send null or a string.",
  ),
  BODY_INVALID: entry(400, false, "The body is not valid {type}: {detail}."),
  BODY_TOO_LARGE: entry(
    413,
    false,
    "The body has more than {limit} bytes. Send fewer tasks at once, or put large arguments into payload files (PUT /v1/payloads/{sha256}).",
  ),
  BODY_TOO_DEEP: entry(
    400,
    false,
    "The body nests more than {limit} levels deep. Flatten it, or send it as text.",
  ),
  HEADERS_TOO_LARGE: entry(
    431,
    false,
    "The request's line and headers have more than {limit} bytes. Send fewer and shorter ones.",
  ),
  REQUEST_LATE: entry(408, true, "The request did not arrive in time. Send it again."),
  MEDIA_TYPE_UNSUPPORTED: entry(
    415,
    false,
    "Content-Type {type} is not taken here. Send application/json or application/msgpack.",
  ),
  ROUTE_NOT_FOUND: entry(404, false, "There is no {method} {path}. GET /openapi.json lists what there is."),
  RATE_LIMITED: entry(429, true, "Too many requests. Wait {seconds} s and try again."),
  OVERLOADED: entry(
    503,
    true,
    "The service has too much in hand: {detail}. Nothing of this request was taken; wait and send it again.",
  ),
  QUEUE_FULL: entry(
    429,
    true,
    "{what} has {limit} open tasks, which is as many as it may have. Nothing of this request was taken; send it again when some have ended.",
  ),
  QUOTA_EXCEEDED: entry(
    403,
    false,
    "Your account has {what}, and may have {limit}. Nothing of this request was taken; delete what you do not need, or ask the operator for more.",
  ),
  DATABASE_FULL: entry(
    507,
    true,
    "The service's database has no room. Nothing of this request was taken; what was taken before is safe. Send it again when the operator has made room.",
  ),
  TOO_MANY_WATCHES: entry(
    429,
    true,
    "A connection watches at most {limit} task groups. Connect again, and watch only what you still wait for.",
  ),
  NOT_READY: entry(503, true, "The service is starting or stopping. Try again in a moment."),
  LEASE_UNKNOWN: entry(
    503,
    true,
    "Which tasks the endpoint's agent has now cannot be said at this moment. Try again in a moment.",
  ),
  INTERNAL: entry(
    500,
    true,
    "Something went wrong on our side (reference {reference}). Try again; if it stays, tell the operator this reference.",
  ),

  // Identity
  UNAUTHENTICATED: entry(
    401,
    false,
    "No valid credential came with the request. Send 'Authorization: Bearer <API key or token>'.",
  ),
  TOKEN_EXPIRED: entry(401, true, "The token has expired. Fetch a new one with POST /v1/tokens."),
  SCOPE_MISSING: entry(
    403,
    false,
    "The credential lacks the scope {scope}. Make a key that has it: farloom keys create --scope {scope}.",
  ),
  KEY_NARROW: entry(
    403,
    false,
    "The API key is for some endpoints or functions alone, and {action} is not for such a key. Use one without restrictions.",
  ),
  CREDENTIAL_REVOKED: entry(
    401,
    false,
    "The credential behind this connection has been revoked, or has expired. Log in again (farloom login), or connect with another key (farloom keys create).",
  ),
  NESTED_NOT_ASKED: entry(
    403,
    false,
    'The task {id} was not submitted with the option nested, so its function has no credential of its own. Submit it with nested=True (Python) or {"nested": true} among its options.',
  ),
  NESTED_SCOPE: entry(
    403,
    false,
    "A task's own token submits to the task's endpoint and sees only what the task submitted: {detail}. For more, give the function an API key.",
  ),
  NESTED_ENDED: entry(
    403,
    false,
    "The task {id} has ended, or another attempt of it runs now: its token ended with it.",
  ),
  LOGIN_REFUSED: entry(401, false, "The name or the password is not right."),
  LOGIN_NOT_ALLOWED: entry(403, false, "This service does not let you in: {detail}. Ask whoever runs it."),
  LOGIN_FAILED: entry(
    502,
    true,
    "The identity provider {provider} did not complete the login: {detail}. Begin it again.",
  ),
  LOGIN_INSECURE: entry(403, false, "People log in over https, or on this machine itself: {detail}."),
  ORIGIN_REFUSED: entry(
    403,
    false,
    "The request did not come from a page of this service ({detail}). Open the page again and repeat it there.",
  ),
  HOST_REFUSED: entry(
    421,
    false,
    "This service is not called {host}. Use its own address; where that is right, whoever runs it names it in FARLOOM_PUBLIC_URL or FARLOOM_ALLOWED_HOSTS.",
  ),
  PASSWORD_WEAK: entry(
    400,
    false,
    "A password has from {min} to {max} characters, and is not the account's name.",
  ),
  ACCOUNT_LINK_INVALID: entry(
    401,
    false,
    "The one-time token is unknown, used or expired. Ask an administrator for another: farloom accounts invite NAME.",
  ),
  ACCOUNT_EXISTS: entry(409, false, "There is an account named {name} already. Choose another name."),
  SESSION_NOT_FOUND: entry(404, false, "There is no login {id} of yours."),
  AUTHORIZATION_PENDING: entry(
    400,
    false,
    "Nobody has approved this login yet. Ask again after the interval.",
  ),
  SLOW_DOWN: entry(400, false, "You ask too often. Wait {seconds} s between two questions from now on."),
  DEVICE_CODE_EXPIRED: entry(
    400,
    false,
    "The login was not approved within ten minutes, or is over. Begin it again: farloom login.",
  ),
  LOGIN_DENIED: entry(400, false, "The login was denied in the browser."),
  USER_CODE_UNKNOWN: entry(
    404,
    false,
    "No program waits with this code. Codes hold for ten minutes: compare it with what the program shows, or begin again there.",
  ),
  REFRESH_INVALID: entry(
    400,
    false,
    "The login has ended: logged out, revoked, unused for too long, or its refresh token was used twice. Log in again: farloom login.",
  ),
  GRANT_UNSUPPORTED: entry(
    400,
    false,
    "The grant type {type} is not one of those that GET /.well-known/oauth-authorization-server lists.",
  ),
  ADMIN_ONLY: entry(403, false, "Only an administrator may {action}."),
  ACCESS_DENIED: entry(403, false, "You may see {what}, but you may not {action}. Ask its owner for access."),
  FUNCTION_NOT_ALLOWED: entry(
    403,
    false,
    "The endpoint {endpoint} runs some functions alone, and {function} is not among them. Ask whoever manages it.",
  ),
  ISOLATION_UNAVAILABLE: entry(
    409,
    false,
    "The function {function} wants at least the isolation level {wanted}, and the endpoint {endpoint} runs its workers at the level {level}. Send the call to another endpoint, or have this one run at it (isolation in its agent.toml).",
  ),
  SECRET_NOT_FOUND: entry(404, false, "You have no secret named {name}."),
  SECRET_MISSING: entry(
    409,
    false,
    "The function {function} needs the secret {name}, and whoever submits the call has none of that name. Store it: farloom secrets set {name}.",
  ),
  SECRET_NOT_AGREED: entry(
    403,
    false,
    'The function {function} is not yours and asks for your secrets {names}: its code would have them. Read it (farloom functions show --code {function}); if you agree, name them with the call: secrets=[…] (Python), or {"secrets": […]} among its options.',
  ),
  SECRET_NOT_FOR_ENDPOINT: entry(
    403,
    false,
    "Your secret {name} may not go to the endpoint {endpoint}: {why}. Whoever runs an endpoint can read what tasks are given there; if you trust them, store it anew and name the endpoint: farloom secrets set {name} --endpoint {endpoint}.",
  ),
  SECRETS_UNSUPPORTED: entry(
    409,
    false,
    "The function {function} needs secrets, and the agent of the endpoint {endpoint} is too old to hand on any. Upgrade it, or send the call to another endpoint.",
  ),
  SECRETS_ENDED: entry(409, false, "The task {id} has ended, and is given no secrets any more."),
  SECRET_UNREADABLE: entry(
    500,
    false,
    "The secret {name} is sealed under the key {key}, which this service does not have. Store it anew (farloom secrets set {name}), or have the operator put that key back into the file of FARLOOM_SECRETS_KEY_FILE.",
  ),
  ISOLATION_IMPOSSIBLE: entry(
    500,
    false,
    "This machine cannot run workers at the isolation level {level}: {reason}. {cure}. It can do: {offers}.",
  ),
  STATE_UNSAFE: entry(500, false, "The agent does not start on {path}: {why}. {cure}."),
  FUNCTION_UNTRUSTED: entry(
    403,
    false,
    "The endpoint {endpoint} runs only what is signed by a key that it trusts, and {function} is not: {why}. Sign it (farloom functions sign NAME), or have whoever runs the endpoint trust the signer: farloom endpoint trust add KEY --function OWNER/NAME.",
  ),
  INVOCATION_UNTRUSTED: entry(
    403,
    false,
    "The endpoint {endpoint} runs {function} only where the caller signed the call, and {why}. Submit it from a client with a signing key (sign_key, --sign-key) that the endpoint trusts: farloom endpoint trust add KEY.",
  ),
  SIGNING_FAILED: entry(400, false, "It cannot be signed: {detail}."),
  SIGNATURE_INVALID: entry(401, false, "The signature over the challenge does not match the endpoint's key."),
  CHALLENGE_INVALID: entry(
    401,
    true,
    "The challenge is unknown, used or older than 30 s. Ask for a new one.",
  ),
  SESSION_TOKEN_USED: entry(
    401,
    true,
    "The session token has opened a connection already, or another one has come since it was made. Ask for a new one.",
  ),
  ENROLMENT_CODE_INVALID: entry(
    401,
    false,
    "The enrolment code is unknown, used or expired. Make a new one: farloom endpoint create NAME.",
  ),

  // Things
  FUNCTION_NOT_FOUND: entry(
    404,
    false,
    "There is no function {id} that you may use. List yours: farloom functions list.",
  ),
  FUNCTION_INVALID: entry(422, false, "The function cannot be registered: {detail}."),
  ENVIRONMENT_MISMATCH: entry(422, false, "The function cannot run at the endpoint {endpoint}: {detail}."),
  CODE_TOO_LARGE: entry(
    413,
    false,
    "The code has {size} bytes, at most {limit}. Move data into payloads and libraries into the environment.",
  ),
  ENDPOINT_NOT_FOUND: entry(
    404,
    false,
    "There is no endpoint {id} that you may use. List yours: farloom endpoint list.",
  ),
  ENDPOINT_EXISTS: entry(
    409,
    false,
    "You already have an endpoint named {name}. Choose another name or delete that one.",
  ),
  TASK_NOT_FOUND: entry(404, false, "There is no task {id} that you may see."),
  GROUP_NOT_FOUND: entry(404, false, "There is no task group {id} that you may see."),
  PAYLOAD_NOT_FOUND: entry(
    404,
    false,
    "There is no payload {digest} that you may read. It may have been swept: unused payloads are kept 24 hours.",
  ),
  PAYLOAD_MISMATCH: entry(
    422,
    false,
    "The bytes have SHA-256 {actual}, not {digest}. Nothing was kept; send them again.",
  ),
  PAYLOAD_TOO_LARGE: entry(
    413,
    false,
    "A payload has at most {limit} bytes. Split it, or keep it on a file system that the endpoint sees.",
  ),
  RANGE_INVALID: entry(416, false, "The range does not lie within the {size} bytes that there are."),
  OBJECT_NOT_FOUND: entry(404, false, "There is no object {name} that you may read."),
  OBJECT_NAME_INVALID: entry(400, false, "The name of the object is not valid: {detail}."),
  OBJECT_TOO_LARGE: entry(413, false, "An object has at most {limit} bytes. Split it into several."),
  OBJECT_MISMATCH: entry(
    422,
    false,
    "The bytes have SHA-256 {actual}, not {digest}. Nothing was kept; send them again.",
  ),
  OBJECT_ACCESS_DENIED: entry(
    403,
    false,
    "The object token does not allow {method} on {name}. Make one that does: POST /v1/objects/sign.",
  ),
  PRECONDITION_FAILED: entry(
    412,
    false,
    "The object {name} is not as {header} demands. Nothing was changed; read it again and decide anew.",
  ),
  STORAGE_FULL: entry(
    507,
    false,
    "The service's storage is full; nothing of this upload was kept. Delete what is not needed, or ask the operator for room.",
  ),
  STORAGE_UNAVAILABLE: entry(503, true, "The object storage does not answer as it should ({detail})."),
  KEY_NOT_FOUND: entry(404, false, "You have no API key {id}."),
  TEAM_NOT_FOUND: entry(404, false, "There is no team {id} that you may see."),
  TEAM_EXISTS: entry(409, false, "You already have a team named {name}. Choose another name."),
  PERSON_NOT_FOUND: entry(404, false, "There is nobody named {name} there."),
  WEBHOOKS_OFF: entry(
    403,
    false,
    "This service sends no webhooks. Whoever runs it turns them on with FARLOOM_WEBHOOKS=on.",
  ),
  WEBHOOK_NOT_FOUND: entry(
    404,
    false,
    "There is no webhook {id} of yours. List yours: farloom webhooks list.",
  ),
  WEBHOOK_URL_REFUSED: entry(422, false, "The URL is not one that this service calls: {detail}."),
  RESULT_NOT_READY: entry(409, true, "Task {id} has not finished. Wait for it with ?wait=SECONDS."),
  RESULT_NONE: entry(
    409,
    false,
    "Task {id} ended as {state} and has no result. GET /v1/tasks/{id} tells why.",
  ),
  TASK_EXPIRED: entry(
    410,
    false,
    "Task {id} ended as {state} at {finishedAt}, and was deleted when its retention ended.",
  ),
  RESULT_EXPIRED: entry(410, false, "The result of task {id} was deleted when its retention ended."),

  // Submission
  ARGUMENTS_INVALID: entry(422, false, "The arguments do not fit the function: {detail}."),
  ARGUMENTS_TOO_LARGE: entry(
    413,
    false,
    "The arguments have {size} bytes inline, at most {limit}. Put them into a payload file and submit its reference.",
  ),
  OPTIONS_INVALID: entry(422, false, "The task options are not valid: {detail}."),
  TASK_ID_TAKEN: entry(409, false, "Task id {id} already belongs to another submission. Make new ids."),
  IDEMPOTENCY_MISMATCH: entry(
    409,
    false,
    "This Idempotency-Key was used with a different body. Use a new key for a new request.",
  ),
  NOT_CANCELLABLE: entry(409, false, "Task {id} has already finished as {state}."),

  // Links
  FRAME_INVALID: entry(
    400,
    false,
    "A frame is not valid: {detail}. The connection is closed; nothing was taken from this frame.",
  ),
  FRAME_UNKNOWN: entry(400, false, "A frame was ignored: {detail}."),
  FRAME_TOO_LARGE: entry(413, false, "A frame is too large: {detail}."),
  VERSION_UNSUPPORTED: entry(426, false, "No common protocol version: {detail}."),
  CREDIT_EXCEEDED: entry(429, true, "More tasks came than there was credit for: {detail}."),
  LINK_REPLACED: entry(
    409,
    false,
    "A newer connection of the same endpoint took over; this one stops leasing.",
  ),
  LINK_SLOW: entry(408, true, "The peer does not read: {detail}. Connect again."),
  LINK_SILENT: entry(408, true, "Nothing was heard for {seconds} s. Connect again."),
  DRAINING: entry(503, true, "The other side is stopping. Connect again in a moment."),
  NODE_REFUSED: entry(
    401,
    false,
    "The agent does not take this node: its block is not known or has ended, its secret was used already, or it was away too long. The node ends what it runs; the agent's log has the reason.",
  ),

  // Outcomes a client sees as errors
  TASK_FAILED: entry(200, false, "The function raised {type}: {message}"),
  TASK_CANCELLED: entry(200, false, "The task was cancelled."),
  TASK_TIMED_OUT: entry(200, false, "The task reached its time limit ({reason})."),
  TASK_LOST: entry(
    200,
    false,
    "The task had, or may have, started when its agent was lost. Declare the function at_least_once to have it run again.",
  ),
  WORKER_DIED: entry(200, false, "The worker process ended while it ran the task: {detail}."),
  SERVICE_UNREACHABLE: entry(
    503,
    true,
    "The service at {url} cannot be reached: {detail}. Is it running? Try 'farloom doctor'.",
  ),

  // What a client finds wrong before anything is sent, or after it came
  SETTING_MISSING: entry(400, false, "{what} is not set. {cure}."),
  VALUE_UNENCODABLE: entry(400, false, "{path} cannot be sent as {codec}: {detail}."),
  RESULT_UNREADABLE: entry(200, false, "The result of task {id} cannot be read here: {detail}."),
  RESULT_CORRUPT: entry(
    200,
    false,
    "The result of task {id} does not bear its worker's seal, on the link or over REST: what came is not what was made.",
  ),
  CLIENT_CLOSED: entry(
    409,
    false,
    "This client is closed. Tasks that the service has taken run on; fetch their results by id.",
  ),
} as const satisfies Record<string, { status: number; retryable: boolean; message: string }>;

export type ErrorCode = keyof typeof ERRORS;
export type ErrorValues = Readonly<Record<string, string | number>>;

/** Whether the same request may succeed later. The one place where that is decided. */
export function isRetryable(code: string): boolean {
  return code in ERRORS && ERRORS[code as ErrorCode].retryable;
}

/** The message of a code with its values filled in. */
export function errorMessage(code: ErrorCode, values: ErrorValues = {}): string {
  return ERRORS[code].message.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

/** An expected failure that crosses the API or a link. Not for bugs: those are plain Errors and become INTERNAL. */
export class FarloomError extends Error {
  override readonly name: string = "FarloomError";
  readonly code: ErrorCode;
  readonly status: number;
  readonly retryable: boolean;
  /** How long to wait, where the sender knows. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ErrorCode,
    values: ErrorValues = {},
    options: { cause?: unknown; retryAfterMs?: number } = {},
  ) {
    super(errorMessage(code, values), options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = ERRORS[code].status;
    this.retryable = ERRORS[code].retryable;
    this.retryAfterMs = options.retryAfterMs;
  }
}
