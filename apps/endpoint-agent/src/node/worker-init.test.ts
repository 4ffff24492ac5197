import { expect, it } from "vitest";
import { environmentAfter } from "./worker-init.js";

const env = { PATH: process.env.PATH, KEPT: "yes" };

it("gives the environment that the lines leave, whatever is in it", async () => {
  const lines = `module() { export LOADED="$1"; }\nmodule 'a b'\nexport TEXT=$'two\\nlines = "x"'\nunset KEPT\nLOCAL=1\necho noise`;
  const after = await environmentAfter(lines, env);
  expect(after).toMatchObject({ LOADED: "a b", TEXT: 'two\nlines = "x"' });
  expect(after).not.toHaveProperty("KEPT");
  expect(after).not.toHaveProperty("LOCAL");
});

it("says what went wrong where the lines fail, exit, are no shell or hang", async () => {
  await expect(environmentAfter("echo no such module >&2; false", env)).rejects.toThrow(
    /exit code 1.*no such module/,
  );
  await expect(environmentAfter("exit 0", env)).rejects.toThrow(/left no environment/);
  await expect(environmentAfter("if then", env)).rejects.toThrow(/worker_init failed.*syntax/s);
  await expect(environmentAfter("sleep 60", env, 500)).rejects.toThrow(/longer than 0.5 s/);
});

it("does not wait for what the lines leave in the background", async () => {
  const after = await environmentAfter("sleep 5 & export PID=$!", env);
  process.kill(Number(after.PID));
});
