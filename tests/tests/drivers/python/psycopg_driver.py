"""psycopg 3 through the data plane. Argument: a connection string. Prints "done" when all went well."""

import sys
import threading
import time

import psycopg
from psycopg import errors

dsn = sys.argv[1]


def values(connection):
    assert connection.execute("select 1").fetchone() == (1,)
    row = connection.execute("select %s::int, %s::text, %s::bytea, %s::float8", (7, "ü", b"\0\1", 1.5)).fetchone()
    assert row == (7, "ü", b"\0\1", 1.5), row
    row = connection.execute("select %b::int8", (2**40,), binary=True).fetchone()
    assert row == (2**40,), row


def prepared(connection):
    # psycopg prepares a statement when it has been executed a few times, and drops the oldest beyond a hundred
    for number in range(300):
        row = connection.execute("select %s::int + 1", (number,)).fetchone()
        assert row == (number + 1,)
    for number in range(150):
        for _ in range(2):
            row = connection.execute(f"select {number} + %s::int", (1,), prepare=True).fetchone()
            assert row == (number + 1,)


def pipeline(connection):
    with connection.pipeline():
        cursors = [connection.execute("select %s::int", (number,)) for number in range(100)]
        assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(100)]
    try:
        with connection.pipeline():
            connection.execute("select 1")
            connection.execute("select 1 / %s::int", (0,))
            connection.execute("select 2")
    except errors.DivisionByZero:
        pass
    else:
        raise AssertionError("the error was lost")
    with connection.pipeline():
        for number in range(120):
            row = connection.execute(f"select {number} - %s::int", (1,), prepare=True).fetchone()
            assert row == (number - 1,)


def transactions(connection):
    connection.execute("create table if not exists psycopg_rows (a int, b text)")
    try:
        with connection.transaction():
            connection.execute("insert into psycopg_rows values (1, 'lost')")
            raise RuntimeError
    except RuntimeError:
        pass
    with connection.transaction():
        connection.execute("insert into psycopg_rows values (2, 'kept')")
        with connection.cursor(name="portions") as cursor:
            cursor.itersize = 3
            cursor.execute("select generate_series(1, 10)")
            assert [row[0] for row in cursor] == list(range(1, 11))
    assert connection.execute("select a from psycopg_rows").fetchall() == [(2,)]


def copies(connection):
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy("copy psycopg_rows from stdin") as copy:
            for number in range(1000):
                copy.write_row((number, f"row {number}"))
        with cursor.copy("copy psycopg_rows to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 1001
    connection.execute("drop table psycopg_rows")


def cancelled(connection):
    timer = threading.Timer(0.5, connection.cancel)
    timer.start()
    began = time.monotonic()
    try:
        connection.execute("select pg_sleep(30)")
    except errors.QueryCanceled:
        assert time.monotonic() - began < 10
    else:
        raise AssertionError("the cancel request was lost")
    assert connection.execute("select 5").fetchone() == (5,)


def notified(connection):
    connection.execute("listen psycopg_news")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("notify psycopg_news, 'hello'")
    heard = next(connection.notifies(timeout=10))
    assert heard.payload == "hello", heard


with psycopg.connect(dsn, autocommit=True) as connection:
    for part in (values, prepared, pipeline, transactions, copies, cancelled, values, notified):
        part(connection)
with psycopg.connect(dsn) as connection:
    values(connection)
    try:
        connection.execute("select nothing")
    except errors.UndefinedColumn:
        connection.rollback()
    values(connection)
print("done")
