/**
 * The functions under test. Each writes evidence before and after its work, with fsync, to a file that Farloom never
 * touches: `task attempt fence pid start|beat|end nonce monotonic-ns`. A worker has a file of its own.
 *
 * Each takes (folder, nonce, ...) and returns {nonce, sha}: whose result it is, and the digest of what it was given.
 */
const PRELUDE = `
import hashlib, os, signal, sys, time

def context():
    for name in ("farloom_worker_context", "farloom"):
        module = sys.modules.get(name)
        if module is None and name == "farloom":
            try:
                import farloom as module
            except ImportError:
                module = None
        task = getattr(module, "task", None)
        if getattr(task, "id", None):
            return (str(task.id), int(task.attempt), int(task.fence or 0))
    return ("-", 0, 0)

def write(folder, what, nonce, ctx):
    line = "%s %d %d %d %s %s %d\\n" % (*ctx, os.getpid(), what, nonce, time.monotonic_ns())
    fd = os.open(folder + "/" + str(os.getpid()) + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(fd, line.encode())
        os.fsync(fd)
    finally:
        os.close(fd)

def begin(folder, nonce):
    ctx = context()
    write(folder, "start", nonce, ctx)
    return ctx

def done(folder, nonce, ctx, payload=""):
    write(folder, "end", nonce, ctx)
    return {"nonce": nonce, "sha": hashlib.sha256(payload.encode()).hexdigest()[:16] if payload else ""}
`;

const BODIES = {
  noop: `
def noop(folder, nonce):
    return done(folder, nonce, begin(folder, nonce))
`,
  sleep: `
def sleep(folder, nonce, seconds):
    ctx = begin(folder, nonce)
    time.sleep(seconds)
    return done(folder, nonce, ctx)
`,
  // The payload comes back too: a large result is a payload file as well.
  large: `
def large(folder, nonce, payload):
    ctx = begin(folder, nonce)
    out = done(folder, nonce, ctx, payload)
    out["payload"] = payload
    return out
`,
  // Fails in its first attempts, as far as the evidence says: it counts its own starts.
  flaky: `
def flaky(folder, nonce, failures):
    ctx = begin(folder, nonce)
    mark = folder + "/../flaky/" + nonce
    os.makedirs(os.path.dirname(mark), exist_ok=True)
    with open(mark, "ab") as file:
        file.write(b".")
    if os.path.getsize(mark) <= failures:
        raise ValueError("not yet: " + nonce)
    return done(folder, nonce, ctx)
`,
  raises: `
def raises(folder, nonce):
    begin(folder, nonce)
    raise ValueError("always: " + nonce)
`,
  // Beats until it is over, so that whatever outlives a confirmed cancel shows.
  slow: `
def slow(folder, nonce, seconds):
    ctx = begin(folder, nonce)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.1)
        write(folder, "beat", nonce, ctx)
    return done(folder, nonce, ctx)
`,
  // Hears no SIGTERM, and has a child in a session of its own that beats as well.
  stubborn: `
def stubborn(folder, nonce, seconds):
    ctx = begin(folder, nonce)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until = time.monotonic() + seconds
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            while time.monotonic() < until:
                time.sleep(0.1)
                write(folder, "beat", nonce, ctx)
        finally:
            os._exit(0)
    while time.monotonic() < until:
        time.sleep(0.1)
        write(folder, "beat", nonce, ctx)
    os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return done(folder, nonce, ctx)
`,
  // Ends its own worker, each time.
  deadly: `
def deadly(folder, nonce):
    begin(folder, nonce)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
`,
};

export const FUNCTION_NAMES = Object.keys(BODIES);

/** What registers one of them. */
export function functionSpecOf(name) {
  return { name: `faults-${name}`, runtime: "python", code: PRELUDE + BODIES[name], entry: name };
}
