-- AlterTable
ALTER TABLE "function" ADD COLUMN     "team_id" UUID,
ADD COLUMN     "visibility" SMALLINT NOT NULL DEFAULT 0;

-- AlterTable
ALTER TABLE "endpoint" ADD COLUMN     "allow_functions" TEXT[] DEFAULT ARRAY[]::TEXT[];

-- CreateTable
CREATE TABLE "team" (
    "id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "team_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "team_member" (
    "team_id" UUID NOT NULL,
    "person_id" UUID NOT NULL,
    "added_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "team_member_pkey" PRIMARY KEY ("team_id","person_id")
);

-- CreateTable
CREATE TABLE "endpoint_access" (
    "endpoint_id" UUID NOT NULL,
    "subject_id" UUID NOT NULL,
    "is_team" BOOLEAN NOT NULL,
    "allow" SMALLINT NOT NULL DEFAULT 0,
    "deny" SMALLINT NOT NULL DEFAULT 0,
    "changed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "endpoint_access_pkey" PRIMARY KEY ("endpoint_id","subject_id")
);

-- CreateIndex
CREATE UNIQUE INDEX "team_owner_id_name_key" ON "team"("owner_id", "name");

-- CreateIndex
CREATE INDEX "team_member_person_id_idx" ON "team_member"("person_id");

-- CreateIndex
CREATE INDEX "endpoint_access_subject_id_idx" ON "endpoint_access"("subject_id");

-- CreateIndex
CREATE INDEX "function_team_id_idx" ON "function"("team_id");

-- AddForeignKey
ALTER TABLE "team" ADD CONSTRAINT "team_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "team_member" ADD CONSTRAINT "team_member_team_id_fkey" FOREIGN KEY ("team_id") REFERENCES "team"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "team_member" ADD CONSTRAINT "team_member_person_id_fkey" FOREIGN KEY ("person_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "function" ADD CONSTRAINT "function_team_id_fkey" FOREIGN KEY ("team_id") REFERENCES "team"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- Whatever says who may do what raises the number under which replicas remember it.
CREATE TRIGGER "team_changes_access" AFTER DELETE ON "team"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "team_member_changes_access" AFTER INSERT OR UPDATE OR DELETE ON "team_member"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "endpoint_access_changes_access" AFTER INSERT OR UPDATE OR DELETE ON "endpoint_access"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "endpoint_changes_access" AFTER UPDATE OF "owner_id", "name", "deleted_at", "allow_functions" ON "endpoint"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "function_changes_access" AFTER UPDATE OF "owner_id", "deleted_at", "visibility", "team_id" ON "function"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();

-- Keys that could change everything of their owner's before may share it too.
UPDATE "api_key" SET "scopes" = array_append("scopes", 'sharing:write')
  WHERE "scopes" @> ARRAY['keys:write', 'endpoints:write', 'functions:write'] AND NOT 'sharing:write' = ANY("scopes");
