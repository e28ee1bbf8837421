"""psycopg 3 on the console. Argument: a connection string. Prints "done" when all went well."""

import sys

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

dsn = sys.argv[1]


def look(connection):
    (version,) = connection.execute("SHOW VERSION").fetchone()
    assert version.startswith("PgBouncer 1.25"), version
    cursor = connection.cursor(row_factory=dict_row)
    pools = cursor.execute("SHOW POOLS").fetchall()
    assert any(pool["database"] == "pgbouncer" and pool["cl_active"] >= 1 for pool in pools), pools
    # as its types' own bytes, and prepared by name
    for _ in range(7):
        cursor = connection.cursor(binary=True, row_factory=dict_row)
        rows = cursor.execute("SHOW STATS", prepare=True).fetchall()
        assert [row for row in rows if row["database"] == "pgbouncer" and row["total_query_count"] > 0], rows
        lists = {row["list"]: row["items"] for row in cursor.execute("SHOW LISTS").fetchall()}
        assert lists["used_clients"] >= 1, lists


def refused(connection, text, error):
    try:
        connection.execute(text)
    except error as refusal:
        assert refusal.diag.message_hint == "Use SHOW HELP.", refusal.diag.message_hint
    else:
        raise AssertionError(text)


with psycopg.connect(dsn, autocommit=True, application_name="console test") as connection:
    look(connection)
    refused(connection, "SELECT 1", errors.FeatureNotSupported)
    refused(connection, "SHOW nothing", errors.SyntaxError)
    look(connection)
    notices = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    connection.execute("SHOW HELP")
    assert "KILL_CLIENT id" in notices[0], notices
    clients = connection.cursor(row_factory=dict_row).execute("SHOW CLIENTS").fetchall()
    assert [client for client in clients if client["application_name"] == "console test"], clients

# without autocommit the driver begins a transaction by itself
with psycopg.connect(dsn) as connection:
    look(connection)
    connection.rollback()
    look(connection)

print("done")
