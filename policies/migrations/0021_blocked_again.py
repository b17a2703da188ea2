"""A blocked call whose row is replaced, for it was asked for and blocked again, is counted in its quarter hour no more."""

from importlib import import_module

from django.db import migrations

_counting = import_module("policies.migrations.0014_blocked_by_quarter")


def uncount(name):
    return _counting.insert(name, "gone").replace(" count(*)", " -count(*)")


UNCOUNT = f"""
CREATE FUNCTION blocked_decision_uncount() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
{"".join(map(uncount, _counting.KEYS))}
    RETURN NULL;
END $$;
CREATE TRIGGER blocked_decision_uncounted AFTER DELETE ON blocked_decision
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION blocked_decision_uncount();
"""
UNDO = """
DROP TRIGGER blocked_decision_uncounted ON blocked_decision;
DROP FUNCTION blocked_decision_uncount;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('policies', '0020_deployments'),
    ]

    operations = [
        migrations.RunSQL(UNCOUNT, UNDO),
    ]
