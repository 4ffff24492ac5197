"""Every error that Farloom tells: code to (HTTP status, may the same request succeed later, message).

Made by scripts/make_catalogue.mjs from packages/protocol/src/errors/catalogue.ts. Not edited by hand.
"""

# ruff: noqa: E501

ERRORS: dict[str, tuple[int, bool, str]] = {
    "REQUEST_INVALID": (
        400,
        False,
        "The request is not valid: {detail}.",
    ),
    "JSON_INVALID": (
        400,
        False,
        "The body is not valid JSON: {detail}. NaN and Infinity are not JSON; send null or a string.",
    ),
    "BODY_INVALID": (
        400,
        False,
        "The body is not valid {type}: {detail}.",
    ),
    "BODY_TOO_LARGE": (
        413,
        False,
        "The body has more than {limit} bytes. Send fewer tasks at once, or put large arguments into payload files (PUT /v1/payloads/{sha256}).",
    ),
    "BODY_TOO_DEEP": (
        400,
        False,
        "The body nests more than {limit} levels deep. Flatten it, or send it as text.",
    ),
    "HEADERS_TOO_LARGE": (
        431,
        False,
        "The request's line and headers have more than {limit} bytes. Send fewer and shorter ones.",
    ),
    "REQUEST_LATE": (
        408,
        True,
        "The request did not arrive in time. Send it again.",
    ),
    "MEDIA_TYPE_UNSUPPORTED": (
        415,
        False,
        "Content-Type {type} is not taken here. Send application/json or application/msgpack.",
    ),
    "ROUTE_NOT_FOUND": (
        404,
        False,
        "There is no {method} {path}. GET /openapi.json lists what there is.",
    ),
    "RATE_LIMITED": (
        429,
        True,
        "Too many requests. Wait {seconds} s and try again.",
    ),
    "OVERLOADED": (
        503,
        True,
        "The service has too much in hand: {detail}. Nothing of this request was taken; wait and send it again.",
    ),
    "QUEUE_FULL": (
        429,
        True,
        "{what} has {limit} open tasks, which is as many as it may have. Nothing of this request was taken; send it again when some have ended.",
    ),
    "QUOTA_EXCEEDED": (
        403,
        False,
        "Your account has {what}, and may have {limit}. Nothing of this request was taken; delete what you do not need, or ask the operator for more.",
    ),
    "DATABASE_FULL": (
        507,
        True,
        "The service's database has no room. Nothing of this request was taken; what was taken before is safe. Send it again when the operator has made room.",
    ),
    "TOO_MANY_WATCHES": (
        429,
        True,
        "A connection watches at most {limit} task groups. Connect again, and watch only what you still wait for.",
    ),
    "NOT_READY": (
        503,
        True,
        "The service is starting or stopping. Try again in a moment.",
    ),
    "LEASE_UNKNOWN": (
        503,
        True,
        "Which tasks the endpoint's agent has now cannot be said at this moment. Try again in a moment.",
    ),
    "INTERNAL": (
        500,
        True,
        "Something went wrong on our side (reference {reference}). Try again; if it stays, tell the operator this reference.",
    ),
    "UNAUTHENTICATED": (
        401,
        False,
        "No valid credential came with the request. Send 'Authorization: Bearer <API key or token>'.",
    ),
    "TOKEN_EXPIRED": (
        401,
        True,
        "The token has expired. Fetch a new one with POST /v1/tokens.",
    ),
    "SCOPE_MISSING": (
        403,
        False,
        "The credential lacks the scope {scope}. Make a key that has it: farloom keys create --scope {scope}.",
    ),
    "KEY_NARROW": (
        403,
        False,
        "The API key is for some endpoints or functions alone, and {action} is not for such a key. Use one without restrictions.",
    ),
    "CREDENTIAL_REVOKED": (
        401,
        False,
        "The credential behind this connection has been revoked, or has expired. Log in again (farloom login), or connect with another key (farloom keys create).",
    ),
    "NESTED_NOT_ASKED": (
        403,
        False,
        'The task {id} was not submitted with the option nested, so its function has no credential of its own. Submit it with nested=True (Python) or {"nested": true} among its options.',
    ),
    "NESTED_SCOPE": (
        403,
        False,
        "A task's own token submits to the task's endpoint and sees only what the task submitted: {detail}. For more, give the function an API key.",
    ),
    "NESTED_ENDED": (
        403,
        False,
        "The task {id} has ended, or another attempt of it runs now: its token ended with it.",
    ),
    "LOGIN_REFUSED": (
        401,
        False,
        "The name or the password is not right.",
    ),
    "LOGIN_NOT_ALLOWED": (
        403,
        False,
        "This service does not let you in: {detail}. Ask whoever runs it.",
    ),
    "LOGIN_FAILED": (
        502,
        True,
        "The identity provider {provider} did not complete the login: {detail}. Begin it again.",
    ),
    "LOGIN_INSECURE": (
        403,
        False,
        "People log in over https, or on this machine itself: {detail}.",
    ),
    "ORIGIN_REFUSED": (
        403,
        False,
        "The request did not come from a page of this service ({detail}). Open the page again and repeat it there.",
    ),
    "HOST_REFUSED": (
        421,
        False,
        "This service is not called {host}. Use its own address; where that is right, whoever runs it names it in FARLOOM_PUBLIC_URL or FARLOOM_ALLOWED_HOSTS.",
    ),
    "PASSWORD_WEAK": (
        400,
        False,
        "A password has from {min} to {max} characters, and is not the account's name.",
    ),
    "ACCOUNT_LINK_INVALID": (
        401,
        False,
        "The one-time token is unknown, used or expired. Ask an administrator for another: farloom accounts invite NAME.",
    ),
    "ACCOUNT_EXISTS": (
        409,
        False,
        "There is an account named {name} already. Choose another name.",
    ),
    "SESSION_NOT_FOUND": (
        404,
        False,
        "There is no login {id} of yours.",
    ),
    "AUTHORIZATION_PENDING": (
        400,
        False,
        "Nobody has approved this login yet. Ask again after the interval.",
    ),
    "SLOW_DOWN": (
        400,
        False,
        "You ask too often. Wait {seconds} s between two questions from now on.",
    ),
    "DEVICE_CODE_EXPIRED": (
        400,
        False,
        "The login was not approved within ten minutes, or is over. Begin it again: farloom login.",
    ),
    "LOGIN_DENIED": (
        400,
        False,
        "The login was denied in the browser.",
    ),
    "USER_CODE_UNKNOWN": (
        404,
        False,
        "No program waits with this code. Codes hold for ten minutes: compare it with what the program shows, or begin again there.",
    ),
    "REFRESH_INVALID": (
        400,
        False,
        "The login has ended: logged out, revoked, unused for too long, or its refresh token was used twice. Log in again: farloom login.",
    ),
    "GRANT_UNSUPPORTED": (
        400,
        False,
        "The grant type {type} is not one of those that GET /.well-known/oauth-authorization-server lists.",
    ),
    "ADMIN_ONLY": (
        403,
        False,
        "Only an administrator may {action}.",
    ),
    "ACCESS_DENIED": (
        403,
        False,
        "You may see {what}, but you may not {action}. Ask its owner for access.",
    ),
    "FUNCTION_NOT_ALLOWED": (
        403,
        False,
        "The endpoint {endpoint} runs some functions alone, and {function} is not among them. Ask whoever manages it.",
    ),
    "ISOLATION_UNAVAILABLE": (
        409,
        False,
        "The function {function} wants at least the isolation level {wanted}, and the endpoint {endpoint} runs its workers at the level {level}. Send the call to another endpoint, or have this one run at it (isolation in its agent.toml).",
    ),
    "SECRET_NOT_FOUND": (
        404,
        False,
        "You have no secret named {name}.",
    ),
    "SECRET_MISSING": (
        409,
        False,
        "The function {function} needs the secret {name}, and whoever submits the call has none of that name. Store it: farloom secrets set {name}.",
    ),
    "SECRET_NOT_AGREED": (
        403,
        False,
        'The function {function} is not yours and asks for your secrets {names}: its code would have them. Read it (farloom functions show --code {function}); if you agree, name them with the call: secrets=[…] (Python), or {"secrets": […]} among its options.',
    ),
    "SECRET_NOT_FOR_ENDPOINT": (
        403,
        False,
        "Your secret {name} may not go to the endpoint {endpoint}: {why}. Whoever runs an endpoint can read what tasks are given there; if you trust them, store it anew and name the endpoint: farloom secrets set {name} --endpoint {endpoint}.",
    ),
    "SECRETS_UNSUPPORTED": (
        409,
        False,
        "The function {function} needs secrets, and the agent of the endpoint {endpoint} is too old to hand on any. Upgrade it, or send the call to another endpoint.",
    ),
    "SECRETS_ENDED": (
        409,
        False,
        "The task {id} has ended, and is given no secrets any more.",
    ),
    "SECRET_UNREADABLE": (
        500,
        False,
        "The secret {name} is sealed under the key {key}, which this service does not have. Store it anew (farloom secrets set {name}), or have the operator put that key back into the file of FARLOOM_SECRETS_KEY_FILE.",
    ),
    "ISOLATION_IMPOSSIBLE": (
        500,
        False,
        "This machine cannot run workers at the isolation level {level}: {reason}. {cure}. It can do: {offers}.",
    ),
    "STATE_UNSAFE": (
        500,
        False,
        "The agent does not start on {path}: {why}. {cure}.",
    ),
    "FUNCTION_UNTRUSTED": (
        403,
        False,
        "The endpoint {endpoint} runs only what is signed by a key that it trusts, and {function} is not: {why}. Sign it (farloom functions sign NAME), or have whoever runs the endpoint trust the signer: farloom endpoint trust add KEY --function OWNER/NAME.",
    ),
    "INVOCATION_UNTRUSTED": (
        403,
        False,
        "The endpoint {endpoint} runs {function} only where the caller signed the call, and {why}. Submit it from a client with a signing key (sign_key, --sign-key) that the endpoint trusts: farloom endpoint trust add KEY.",
    ),
    "SIGNING_FAILED": (
        400,
        False,
        "It cannot be signed: {detail}.",
    ),
    "SIGNATURE_INVALID": (
        401,
        False,
        "The signature over the challenge does not match the endpoint's key.",
    ),
    "CHALLENGE_INVALID": (
        401,
        True,
        "The challenge is unknown, used or older than 30 s. Ask for a new one.",
    ),
    "SESSION_TOKEN_USED": (
        401,
        True,
        "The session token has opened a connection already, or another one has come since it was made. Ask for a new one.",
    ),
    "ENROLMENT_CODE_INVALID": (
        401,
        False,
        "The enrolment code is unknown, used or expired. Make a new one: farloom endpoint create NAME.",
    ),
    "FUNCTION_NOT_FOUND": (
        404,
        False,
        "There is no function {id} that you may use. List yours: farloom functions list.",
    ),
    "FUNCTION_INVALID": (
        422,
        False,
        "The function cannot be registered: {detail}.",
    ),
    "ENVIRONMENT_MISMATCH": (
        422,
        False,
        "The function cannot run at the endpoint {endpoint}: {detail}.",
    ),
    "CODE_TOO_LARGE": (
        413,
        False,
        "The code has {size} bytes, at most {limit}. Move data into payloads and libraries into the environment.",
    ),
    "ENDPOINT_NOT_FOUND": (
        404,
        False,
        "There is no endpoint {id} that you may use. List yours: farloom endpoint list.",
    ),
    "ENDPOINT_EXISTS": (
        409,
        False,
        "You already have an endpoint named {name}. Choose another name or delete that one.",
    ),
    "TASK_NOT_FOUND": (
        404,
        False,
        "There is no task {id} that you may see.",
    ),
    "GROUP_NOT_FOUND": (
        404,
        False,
        "There is no task group {id} that you may see.",
    ),
    "PAYLOAD_NOT_FOUND": (
        404,
        False,
        "There is no payload {digest} that you may read. It may have been swept: unused payloads are kept 24 hours.",
    ),
    "PAYLOAD_MISMATCH": (
        422,
        False,
        "The bytes have SHA-256 {actual}, not {digest}. Nothing was kept; send them again.",
    ),
    "PAYLOAD_TOO_LARGE": (
        413,
        False,
        "A payload has at most {limit} bytes. Split it, or keep it on a file system that the endpoint sees.",
    ),
    "RANGE_INVALID": (
        416,
        False,
        "The range does not lie within the {size} bytes that there are.",
    ),
    "OBJECT_NOT_FOUND": (
        404,
        False,
        "There is no object {name} that you may read.",
    ),
    "OBJECT_NAME_INVALID": (
        400,
        False,
        "The name of the object is not valid: {detail}.",
    ),
    "OBJECT_TOO_LARGE": (
        413,
        False,
        "An object has at most {limit} bytes. Split it into several.",
    ),
    "OBJECT_MISMATCH": (
        422,
        False,
        "The bytes have SHA-256 {actual}, not {digest}. Nothing was kept; send them again.",
    ),
    "OBJECT_ACCESS_DENIED": (
        403,
        False,
        "The object token does not allow {method} on {name}. Make one that does: POST /v1/objects/sign.",
    ),
    "PRECONDITION_FAILED": (
        412,
        False,
        "The object {name} is not as {header} demands. Nothing was changed; read it again and decide anew.",
    ),
    "STORAGE_FULL": (
        507,
        False,
        "The service's storage is full; nothing of this upload was kept. Delete what is not needed, or ask the operator for room.",
    ),
    "STORAGE_UNAVAILABLE": (
        503,
        True,
        "The object storage does not answer as it should ({detail}).",
    ),
    "KEY_NOT_FOUND": (
        404,
        False,
        "You have no API key {id}.",
    ),
    "TEAM_NOT_FOUND": (
        404,
        False,
        "There is no team {id} that you may see.",
    ),
    "TEAM_EXISTS": (
        409,
        False,
        "You already have a team named {name}. Choose another name.",
    ),
    "PERSON_NOT_FOUND": (
        404,
        False,
        "There is nobody named {name} there.",
    ),
    "WEBHOOKS_OFF": (
        403,
        False,
        "This service sends no webhooks. Whoever runs it turns them on with FARLOOM_WEBHOOKS=on.",
    ),
    "WEBHOOK_NOT_FOUND": (
        404,
        False,
        "There is no webhook {id} of yours. List yours: farloom webhooks list.",
    ),
    "WEBHOOK_URL_REFUSED": (
        422,
        False,
        "The URL is not one that this service calls: {detail}.",
    ),
    "RESULT_NOT_READY": (
        409,
        True,
        "Task {id} has not finished. Wait for it with ?wait=SECONDS.",
    ),
    "RESULT_NONE": (
        409,
        False,
        "Task {id} ended as {state} and has no result. GET /v1/tasks/{id} tells why.",
    ),
    "TASK_EXPIRED": (
        410,
        False,
        "Task {id} ended as {state} at {finishedAt}, and was deleted when its retention ended.",
    ),
    "RESULT_EXPIRED": (
        410,
        False,
        "The result of task {id} was deleted when its retention ended.",
    ),
    "ARGUMENTS_INVALID": (
        422,
        False,
        "The arguments do not fit the function: {detail}.",
    ),
    "ARGUMENTS_TOO_LARGE": (
        413,
        False,
        "The arguments have {size} bytes inline, at most {limit}. Put them into a payload file and submit its reference.",
    ),
    "OPTIONS_INVALID": (
        422,
        False,
        "The task options are not valid: {detail}.",
    ),
    "TASK_ID_TAKEN": (
        409,
        False,
        "Task id {id} already belongs to another submission. Make new ids.",
    ),
    "IDEMPOTENCY_MISMATCH": (
        409,
        False,
        "This Idempotency-Key was used with a different body. Use a new key for a new request.",
    ),
    "NOT_CANCELLABLE": (
        409,
        False,
        "Task {id} has already finished as {state}.",
    ),
    "FRAME_INVALID": (
        400,
        False,
        "A frame is not valid: {detail}. The connection is closed; nothing was taken from this frame.",
    ),
    "FRAME_UNKNOWN": (
        400,
        False,
        "A frame was ignored: {detail}.",
    ),
    "FRAME_TOO_LARGE": (
        413,
        False,
        "A frame is too large: {detail}.",
    ),
    "VERSION_UNSUPPORTED": (
        426,
        False,
        "No common protocol version: {detail}.",
    ),
    "CREDIT_EXCEEDED": (
        429,
        True,
        "More tasks came than there was credit for: {detail}.",
    ),
    "LINK_REPLACED": (
        409,
        False,
        "A newer connection of the same endpoint took over; this one stops leasing.",
    ),
    "LINK_SLOW": (
        408,
        True,
        "The peer does not read: {detail}. Connect again.",
    ),
    "LINK_SILENT": (
        408,
        True,
        "Nothing was heard for {seconds} s. Connect again.",
    ),
    "DRAINING": (
        503,
        True,
        "The other side is stopping. Connect again in a moment.",
    ),
    "NODE_REFUSED": (
        401,
        False,
        "The agent does not take this node: its block is not known or has ended, its secret was used already, or it was away too long. The node ends what it runs; the agent's log has the reason.",
    ),
    "TASK_FAILED": (
        200,
        False,
        "The function raised {type}: {message}",
    ),
    "TASK_CANCELLED": (
        200,
        False,
        "The task was cancelled.",
    ),
    "TASK_TIMED_OUT": (
        200,
        False,
        "The task reached its time limit ({reason}).",
    ),
    "TASK_LOST": (
        200,
        False,
        "The task had, or may have, started when its agent was lost. Declare the function at_least_once to have it run again.",
    ),
    "WORKER_DIED": (
        200,
        False,
        "The worker process ended while it ran the task: {detail}.",
    ),
    "SERVICE_UNREACHABLE": (
        503,
        True,
        "The service at {url} cannot be reached: {detail}. Is it running? Try 'farloom doctor'.",
    ),
    "SETTING_MISSING": (
        400,
        False,
        "{what} is not set. {cure}.",
    ),
    "VALUE_UNENCODABLE": (
        400,
        False,
        "{path} cannot be sent as {codec}: {detail}.",
    ),
    "RESULT_UNREADABLE": (
        200,
        False,
        "The result of task {id} cannot be read here: {detail}.",
    ),
    "RESULT_CORRUPT": (
        200,
        False,
        "The result of task {id} does not bear its worker's seal, on the link or over REST: what came is not what was made.",
    ),
    "CLIENT_CLOSED": (
        409,
        False,
        "This client is closed. Tasks that the service has taken run on; fetch their results by id.",
    ),
}
