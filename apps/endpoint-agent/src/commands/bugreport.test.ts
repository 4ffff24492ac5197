import { expect, it } from "vitest";
import { masked } from "./bugreport.js";

it.each([
  ["FARLOOM_API_KEY=fl_1.S3cr3t", "S3cr3t"],
  ['  "enrolmentCode": "abcd-efgh",', "abcd-efgh"],
  ["export OPENAI_API_KEY='sk two words'", "two words"],
  ["DB_PASSWORD: hunter2", "hunter2"],
  ["MY_PASS=hunter2", "hunter2"],
  ["https://ann:hunter2@proxy:3128", "hunter2"],
  ["authorization: Bearer abc.def-ghi", "abc.def-ghi"],
  ["cookie eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9x7Qa", "eyJhbGci"],
  ["-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQ\n-----END PRIVATE KEY-----", "MC4CAQ"],
  ['worker_init = "export HF_TOKEN=hf_abc; module load python"', "hf_abc"],
])("%j does not stand in a report", (text, secret) => {
  expect(masked(text)).not.toContain(secret);
});

it.each([
  '"endpointId": "0b6a3f0e-1111-4222-8333-444455556666"',
  `digest ${"ab12".repeat(16)}`,
  "connected to https://farloom.example.org:443/v1 in 12 ms",
  'worker_init = "module load python"',
  'partition = "gpu"',
])("%j stands there as it is", (text) => {
  expect(masked(text)).toBe(text);
});
