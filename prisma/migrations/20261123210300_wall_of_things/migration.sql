-- What Prisma cannot express: the second wall around what people share and hold: functions, endpoints, access lists, teams,
-- API keys, logins, signatures, accounts. What 20261123203000_tenant_wall says of the first ones holds here too.

-- Where a policy asks what another table says of the tenant, it asks a view of the tables' owner: policies of tables that ask
-- each other would have no end. EXISTS leaves it to the planner whether to ask for each row, or once for all.

-- Teams that the tenant is in, and that they made: whoever makes one need not stay a member.
CREATE VIEW "tenant_team" AS
  SELECT "team_id", false AS "is_own" FROM "team_member" WHERE "person_id" = (SELECT "farloom_tenant"())
  UNION ALL SELECT "id", true FROM "team" WHERE "owner_id" = (SELECT "farloom_tenant"());

-- What the tenant may do with endpoints: levels as entries give them (L1, L2 in sharing/levels.ts), 4 with one's own.
CREATE VIEW "tenant_endpoint" AS
  SELECT "id" AS "endpoint_id", 4 AS "level" FROM "endpoint" WHERE "owner_id" = (SELECT "farloom_tenant"())
  UNION ALL SELECT a."endpoint_id", greatest(0, least(coalesce(max(a."allow"), 0), coalesce(min(nullif(a."deny", 0)), 4) - 1))
  FROM "endpoint_access" a
  WHERE a."subject_id" IN (SELECT (SELECT "farloom_tenant"()) UNION ALL
    SELECT m."team_id" FROM "team_member" m WHERE m."person_id" = (SELECT "farloom_tenant"()))
  GROUP BY a."endpoint_id";

-- Names, for whoever knows the id, and a person's id for whoever knows the name: nobody lists people by these. Their bodies
-- are bound here, whatever the caller's search_path.
CREATE FUNCTION "farloom_person_name"(uuid) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
  RETURN (SELECT o."name" FROM "owner" o WHERE o."id" = $1);
CREATE FUNCTION "farloom_person_id"(text) RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER
  RETURN (SELECT o."id" FROM "owner" o WHERE o."name" = $1);
CREATE FUNCTION "farloom_team_name"(uuid) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
  RETURN (SELECT o."name" || '/' || t."name" FROM "team" t JOIN "owner" o ON o."id" = t."owner_id" WHERE t."id" = $1);
REVOKE EXECUTE ON FUNCTION "farloom_person_name"(uuid), "farloom_person_id"(text), "farloom_team_name"(uuid) FROM PUBLIC;

-- Rows that say whose they are.
ALTER TABLE "api_key" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "api_key_of_tenant" ON "api_key" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "login_session" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "login_session_of_tenant" ON "login_session" USING ("owner_id" = (SELECT "farloom_tenant"()));

-- Administrators see who has an account.
ALTER TABLE "owner" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "owner_of_tenant" ON "owner" FOR SELECT
  USING ("id" = (SELECT "farloom_tenant"()) OR (SELECT "is_admin" FROM "tenant"));
ALTER TABLE "local_password" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "local_password_of_tenant" ON "local_password" FOR SELECT
  USING ("owner_id" = (SELECT "farloom_tenant"()) OR (SELECT "is_admin" FROM "tenant"));
ALTER TABLE "external_identity" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "external_identity_of_tenant" ON "external_identity" FOR SELECT
  USING ("owner_id" = (SELECT "farloom_tenant"()) OR (SELECT "is_admin" FROM "tenant"));

-- What is shared is seen by those with whom it is, and changed by those whose it is.
ALTER TABLE "team" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "team_seen" ON "team" FOR SELECT
  USING (EXISTS (SELECT 1 FROM "tenant_team" x WHERE x."team_id" = "team"."id"));
CREATE POLICY "team_of_tenant" ON "team" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "team_member" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "team_member_seen" ON "team_member" FOR SELECT
  USING ("person_id" = (SELECT "farloom_tenant"())
    OR EXISTS (SELECT 1 FROM "tenant_team" x WHERE x."team_id" = "team_member"."team_id"));
CREATE POLICY "team_member_of_tenant" ON "team_member"
  USING (EXISTS (SELECT 1 FROM "tenant_team" x WHERE x."team_id" = "team_member"."team_id" AND x."is_own"));

ALTER TABLE "function" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "function_seen" ON "function" FOR SELECT
  USING ("visibility" = 2 AND (SELECT "farloom_tenant"()) IS NOT NULL
    OR "visibility" = 1
      AND EXISTS (SELECT 1 FROM "tenant_team" x WHERE x."team_id" = "function"."team_id" AND NOT x."is_own"));
CREATE POLICY "function_of_tenant" ON "function" USING ("owner_id" = (SELECT "farloom_tenant"()));

ALTER TABLE "endpoint" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "endpoint_seen" ON "endpoint" FOR SELECT
  USING (EXISTS (SELECT 1 FROM "tenant_endpoint" x WHERE x."endpoint_id" = "endpoint"."id" AND x."level" > 0));
CREATE POLICY "endpoint_of_tenant" ON "endpoint" USING ("owner_id" = (SELECT "farloom_tenant"()));

-- One sees entries that concern oneself, and all of an endpoint that one manages. Only its owner says who manages it.
ALTER TABLE "endpoint_access" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "endpoint_access_seen" ON "endpoint_access" FOR SELECT
  USING ("subject_id" = (SELECT "farloom_tenant"())
    OR EXISTS (SELECT 1 FROM "tenant_team" x WHERE x."team_id" = "endpoint_access"."subject_id" AND NOT x."is_own")
    OR EXISTS (SELECT 1 FROM "tenant_endpoint" x WHERE x."endpoint_id" = "endpoint_access"."endpoint_id" AND x."level" >= 3));
CREATE POLICY "endpoint_access_managed" ON "endpoint_access"
  USING (EXISTS (SELECT 1 FROM "tenant_endpoint" x WHERE x."endpoint_id" = "endpoint_access"."endpoint_id"
    AND (x."level" = 4 OR x."level" = 3 AND "endpoint_access"."allow" <> 3 AND "endpoint_access"."deny" <> 3)));

-- The function is looked up for each, by its key and under its own policies.
ALTER TABLE "function_signature" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "function_signature_seen" ON "function_signature" FOR SELECT
  USING ((SELECT true FROM "function" f WHERE f."key" = "function_signature"."function_key"));
CREATE POLICY "function_signature_of_tenant" ON "function_signature"
  USING ("added_by" = (SELECT "farloom_tenant"())
    AND (SELECT true FROM "function" f WHERE f."key" = "function_signature"."function_key"));

-- A team that ends takes with it what was shared with it, whoever shared it: more than its owner may touch.
CREATE FUNCTION "farloom_team_ends"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  UPDATE "function" SET "visibility" = 0, "team_id" = NULL WHERE "team_id" = OLD."id";
  DELETE FROM "endpoint_access" WHERE "subject_id" = OLD."id" AND "is_team";
  RETURN OLD;
END
$$;
CREATE TRIGGER "team_ends" BEFORE DELETE ON "team" FOR EACH ROW EXECUTE FUNCTION "farloom_team_ends"();

-- Whoever changes access raises its number, which tenants may not touch. Temporary tables are not taken for ours.
ALTER FUNCTION "farloom_access_changed"() SECURITY DEFINER;
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION "farloom_access_changed"() SET search_path = %I, pg_temp', current_schema());
  EXECUTE format('ALTER FUNCTION "farloom_team_ends"() SET search_path = %I, pg_temp', current_schema());
END
$$;
