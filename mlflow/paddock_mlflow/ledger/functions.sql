-- The ledger's functions. Read by paddock_mlflow/ledger/programs.py after every migration.

CREATE OR REPLACE FUNCTION paddock_raise_config_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE paddock_config_version SET version = version + 1;
  RETURN NULL;
END $$;
