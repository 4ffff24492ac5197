// Kinds of tests: `unit` stands beside its source, `simulation` runs a world of it, and both need nothing; `integration` and `e2e` share one real
// PostgreSQL, started for the run (test/support/postgres-setup.ts), with a database for each file that asks for one.
// So does `security`, which tries to get out of tasks. Besides, `faults` breaks a fabric of its own, and `slurm` a cluster of its own
// (test/support/slurm); `binary` and `bench-slurm` are no part of `npm test`.
// Packages are imported as their users do, from `dist`: build before testing (`npm test` does).
import { defineConfig } from "vitest/config";

const withPostgres = {
  globalSetup: ["test/support/postgres-setup.ts"],
  // Processes are started, killed and waited for.
  testTimeout: 30_000,
  hookTimeout: 60_000,
};

export default defineConfig({
  test: {
    // Signals, process titles and native handles behave in forks as they do in production.
    pool: "forks",
    // The benchmark of record is a machine with two cores, and the tests of processes wait more than they work.
    maxWorkers: 3,
    // What is built is loaded as Node loads it: to transform the whole service again for each file costs seconds.
    server: { deps: { external: [/\/node_modules\//, /\/dist\//] } },
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          // Loading modules anew for each file costs more than most of them do. Nothing here keeps state in a module.
          // (Each worker then has its files from the start: not for projects whose files take seconds or minutes.)
          isolate: false,
          // Some start workers, on a machine that others keep busy.
          testTimeout: 20_000,
          include: ["packages/*/src/**/*.test.ts", "apps/*/src/**/*.test.ts"],
        },
      },
      {
        extends: true,
        // A hundred thousand schedules of the pure parts: a worker by itself, from early on.
        test: { name: "simulation", testTimeout: 20_000, include: ["test/simulation/**/*.test.ts"] },
      },
      {
        extends: true,
        test: {
          ...withPostgres,
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
        },
      },
      {
        extends: true,
        // A campaign brings up and breaks a fabric of its own: long, and by itself.
        test: {
          name: "faults",
          include: ["test/faults/**/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          ...withPostgres,
          name: "security",
          include: ["test/security/**/*.test.ts"],
          testTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: { ...withPostgres, name: "e2e", include: ["test/e2e/**/*.test.ts"] },
      },
      {
        extends: true,
        // `npm run bench:slurm`: no part of the tests.
        test: { ...withPostgres, name: "bench-slurm", include: ["bench/slurm/**/*.test.ts"] },
      },
      {
        extends: true,
        // The single file: 100 MB to build, and a file system of its own to run in. `npm run test:binary`.
        test: {
          name: "binary",
          include: ["test/binary/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
      {
        extends: true,
        // A real cluster, which takes its time to notice things: its shortest clocks count seconds.
        test: {
          ...withPostgres,
          name: "slurm",
          include: ["test/slurm/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
