-- AlterTable
ALTER TABLE "api_key" ADD COLUMN     "only_endpoints" TEXT[] DEFAULT ARRAY[]::TEXT[],
ADD COLUMN     "only_functions" TEXT[] DEFAULT ARRAY[]::TEXT[];

-- CreateTable
CREATE TABLE "access_epoch" (
    "id" SMALLINT NOT NULL,
    "version" BIGINT NOT NULL,

    CONSTRAINT "access_epoch_pkey" PRIMARY KEY ("id")
);

-- No key lives for longer than the service lets one be made for; those of before are narrowed to nothing else.
UPDATE "api_key" SET "expires_at" = now() + interval '366 days' WHERE "expires_at" > now() + interval '366 days';

-- What replicas remember of who may do what holds as long as this number stays. Triggers raise it, so that no
-- statement, ours or a person's, can change access without its being heard.
INSERT INTO "access_epoch" ("id", "version") VALUES (1, 1);

CREATE FUNCTION "farloom_access_changed"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE "access_epoch" SET "version" = "version" + 1 WHERE "id" = 1;
  RETURN NULL;
END
$$;

CREATE TRIGGER "api_key_changes_access" AFTER UPDATE OR DELETE ON "api_key"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
