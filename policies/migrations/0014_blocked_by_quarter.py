"""Blocked calls counted by quarter hour, with and without their users, so that nobody has to count millions of rows.

A trigger counts each row as it is stored, in its transaction. In SQL, as the rollups of the ledger.
"""

from django.db import migrations, models

# By what the counts are told apart.
KEYS = {
    "blocked_quarter": ("feature", "plan", "model", "reason_code", "policy"),
    "blocked_user_quarter": ("user_id", "feature", "plan", "model", "reason_code", "policy"),
}
# Of a decision; no policy is empty.
VALUES = {"policy": "coalesce(policy_id::text, '')"}
LENGTHS = {"reason_code": 40, "policy": 36}


def table(name):
    columns = "".join(f"    {key} varchar({LENGTHS.get(key, 255)}) NOT NULL,\n" for key in KEYS[name])
    return f"""
CREATE TABLE {name} (
    environment_id bigint NOT NULL,
    start timestamptz NOT NULL,
    -- Of the names below.
    digest bytea NOT NULL,
{columns}    calls bigint NOT NULL,
    PRIMARY KEY (environment_id, start, digest)
);
"""


def insert(name, source):
    """The names of a row in 16 bytes, for long ones do not fit into an index. Lengths keep ("a", "bc") apart."""
    keys = KEYS[name]
    values = ", ".join(f"{VALUES.get(key, key)} AS {key}" for key in keys)
    lengths = " || ' ' || ".join(f"length({key})" for key in keys)
    digest = f"substr(sha256(convert_to({lengths} || ':' || {' || '.join(keys)}, 'UTF8')), 1, 16)"
    listed = ", ".join(keys)
    return f"""
INSERT INTO {name} (environment_id, start, digest, {listed}, calls)
SELECT environment_id, start, {digest}, {listed}, count(*) FROM (
    SELECT environment_id, date_bin('15 minutes', decided_at, '2000-01-01 00:00+00') AS start, {values} FROM {source}
) AS decided
GROUP BY environment_id, start, {listed}
-- The same for every writer, so that they never deadlock.
ORDER BY 1, 2, 3
ON CONFLICT (environment_id, start, digest) DO UPDATE SET calls = {name}.calls + excluded.calls;
"""


COUNT = f"""
{"".join(map(table, KEYS))}
CREATE INDEX blocked_user_quarter_user ON blocked_user_quarter (environment_id, user_id, start);

CREATE FUNCTION blocked_decision_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
{"".join(insert(name, "stored") for name in KEYS)}
    RETURN NULL;
END $$;
CREATE TRIGGER blocked_decision_counted AFTER INSERT ON blocked_decision
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION blocked_decision_count();
{"".join(insert(name, "blocked_decision") for name in KEYS)}
"""
UNDO = """
DROP TRIGGER blocked_decision_counted ON blocked_decision;
DROP FUNCTION blocked_decision_count;
DROP TABLE blocked_quarter, blocked_user_quarter;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('policies', '0013_alerts'),
    ]

    operations = [
        migrations.RunSQL(COUNT, UNDO),
        migrations.AddIndex(
            model_name='blockeddecision',
            index=models.Index(fields=['environment', '-decided_at'], name='decision_time'),
        ),
    ]
