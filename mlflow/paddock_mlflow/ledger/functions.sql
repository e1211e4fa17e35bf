-- The ledger's functions for PostgreSQL. paddock_mlflow/ledger/programs.py puts them in after every migration.
--
-- Each of admit, extend, settle and expire is one transaction of one statement. What keeps them exact:
--   * Rows are locked in one order everywhere: calls (by id), buckets (by id), budget windows (by policy and start), key.
--   * Calls that only move numbers hold the advisory lock 7262835 shared. Who makes a new window holds it exclusively while
--     adding up the calls so far, so none of them ends in between and is counted twice or not at all.
--   * Every statement sees what was committed before it began (READ COMMITTED), so what is read after a lock is true.
-- paddock_mlflow/ledger/sqlite.py is the same in Python; one suite of tests holds both to it.

CREATE OR REPLACE FUNCTION paddock_raise_config_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE paddock_config_version SET version = version + 1;
  RETURN NULL;
END $$;

-- Triggers stay; everything else may have other parameters or results in this release.
DO $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = current_schema()::regnamespace AND p.proname LIKE 'paddock\_%'
      AND p.prorettype <> 'trigger'::regtype
  LOOP
    EXECUTE 'DROP FUNCTION ' || f || ' CASCADE';
  END LOOP;
END $$;

-- Calendar windows as mlflow.gateway.budget_tracker._compute_window_start and _compute_window_end make them, in UTC. No unit:
-- a window without end. PL/pgSQL, since an argument that is used twice keeps SQL functions from being inlined, and each such
-- call starts an executor.
CREATE FUNCTION paddock_window_start(unit text, count integer, at timestamptz) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN CASE unit
    WHEN 'MINUTES' THEN to_timestamp(floor(extract(epoch FROM at) / (60 * count)) * (60 * count))
    WHEN 'HOURS' THEN to_timestamp(floor(extract(epoch FROM at) / (3600 * count)) * (3600 * count))
    WHEN 'DAYS' THEN to_timestamp(floor(extract(epoch FROM at) / (86400 * count)) * (86400 * count))
    -- The Sunday before the epoch was four days earlier.
    WHEN 'WEEKS' THEN to_timestamp(floor((extract(epoch FROM at) + 345600) / (604800 * count)) * (604800 * count) - 345600)
    WHEN 'MONTHS' THEN (timestamp '1970-01-01' + make_interval(months =>
      (((extract(year FROM at AT TIME ZONE 'UTC') - 1970) * 12 + extract(month FROM at AT TIME ZONE 'UTC') - 1)::integer
        / count) * count)) AT TIME ZONE 'UTC'
    ELSE timestamptz '1970-01-01 00:00:00+00'
  END;
END $$;

CREATE FUNCTION paddock_window_end(unit text, count integer, start timestamptz) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN CASE unit
    WHEN 'MINUTES' THEN start + make_interval(secs => 60 * count)
    WHEN 'HOURS' THEN start + make_interval(secs => 3600 * count)
    WHEN 'DAYS' THEN start + make_interval(secs => 86400.0 * count)
    WHEN 'WEEKS' THEN start + make_interval(secs => 604800.0 * count)
    WHEN 'MONTHS' THEN (start AT TIME ZONE 'UTC' + make_interval(months => count)) AT TIME ZONE 'UTC'
    ELSE timestamptz '9999-12-31 00:00:00+00'
  END;
END $$;

