-- AlterTable
ALTER TABLE "owner" ADD COLUMN     "disabled_at" TIMESTAMPTZ(3);

-- CreateTable
CREATE TABLE "local_password" (
    "owner_id" UUID NOT NULL,
    "hash" TEXT NOT NULL,
    "changed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "local_password_pkey" PRIMARY KEY ("owner_id")
);

-- CreateTable
CREATE TABLE "external_identity" (
    "issuer" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "owner_id" UUID NOT NULL,
    "email" TEXT NOT NULL DEFAULT '',
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "external_identity_pkey" PRIMARY KEY ("issuer","subject")
);

-- CreateTable
CREATE TABLE "login_session" (
    "id" TEXT NOT NULL,
    "owner_id" UUID NOT NULL,
    "kind" SMALLINT NOT NULL,
    "secret_hash" BYTEA NOT NULL,
    "family_hash" BYTEA,
    "scopes" TEXT[],
    "client" TEXT NOT NULL,
    "origin" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_used_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "idle_until" TIMESTAMPTZ(3) NOT NULL,
    "revoked_at" TIMESTAMPTZ(3),

    CONSTRAINT "login_session_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "device_login" (
    "device_hash" BYTEA NOT NULL,
    "user_code_hash" BYTEA NOT NULL,
    "client" TEXT NOT NULL,
    "origin" TEXT NOT NULL,
    "scopes" TEXT[],
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "interval_s" INTEGER NOT NULL DEFAULT 5,
    "asked_at" TIMESTAMPTZ(3),
    "owner_id" UUID,
    "is_approved" BOOLEAN,

    CONSTRAINT "device_login_pkey" PRIMARY KEY ("device_hash")
);

-- CreateTable
CREATE TABLE "account_link" (
    "token_hash" BYTEA NOT NULL,
    "name" TEXT NOT NULL,
    "is_admin" BOOLEAN NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "account_link_pkey" PRIMARY KEY ("token_hash")
);

-- CreateTable
CREATE TABLE "token_key" (
    "kid" TEXT NOT NULL,
    "public_key" BYTEA NOT NULL,
    "sealed" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "active_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "token_key_pkey" PRIMARY KEY ("kid")
);

-- CreateIndex
CREATE INDEX "external_identity_owner_id_idx" ON "external_identity"("owner_id");

-- CreateIndex
CREATE INDEX "login_session_owner_id_idx" ON "login_session"("owner_id");

-- CreateIndex
CREATE INDEX "login_session_expires_at_idx" ON "login_session"("expires_at");

-- CreateIndex
CREATE UNIQUE INDEX "device_login_user_code_hash_key" ON "device_login"("user_code_hash");

-- CreateIndex
CREATE INDEX "device_login_expires_at_idx" ON "device_login"("expires_at");

-- CreateIndex
CREATE INDEX "account_link_name_idx" ON "account_link"("name");

-- AddForeignKey
ALTER TABLE "local_password" ADD CONSTRAINT "local_password_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "external_identity" ADD CONSTRAINT "external_identity_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "login_session" ADD CONSTRAINT "login_session_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- What ends a login, or an account, or an agent's key, raises the number under which replicas remember who may do what. A
-- login that is merely used does not.
CREATE TRIGGER "owner_changes_access" AFTER UPDATE OF "disabled_at", "is_admin" ON "owner"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "login_session_changes_access" AFTER UPDATE OF "revoked_at", "expires_at", "scopes" OR DELETE ON "login_session"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "token_key_changes_access" AFTER INSERT OR UPDATE OR DELETE ON "token_key"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
CREATE TRIGGER "endpoint_key_changes_access" AFTER UPDATE OF "public_key" ON "endpoint"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();
