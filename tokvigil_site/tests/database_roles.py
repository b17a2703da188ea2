"""What SQL through the application must be refused. Holds no test."""

DENIED = r"permission denied|must be owner"
FORBIDDEN = [
    "UPDATE audit_entry SET actor = 'somebody else'",
    "DELETE FROM audit_entry",
    "TRUNCATE audit_entry",
    "DELETE FROM audit_chainhead",
    "TRUNCATE audit_chainhead",
    "ALTER TABLE audit_entry DISABLE TRIGGER ALL",
    "ALTER TABLE audit_chainhead DISABLE TRIGGER USER",
    "SET session_replication_role = replica",
    "DROP TABLE audit_entry",
    "DROP SCHEMA public CASCADE",
    "CREATE TABLE planted (x int)",
]