-- Whose budgets a call counts in.
CREATE FUNCTION paddock_subjects(p_endpoint_id text, p_workspace text, p_username text, p_key_id text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT ARRAY['all', 'workspace:' || p_workspace, 'endpoint:' || p_endpoint_id, 'user:' || p_username, 'key:' || p_key_id]
$$;

-- The budgets in force for these subjects, as mlflow.gateway.budget_tracker._policy_applies matches them, and the key's own.
CREATE FUNCTION paddock_policies(p_subjects text[], p_at timestamptz)
RETURNS TABLE (policy_id text, subject text, amount numeric, rejects boolean, unit text, count integer,
  window_start timestamptz, window_end timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT p.policy_id, p.subject, p.amount, p.rejects, p.unit, p.count,
    paddock_window_start(p.unit, p.count, p_at),
    paddock_window_end(p.unit, p.count, paddock_window_start(p.unit, p.count, p_at))
  FROM (
    SELECT b.budget_policy_id::text AS policy_id,
      CASE b.target_scope
        WHEN 'GLOBAL' THEN 'all'
        WHEN 'WORKSPACE' THEN 'workspace:' || b.workspace
        WHEN 'ENDPOINT' THEN 'endpoint:' || b.target_value
        WHEN 'USER' THEN 'user:' || b.target_value
      END AS subject,
      b.budget_amount::numeric AS amount, b.budget_action = 'REJECT' AS rejects,
      b.duration_unit::text AS unit, b.duration_value AS count
    FROM budget_policies b
    UNION ALL
    SELECT 'key:' || k.id, 'key:' || k.id, k.budget_usd, true, k.budget_unit::text, coalesce(k.budget_count, 1)
    FROM paddock_keys k WHERE k.id = substr(p_subjects[5], 5) AND k.budget_usd IS NOT NULL
  ) p
  WHERE p.subject = ANY (p_subjects)
$$;

-- The limits a minute that a call counts in.
CREATE FUNCTION paddock_rates(p_endpoint_id text, p_username text, p_key_id text)
RETURNS TABLE (bucket_id text, subject text, requests_per_minute integer, tokens_per_minute integer)
LANGUAGE sql STABLE AS $$
  SELECT 'limit:' || l.id, l.scope || ':' || l.target, l.requests_per_minute, l.tokens_per_minute
  FROM paddock_rate_limits l
  WHERE (l.scope, l.target) IN (('endpoint', p_endpoint_id), ('user', p_username), ('key', p_key_id))
  UNION ALL
  SELECT 'key:' || k.id, 'key:' || k.id, k.requests_per_minute, k.tokens_per_minute
  FROM paddock_keys k
  WHERE k.id = p_key_id AND (k.requests_per_minute IS NOT NULL OR k.tokens_per_minute IS NOT NULL)
$$;

-- How full a bucket is that holds a minute's worth and is refilled evenly; without a limit it is always full.
CREATE FUNCTION paddock_level(p_level float8, p_a_minute integer, p_since timestamptz, p_at timestamptz) RETURNS float8
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN p_a_minute IS NULL THEN 'infinity'::float8 ELSE least(p_a_minute::float8,
    p_level + p_a_minute / 60.0::float8 * greatest(extract(epoch FROM p_at - p_since)::float8, 0)) END
$$;

-- The rows of windows that are missing, with what was spent and is reserved already. The caller holds the lock exclusively.
CREATE FUNCTION paddock_open_windows(p_subjects text[], p_at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  q record;
  v_spent numeric;
  v_reserved numeric;
BEGIN
  FOR q IN
    SELECT p.* FROM paddock_policies(p_subjects, p_at) p
    LEFT JOIN paddock_budget_windows w ON w.policy_id = p.policy_id AND w.window_start = p.window_start
      AND w.window_end = p.window_end AND w.subject = p.subject
    WHERE w.policy_id IS NULL
  LOOP
    IF q.subject LIKE 'key:%' THEN
      SELECT sum(c.cost_usd), sum(c.reserved_usd) FILTER (WHERE c.ended_at IS NULL) INTO v_spent, v_reserved
        FROM paddock_calls c
        WHERE c.key_id = substr(q.subject, 5) AND c.started_at >= q.window_start AND c.started_at < q.window_end;
    ELSE
      SELECT sum(c.cost_usd), sum(c.reserved_usd) FILTER (WHERE c.ended_at IS NULL) INTO v_spent, v_reserved
        FROM paddock_calls c
        WHERE c.started_at >= q.window_start AND c.started_at < q.window_end
          AND q.subject = ANY (paddock_subjects(c.endpoint_id, c.workspace, c.username, NULL));
    END IF;
    INSERT INTO paddock_budget_windows AS w (policy_id, window_start, window_end, subject, spent, reserved)
      VALUES (q.policy_id, q.window_start, q.window_end, q.subject, coalesce(v_spent, 0), coalesce(v_reserved, 0))
      -- The row of a policy that has another target by now.
      ON CONFLICT (policy_id, window_start, window_end)
        DO UPDATE SET subject = excluded.subject, spent = excluded.spent, reserved = excluded.reserved;
  END LOOP;
END $$;

-- May a call be made? If so its bound is reserved in every budget, and its rates are taken; if not, nothing is changed.
-- `verdict`: admitted; stale (`version` says which is true); again (a window was missing: call once more); else a Reason.
CREATE FUNCTION paddock_admit(
  p_call_id text, p_sha256 bytea, p_opens_run_keys boolean, p_username text, p_endpoint_id text, p_endpoint_name text, p_tokens bigint,
  p_bound numeric, p_lease_seconds float8, p_config_version bigint, p_unpriced text,
  OUT verdict text, OUT version bigint, OUT username text, OUT key_id text, OUT run_id text, OUT subject text,
  OUT amount numeric, OUT remaining numeric, OUT unit text, OUT count integer, OUT resets_at timestamptz,
  OUT retry_after float8, OUT moment timestamptz, OUT some_expired boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  k paddock_keys;
  r record;
  p record;
  v_now timestamptz;
  v_workspace text;
  v_subjects text[];
  v_bucket text[] := '{}';
  v_requests float8[] := '{}';
  v_tokens float8[] := '{}';
  v_wait float8;
  v_left numeric;
BEGIN
  SELECT c.version, coalesce(e.workspace, 'default') INTO version, v_workspace
    FROM paddock_config_version c LEFT JOIN endpoints e ON e.endpoint_id = p_endpoint_id;
  IF version <> p_config_version THEN
    verdict := 'stale';
    RETURN;
  END IF;

  username := p_username;
  IF p_sha256 IS NOT NULL THEN
    SELECT * INTO k FROM paddock_keys WHERE sha256 = p_sha256;
    IF NOT FOUND THEN
      verdict := 'unknown_key';
      RETURN;
    END IF;
    username := k.username;
    key_id := k.id;
    run_id := k.run_id;
    IF k.run_id IS NOT NULL AND NOT p_opens_run_keys THEN
      verdict := 'run_key_elsewhere';
    ELSIF k.revoked_at IS NOT NULL THEN
      verdict := 'revoked_key';
    ELSIF k.expires_at <= clock_timestamp() THEN
      verdict := 'expired_key';
    ELSIF NOT k.endpoints ? p_endpoint_name THEN
      verdict := 'forbidden_endpoint';
    END IF;
    moment := coalesce(k.revoked_at, k.expires_at);
  END IF;
  IF verdict IS NULL AND (p_bound IS NULL OR p_unpriced <> '') THEN
    verdict := 'unpriced_model';
  END IF;
  IF verdict IS NOT NULL THEN
    RETURN;
  END IF;

  -- Not waiting for the disk lets go of the budgets' rows at once: calls would pass them one a flush otherwise. A settlement
  -- waits, and what it waits for holds its admission too. A PostgreSQL that dies in between forgets the admission, not the
  -- money: paddock_restore.
  PERFORM set_config('synchronous_commit', 'off', true);
  v_now := clock_timestamp();
  v_subjects := paddock_subjects(p_endpoint_id, v_workspace, username, key_id);
  PERFORM 1 FROM paddock_policies(v_subjects, v_now) q
    LEFT JOIN paddock_budget_windows w ON w.policy_id = q.policy_id AND w.window_start = q.window_start
      AND w.window_end = q.window_end AND w.subject = q.subject
    WHERE w.policy_id IS NULL;
  IF FOUND THEN
    PERFORM pg_advisory_xact_lock(7262835);
    PERFORM paddock_open_windows(v_subjects, v_now);
  ELSE
    PERFORM pg_advisory_xact_lock_shared(7262835);
  END IF;

  -- Rates. Buckets are full at first, and hold a minute's worth.
  PERFORM 1 FROM paddock_rates(p_endpoint_id, username, key_id);
  IF FOUND THEN
    INSERT INTO paddock_rate_buckets (id, requests, tokens, updated_at)
      SELECT l.bucket_id, 'infinity', 'infinity', v_now FROM paddock_rates(p_endpoint_id, username, key_id) l
      WHERE NOT EXISTS (SELECT 1 FROM paddock_rate_buckets b WHERE b.id = l.bucket_id)
      ORDER BY 1
      ON CONFLICT DO NOTHING;
    PERFORM 1 FROM paddock_rate_buckets b
      WHERE b.id IN (SELECT bucket_id FROM paddock_rates(p_endpoint_id, username, key_id)) ORDER BY b.id FOR UPDATE;
    FOR r IN
      SELECT l.*, x.requests AS has_requests, x.tokens AS has_tokens,
        least(p_tokens, l.tokens_per_minute)::float8 AS needs_tokens
      FROM paddock_rates(p_endpoint_id, username, key_id) l
      JOIN paddock_rate_buckets b ON b.id = l.bucket_id
      CROSS JOIN LATERAL (SELECT
        paddock_level(b.requests, l.requests_per_minute, b.updated_at, v_now) AS requests,
        paddock_level(b.tokens, l.tokens_per_minute, b.updated_at, v_now) AS tokens) x
      ORDER BY l.bucket_id
    LOOP
      IF r.requests_per_minute IS NOT NULL AND r.has_requests < 1 THEN
        v_wait := CASE WHEN r.requests_per_minute > 0 THEN (1 - r.has_requests) * 60.0 / r.requests_per_minute ELSE 86400 END;
        IF verdict IS NULL OR v_wait > retry_after THEN
          SELECT 'request_rate', v_wait, r.subject, r.requests_per_minute, 0
            INTO verdict, retry_after, subject, amount, remaining;
        END IF;
      END IF;
      IF r.tokens_per_minute IS NOT NULL AND (r.has_tokens < r.needs_tokens OR r.tokens_per_minute = 0) THEN
        v_wait := CASE WHEN r.tokens_per_minute > 0
          THEN (r.needs_tokens - r.has_tokens) * 60.0 / r.tokens_per_minute ELSE 86400 END;
        IF verdict IS NULL OR v_wait > retry_after THEN
          SELECT 'token_rate', v_wait, r.subject, r.tokens_per_minute, greatest(floor(r.has_tokens), 0)
            INTO verdict, retry_after, subject, amount, remaining;
        END IF;
      END IF;
      v_bucket := v_bucket || r.bucket_id;
      v_requests := v_requests || r.has_requests - 1;
      v_tokens := v_tokens || r.has_tokens - coalesce(r.needs_tokens, 0);
    END LOOP;
    IF verdict IS NOT NULL THEN
      RETURN;
    END IF;
  END IF;

  -- Budgets.
  PERFORM 1 FROM paddock_budget_windows w
    WHERE w.subject = ANY (v_subjects) AND w.window_start <= v_now AND w.window_end > v_now
    ORDER BY w.policy_id, w.window_start, w.window_end FOR UPDATE;
  FOR p IN
    SELECT q.*, w.spent, w.reserved FROM paddock_policies(v_subjects, v_now) q
    LEFT JOIN paddock_budget_windows w ON w.policy_id = q.policy_id AND w.window_start = q.window_start
      AND w.window_end = q.window_end AND w.subject = q.subject
  LOOP
    IF p.spent IS NULL THEN
      -- The policy is newer than the look for missing windows above.
      verdict := 'again';
      RETURN;
    END IF;
    CONTINUE WHEN NOT p.rejects;
    v_left := p.amount - p.spent - p.reserved;
    IF v_left < p_bound THEN
      IF p.amount - p.spent < p_bound THEN
        -- Of several, the one that lasts longest.
        IF verdict IS DISTINCT FROM 'budget_exceeded' OR p.window_end > resets_at THEN
          SELECT 'budget_exceeded', p.subject, p.amount, greatest(v_left, 0), p.unit, p.count, p.window_end
            INTO verdict, subject, amount, remaining, unit, count, resets_at;
        END IF;
      ELSIF verdict IS NULL THEN
        SELECT 'budget_reserved', p.subject, p.amount, greatest(v_left, 0), p.unit, p.count, p.window_end
          INTO verdict, subject, amount, remaining, unit, count, resets_at;
      END IF;
    ELSIF verdict IS NULL THEN
      remaining := least(remaining, v_left - p_bound);
    END IF;
  END LOOP;
  IF verdict IS NOT NULL THEN
    moment := v_now;
    some_expired := EXISTS (SELECT 1 FROM paddock_calls WHERE ended_at IS NULL AND lease_until < v_now);
    RETURN;
  END IF;

  -- It may: only from here on is anything changed.
  IF v_bucket <> '{}' THEN
    UPDATE paddock_rate_buckets b SET requests = n.requests, tokens = n.tokens, updated_at = greatest(b.updated_at, v_now)
      FROM unnest(v_bucket, v_requests, v_tokens) AS n (id, requests, tokens) WHERE b.id = n.id;
  END IF;
  UPDATE paddock_budget_windows w SET reserved = w.reserved + p_bound
    WHERE w.subject = ANY (v_subjects) AND w.window_start <= v_now AND w.window_end > v_now;
  INSERT INTO paddock_calls (call_id, started_at, endpoint_id, endpoint_name, workspace, username, key_id, run_id,
      reserved_usd, reserved_tokens, lease_until)
    VALUES (p_call_id, v_now, p_endpoint_id, p_endpoint_name, v_workspace, username, key_id, run_id,
      p_bound, p_tokens, v_now + make_interval(secs => p_lease_seconds));
  IF key_id IS NOT NULL AND (k.last_used_at IS NULL OR k.last_used_at < v_now - interval '1 minute') THEN
    UPDATE paddock_keys SET last_used_at = v_now
      WHERE id = key_id AND (last_used_at IS NULL OR last_used_at < v_now - interval '1 minute');
  END IF;
  verdict := 'admitted';
END $$;

-- Reserve more for a call in flight. `verdict` as above, or gone: the call has ended.
CREATE FUNCTION paddock_extend(
  p_call_id text, p_amount numeric,
  OUT verdict text, OUT username text, OUT key_id text, OUT endpoint_name text, OUT subject text, OUT amount numeric,
  OUT remaining numeric, OUT unit text, OUT count integer, OUT resets_at timestamptz, OUT moment timestamptz
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  c paddock_calls;
  p record;
  v_subjects text[];
  v_left numeric;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(7262835);
  SELECT * INTO c FROM paddock_calls WHERE call_id = p_call_id FOR UPDATE;
  username := c.username;
  key_id := c.key_id;
  endpoint_name := c.endpoint_name;
  moment := clock_timestamp();
  IF c.call_id IS NULL OR c.ended_at IS NOT NULL THEN
    verdict := 'gone';
    RETURN;
  END IF;
  v_subjects := paddock_subjects(c.endpoint_id, c.workspace, c.username, c.key_id);
  PERFORM 1 FROM paddock_budget_windows w
    WHERE w.subject = ANY (v_subjects) AND w.window_start <= c.started_at AND w.window_end > c.started_at
    ORDER BY w.policy_id, w.window_start, w.window_end FOR UPDATE;
  FOR p IN
    SELECT q.*, w.spent, w.reserved FROM paddock_policies(v_subjects, c.started_at) q
    JOIN paddock_budget_windows w ON w.policy_id = q.policy_id AND w.window_start = q.window_start
      AND w.window_end = q.window_end AND w.subject = q.subject
    WHERE q.rejects
  LOOP
    v_left := p.amount - p.spent - p.reserved;
    IF v_left < p_amount AND (verdict IS NULL OR p.amount - p.spent < p_amount) THEN
      SELECT CASE WHEN p.amount - p.spent < p_amount THEN 'budget_exceeded' ELSE 'budget_reserved' END,
          p.subject, p.amount, greatest(v_left, 0), p.unit, p.count, p.window_end
        INTO verdict, subject, amount, remaining, unit, count, resets_at;
    END IF;
  END LOOP;
  IF verdict IS NOT NULL THEN
    RETURN;
  END IF;
  UPDATE paddock_budget_windows w SET reserved = w.reserved + p_amount
    WHERE w.subject = ANY (v_subjects) AND w.window_start <= c.started_at AND w.window_end > c.started_at;
  UPDATE paddock_calls SET reserved_usd = reserved_usd + p_amount WHERE call_id = p_call_id;
  verdict := 'admitted';
END $$;

-- End calls: `p_settlements` is a JSON list, `p_records` has a place for each, null where there is no record. A call that has
-- ended already stays as it is, unless its lease had run out: then the real cost takes the place of the bound.
-- Returns how many were settled.
CREATE FUNCTION paddock_settle(p_settlements jsonb, p_records bytea[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  v_ids text[] := ARRAY(SELECT s ->> 'call_id' FROM jsonb_array_elements(p_settlements) s);
  v_now timestamptz;
  v_limited boolean;
  v_cost numeric(20,10);
  v_settled integer := 0;
  s record;
  c paddock_calls;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(7262835);
  PERFORM 1 FROM paddock_calls WHERE call_id = ANY (v_ids) ORDER BY call_id FOR UPDATE;
  v_limited := EXISTS (SELECT 1 FROM paddock_rate_buckets);
  IF v_limited THEN
    PERFORM 1 FROM paddock_rate_buckets b
      WHERE b.id IN (SELECT l.bucket_id FROM paddock_calls x, paddock_rates(x.endpoint_id, x.username, x.key_id) l
        WHERE x.call_id = ANY (v_ids))
      ORDER BY b.id FOR UPDATE;
  END IF;
  PERFORM 1 FROM paddock_budget_windows w
    WHERE EXISTS (SELECT 1 FROM paddock_calls x WHERE x.call_id = ANY (v_ids)
      AND w.subject = ANY (paddock_subjects(x.endpoint_id, x.workspace, x.username, x.key_id))
      AND w.window_start <= x.started_at AND w.window_end > x.started_at)
    ORDER BY w.policy_id, w.window_start, w.window_end FOR UPDATE;
  v_now := clock_timestamp();

  FOR s IN
    SELECT r.*, p_records[r.place] AS record
    FROM ROWS FROM (jsonb_to_recordset(p_settlements) AS (call_id text, outcome text, cost numeric, provider text, model text,
      status integer, attempts integer, experiment_id text, input bigint, output bigint, cache_read bigint,
      cache_write bigint, reasoning bigint)) WITH ORDINALITY AS r (call_id, outcome, cost, provider, model, status, attempts,
      experiment_id, input, output, cache_read, cache_write, reasoning, place)
  LOOP
    SELECT * INTO c FROM paddock_calls WHERE call_id = s.call_id;
    CONTINUE WHEN c.call_id IS NULL OR (c.ended_at IS NOT NULL AND c.outcome <> 'expired');
    CONTINUE WHEN s.outcome = 'expired' AND c.ended_at IS NOT NULL;
    v_cost := coalesce(s.cost, c.reserved_usd);
    UPDATE paddock_calls SET ended_at = v_now, outcome = s.outcome, cost_usd = v_cost, provider = s.provider,
        model = s.model, status = s.status, attempts = s.attempts, input_tokens = s.input, output_tokens = s.output,
        cache_read_tokens = s.cache_read, cache_write_tokens = s.cache_write, reasoning_tokens = s.reasoning
      WHERE call_id = c.call_id;
    UPDATE paddock_budget_windows w SET spent = w.spent + v_cost - coalesce(c.cost_usd, 0),
        reserved = w.reserved - CASE WHEN c.ended_at IS NULL THEN c.reserved_usd ELSE 0 END
      WHERE w.subject = ANY (paddock_subjects(c.endpoint_id, c.workspace, c.username, c.key_id))
        AND w.window_start <= c.started_at AND w.window_end > c.started_at;
    IF v_limited AND s.cost IS NOT NULL THEN
      -- The announced tokens become the real ones.
      UPDATE paddock_rate_buckets b SET
          requests = paddock_level(b.requests, l.requests_per_minute, b.updated_at, v_now),
          tokens = least(paddock_level(b.tokens, l.tokens_per_minute, b.updated_at, v_now)
            + least(c.reserved_tokens, l.tokens_per_minute) - s.input - s.output, l.tokens_per_minute),
          updated_at = greatest(b.updated_at, v_now)
        FROM paddock_rates(c.endpoint_id, c.username, c.key_id) l
        WHERE b.id = l.bucket_id AND l.tokens_per_minute IS NOT NULL;
    END IF;
    IF s.record IS NOT NULL THEN
      INSERT INTO paddock_usage_outbox (experiment_id, record, created_at) VALUES (s.experiment_id, s.record, v_now);
    END IF;
    v_settled := v_settled + 1;
  END LOOP;
  RETURN v_settled;
END $$;

-- Write an admission down again that PostgreSQL has forgotten, since it died before the admission was on its disk. Nothing is
-- reserved any more: the settlement that follows adds its cost.
CREATE FUNCTION paddock_restore(p_call_id text, p_age_seconds float8, p_endpoint_id text, p_endpoint_name text,
  p_username text, p_key_id text, p_run_id text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO paddock_calls (call_id, started_at, endpoint_id, endpoint_name, workspace, username, key_id, run_id,
      reserved_usd, reserved_tokens, lease_until)
    SELECT p_call_id, s.at, p_endpoint_id, p_endpoint_name,
      coalesce((SELECT e.workspace FROM endpoints e WHERE e.endpoint_id = p_endpoint_id), 'default'),
      p_username, p_key_id, p_run_id, 0, 0, s.at
    FROM (SELECT clock_timestamp() - make_interval(secs => p_age_seconds) AS at) s
    ON CONFLICT DO NOTHING
$$;

-- Charge calls whose lease has run out their bound: their server died. Returns how many.
CREATE FUNCTION paddock_expire() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  v_gone jsonb;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(7262835);
  SELECT jsonb_agg(jsonb_build_object('call_id', e.call_id, 'outcome', 'expired', 'provider', '', 'model', '', 'attempts', 1,
      'input', 0, 'output', 0, 'cache_read', 0, 'cache_write', 0, 'reasoning', 0)) INTO v_gone
    FROM (SELECT call_id FROM paddock_calls WHERE ended_at IS NULL AND lease_until < clock_timestamp()
      ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED) e;
  RETURN CASE WHEN v_gone IS NULL THEN 0 ELSE paddock_settle(v_gone, '{}') END;
END $$;

-- Windows that ended a day ago decide nothing any more. Returns how many there were.
CREATE FUNCTION paddock_forget_windows() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  v_gone integer;
BEGIN
  PERFORM pg_advisory_xact_lock(7262835);
  DELETE FROM paddock_budget_windows WHERE window_end < clock_timestamp() - interval '1 day';
  GET DIAGNOSTICS v_gone = ROW_COUNT;
  RETURN v_gone;
END $$;
