"""Takes the table of blocked decisions over from `usage` (usage/0003), with its rows."""

import django.db.models.deletion
from django.db import migrations, models

RENAME = "ALTER TABLE usage_decision RENAME TO blocked_decision"
RENAME_BACK = "ALTER TABLE blocked_decision RENAME TO usage_decision"


class Migration(migrations.Migration):

    dependencies = [
        ('policies', '0001_initial'),
        ('tenants', '0001_initial'),
        ('usage', '0003_decisions_to_policies'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(RENAME, RENAME_BACK)],
            state_operations=[
                migrations.CreateModel(
                    name='BlockedDecision',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('stream_id', models.CharField(max_length=40)),
                        ('decided_at', models.DateTimeField()),
                        ('request_id', models.CharField(max_length=128)),
                        ('user_id', models.CharField(max_length=255)),
                        ('feature', models.CharField(max_length=255)),
                        ('plan', models.CharField(max_length=255)),
                        ('run_id', models.CharField(max_length=255)),
                        ('model', models.CharField(max_length=255)),
                        ('reason_code', models.CharField(max_length=40)),
                        ('reason_class', models.CharField(max_length=12)),
                        ('message', models.TextField()),
                        ('policy_id', models.UUIDField(null=True)),
                        ('policy_name', models.CharField(max_length=100)),
                        ('policy_version', models.IntegerField(null=True)),
                        ('limit_state', models.JSONField()),
                        ('estimated_cost_nano', models.BigIntegerField(null=True)),
                        ('environment', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.environment')),
                    ],
                    options={
                        'db_table': 'blocked_decision',
                        'ordering': ['-id'],
                        'indexes': [models.Index(fields=['environment', '-id'], name='decision_newest'), models.Index(fields=['environment', 'user_id', '-id'], name='decision_user'), models.Index(fields=['environment', 'reason_code', '-id'], name='decision_reason')],
                        'constraints': [models.UniqueConstraint(fields=('environment', 'stream_id'), name='decision_unique_stream_id')],
                    },
                ),
            ],
        ),
    ]
