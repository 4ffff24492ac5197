/** The task of the kill tests, and its numbers: the same as in kill_common.py, as a function that Farloom registers. */
export const TASKS = 300;
export const KILL_AFTER = 100;
export const WORKERS = 2;

export const CODE = `
import os, time

def work(n, path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        for word in ("start", "end"):
            os.write(fd, f"{n} {word} {os.getpid()}\\n".encode())
            os.fsync(fd)
            if word == "start":
                time.sleep(0.02)
    finally:
        os.close(fd)
    return n * n
`;
