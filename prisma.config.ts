// Where Prisma finds the schema. There is no datasource URL here on purpose: the CLI is used for
// `generate` alone, and the service connects through a driver adapter on its own pool.
import { defineConfig } from "prisma/config";

export default defineConfig({
  schema: "prisma/schema.prisma",
  migrations: { path: "prisma/migrations" },
});
