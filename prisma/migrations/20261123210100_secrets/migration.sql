-- CreateTable
CREATE TABLE "secret" (
    "owner_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "version" UUID NOT NULL,
    "key_id" TEXT NOT NULL,
    "sealed" BYTEA NOT NULL,
    "endpoints" UUID[] DEFAULT ARRAY[]::UUID[],
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_used_at" TIMESTAMPTZ(3),

    CONSTRAINT "secret_pkey" PRIMARY KEY ("owner_id","name")
);

-- AddForeignKey
ALTER TABLE "secret" ADD CONSTRAINT "secret_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- What Prisma cannot express: the second wall. The tenants' role is granted the columns without the value (store/tenant-wall.ts).
ALTER TABLE "secret" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "secret_of_tenant" ON "secret" USING ("owner_id" = (SELECT "farloom_tenant"()));

-- Who could do everything with what is theirs still can.
UPDATE "api_key" SET "scopes" = "scopes" || ARRAY['secrets:use', 'secrets:write']
  WHERE "scopes" @> ARRAY['keys:write', 'endpoints:write', 'functions:write', 'tasks:submit'] AND NOT 'secrets:use' = ANY("scopes");
UPDATE "login_session" SET "scopes" = "scopes" || ARRAY['secrets:use', 'secrets:write']
  WHERE "scopes" @> ARRAY['keys:write', 'endpoints:write', 'functions:write', 'tasks:submit'] AND NOT 'secrets:use' = ANY("scopes");
